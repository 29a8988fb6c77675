//! Which sockets listen in this network namespace, asked of the kernel (sock_diag(7)).

use std::io;
use std::net::SocketAddr;

use lb_common::abi::protocol;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

/// A socket that waits for clients: a listening TCP socket, or an unconnected UDP one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    /// What it is bound to.
    pub bound: SocketAddr,
    /// One of [`protocol`].
    pub protocol: u8,
    /// Its inode, by which `/proc/PID/fd` names it.
    pub inode: u32,
}

/// The waiting sockets of `protocol`.
pub(super) fn listeners(protocol: u8) -> io::Result<Vec<Listener>> {
    let mut found = dump(protocol, AF_INET)?;
    found.extend(dump(protocol, AF_INET6)?);
    Ok(found)
}

fn dump(protocol: u8, family: u8) -> io::Result<Vec<Listener>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    socket.send(&request(protocol, family), 0)?;
    let mut found = Vec::new();
    // The kernel packs a dump into messages of up to 32 KiB.
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let size = socket.recv(&mut &mut buffer[..], 0)?;
        if !parse(&buffer[..size], protocol, &mut found)? {
            return Ok(found);
        }
    }
}

fn request(protocol: u8, family: u8) -> Vec<u8> {
    // An unconnected UDP socket counts as closed.
    let states = if protocol == protocol::TCP {
        StateFlags::LISTEN
    } else {
        StateFlags::CLOSE
    };
    let socket_id = if family == AF_INET {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    };
    let request = InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut packet = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    bytes
}

/// Reads the messages of one datagram; `false` at the end of the dump.
fn parse(mut bytes: &[u8], protocol: u8, found: &mut Vec<Listener>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let message =
            NetlinkMessage::<SockDiagMessage>::deserialize(bytes).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let id = &response.header.socket_id;
                found.push(Listener {
                    bound: SocketAddr::new(id.source_address, id.source_port),
                    protocol,
                    inode: response.header.inode,
                });
            }
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::Done(_) => return Ok(false),
            _ => {}
        }
        // Messages are aligned to four bytes (netlink(7), NLMSG_ALIGN).
        let length = (message.header.length as usize).next_multiple_of(4);
        bytes = bytes.get(length.max(4)..).unwrap_or_default();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn listening_sockets_of_this_process_are_found() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
            let tcp = TcpListener::bind(address).unwrap();
            let udp = UdpSocket::bind(address).unwrap();
            for (bound, protocol) in [
                (tcp.local_addr(), protocol::TCP),
                (udp.local_addr(), protocol::UDP),
            ] {
                let bound = bound.unwrap();
                let found = listeners(protocol).unwrap();
                assert!(
                    found.iter().any(|l| l.bound == bound && l.inode != 0),
                    "{bound} {found:?}"
                );
            }
        }
    }

    #[test]
    fn a_connected_udp_socket_waits_for_nobody() {
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let two = UdpSocket::bind("127.0.0.1:0").unwrap();
        one.connect(two.local_addr().unwrap()).unwrap();
        let found = listeners(protocol::UDP).unwrap();
        assert!(!found.iter().any(|l| l.bound == one.local_addr().unwrap()));
    }
}
