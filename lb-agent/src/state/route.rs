//! Chooses the path to a backend.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi;
use lb_common::abi::packet::Target;

use super::surroundings::Surroundings;
use super::targets;
use crate::network::survey::{Class, Medium, Way};
use lb_config::{BackendAddress, Mode, Path, Service};

/// The reason for the proxy path if a listener on this host cannot be entered in a sockhash.
pub const MPTCP: &str = "its listener is MPTCP, which the kernel does not hand over";

/// The path to a backend, and the reason for it in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The path, one of [`abi::path`].
    pub path: u8,
    /// The reason for this path, for `status`.
    pub why: &'static str,
}

impl Route {
    /// The name of the path in `status`.
    pub fn name(&self) -> &'static str {
        match self.path {
            abi::path::SOCKET => "socket",
            abi::path::NAT => "nat",
            abi::path::DSR => "dsr",
            _ => "proxy",
        }
    }
}

/// The route and the target for packets to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByPackets {
    /// The next hop and interface, as the host's routes give them.
    pub way: Way,
    /// The backend's entry for the packet programs, still without its id.
    pub target: Target,
}

const fn socket(why: &'static str) -> (Route, Option<ByPackets>) {
    let path = abi::path::SOCKET;
    (Route { path, why }, None)
}

const fn proxy(why: &'static str) -> (Route, Option<ByPackets>) {
    let path = abi::path::PROXY;
    (Route { path, why }, None)
}

/// Chooses the path to a backend, and the reason for it.
pub(super) fn route(
    service: &Service,
    address: &BackendAddress,
    wanted: Path,
    surroundings: &dyn Surroundings,
) -> (Route, Option<ByPackets>) {
    if service.mode == Mode::Http {
        return proxy("HTTP");
    }
    if !surroundings.can_steer() {
        return proxy("no BPF here");
    }
    if service.send_proxy_protocol.is_some() {
        return proxy("PROXY protocol");
    }
    let Some(address) = address.ip() else {
        return proxy("a unix socket");
    };
    match wanted {
        Path::Socket => socket("configured"),
        Path::Proxy => proxy("configured"),
        Path::Nat => nat(service, address, surroundings).map_or_else(proxy, configured_nat),
        Path::Dsr => match surroundings.packets() {
            Ok(()) => dsr(service, address, surroundings),
            Err(why) => proxy(why),
        },
        Path::Auto if !surroundings.is_local(address) => {
            nat(service, address, surroundings).map_or_else(proxy, by_class)
        }
        // A UDP application answers from the port that it is bound to. On the socket path the
        // client would get the answer from a port other than the one it asked.
        Path::Auto if service.mode == Mode::Udp && on_another_port(service, address) => {
            let why = "UDP on another port";
            let path = abi::path::NAT;
            match nat(service, address, surroundings) {
                Ok(packets) => (Route { path, why }, Some(packets)),
                Err(_) => proxy(why),
            }
        }
        Path::Auto if service.mode == Mode::Tcp && surroundings.is_mptcp(address) => proxy(MPTCP),
        Path::Auto => socket("on this host"),
    }
}

fn configured_nat(packets: ByPackets) -> (Route, Option<ByPackets>) {
    let (path, why) = (abi::path::NAT, "configured");
    (Route { path, why }, Some(packets))
}

fn by_class(packets: ByPackets) -> (Route, Option<ByPackets>) {
    let why = match packets.way.class {
        Class::Local => "on this host",
        Class::Container => "behind this host",
        Class::Remote => "on another host",
    };
    let path = abi::path::NAT;
    (Route { path, why }, Some(packets))
}

fn on_another_port(service: &Service, address: SocketAddr) -> bool {
    let mut ports = service.listen.iter().map(SocketAddr::port);
    ports.any(|port| port != address.port())
}

/// Checks the needs of both packet paths: loadable programs, and a route over Ethernet or IP.
fn way(address: IpAddr, surroundings: &dyn Surroundings) -> Result<Way, &'static str> {
    surroundings.packets()?;
    let way = surroundings.way(address).ok_or("no route")?;
    match way.medium {
        Medium::Ethernet | Medium::Ip => Ok(way),
        Medium::Other => Err("neither Ethernet nor IP on the way"),
    }
}

fn nat(
    service: &Service,
    address: SocketAddr,
    surroundings: &dyn Surroundings,
) -> Result<ByPackets, &'static str> {
    let same_family = |listen: &SocketAddr| listen.is_ipv4() == address.is_ipv4();
    if !service.listen.iter().any(same_family) {
        return Err("another address family");
    }
    if address.ip().is_loopback() {
        return Err("a loopback address");
    }
    let way = way(address.ip(), surroundings)?;
    let (config, ports) = surroundings.packet_settings();
    let target = targets::nat_target(address, &way, &config, ports).ok_or("no source address")?;
    Ok(ByPackets { way, target })
}

