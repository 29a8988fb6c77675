//! The slots of the `dsr` path: who has them, and who had them before.

use crate::abi::{BackendId, ServiceHead, TABLE_SLOTS};

/// A slot of a service on the `dsr` path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DsrSlot {
    /// Gets what is new.
    pub owner: BackendId,
    /// Gets what is not tracked. The same as `owner` in a clean slot, for which nothing is
    /// stored; else bits of [`dsr`] may be set beside the id.
    pub base: BackendId,
}

impl DsrSlot {
    /// Whether it has had one owner, as far as anybody needs to know.
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
    /// In [`super::DsrTable::owners`]: the slot is not clean.
    pub const UNSETTLED: u32 = 0x8000;

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
    /// Owners of the slots, with [`dsr::UNSETTLED`]. They are together, apart from what only slots
    /// that are not clean need: a packet looks at one of them at random.
    pub owners: [BackendId; TABLE_SLOTS],
    /// Bases of the slots.
    pub bases: [BackendId; TABLE_SLOTS],
    /// When a slot's base was last sent something, CLOCK_MONOTONIC in seconds; written by the
    /// programs while the slot is not clean.
    pub base_seen_s: [u32; TABLE_SLOTS],
    /// Padding, zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<DsrTable>() == 112 + 12 * TABLE_SLOTS + 4);

impl DsrTable {
    /// The slot at `place`, below [`TABLE_SLOTS`].
    pub fn slot(&self, place: usize) -> DsrSlot {
        DsrSlot {
            owner: dsr::id(self.owners[place]),
            base: self.bases[place],
        }
    }

    /// Changes the slot at `place`, below [`TABLE_SLOTS`].
    pub fn set_slot(&mut self, place: usize, slot: DsrSlot) {
        let mark = if slot.is_clean() { 0 } else { dsr::UNSETTLED };
        self.owners[place] = BackendId(slot.owner.0 | mark);
        self.bases[place] = slot.base;
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
