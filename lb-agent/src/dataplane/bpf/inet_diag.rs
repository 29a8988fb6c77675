//! Lists the listening sockets of this network namespace through the kernel's sock_diag(7).

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lb_common::abi::protocol;
use lb_common::addr::{self, Addr};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

/// A socket that waits for clients: a listening TCP socket, or an unconnected UDP one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    /// Bound address and port.
    pub bound: SocketAddr,
    /// IP protocol, one of [`protocol`].
    pub protocol: u8,
    /// Inode of the socket, which `/proc/PID/fd` also shows.
    pub inode: u32,
    /// Whether the socket is an MPTCP socket.
    pub mptcp: bool,
    /// Index of the bound interface (SO_BINDTODEVICE); 0 for none.
    pub interface: u32,
    /// Whether the socket takes IPv6 alone (IPV6_V6ONLY).
    pub only_v6: bool,
}

impl Listener {
    /// Bound address and port in the form of the maps.
    pub(super) fn key(&self) -> (Addr, u16) {
        (addr::from_ip(self.bound.ip()), self.bound.port())
    }

    /// Whether the socket is bound to all IPv6 addresses and takes no IPv4 clients.
    pub(super) fn is_any_v6_only(&self) -> bool {
        self.only_v6 && self.bound.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    }
}

/// Attribute for the protocol on top of TCP (`enum` of INET_DIAG_ULP_INFO in `linux/inet_diag.h`).
const ULP_INFO: u16 = 19;
/// Nested attribute with the name of that protocol.
const ULP_NAME: u16 = 1;
/// Bytes of an attribute's header: length and kind.
const ATTRIBUTE_HEAD: usize = 4;

/// Whether the attributes of a socket name MPTCP as the protocol on top of TCP.
fn is_mptcp(attributes: &[Nla]) -> bool {
    attributes.iter().any(|attribute| {
        if attribute.kind() != ULP_INFO {
            return false;
        }
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        ulp_name(&value) == Some(b"mptcp")
    })
}

/// The protocol's name from the nested attributes in the value of [`ULP_INFO`].
fn ulp_name(mut nested: &[u8]) -> Option<&[u8]> {
    while let Some(&[low, high, kind_low, kind_high]) = nested.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([low, high])).max(ATTRIBUTE_HEAD);
        if u16::from_ne_bytes([kind_low, kind_high]) == ULP_NAME {
            let name = nested.get(ATTRIBUTE_HEAD..length)?;
            return name.split(|byte| *byte == 0).next();
        }
        nested = nested.get(length.next_multiple_of(ATTRIBUTE_HEAD)..)?;
    }
    None
}

/// The sockets of `protocol` that wait for clients, of both address families.
pub(super) fn listeners(protocol: u8) -> io::Result<Vec<Listener>> {
    let mut found = dump(protocol, AF_INET)?;
    found.extend(dump(protocol, AF_INET6)?);
    Ok(found)
}

/// Whether an application of this network namespace waits for datagrams at `address`, by a socket bound to
/// it or to a wildcard.
///
/// # Errors
/// The kernel does not list its sockets.
pub fn takes_datagrams(address: SocketAddr) -> io::Result<bool> {
    let found = listeners(protocol::UDP)?;
    Ok(found.iter().any(|listener| covers(listener.bound, address)))
}

/// Whether a socket bound to `bound` receives packets to `address`.
pub(super) fn covers(bound: SocketAddr, address: SocketAddr) -> bool {
    let (a, b) = (bound.ip().to_canonical(), address.ip().to_canonical());
    let everybody = a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    bound.port() == address.port() && (a == b || everybody)
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
    // The kernel reports an unconnected UDP socket as closed.
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
        // This extension includes the protocol on top of TCP.
        extensions: ExtensionFlags::INFO,
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
                    mptcp: is_mptcp(&response.nlas),
                    interface: id.interface_id,
                    only_v6: response.nlas.contains(&Nla::SkV6Only(true)),
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

    use socket2::{Domain, Protocol, Type};

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
    fn name_of_the_protocol_on_top_of_tcp_is_read() {
        let named = |name: &[u8]| {
            let length = (ATTRIBUTE_HEAD + name.len()) as u16;
            let mut value = [&8u16.to_ne_bytes()[..], &[2, 0, 9, 9, 9, 9]].concat();
            value.extend(length.to_ne_bytes());
            value.extend(ULP_NAME.to_ne_bytes());
            value.extend(name);
            value
        };
        assert_eq!(ulp_name(&named(b"mptcp\0")), Some(&b"mptcp"[..]));
        assert_eq!(ulp_name(&named(b"tls\0")), Some(&b"tls"[..]));
        assert_eq!(ulp_name(&named(b"")[..11]), None);
        assert_eq!(ulp_name(&[0, 0, 0, 0]), None);
        assert_eq!(ulp_name(&[]), None);
    }

    #[test]
    fn an_mptcp_listener_is_told_from_a_plain_one() {
        let protocol = Some(Protocol::MPTCP);
        let Ok(socket) = socket2::Socket::new(Domain::IPV4, Type::STREAM, protocol) else {
            let enabled = std::fs::read_to_string("/proc/sys/net/mptcp/enabled");
            assert_ne!(
                enabled.unwrap_or_default().trim(),
                "1",
                "this kernel has MPTCP"
            );
            return;
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        socket.listen(1).unwrap();
        let bound = socket.local_addr().unwrap().as_socket().unwrap();
        let found = listeners(protocol::TCP).unwrap();
        let found: Vec<_> = found.iter().filter(|l| l.bound == bound).collect();
        assert!(
            found.iter().all(|l| l.mptcp) && found.len() == 1,
            "{found:?}"
        );
        let plain = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let is_plain = |l: &Listener| l.bound != plain || !l.mptcp;
        assert!(listeners(protocol::TCP).unwrap().iter().all(is_plain));
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
