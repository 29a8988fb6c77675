//! Requests to the kernel about interfaces, addresses, routes and neighbours: rtnetlink(7).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::tc::{TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::survey::{Interface, Medium, Route};

/// Buffer size in bytes for one datagram of an answer.
const BUFFER: usize = 64 * 1024;

/// TC_H_CLSACT and its ingress and egress hooks (`linux/pkt_sched.h`).
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;

/// A netlink socket for requests, with the buffer of its answers.
pub(super) struct Rtnetlink {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Rtnetlink {
    /// Opens a socket in this network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER],
        })
    }

    /// All interfaces by their index.
    pub(super) fn interfaces(&mut self) -> io::Result<BTreeMap<u32, Interface>> {
        let mut found = BTreeMap::new();
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.ask(all, NLM_F_DUMP, &mut |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found.insert(link.header.index, interface(link));
            }
        })?;
        Ok(found)
    }

    /// The host's own addresses that other hosts can know, each with its interface. Loopback and
    /// link-local addresses are left out.
    pub(super) fn addresses(&mut self) -> io::Result<BTreeMap<IpAddr, u32>> {
        let mut found = BTreeMap::new();
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.ask(all, NLM_F_DUMP, &mut |answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else {
                return;
            };
            let usable = !message
                .header
                .flags
                .intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed);
            let global = matches!(
                message.header.scope,
                AddressScope::Universe | AddressScope::Site
            );
            if !(usable && global) {
                return;
            }
            let mut local = None;
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(address) => local = Some(*address),
                    // Without a peer, this is the local address too.
                    AddressAttribute::Address(address) => local = local.or(Some(*address)),
                    _ => {}
                }
            }
            if let Some(address) = local.filter(|address| !address.is_loopback()) {
                found.insert(address, message.header.index);
            }
        })?;
        Ok(found)
    }

    /// The interfaces and routers by which packets leave the host's own networks.
    pub(super) fn gateways(&mut self) -> io::Result<Gateways> {
        let mut found = Gateways::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            self.ask(
                RouteNetlinkMessage::GetRoute(all),
                NLM_F_DUMP,
                &mut |answer| {
                    if let RouteNetlinkMessage::NewRoute(route) = answer {
                        note_gateway(&route, &mut found);
                    }
                },
            )?;
        }
        Ok(found)
    }

    /// Whether there are routing rules beside the kernel's three default ones.
    pub(super) fn has_rules(&mut self) -> io::Result<bool> {
        let mut found = false;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RuleMessage::default();
            all.header.family = family;
            let request = RouteNetlinkMessage::GetRule(all);
            self.ask(request, NLM_F_DUMP, &mut |answer| {
                if let RouteNetlinkMessage::NewRule(rule) = answer {
                    found |= !is_usual(&rule);
                }
            })?;
        }
        Ok(found)
    }

    /// The route to `address`; `None` if there is none.
    pub(super) fn route_to(&mut self, address: IpAddr) -> io::Result<Option<Route>> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(address);
        request.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        request
            .attributes
            .push(RouteAttribute::Destination(address.into()));
        let mut found = None;
        let asked = self.ask(RouteNetlinkMessage::GetRoute(request), 0, &mut |answer| {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                found = route(&message);
            }
        });
        match asked.map_err(|error| (error.raw_os_error(), error)) {
            Ok(()) => Ok(found),
            Err((
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL),
                _,
            )) => Ok(None),
            Err((_, error)) => Err(error),
        }
    }

    /// Makes the kernel treat a neighbour as if a packet had just gone there (`NTF_USE`). The
    /// kernel resolves an unknown neighbour, and checks a stale one for reachability.
    pub(super) fn use_neighbour(&mut self, interface: u32, address: IpAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = interface;
        message.header.state = NeighbourState::None;
        message.header.flags = NeighbourFlags::Use;
        message
            .attributes
            .push(NeighbourAttribute::Destination(match address {
                IpAddr::V4(address) => NeighbourAddress::Inet(address),
                IpAddr::V6(address) => NeighbourAddress::Inet6(address),
            }));
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(
            RouteNetlinkMessage::NewNeighbour(message),
            flags,
            &mut |_| {},
        )
    }

    /// Removes the `clsact` queueing discipline of an interface, unless it has filters.
    pub(super) fn remove_clsact(&mut self, interface: u32) -> io::Result<()> {
        let about = |parent: u32| {
            let mut message = TcMessage::default();
            message.header.index = interface.cast_signed();
            message.header.parent = TcHandle::from(parent);
            message
        };
        let mut filters = 0;
        for parent in [CLSACT_INGRESS, CLSACT_EGRESS] {
            let all = RouteNetlinkMessage::GetTrafficFilter(about(parent));
            self.ask(all, NLM_F_DUMP, &mut |_| filters += 1)?;
        }
        if filters != 0 {
            return Ok(());
        }
        let mut clsact = about(CLSACT);
        clsact.header.handle = TcHandle::from(CLSACT & 0xffff_0000);
        let request = RouteNetlinkMessage::DelQueueDiscipline(clsact);
        self.ask(request, 0, &mut |_| ())
    }

    /// Sends one request, and passes on all messages of the answer.
    fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        take: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        if flags & NLM_F_DUMP != NLM_F_DUMP {
            // The acknowledgement marks the end of the answer.
            message.header.flags |= NLM_F_ACK;
        }
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let size = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            if messages(&self.buffer[..size], take)? {
                return Ok(());
            }
        }
    }
}

