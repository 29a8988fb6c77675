//! Queries to the kernel about single TCP sockets, and their end. It speaks sock_diag(7) in its own binary
//! form, for the messages that the netlink crates lack.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY`, linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// linux/netlink.h.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// `struct inet_diag_sockid` and `struct inet_diag_msg`, linux/inet_diag.h.
const ID: usize = 48;
const MESSAGE: usize = 72;
/// `INET_DIAG_REQ_SK_BPF_STORAGES` and the one answer to it, `INET_DIAG_SK_BPF_STORAGES`.
const REQUEST_STORAGES: u16 = 2;
const STORAGES: u16 = 20;
/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`, `SK_DIAG_BPF_STORAGE`, `SK_DIAG_BPF_STORAGE_MAP_VALUE`.
const MAP_FD: u16 = 1;
const STORAGE: u16 = 1;
const MAP_VALUE: u16 = 3;
/// States of a TCP socket, include/net/tcp_states.h.
const ESTABLISHED: u8 = 1;
/// All states but CLOSE, TIME_WAIT, LISTEN and the like: sockets that an application still has.
const OPEN_STATES: u32 = 1 << ESTABLISHED | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Whether an application has accepted the connection with the near end `local`. `None` if the kernel knows
/// no such connection: the other end is on another host.
pub fn accepted(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<bool>> {
    let found = find(local, remote)?.filter(|connection| connection.state == ESTABLISHED);
    // The inode is that of the file which accept(2) has made.
    Ok(found.map(|connection| connection.inode != 0))
}

/// The connection between these two, seen from its end at `local`, if that is in this network
/// namespace.
pub fn find(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Connection>> {
    let socket = open()?;
    let mut request = body(family(&local), u32::MAX);
    id(&mut request[8..8 + ID], &local, &remote);
    socket.send(&message(BY_FAMILY, NLM_F_REQUEST, &request), 0)?;
    let mut buffer = vec![0; 8 * 1024];
    let size = socket.recv(&mut &mut buffer[..], 0)?;
    for (kind, body) in Messages(&buffer[..size]) {
        match kind {
            BY_FAMILY => return Ok(Connection::read(body)),
            NLMSG_ERROR => {
                return match error(body) {
                    Some(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Some(error) => Err(error),
                    None => Ok(None),
                };
            }
            _ => {}
        }
    }
    Ok(None)
}

/// One open connection, named as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    family: u8,
    state: u8,
    id: [u8; ID],
    inode: u32,
}

impl Connection {
    /// From a `struct inet_diag_msg`.
    fn read(message: &[u8]) -> Option<Self> {
        Some(Self {
            family: *message.first()?,
            state: *message.get(1)?,
            id: *message.get(4..)?.first_chunk()?,
            inode: u32::from_ne_bytes(*message.get(MESSAGE - 4..)?.first_chunk()?),
        })
    }

    /// The near and the far end. IPv4-mapped addresses are IPv4 ones.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        let end = |port: usize, address: usize| {
            let port = u16::from_be_bytes([self.id[port], self.id[port + 1]]);
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&self.id[address..address + 16]);
            let ip = if i32::from(self.family) == libc::AF_INET {
                IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
            } else {
                IpAddr::from(bytes).to_canonical()
            };
            SocketAddr::new(ip, port)
        };
        (end(0, 4), end(2, 20))
    }

    /// The inode by which `/proc/PID/fd` names it; 0 while no process has it.
    pub fn inode(&self) -> u32 {
        self.inode
    }
}

/// The open TCP connections of this network namespace with a value in the socket storage `storage`, a file
/// descriptor, that satisfies `wanted`. Takes CAP_BPF, or CAP_SYS_ADMIN.
pub fn with_storage(storage: i32, wanted: &dyn Fn(&[u8]) -> bool) -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let socket = open()?;
        let mut request = body(family, OPEN_STATES);
        attribute(&mut request, REQUEST_STORAGES, |inner| {
            attribute(inner, MAP_FD, |value| {
                value.extend(storage.to_ne_bytes());
            });
        });
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        socket.send(&message(BY_FAMILY, flags, &request), 0)?;
        let mut buffer = vec![0; 64 * 1024];
        let mut pick = |body: &[u8]| {
            let value = body.get(MESSAGE..).and_then(stored);
            let value = value.filter(|value| wanted(value));
            found.extend(value.and(Connection::read(body)));
        };
        while !dumped(&socket, &mut buffer, &mut pick)? {}
    }
    Ok(found)
}

/// The open TCP connections of this network namespace that `wanted` picks by their near and far ends.
pub fn between(wanted: &dyn Fn(SocketAddr, SocketAddr) -> bool) -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    let wanted = |connection: &Connection| {
        let (local, remote) = connection.ends();
        wanted(local, remote)
    };
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let socket = open()?;
        let request = body(family, OPEN_STATES);
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        socket.send(&message(BY_FAMILY, flags, &request), 0)?;
        let mut buffer = vec![0; 64 * 1024];
        let mut pick = |body: &[u8]| found.extend(Connection::read(body).filter(wanted));
        while !dumped(&socket, &mut buffer, &mut pick)? {}
    }
    Ok(found)
}

/// Reads one datagram of a dump, of which `pick` takes the messages; true at its end.
fn dumped(socket: &Socket, buffer: &mut [u8], pick: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    let size = socket.recv(&mut &mut buffer[..], 0)?;
    for (kind, body) in Messages(&buffer[..size]) {
        match kind {
            BY_FAMILY => pick(body),
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return error(body).map_or(Ok(true), Err),
            _ => {}
        }
    }
    Ok(false)
}

/// The value in the socket storage, from the attributes of a message.
fn stored(attributes: &[u8]) -> Option<&[u8]> {
    let find = |bytes, kind| Attributes(bytes).find(|(of, _)| *of == kind);
    let (_, storages) = find(attributes, STORAGES)?;
    let (_, storage) = find(storages, STORAGE)?;
    find(storage, MAP_VALUE).map(|(_, value)| value)
}

/// Ends a connection: both ends see a reset. `false` when it has ended by itself. Takes
/// CAP_NET_ADMIN, and a kernel with CONFIG_INET_DIAG_DESTROY (else ENOTSUPP or EOPNOTSUPP).
pub fn destroy(connection: &Connection) -> io::Result<bool> {
    let socket = open()?;
    let mut request = body(connection.family, u32::MAX);
    request[8..8 + ID].copy_from_slice(&connection.id);
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    socket.send(&message(DESTROY, flags, &request), 0)?;
    let mut buffer = vec![0; 8 * 1024];
    let size = socket.recv(&mut &mut buffer[..], 0)?;
    for (kind, body) in Messages(&buffer[..size]) {
        if kind == NLMSG_ERROR {
            return match error(body) {
                None => Ok(true),
                Some(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Some(error) => Err(error),
            };
        }
    }
    Ok(true)
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

fn family(address: &SocketAddr) -> u8 {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    family as u8
}

/// `struct inet_diag_req_v2` for TCP, with any cookie.
fn body(family: u8, states: u32) -> Vec<u8> {
    let mut body = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend([0; ID - 8]);
    // INET_DIAG_NOCOOKIE
    body.extend([0xff; 8]);
    body
}

/// Writes the addresses of a `struct inet_diag_sockid`, in network byte order.
fn id(id: &mut [u8], local: &SocketAddr, remote: &SocketAddr) {
    id[0..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    for (place, address) in [(4, local), (20, remote)] {
        match address.ip() {
            IpAddr::V4(ip) => id[place..place + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => id[place..place + 16].copy_from_slice(&ip.octets()),
        }
    }
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and sender.
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend(kind.to_ne_bytes());
    fill(bytes);
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The error that an NLMSG_ERROR tells; `None` when it says that all is well.
fn error(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(body.first_chunk().copied()?);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}

/// The messages of a datagram: type and body.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32::from_ne_bytes(self.0.first_chunk().copied()?) as usize;
        let kind = u16::from_ne_bytes([*self.0.get(4)?, *self.0.get(5)?]);
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    }
}

/// The attributes of a message: type and value.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.first_chunk().copied()?));
        // The upper two bits are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
        let kind = u16::from_ne_bytes([*self.0.get(2)?, *self.0.get(3)?]) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_knows_whether_a_connection_has_been_accepted() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (near, far) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
            assert_eq!(accepted(near, far).unwrap(), Some(false), "{address}");
            let _accepted = listener.accept().unwrap();
            assert_eq!(accepted(near, far).unwrap(), Some(true), "{address}");
        }
    }

    #[test]
    fn a_connection_that_is_destroyed_is_reset_at_both_ends() {
        use std::io::{ErrorKind, Read as _};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let (near, far) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
        let connection = find(near, far).unwrap().unwrap();
        match destroy(&connection) {
            Ok(done) => assert!(done),
            // Not root, or a kernel without it.
            Err(error) => return assert!(error.raw_os_error().is_some(), "{error}"),
        }
        assert_eq!(
            server.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::ConnectionAborted
        );
        assert_eq!(
            client.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        assert!(!destroy(&connection).unwrap(), "it is gone");
    }

    #[test]
    fn of_connections_that_are_not_here_nothing_is_known() {
        let nobody = "192.0.2.1:80".parse().unwrap();
        let me = "127.0.0.1:9".parse().unwrap();
        assert_eq!(accepted(nobody, me).unwrap(), None);
    }

    #[test]
    fn attributes_are_padded_and_cut_ones_end_the_list() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, STORAGES, |inner| {
            attribute(inner, STORAGE, |inner| {
                attribute(inner, MAP_VALUE, |value| value.extend([1, 2, 3]));
            });
        });
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(stored(&bytes), Some(&[1, 2, 3][..]));
        for length in 0..bytes.len() - 1 {
            assert_eq!(stored(&bytes[..length]), None, "{length} bytes");
        }
    }
}
