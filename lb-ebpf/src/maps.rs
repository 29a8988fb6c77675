//! Every map of the programs. The agent pins them under the names given here.
//!
//! They are BTF maps, so that bpftool prints them field by field. Layouts are in
//! `lb_common::abi`; sizes that the agent sets at load are marked.

use aya_ebpf::bindings::{
    BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock,
};
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, SockHash};
use aya_ebpf::helpers::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use core::ptr;
use lb_common::abi::local::{
    Asked, LocalDatagram, LocalPeer, MAX_LOCAL_ADDRESSES, MAX_LOCAL_DATAGRAMS,
};
use lb_common::abi::packet::{
    AddressMarks, Device, DsrTable, FlowKey, FlowSet, Fragment, FragmentKey, MAX_VIPS, NatPort,
    NearVip, PacketBackend, PacketCounter, PacketSettings, Target, Tracked, Vip, VipKey,
};
use lb_common::abi::{
    Affinity, AffinityKey, Backend, BackendId, BackendStats, Counter, ListenKey, MAX_BACKENDS,
    MAX_LISTEN, MAX_LISTENERS, MAX_SERVICES, Meta, OwnerKey, ServiceId, ServiceKey, ServiceName,
    ServiceTable, SocketOwner,
};
use lb_common::addr::Addr;
use lb_common::decide::Job;
use lb_common::flows::{Flow, NewFlow};

use crate::kept;

/// Who made the pins, and for which network namespace.
#[btf_map]
pub static META: Array<Meta, 1> = Array::new();

/// Names of the services, for the agent alone.
#[btf_map]
pub static NAMES: Array<ServiceName, MAX_SERVICES> = Array::new();

/// Listen addresses of the services.
#[btf_map]
pub static SERVICES: HashMap<ServiceKey, ServiceId, MAX_LISTEN> = HashMap::new();

/// Per service one inner map with one value, which is swapped in whole.
#[btf_map]
pub static TABLES: ArrayOfMaps<Array<ServiceTable, 1>, MAX_SERVICES> = ArrayOfMaps::new();

/// Backends, by the index in their id.
#[btf_map]
pub static BACKENDS: Array<Backend, MAX_BACKENDS> = Array::new();

/// Listening sockets of the network namespace. The kernel takes out a socket that is closed.
#[btf_map]
pub static LISTENERS: SockHash<ListenKey, MAX_LISTENERS> = SockHash::new();

/// The agent's own listening sockets, by address family number (AF_INET, AF_INET6).
#[btf_map]
pub static PROXY: SockHash<u32, 16> = SockHash::new();

/// Which backend of a service a listening socket serves.
#[btf_map]
pub static OWNERS: HashMap<OwnerKey, BackendId, { MAX_BACKENDS * 4 }> = HashMap::new();

/// Where TCP clients were sent last, written when a handshake is complete: made-up source
/// addresses cannot push out real clients. The agent sets the size.
#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity, 1> = LruHashMap::new();

/// The same for UDP, apart because there anybody can write. The agent sets the size.
#[btf_map]
pub static AFFINITY_UDP: LruHashMap<AffinityKey, Affinity, 1> = LruHashMap::new();

/// Established connections per backend.
#[btf_map]
pub static ACTIVE: Array<u64, MAX_BACKENDS> = Array::new();

/// Established connections per service.
#[btf_map]
pub static SERVICE_ACTIVE: Array<u64, MAX_SERVICES> = Array::new();

/// Totals per backend.
#[btf_map]
pub static BACKEND_STATS: PerCpuArray<BackendStats, MAX_BACKENDS> = PerCpuArray::new();

/// [`Counter`]s per service.
#[btf_map]
pub static SERVICE_STATS: PerCpuArray<u64, { MAX_SERVICES * Counter::COUNT }> = PerCpuArray::new();

/// Listen addresses of the packet paths, with ports and alone, and the host's own addresses.
#[btf_map]
pub static VIPS: HashMap<VipKey, Vip, MAX_VIPS> = HashMap::new();

