//! The packet paths of the reconciler: the interfaces that need programs, and host settings for
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_common::abi::path;

use super::Reconciler;
use crate::dataplane;
use crate::dataplane::packets::{InterfaceState, Wanted};
use crate::errors::chain;
use crate::network::status::PacketStatus;
use crate::network::survey::{Class, Interface, Medium, Place, Survey};
use crate::network::sysctl::{self, Sysctls};
use crate::network::{Network, cookies};
use crate::state::desired::Desired;
use crate::state::targets::Ports;
use crate::state::vips;
use lb_config::{Attach, PacketConfig};

/// Interval between two requests for neighbours and two looks at slots.
const OFTEN: Duration = Duration::from_secs(2);

/// Interval between two looks for remaining flows of backends that are all gone.
const LEAVING: Duration = Duration::from_millis(250);

/// The longest time that the programs stay for such flows. TCP clients are told within some
/// seconds, UDP clients when they send.
const LINGER: Duration = Duration::from_secs(60);

/// The reconciler's knowledge of the network.
pub(super) struct Surveyed {
    pub(super) network: Network,
    sysctls: Sysctls,
    /// The interfaces that have the programs.
    pub(super) interfaces: Vec<InterfaceState>,
    /// The problems of the last look.
    pub(super) problems: Vec<String>,
    next: Option<Instant>,
    /// The latest time at which the programs go, set once no backend is on a packet path any more.
    leaving: Option<Instant>,
    /// Whether programs of an earlier agent on interfaces have been taken into account.
    adopted: bool,
}

impl Surveyed {
    pub(super) fn new(state_dir: &std::path::Path) -> Self {
        Self {
            network: Network::default(),
            sysctls: Sysctls::open(state_dir),
            interfaces: Vec::new(),
            problems: Vec::new(),
            next: None,
            leaving: None,
            adopted: false,
        }
    }

    /// Whether the packet paths are due for another look.
    pub(super) fn next_is_due(&self) -> bool {
        self.next.is_some_and(|next| next <= Instant::now())
    }

    /// Restores every changed setting of the host.
    pub(super) fn restore(&mut self) {
        self.sysctls.restore();
    }
}

/// Checks that packets can come in by some interface. The error is the reason in a few words.
pub(super) fn entrance(network: &Network, config: &PacketConfig) -> Result<(), &'static str> {
    let survey = network.survey();
    let places = survey.client_side(&config.interfaces);
    let usable = |(interface, attach): &(&Interface, Attach)| {
        !matches!(interface.place(*attach), Place::Nowhere(_))
    };
    if places.iter().any(usable) {
        Ok(())
    } else {
        Err("no interface for packets")
    }
}

/// The range of source ports outside the host's own range.
pub(super) fn ports() -> Ports {
    Ports::beside(sysctl::local_ports())
}

/// The host's own addresses that other hosts can know.
pub(super) fn own_addresses(network: &Network) -> Vec<IpAddr> {
    network.survey().addresses.keys().copied().collect()
}

impl Reconciler {
    /// The source of network changes. The caller runs [`Reconciler::network_changed`] after each
    /// change.
    pub fn network(&self) -> Network {
        self.surveyed.network.clone()
    }

    /// The time of the next look at the packet paths.
    pub(super) fn next_packet_step(&self) -> Option<Instant> {
        self.surveyed.next
    }

    /// The status of the packet paths; `None` if they are not in use.
    pub(super) fn packet_status(&self) -> Result<Option<PacketStatus>, dataplane::Error> {
        if !vips::in_use(&self.desired) && self.surveyed.interfaces.is_empty() {
            return Ok(None);
        }
        let figures = self.plane.packet_figures()?;
        Ok(figures.map(|figures| PacketStatus {
            interfaces: self.surveyed.interfaces.clone(),
            figures,
        }))
    }

