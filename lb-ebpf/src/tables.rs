//! A service's tables as `lb_common::select` wants them, for every program that chooses.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use lb_common::abi::{
    Affinity, AffinityKey, Backend, BackendId, ServiceHead, ServiceTable, protocol,
};
use lb_common::select::Tables;

use crate::maps::{ACTIVE, AFFINITY, AFFINITY_UDP, BACKENDS, SERVICE_ACTIVE};
use crate::opaque;

/// The tables of one service in one run of a program.
pub struct ServiceTables<'a, H> {
    pub table: &'a ServiceTable,
    pub protocol: u8,
    /// Whether a backend takes the connection.
    pub hand_over: H,
}

impl<H: FnMut(&Backend) -> bool> Tables for ServiceTables<'_, H> {
    #[inline(always)]
    fn head(&self) -> &ServiceHead {
        &self.table.head
    }

    #[inline(always)]
    fn slot(&self, slot: u32) -> BackendId {
        element(&self.table.slots, slot)
    }

    #[inline(always)]
    fn member(&self, member: u32) -> BackendId {
        element(&self.table.members, member)
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> Option<Backend> {
        BACKENDS.get(id.index()).copied()
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        affinity(self.protocol, key)
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        now_ns()
    }

    #[inline(always)]
    fn active(&self, id: BackendId) -> u64 {
        ACTIVE.get(id.index()).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn active_total(&self) -> u64 {
        SERVICE_ACTIVE
            .get(self.table.head.id.0)
            .copied()
            .unwrap_or(0)
    }

    #[inline(always)]
    fn hand_over(&mut self, backend: &Backend) -> bool {
        (self.hand_over)(backend)
    }
}

/// What is remembered of a client.
#[inline(always)]
pub fn affinity(protocol: u8, key: &AffinityKey) -> Option<Affinity> {
    if protocol == protocol::UDP {
        // SAFETY: a torn read names a backend that is checked before use.
        return unsafe { AFFINITY_UDP.get(key) }.copied();
    }
    // SAFETY: as above.
    unsafe { AFFINITY.get(key) }.copied()
}

/// CLOCK_BOOTTIME in nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: boot time can be read anywhere.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// One element of an array that lies in a map.
#[inline(always)]
fn element<const N: usize>(array: &[BackendId; N], index: u32) -> BackendId {
    array
        .get(opaque(index as usize))
        .copied()
        .unwrap_or(BackendId::NONE)
}
