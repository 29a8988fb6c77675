//! What the packet paths need to know and may change beside the packet: in the kernel maps and
//! helpers, on the host whatever holds the same values.

use core::ops::Deref;

use crate::abi::packet::{
    DsrSlot, Flow, FlowKey, Fragment, FragmentKey, Hop, Ip, PacketBackend, PacketCounter,
    PacketSettings, Target, Tracked, Vip, VipKey,
};
use crate::abi::{AffinityKey, BackendId, ServiceHead, ServiceId};
use crate::addr::Addr;
use crate::decide::{Job, Stage, Verdict};
use crate::packet::Packet;

/// What the choice of a backend came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// This backend, on a packet path.
    Packet(BackendId),
    /// A backend on another path: the stack takes the packet as it is.
    OtherPath,
    /// None can take it.
    None,
}

/// What is counted for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendEvent {
    /// A new flow.
    Flow,
    /// It completed a handshake.
    Answered,
    /// It refused one.
    Refused,
}

/// Tables, time and routes.
pub trait World {
    /// An entry of the flow tables. In the kernel it is the entry itself, on the host what it held
    /// when it was looked up.
    type Flow: Copy + Deref<Target = Flow>;
    /// An entry of the targets.
    type Target: Copy + Deref<Target = Target>;
    /// The table of a service on the `dsr` path.
    type Dsr: Copy;
    /// What was sent to a backend.
    type Sent: Copy + Deref<Target = PacketBackend>;
    /// Settings of a service.
    type Head: Copy + Deref<Target = ServiceHead>;

    /// Runs a part of the way: [`super::run`], in the kernel as a function of its own.
    fn call<P: Packet>(&mut self, stage: Stage, packet: &mut P, job: &mut Job) -> Verdict;

    /// CLOCK_MONOTONIC in seconds, coarse.
    fn now_s(&self) -> u32;
    /// Settings.
    fn settings(&self) -> PacketSettings;
    /// Interface that the packet came by.
    fn ingress(&self) -> u32;
    /// This CPU, from 0.
    fn cpu(&self) -> u32;
    /// Counts, by the number of a [`PacketCounter`].
    fn count(&mut self, counter: u32);
    /// Counts.
    #[inline(always)]
    fn note(&mut self, counter: PacketCounter) {
        self.count(counter as u32);
    }
    /// Counts for a backend.
    fn count_backend(&mut self, backend: BackendId, event: BackendEvent);

    /// What listens on an address, or what an address is.
    fn vip(&self, key: &VipKey) -> Option<Vip>;
    /// What listens on a port of an address, if that is found at first sight.
    fn near_vip(&self, key: &VipKey) -> Option<Vip>;
    /// What may be found at an address: bits of
    /// [`crate::abi::packet::AddressMarks`], perhaps more than are true.
    fn marks(&self, address: &Ip) -> u8;
    /// How packets get to a backend; `None` when it has been removed.
    fn target(&self, backend: BackendId) -> Option<Self::Target>;
    /// Chooses a backend for a new flow of `client`.
    fn choose(&mut self, service: ServiceId, protocol: u32, client: &Addr) -> Chosen;
    /// Remembers where a client went, if the service wants that.
    fn remember(&mut self, protocol: u32, service: ServiceId, client: &Addr, backend: BackendId);

    /// The entry of a flow, established or not.
    fn flow(&self, key: &FlowKey) -> Option<Self::Flow>;
    /// The entry of a flow that is established.
    fn established(&self, key: &FlowKey) -> Option<Self::Flow>;
    /// Notes a packet: flags are replaced.
    fn touch(&mut self, flow: Self::Flow, flags: u32, seen_s: u32, next_seq: u32);
    /// Notes the way out.
    fn set_hop(&mut self, flow: Self::Flow, hop: &Hop);
    /// Enters a flow that is not established yet, unless there is one. False if it was not
    /// entered.
    fn insert(&mut self, key: &FlowKey, flow: &NewFlow) -> bool;
    /// Moves both entries of a flow to the established ones. False when the quota is used up;
    /// then they stay where they are.
    fn establish(&mut self, key: &FlowKey, pair: &FlowKey) -> bool;
    /// Removes both entries.
    fn remove(&mut self, key: &FlowKey, pair: &FlowKey);

    /// Ports of a datagram whose first fragment has come.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Notes the ports of a first fragment.
    fn note_fragment(&mut self, key: &FragmentKey, fragment: &Fragment);

    /// The way from `src` to `dst`; [`Hop::NONE`] where frames cannot be sent on directly: no
    /// neighbour yet, no route, or an interface that takes none.
    fn route(&mut self, src: &Ip, dst: &Ip) -> Hop;
    /// The interface of the route that was just asked for, if it lacks nothing but the neighbour's
    /// MAC address and the kernel can be left to find that out; 0 otherwise.
    fn neighbour(&self) -> u32;

    /// The table of a service on the `dsr` path.
    fn dsr(&self, service: ServiceId) -> Option<Self::Dsr>;
    /// Its settings.
    fn dsr_head(&self, table: Self::Dsr) -> Self::Head;
    /// The owner of one of its slots; `None` if the slot is not clean.
    fn dsr_owner(&self, table: Self::Dsr, slot: u32) -> Option<BackendId>;
    /// One of its slots.
    fn dsr_slot(&self, table: Self::Dsr, slot: u32) -> DsrSlot;
    /// Notes that the base of a slot was sent something.
    fn base_seen(&mut self, table: Self::Dsr, slot: u32);
    /// Where a client was sent last, while that is remembered and the backend may keep it.
    fn remembered(&self, protocol: u32, head: &ServiceHead, key: &AffinityKey)
    -> Option<BackendId>;
    /// A flow that began in a slot that was not clean.
    fn tracked(&self, key: &FlowKey) -> Option<Tracked>;
    /// Notes such a flow, or that it is still there.
    fn track(&mut self, key: &FlowKey, tracked: &Tracked);
    /// What was sent to a backend from this CPU, and the way there as it was last found on it.
    fn sent(&self, backend: BackendId) -> Option<Self::Sent>;
    /// Counts a packet of `len` bytes more.
    fn count_sent(&mut self, sent: Self::Sent, len: u32);
    /// Notes the way there.
    fn set_way(&mut self, sent: Self::Sent, hop: &Hop);
}

/// One entry of a flow to be made; see [`Flow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFlow {
    /// What the packets leave as.
    pub out: FlowKey,
    /// Its backend.
    pub backend: BackendId,
    /// Its service.
    pub service: ServiceId,
    /// Bits of [`crate::abi::packet::flow`].
    pub flags: u32,
    /// See [`Flow::next_seq`].
    pub next_seq: u32,
}

impl NewFlow {
    /// The whole value.
    #[inline(always)]
    pub const fn value(&self, now_s: u32) -> Flow {
        Flow {
            out: self.out,
            backend: self.backend,
            service: self.service,
            seen_s: now_s,
            flags: self.flags,
            next_seq: self.next_seq,
            pad: 0,
            hop: Hop::NONE,
        }
    }
}