/// Those of them that are found without looking.
#[btf_map]
pub static NEAR_VIPS: Array<NearVip, { NearVip::PLACES }> = Array::new();

/// What there may be at an address of a packet.
#[btf_map]
static ADDRESS_MARKS: Array<AddressMarks, 1> = Array::new();

/// See [`ADDRESS_MARKS`].
#[inline(always)]
pub fn address_marks() -> Option<&'static AddressMarks> {
    only(&ADDRESS_MARKS)
}

/// How packets get to backends, by the index in their id.
#[btf_map]
pub static TARGETS: Array<Target, MAX_BACKENDS> = Array::new();

/// Flows over IPv4, see `lb_common::flows`. The agent sets the size, and has it mapped.
#[btf_map]
pub static FLOWS4: Array<FlowSet<3>, 1, MAPPED> = Array::new();

/// The same over IPv6.
#[btf_map]
pub static FLOWS6: Array<FlowSet<9>, 1, MAPPED> = Array::new();

/// Which flows have the source ports that were given out. The agent sets the size, and has it mapped.
#[btf_map]
pub static NAT_PORTS: Array<NatPort, 1, MAPPED> = Array::new();

/// Flags of an array that the agent can map.
const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// Ports of datagrams that come in fragments.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, 16_384> = LruHashMap::new();

/// Per service on the `dsr` path one inner map with one value, which is swapped in whole.
#[btf_map]
pub static DSR_TABLES: ArrayOfMaps<Array<DsrTable, 1>, MAX_SERVICES> = ArrayOfMaps::new();

/// Flows of the `dsr` path that began in a slot that was not clean. The agent sets the size.
#[btf_map]
pub static TRACKED: LruHashMap<FlowKey, Tracked, 1> = LruHashMap::new();

/// Totals per backend of the packet paths, and the way there.
#[btf_map]
pub static PACKET_BACKENDS: PerCpuArray<PacketBackend, MAX_BACKENDS> = PerCpuArray::new();

/// Settings of the packet paths.
#[btf_map]
static PACKET_SETTINGS: Array<PacketSettings, 1> = Array::new();

/// See [`PACKET_SETTINGS`].
#[inline(always)]
pub fn packet_settings() -> Option<&'static PacketSettings> {
    only(&PACKET_SETTINGS)
}

/// What interfaces can do.
#[btf_map]
pub static DEVICES: HashMap<u32, Device, 1024> = HashMap::new();

/// [`lb_common::abi::packet::PacketCounter`]s.
#[btf_map]
pub static PACKET_STATS: PerCpuArray<u64, { PacketCounter::COUNT }> = PerCpuArray::new();

/// Room for what is too large for a program's stack.
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This CPU's own scratch room. Packet programs do not interrupt each other on a CPU. (`kept` for
/// the reason that [`only`] has.)
#[inline(always)]
pub fn scratch() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0).map(kept)
}

/// See [`SCRATCH`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scratch {
    pub clock: Clock,
    pub job: Job,
    /// Key of the flow that is looked for.
    pub key: FlowKey,
    /// A client for which a backend is chosen.
    pub client: Addr,
    /// A flow to be entered.
    pub new: NewFlow,
    /// The flow that was found or entered last.
    pub flow: Flow,
    pub route: Route,
}

/// The clock as it was last read on this CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Clock {
    /// When that was, in jiffies.
    pub jiffies: u64,
    /// CLOCK_MONOTONIC in seconds.
    pub now_s: u64,
}

/// The kernel's `struct bpf_fib_lookup`, in words.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Route {
    pub family: u8,
    pub protocol: u8,
    pub ports: [u16; 2],
    /// Length of the packet; afterwards the greatest that can go.
    pub len: u16,
    /// Interface by which it came; afterwards that by which it goes.
    pub ifindex: u32,
    pub tos: u32,
    pub src: [u32; 4],
    pub dst: [u32; 4],
    pub vlan: u32,
    /// Source and destination MAC address.
    pub macs: [u32; 3],
}
const _: () = assert!(size_of::<Route>() == size_of::<aya_ebpf::bindings::bpf_fib_lookup>());

