//! A service's tables as `lb_common::select` wants them, for every program that chooses.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use lb_common::abi::{
    Affinity, AffinityKey, Backend, BackendId, ServiceHead, ServiceTable, protocol,
};
use lb_common::select::{Choice, Client, Reason, Tables, in_order};

use crate::hints::opaque;
use crate::maps::{ACTIVE, AFFINITY, BACKENDS, SERVICE_ACTIVE, TABLES, udp_affinity};

/// The tables of one service in one run of a program.
pub struct ServiceTables<'a, T> {
    pub table: &'a ServiceTable,
    pub protocol: u8,
    pub taker: T,
}

/// How a program hands a connection over.
pub trait Taker {
    /// Whether a backend takes the connection.
    fn takes(&mut self, backend: &Backend) -> bool;
    /// [`search`], in a function of the program's own.
    fn search(&mut self, service: u32, hash: u64, bounded: bool) -> u64;
}

impl<T: Taker> Tables for ServiceTables<'_, T> {
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
        self.taker.takes(backend)
    }

    #[inline(always)]
    fn search(&mut self, client: &Client, bounded: bool) -> Option<Choice> {
        let service = self.table.head.id.0;
        unpack(self.taker.search(service, client.hash(), bounded))
    }
}

/// Runs the search of a function that stands on its own: to the verifier it is one function that
/// it checks once, and what it returns one number that it knows nothing of.
#[inline(always)]
pub fn search<T: Taker>(taker: T, service: u32, hash: u64, bounded: bool) -> u64 {
    let Some(table) = TABLES.get_value(service, &0) else {
        return 0;
    };
    let mut tables = ServiceTables {
        table,
        protocol: 0,
        taker,
    };
    let found = in_order(&mut tables, &Client::of_hash(hash), bounded);
    found.map_or(0, |choice| {
        u64::from(choice.reason == Reason::Slot) << 32 | u64::from(choice.backend.0)
    })
}

/// The choice that a number of [`search`] stands for; 0 for none.
#[inline(always)]
fn unpack(found: u64) -> Option<Choice> {
    let reason = if found >> 32 != 0 {
        Reason::Slot
    } else {
        Reason::Next
    };
    (found != 0).then_some(Choice {
        backend: BackendId(found as u32),
        reason,
    })
}

/// The stored affinity of a client.
#[inline(always)]
pub fn affinity(protocol: u8, key: &AffinityKey) -> Option<Affinity> {
    if protocol == protocol::UDP {
        return udp_affinity(key);
    }
    // SAFETY: a torn read names a backend that is checked before use.
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
pub fn element<T: Copy + Default, const N: usize>(array: &[T; N], index: u32) -> T {
    array
        .get(opaque(index as usize))
        .copied()
        .unwrap_or_default()
}
