//! Maps, routes and time as `lb_common::decide` wants them.

use core::ops::Deref;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
    BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_UNREACHABLE,
};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use lb_common::abi::packet::{
    AddressMarks, DsrSlot, DsrTable, FlowKey, Fragment, FragmentKey, Hop, Ip, NearVip,
    PacketBackend, PacketSettings, Target, Tracked, Vip, VipKey, device,
};
use lb_common::abi::{BackendId, ServiceHead, ServiceId, protocol, state};
use lb_common::clients::Counted;
use lb_common::decide::data_path::{
    BARRED, BackendEvent, Backends, Clock, Counters, Dsr, FlowEntries, Flows, Fragments, Guards,
    Host, Routes, Services, Stages,
};
use lb_common::decide::{PacketContext, Stage, Verdict};
use lb_common::flows::{At, By, End, Flow, Home, Refused};
use lb_common::headers::exchanged;
use lb_common::packet::Packet;

use crate::access;
use crate::ask::{ends_of, fill};
use crate::caps;
use crate::clock::now_s;
use crate::flows;
use crate::hints::opaque;
use crate::maps::BACKENDS;
use crate::packet_maps::{
    DEVICES, DSR_TABLES, FRAGMENTS, NEAR_VIPS, PACKET_BACKENDS, PACKET_STATS, Route, TARGETS,
    TRACKED, VIPS, address_marks, packet_settings, scratch,
};
use crate::tables::element;

/// Result of a look-up: there is a route, but its neighbour is not known yet.
const NO_NEIGHBOUR: i64 = BPF_FIB_LKUP_RET_NO_NEIGH as i64;
/// Result of a look-up: routes or rules refuse the packet.
const BLACKHOLE: i64 = BPF_FIB_LKUP_RET_BLACKHOLE as i64;
const UNREACHABLE: i64 = BPF_FIB_LKUP_RET_UNREACHABLE as i64;
const PROHIBIT: i64 = BPF_FIB_LKUP_RET_PROHIBIT as i64;
/// Result of a look-up: no route, or an IPv6 rule that refuses.
const NOT_FORWARDED: i64 = BPF_FIB_LKUP_RET_NOT_FWDED as i64;

/// Kernel operations that differ between XDP and TC.
pub trait Hook {
    /// Asks the routes; 0 when `route` has been filled in.
    fn fib_lookup(&self, route: &mut Route) -> i64;
    /// Whether packets can be left to the kernel that lack only a neighbour's MAC address.
    const ASKS: bool;
    /// Whether frames can be sent out by an interface.
    fn sends_to(&self, ifindex: u32) -> bool;
    /// Whether this host has a socket that is connected, or a connection that begins or ends, between
    /// these ends (the kernel's `struct bpf_sock_tuple` of `size` bytes), TCP or UDP.
    fn is_connected(&self, ends: &mut [u32; 9], size: u32, tcp: bool) -> bool;
    /// See `Host::is_ours`.
    fn is_ours<P: Packet>(&self, packet: &P) -> bool;
    /// Interface by which the packet came, or goes out.
    fn ingress(&self) -> u32;
    /// Runs a part of the way as a function of its own; see [`Verdict::code`].
    fn call(&self, stage: Stage) -> u64;
    /// Runs `decide::open` as a function of its own.
    fn open(&self) -> u64;
    /// Runs `decide::six` as a function of its own.
    fn six(&self) -> u64;
}

/// One run of a program.
pub struct Maps<H> {
    pub hook: H,
}

/// An element of a map, shared with other CPUs and the agent.
pub struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the kernel returned a valid, aligned element, which lives as long as the program
        // runs; words torn by another CPU are those of a moment ago.
        unsafe { &*self.0 }
    }
}

impl<H: Hook> Stages for Maps<H> {
    /// The packet is the context's, and the context lies in the scratch map.
    #[inline(always)]
    fn call<P: Packet>(
        &mut self,
        stage: Stage,
        _packet: &mut P,
        _context: &mut PacketContext,
    ) -> Verdict {
        Verdict::from_code(self.hook.call(stage))
    }

    #[inline(always)]
    fn open<P: Packet>(&mut self, _packet: &mut P) -> Verdict {
        Verdict::from_code(self.hook.open())
    }

    #[inline(always)]
    fn six<P: Packet>(&mut self, _packet: &mut P) -> Verdict {
        Verdict::from_code(self.hook.six())
    }
}

impl<H: Hook> Clock for Maps<H> {
    #[inline(always)]
    fn now_s(&self) -> u32 {
        now_s()
    }
}