/// What a socket is bound to and which backend it is counted for; cloned to accepted sockets.
#[btf_map]
pub static SOCKET_OWNER: SocketStorage<SocketOwner, CLONED> = SocketStorage::new();

/// Addresses of this host, and the source address that a connection to each has when the client
/// has not bound one.
#[btf_map]
pub static LOCAL_ADDRESSES: HashMap<Addr, Addr, MAX_LOCAL_ADDRESSES> = HashMap::new();

/// What a client on this host asked for, when its socket was connected to a backend instead.
#[btf_map]
pub static LOCAL_PEER: SocketStorage<LocalPeer, OWN> = SocketStorage::new();

/// The same for the datagrams of unconnected UDP sockets, each of which may ask many services.
#[btf_map]
pub static LOCAL_DATAGRAMS: LruHashMap<LocalDatagram, Asked, MAX_LOCAL_DATAGRAMS> =
    LruHashMap::new();

/// Flags of a socket storage whose values stay with their socket.
const OWN: usize = BPF_F_NO_PREALLOC as usize;
/// The same of one whose values an accepted socket inherits from its listener.
const CLONED: usize = OWN | BPF_F_CLONE as usize;

/// A BPF_MAP_TYPE_SK_STORAGE. (`aya_ebpf::btf_maps::SkStorage` cannot express BPF_F_CLONE.)
#[repr(C)]
pub struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the fields are placeholders for the loader and are never read.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SocketStorage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The value of `socket`, if it has one.
    ///
    /// # Safety
    ///
    /// `socket` is a socket that the kernel gave to this run of the program.
    #[inline(always)]
    pub unsafe fn of<'s>(&self, socket: *mut bpf_sock) -> Option<&'s mut T> {
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the map is one of socket storage, and the caller vouches for the socket.
        let value = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0) };
        // SAFETY: the kernel returns null or a value that lives as long as the socket; programs
        // run for one socket one after the other.
        unsafe { value.cast::<T>().as_mut() }
    }

    /// The value of `socket`, all zero if it had none. `None` when the kernel has no memory for it.
    ///
    /// # Safety
    ///
    /// `socket` is a socket that the kernel gave to this run of the program.
    #[inline(always)]
    pub unsafe fn made<'s>(&self, socket: *mut bpf_sock) -> Option<&'s mut T> {
        let map = ptr::from_ref(self).cast_mut().cast();
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // SAFETY: the map is one of socket storage, and the caller vouches for the socket.
        let value = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), create) };
        // SAFETY: as in `of`.
        unsafe { value.cast::<T>().as_mut() }
    }

    /// Gives `socket` a value. Fails when the kernel has no memory for it.
    ///
    /// # Safety
    ///
    /// `socket` is a socket that the kernel gave to this run of the program.
    #[inline(always)]
    pub unsafe fn set(&self, socket: *mut bpf_sock, value: T) -> Result<(), ()> {
        // SAFETY: the caller vouches for the socket.
        *unsafe { self.made(socket) }.ok_or(())? = value;
        Ok(())
    }
}

/// The one element of an array, which only the agent writes. (Before 6.14 the verifier refuses any
/// arithmetic on what a look-up returned until that has been compared with null. Where the key is a
/// constant, the compiler would add the offset of a field first.)
#[inline(always)]
fn only<T>(array: &'static Array<T, 1>) -> Option<&'static T> {
    let element = kept(array.get_ptr_mut(0)?);
    // SAFETY: it has just been compared with null.
    unsafe { core::hint::assert_unchecked(!element.is_null()) };
    // SAFETY: the kernel returned a valid, aligned element; words torn by the agent are those of a
    // moment ago.
    Some(unsafe { &*element })
}

/// Adds to a counter that all CPUs share.
#[inline(always)]
pub fn add<const N: usize>(counters: &Array<u64, N>, index: u32, amount: i64) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the kernel returned a valid, aligned element of the map.
        unsafe { atomic_add(counter, amount) };
    }
}

