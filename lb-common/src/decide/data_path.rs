//! The state beside the packet that the packet paths read and change. In the kernel it is maps and
//! helpers, on the host a model with the same values.
//!
//! Each trait is one part of it. Functions are bound by the traits that they use, up to three;
//! those that need more take their sum, [`DataPath`].

use core::ops::{Deref, DerefMut};

use crate::abi::packet::{
    DsrSlot, FlowEntry, FlowKey, Fragment, FragmentKey, Hop, Ip, PacketBackend, PacketCounter,
    PacketSettings, Target, Tracked, Vip, VipKey,
};
use crate::abi::{AffinityKey, BackendId, ServiceHead, ServiceId};
use crate::addr::Addr;
use crate::decide::{PacketContext, Stage, Verdict};
use crate::flows::{At, By, End, Flow, Home, NewFlow, Refused};
use crate::packet::Packet;
use crate::select::{Choice, Reason};

/// The result of choosing a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// This backend, on a packet path.
    Packet(BackendId),
    /// A backend on another path: the stack takes the packet as it is.
    OtherPath,
    /// None can take it.
    None,
}

/// In the place of an interface: a blackhole, an unreachable or prohibited destination, or source.
pub const BARRED: u32 = u32::MAX;

/// The counters of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendEvent {
    /// A new flow.
    Flow,
    /// It completed a handshake.
    Answered,
    /// It refused one.
    Refused,
}

/// Stages: functions of their own in the kernel.
pub trait Stages {
    /// Runs a part of the way: [`super::run`], in the kernel as a function of its own.
    fn call<P: Packet>(
        &mut self,
        stage: Stage,
        packet: &mut P,
        context: &mut PacketContext,
    ) -> Verdict;
    /// [`super::open`], in the kernel as a function of its own.
    fn open<P: Packet>(&mut self, packet: &mut P) -> Verdict;
    /// [`super::six`], in the kernel as a function of its own.
    fn six<P: Packet>(&mut self, packet: &mut P) -> Verdict;
}

/// The coarse clock that ages of flows and routes are counted by.
pub trait Clock {
    /// CLOCK_MONOTONIC in seconds, coarse.
    fn now_s(&self) -> u32;
}

/// This host, and how the packet came to it.
pub trait Host {
    /// Settings.
    fn settings(&self) -> PacketSettings;
    /// Interface that the packet came by.
    fn ingress(&self) -> u32;
    /// This CPU, from 0.
    fn cpu(&self) -> u32;
    /// Whether a socket of this host is connected to the source of packets that come in as `key`.
    fn has_socket(&mut self, key: &FlowKey) -> bool;
    /// Whether a frame is addressed to this host: to the MAC address of the interface that it came by.
    fn is_ours<P: Packet>(&self, packet: &P) -> bool;
}

/// Counters of packets.
pub trait Counters {
    /// Counts, by the number of a [`PacketCounter`].
    fn count(&mut self, counter: u32);
    /// Counts.
    #[inline(always)]
    fn inc(&mut self, counter: PacketCounter) {
        self.count(counter as u32);
    }
}

/// Addresses, and the services that listen on them.
pub trait Services {
    /// The entry of an address, or of a port on it.
    fn vip(&self, key: &VipKey) -> Option<Vip>;
    /// The entry of a port on an address, if the first look-up finds it.
    fn near_vip(&self, key: &VipKey) -> Option<Vip>;
    /// The possible uses of an address: bits of
    /// [`crate::abi::packet::AddressMarks`], perhaps more than are true.
    fn marks(&self, address: &Ip) -> u8;
}

/// Bans, the lists of services, and their caps.
pub trait Guards {
    /// Whether any rule concerns a service.
    fn is_guarded(&self, service: ServiceId) -> bool;
    /// Whether a service refuses a client ([`crate::access::refuses`]), which is counted for the service.
    fn denies(&mut self, service: ServiceId, client: &Ip) -> bool;
    /// Whether a service refuses a connection because its client has too many, which is counted for the service.
    /// Else one is reserved ([`crate::clients::handshake`]).
    fn is_full(&mut self, service: ServiceId, client: &Ip) -> bool;
}

