//! Loops: backends with connections that come back to the service of the backend.
//!
//! The agent connects to a backend itself on the `proxy` path, for HTTP, for clients of the other
//! address family, and everywhere without BPF. If one of its own services listens at the backend's
//! address, that connection is one more client of that service. On the `socket` path the kernel
//! hands a connection to the application's socket, so a backend may have the service's own port
//! there.
//!
//! Nothing here knows of the host: the caller says which addresses are its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use super::http::{Auth, HttpService};
use super::value::BadValue;
use super::{BackendAddress, Config, DataPlane, Mode, Path, Service};

/// The part that carries a connection to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The agent, which connects to it.
    Agent,
    /// The kernel, which hands it to the application's socket.
    Socket,
    /// The packet programs, which send its packets on.
    Packets,
}

/// The facts that decide about the carrier of a service's connections.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// The protocol that the service balances.
    pub mode: Mode,
    /// The addresses that the service listens on.
    pub listen: &'a [SocketAddr],
    /// Whether its backends are sent a PROXY header.
    pub introduces: bool,
    /// Whether the kernel can hand connections to sockets.
    pub steers: bool,
}

impl Terms<'_> {
    /// The carrier of connections to `address`, as far as the configuration tells.
    pub fn carrier(
        &self,
        path: Path,
        address: &BackendAddress,
        is_local: &dyn Fn(IpAddr) -> bool,
    ) -> Carrier {
        let Some(address) = address.ip() else {
            return Carrier::Agent;
        };
        if self.mode == Mode::Http || !self.steers || self.introduces {
            return Carrier::Agent;
        }
        let other_port = || self.listen.iter().any(|l| l.port() != address.port());
        match path {
            Path::Socket => Carrier::Socket,
            Path::Proxy => Carrier::Agent,
            Path::Nat | Path::Dsr => Carrier::Packets,
            Path::Auto if !is_local(address.ip()) => Carrier::Packets,
            Path::Auto if self.mode == Mode::Udp && other_port() => {
                if address.ip().is_loopback() {
                    Carrier::Agent
                } else {
                    Carrier::Packets
                }
            }
            Path::Auto => Carrier::Socket,
        }
    }
}

/// The services of `config` as the search sees them. `steers` says whether the kernel hands
/// connections to sockets.
pub fn hops<'a>(
    config: &'a Config,
    steers: bool,
    is_local: &dyn Fn(IpAddr) -> bool,
) -> Vec<Hop<'a>> {
    let hop = |service: &'a Service| {
        let listen = reached_at(config, service);
        let terms = Terms {
            mode: service.mode,
            listen,
            introduces: service.send_proxy_protocol.is_some(),
            steers,
        };
        let carried = |backend: &super::Backend| {
            let carrier = terms.carrier(backend.path, &backend.address, is_local);
            (backend.address.clone(), carrier)
        };
        Hop {
            name: &service.name,
            udp: service.mode == Mode::Udp,
            listen,
            backends: service.backends.iter().map(carried).collect(),
        }
    };
    config.services.iter().map(hop).collect()
}

/// The addresses that connections to `service` come to. These are its own listen addresses, or
/// those of the service that it is inside of.
fn reached_at<'a>(config: &'a Config, service: &'a Service) -> &'a [SocketAddr] {
    let outer = service.name.split_once('/').map(|(outer, _)| outer);
    let mut services = config.services.iter();
    let outer = outer.and_then(|outer| services.find(|known| known.name == outer));
    &outer.unwrap_or(service).listen
}

/// The addresses that belong to this host for certain: loopback addresses and listen addresses.
pub fn evidently_local(config: &Config) -> impl Fn(IpAddr) -> bool {
    let listen = config.services.iter().flat_map(|service| &service.listen);
    let listen: BTreeSet<IpAddr> = listen.map(SocketAddr::ip).collect();
    move |ip| ip.is_loopback() || listen.contains(&ip)
}

/// The loops of `config`, a line each. `is_local` says whether an address belongs to the host.
pub fn lines(config: &Config, steers: bool, is_local: &dyn Fn(IpAddr) -> bool) -> Vec<String> {
    let found = find(&hops(config, steers, is_local), is_local);
    let line = |found: Loop| format!("{}: {}", config.services[found.hop].name, found.value);
    let mut lines: Vec<String> = found.into_iter().map(line).collect();
    for service in &config.services {
        let asked = service
            .http
            .iter()
            .flat_map(|http| asks_itself(http, is_local));
        lines.extend(asked.map(|value| format!("{}: {value}", service.name)));
    }
    lines
}