/// Atomic addition. `core::sync::atomic` offers none on a target without compare-and-swap, which
/// BPF is to the compiler.
///
/// # Safety
///
/// `counter` is valid and aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn atomic_add(counter: *mut u64, amount: i64) {
    // SAFETY: the instruction touches the eight bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counter} + 0) += {amount}",
            counter = in(reg) counter,
            amount = in(reg) amount,
        );
    }
}

/// The same on the host, where only the linters see it.
#[cfg(not(target_arch = "bpf"))]
unsafe fn atomic_add(counter: *mut u64, amount: i64) {
    // SAFETY: the caller vouches for the pointer.
    let counter = unsafe { core::sync::atomic::AtomicU64::from_ptr(counter) };
    counter.fetch_add(amount as u64, core::sync::atomic::Ordering::Relaxed);
}

/// Replaces the word at `place`, if that is `old`; what was there. Nothing is moved across it.
///
/// # Safety
///
/// `place` is valid and aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn replace(place: *mut u32, old: u32, new: u32) -> u32 {
    let found: u64;
    // SAFETY: the instruction touches the four bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "w0 = cmpxchg32_32(r1 + 0, w0, w2)",
            inout("r0") u64::from(old) => found,
            in("r1") place,
            in("r2") u64::from(new),
        );
    }
    found as u32
}

/// The same on the host, where only the linters see it.
///
/// # Safety
///
/// `place` is valid and aligned.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn replace(place: *mut u32, old: u32, new: u32) -> u32 {
    // SAFETY: the caller vouches for the pointer.
    let place = unsafe { core::sync::atomic::AtomicU32::from_ptr(place) };
    let order = core::sync::atomic::Ordering::SeqCst;
    let done = place.compare_exchange(old, new, order, order);
    done.unwrap_or_else(|found| found)
}

/// Adds to the word at `place`; what was there. Nothing is moved across it.
///
/// # Safety
///
/// `place` is valid and aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn add_fetched(place: *mut u32, amount: u32) -> u32 {
    let found: u64;
    // SAFETY: the instruction touches the four bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "w2 = atomic_fetch_add((u32 *)(r1 + 0), w2)",
            inout("r2") u64::from(amount) => found,
            in("r1") place,
        );
    }
    found as u32
}

/// The same on the host, where only the linters see it.
///
/// # Safety
///
/// `place` is valid and aligned.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn add_fetched(place: *mut u32, amount: u32) -> u32 {
    // SAFETY: the caller vouches for the pointer.
    let place = unsafe { core::sync::atomic::AtomicU32::from_ptr(place) };
    place.fetch_add(amount, core::sync::atomic::Ordering::SeqCst)
}

/// Counts one choice of a service.
#[inline(always)]
pub fn count(service: ServiceId, counter: Counter) {
    count_by_number(service, counter as u32);
}

/// The same, by the number of the counter.
#[inline(always)]
pub fn count_by_number(service: ServiceId, counter: u32) {
    let index = service.0 * Counter::COUNT as u32 + counter;
    if let Some(value) = SERVICE_STATS.get_ptr_mut(index) {
        // SAFETY: this CPU's own element; the program is not preempted by another on this CPU.
        unsafe { *value += 1 };
    }
}

/// The service that listens on an address: as such, else on the wildcard of its family.
#[inline(always)]
pub fn service_at(key: &ServiceKey) -> Option<ServiceId> {
    // SAFETY: the agent is the only writer; a service id is one aligned word, read whole.
    let exact = unsafe { SERVICES.get(key) };
    if let Some(service) = exact {
        return Some(*service);
    }
    // SAFETY: as above.
    unsafe { SERVICES.get(key.wildcard()) }.copied()
}
