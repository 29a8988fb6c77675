//! The targets of backends: their entries for the packet programs.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::BackendId;
use lb_common::abi::packet::{Ip, Target, kind};
use lb_common::addr;

use crate::network::survey::{Class, Way};
use lb_config::{Encapsulation, PacketConfig, ServicePaths};

/// The most bits of an outer source address that may vary.
const MOST_SOURCE_BITS: u8 = 16;

/// The range of source ports that the packet paths give out, outside the host's own range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first port of the range.
    pub first: u16,
    /// The number of ports in the range.
    pub count: u16,
}

impl Ports {
    /// The larger of the two ranges beside `taken`. `taken` is the first and the last port that the
    /// host gives to its own connections.
    pub fn beside((first, last): (u16, u16)) -> Self {
        const LOWEST: u16 = 1024;
        let below = first.saturating_sub(LOWEST);
        let above = u16::MAX - last.max(LOWEST);
        let most = u16::MAX - LOWEST;
        match (below, above) {
            // Hardly any port is left. The whole range is used, as collisions are rare among so
            // many ports.
            (0..512, 0..512) => Self {
                first: LOWEST,
                count: most,
            },
            _ if below >= above => Self {
                first: LOWEST,
                count: below,
            },
            _ => Self {
                first: last + 1,
                count: above,
            },
        }
    }
}

/// The target of a backend on the `nat` path, without its id. `None` if there is no source address.
pub fn nat_target(
    address: SocketAddr,
    way: &Way,
    config: &PacketConfig,
    ports: Ports,
) -> Option<Target> {
    let mut target = Target {
        addr: ip(address.ip()),
        port_be: address.port().to_be(),
        mtu: way.mtu.unwrap_or(0),
        ..Target::default()
    };
    match way.class {
        Class::Local => target.kind = kind::LOCAL,
        Class::Container => {
            target.kind = kind::CONTAINER;
            // A backend would answer clients on its own network directly, so their packets get this
            // source.
            if let Some(source) = way.source {
                target.source = ip(source);
                target.ifindex = way.interface;
                (target.first_port, target.ports) = (ports.first, ports.count);
            }
        }
        Class::Remote => {
            let of_family = |source: &&IpAddr| source.is_ipv4() == address.is_ipv4();
            let given = config.nat_source.iter().find(of_family).copied();
            target.source = ip(given.or(way.source)?);
            target.kind = kind::REMOTE;
            (target.first_port, target.ports) = (ports.first, ports.count);
        }
    }
    Some(target)
}

/// The target of a backend on the `dsr` path, without its id. The error is the reason in a few
/// words.
pub fn dsr_target(
    address: SocketAddr,
    way: &Way,
    paths: &ServicePaths,
    config: &PacketConfig,
) -> Result<Target, &'static str> {
    let mut target = Target {
        addr: ip(address.ip()),
        port_be: address.port().to_be(),
        mtu: way.mtu.unwrap_or(0),
        ..Target::default()
    };
    if way.class == Class::Local {
        return Err("dsr to this host itself");
    }
    match paths.encapsulation {
        Encapsulation::Auto | Encapsulation::Ipip | Encapsulation::Ip6ip6 => {
            let range = config.outer_source(address.is_ipv4());
            let range = range.ok_or("no outer source address")?;
            let all_bits = if address.is_ipv4() { 32 } else { 128 };
            target.kind = kind::IP;
            target.source = ip(range.address);
            target.source_bits = (all_bits - range.bits).min(MOST_SOURCE_BITS);
        }
        Encapsulation::Gue => {
            target.kind = kind::GUE;
            target.source = ip(way.source.ok_or("no outer source address")?);
            target.port_be = paths.gue_port.to_be();
        }
        Encapsulation::L2 => {
            if way.next_hop != address.ip() {
                return Err("l2 through a router");
            }
            target.kind = kind::L2;
        }
    }
    Ok(target)
}

/// The target with the id that the backend has been given.
pub fn with_id(target: Target, id: BackendId) -> Target {
    Target { id, ..target }
}

