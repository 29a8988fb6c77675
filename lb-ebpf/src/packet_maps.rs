//! The maps of the packet paths. See `maps`.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::abi::packet::{
    AddressMarks, Device, DsrTable, FlowKey, FlowSet, Fragment, FragmentKey, Interface, MAX_VIPS,
    NatPort, NearVip, PacketBackend, PacketCounter, PacketSettings, Target, Tracked, Vip, VipKey,
};
use lb_common::abi::{BackendId, MAX_BACKENDS, MAX_SERVICES};
use lb_common::addr::Addr;
use lb_common::decide::PacketContext;
use lb_common::flows::{Flow, NewFlow};

use crate::hints::kept;

/// Listen addresses of the packet paths, with ports and alone, and the host's own addresses.
#[btf_map]
pub static VIPS: HashMap<VipKey, Vip, MAX_VIPS> = HashMap::new();

/// Those of them that are found without looking.
#[btf_map]
pub static NEAR_VIPS: Array<NearVip, { NearVip::PLACES }> = Array::new();

/// The possible uses of an address of a packet.
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

/// The interfaces that the programs are on, at [`Interface::place`].
#[btf_map]
static INTERFACES: Array<Interface, { Interface::PLACES }> = Array::new();

/// See [`INTERFACES`].
#[inline(always)]
pub fn interface(ifindex: u32) -> Option<&'static Interface> {
    let found = kept(INTERFACES.get_ptr_mut(Interface::place(ifindex))?);
    // SAFETY: the kernel returned a valid, aligned element, which only the agent writes.
    let found = unsafe { &*found };
    (found.ifindex == ifindex).then_some(found)
}

/// Capabilities of interfaces.
#[btf_map]
pub static DEVICES: HashMap<u32, Device, 1024> = HashMap::new();

/// [`lb_common::abi::packet::PacketCounter`]s.
#[btf_map]
pub static PACKET_STATS: PerCpuArray<u64, { PacketCounter::COUNT }> = PerCpuArray::new();

/// Room for values too large for a program's stack.
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
    pub context: PacketContext,
    /// Key of the flow that is looked for.
    pub key: FlowKey,
    /// A client for which a backend is chosen.
    pub client: Addr,
    /// A backend that it does not get.
    pub avoid: BackendId,
    /// A flow to be entered.
    pub new: NewFlow,
    /// The flow that was found or entered last.
    pub flow: Flow,
    pub route: Route,
    /// Ends of a socket that is asked for.
    pub ends: [u32; 9],
    /// The counted connection of a flow that made room for another one, to be taken off; 0 for none.
    pub replaced: u64,
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

/// The one element of an array, which only the agent writes. (In 6.12 and before the verifier refuses any
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