    /// Attaches the programs to the interfaces that `desired` needs, and keeps neighbours known.
    pub(super) fn follow(&mut self, desired: &Desired) {
        if !vips::in_use(desired) {
            match self.config.agent.packet.syn_cookies {
                true => self.follow_cookies(),
                false => self.leave(),
            }
            return;
        }
        let survey = self.surveyed.network.survey();
        let config = &self.config.agent.packet;
        let barred = barred_from_drivers(&survey, config, desired, sysctl::stack_forwards_ipv6());
        let wanted = wanted(
            &survey,
            config,
            desired,
            barred.as_deref(),
            &Sysctls::forwards,
        );
        let mut problems = missing(&survey, config);
        let placed = |wanted: &&Wanted| !matches!(wanted.place, Place::Nowhere(_));
        for interface in wanted.iter().filter(placed) {
            problems.extend(self.surveyed.sysctls.forward(&interface.name));
        }
        problems.extend(self.surveyed.network.problem());
        if config.syn_cookies {
            problems.extend(cookies::problem());
        }
        self.note_problems(problems);
        self.surveyed.interfaces = self.plane.follow(&wanted, survey.has_rules);
        // Next hops of clients count too. A reply without a known neighbour would go to the stack,
        // which takes no packet from an address of its own.
        let mut next_hops: BTreeSet<(u32, IpAddr)> = desired
            .ways()
            .filter(|way| way.class != Class::Local)
            .map(|way| (way.interface, way.next_hop))
            .collect();
        let by = |interface: u32| wanted.iter().any(|wanted| wanted.index == interface);
        next_hops.extend(
            survey
                .routers
                .iter()
                .filter(|(interface, _)| by(*interface)),
        );
        self.surveyed.network.keep_neighbours(&next_hops);
        if let Err(error) = self.plane.clean_slots() {
            tracing::warn!(error = %chain(&error), "slots stay as they are");
        }
        self.look_again();
    }

    /// Has the next look at the packet paths, which are in use, come soon.
    pub(super) fn look_again(&mut self) {
        self.surveyed.adopted = true;
        self.surveyed.leaving = None;
        self.surveyed.next = Some(Instant::now() + OFTEN);
    }

    /// Keeps the problems of a look for `status`, and logs the new ones.
    pub(super) fn note_problems(&mut self, problems: Vec<String>) {
        let before = &self.surveyed.problems;
        for problem in problems.iter().filter(|p| !before.contains(p)) {
            tracing::warn!("{problem}");
        }
        self.surveyed.problems = problems;
    }

    /// Detaches the programs, including those of an earlier agent. It waits until no flows need
    /// them, for at most [`LINGER`].
    fn leave(&mut self) {
        let now = Instant::now();
        let surveyed = &mut self.surveyed;
        surveyed.problems.clear();
        if surveyed.next.take().is_none() && surveyed.adopted {
            return;
        }
        surveyed.adopted = true;
        let until = *surveyed.leaving.get_or_insert(now + LINGER);
        surveyed.interfaces = self.plane.linger();
        if now < until && !surveyed.interfaces.is_empty() {
            surveyed.next = Some(now + LEAVING);
            return;
        }
        surveyed.leaving = None;
        surveyed.interfaces = self.plane.follow(&[], false);
    }
}

/// Problems of configured interfaces: missing, or down.
pub(super) fn missing(survey: &Survey, config: &PacketConfig) -> Vec<String> {
    let mut problems = Vec::new();
    for wanted in &config.interfaces {
        let name = &wanted.name;
        match survey.named(name) {
            None => problems.push(format!(
                "there is no interface {name}: it is used once it is there (check interfaces in \
                 the configuration)"
            )),
            Some(interface) if !interface.up => {
                problems.push(format!("{name} is down (ip link set {name} up)"));
            }
            Some(_) => {}
        }
    }
    problems
}

/// The reason why the programs must run behind the drivers, if there is one. XDP sends frames only
/// to interfaces that take them from it. It leaves the others to the stack. The stack forwards no
/// `dsr` packets, and IPv6 only if `forwards_ipv6`. Behind the driver frames go out by any
/// interface.
fn barred_from_drivers(
    survey: &Survey,
    config: &PacketConfig,
    desired: &Desired,
    forwards_ipv6: bool,
) -> Option<String> {
    let clients = survey.client_side(&config.interfaces);
    if let Some((bare, _)) = clients.iter().find(|(from, _)| from.medium == Medium::Ip) {
        let name = &bare.name;
        return Some(format!("{name}, by which clients come, takes no frames"));
    }
    desired.backends().find_map(|backend| {
        let packets = backend.packets.as_ref()?;
        let out = survey.interfaces.get(&packets.way.interface)?;
        // Frames can always go back out by the interface that they came in by.
        let goes_back = clients.iter().all(|(from, _)| from.index == out.index);
        if packets.way.class == Class::Local || out.takes_xdp() || goes_back {
            return None;
        }
        let name = &out.name;
        let ipv6 = !packets.target.addr.is_v4();
        if backend.route.path == path::DSR {
            Some(format!("{name} takes no frames from XDP"))
        } else if ipv6 && !forwards_ipv6 {
            Some(format!(
                "{name} takes no frames from XDP, and the stack forwards no IPv6 \
                 (net.ipv6.conf.all.forwarding is 0)"
            ))
        } else {
            None
        }
    })
}

