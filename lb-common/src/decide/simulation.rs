//! A world in memory: the packet paths without a kernel, for tests and for predicting the path of a
//! packet.

pub mod example;
mod flows;
mod guards;

use core::ops::Deref;
use std::boxed::Box;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::vec::Vec;

use super::data_path::{
    self, BARRED, BackendEvent, Backends, Choices, Chosen, Clock, Counters, Dsr, FlowEntries,
    Fragments, Host, Routes, Services, Stages,
};
use super::{PacketContext, Stage, Verdict, run};
use crate::abi::packet::{
    AddressMarks, DsrSlot, FlowEntry, FlowKey, Fragment, FragmentKey, Hop, Ip, PacketBackend,
    PacketCounter, PacketSettings, Target, Tracked, Vip, VipKey,
};
use crate::abi::{
    Affinity, AffinityKey, Backend, BackendId, ServiceHead, ServiceId, path, protocol, state,
};
use crate::access::Set;
use crate::addr::Addr;
use crate::flows::{At, By, End, Flow, Home, NewFlow, Refused};
use crate::packet::Packet;
use crate::select::{Choice, Client, Reason, Tables, first, select};

pub use flows::Flows;
use flows::with_set;

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its settings.
    pub head: ServiceHead,
    /// Its members.
    pub members: Vec<BackendId>,
    /// The owners of its slots.
    pub slots: Arc<Vec<BackendId>>,
    /// Its slots on the `dsr` path, with the second in which the base was seen last.
    pub dsr: Arc<Vec<(DsrSlot, u32)>>,
}

/// All that the packet paths see beside the packet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Simulation {
    /// CLOCK_MONOTONIC in seconds.
    pub now_s: u32,
    /// Settings.
    pub settings: PacketSettings,
    /// Interface that packets come by.
    pub ingress: u32,
    /// MAC address of that interface, two bytes each in memory order; zeros for one without.
    pub mac: [u16; 3],
    /// Connected sockets of this host, by the key of packets that they receive.
    pub sockets: HashSet<FlowKey>,
    /// Routes: the way to an address.
    pub routes: HashMap<Ip, Hop>,
    /// Interface of routes that lack the neighbour, if the kernel can be left to ask; 0 for none.
    pub asks: u32,
    /// Sources that rules refuse.
    pub barred: HashSet<Ip>,
    /// Destinations that routes refuse.
    pub unreachable: HashSet<Ip>,
    /// Whether that was so of the route that was asked for last.
    pub was_barred: bool,
    /// Counts, by the number of the counter.
    pub counters: HashMap<u32, u64>,
    /// The same for backends, by index.
    pub totals: HashMap<u32, PacketBackend>,
    /// The `VIPS` map.
    pub vips: HashMap<VipKey, Vip>,
    /// The `TARGETS` map, by index.
    pub targets: HashMap<u32, Target>,
    /// The `BACKENDS` map, by index.
    pub backends: HashMap<u32, Backend>,
    /// Services, by id.
    pub services: HashMap<u32, Service>,
    /// The `RULES` and `GUARDS` maps; CLOCK_BOOTTIME is the same as CLOCK_MONOTONIC.
    pub access: Set,
    /// The `DENIED` map.
    pub denied: HashMap<u32, u64>,
    /// The flow tables.
    pub flows: Flows,
    /// The `FRAGMENTS` map.
    pub fragments: HashMap<FragmentKey, Fragment>,
    /// The `TRACKED` map.
    pub tracked: HashMap<FlowKey, Tracked>,
    /// The `AFFINITY` maps, by protocol.
    pub affinity: HashMap<(u8, AffinityKey), Affinity>,
}

impl Simulation {
    /// The verdict on a packet that comes by an interface.
    pub fn receive<P: Packet>(&mut self, packet: &mut P) -> Verdict {
        let mut context = PacketContext::NONE;
        super::ingress(packet, self, || Some(&mut context))
    }

    /// The same by the stages alone, without the fast path.
    pub fn receive_by_stages<P: Packet>(&mut self, packet: &mut P) -> Verdict {
        let mut context = PacketContext::NONE;
        if !self.is_ours(packet) {
            return Verdict::PASS;
        }
        super::by_stages(packet, self, &mut context)
    }

    /// The verdict on a packet that the host's own stack sends.
    pub fn send<P: Packet>(&mut self, packet: &mut P) -> Verdict {
        let mut context = PacketContext::NONE;
        super::egress(packet, self, &mut context)
    }

    /// The value of a counter.
    pub fn counter(&self, counter: PacketCounter) -> u64 {
        self.counters.get(&(counter as u32)).copied().unwrap_or(0)
    }

    /// A service with backends that are chosen here.
    fn chooses(&self, service: ServiceId) -> Option<&Service> {
        let service = self.services.get(&service.0)?;
        let head = &service.head;
        (head.members != 0 && head.flags & ServiceHead::HTTP == 0).then_some(service)
    }

