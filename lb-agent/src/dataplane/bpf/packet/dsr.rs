//! Tables of services on the `dsr` path: the owner of each slot, and the former owner that keeps its flows.
//!
//! A slot that has had one owner stores no flows. When it gets a new owner, the former one stays its *base*
//! and the slot is not clean. Untracked flows then go to the base. New flows go to the owner and are
//! tracked. The slot becomes clean when the base's flows have ended. They have ended when the base has had
//! no packet for the idle timeout, or is gone.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use aya::maps::{MapData, MapError};
use lb_common::abi::packet::{DsrSlot, FlowKey, dsr};
use lb_common::abi::{BackendId, ServiceHead, ServiceId, ServiceTable, TABLE_SLOTS};
use lb_common::select::Client;

use super::super::create::DSR_TABLES;
use super::super::{pod, sys};
use lb_net::clock::monotonic_s;

/// The tables, by service.
///
/// Each map is pinned. The kernel returns only the id of a map inside an array of maps. Opening a map by
/// its id takes CAP_SYS_ADMIN, which the agent does not have.
pub(super) struct Tables {
    outer: MapData,
    /// Directory of the pinned maps.
    pins: PathBuf,
    head: HashMap<ServiceId, ServiceHead>,
}

impl Tables {
    pub(super) fn new(outer: MapData, pins: PathBuf) -> Self {
        Self {
            outer,
            pins,
            head: HashMap::new(),
        }
    }

    /// Puts the slots of a service in force. Slots keep the bases that still have flows.
    pub(super) fn put(
        &mut self,
        id: ServiceId,
        table: &ServiceTable,
        usable: &dyn Fn(BackendId) -> bool,
        known: &dyn Fn(BackendId) -> bool,
    ) -> Result<(), MapError> {
        let now_s = monotonic_s();
        let before = self.read(id)?;
        let mut fresh = pod::zeroed::<pod::DsrTable>();
        fresh.0.head = table.head;
        fresh.0.members = table.members;
        for slot in 0..TABLE_SLOTS {
            let owner = owner(table, slot, usable);
            let (old, seen_s) = match &before {
                Some(before) => (before.0.slot(slot), before.0.base_seen_s[slot]),
                None => (DsrSlot::default(), 0),
            };
            let (new, changed) = handed_over(old, owner, known);
            fresh.0.set_slot(slot, new);
            fresh.0.base_seen_s[slot] = if changed { now_s } else { seen_s };
        }
        fresh.0.settle();
        self.head.insert(id, table.head);
        self.write(id, &fresh)
    }

    /// Cleans slots without traffic to their bases for `idle_s` seconds. `tracked` holds the tracked flows,
    /// each with its backend.
    pub(super) fn clean(
        &mut self,
        now_s: u32,
        idle_s: u32,
        tracked: Arc<HashSet<(FlowKey, BackendId)>>,
    ) -> Result<(), MapError> {
        for (id, head) in self.head.clone() {
            let Some(mut table) = self.read(id)? else {
                continue;
            };
            let mut held: HashMap<u32, Vec<BackendId>> = HashMap::new();
            for (key, backend) in tracked.iter() {
                let slot = Client::new(&head, &key.src.to_addr()).slot();
                held.entry(slot).or_default().push(*backend);
            }
            let mut changed = false;
            for slot in 0..TABLE_SLOTS {
                let idle = now_s.saturating_sub(table.0.base_seen_s[slot]) >= idle_s;
                let others = held.get(&(slot as u32)).map_or(&[][..], Vec::as_slice);
                let old = table.0.slot(slot);
                let cleaner = cleaned(old, idle, others);
                changed |= cleaner != old;
                table.0.set_slot(slot, cleaner);
            }
            if changed {
                table.0.settle();
                self.write(id, &table)?;
            }
        }
        Ok(())
    }