pub(super) fn ip(address: IpAddr) -> Ip {
    Ip::from_addr(&addr::from_ip(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::survey::Medium;
    use lb_config::Prefix;

    fn way(class: Class) -> Way {
        Way {
            class,
            interface: 2,
            name: "eth0".to_owned(),
            medium: Medium::Ethernet,
            next_hop: "10.0.0.1".parse().unwrap(),
            source: Some("10.0.0.7".parse().unwrap()),
            mtu: None,
        }
    }

    const PORTS: Ports = Ports {
        first: 1024,
        count: 31_744,
    };

    #[test]
    fn source_ports_are_those_that_the_host_leaves() {
        assert_eq!(Ports::beside((32_768, 60_999)), PORTS);
        let above = Ports {
            first: 20_001,
            count: 45_535,
        };
        assert_eq!(Ports::beside((1024, 20_000)), above);
        assert_eq!(Ports::beside((1024, 65_535)).count, 64_511);
    }

    #[test]
    fn source_is_rewritten_towards_other_hosts_and_for_neighbours_of_containers() {
        let address = "10.0.0.9:80".parse().unwrap();
        let config = PacketConfig::default();
        let of = |class| nat_target(address, &way(class), &config, PORTS).unwrap();
        assert_eq!(of(Class::Local).kind, kind::LOCAL);
        let container = of(Class::Container);
        assert_eq!((container.kind, container.ifindex), (kind::CONTAINER, 2));
        assert_eq!(container.source, ip("10.0.0.7".parse().unwrap()));
        let remote = of(Class::Remote);
        assert_eq!(remote.kind, kind::REMOTE);
        assert_eq!(remote.source, ip("10.0.0.7".parse().unwrap()));
        assert_eq!((remote.first_port, remote.ports), (1024, 31_744));
        assert_eq!(remote.port_be, 80u16.to_be());
        let given = PacketConfig {
            nat_source: vec!["2001:db8::1".parse().unwrap(), "10.0.0.8".parse().unwrap()],
            ..config
        };
        let remote = nat_target(address, &way(Class::Remote), &given, PORTS).unwrap();
        assert_eq!(remote.source, ip("10.0.0.8".parse().unwrap()));
    }

    #[test]
    fn the_outer_header_is_of_the_backends_family() {
        let paths = |encapsulation| ServicePaths {
            encapsulation,
            ..ServicePaths::default()
        };
        let config = PacketConfig {
            outer_source: vec![Prefix {
                address: "10.9.0.0".parse().unwrap(),
                bits: 24,
            }],
            ..PacketConfig::default()
        };
        let v4 = "10.0.0.9:80".parse().unwrap();
        let target = dsr_target(
            v4,
            &way(Class::Remote),
            &paths(Encapsulation::Auto),
            &config,
        );
        let target = target.unwrap();
        assert_eq!((target.kind, target.source_bits), (kind::IP, 8));
        let v6 = "[2001:db8::9]:80".parse().unwrap();
        let none = dsr_target(
            v6,
            &way(Class::Remote),
            &paths(Encapsulation::Auto),
            &config,
        );
        assert_eq!(none, Err("no outer source address"));
        let gue = dsr_target(v4, &way(Class::Remote), &paths(Encapsulation::Gue), &config).unwrap();
        assert_eq!((gue.kind, gue.port_be), (kind::GUE, 6080u16.to_be()));
        let l2 = dsr_target(v4, &way(Class::Remote), &paths(Encapsulation::L2), &config);
        assert_eq!(l2, Err("l2 through a router"));
        let mut direct = way(Class::Container);
        direct.next_hop = v4.ip();
        let l2 = dsr_target(v4, &direct, &paths(Encapsulation::L2), &config).unwrap();
        assert_eq!(l2.kind, kind::L2);
        let local = dsr_target(v4, &way(Class::Local), &paths(Encapsulation::L2), &config);
        assert_eq!(local, Err("dsr to this host itself"));
    }
}
