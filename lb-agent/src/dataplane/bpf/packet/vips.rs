//! Addresses of services and of this host, and two shortcuts to them: marks, by which the programs
//! know in one look what is not for them, and places where the entries of ports are found at once.

use aya::maps::{Array, HashMap, MapData, MapError};
use lb_common::abi::packet::{AddressMarks, NearVip, Target, Vip, VipKey};

use super::super::pod;

/// What listens where.
pub(super) struct Vips {
    entries: HashMap<MapData, pod::VipKey, pod::Vip>,
    near: Array<MapData, pod::NearVip>,
    marks_map: Array<MapData, pod::AddressMarks>,
    /// Written before what they tell of, and not taken back: one that is there for nothing costs a
    /// look into the maps, and flows of backends may outlive the agent that had them.
    marks: Box<AddressMarks>,
}

impl Vips {
    /// What is in the maps, which another agent may have left.
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

    /// All of them.
    pub(super) fn read(&self) -> Result<Vec<(VipKey, Vip)>, MapError> {
        let entries = self.entries.iter().map(|entry| {
            let (key, vip) = entry?;
            Ok((key.0, vip.0))
        });
        entries.collect()
    }

    /// Enters one, or changes it.
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
        // A program may read while this is written: the key is there only beside its own value.
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

    /// Takes one out.
    pub(super) fn remove(&mut self, key: &VipKey) -> Result<(), MapError> {
        let place = NearVip::place(key);
        if self.near.get(&place, 0)?.0.key == *key {
            self.near.set(place, pod::NearVip(NearVip::NONE), 0)?;
        }
        self.entries.remove(&pod::VipKey(*key))
    }

    /// Marks the address of a backend, which is entered next.
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
