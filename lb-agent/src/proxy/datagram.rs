//! Datagrams with both of their addresses: a socket bound to a wildcard has to answer from the
//! address that the client wrote to (ip(7) `IP_PKTINFO`, RFC 3542 section 6).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::libc::{c_int, in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::hops::Hops;

/// A socket bound to a service address.
pub(super) struct Listener {
    socket: UdpSocket,
    bound: SocketAddr,
}

/// Source and destination of a datagram, as the socket has them: on an IPv6 socket IPv4 addresses are
/// mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) client: SocketAddr,
    pub(super) local: SocketAddr,
    /// The interface it came by.
    interface: u32,
    /// How many agents of this host have passed it on.
    pub(super) hops: Hops,
}

impl Listener {
    /// Makes the socket report the destinations of datagrams.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let bound = socket.local_addr()?;
        match bound {
            SocketAddr::V4(_) => {
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
                setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            }
            SocketAddr::V6(_) => {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            }
        }
        Ok(Self { socket, bound })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next datagram's length and route, if there is one.
    pub(super) fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Route)> {
        self.socket.try_io(Interest::READABLE, || {
            let mut parts = [IoSliceMut::new(buffer)];
            let mut space = nix::cmsg_space!(in_pktinfo, in6_pktinfo, c_int);
            let fd = self.socket.as_raw_fd();
            let message = recvmsg::<SockaddrStorage>(
                fd,
                &mut parts,
                Some(&mut space),
                MsgFlags::MSG_DONTWAIT,
            )?;
            let client = message.address.as_ref().and_then(to_std);
            let client = client.ok_or(io::ErrorKind::InvalidData)?;
            let mut route = Route {
                client,
                local: self.bound,
                interface: 0,
                hops: Hops::default(),
            };
            message.cmsgs()?.for_each(|part| route.note(&part));
            Ok((message.bytes, route))
        })
    }

    /// Answers a datagram that came by `route`; "would block" when the socket is full.
    pub(super) fn try_answer(&self, route: &Route, bytes: &[u8]) -> io::Result<()> {
        let (v4, v6) = (route.source_v4(), route.source_v6());
        let from = match &v4 {
            Some(from) => ControlMessage::Ipv4PacketInfo(from),
            None => ControlMessage::Ipv6PacketInfo(&v6),
        };
        let to = SockaddrStorage::from(route.client);
        let fd = self.socket.as_raw_fd();
        let parts = [IoSlice::new(bytes)];
        sendmsg(fd, &parts, &[from], MsgFlags::MSG_DONTWAIT, Some(&to))?;
        Ok(())
    }

    /// Answers when the socket has room.
    pub(super) async fn answer(&self, route: &Route, bytes: &[u8]) -> io::Result<()> {
        let answer = || self.try_answer(route, bytes);
        self.socket.async_io(Interest::WRITABLE, answer).await
    }
}

impl Route {
    /// Takes over the destination from a control message.
    fn note(&mut self, part: &ControlMessageOwned) {
        match part {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                // For a broadcast this is not its destination, but the address to answer from.
                let address = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                self.local.set_ip(address.into());
                self.interface = u32::try_from(info.ipi_ifindex).unwrap_or_default();
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                self.local.set_ip(address.into());
                self.interface = info.ipi6_ifindex;
            }
            ControlMessageOwned::Ipv4Ttl(limit) | ControlMessageOwned::Ipv6HopLimit(limit) => {
                let limit = u8::try_from(*limit).unwrap_or_default();
                self.hops = Hops::of(limit, self.client.ip());
            }
            _ => {}
        }
    }

    fn source_v4(&self) -> Option<in_pktinfo> {
        let IpAddr::V4(address) = self.local.ip() else {
            return None;
        };
        Some(in_pktinfo {
            // The routing table decides: the answer may leave by another interface.
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr {
                s_addr: u32::from_ne_bytes(address.octets()),
            },
            ipi_addr: in_addr { s_addr: 0 },
        })
    }

    fn source_v6(&self) -> in6_pktinfo {
        let address = match self.local.ip() {
            IpAddr::V6(address) => address,
            IpAddr::V4(address) => address.to_ipv6_mapped(),
        };
        // A link-local address is one of an interface.
        let scoped = address.is_unicast_link_local();
        in6_pktinfo {
            ipi6_addr: in6_addr {
                s6_addr: address.octets(),
            },
            ipi6_ifindex: if scoped { self.interface } else { 0 },
        }
    }
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|&v4| SocketAddr::V4(v4.into()));
    v4.or_else(|| Some(SocketAddr::V6((*address.as_sockaddr_in6()?).into())))
}
