//! The slots of the `dsr` path: their owners, and their previous owners.

use crate::abi::{BackendId, MAX_MEMBERS, ServiceHead, TABLE_SLOTS};

/// A slot of a service on the `dsr` path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DsrSlot {
    /// Backend of new flows.
    pub owner: BackendId,
    /// Backend of untracked flows. The same as `owner` in a clean slot, for which nothing is
    /// stored; else bits of [`dsr`] may be set beside the id.
    pub base: BackendId,
}

impl DsrSlot {
    /// Whether the slot has had one owner, as far as live flows need to know.
    #[inline(always)]
    pub const fn is_clean(&self) -> bool {
        self.owner.0 == self.base.0
    }
}

/// Bits beside an id, above the indices of backends.
pub mod dsr {
    use crate::abi::BackendId;

    /// In [`super::DsrSlot::base`]: flows to others than `owner` and `base` are tracked. The slot is not
    /// clean, although the two may be the same.
    pub const TRACKED: u32 = 0x8000;

    /// An id without the bits of this module.
    #[inline(always)]
    pub const fn id(marked: BackendId) -> BackendId {
        BackendId(marked.0 & !TRACKED)
    }
}

/// The one value of a service's inner map in `DSR_TABLES`, swapped in whole.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DsrTable {
    /// Settings: those of the service.
    pub head: ServiceHead,
    /// Members of the service.
    pub members: [BackendId; MAX_MEMBERS],
    /// Owners of clean slots: numbers of members, from 1; 0 if a slot is not clean, or has no owner.
    /// They follow from the fields below. A packet looks at one of them at random, so they are as small
    /// as can be.
    pub settled: [u16; TABLE_SLOTS],
    /// Padding, zero.
    pub pad: u16,
    /// Owners of the slots.
    pub owners: [BackendId; TABLE_SLOTS],
    /// Bases of the slots.
    pub bases: [BackendId; TABLE_SLOTS],
    /// When a slot's base was last sent something, CLOCK_MONOTONIC in seconds; written by the
    /// programs while the slot is not clean.
    pub base_seen_s: [u32; TABLE_SLOTS],
}
const _: () = assert!(size_of::<DsrTable>() == 112 + 4 * MAX_MEMBERS + 14 * TABLE_SLOTS + 2);

impl DsrTable {
    /// A table in which no slot has an owner.
    pub const fn new(head: ServiceHead, members: [BackendId; MAX_MEMBERS]) -> Self {
        Self {
            head,
            members,
            settled: [0; TABLE_SLOTS],
            pad: 0,
            owners: [BackendId::NONE; TABLE_SLOTS],
            bases: [BackendId::NONE; TABLE_SLOTS],
            base_seen_s: [0; TABLE_SLOTS],
        }
    }

    /// The slot at `place`, below [`TABLE_SLOTS`].
    pub fn slot(&self, place: usize) -> DsrSlot {
        DsrSlot {
            owner: self.owners[place],
            base: self.bases[place],
        }
    }

    /// Changes the slot at `place`, below [`TABLE_SLOTS`]. Afterwards [`Self::settle`] is called.
    pub const fn set_slot(&mut self, place: usize, slot: DsrSlot) {
        self.owners[place] = slot.owner;
        self.bases[place] = slot.base;
    }

    /// Derives the other fields from members and slots.
    #[cfg(feature = "alloc")]
    pub fn settle(&mut self) {
        let members = self.members.iter().zip(1..);
        let numbers: alloc::collections::BTreeMap<u32, u16> = members
            .filter(|(id, _)| **id != BackendId::NONE)
            .map(|(id, number)| (id.0, number))
            .collect();
        for place in 0..TABLE_SLOTS {
            let slot = self.slot(place);
            let number = numbers.get(&slot.owner.0).copied();
            self.settled[place] = number.filter(|_| slot.is_clean()).unwrap_or(0);
        }
    }
}

/// Value of the `TRACKED` map, by [`super::FlowKey`]: a flow that began in a slot that was not clean.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// Its backend.
    pub backend: BackendId,
    /// Last packet, CLOCK_MONOTONIC in seconds.
    pub seen_s: u32,
}
const _: () = assert!(size_of::<Tracked>() == 8);

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;
    use crate::abi::ServiceId;
    use crate::hash::ClientHash;

    const A: BackendId = BackendId::new(7, 1);
    const B: BackendId = BackendId::new(3, 2);
    const GONE: BackendId = BackendId::new(7, 9);

    #[test]
    fn only_a_clean_slot_of_a_member_has_a_number() {
        let head = ServiceHead {
            clients: ClientHash::new([1, 2], 3),
            hash_key: [1, 2],
            affinity_ns: 0,
            total_weight: 2,
            id: ServiceId(1),
            members: 2,
            max_load_permille: 0,
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            flags: 0,
        };
        let mut members = [BackendId::NONE; MAX_MEMBERS];
        members[..2].copy_from_slice(&[A, B]);
        let mut table = alloc::boxed::Box::new(DsrTable::new(head, members));
        // The former content is replaced.
        table.settled = [9; TABLE_SLOTS];
        let marked = BackendId(B.0 | dsr::TRACKED);
        let slots = [(A, A), (B, B), (A, B), (B, marked), (GONE, GONE)];
        for (place, (owner, base)) in slots.into_iter().enumerate() {
            table.set_slot(place, DsrSlot { owner, base });
            assert_eq!(table.slot(place), DsrSlot { owner, base });
        }
        table.settle();
        assert_eq!(table.settled[..6], [1, 2, 0, 0, 0, 0]);
        assert_eq!(table.settled[TABLE_SLOTS - 1], 0);
    }
}
