//! What there is, and what follows from it. Pure: everything was asked for before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_config::{Attach, InterfaceConfig};

/// Interfaces, addresses and routes of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// By their index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// The host's own addresses, and the interface of each.
    pub addresses: BTreeMap<IpAddr, u32>,
    /// Interfaces with a route that goes on from there.
    pub world: BTreeSet<u32>,
    /// The routers on the way, each with its interface.
    pub routers: BTreeSet<(u32, IpAddr)>,
    /// There are routing rules beside those that every host has.
    pub has_rules: bool,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// It is up, administratively.
    pub up: bool,
    /// It is the loopback interface.
    pub loopback: bool,
    /// What it carries.
    pub medium: Medium,
    /// Its MAC address.
    pub mac: Option<[u8; 6]>,
    /// Greatest packet, bytes.
    pub mtu: u32,
    /// What the kernel calls this kind of virtual interface; `None` for a network card.
    pub kind: Option<String>,
    /// The bridge or bond that it is part of.
    pub controller: Option<u32>,
    /// Bits of [`feature`], where the kernel tells.
    pub features: Option<u64>,
}

/// What an interface carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// Ethernet frames.
    Ethernet,
    /// IP packets without a frame around them: tun, WireGuard, PPP.
    Ip,
    /// Something else.
    #[default]
    Other,
}

/// Bits of [`Interface::features`]: `enum netdev_xdp_act`, linux/netdev.h.
pub mod feature {
    /// The driver runs XDP programs.
    pub const BASIC: u64 = 1;
    /// Frames can be redirected from it.
    pub const REDIRECT: u64 = 2;
    /// Frames can be redirected to it.
    pub const TARGET: u64 = 4;
}

/// What the kernel answers when it is asked for a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The address is the host's own.
    pub local: bool,
    /// Interface by which packets leave.
    pub interface: u32,
    /// The next router; `None` where the address itself is the next hop.
    pub gateway: Option<IpAddr>,
    /// Source that the host would use.
    pub source: Option<IpAddr>,
    /// Greatest packet, where the route has a limit of its own, bytes.
    pub mtu: Option<u32>,
}

/// Where a backend is, as the `nat` path sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// On this host, in this network namespace.
    Local,
    /// Behind this host, which is its way to the world: a container, another namespace.
    Container,
    /// On another host.
    Remote,
}

impl Class {
    /// Its name in `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Container => "container",
            Self::Remote => "remote",
        }
    }
}

/// The way to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where it is.
    pub class: Class,
    /// Interface by which packets leave.
    pub interface: u32,
    /// Its name.
    pub name: String,
    /// What the interface carries.
    pub medium: Medium,
    /// Who gets the frames.
    pub next_hop: IpAddr,
    /// Source that the host would use.
    pub source: Option<IpAddr>,
    /// Greatest packet, where the route has a limit of its own, bytes.
    pub mtu: Option<u16>,
}

/// Kinds of interfaces that join this host with namespaces on it.
const INWARD: [&str; 7] = [
    "veth", "bridge", "macvlan", "ipvlan", "netkit", "tun", "macvtap",
];

/// Kinds whose drivers have XDP of their own although they are no network cards.
const WITH_XDP: [&str; 4] = ["veth", "bond", "tun", "netkit"];

impl Survey {
    /// The way to `address`, to which `route` leads.
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

    /// Whether what is on an interface has this host as its way to the world: a link to
    /// namespaces by which the host itself does not reach the world.
    fn is_inward(&self, interface: &Interface) -> bool {
        let inward = |interface: &Interface| {
            interface
                .kind
                .as_deref()
                .is_some_and(|kind| INWARD.contains(&kind))
        };
        // A bridge with a network card in it is the network outside.
        let bridged_out = self
            .interfaces
            .values()
            .any(|port| port.controller == Some(interface.index) && !inward(port));
        inward(interface) && !bridged_out && !self.world.contains(&interface.index)
    }

    /// The interface called `name`.
    pub fn named(&self, name: &str) -> Option<&Interface> {
        self.interfaces
            .values()
            .find(|interface| interface.name == name)
    }

    /// The interfaces by which most clients come: those that are configured, else those that lead to
    /// the world, else, on a host that knows no router, all that have an address.
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
    /// Other interfaces by which clients may come: all that have an address, unless interfaces are
    /// configured.
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

/// Where the programs go on an interface, and why not to the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To the driver, if it takes them.
    Driver,
    /// Behind the driver.
    Behind(String),
    /// Nowhere.
    Nowhere(String),
}

impl Interface {
    /// Where the programs go, as far as can be told without trying.
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
            // Frames from the other end come with the checksum left for a network card, which XDP
            // cannot see.
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

    /// Whether frames can be redirected to it by XDP.
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
        // Behind another router, which may know another way to the world.
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
