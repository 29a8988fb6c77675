//! A world in memory: the packet paths without a kernel, for tests and for asking where a packet
//! would go.

pub mod example;

use core::ops::Deref;
use std::boxed::Box;
use std::collections::HashMap;
use std::sync::Arc;
use std::vec::Vec;

use super::world::{BackendEvent, Chosen, NewFlow, World};
use super::{Job, Stage, Verdict, run};
use crate::abi::packet::{
    AddressMarks, DsrSlot, Flow, FlowKey, Fragment, FragmentKey, Hop, Ip, PacketBackend,
    PacketCounter, PacketSettings, Target, Tracked, Vip, VipKey, flow,
};
use crate::abi::{
    Affinity, AffinityKey, Backend, BackendId, ServiceHead, ServiceId, path, protocol, state,
};
use crate::addr::Addr;
use crate::packet::Packet;
use crate::select::{Client, Tables, select};

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
    /// Routes: the way to an address.
    pub routes: HashMap<Ip, Hop>,
    /// Interface of routes that lack the neighbour, where the kernel can be left to ask; 0 for none.
    pub asks: u32,
    /// What has been counted, by the number of the counter.
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
    /// Established flows.
    pub flows: HashMap<FlowKey, Flow>,
    /// Flows that are not established.
    pub new_flows: HashMap<FlowKey, Flow>,
    /// Established flows that there may be, both directions counted; 0 for any number.
    pub quota: usize,
    /// The `FRAGMENTS` map.
    pub fragments: HashMap<FragmentKey, Fragment>,
    /// The `TRACKED` map.
    pub tracked: HashMap<FlowKey, Tracked>,
    /// The `AFFINITY` maps, by protocol.
    pub affinity: HashMap<(u8, AffinityKey), Affinity>,
}

impl Simulation {
    /// What becomes of a packet that comes by an interface.
    pub fn receive<P: Packet>(&mut self, packet: &mut P) -> Verdict {
        let mut job = Job::NONE;
        super::ingress(packet, self, || Some(&mut job))
    }

    /// The same by the long way, whatever the packet is.
    pub fn receive_by_stages<P: Packet>(&mut self, packet: &mut P) -> Verdict {
        let mut job = Job::NONE;
        super::by_stages(packet, self, &mut job)
    }

    /// What becomes of a packet that the host's own stack sends.
    pub fn send<P: Packet>(&mut self, packet: &mut P) -> Verdict {
        let mut job = Job::NONE;
        super::egress(packet, self, &mut job)
    }

    /// What has been counted.
    pub fn counter(&self, counter: PacketCounter) -> u64 {
        self.counters.get(&(counter as u32)).copied().unwrap_or(0)
    }

    fn entry(&mut self, key: &FlowKey) -> Option<&mut Flow> {
        match self.flows.get_mut(key) {
            Some(flow) => Some(flow),
            None => self.new_flows.get_mut(key),
        }
    }
}

/// An entry as it was when it was looked up, and where it is.
#[derive(Clone, Copy, Debug)]
pub struct Found<K, T> {
    at: K,
    value: T,
}

impl<K, T> Deref for Found<K, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// A flow that was looked up.
type FoundFlow = Found<FlowKey, Flow>;
/// What was sent to a backend, by its index.
type FoundTotals = Found<u32, PacketBackend>;
/// What is only read.
type Copied<T> = Found<(), T>;

const fn copied<T>(value: T) -> Copied<T> {
    Found { at: (), value }
}

impl World for Simulation {
    type Flow = FoundFlow;
    type Target = Copied<Target>;
    type Dsr = ServiceId;
    type Sent = FoundTotals;
    type Head = Copied<ServiceHead>;

    fn call<P: Packet>(&mut self, stage: Stage, packet: &mut P, job: &mut Job) -> Verdict {
        run(stage, packet, self, job)
    }

    fn now_s(&self) -> u32 {
        self.now_s
    }

    fn settings(&self) -> PacketSettings {
        self.settings
    }

    fn ingress(&self) -> u32 {
        self.ingress
    }

    fn cpu(&self) -> u32 {
        0
    }

    fn count(&mut self, counter: u32) {
        *self.counters.entry(counter).or_default() += 1;
    }

    fn count_backend(&mut self, backend: BackendId, event: BackendEvent) {
        let totals = self.totals.entry(backend.index()).or_default();
        match event {
            BackendEvent::Flow => totals.flows += 1,
            BackendEvent::Answered => totals.answered += 1,
            BackendEvent::Refused => totals.refused += 1,
        }
    }

    fn vip(&self, key: &VipKey) -> Option<Vip> {
        self.vips.get(key).copied()
    }

    fn near_vip(&self, key: &VipKey) -> Option<Vip> {
        self.vip(key)
    }