    fn read(&self, id: ServiceId) -> Result<Option<Box<pod::DsrTable>>, MapError> {
        let mut inner = 0u32;
        match sys::lookup(&self.outer, id.0, &mut inner) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(MapError::IoError(error)),
        }
        let mut table = pod::zeroed::<pod::DsrTable>();
        let inner = self.open(id, inner)?;
        sys::lookup(&inner, 0, &mut *table).map_err(MapError::IoError)?;
        Ok(Some(table))
    }

    /// Opens the table of a service, a map with the id `number`.
    fn open(&self, id: ServiceId, number: u32) -> Result<MapData, MapError> {
        for pin in [self.pin(id), self.next_pin(id)] {
            let found = MapData::from_pin(pin).ok();
            let is_it = |map: &MapData| map.info().is_ok_and(|info| info.id() == number);
            if let Some(map) = found.filter(is_it) {
                return Ok(map);
            }
        }
        // An earlier agent may have made the map without a pin.
        MapData::from_id(number)
    }

    fn write(&self, id: ServiceId, table: &pod::DsrTable) -> Result<(), MapError> {
        let inner = DSR_TABLES.inner_with(table)?;
        let (pin, next) = (self.pin(id), self.next_pin(id));
        // At every step the map in force has one of the two pins, so the agent may be killed at any of
        // them.
        let swapped = remove(&next)
            .and_then(|()| sys::pin(inner.as_fd(), &next))
            // The kernel returns when no program reads the old map any more.
            .and_then(|()| sys::put_inner(self.outer.fd().as_fd(), id.0, inner.as_fd()))
            .and_then(|()| fs::rename(&next, &pin));
        swapped.map_err(MapError::IoError)
    }

    fn pin(&self, id: ServiceId) -> PathBuf {
        self.pins.join(format!("DSR_TABLE_{}", id.0))
    }

    fn next_pin(&self, id: ServiceId) -> PathBuf {
        self.pins.join(format!("DSR_TABLE_{}_NEXT", id.0))
    }
}

/// Removes a pin, if it exists.
fn remove(pin: &Path) -> io::Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The backend for new flows of a slot. It is the slot's owner if that is usable, else the first usable
/// owner among slots visited in strides. Balancers with the same backends agree.
fn owner(table: &ServiceTable, slot: usize, usable: &dyn Fn(BackendId) -> bool) -> BackendId {
    let stride = 1 + slot * 40_503 % (TABLE_SLOTS - 1);
    let mut at = slot;
    // A few strides visit slots of every member, unless there are a thousand members.
    for _ in 0..1024 {
        let id = table.slots[at];
        if usable(id) {
            return id;
        }
        at = (at + stride) % TABLE_SLOTS;
    }
    let mut members = table.members.iter().copied();
    members.find(|id| usable(*id)).unwrap_or_default()
}

/// A slot after `owner` has taken it over, and whether its base has changed. `known` tells whether a
/// backend keeps its existing flows.
fn handed_over(
    old: DsrSlot,
    owner: BackendId,
    known: &dyn Fn(BackendId) -> bool,
) -> (DsrSlot, bool) {
    let base = dsr::id(old.base);
    let slot = |base| DsrSlot { owner, base };
    // The base stays as long as it keeps its flows.
    let rest = if known(base) { base } else { owner };
    if old.owner == owner {
        let mark = old.base.0 & dsr::TRACKED;
        return if old.is_clean() {
            (old, false)
        } else {
            (slot(BackendId(rest.0 | mark)), false)
        };
    }
    if old.is_clean() {
        // If the former owner is gone, its flows are lost. If it still takes its existing flows, it becomes
        // the base. Existing flows also continue while no backend takes new ones.
        return if known(old.owner) {
            (slot(old.owner), true)
        } else {
            (slot(owner), false)
        };
    }
    if old.owner == BackendId::NONE && base == old.base {
        // The slot had no owner in between, so no flow is tracked.
        return (slot(rest), false);
    }
    // Flows of the former owner are tracked, and stay with it.
    (slot(BackendId(rest.0 | dsr::TRACKED)), false)
}

