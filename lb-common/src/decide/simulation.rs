//! A world in memory: the packet paths without a kernel, for tests and for asking where a packet
//! would go.

use core::ops::Deref;
use std::boxed::Box;
use std::collections::HashMap;
use std::sync::Arc;
use std::vec::Vec;

use super::world::{BackendEvent, Chosen, NewFlow, World};
use super::{Job, Stage, Verdict, run};
use crate::abi::packet::{
    DsrSlot, Flow, FlowKey, Fragment, FragmentKey, Hop, Ip, PacketBackend, PacketCounter,
    PacketSettings, Target, Tracked, Vip, VipKey, flow,
};
use crate::abi::{
    Affinity, AffinityKey, Backend, BackendId, ServiceHead, ServiceId, path, protocol, state,
};
use crate::addr::Addr;
use crate::packet::Packet;
use crate::select::{Client, Tables, select};

/// One service.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug, Default)]
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
        super::ingress(packet, self, &mut job)
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

/// A flow as it was when it was looked up.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    key: FlowKey,
    flow: Flow,
}

impl Deref for Found {
    type Target = Flow;

    fn deref(&self) -> &Flow {
        &self.flow
    }
}

/// A copy of a target.
#[derive(Clone, Copy, Debug)]
pub struct Copied<T>(T);

impl<T> Deref for Copied<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl World for Simulation {
    type Flow = Found;
    type Target = Copied<Target>;
    type Dsr = ServiceId;
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

    /// All, so that the maps themselves are asked.
    fn marks(&self, _address: &Ip) -> u8 {
        u8::MAX
    }

