//! The network as it was found, and conclusions from it. The module is pure: it asks the kernel
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_config::{Attach, InterfaceConfig};

/// Interfaces, addresses and routes of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The interfaces by their index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// The host's own addresses, and the interface of each.
    pub addresses: BTreeMap<IpAddr, u32>,
    /// Interfaces with a default route or a route by a router.
    pub world: BTreeSet<u32>,
    /// The routers of the host's routes, each with its interface.
    pub routers: BTreeSet<(u32, IpAddr)>,
    /// Whether there are routing rules beside the kernel's default ones.
    pub has_rules: bool,
}

/// A network interface as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Interface index of the kernel.
    pub index: u32,
    /// Name of the interface, such as `eth0`.
    pub name: String,
    /// Whether the interface is up administratively.
    pub up: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// The kind of packets that the interface carries.
    pub medium: Medium,
    /// MAC address; `None` without a link-layer address of six bytes.
    pub mac: Option<[u8; 6]>,
    /// MTU: the largest packet in bytes.
    pub mtu: u32,
    /// The kernel's name for this kind of virtual interface; `None` for a network card.
    pub kind: Option<String>,
    /// Index of the bridge or bond that the interface is part of.
    pub controller: Option<u32>,
    /// Bits of [`feature`]; `None` if the kernel does not report them.
    pub features: Option<u64>,
}

/// The kind of packets that an interface carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// Frames with an Ethernet header.
    Ethernet,
    /// IP packets without a frame around them: tun, WireGuard, PPP.
    Ip,
    /// Frames of any other link layer.
    #[default]
    Other,
}

/// Bits of [`Interface::features`]: `enum netdev_xdp_act`, linux/netdev.h.
pub mod feature {
    /// The driver runs XDP programs.
    pub const BASIC: u64 = 1;
    /// Frames can be redirected from the interface.
    pub const REDIRECT: u64 = 2;
    /// Frames can be redirected to the interface.
    pub const TARGET: u64 = 4;
}

/// The kernel's answer to a route request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whether the destination is an address of the host itself.
    pub local: bool,
    /// Index of the interface by which packets leave.
    pub interface: u32,
    /// The next router; `None` if the destination itself is the next hop.
    pub gateway: Option<IpAddr>,
    /// The source address that the host would use.
    pub source: Option<IpAddr>,
    /// MTU of the route in bytes, if the route has one of its own.
    pub mtu: Option<u32>,
}

/// The location of a backend, as the `nat` path distinguishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// On this host, in this network namespace.
    Local,
    /// Behind this host, which is its way to the world: a container or another namespace.
    Container,
    /// On another host of the network.
    Remote,
}

impl Class {
    /// The name of the class in `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Container => "container",
            Self::Remote => "remote",
        }
    }
}

/// The route to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The location of the backend.
    pub class: Class,
    /// Index of the interface by which packets leave.
    pub interface: u32,
    /// Name of the interface by which packets leave.
    pub name: String,
    /// The kind of packets that the interface carries.
    pub medium: Medium,
    /// The next hop, which gets the frames.
    pub next_hop: IpAddr,
    /// The source address that the host would use.
    pub source: Option<IpAddr>,
    /// MTU of the route in bytes, if the route has one of its own.
    pub mtu: Option<u16>,
}

/// Kinds of interfaces that connect this host with namespaces on it.
const INWARD: [&str; 7] = [
    "veth", "bridge", "macvlan", "ipvlan", "netkit", "tun", "macvtap",
];

/// Kinds of virtual interfaces with native XDP in their drivers.
const WITH_XDP: [&str; 4] = ["veth", "bond", "tun", "netkit"];

impl Survey {
    /// The way to `address`, given the kernel's `route`. `None` if the interface of the route is
    /// unknown.
    pub fn way(&self, address: IpAddr, route: &Route) -> Option<Way> {
        let interface = self.interfaces.get(&route.interface)?;
        let class = if route.local {
            Class::Local
        } else if route.gateway.is_none() && self.is_inward(interface) {
            Class::Container
        } else {
            Class::Remote
        };
        Some(Way {
            class,
            interface: route.interface,
            name: interface.name.clone(),
            medium: match route.local {
                true => Medium::Ethernet,
                false => interface.medium,
            },
            next_hop: route.gateway.unwrap_or(address),
            source: route.source,
            mtu: route.mtu.and_then(|mtu| u16::try_from(mtu).ok()),
        })
    }

