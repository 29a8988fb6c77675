//! The marks of addresses, by which the programs know in one look what is not for them.
//!
//! They are written before what they tell of, and not taken back while the agent runs: one that is
//! there for nothing costs a look into the maps.

use aya::maps::{Array, MapData, MapError};
use lb_common::abi::packet::{AddressMarks, Target, Vip, VipKey};

use super::super::pod;

/// The marks in force.
pub(super) struct Marks {
    map: Array<MapData, pod::AddressMarks>,
    marks: Box<AddressMarks>,
}

impl Marks {
    /// Those in the map, which another agent may have set: flows of backends that it had outlive it.
    pub(super) fn open(map: Array<MapData, pod::AddressMarks>) -> Result<Self, MapError> {
        let marks = Box::new(map.get(&0, 0)?.0);
        Ok(Self { map, marks })
    }

    /// What is entered next.
    pub(super) fn note_vip(&mut self, key: &VipKey, entry: &Vip) -> Result<(), MapError> {
        let new = self.marks.note_vip(key, entry);
        self.write(new)
    }

    /// The same for a backend.
    pub(super) fn note_target(&mut self, target: &Target) -> Result<(), MapError> {
        let new = self.marks.note_target(target);
        self.write(new)
    }

    fn write(&mut self, new: bool) -> Result<(), MapError> {
        if new {
            self.map.set(0, pod::AddressMarks(*self.marks), 0)?;
        }
        Ok(())
    }
}
