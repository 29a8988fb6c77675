//! Notices changes of interfaces, addresses, routes and the MAC addresses of neighbours. The kernel
//! reports them on a netlink socket.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::netlink::{messages, neighbour_address};
use crate::privilege::keep_or_warn;

/// Multicast groups, `enum rtnetlink_groups` in linux/rtnetlink.h.
const LINK: u32 = 1;
const NEIGHBOUR: u32 = 3;
const IPV4_ADDRESS: u32 = 5;
const IPV4_ROUTE: u32 = 7;
const IPV6_ADDRESS: u32 = 9;
const IPV6_ROUTE: u32 = 11;
const IPV4_RULE: u32 = 8;
const IPV6_RULE: u32 = 19;

/// Changes seldom come alone. Changes within this time are reported together.
const TOGETHER: Duration = Duration::from_millis(50);

/// Calls `changed` after each change, on its own thread that lives as long as the process.
pub(super) fn start(changed: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in [
        LINK,
        NEIGHBOUR,
        IPV4_ADDRESS,
        IPV4_ROUTE,
        IPV6_ADDRESS,
        IPV6_ROUTE,
        IPV4_RULE,
        IPV6_RULE,
    ] {
        socket.add_membership(group)?;
    }
    let listen = move || {
        keep_or_warn(&[]);
        let mut buffer = vec![0; 64 * 1024];
        let mut neighbours = Neighbours::default();
        loop {
            let mut news = false;
            match socket.recv(&mut &mut buffer[..], 0) {
                Ok(size) => news |= neighbours.is_news(&buffer[..size]),
                // The socket's buffer has overflowed, so something has changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => news = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::warn!(%error, "changes of the network are noticed late from now on");
                    return;
                }
            }
            if news {
                std::thread::sleep(TOGETHER);
            }
            while let Ok(size) = socket.recv(&mut &mut buffer[..], libc::MSG_DONTWAIT) {
                news |= neighbours.is_news(&buffer[..size]);
            }
            if news {
                changed();
            }
        }
    };
    std::thread::Builder::new()
        .name("network-watch".into())
        .spawn(listen)
        .map(drop)
}

/// MAC addresses of neighbours by interface and address. The kernel reports neighbours all the
/// time, most often only that they are still reachable.
#[derive(Default)]
struct Neighbours(HashMap<(u32, IpAddr), Vec<u8>>);

/// The most neighbours that are remembered.
const MOST_NEIGHBOURS: usize = 65_536;

impl Neighbours {
    /// Whether a datagram of the kernel reports a change.
    fn is_news(&mut self, datagram: &[u8]) -> bool {
        let mut news = false;
        let read = messages(datagram, &mut |message| {
            news |= match message {
                RouteNetlinkMessage::NewNeighbour(neighbour) => self.has_moved(&neighbour),
                RouteNetlinkMessage::DelNeighbour(_) => false,
                _ => true,
            };
        });
        // An unreadable datagram may report a change.
        news || read.is_err()
    }

    /// Whether the MAC address of a neighbour has changed.
    fn has_moved(&mut self, neighbour: &NeighbourMessage) -> bool {
        let (mut address, mut mac) = (None, None);
        for attribute in &neighbour.attributes {
            match attribute {
                NeighbourAttribute::Destination(destination) => {
                    address = neighbour_address(destination);
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Some(bytes),
                _ => {}
            }
        }
        let (Some(address), Some(mac)) = (address, mac) else {
            return false;
        };
        if self.0.len() >= MOST_NEIGHBOURS {
            self.0.clear();
        }
        let before = self
            .0
            .insert((neighbour.header.ifindex, address), mac.clone());
        before.is_some_and(|before| before != *mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::NetlinkMessage;
    use netlink_packet_route::link::LinkMessage;
    use netlink_packet_route::neighbour::NeighbourAddress;

    fn datagram(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn neighbour(last: u8, mac: u8) -> Vec<u8> {
        let mut message = NeighbourMessage::default();
        message.header.family = netlink_packet_route::AddressFamily::Inet;
        message.header.ifindex = 2;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, last].into())),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, mac]),
        ];
        datagram(RouteNetlinkMessage::NewNeighbour(message))
    }

    #[test]
    fn a_neighbour_is_news_when_its_mac_address_is_another() {
        let mut neighbours = Neighbours::default();
        assert!(!neighbours.is_news(&neighbour(1, 7)), "first heard of");
        assert!(!neighbours.is_news(&neighbour(1, 7)), "still there");
        assert!(!neighbours.is_news(&neighbour(2, 8)), "somebody else");
        assert!(neighbours.is_news(&neighbour(1, 8)));
        assert!(!neighbours.is_news(&neighbour(1, 8)));
    }

    #[test]
    fn everything_else_is_news() {
        let mut neighbours = Neighbours::default();
        let link = datagram(RouteNetlinkMessage::NewLink(LinkMessage::default()));
        assert!(neighbours.is_news(&link));
        assert!(neighbours.is_news(&[1, 2, 3]), "unreadable");
    }
}