impl<H: Hook> Host for Maps<H> {
    #[inline(always)]
    fn settings(&self) -> PacketSettings {
        packet_settings().copied().unwrap_or_default()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        self.hook.ingress()
    }

    #[inline(always)]
    fn cpu(&self) -> u32 {
        // SAFETY: can be asked anywhere.
        unsafe { bpf_get_smp_processor_id() as u32 }
    }

    #[inline(always)]
    fn has_socket(&mut self, key: &FlowKey) -> bool {
        let Some(scratch) = scratch() else {
            return false;
        };
        // SAFETY: this CPU's own element.
        let ends = unsafe { &mut (*scratch).ends };
        let v4 = key.dst.is_v4();
        *ends = if v4 {
            ends_of::<3>(key)
        } else {
            ends_of::<9>(key)
        };
        let size = if v4 { 12 } else { 36 };
        self.hook
            .is_connected(ends, size, key.protocol == u32::from(protocol::TCP))
    }

    #[inline(always)]
    fn is_ours<P: Packet>(&self, packet: &P) -> bool {
        self.hook.is_ours(packet)
    }
}

impl<H: Hook> Counters for Maps<H> {
    #[inline(always)]
    fn count(&mut self, counter: u32) {
        if let Some(value) = PACKET_STATS.get_ptr_mut(counter) {
            // SAFETY: this CPU's own element; the program is not preempted by another on it.
            unsafe { *value += 1 };
        }
    }
}

impl<H: Hook> Services for Maps<H> {
    #[inline(always)]
    fn vip(&self, key: &VipKey) -> Option<Vip> {
        if key.port_be != 0
            && let Some(vip) = self.near_vip(key)
        {
            return Some(vip);
        }
        // SAFETY: two aligned words that the agent writes; a torn read names a service or a flag
        // that was there a moment ago.
        unsafe { VIPS.get(key) }.copied()
    }

    #[inline(always)]
    fn near_vip(&self, key: &VipKey) -> Option<Vip> {
        let near = NEAR_VIPS.get(NearVip::place(key))?;
        near.is_of(key).then_some(near.vip)
    }

    #[inline(always)]
    fn marks(&self, address: &Ip) -> u8 {
        let Some(marks) = address_marks() else {
            return 0;
        };
        let place = opaque(AddressMarks::place(address));
        marks.0.get(place).copied().unwrap_or(0)
    }
}

impl<H: Hook> Guards for Maps<H> {
    #[inline(always)]
    fn is_guarded(&self, service: ServiceId) -> bool {
        access::is_guarded(service)
    }

    #[inline(always)]
    fn denies(&mut self, service: ServiceId, client: &Ip) -> bool {
        access::denies(service, &client.to_addr())
    }

    #[inline(always)]
    fn is_full(&mut self, service: ServiceId, client: &Ip) -> bool {
        caps::is_full(service, &client.to_addr())
    }
}

impl<H: Hook> Backends for Maps<H> {
    type Target = Shared<Target>;
    type Sent = Shared<PacketBackend>;

    #[inline(always)]
    fn count_backend(&mut self, backend: BackendId, event: BackendEvent) {
        let Some(totals) = totals(backend) else {
            return;
        };
        match event {
            BackendEvent::Flow => totals.flows += 1,
            BackendEvent::Answered => totals.answered += 1,
            BackendEvent::Refused => totals.refused += 1,
        }
    }

    #[inline(always)]
    fn target(&self, backend: BackendId) -> Option<Shared<Target>> {
        let target = Shared(TARGETS.get_ptr_mut(backend.index())?);
        (target.id == backend && backend != BackendId::NONE).then_some(target)
    }

    #[inline(always)]
    fn serves(&self, backend: BackendId) -> bool {
        let found = BACKENDS.get(backend.index());
        found.is_some_and(|found| {
            found.id == backend && matches!(found.state, state::UP | state::DRAINING)
        })
    }

    #[inline(always)]
    fn sent(&self, backend: BackendId) -> Option<Shared<PacketBackend>> {
        PACKET_BACKENDS.get_ptr_mut(backend.index()).map(Shared)
    }

    #[inline(always)]
    fn count_sent(&mut self, sent: Shared<PacketBackend>, len: u32) {
        // SAFETY: this CPU's own element; the program is not preempted by another on it.
        let totals = unsafe { &mut *sent.0 };
        totals.packets += 1;
        totals.bytes += u64::from(len);
    }

    #[inline(always)]
    fn set_way(&mut self, sent: Shared<PacketBackend>, hop: &Hop) {
        // SAFETY: as above.
        unsafe { (*sent.0).hop = *hop };
    }
}