/// Whether a rule is a default one that leads to the tables `local`, `main` or `default` (FIB_RULES
/// in net/ipv4/fib_rules.c).
fn is_usual(rule: &RuleMessage) -> bool {
    let mut priority = 0;
    for attribute in &rule.attributes {
        if let RuleAttribute::Priority(given) = attribute {
            priority = *given;
        }
    }
    matches!(priority, 0 | 32_766 | 32_767) && rule.header.action == RuleAction::ToTable
}

/// The IP address of a neighbour; `None` for other families.
pub(super) fn neighbour_address(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Passes on the messages of one datagram. Returns true after the last message of an answer.
pub(super) fn messages(
    mut bytes: &[u8],
    take: &mut dyn FnMut(RouteNetlinkMessage),
) -> io::Result<bool> {
    while !bytes.is_empty() {
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => take(inner),
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                return match error.code {
                    None => Ok(true),
                    Some(_) => Err(error.to_io()),
                };
            }
            _ => {}
        }
        let length = (message.header.length as usize).next_multiple_of(4);
        bytes = bytes.get(length.max(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn interface(link: LinkMessage) -> Interface {
    let mut interface = Interface {
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        medium: match link.header.link_layer_type {
            LinkLayerType::Ether => Medium::Ethernet,
            LinkLayerType::None | LinkLayerType::Ppp | LinkLayerType::Rawip => Medium::Ip,
            _ => Medium::Other,
        },
        ..Interface::default()
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
            LinkAttribute::Address(address) => interface.mac = address.try_into().ok(),
            LinkAttribute::Controller(index) => interface.controller = Some(index),
            LinkAttribute::LinkInfo(info) => {
                interface.kind = info.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    interface
}

/// The interfaces and routers by which packets leave the host's own networks.
#[derive(Default)]
pub(super) struct Gateways {
    /// Interfaces with a default route or a route by a router.
    pub(super) interfaces: BTreeSet<u32>,
    /// Routers, each with its interface.
    pub(super) routers: BTreeSet<(u32, IpAddr)>,
}

fn note_gateway(route: &RouteMessage, found: &mut Gateways) {
    if route.header.kind != RouteType::Unicast {
        return;
    }
    let everywhere = route.header.destination_prefix_length == 0;
    let mut interface = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    note_hop(hop.interface_index, &hop.attributes, everywhere, found);
                }
            }
            _ => {}
        }
    }
    if let Some(interface) = interface {
        note_hop(interface, &route.attributes, everywhere, found);
    }
}

fn note_hop(interface: u32, attributes: &[RouteAttribute], everywhere: bool, found: &mut Gateways) {
    let router = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => Some(ip(address)),
        // The gateway has another address family. Packets go on by it all the same.
        RouteAttribute::Via(_) => Some(None),
        _ => None,
    });
    if everywhere || router.is_some() {
        found.interfaces.insert(interface);
    }
    if let Some(Some(router)) = router {
        found.routers.insert((interface, router));
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn route(message: &RouteMessage) -> Option<Route> {
    let local = match message.header.kind {
        RouteType::Unicast => false,
        RouteType::Local => true,
        _ => return None,
    };
    let mut route = Route {
        local,
        interface: 0,
        gateway: None,
        source: None,
        mtu: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.interface = *index,
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (route.interface != 0).then_some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_and_the_way_to_it_are_found() {
        let mut netlink = Rtnetlink::open().unwrap();
        let interfaces = netlink.interfaces().unwrap();
        let lo = interfaces.values().find(|i| i.name == "lo").unwrap();
        assert!(lo.loopback);
        assert_eq!(lo.medium, Medium::Other);
        let route = netlink
            .route_to("127.0.0.1".parse().unwrap())
            .unwrap()
            .unwrap();
        assert!(route.local);
        assert_eq!(route.interface, lo.index);
        let addresses = netlink.addresses().unwrap();
        assert!(addresses.keys().all(|address| !address.is_loopback()));
        netlink.gateways().unwrap();
    }

    #[test]
    fn an_interface_that_does_not_exist_has_no_neighbours() {
        let mut netlink = Rtnetlink::open().unwrap();
        let asked = netlink.use_neighbour(0x7fff_fff0, "192.0.2.1".parse().unwrap());
        assert!(asked.is_err());
    }
}