    /// Anybody may have been a backend, whose mark stays.
    fn marks(&self, address: &Ip) -> u8 {
        let mut marks = AddressMarks::NONE;
        for (key, vip) in self.vips.iter().filter(|(key, _)| key.addr == *address) {
            marks.note_vip(key, vip);
        }
        marks.0[AddressMarks::place(address)] | AddressMarks::BACKEND
    }

    fn target(&self, backend: BackendId) -> Option<Copied<Target>> {
        let target = self.targets.get(&backend.index())?;
        (target.id == backend && backend != BackendId::NONE).then_some(copied(*target))
    }

    fn choose(&mut self, service: ServiceId, protocol: u32, client: &Addr) -> Chosen {
        let Some(service) = self.services.get(&service.0) else {
            return Chosen::OtherPath;
        };
        if service.head.members == 0 || service.head.flags & ServiceHead::HTTP != 0 {
            return Chosen::OtherPath;
        }
        let client = Client::new(&service.head, client);
        let mut choosing = Choosing {
            world: self,
            service,
            protocol: protocol as u8,
        };
        let Some(choice) = select(&mut choosing, &client) else {
            return Chosen::None;
        };
        match self.backends.get(&choice.backend.index()) {
            Some(backend) if backend.path == path::NAT => Chosen::Packet(choice.backend),
            _ => Chosen::OtherPath,
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

    fn flow(&self, key: &FlowKey) -> Option<FoundFlow> {
        let flow = self.flows.get(key).or_else(|| self.new_flows.get(key))?;
        Some(Found {
            at: *key,
            value: *flow,
        })
    }

    fn established(&self, key: &FlowKey) -> Option<FoundFlow> {
        let value = *self.flows.get(key)?;
        Some(Found { at: *key, value })
    }

    fn touch(&mut self, found: FoundFlow, flags: u32, seen_s: u32, next_seq: u32) {
        if let Some(flow) = self.entry(&found.at) {
            flow.flags = flags;
            flow.seen_s = seen_s;
            flow.next_seq = next_seq;
        }
    }

    fn set_hop(&mut self, found: FoundFlow, hop: &Hop) {
        if let Some(flow) = self.entry(&found.at) {
            flow.hop = *hop;
        }
    }

    fn insert(&mut self, key: &FlowKey, new: &NewFlow) -> bool {
        let free = !self.new_flows.contains_key(key);
        if free {
            self.new_flows.insert(*key, new.value(self.now_s));
        }
        free
    }

    fn establish(&mut self, key: &FlowKey, pair: &FlowKey) -> bool {
        if self.quota != 0 && self.flows.len() + 2 > self.quota {
            return false;
        }
        for key in [key, pair] {
            if let Some(mut flow) = self.new_flows.remove(key) {
                flow.flags |= flow::ESTABLISHED;
                self.flows.insert(*key, flow);
            }
        }
        true
    }

    fn remove(&mut self, key: &FlowKey, pair: &FlowKey) {
        for key in [key, pair] {
            self.flows.remove(key);
            self.new_flows.remove(key);
        }
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.get(key).copied()
    }

    fn note_fragment(&mut self, key: &FragmentKey, fragment: &Fragment) {
        self.fragments.insert(*key, *fragment);
    }

    fn route(&mut self, _src: &Ip, dst: &Ip) -> Hop {
        self.routes.get(dst).copied().unwrap_or(Hop::NONE)
    }

    fn neighbour(&self) -> u32 {
        self.asks
    }

    fn dsr(&self, service: ServiceId) -> Option<ServiceId> {
        let service = self.services.get(&service.0)?;
        (!service.dsr.is_empty()).then_some(service.head.id)
    }

    fn dsr_head(&self, table: ServiceId) -> Copied<ServiceHead> {
        copied(self.services[&table.0].head)
    }

    fn dsr_owner(&self, table: ServiceId, slot: u32) -> Option<BackendId> {
        let slot = self.dsr_slot(table, slot);
        slot.is_clean().then_some(slot.owner)
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

    fn tracked(&self, key: &FlowKey) -> Option<Tracked> {
        self.tracked.get(key).copied()
    }

    fn track(&mut self, key: &FlowKey, tracked: &Tracked) {
        self.tracked.insert(*key, *tracked);
    }

    fn sent(&self, backend: BackendId) -> Option<FoundTotals> {
        let at = backend.index();
        let value = self.totals.get(&at).copied().unwrap_or_default();
        Some(Found { at, value })
    }

    fn count_sent(&mut self, sent: FoundTotals, len: u32) {
        let totals = self.totals.entry(sent.at).or_default();
        totals.packets += 1;
        totals.bytes += u64::from(len);
    }

    fn set_way(&mut self, sent: FoundTotals, hop: &Hop) {
        self.totals.entry(sent.at).or_default().hop = *hop;
    }
}

/// One choice of a backend.
struct Choosing<'a> {
    world: &'a Simulation,
    service: &'a Service,
    protocol: u8,
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
        backend.path != path::NAT || self.world.target(backend.id).is_some()
    }
}