    fn select_by<'a>(
        &'a self,
        service: &'a Service,
        protocol: u32,
        client: &Addr,
        avoid: BackendId,
        by: impl FnOnce(&mut Choosing<'a>, &Client) -> Option<Choice>,
    ) -> Option<Choice> {
        let mut choosing = Choosing {
            world: self,
            service,
            protocol: protocol as u8,
            avoid,
        };
        by(&mut choosing, &Client::new(&service.head, client))
    }

    fn is_by_packets(&self, choice: &Choice) -> bool {
        let backend = self.backends.get(&choice.backend.index());
        backend.is_some_and(|backend| backend.path == path::NAT)
    }

    /// Marks of an address. Any address may have been that of a backend; its mark stays.
    fn marks_of(&self, address: &Ip) -> u8 {
        let mut marks = AddressMarks::NONE;
        for (key, vip) in self.vips.iter().filter(|(key, _)| key.addr == *address) {
            marks.note_vip(key, vip);
        }
        for target in self.targets.values() {
            marks.note_target(target);
        }
        marks.0[AddressMarks::place(address)] | AddressMarks::BACKEND
    }
}

/// An entry as it was when it was looked up, and its place.
#[derive(Clone, Copy, Debug)]
pub struct Found<K, T> {
    place: K,
    value: T,
}

impl<K, T> Deref for Found<K, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The entry of a flow.
type FoundEntry<const N: usize> = Found<At, FlowEntry<N>>;
/// Totals of a backend, by its index.
type FoundTotals = Found<u32, PacketBackend>;
/// A value that is only read.
type Copied<T> = Found<(), T>;

const fn copied<T>(value: T) -> Copied<T> {
    Found { place: (), value }
}

impl Stages for Simulation {
    fn call<P: Packet>(
        &mut self,
        stage: Stage,
        packet: &mut P,
        context: &mut PacketContext,
    ) -> Verdict {
        run(stage, packet, self, context)
    }

    fn open<P: Packet>(&mut self, packet: &mut P) -> Verdict {
        super::open(packet, self)
    }

    fn six<P: Packet>(&mut self, packet: &mut P) -> Verdict {
        super::six(packet, self)
    }
}

impl Clock for Simulation {
    fn now_s(&self) -> u32 {
        self.now_s
    }
}

impl Host for Simulation {
    fn settings(&self) -> PacketSettings {
        self.settings
    }

    fn ingress(&self) -> u32 {
        self.ingress
    }

    fn cpu(&self) -> u32 {
        0
    }

    fn has_socket(&mut self, key: &FlowKey) -> bool {
        self.sockets.contains(key)
    }

    fn is_ours<P: Packet>(&self, packet: &P) -> bool {
        self.mac == [0; 3] || crate::headers::destination(packet) == Some(self.mac)
    }
}

impl Counters for Simulation {
    fn count(&mut self, counter: u32) {
        *self.counters.entry(counter).or_default() += 1;
    }
}

impl Services for Simulation {
    fn vip(&self, key: &VipKey) -> Option<Vip> {
        self.vips.get(key).copied()
    }

    fn near_vip(&self, key: &VipKey) -> Option<Vip> {
        self.vip(key)
    }

    fn marks(&self, address: &Ip) -> u8 {
        self.marks_of(address)
    }
}

impl Backends for Simulation {
    type Target = Copied<Target>;
    type Sent = FoundTotals;

    fn count_backend(&mut self, backend: BackendId, event: BackendEvent) {
        let totals = self.totals.entry(backend.index()).or_default();
        match event {
            BackendEvent::Flow => totals.flows += 1,
            BackendEvent::Answered => totals.answered += 1,
            BackendEvent::Refused => totals.refused += 1,
        }
    }

    fn target(&self, backend: BackendId) -> Option<Copied<Target>> {
        let target = self.targets.get(&backend.index())?;
        (target.id == backend && backend != BackendId::NONE).then_some(copied(*target))
    }

    fn serves(&self, backend: BackendId) -> bool {
        let found = self.backends.get(&backend.index());
        found.is_some_and(|found| {
            found.id == backend && matches!(found.state, state::UP | state::DRAINING)
        })
    }

    fn sent(&self, backend: BackendId) -> Option<FoundTotals> {
        let at = backend.index();
        let value = self.totals.get(&at).copied().unwrap_or_default();
        Some(Found { place: at, value })
    }

    fn count_sent(&mut self, sent: FoundTotals, len: u32) {
        let totals = self.totals.entry(sent.place).or_default();
        totals.packets += 1;
        totals.bytes += u64::from(len);
    }