/// A cleaned slot. It loses its base if the base is `idle`. It loses its mark unless `others`, the backends
/// of tracked flows, has one besides its owner.
fn cleaned(slot: DsrSlot, idle: bool, others: &[BackendId]) -> DsrSlot {
    if slot.is_clean() {
        return slot;
    }
    let base = if idle { slot.owner } else { dsr::id(slot.base) };
    let mark = slot.base.0 & dsr::TRACKED;
    let needless = others.iter().all(|other| *other == slot.owner);
    DsrSlot {
        owner: slot.owner,
        base: BackendId(base.0 | if needless { 0 } else { mark }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BackendId = BackendId::new(1, 1);
    const B: BackendId = BackendId::new(2, 1);
    const C: BackendId = BackendId::new(3, 1);

    const fn slot(owner: BackendId, base: BackendId) -> DsrSlot {
        DsrSlot { owner, base }
    }

    fn marked(id: BackendId) -> BackendId {
        BackendId(id.0 | dsr::TRACKED)
    }

    #[test]
    fn a_slot_that_keeps_its_owner_stays_as_it_is() {
        for old in [slot(A, A), slot(A, B), slot(A, marked(A))] {
            assert_eq!(handed_over(old, A, &|_| true), (old, false));
        }
    }

    #[test]
    fn a_clean_slot_keeps_its_former_owner_as_base() {
        assert_eq!(handed_over(slot(A, A), B, &|_| true), (slot(B, A), true));
        // An owner that is gone leaves no flows to keep.
        assert_eq!(handed_over(slot(A, A), B, &|_| false), (slot(B, B), false));
    }

    #[test]
    fn the_first_owner_of_a_slot_has_no_base() {
        let nobody = |id| id != BackendId::NONE;
        assert_eq!(
            handed_over(DsrSlot::default(), A, &nobody),
            (slot(A, A), false)
        );
    }

    #[test]
    fn while_nobody_takes_what_is_new_the_former_owner_keeps_what_it_has() {
        let nobody = BackendId::NONE;
        let known = |id: BackendId| id != nobody;
        let (drained, changed) = handed_over(slot(A, A), nobody, &known);
        assert_eq!((drained, changed), (slot(nobody, A), true));
        assert_eq!(handed_over(drained, A, &known).0, slot(A, A), "it is back");
        assert_eq!(handed_over(drained, B, &known).0, slot(B, A));
        // A removed backend keeps no flows.
        assert_eq!(
            handed_over(drained, nobody, &|_| false).0,
            slot(nobody, nobody)
        );
        assert_eq!(handed_over(drained, B, &|id| id == B).0, slot(B, B));
        assert_eq!(cleaned(drained, true, &[]), slot(nobody, nobody));
        // Flows that were tracked before stay tracked.
        let (twice, _) = handed_over(slot(B, A), nobody, &known);
        assert_eq!(twice, slot(nobody, marked(A)));
        assert_eq!(handed_over(twice, C, &known).0, slot(C, marked(A)));
    }

    #[test]
    fn a_slot_that_changes_hands_twice_remembers_where_flows_are_tracked() {
        let (twice, _) = handed_over(slot(B, A), C, &|_| true);
        assert_eq!(twice, slot(C, marked(A)));
        let (back, _) = handed_over(slot(B, A), A, &|_| true);
        assert_eq!(back, slot(A, marked(A)));
    }

    #[test]
    fn a_slot_becomes_clean_when_its_base_and_others_are_over() {
        assert_eq!(cleaned(slot(B, A), false, &[B]), slot(B, A));
        assert_eq!(cleaned(slot(B, A), true, &[B]), slot(B, B));
        assert_eq!(
            cleaned(slot(C, marked(A)), true, &[B, C]),
            slot(C, marked(C))
        );
        assert_eq!(cleaned(slot(C, marked(C)), true, &[C]), slot(C, C));
        assert_eq!(cleaned(slot(A, marked(A)), false, &[B]), slot(A, marked(A)));
        assert_eq!(cleaned(slot(A, marked(A)), false, &[]), slot(A, A));
    }
}
