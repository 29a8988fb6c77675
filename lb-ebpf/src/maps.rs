//! The maps that choices are made from, which the programs of both objects use. The agent pins every map
//! under the name given in the sources.
//!
//! They are BTF maps, so that bpftool prints them field by field. Layouts are in
//! `lb_common::abi`; sizes that the agent sets at load are marked.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::abi::access::{MAX_RULES, Rule, RuleData};
use lb_common::abi::{
    Affinity, AffinityKey, Backend, Counter, MAX_BACKENDS, MAX_SERVICES, ServiceId, ServiceTable,
};
use lb_common::clients::{Bucket, CLIENT_BUCKETS, HANDSHAKE_BUCKETS};

/// Per service one inner map with one value, which is swapped in whole.
#[btf_map]
pub static TABLES: ArrayOfMaps<Array<ServiceTable, 1>, MAX_SERVICES> = ArrayOfMaps::new();

/// Backends, by the index in their id.
#[btf_map]
pub static BACKENDS: Array<Backend, MAX_BACKENDS> = Array::new();

/// The last backend of each TCP client. An entry is written only when a handshake is complete, so spoofed
/// source addresses cannot push out real clients. The agent sets the size.
#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity, 1> = LruHashMap::new();

/// The same for UDP, in a map of its own because spoofed UDP packets can write to it. The agent makes its one
/// inner map (and pins it as `AFFINITY_UDP`) when there is a UDP service.
#[btf_map]
static UDP_CLIENTS: ArrayOfMaps<LruHashMap<AffinityKey, Affinity, 1>, 1> = ArrayOfMaps::new();

/// Reads the last backend of a UDP client.
#[inline(always)]
pub fn udp_affinity(key: &AffinityKey) -> Option<Affinity> {
    let affinity = UDP_CLIENTS.get_value_ptr_mut(0, key)?;
    // SAFETY: the kernel returned a valid, aligned value; a torn read names a backend that is checked
    // before use.
    Some(unsafe { *affinity })
}

/// Stores the backend of a UDP client. A full map pushes out the client unseen for longest; nothing
/// else can fail.
#[inline(always)]
pub fn remember_udp(key: &AffinityKey, affinity: &Affinity) {
    if let Some(clients) = UDP_CLIENTS.get(0) {
        let _ = clients.insert(key, affinity, 0);
    }
}

/// Established connections per backend.
#[btf_map]
pub static ACTIVE: Array<u64, MAX_BACKENDS> = Array::new();

/// Established connections per service.
#[btf_map]
pub static SERVICE_ACTIVE: Array<u64, MAX_SERVICES> = Array::new();

/// [`Counter`]s per service.
#[btf_map]
pub static SERVICE_STATS: PerCpuArray<u64, { MAX_SERVICES * Counter::STORED }> = PerCpuArray::new();

/// Bans, and the lists of services.
#[btf_map]
pub static RULES: LpmTrie<RuleData, Rule, MAX_RULES> = LpmTrie::new();

/// Which tables of `RULES` are to be asked for a service, bits of `lb_common::abi::access::guard`.
#[btf_map]
pub static GUARDS: Array<u32, MAX_SERVICES> = Array::new();

/// [`Counter::Denied`] of each service.
#[btf_map]
pub static DENIED: PerCpuArray<u64, MAX_SERVICES> = PerCpuArray::new();

/// [`Counter::Capped`] of each service.
#[btf_map]
pub static CAPPED: PerCpuArray<u64, MAX_SERVICES> = PerCpuArray::new();

/// Open connections of clients of services with a cap, see `lb_common::clients`. The agent has it mapped.
#[btf_map]
pub static CLIENTS: Array<Bucket, CLIENT_BUCKETS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Handshakes of such clients.
#[btf_map]
pub static HANDSHAKES: Array<Bucket, HANDSHAKE_BUCKETS> = Array::new();

/// Counts one choice of a service.
#[inline(always)]
pub fn count(service: ServiceId, counter: Counter) {
    count_by_number(service, counter as u32);
}

/// The same, by the number of the counter.
#[inline(always)]
pub fn count_by_number(service: ServiceId, counter: u32) {
    let index = service.0 * Counter::STORED as u32 + counter;
    if let Some(value) = SERVICE_STATS.get_ptr_mut(index) {
        // SAFETY: this CPU's own element; the program is not preempted by another on this CPU.
        unsafe { *value += 1 };
    }
}