/// The interfaces by which clients come, and those by which backends answer. `barred` is the reason
/// why programs go to no driver, even against the configuration. `forwards` tells whether an
/// interface forwards.
fn wanted(
    survey: &Survey,
    config: &PacketConfig,
    desired: &Desired,
    barred: Option<&str>,
    forwards: &dyn Fn(&str) -> bool,
) -> Vec<Wanted> {
    let mut wanted = BTreeMap::new();
    let class = |class| {
        desired.backends().any(|backend| {
            backend.route.path == path::NAT
                && backend
                    .packets
                    .as_ref()
                    .is_some_and(|p| p.way.class == class)
        })
    };
    let mends_replies = class(Class::Local);
    let of = |interface: &Interface, attach| Wanted {
        mends_replies,
        ..described(
            interface,
            match (interface.place(attach), barred) {
                (Place::Driver, Some(why)) => Place::Behind(why.to_owned()),
                (place, _) => place,
            },
        )
    };
    for (interface, attach) in survey.client_side(&config.interfaces) {
        wanted.insert(interface.index, of(interface, attach));
    }
    let mut by_driver = None;
    for backend in desired
        .backends()
        .filter(|backend| backend.route.path != path::SOCKET)
    {
        let Some(packets) = &backend.packets else {
            continue;
        };
        let way = &packets.way;
        if way.class != Class::Local
            && let Some(interface) = survey.interfaces.get(&way.interface)
        {
            let attach = config
                .interfaces
                .iter()
                .find(|configured| configured.name == interface.name)
                .map_or(Attach::Auto, |configured| configured.attach);
            let answers = wanted
                .entry(interface.index)
                .or_insert_with(|| of(interface, attach));
            if answers.place == Place::Driver {
                by_driver = Some(&interface.name);
            }
        }
    }
    for interface in survey.other_sides(&config.interfaces) {
        wanted.entry(interface.index).or_insert_with(|| Wanted {
            place: other_place(interface, forwards, by_driver.map(String::as_str)),
            ..of(interface, Attach::Tc)
        });
    }
    wanted.into_values().collect()
}

/// An interface with its programs at `place`.
pub(super) fn described(interface: &Interface, place: Place) -> Wanted {
    Wanted {
        index: interface.index,
        name: interface.name.clone(),
        mtu: interface.mtu,
        place,
        takes_xdp: interface.takes_xdp(),
        sends_back: interface.kind.as_deref() != Some("veth"),
        mends_replies: false,
        bare: interface.medium == Medium::Ip,
        mac: interface.mac,
    }
}

/// The place of the programs on an interface off the host's way to the world. Clients may come by
/// it, but the programs run there only if that changes nothing for others. `by_driver` is an
/// interface by which backends answer, if its driver runs the programs.
fn other_place(
    interface: &Interface,
    forwards: &dyn Fn(&str) -> bool,
    by_driver: Option<&str>,
) -> Place {
    let name = &interface.name;
    if let nowhere @ Place::Nowhere(_) = interface.place(Attach::Tc) {
        return nowhere;
    }
    if !forwards(name) {
        return Place::Nowhere(format!(
            "clients there go through the agent, as the host forwards nothing of theirs (sysctl -w \
             net.ipv4.conf.{name}.forwarding=1, or name the interfaces of clients in packet.interfaces)"
        ));
    }
    match by_driver {
        Some(driver) if !interface.takes_xdp() => Place::Nowhere(format!(
            "clients there go through the agent, as backends answer by {driver}, whose driver cannot \
             send to {name} (name the interfaces of clients in packet.interfaces, {driver} with \
             attach = \"tc\")"
        )),
        _ => Place::Behind("not on the host's way to the world".to_owned()),
    }
}