/// Backends: how packets get to them, and their totals.
pub trait Backends {
    /// An entry of the targets.
    type Target: Copy + Deref<Target = Target>;
    /// Handle to a backend and its totals of sent packets.
    type Sent: Copy + Deref<Target = PacketBackend>;

    /// Counts for a backend.
    fn count_backend(&mut self, backend: BackendId, event: BackendEvent);
    /// How packets get to a backend; `None` when it has been removed.
    fn target(&self, backend: BackendId) -> Option<Self::Target>;
    /// Whether a backend is in service: up, or draining.
    fn serves(&self, backend: BackendId) -> bool;
    /// This CPU's totals of a backend, and the next hop that it found last.
    fn sent(&self, backend: BackendId) -> Option<Self::Sent>;
    /// Counts a packet of `len` bytes more.
    fn count_sent(&mut self, sent: Self::Sent, len: u32);
    /// Notes the way there.
    fn set_way(&mut self, sent: Self::Sent, hop: &Hop);
}

/// The choice of a backend, and the affinity of clients.
pub trait Choices {
    /// Chooses a backend on the `nat` path for a new flow of `client`, by [`crate::select::first`], and
    /// counts nothing; `None` if that is not all there is to it. Meanwhile the set of the flow's home
    /// is fetched.
    fn pick(&self, service: ServiceId, protocol: u32, client: &Addr, home: &Home)
    -> Option<Choice>;
    /// Counts the choice of a backend, by its reason.
    fn count_choice(&mut self, service: ServiceId, reason: Reason);
    /// Chooses a backend for a new flow of `client`, another than `avoid`, and counts that.
    fn choose(
        &mut self,
        service: ServiceId,
        protocol: u32,
        client: &Addr,
        avoid: BackendId,
    ) -> Chosen;
    /// Stores the backend of a client, if the service has affinity.
    fn remember(&mut self, protocol: u32, service: ServiceId, client: &Addr, backend: BackendId);
    /// The last backend of a client, while it is stored and the backend may keep it.
    fn remembered(&self, protocol: u32, head: &ServiceHead, key: &AffinityKey)
    -> Option<BackendId>;
}

/// The flow table.
pub trait Flows {
    /// A flow that was found, as it was then.
    type Flow: Copy + Deref<Target = Flow>;
    /// Room for a flow to be entered.
    type New: DerefMut<Target = NewFlow>;

    /// The home of a flow over IPv4; packets from its client come in as `words`.
    fn home(&self, words: &[u32; 3], protocol: u8) -> Home;
    /// The flow of packets that come in as `key`.
    fn flow(&mut self, key: &FlowKey) -> Option<Self::Flow>;
    /// The same flow once more, at the place that [`Flows::flow`] or [`Flows::enter`] returned; it has
    /// found or entered no other for this packet.
    fn flow_at(&self, at: &At) -> Option<Self::Flow>;
    /// Sets the bits `add` of [`crate::abi::packet::state`], and clears `remove`.
    fn mark(&mut self, flow: Self::Flow, add: u32, remove: u32);
    /// Notes a packet in the direction of `flow`.
    fn touch(&mut self, flow: Self::Flow, seen_s: u32, next_seq: u32);
    /// Notes the way back.
    fn set_hop(&mut self, flow: Self::Flow, hop: &Hop);
    /// Room for a flow to be entered. In the kernel there is one on each CPU.
    fn room(&mut self) -> Option<Self::New>;
    /// Enters a flow; with it, whether another one was pushed out before it was over.
    fn enter(&mut self, new: Self::New) -> Result<(Self::Flow, bool), Refused>;
    /// The same of one over IPv4 with this home.
    fn enter_v4(&mut self, new: Self::New, home: &Home) -> Result<(Self::Flow, bool), Refused>;
    /// Notes that a flow is established. `None` if it has gone or was so before; false if others
    /// may still push it out.
    fn establish(&mut self, flow: Self::Flow) -> Option<bool>;
    /// Counts an established flow for its client until it ends, if its service has a cap.
    fn count_client(&mut self, flow: Self::Flow, client: &Ip);
    /// Keeps an established flow from being pushed out for which there was no room before.
    fn keep(&mut self, flow: Self::Flow);
    /// Takes a flow out.
    fn remove(&mut self, flow: Self::Flow);
}

