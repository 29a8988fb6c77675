//! The packet paths in the kernel: their maps, and the programs on interfaces.
//!
//! | file | owns |
//! | --- | --- |
//! | `attach` | programs on interfaces, by links that are pinned |
//! | `dsr` | tables of services on the `dsr` path, and former owners of their slots |
//! | `flows` | the flow tables in the kernel's memory |
//! | `lazy` | opening of the packet paths at first use |
//! | `collector` | garbage collection of flows, in small batches |
//! | `vips` | listen addresses and the address filter |
//! | `expiry` | expiry policy of flows; pure |
//! | `reset` | resets to both ends of a flow |

mod attach;
mod collector;
mod dsr;
mod expiry;
mod flows;
mod lazy;
mod reset;
mod vips;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use lb_common::abi::packet::{
    Device, Interface, Ip, PacketCounter, PacketSettings, Target, Vip, VipKey, device, interface,
    state,
};
use lb_common::abi::{Backend, BackendId, ServiceId, ServiceTable};
use lb_common::addr;

use self::flows::Flows;
use super::{maps, pod};
use crate::dataplane::packets::{COUNTERS, InterfaceState, PacketFigures, Wanted, counter_name};
use crate::dataplane::{BackendCounts, Pick, TableCounts};
use crate::network::survey::Place;
use lb_net::clock::monotonic_s;

pub(super) use attach::remove_filters_of;
pub(super) use lazy::{LazyPackets, OBJECT, size_maps};

/// The pinned maps of the packet paths.
pub(super) const NAMES: [&str; 15] = [
    "VIPS",
    "ADDRESS_MARKS",
    "NEAR_VIPS",
    "TARGETS",
    "FLOWS4",
    "FLOWS6",
    "NAT_PORTS",
    "FRAGMENTS",
    "DSR_TABLES",
    "TRACKED",
    "PACKET_BACKENDS",
    "PACKET_SETTINGS",
    "DEVICES",
    "INTERFACES",
    "PACKET_STATS",
];

/// Configuration of the packet paths.
#[derive(Clone, Copy, Debug)]
pub struct FlowSettings {
    /// Established flows of each family that the tables can hold.
    pub flows: u32,
    /// Timeouts of flows. The number of CPUs and the seed are filled in later.
    pub ages: PacketSettings,
}

impl Default for FlowSettings {
    fn default() -> Self {
        Self {
            flows: 4096,
            ages: PacketSettings {
                closing_s: 30,
                syn_s: 30,
                established_s: 24 * 3600,
                udp_s: 60,
                ..PacketSettings::default()
            },
        }
    }
}

impl FlowSettings {
    /// Number of elements of `FLOWS4`, and of `FLOWS6`.
    pub fn sets(&self) -> u32 {
        Flows::sets_for(self.flows)
    }

    /// The number of flows that the tables pinned in `pin_dir` have room for. `None` without tables, or if
    /// they have the configured size.
    pub(super) fn others_in_force(&self, pin_dir: &Path) -> Result<Option<u32>, MapError> {
        if !lazy::is_pinned(pin_dir) {
            return Ok(None);
        }
        let sets = smallest(pin_dir, ["FLOWS4", "FLOWS6"])?;
        Ok((sets != self.sets()).then(|| Flows::flows_of(sets)))
    }

    /// Number of elements of `NAT_PORTS`.
    pub fn ports(&self) -> u32 {
        Flows::ports_for(self.flows)
    }

    /// Number of entries of `TRACKED`.
    pub(super) fn tracked_entries(&self) -> u32 {
        self.flows.clamp(1024, 262_144)
    }
}