    fn set_way(&mut self, sent: FoundTotals, hop: &Hop) {
        self.totals.entry(sent.place).or_default().hop = *hop;
    }
}

impl Choices for Simulation {
    fn pick(
        &self,
        service: ServiceId,
        protocol: u32,
        client: &Addr,
        _home: &Home,
    ) -> Option<Choice> {
        let service = self.chooses(service)?;
        let choice = self.select_by(service, protocol, client, BackendId::NONE, first)?;
        self.is_by_packets(&choice).then_some(choice)
    }

    fn count_choice(&mut self, _service: ServiceId, _reason: Reason) {}

    fn choose(
        &mut self,
        service: ServiceId,
        protocol: u32,
        client: &Addr,
        avoid: BackendId,
    ) -> Chosen {
        let Some(service) = self.chooses(service) else {
            return Chosen::OtherPath;
        };
        match self.select_by(service, protocol, client, avoid, select) {
            None => Chosen::None,
            Some(choice) if self.is_by_packets(&choice) => Chosen::Packet(choice.backend),
            Some(_) => Chosen::OtherPath,
        }
    }

    fn remember(&mut self, protocol: u32, service: ServiceId, client: &Addr, backend: BackendId) {
        let Some(service) = self.services.get(&service.0) else {
            return;
        };
        if service.head.affinity_ns != 0 {
            let affinity = Affinity {
                seen_ns: u64::from(self.now_s) * 1_000_000_000,
                backend,
                pad: 0,
            };
            let key = Client::new(&service.head, client).key;
            self.affinity.insert((protocol as u8, key), affinity);
        }
    }

    fn remembered(
        &self,
        protocol: u32,
        head: &ServiceHead,
        key: &AffinityKey,
    ) -> Option<BackendId> {
        let known = self.affinity.get(&(protocol as u8, *key))?;
        let now_ns = u64::from(self.now_s) * 1_000_000_000;
        let backend = self.backends.get(&known.backend.index())?;
        let keeps =
            backend.id == known.backend && matches!(backend.state, state::UP | state::DRAINING);
        (keeps && now_ns.saturating_sub(known.seen_ns) < head.affinity_ns).then_some(known.backend)
    }
}

impl data_path::Flows for Simulation {
    type Flow = Copied<Flow>;
    type New = Box<NewFlow>;

    fn home(&self, words: &[u32; 3], protocol: u8) -> Home {
        Home::of(&self.settings, words, End::Client, protocol)
    }

    fn flow(&mut self, key: &FlowKey) -> Option<Copied<Flow>> {
        let marks = [self.marks(&key.src), self.marks(&key.dst)];
        let found = self.flows.find(&self.settings, key, marks);
        found.map(copied)
    }

    fn flow_at(&self, at: &At) -> Option<Copied<Flow>> {
        Some(copied(self.flows.at(at)))
    }

    fn mark(&mut self, flow: Copied<Flow>, add: u32, remove: u32) {
        with_set!(self.flows, flow.at, |set, ports| crate::flows::mark(
            set, ports, &flow.at, add, remove
        ));
    }

    fn touch(&mut self, flow: Copied<Flow>, seen_s: u32, next_seq: u32) {
        self.flows.touch(&flow.at, seen_s, next_seq);
    }

    fn set_hop(&mut self, flow: Copied<Flow>, hop: &Hop) {
        with_set!(self.flows, flow.at, |set, _ports| {
            if crate::flows::lock(set, &flow.at) {
                set.hops[usize::from(flow.at.way)] = *hop;
                crate::flows::unlock(set, &flow.at);
            }
        });
    }

    fn room(&mut self) -> Option<Box<NewFlow>> {
        Some(Box::new(NewFlow::NONE))
    }

    fn enter(&mut self, mut new: Box<NewFlow>) -> Result<(Copied<Flow>, bool), Refused> {
        let entered = self.flows.enter(&self.settings, &mut new, self.now_s);
        entered.map(|(flow, evicted)| (copied(flow), evicted))
    }

    fn enter_v4(
        &mut self,
        new: Box<NewFlow>,
        home: &Home,
    ) -> Result<(Copied<Flow>, bool), Refused> {
        assert_eq!(*home, Home::of_new::<3>(&self.settings, &new));
        self.enter(new)
    }

    fn establish(&mut self, flow: Copied<Flow>) -> Option<bool> {
        with_set!(self.flows, flow.at, |set, _ports| crate::flows::establish(
            set, &flow.at
        ))
    }

    fn count_client(&mut self, flow: Copied<Flow>, _client: &Ip) {
        self.count_flow(&flow);
    }

    fn keep(&mut self, flow: Copied<Flow>) {
        with_set!(self.flows, flow.at, |set, _ports| crate::flows::keep(
            set, &flow.at
        ));
    }