impl<H: Hook> Flows for Maps<H> {
    type Flow = Shared<Flow>;
    type New = flows::New;

    #[inline(always)]
    fn home(&self, words: &[u32; 3], protocol: u8) -> Home {
        flows::home(words, protocol)
    }

    #[inline(always)]
    fn flow(&mut self, key: &FlowKey) -> Option<Shared<Flow>> {
        let marks = [self.marks(&key.src), self.marks(&key.dst)];
        flows::find(key, marks)?;
        flows::found().map(Shared)
    }

    #[inline(always)]
    fn flow_at(&self, _at: &At) -> Option<Shared<Flow>> {
        flows::found().map(Shared)
    }

    #[inline(always)]
    fn mark(&mut self, _flow: Shared<Flow>, add: u32, remove: u32) {
        flows::lb_mark_flow(add, remove);
    }

    #[inline(always)]
    fn touch(&mut self, flow: Shared<Flow>, seen_s: u32, next_seq: u32) {
        flows::touch(flow.at, seen_s, next_seq);
    }

    #[inline(always)]
    fn set_hop(&mut self, flow: Shared<Flow>, hop: &Hop) {
        // SAFETY: this CPU's own element.
        unsafe { (*flow.0).hop = *hop };
        flows::lb_set_flow_hop();
    }

    #[inline(always)]
    fn room(&mut self) -> Option<flows::New> {
        flows::room()
    }

    #[inline(always)]
    fn enter(&mut self, new: flows::New) -> Result<(Shared<Flow>, bool), Refused> {
        let evicted = flows::enter(new)?;
        let flow = flows::found().ok_or(Refused::NoRoom)?;
        Ok((Shared(flow), evicted))
    }

    #[inline(always)]
    fn enter_v4(&mut self, new: flows::New, home: &Home) -> Result<(Shared<Flow>, bool), Refused> {
        let evicted = flows::enter_v4(new, home)?;
        let flow = flows::found().ok_or(Refused::NoRoom)?;
        Ok((Shared(flow), evicted))
    }

    #[inline(always)]
    fn establish(&mut self, _flow: Shared<Flow>) -> Option<bool> {
        match flows::lb_establish_flow() {
            0 => None,
            number => Some(number == 1),
        }
    }

    #[inline(always)]
    fn count_client(&mut self, flow: Shared<Flow>, client: &Ip) {
        let counted = caps::count(flow.service, &client.to_addr());
        if counted != Counted::NONE {
            flows::lb_count_flow(counted.0);
        }
    }

    #[inline(always)]
    fn keep(&mut self, _flow: Shared<Flow>) {
        flows::lb_keep_flow();
    }

    #[inline(always)]
    fn remove(&mut self, _flow: Shared<Flow>) {
        flows::lb_remove_flow();
    }
}

impl<H: Hook> FlowEntries for Maps<H> {
    type Entry<const N: usize> = flows::Entry<N>;
    type Hop = Shared<Hop>;

    #[inline(always)]
    fn entry<const N: usize>(
        &self,
        by: By,
        words: &[u32; N],
        protocol: u8,
    ) -> Option<flows::Entry<N>> {
        flows::entry(by, words, protocol)
    }

    #[inline(always)]
    fn entry_hop<const N: usize>(&self, entry: flows::Entry<N>) -> Shared<Hop> {
        Shared(entry.hop())
    }

    #[inline(always)]
    fn touch_entry<const N: usize>(
        &mut self,
        entry: flows::Entry<N>,
        end: End,
        seen_s: u32,
        next_seq: u32,
    ) {
        // SAFETY: inside the set; two words, each written whole.
        flows::note(unsafe { &mut *entry.as_ptr() }, end, seen_s, next_seq);
    }

    #[inline(always)]
    fn is_there<const N: usize>(&self, entry: flows::Entry<N>) -> bool {
        entry.is_there()
    }
}

impl<H: Hook> Fragments for Maps<H> {
    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        // SAFETY: ports that are torn lead to no flow.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn note_fragment(&mut self, key: &FragmentKey, fragment: &Fragment) {
        let _ = FRAGMENTS.insert(key, fragment, 0);
    }
}