/// The maps and programs of the packet paths.
pub(super) struct Packets {
    vips: vips::Vips,
    targets: Array<MapData, pod::Target>,
    devices: HashMap<MapData, u32, pod::Device>,
    interfaces: Array<MapData, pod::Interface>,
    settings: Array<MapData, pod::PacketSettings>,
    backends: PerCpuArray<MapData, pod::PacketBackend>,
    stats: PerCpuArray<MapData, u64>,
    dsr: dsr::Tables,
    attachments: attach::Attachments,
    collector: Option<Arc<collector::Collector>>,
    /// Number of the walk over the flows since which no backend has had a target.
    bereft_at: Option<u64>,
    /// Targets of backends that stay although their flows were closed.
    closed: std::collections::HashMap<BackendId, Target>,
    ages: PacketSettings,
    pin_dir: PathBuf,
}

/// State that an earlier agent has left in the maps.
pub(super) struct Left {
    pub(super) targets: Vec<Target>,
    pub(super) vips: Vec<(VipKey, Vip)>,
}

impl Packets {
    /// Takes the maps out of the loaded object, and keeps the object for its programs.
    pub(super) fn take(
        mut object: Ebpf,
        pin_dir: &Path,
        flows: &FlowSettings,
    ) -> Result<Self, MapError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
        let mut take = |name| maps::take(&mut object, name);
        let settings: Array<MapData, pod::PacketSettings> = take("PACKET_SETTINGS")?.try_into()?;
        let ages = PacketSettings {
            cpus: cpus as u32,
            seed: 0x6c62_6167,
            sets: smallest(pin_dir, ["FLOWS4", "FLOWS6"])?,
            ports: smallest(pin_dir, ["NAT_PORTS"])?,
            key: flow_key(settings.get(&0, 0)?.0.key)?,
            ..flows.ages
        };
        let vips = vips::Vips::open(
            take("VIPS")?.try_into()?,
            take("NEAR_VIPS")?.try_into()?,
            take("ADDRESS_MARKS")?.try_into()?,
        )?;
        let mut packets = Self {
            vips,
            targets: take("TARGETS")?.try_into()?,
            devices: take("DEVICES")?.try_into()?,
            interfaces: take("INTERFACES")?.try_into()?,
            settings,
            backends: take("PACKET_BACKENDS")?.try_into()?,
            stats: take("PACKET_STATS")?.try_into()?,
            dsr: dsr::Tables::new(pinned(pin_dir, "DSR_TABLES")?, maps::dir(pin_dir)),
            attachments: attach::Attachments::new(object, pin_dir),
            collector: None,
            bereft_at: None,
            closed: std::collections::HashMap::new(),
            ages,
            pin_dir: pin_dir.to_owned(),
        };
        packets.settings.set(0, pod::PacketSettings(ages), 0)?;
        Ok(packets)
    }

    /// Reads the state that an earlier agent has left: the targets of backends, and the addresses of
    /// services.
    pub(super) fn read_back(&self, backends: &[Backend]) -> Result<Left, MapError> {
        let mut targets = Vec::new();
        for backend in backends.iter().filter(|b| b.id != BackendId::NONE) {
            let target = self.targets.get(&backend.id.index(), 0)?.0;
            if target.id == backend.id && target.kind != 0 {
                targets.push(target);
            }
        }
        let vips = self.vips.read()?;
        Ok(Left { targets, vips })
    }

    /// Sets the route of packets to a backend. A new backend starts with counts of zero.
    pub(super) fn put_target(&mut self, target: &Target) -> Result<(), MapError> {
        let index = target.id.index();
        self.closed.remove(&target.id);
        if self.targets.get(&index, 0)?.0.id != target.id {
            let zero = pod::PacketBackend(Default::default());
            self.backends.set(index, super::maps::per_cpu(zero)?, 0)?;
        }
        self.vips.note_target(target)?;
        self.targets.set(index, pod::Target(*target), 0)
    }

    /// Removes the route of packets to a backend. Each of its flows ends at its next packet, or when the
    /// collector finds it.
    pub(super) fn drop_target(&mut self, id: BackendId) -> Result<(), MapError> {
        let none = pod::Target(Target::default());
        self.targets.set(id.index(), none, 0)?;
        if let Some(collector) = &self.collector {
            collector.run_now();
        }
        Ok(())
    }

    /// Ends the UDP flows of backends that are out of service, by a walk that starts now.
    pub(super) fn out_of_service(&self) {
        if let Some(collector) = &self.collector {
            collector.run_now();
        }
    }

    /// Ends the flows of a backend that stays. Its target is kept in `closed` until the backend is in
    /// service again. Returns the number of open flows.
    pub(super) fn close(&mut self, id: BackendId) -> Result<u64, MapError> {
        let target = self.targets.get(&id.index(), 0)?.0;
        if target.id == id {
            self.drop_target(id)?;
            self.closed.insert(id, target);
        }
        let swept = self.collector.as_ref();
        Ok(swept.map_or(0, |collector| collector.active(id)))
    }

    /// Ends the flows of clients that `pick` names, by a walk over all of them. Both ends of a TCP flow are told
    /// by the collector. Returns the number of open flows among them.
    pub(super) fn end_clients(&self, pick: Pick<'_>) -> io::Result<usize> {
        let flows = Flows::open(&self.pin_dir, self.ages)?;
        let mut open = 0;
        for v6 in [false, true] {
            for set in 0..flows.sets() {
                for flow in flows.met(v6, set).into_iter().flatten() {
                    let end = |ip: &Ip, port_be| {
                        SocketAddr::new(addr::to_ip(&ip.to_addr()), u16::from_be(port_be))
                    };
                    let key = &flow.key;
                    let (local, client) =
                        (end(&key.dst, key.dport_be), end(&key.src, key.sport_be));
                    if flow.has(state::GIVEN_UP) || !pick(local, client) {
                        continue;
                    }
                    flows.give_up(&flow.at);
                    let is_open =
                        flow.has(state::ESTABLISHED) && !flow.has(state::FIN | state::RST);
                    open += usize::from(is_open);
                }
            }
        }
        self.out_of_service();
        Ok(open)
    }

    /// Restores the target of a backend that is in service again, if its flows were closed before.
    pub(super) fn reopen(&mut self, id: BackendId) -> Result<(), MapError> {
        match self.closed.remove(&id) {
            // The target goes back without a reset of the counts.
            Some(target) => self.targets.set(id.index(), pod::Target(target), 0),
            None => Ok(()),
        }
    }

    pub(super) fn put_vip(&mut self, key: &VipKey, vip: &Vip) -> Result<(), MapError> {
        self.vips.put(key, vip)
    }

    pub(super) fn drop_vip(&mut self, key: &VipKey) -> Result<(), MapError> {
        self.vips.remove(key)
    }

    /// Puts the slots of a service on the `dsr` path in force. `usable` tells whether a backend takes new
    /// flows, `known` whether it keeps its existing ones.
    pub(super) fn put_dsr(
        &mut self,
        id: ServiceId,
        table: &ServiceTable,
        usable: &dyn Fn(BackendId) -> bool,
        known: &dyn Fn(BackendId) -> bool,
    ) -> Result<(), MapError> {
        self.dsr.put(id, table, usable, known)
    }

    /// Whether the kernel accepts enough of the programs to forward packets.
    pub(super) fn check(&mut self) -> bool {
        self.attachments.load()
    }

    /// The reasons for which the kernel refused programs that were needed.
    pub(super) fn refusals(&self) -> Vec<String> {
        self.attachments.refusals()
    }

    /// See [`Attachments::distrust`].
    pub(super) fn distrust_attachments(&mut self) {
        self.attachments.distrust();
    }

    /// Attaches the programs to the interfaces `wanted`, and detaches them from all others. With
    /// `has_rules` new flows have to pass the routing rules of this host.
    pub(super) fn follow(&mut self, wanted: &[Wanted], has_rules: bool) -> Vec<InterfaceState> {
        self.ages.rules = has_rules.into();
        let written = self
            .write_devices(wanted)
            .and_then(|()| self.write_interfaces(wanted))
            .and_then(|()| self.write_settings(wanted));
        if let Err(error) = written {
            tracing::warn!(%error, "what interfaces can do is not known to the programs");
        }
        let states = self.attachments.follow(wanted);
        self.bereft_at = None;
        if !wanted.is_empty() {
            self.start_collector();
        }
        states
    }

    fn start_collector(&mut self) -> Option<&collector::Collector> {
        if self.collector.is_none() {
            match collector::start(&self.pin_dir, self.ages) {
                Ok(collector) => self.collector = Some(collector),
                Err(error) => tracing::error!(%error, "flows that are over are not taken out"),
            }
        }
        self.collector.as_deref()
    }

    /// Interfaces that keep their programs, those of an earlier agent included, as long as flows are left.
    /// The kernel's own stack does not know these flows, so only the programs can reset their ends.
    pub(super) fn linger(&mut self) -> Vec<InterfaceState> {
        let states = self.attachments.left();
        if states.is_empty() {
            return states;
        }
        let Some(swept) = self.start_collector().map(collector::Collector::swept) else {
            return Vec::new();
        };
        // The current walk may have begun before the last target was removed.
        let first = *self.bereft_at.get_or_insert(swept.walks) + 2;
        if swept.walks >= first && swept.established + swept.opening == 0 {
            return Vec::new();
        }
        states
    }

    fn write_settings(&mut self, wanted: &[Wanted]) -> Result<(), MapError> {
        let by_redirect = |wanted: &Wanted| wanted.place == Place::Driver && !wanted.sends_back;
        self.ages.redirects_back = wanted.iter().any(by_redirect).into();
        self.settings.set(0, pod::PacketSettings(self.ages), 0)
    }

    /// Makes the programs look up all routes again.
    pub(super) fn distrust_routes(&mut self) -> Result<(), MapError> {
        // Routes found within the current second may be older than the change.
        self.ages.routes_s = monotonic_s() + 1;
        self.settings.set(0, pod::PacketSettings(self.ages), 0)
    }

    fn write_devices(&mut self, wanted: &[Wanted]) -> Result<(), MapError> {
        let flags = |wanted: &Wanted| {
            if wanted.takes_xdp {
                device::XDP_TARGET
            } else {
                0
            }
        };
        let known: Vec<u32> = self.devices.keys().collect::<Result<_, _>>()?;
        for index in known {
            if !wanted.iter().any(|wanted| wanted.index == index) {
                self.devices.remove(&index)?;
            }
        }
        for wanted in wanted {
            let device = Device {
                flags: flags(wanted),
            };
            self.devices.insert(wanted.index, pod::Device(device), 0)?;
        }
        Ok(())
    }

    fn write_interfaces(&mut self, wanted: &[Wanted]) -> Result<(), MapError> {
        let mut places = BTreeMap::new();
        for wanted in wanted {
            let entry = described(wanted);
            let place = Interface::place(wanted.index);
            // If two interfaces share a place, the one without Ethernet headers gets it. Its packets would
            // be misread without an entry.
            if wanted.bare || !places.contains_key(&place) {
                places.insert(place, entry);
            }
        }
        for place in 0..Interface::PLACES as u32 {
            let entry = places.remove(&place).unwrap_or_default();
            if self.interfaces.get(&place, 0)?.0 != entry {
                self.interfaces.set(place, pod::Interface(entry), 0)?;
            }
        }
        Ok(())
    }

    /// Cleans slots of the `dsr` path as flows of their former owners end.
    pub(super) fn clean_slots(&mut self) -> Result<(), MapError> {
        let Some(collector) = &self.collector else {
            return Ok(());
        };
        self.dsr.clean(
            collector.now_s(),
            self.ages.established_s,
            collector.tracked(),
        )
    }

    /// The counts of a backend, summed over all CPUs.
    pub(super) fn backend_counts(&self, id: BackendId) -> Result<BackendCounts, MapError> {
        let totals = self.backends.get(&id.index(), 0)?;
        let sum = |of: fn(&lb_common::abi::packet::PacketBackend) -> u64| {
            totals.iter().map(|cpu| of(&cpu.0)).sum()
        };
        let swept = self.collector.as_ref();
        let (active, unanswered) =
            swept.map_or((0, 0), |swept| (swept.active(id), swept.unanswered(id)));
        Ok(BackendCounts {
            active,
            total: sum(|totals| totals.flows),
            failures: sum(|totals| totals.refused) + unanswered,
            bytes_in: sum(|totals| totals.bytes),
            packets_in: sum(|totals| totals.packets),
            ..BackendCounts::default()
        })
    }

    /// All counters of packets and the results of the last walk.
    pub(super) fn figures(&self) -> Result<PacketFigures, MapError> {
        let mut counts = [0; PacketCounter::COUNT];
        for (index, count) in (0..).zip(&mut counts) {
            *count = self.stats.get(&index, 0)?.iter().sum();
        }
        let swept = self
            .collector
            .as_ref()
            .map(|s| s.swept())
            .unwrap_or_default();
        let of = |counter: PacketCounter| counts[counter as usize];
        Ok(PacketFigures {
            established: swept.established,
            capacity: swept.capacity,
            opening: swept.opening,
            tracked: swept.tracked,
            expired: swept.expired,
            orphaned: swept.orphaned,
            evicted: of(PacketCounter::FlowEvicted),
            walks: swept.walks,
            packets: COUNTERS
                .map(|counter| (counter_name(counter).to_owned(), of(counter)))
                .to_vec(),
        })
    }

    /// Entries and capacity of the flow tables.
    pub(super) fn tables(&self) -> Vec<TableCounts> {
        let Some(collector) = &self.collector else {
            return Vec::new();
        };
        let swept = collector.swept();
        let table = |table, entries, capacity| TableCounts {
            table,
            entries,
            capacity,
        };
        vec![
            table("flows", swept.established, swept.capacity),
            table("flows_new", swept.opening, swept.opening_capacity),
            table("tracked", swept.tracked, swept.tracked_capacity),
        ]
    }
}