/// Entries of the flow table, found by one look and read in place.
pub trait FlowEntries {
    /// The entry of a flow. In the kernel it is the entry itself, on the host a copy of its value when it
    /// was looked up.
    type Entry<const N: usize>: Copy + Deref<Target = FlowEntry<N>>;
    /// Its way back.
    type Hop: Copy + Deref<Target = Hop>;

    /// The entry of a flow by the `words` of its packets, if the first look-up finds it.
    fn entry<const N: usize>(
        &self,
        by: By,
        words: &[u32; N],
        protocol: u8,
    ) -> Option<Self::Entry<N>>;
    /// Its way back.
    fn entry_hop<const N: usize>(&self, entry: Self::Entry<N>) -> Self::Hop;
    /// Notes a packet from `end` in it.
    fn touch_entry<const N: usize>(
        &mut self,
        entry: Self::Entry<N>,
        end: End,
        seen_s: u32,
        next_seq: u32,
    );
    /// Whether it is still that of the same flow.
    fn is_there<const N: usize>(&self, entry: Self::Entry<N>) -> bool;
}

/// Ports of fragmented datagrams.
pub trait Fragments {
    /// Ports of a datagram, from its first fragment.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Notes the ports of a first fragment.
    fn note_fragment(&mut self, key: &FragmentKey, fragment: &Fragment);
}

/// Routes and neighbours.
pub trait Routes: Host {
    /// The way from `src` to `dst`; [`Hop::NONE`] if frames cannot be sent on directly: no
    /// neighbour yet, no route, or an interface that takes none.
    fn route(&mut self, src: &Ip, dst: &Ip) -> Hop;
    /// The interface of the route that was just asked for, if it lacks nothing but the neighbour's
    /// MAC address and the kernel can be left to find that out; [`BARRED`] if routes or rules refuse
    /// the packet; 0 otherwise.
    fn neighbour(&self) -> u32;
    /// Whether routes or rules refuse a packet from `src` to `dst`, or there is no route. (Over IPv6 the kernel
    /// does not tell a rule that refuses from that: BPF_FIB_LKUP_RET_NOT_FWDED.)
    fn refuses(&mut self, src: &Ip, dst: &Ip) -> bool;
    /// Whether rules refuse packets from `client`, by its address alone. They are asked for a packet back to it,
    /// as the address of the service may be this host's own, which is found before most rules are looked at. What
    /// is refused from there, too, is so by a route.
    #[inline(always)]
    fn bars(&mut self, client: &Ip, service: &Ip) -> bool {
        self.settings().rules != 0 && self.refuses(client, client) && !self.refuses(service, client)
    }
}

/// Tables of the `dsr` path.
pub trait Dsr {
    /// The table of a service on the `dsr` path.
    type Dsr: Copy;
    /// Settings of a service.
    type Head: Copy + Deref<Target = ServiceHead>;

    /// The table of a service on the `dsr` path.
    fn dsr(&self, service: ServiceId) -> Option<Self::Dsr>;
    /// Its settings.
    fn dsr_head(&self, table: Self::Dsr) -> Self::Head;
    /// The owner of one of its slots; `None` if the slot is not clean, or has no owner.
    fn dsr_owner(&self, table: Self::Dsr, slot: u32) -> Option<BackendId>;
    /// One of its slots.
    fn dsr_slot(&self, table: Self::Dsr, slot: u32) -> DsrSlot;
    /// Notes that the base of a slot was sent something.
    fn base_seen(&mut self, table: Self::Dsr, slot: u32);
    /// A flow that began in a slot that was not clean.
    fn tracked(&self, key: &FlowKey) -> Option<Tracked>;
    /// Notes such a flow, or that it is still there.
    fn track(&mut self, key: &FlowKey, tracked: &Tracked);
}

/// The sum of these traits.
pub trait DataPath:
    Stages
    + Clock
    + Host
    + Counters
    + Services
    + Guards
    + Backends
    + Choices
    + Flows
    + FlowEntries
    + Fragments
    + Routes
    + Dsr
{
}

impl<T> DataPath for T where
    T: Stages
        + Clock
        + Host
        + Counters
        + Services
        + Guards
        + Backends
        + Choices
        + Flows
        + FlowEntries
        + Fragments
        + Routes
        + Dsr
{
}
