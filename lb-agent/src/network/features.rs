//! XDP features of network drivers, from the `netdev` family of generic netlink (Linux 6.3). The
//! messages are encoded here.

use std::io;

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

/// Message header size, flags and message types of linux/netlink.h.
const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The controller family of linux/genetlink.h.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const GENL_HEADER: usize = 4;
/// The `netdev` family of linux/netdev.h.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// The XDP features of all interfaces, by interface index.
pub(super) fn all() -> io::Result<Vec<(u32, u64)>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut name = Vec::new();
    attribute(&mut name, CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    socket.send(
        &message(GENL_ID_CTRL, NLM_F_REQUEST, CTRL_CMD_GETFAMILY, &name),
        0,
    )?;
    let mut family = None;
    read(&socket, false, &mut |attributes| {
        let id = find(attributes, CTRL_ATTR_FAMILY_ID);
        family = id.and_then(|id| Some(u16::from_ne_bytes(id.get(..2)?.try_into().ok()?)));
    })?;
    let family = family.ok_or(io::ErrorKind::NotFound)?;
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    socket.send(&message(family, flags, NETDEV_CMD_DEV_GET, &[]), 0)?;
    let mut found = Vec::new();
    read(&socket, true, &mut |attributes| {
        found.extend(features(attributes))
    })?;
    Ok(found)
}

fn features(attributes: &[u8]) -> Option<(u32, u64)> {
    let index = find(attributes, NETDEV_A_DEV_IFINDEX)?;
    let features = find(attributes, NETDEV_A_DEV_XDP_FEATURES)?;
    Some((
        u32::from_ne_bytes(index.try_into().ok()?),
        u64::from_ne_bytes(features.try_into().ok()?),
    ))
}

fn message(kind: u16, flags: u16, command: u8, body: &[u8]) -> Vec<u8> {
    let length = HEADER + GENL_HEADER + body.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port, 0: the kernel fills in the values that it needs.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Passes on the attributes of each answer, either of one answer or of a whole dump.
fn read(socket: &Socket, dump: bool, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let size = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..size];
        while let Some((kind, body, after)) = first(rest) {
            rest = after;
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.get(..4).and_then(|code| code.try_into().ok());
                    let code = code.map_or(0, i32::from_ne_bytes);
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => take(body.get(GENL_HEADER..).unwrap_or_default()),
            }
        }
        if !dump {
            return Ok(());
        }
    }
}

/// Type and body of the first message, and the bytes after it.
fn first(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, after))
}

fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..length)?;
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_in_what_was_written() {
        let mut body = Vec::new();
        attribute(&mut body, 7, b"abc");
        attribute(&mut body, NETDEV_A_DEV_IFINDEX, &5u32.to_ne_bytes());
        attribute(&mut body, NETDEV_A_DEV_XDP_FEATURES, &7u64.to_ne_bytes());
        assert_eq!(find(&body, 7), Some(b"abc".as_slice()));
        assert_eq!(features(&body), Some((5, 7)));
        for cut in 0..body.len() {
            features(&body[..cut]);
        }
        let whole = message(GENL_ID_CTRL, NLM_F_REQUEST, 1, &body);
        let (kind, read, after) = first(&whole).unwrap();
        assert_eq!((kind, after), (GENL_ID_CTRL, [].as_slice()));
        assert_eq!(&read[GENL_HEADER..], body);
    }
}