/// Opens the pinned map `name`.
fn pinned(pin_dir: &Path, name: &str) -> Result<MapData, MapError> {
    MapData::from_pin(maps::pin_of(pin_dir, name))
}

/// Number of elements of the smallest of these pinned maps. An agent that was killed while it made them may
/// have left one of another size.
pub(super) fn smallest<'a>(
    pin_dir: &Path,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<u32, MapError> {
    let mut least = u32::MAX;
    for name in names {
        least = least.min(pinned(pin_dir, name)?.info()?.max_entries());
    }
    Ok(least)
}

/// The key of the flow tables' hash. A key of an earlier agent stays, because it determines the places of
/// the existing flows.
fn flow_key(before: [u64; 6]) -> Result<[u64; 6], MapError> {
    if before != [0; 6] {
        return Ok(before);
    }
    let mut key = [0; 6];
    for word in &mut key {
        *word = getrandom::u64().map_err(|error| MapError::IoError(io::Error::other(error)))?;
    }
    Ok(key)
}
/// The entry of an interface for the programs.
fn described(wanted: &Wanted) -> Interface {
    let half = |at: usize, mac: &[u8; 6]| u16::from_ne_bytes([mac[at], mac[at + 1]]);
    let mac = wanted.mac.unwrap_or_default();
    let bare = if wanted.bare { interface::BARE } else { 0 };
    let has_mac = wanted.mac.map_or(0, |_| interface::HAS_MAC);
    Interface {
        ifindex: wanted.index,
        mac: [half(0, &mac), half(2, &mac), half(4, &mac)],
        flags: bare | has_mac,
    }
}