/// The servers of forward authentication that are the service itself, where that would ask again.
pub fn asks_itself(http: &HttpService, is_local: &dyn Fn(IpAddr) -> bool) -> Vec<BadValue> {
    let mut found = Vec::new();
    for auth in http.auths() {
        let Auth::Forward(forward) = auth else {
            continue;
        };
        let Some(address) = forward.url.address.ip() else {
            continue;
        };
        let takes = |listen: &SocketAddr| {
            *listen == address || is_wildcard_of(listen, address) && is_local(address.ip())
        };
        let Some(at) = http.all_listen().find(takes) else {
            continue;
        };
        let path = forward.url.target.split('?').next().unwrap_or_default();
        if http.auths_at(path).iter().all(|other| *other == Some(auth)) {
            found.push(BadValue {
                problem: format!(
                    "auth asks {}, which is this service itself ({at}), and would be asked again",
                    forward.url
                ),
                remedy: "write the address of the server behind it, or give its path a route with auth = false"
                    .to_owned(),
            });
        }
    }
    found.dedup_by(|a, b| a.problem == b.problem);
    found
}

/// Whether the configuration leaves no other data plane than one that hands connections to sockets.
/// `auto` counts as such: without BPF the agent looks again when it starts.
pub fn may_steer(data_plane: DataPlane) -> bool {
    data_plane != DataPlane::Userspace
}

/// A service as the search sees it.
#[derive(Clone, Debug)]
pub struct Hop<'a> {
    /// The name of the service.
    pub name: &'a str,
    /// Whether the service balances UDP.
    pub udp: bool,
    /// Its listen addresses. For the backends of a route, those of the service around it.
    pub listen: &'a [SocketAddr],
    /// Its backends in their order. A unix socket leads nowhere, but has a place.
    pub backends: Vec<(BackendAddress, Carrier)>,
}

/// A backend in a loop: its connections come back to the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// The index of its service among the hops.
    pub hop: usize,
    /// The index among the backends of that service.
    pub backend: usize,
    /// The problem and its remedy.
    pub value: BadValue,
}

/// Connections of one address family that come to a service.
type Node = (usize, bool);

struct Edge<'a> {
    from: Node,
    to: Node,
    /// Whether the agent carries the connections.
    agent: bool,
    hop: usize,
    backend: usize,
    address: SocketAddr,
    /// The listen address of `to`.
    at: &'a SocketAddr,
}