    fn remove(&mut self, flow: Copied<Flow>) {
        let settings = self.settings;
        with_set!(self.flows, flow.at, |set, ports| crate::flows::remove(
            set, ports, &settings, &flow.at
        ));
    }
}

impl FlowEntries for Simulation {
    type Entry<const N: usize> = FoundEntry<N>;
    type Hop = Copied<Hop>;

    fn entry<const N: usize>(
        &self,
        by: By,
        words: &[u32; N],
        protocol: u8,
    ) -> Option<FoundEntry<N>> {
        let at = self
            .flows
            .locate(&self.settings, by, words, protocol, false)?;
        let set = &self.flows.sets()[at.set as usize];
        let value = set.entries[usize::from(at.way)];
        Some(Found { place: at, value })
    }

    fn entry_hop<const N: usize>(&self, entry: FoundEntry<N>) -> Copied<Hop> {
        let set = &self.flows.sets::<N>()[entry.place.set as usize];
        copied(set.hops[usize::from(entry.place.way)])
    }

    fn touch_entry<const N: usize>(
        &mut self,
        entry: FoundEntry<N>,
        end: End,
        seen_s: u32,
        next_seq: u32,
    ) {
        let at = At {
            reply: end as u8,
            ..entry.place
        };
        self.flows.touch(&at, seen_s, next_seq);
    }

    fn is_there<const N: usize>(&self, _entry: FoundEntry<N>) -> bool {
        true
    }
}

impl Fragments for Simulation {
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.get(key).copied()
    }

    fn note_fragment(&mut self, key: &FragmentKey, fragment: &Fragment) {
        self.fragments.insert(*key, *fragment);
    }
}

impl Routes for Simulation {
    fn route(&mut self, src: &Ip, dst: &Ip) -> Hop {
        self.was_barred = self.refuses(src, dst);
        match self.was_barred {
            true => Hop::NONE,
            false => self.routes.get(dst).copied().unwrap_or(Hop::NONE),
        }
    }

    fn refuses(&mut self, src: &Ip, dst: &Ip) -> bool {
        self.barred.contains(src) || self.unreachable.contains(dst)
    }

    fn neighbour(&self) -> u32 {
        if self.was_barred { BARRED } else { self.asks }
    }
}

impl Dsr for Simulation {
    type Dsr = ServiceId;
    type Head = Copied<ServiceHead>;

    fn dsr(&self, service: ServiceId) -> Option<ServiceId> {
        let service = self.services.get(&service.0)?;
        (!service.dsr.is_empty()).then_some(service.head.id)
    }

    fn dsr_head(&self, table: ServiceId) -> Copied<ServiceHead> {
        copied(self.services[&table.0].head)
    }

    fn dsr_owner(&self, table: ServiceId, slot: u32) -> Option<BackendId> {
        let slot = self.dsr_slot(table, slot);
        let members = &self.services[&table.0].members;
        (slot.is_clean() && members.contains(&slot.owner)).then_some(slot.owner)
    }

    fn dsr_slot(&self, table: ServiceId, slot: u32) -> DsrSlot {
        self.services[&table.0].dsr[slot as usize].0
    }

    fn base_seen(&mut self, table: ServiceId, slot: u32) {
        let now_s = self.now_s;
        if let Some(service) = self.services.get_mut(&table.0) {
            Arc::make_mut(&mut service.dsr)[slot as usize].1 = now_s;
        }
    }

    fn tracked(&self, key: &FlowKey) -> Option<Tracked> {
        self.tracked.get(key).copied()
    }

    fn track(&mut self, key: &FlowKey, tracked: &Tracked) {
        self.tracked.insert(*key, *tracked);
    }
}

/// One choice of a backend.
struct Choosing<'a> {
    world: &'a Simulation,
    service: &'a Service,
    protocol: u8,
    /// Takes nothing.
    avoid: BackendId,
}

impl Tables for Choosing<'_> {
    fn head(&self) -> &ServiceHead {
        &self.service.head
    }

    fn slot(&self, slot: u32) -> BackendId {
        self.service.slots[slot as usize]
    }

    fn member(&self, member: u32) -> BackendId {
        let member = self.service.members.get(member as usize);
        member.copied().unwrap_or(BackendId::NONE)
    }

    fn backend(&self, id: BackendId) -> Option<Backend> {
        self.world.backends.get(&id.index()).copied()
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.world.affinity.get(&(self.protocol, *key)).copied()
    }

    fn now_ns(&self) -> u64 {
        u64::from(self.world.now_s) * 1_000_000_000
    }

    fn active(&self, _id: BackendId) -> u64 {
        0
    }

    fn active_total(&self) -> u64 {
        0
    }

    fn hand_over(&mut self, backend: &Backend) -> bool {
        let takes = backend.path != path::NAT || self.world.target(backend.id).is_some();
        takes && backend.id != self.avoid
    }
}