    /// Whether hosts on an interface use this host as their way to the world. That is a link to
    /// namespaces, unless the host itself reaches the world by it.
    fn is_inward(&self, interface: &Interface) -> bool {
        let inward = |interface: &Interface| {
            interface
                .kind
                .as_deref()
                .is_some_and(|kind| INWARD.contains(&kind))
        };
        // A bridge with a network card in it belongs to the network outside.
        let bridged_out = self
            .interfaces
            .values()
            .any(|port| port.controller == Some(interface.index) && !inward(port));
        inward(interface) && !bridged_out && !self.world.contains(&interface.index)
    }

    /// The interface called `name`; `None` if there is none.
    pub fn named(&self, name: &str) -> Option<&Interface> {
        self.interfaces
            .values()
            .find(|interface| interface.name == name)
    }

    /// The interfaces by which most clients come. These are the configured ones, or else those that
    /// lead to the world. On a host without a router, all interfaces with an address count.
    pub fn client_side(&self, configured: &[InterfaceConfig]) -> Vec<(&Interface, Attach)> {
        let usable = |interface: &&Interface| interface.up && !interface.loopback;
        if !configured.is_empty() {
            return configured
                .iter()
                .filter_map(|wanted| Some((self.named(&wanted.name)?, wanted.attach)))
                .filter(|(interface, _)| usable(interface))
                .collect();
        }
        let with_address: BTreeSet<u32> = self.addresses.values().copied().collect();
        let chosen = if self.world.is_empty() {
            &with_address
        } else {
            &self.world
        };
        chosen
            .iter()
            .filter_map(|index| self.interfaces.get(index))
            .filter(usable)
            .map(|interface| (interface, Attach::Auto))
            .collect()
    }
}

impl Survey {
    /// Other interfaces by which clients may come. These are all that have an address, or none if
    /// interfaces are configured.
    pub fn other_sides(&self, configured: &[InterfaceConfig]) -> Vec<&Interface> {
        if !configured.is_empty() {
            return Vec::new();
        }
        let chosen = self.client_side(configured);
        let is_chosen = |index: u32| chosen.iter().any(|(interface, _)| interface.index == index);
        let with_address: BTreeSet<u32> = self.addresses.values().copied().collect();
        with_address
            .iter()
            .filter_map(|index| self.interfaces.get(index))
            .filter(|interface| interface.up && !interface.loopback && !is_chosen(interface.index))
            .collect()
    }
}

/// The place of the programs on an interface, with the reason if it is not the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the driver, if it takes the programs.
    Driver,
    /// Behind the driver (tc), with the reason.
    Behind(String),
    /// No programs on this interface, with the reason.
    Nowhere(String),
}

impl Interface {
    /// The place of the programs, as far as it can be told without trying.
    pub fn place(&self, attach: Attach) -> Place {
        match self.medium {
            Medium::Ethernet => {}
            Medium::Ip => return Place::Behind("its packets have no Ethernet header".to_owned()),
            Medium::Other => {
                return Place::Nowhere(
                    "it carries neither Ethernet frames nor IP packets".to_owned(),
                );
            }
        }
        let kind = self.kind.as_deref();
        match attach {
            Attach::Tc => return Place::Behind("configured".to_owned()),
            Attach::Xdp => return Place::Driver,
            Attach::Auto => {}
        }
        match kind {
            // Frames from the peer leave the checksum to a network card, and XDP cannot see that.
            Some("veth" | "tun" | "netkit") => {
                Place::Behind("senders on this host leave out checksums".to_owned())
            }
            Some(kind) if !WITH_XDP.contains(&kind) => {
                Place::Behind(format!("a {kind} has no XDP of its own"))
            }
            _ if self.features.is_some_and(|bits| bits & feature::BASIC == 0) => {
                Place::Behind("the driver has no XDP".to_owned())
            }
            _ => Place::Driver,
        }
    }