/// The backends of `hops` with connections that come back to their service. `is_local` says whether
/// an address belongs to this host.
pub fn find(hops: &[Hop<'_>], is_local: &dyn Fn(IpAddr) -> bool) -> Vec<Loop> {
    let edges = edges(hops, is_local);
    let mut next: BTreeMap<Node, Vec<Node>> = BTreeMap::new();
    for edge in &edges {
        next.entry(edge.from).or_default().push(edge.to);
    }
    let mut found: Vec<Loop> = Vec::new();
    // A loop in the kernel alone ends, as each packet is looked at once.
    for edge in edges.iter().filter(|edge| edge.agent) {
        let known = |found: &Loop| (found.hop, found.backend) == (edge.hop, edge.backend);
        if found.iter().any(known) {
            continue;
        }
        if let Some(way) = way_back(&next, edge) {
            found.push(Loop {
                hop: edge.hop,
                backend: edge.backend,
                value: describe(hops, edge, &way),
            });
        }
    }
    found
}

/// Finds a UDP backend on its service's port that the kernel is to hand datagrams to, beside a
/// backend that goes through the agent. The agent then needs that port itself. Returns the
/// backend's index, and the problem.
pub fn port_taken_twice(hop: &Hop<'_>) -> Option<(usize, BadValue)> {
    let through_agent = |(_, carrier): &&(BackendAddress, Carrier)| *carrier == Carrier::Agent;
    let (other, _) = hop.backends.iter().find(through_agent)?;
    let mut backends = hop.backends.iter().enumerate();
    backends.find_map(|(place, (address, carrier))| {
        let port = address.ip()?.port();
        let at = hop.listen.iter().find(|listen| listen.port() == port)?;
        (hop.udp && *carrier == Carrier::Socket).then(|| {
            let problem = format!(
                "{address} has the port of {at}, where the agent has to listen, as datagrams get to \
                 {other} through it"
            );
            let remedy = "let the application listen on another port".to_owned();
            (place, BadValue { problem, remedy })
        })
    })
}

fn edges<'a>(hops: &'a [Hop<'a>], is_local: &dyn Fn(IpAddr) -> bool) -> Vec<Edge<'a>> {
    let mut edges = Vec::new();
    for (index, hop) in hops.iter().enumerate() {
        for (place, (address, carrier)) in hop.backends.iter().enumerate() {
            let Some(address) = address.ip() else {
                continue;
            };
            let Some((to, at)) = listener(hops, hop.udp, address, is_local) else {
                continue;
            };
            for v4 in [true, false] {
                let comes = hop.listen.iter().any(|listen| listen.is_ipv4() == v4);
                let agent = *carrier == Carrier::Agent || address.is_ipv4() != v4;
                if comes && (agent || *carrier == Carrier::Packets) {
                    edges.push(Edge {
                        from: (outer(hops, index), v4),
                        to: (to, address.is_ipv4()),
                        agent,
                        hop: index,
                        backend: place,
                        address,
                        at,
                    });
                }
            }
        }
    }
    edges
}

/// The service that `hop` is inside of, or itself.
fn outer(hops: &[Hop<'_>], hop: usize) -> usize {
    let outer = hops[hop].name.split_once('/').map(|(outer, _)| outer);
    let found = outer.and_then(|outer| hops.iter().position(|hop| hop.name == outer));
    found.unwrap_or(hop)
}

/// The service that takes a connection to `address` on this host, and its listen address for it.
/// The exact address comes before the wildcard.
fn listener<'a>(
    hops: &'a [Hop<'a>],
    udp: bool,
    address: SocketAddr,
    is_local: &dyn Fn(IpAddr) -> bool,
) -> Option<(usize, &'a SocketAddr)> {
    let find = |takes: &dyn Fn(&SocketAddr) -> bool| {
        let alike = hops.iter().enumerate().filter(|(_, hop)| hop.udp == udp);
        let mut listening = alike.filter(|(_, hop)| !hop.name.contains('/'));
        listening.find_map(|(index, hop)| {
            let at = hop.listen.iter().find(|listen| takes(listen))?;
            Some((index, at))
        })
    };
    find(&|listen| *listen == address)
        .or_else(|| find(&|listen| is_wildcard_of(listen, address) && is_local(address.ip())))
}

/// Whether `listen` is every address of its family, with the port of `address`.
pub(super) fn is_wildcard_of(listen: &SocketAddr, address: SocketAddr) -> bool {
    listen.ip().is_unspecified()
        && listen.is_ipv4() == address.is_ipv4()
        && listen.port() == address.port()
}

/// The services on the shortest way that a connection takes from the end of `edge` back to its
/// beginning.
fn way_back(next: &BTreeMap<Node, Vec<Node>>, edge: &Edge<'_>) -> Option<Vec<usize>> {
    let mut came_from: BTreeMap<Node, Node> = BTreeMap::new();
    let mut queue = VecDeque::from([edge.to]);
    while let Some(node) = queue.pop_front() {
        if node == edge.from {
            let mut way = Vec::new();
            let mut at = node;
            while at != edge.to {
                at = came_from[&at];
                way.push(at.0);
            }
            way.reverse();
            return Some(way);
        }
        for after in next.get(&node).into_iter().flatten() {
            if *after != edge.to && !came_from.contains_key(after) {
                came_from.insert(*after, node);
                queue.push_back(*after);
            }
        }
    }
    None
}

fn describe(hops: &[Hop<'_>], edge: &Edge<'_>, way: &[usize]) -> BadValue {
    let (address, at) = (edge.address, edge.at);
    let problem = if way.iter().all(|hop| *hop == edge.from.0) {
        format!("{address} is this service itself, which listens on {at}")
    } else {
        let name = |hop: &usize| hops[*hop].name;
        let through: Vec<&str> = way.iter().skip(1).map(name).collect();
        let through = match through.as_slice() {
            [] => String::new(),
            others => format!(" by {}", others.join(" and ")),
        };
        format!(
            "{address} is where {} listens ({at}), which leads back to {}{through}",
            name(&edge.to.0),
            name(&edge.from.0),
        )
    };
    BadValue {
        problem,
        remedy: "let the application listen on another port".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(ip: IpAddr) -> bool {
        ip.is_loopback()
    }

    fn listen(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn hop<'a>(name: &'a str, listen: &'a [SocketAddr], backends: &[(&str, Carrier)]) -> Hop<'a> {
        let backends = backends.iter().map(|(text, c)| (text.parse().unwrap(), *c));
        Hop {
            name,
            udp: false,
            listen,
            backends: backends.collect(),
        }
    }

    /// Places of the backends of one service that loop.
    fn alone(at: &[&str], backends: &[(&str, Carrier)]) -> Vec<usize> {
        let at = listen(at);
        let found = find(&[hop("web", &at, backends)], &loopback);
        found.iter().map(|found| found.backend).collect()
    }

    use Carrier::{Agent, Packets, Socket};

    #[test]
    fn a_backend_that_is_the_service_loops_where_the_agent_connects_to_it() {
        assert_eq!(alone(&["0.0.0.0:80"], &[("127.0.0.2:80", Agent)]), [0]);
        assert_eq!(alone(&["[::]:80"], &[("[::1]:80", Agent)]), [0]);
        assert_eq!(alone(&["192.0.2.1:80"], &[("192.0.2.1:80", Agent)]), [0]);
        let none: [usize; 0] = [];
        assert_eq!(alone(&["0.0.0.0:80"], &[("192.0.2.1:80", Agent)]), none);
        assert_eq!(alone(&["0.0.0.0:80"], &[("127.0.0.1:81", Agent)]), none);
        assert_eq!(alone(&["[::]:80"], &[("127.0.0.1:80", Agent)]), none);
        // The agent does not connect to backends on the `socket` path or the packet paths.
        assert_eq!(alone(&["0.0.0.0:80"], &[("127.0.0.1:80", Socket)]), none);
        assert_eq!(alone(&["0.0.0.0:80"], &[("127.0.0.1:80", Packets)]), none);
    }

    #[test]
    fn clients_of_the_other_family_loop_only_if_they_are_passed_to_and_fro() {
        let both = ["0.0.0.0:80", "[::]:80"];
        let none: [usize; 0] = [];
        assert_eq!(alone(&both, &[("127.0.0.1:80", Socket)]), none);
        let mixed = [("127.0.0.1:80", Socket), ("[::1]:80", Socket)];
        assert_eq!(alone(&both, &mixed), [0, 1]);
        assert_eq!(alone(&["0.0.0.0:80"], &mixed), none);
    }

    #[test]
    fn services_that_lead_to_each_other_loop_and_a_chain_does_not() {
        let (a, b, c) = (
            listen(&["0.0.0.0:80"]),
            listen(&["0.0.0.0:81"]),
            listen(&["0.0.0.0:82"]),
        );
        let chain = [
            hop("a", &a, &[("127.0.0.1:81", Agent)]),
            hop("b", &b, &[("127.0.0.1:82", Agent)]),
            hop("c", &c, &[("127.0.0.1:5000", Agent)]),
        ];
        assert_eq!(find(&chain, &loopback), []);
        let mut circle = chain.to_vec();
        circle[2] = hop(
            "c",
            &c,
            &[("127.0.0.1:5000", Agent), ("127.0.0.1:80", Agent)],
        );
        let found = find(&circle, &loopback);
        let places: Vec<_> = found.iter().map(|l| (l.hop, l.backend)).collect();
        assert_eq!(places, [(0, 0), (1, 0), (2, 1)]);
        assert_eq!(
            found[0].value.problem,
            "127.0.0.1:81 is where b listens (0.0.0.0:81), which leads back to a by c"
        );
    }

    #[test]
    fn packets_that_are_sent_on_to_a_service_take_part_in_a_loop() {
        let (a, b) = (listen(&["10.0.0.1:80"]), listen(&["10.0.0.1:81"]));
        let circle = |second| {
            [
                hop("a", &a, &[("10.0.0.1:81", Packets)]),
                hop("b", &b, &[("10.0.0.1:80", second)]),
            ]
        };
        let places = |hops: &[Hop<'_>]| -> Vec<usize> {
            find(hops, &loopback).iter().map(|l| l.hop).collect()
        };
        assert_eq!(places(&circle(Agent)), [1]);
        let none: [usize; 0] = [];
        assert_eq!(places(&circle(Packets)), none);
    }

    #[test]
    fn the_port_of_a_udp_service_is_the_agents_or_the_applications() {
        let at = listen(&["0.0.0.0:53"]);
        let backends = [("127.0.0.1:53", Socket), ("192.0.2.1:54", Agent)];
        let tcp = hop("dns", &at, &backends);
        let udp = Hop {
            udp: true,
            ..tcp.clone()
        };
        let (place, value) = port_taken_twice(&udp).unwrap();
        assert_eq!(place, 0);
        assert!(value.problem.contains("192.0.2.1:54"), "{value}");
        assert_eq!(port_taken_twice(&tcp), None);
        let alone = Hop {
            backends: udp.backends[..1].to_vec(),
            ..udp
        };
        assert_eq!(port_taken_twice(&alone), None);
    }

    #[test]
    fn tcp_and_udp_do_not_meet() {
        let at = listen(&["0.0.0.0:53"]);
        let tcp = hop("tcp", &at, &[("127.0.0.1:54", Agent)]);
        let udp = Hop {
            udp: true,
            ..hop("udp", &at, &[("127.0.0.1:53", Agent)])
        };
        let found = find(&[tcp.clone(), udp], &loopback);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].hop, 1);
        assert_eq!(find(&[tcp], &loopback), []);
    }

    #[test]
    fn a_route_leads_back_to_the_service_that_it_is_of() {
        let at = listen(&["0.0.0.0:80"]);
        let hops = [
            hop("app", &at, &[("unix:/run/app.sock", Agent)]),
            hop("app/api", &at, &[("127.0.0.1:80", Agent)]),
        ];
        let found = find(&hops, &loopback);
        assert_eq!((found.len(), found[0].hop), (1, 1));
        assert!(found[0].value.problem.contains("this service itself"));
    }
}