impl<H: Hook> Routes for Maps<H> {
    #[inline(always)]
    fn route(&mut self, src: &Ip, dst: &Ip) -> Hop {
        let Some(scratch) = scratch() else {
            return Hop::NONE;
        };
        // SAFETY: this CPU's own element.
        let route = unsafe { &mut (*scratch).route };
        fill(route, src, dst, self.hook.ingress());
        let found = self.hook.fib_lookup(route);
        if found != 0 {
            match found {
                NO_NEIGHBOUR => {}
                BLACKHOLE | UNREACHABLE | PROHIBIT => route.ifindex = BARRED,
                _ => route.ifindex = 0,
            }
            return Hop::NONE;
        }
        if route.ifindex != self.hook.ingress() && !self.hook.sends_to(route.ifindex) {
            return Hop::NONE;
        }
        Hop {
            ifindex: route.ifindex,
            at_s: self.now_s(),
            macs: exchanged(route.macs),
            mtu: u32::from(route.len),
        }
    }

    #[inline(always)]
    fn refuses(&mut self, src: &Ip, dst: &Ip) -> bool {
        let Some(scratch) = scratch() else {
            return false;
        };
        // SAFETY: this CPU's own element.
        let route = unsafe { &mut (*scratch).route };
        fill(route, src, dst, self.hook.ingress());
        matches!(
            self.hook.fib_lookup(route),
            BLACKHOLE | UNREACHABLE | PROHIBIT | NOT_FORWARDED
        )
    }

    #[inline(always)]
    fn neighbour(&self) -> u32 {
        // SAFETY: this CPU's own element.
        let ifindex = scratch().map_or(0, |scratch| unsafe { (*scratch).route.ifindex });
        match ifindex {
            BARRED => BARRED,
            _ if H::ASKS => ifindex,
            _ => 0,
        }
    }
}

impl<H: Hook> Dsr for Maps<H> {
    type Dsr = *mut DsrTable;
    type Head = Shared<ServiceHead>;

    #[inline(always)]
    fn dsr(&self, service: ServiceId) -> Option<*mut DsrTable> {
        DSR_TABLES.get_value_ptr_mut(service.0, &0)
    }

    #[inline(always)]
    fn dsr_head(&self, table: *mut DsrTable) -> Shared<ServiceHead> {
        // SAFETY: the kernel returned a valid, aligned value, which has one.
        Shared(unsafe { &raw mut (*table).head })
    }

    #[inline(always)]
    fn dsr_owner(&self, table: *mut DsrTable, slot: u32) -> Option<BackendId> {
        // SAFETY: as above.
        let number = element(unsafe { &(*table).settled }, slot);
        let member = u32::from(number).checked_sub(1)?;
        // SAFETY: as above.
        Some(element(unsafe { &(*table).members }, member))
    }

    #[inline(always)]
    fn dsr_slot(&self, table: *mut DsrTable, slot: u32) -> DsrSlot {
        DsrSlot {
            // SAFETY: as above.
            owner: element(unsafe { &(*table).owners }, slot),
            // SAFETY: as above.
            base: element(unsafe { &(*table).bases }, slot),
        }
    }

    #[inline(always)]
    fn base_seen(&mut self, table: *mut DsrTable, slot: u32) {
        let now_s = self.now_s();
        // SAFETY: as above; a word that several CPUs write with the same value.
        let seen = unsafe { &mut (*table).base_seen_s };
        if let Some(seen) = seen.get_mut(opaque(slot as usize)) {
            *seen = now_s;
        }
    }

    #[inline(always)]
    fn tracked(&self, key: &FlowKey) -> Option<Tracked> {
        // SAFETY: an id that is torn is checked before use.
        unsafe { TRACKED.get(key) }.copied()
    }

    #[inline(always)]
    fn track(&mut self, key: &FlowKey, tracked: &Tracked) {
        let _ = TRACKED.insert(key, tracked, 0);
    }
}

/// The context that all parts of the way share.
#[inline(always)]
pub fn context() -> Option<&'static mut PacketContext> {
    let scratch = scratch()?;
    // SAFETY: this CPU's own element. Packet programs do not interrupt each other on a CPU, and
    // the caller gives the context to one function at a time. Zeros are a context.
    Some(unsafe { &mut (*scratch).context })
}

#[inline(always)]
fn totals(backend: BackendId) -> Option<&'static mut PacketBackend> {
    let totals = PACKET_BACKENDS.get_ptr_mut(backend.index())?;
    // SAFETY: this CPU's own element; the program is not preempted by another on it.
    Some(unsafe { &mut *totals })
}

/// Whether XDP can redirect to an interface.
#[inline(always)]
pub fn takes_xdp(ifindex: u32) -> bool {
    // SAFETY: one aligned word, which the agent alone writes.
    unsafe { DEVICES.get(ifindex) }.is_some_and(|found| found.flags & device::XDP_TARGET != 0)
}