    fn target(&self, backend: BackendId) -> Option<Copied<Target>> {
        let target = self.targets.get(&backend.index())?;
        (target.id == backend && backend != BackendId::NONE).then_some(Copied(*target))
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

    fn flow(&self, key: &FlowKey) -> Option<Found> {
        let flow = self.flows.get(key).or_else(|| self.new_flows.get(key))?;
        Some(Found {
            key: *key,
            flow: *flow,
        })
    }

    fn touch(&mut self, found: Found, flags: u32, seen_s: u32, next_seq: u32) {
        if let Some(flow) = self.entry(&found.key) {
            flow.flags = flags;
            flow.seen_s = seen_s;
            flow.next_seq = next_seq;
        }
    }

    fn set_hop(&mut self, found: Found, hop: &Hop) {
        if let Some(flow) = self.entry(&found.key) {
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
        Copied(self.services[&table.0].head)
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

    fn to_backend(&mut self, backend: BackendId, len: u32) -> Hop {
        let totals = self.totals.entry(backend.index()).or_default();
        totals.packets += 1;
        totals.bytes += u64::from(len);
        totals.hop
    }

    fn set_backend_hop(&mut self, backend: BackendId, hop: &Hop) {
        self.totals.entry(backend.index()).or_default().hop = *hop;
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

/// A small world for tests: services on `nat` and `dsr`, with the addresses that their names say.
pub mod example {
    use super::*;
    use crate::abi::TABLE_SLOTS;
    use crate::abi::packet::{kind, vip};
    use crate::addr;
    use crate::hash::ClientHash;
    use crate::maglev::{Member, fill};
    use core::net::IpAddr;
    use std::sync::OnceLock;

    /// Interface that packets come by.
    pub const INGRESS: u32 = 7;
    /// Interface towards the backends.
    pub const INSIDE: u32 = 9;
    /// The listen port of all services, host byte order.
    pub const PORT: u16 = 80;
    /// The services, by the last number of their addresses: 192.0.2.N and 2001:db8::N.
    pub const SERVICES: [(u32, u8, u8); 6] = [
        (1, kind::CONTAINER, path::NAT),
        (2, kind::REMOTE, path::NAT),
        (3, kind::LOCAL, path::NAT),
        (4, kind::IP, path::DSR),
        (5, kind::GUE, path::DSR),
        (6, kind::L2, path::DSR),
    ];

    /// An address as it lies in a packet.
    pub fn ip(text: &str) -> Ip {
        let ip: IpAddr = text.parse().unwrap_or(IpAddr::from([0; 4]));
        Ip::from_addr(&addr::from_ip(ip))
    }

    /// The world, `now_s` seconds after the start of the machine. Each service has three backends
    /// for IPv4 and three for IPv6, and listens to TCP and UDP.
    pub fn world(now_s: u32) -> Box<Simulation> {
        static WORLD: OnceLock<Box<Simulation>> = OnceLock::new();
        let mut world = WORLD.get_or_init(build).clone();
        world.now_s = now_s;
        world
    }

    fn build() -> Box<Simulation> {
        let mut world = Box::new(Simulation {
            ingress: INGRESS,
            settings: PacketSettings {
                closing_s: 30,
                syn_s: 30,
                established_s: 86_400,
                udp_s: 60,
                cpus: 1,
                seed: 0x5eed,
                ..PacketSettings::default()
            },
            ..Simulation::default()
        });
        for (number, kind, path) in SERVICES {
            for v6 in [false, true] {
                add_service(&mut world, number, kind, path, v6);
            }
        }
        let own = [ip("192.0.2.254"), ip("2001:db8::fe")];
        for own in own {
            let entry = Vip {
                service: ServiceId(0),
                flags: vip::OWN,
            };
            world.vips.insert(VipKey::address(own), entry);
        }
        world
    }

    /// The index of backend `nth` of a service.
    pub fn index(number: u32, v6: bool, nth: u32) -> u32 {
        number * 10 + u32::from(v6) * 5 + nth
    }

    fn add_service(world: &mut Simulation, number: u32, kind: u8, path: u8, v6: bool) {
        let service = ServiceId(number * 2 + u32::from(v6));
        let address = if v6 {
            ip(&std::format!("2001:db8::{number}"))
        } else {
            ip(&std::format!("192.0.2.{number}"))
        };
        let dsr = if path == path::DSR { vip::DSR } else { 0 };
        for protocol in [protocol::TCP, protocol::UDP] {
            let key = VipKey::new(address, PORT.to_be(), protocol);
            let entry = Vip {
                service,
                flags: dsr,
            };
            world.vips.insert(key, entry);
        }
        let entry = Vip {
            service,
            flags: vip::SERVICE | vip::ECHO,
        };
        world.vips.insert(VipKey::address(address), entry);
        let ids: Vec<BackendId> = (1..=3)
            .map(|nth| add_backend(world, service, kind, path, index(number, v6, nth)))
            .collect();
        let members: Vec<Member> = ids
            .iter()
            .map(|id| Member {
                addr: world.backends[&id.index()].addr,
                port: PORT,
                weight: 1,
            })
            .collect();
        let mut owners = std::vec![0u32; TABLE_SLOTS];
        let filled = fill(&members, &mut owners);
        debug_assert!(filled.is_ok(), "three members fill a table");
        let slots: Vec<BackendId> = owners.iter().map(|owner| ids[*owner as usize]).collect();
        let dsr = slots.iter().map(|owner| {
            let slot = DsrSlot {
                owner: *owner,
                base: *owner,
            };
            (slot, 0)
        });
        world.services.insert(
            service.0,
            Service {
                head: ServiceHead {
                    clients: ClientHash::new([1, 2], u64::from(number)),
                    hash_key: [1, 2],
                    affinity_ns: 3_600_000_000_000,
                    total_weight: 3,
                    id: service,
                    members: 3,
                    max_load_permille: 0,
                    ipv4_prefix: 32,
                    ipv6_prefix: 64,
                    flags: 0,
                },
                members: ids,
                dsr: Arc::new(if path == path::DSR {
                    dsr.collect()
                } else {
                    Vec::new()
                }),
                slots: Arc::new(slots),
            },
        );
    }

    fn add_backend(
        world: &mut Simulation,
        service: ServiceId,
        kind: u8,
        path: u8,
        index: u32,
    ) -> BackendId {
        let id = BackendId::new(index as u16, 1);
        let v6 = index % 10 > 5;
        let address = if v6 {
            ip(&std::format!("fd00::{index}"))
        } else {
            ip(&std::format!("10.0.0.{index}"))
        };
        let source = if v6 {
            ip("fd00::ffff")
        } else {
            ip("10.0.255.1")
        };
        let port = if path == path::DSR { PORT } else { 5000 };
        world.backends.insert(
            index,
            Backend {
                addr: address.to_addr(),
                port,
                protocol: protocol::TCP,
                state: state::UP,
                id,
                service,
                weight: 1,
                path,
                pad: 0,
            },
        );
        let target = Target {
            addr: if kind == kind::LOCAL {
                Ip::default()
            } else {
                address
            },
            source,
            id,
            port_be: if kind == kind::GUE { 6080 } else { port }.to_be(),
            first_port: 32_768,
            ports: 28_000,
            kind,
            source_bits: 8,
            mtu: 0,
            pad: 0,
        };
        world.targets.insert(index, target);
        id
    }

    /// The way to the backends, or to the clients.
    pub fn hop(world: &Simulation, ifindex: u32) -> Hop {
        Hop {
            ifindex,
            at_s: world.now_s,
            macs: [0x0202_0202, 0x0404_0202, 0x0404_0404],
            mtu: 1500,
        }
    }
}
