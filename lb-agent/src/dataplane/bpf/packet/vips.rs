//! Addresses of services and of this host, with two shortcuts. An address filter of marks lets the programs
//! skip foreign packets by one lookup. An array holds the entries of ports for direct access.

use aya::maps::{Array, HashMap, MapData, MapError};
use lb_common::abi::packet::{AddressMarks, NearVip, Target, Vip, VipKey};

use super::super::pod;

/// The maps of listen addresses and their shortcuts.
pub(super) struct Vips {
    entries: HashMap<MapData, pod::VipKey, pod::Vip>,
    near: Array<MapData, pod::NearVip>,
    marks_map: Array<MapData, pod::AddressMarks>,
    /// The address filter. A mark is written before its entry and never removed. A needless mark costs one
    /// map lookup, and flows of backends may outlive the agent that had them.
    marks: Box<AddressMarks>,
}

impl Vips {
    /// Opens the maps with their contents, which an earlier agent may have left.
    pub(super) fn open(
        entries: HashMap<MapData, pod::VipKey, pod::Vip>,
        near: Array<MapData, pod::NearVip>,
        marks_map: Array<MapData, pod::AddressMarks>,
    ) -> Result<Self, MapError> {
        let marks = Box::new(marks_map.get(&0, 0)?.0);
        Ok(Self {
            entries,
            near,
            marks_map,
            marks,
        })
    }

    /// Reads all listen addresses with their entries.
    pub(super) fn read(&self) -> Result<Vec<(VipKey, Vip)>, MapError> {
        let entries = self.entries.iter().map(|entry| {
            let (key, vip) = entry?;
            Ok((key.0, vip.0))
        });
        entries.collect()
    }

    /// Adds or changes an entry.
    pub(super) fn put(&mut self, key: &VipKey, vip: &Vip) -> Result<(), MapError> {
        let new = self.marks.note_vip(key, vip);
        self.write_marks(new)?;
        self.entries.insert(pod::VipKey(*key), pod::Vip(*vip), 0)?;
        let place = NearVip::place(key);
        let there = self.near.get(&place, 0)?.0;
        let taken = there.key.port_be != 0 && there.key != *key;
        if key.port_be == 0 || taken {
            return Ok(());
        }
        // A program may read during this write, so the key is present only beside its own value.
        let without_key = NearVip {
            vip: *vip,
            ..NearVip::NONE
        };
        let whole = NearVip {
            key: *key,
            ..without_key
        };
        for step in [NearVip::NONE, without_key, whole] {
            self.near.set(place, pod::NearVip(step), 0)?;
        }
        Ok(())
    }

    /// Removes a listen address and its shortcut.
    pub(super) fn remove(&mut self, key: &VipKey) -> Result<(), MapError> {
        let place = NearVip::place(key);
        if self.near.get(&place, 0)?.0.key == *key {
            self.near.set(place, pod::NearVip(NearVip::NONE), 0)?;
        }
        self.entries.remove(&pod::VipKey(*key))
    }

    /// Marks the address of a backend, before its target is entered.
    pub(super) fn note_target(&mut self, target: &Target) -> Result<(), MapError> {
        let new = self.marks.note_target(target);
        self.write_marks(new)
    }

    fn write_marks(&mut self, new: bool) -> Result<(), MapError> {
        if new {
            let marks = pod::AddressMarks(*self.marks);
            self.marks_map.set(0, marks, 0)?;
        }
        Ok(())
    }
}