    /// Whether XDP can redirect frames to the interface.
    pub fn takes_xdp(&self) -> bool {
        self.features
            .is_some_and(|bits| bits & feature::TARGET != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(interfaces: &[(u32, &str, Option<&str>, Option<u32>)], world: &[u32]) -> Survey {
        let interface =
            |(index, name, kind, controller): &(u32, &str, Option<&str>, Option<u32>)| {
                let interface = Interface {
                    index: *index,
                    name: (*name).to_owned(),
                    up: true,
                    loopback: *name == "lo",
                    medium: Medium::Ethernet,
                    mac: None,
                    mtu: 1500,
                    kind: kind.map(str::to_owned),
                    controller: *controller,
                    features: None,
                };
                (*index, interface)
            };
        Survey {
            interfaces: interfaces.iter().map(interface).collect(),
            addresses: BTreeMap::new(),
            world: world.iter().copied().collect(),
            routers: BTreeSet::new(),
            has_rules: false,
        }
    }

    fn class(survey: &Survey, interface: u32, gateway: Option<&str>) -> Class {
        let route = Route {
            local: false,
            interface,
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            source: None,
            mtu: None,
        };
        let address = "10.0.0.9".parse().unwrap();
        survey.way(address, &route).unwrap().class
    }

    #[test]
    fn what_is_on_a_link_to_a_namespace_is_a_container() {
        let survey = survey(
            &[
                (1, "lo", None, None),
                (2, "eth0", None, None),
                (3, "veth1", Some("veth"), None),
                (4, "docker0", Some("bridge"), None),
                (5, "veth2", Some("veth"), Some(4)),
            ],
            &[2],
        );
        assert_eq!(class(&survey, 3, None), Class::Container);
        assert_eq!(class(&survey, 4, None), Class::Container);
        // The backend is behind another router, which may have another way to the world.
        assert_eq!(class(&survey, 3, Some("10.0.0.1")), Class::Remote);
        assert_eq!(class(&survey, 2, None), Class::Remote);
    }

    #[test]
    fn neighbours_of_a_container_that_runs_the_agent_are_other_hosts() {
        let survey = survey(&[(2, "eth0", Some("veth"), None)], &[2]);
        assert_eq!(class(&survey, 2, None), Class::Remote);
    }

    #[test]
    fn a_bridge_with_a_network_card_in_it_is_the_network_outside() {
        let survey = survey(
            &[(2, "eth0", None, Some(3)), (3, "br0", Some("bridge"), None)],
            &[],
        );
        assert_eq!(class(&survey, 3, None), Class::Remote);
    }

    #[test]
    fn clients_come_by_what_leads_to_the_world() {
        let mut survey = survey(
            &[
                (1, "lo", None, None),
                (2, "eth0", None, None),
                (3, "eth1", None, None),
            ],
            &[2],
        );
        survey.addresses.insert("10.0.0.1".parse().unwrap(), 3);
        survey.addresses.insert("127.0.0.1".parse().unwrap(), 1);
        let names = |survey: &Survey, configured: &[InterfaceConfig]| -> Vec<String> {
            survey
                .client_side(configured)
                .iter()
                .map(|(interface, _)| interface.name.clone())
                .collect()
        };
        let others = |survey: &Survey, configured: &[InterfaceConfig]| -> Vec<String> {
            let others = survey.other_sides(configured);
            others.iter().map(|other| other.name.clone()).collect()
        };
        assert_eq!(names(&survey, &[]), ["eth0"]);
        assert_eq!(others(&survey, &[]), ["eth1"]);
        let wanted = InterfaceConfig {
            name: "eth1".to_owned(),
            attach: Attach::Tc,
        };
        let wanted = [wanted];
        assert_eq!(names(&survey, &wanted), ["eth1"]);
        assert!(others(&survey, &wanted).is_empty());
        survey.world.clear();
        assert_eq!(names(&survey, &[]), ["eth1"]);
    }

    #[test]
    fn programs_go_to_the_driver_where_that_is_sound() {
        let of = |kind: Option<&str>, features| Interface {
            medium: Medium::Ethernet,
            kind: kind.map(str::to_owned),
            features,
            ..Interface::default()
        };
        assert_eq!(of(None, None).place(Attach::Auto), Place::Driver);
        assert_eq!(of(None, Some(7)).place(Attach::Auto), Place::Driver);
        let behind =
            |interface: Interface| matches!(interface.place(Attach::Auto), Place::Behind(_));
        assert!(behind(of(None, Some(0))));
        assert!(behind(of(Some("veth"), Some(7))));
        assert!(behind(of(Some("bridge"), None)));
        assert_eq!(of(Some("veth"), None).place(Attach::Xdp), Place::Driver);
        let mut other = of(Some("tun"), None);
        other.medium = Medium::Ip;
        assert!(matches!(other.place(Attach::Xdp), Place::Behind(_)));
        other.medium = Medium::Other;
        assert!(matches!(other.place(Attach::Xdp), Place::Nowhere(_)));
    }
}