/// All backends of a service must be on the `dsr` path. A backend without a route therefore keeps
/// the path, and gets no packets.
fn dsr(
    service: &Service,
    address: SocketAddr,
    surroundings: &dyn Surroundings,
) -> (Route, Option<ByPackets>) {
    let path = abi::path::DSR;
    let packets = way(address.ip(), surroundings).and_then(|way| {
        if way.medium != Medium::Ethernet {
            return Err("no Ethernet on the way");
        }
        let (config, _) = surroundings.packet_settings();
        let target = targets::dsr_target(address, &way, &service.paths, &config)?;
        Ok(ByPackets { way, target })
    });
    match packets {
        Ok(packets) => {
            let why = "configured";
            (Route { path, why }, Some(packets))
        }
        Err(why) => (Route { path, why }, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::compose::tests::config;
    use lb_config::PacketConfig;

    /// A host with 10.0.0.1, a container at 10.1.0.2, and all other addresses on remote hosts.
    struct Here {
        packets: Result<(), &'static str>,
    }

    impl Surroundings for Here {
        fn can_steer(&self) -> bool {
            true
        }

        fn is_local(&self, address: SocketAddr) -> bool {
            address.ip().is_loopback() || address.ip() == IpAddr::from([10, 0, 0, 1])
        }

        fn packets(&self) -> Result<(), &'static str> {
            self.packets
        }

        fn way(&self, to: IpAddr) -> Option<Way> {
            let class = match to.to_string().as_str() {
                "10.0.0.1" => Class::Local,
                "10.1.0.2" => Class::Container,
                "203.0.113.1" => return None,
                _ => Class::Remote,
            };
            Some(Way {
                class,
                interface: 2,
                name: "eth0".to_owned(),
                medium: match to == IpAddr::from([10, 2, 0, 2]) {
                    true => Medium::Other,
                    false => Medium::Ethernet,
                },
                next_hop: to,
                source: Some(IpAddr::from([10, 0, 0, 1])),
                mtu: None,
            })
        }

        fn packet_settings(&self) -> (PacketConfig, targets::Ports) {
            let ports = targets::Ports {
                first: 1024,
                count: 100,
            };
            (PacketConfig::default(), ports)
        }
    }

    fn path_of(
        settings: &str,
        backend: &str,
        packets: Result<(), &'static str>,
    ) -> (u8, &'static str) {
        let config = config(&format!(
            "[[service]]\nname = 'web'\nlisten = ['10.0.0.1:80']\n{settings}"
        ));
        let service = &config.services[0];
        let address = backend.parse().unwrap();
        let (route, by) = route(service, &address, service.paths.path, &Here { packets });
        assert!(by.is_some() == (route.path == NAT) || route.path == DSR);
        (route.path, route.why)
    }

    use abi::path::{DSR, NAT, PROXY, SOCKET};

    #[test]
    fn auto_takes_packets_where_it_cannot_take_sockets() {
        let auto = |backend| path_of("", backend, Ok(()));
        assert_eq!(auto("127.0.0.1:80"), (SOCKET, "on this host"));
        assert_eq!(auto("10.1.0.2:5000"), (NAT, "behind this host"));
        assert_eq!(auto("192.0.2.1:5000"), (NAT, "on another host"));
        assert_eq!(auto("203.0.113.1:80"), (PROXY, "no route"));
        assert_eq!(
            auto("10.2.0.2:80"),
            (PROXY, "neither Ethernet nor IP on the way")
        );
        assert_eq!(auto("[2001:db8::1]:80"), (PROXY, "another address family"));
        let without = path_of("", "192.0.2.1:5000", Err("no packets"));
        assert_eq!(without, (PROXY, "no packets"));
    }

    #[test]
    fn udp_on_another_port_of_this_host_has_its_replies_mended() {
        let udp = |backend| path_of("mode = 'udp'", backend, Ok(()));
        assert_eq!(udp("10.0.0.1:53"), (NAT, "UDP on another port"));
        assert_eq!(udp("10.0.0.1:80"), (SOCKET, "on this host"));
        // A reply to another host cannot have a loopback address as its source.
        assert_eq!(udp("127.0.0.1:53"), (PROXY, "UDP on another port"));
    }

    #[test]
    fn what_is_configured_and_cannot_be_is_proxied_with_the_reason() {
        let nat = |backend, packets| path_of("path = 'nat'", backend, packets);
        assert_eq!(nat("192.0.2.1:80", Ok(())), (NAT, "configured"));
        assert_eq!(nat("192.0.2.1:80", Err("no XDP")), (PROXY, "no XDP"));
        assert_eq!(nat("203.0.113.1:80", Ok(())), (PROXY, "no route"));
        assert_eq!(
            nat("10.2.0.2:80", Ok(())),
            (PROXY, "neither Ethernet nor IP on the way")
        );
        let dsr = |backend| path_of("path = 'dsr'", backend, Ok(()));
        assert_eq!(dsr("192.0.2.1:80"), (DSR, "configured"));
        // The backend gets no packets, and stays on the path. The other backends of its service go
        // on.
        assert_eq!(dsr("10.0.0.1:80"), (DSR, "dsr to this host itself"));
        let without = path_of("path = 'dsr'", "192.0.2.1:80", Err("no XDP"));
        assert_eq!(without, (PROXY, "no XDP"));
    }
}
