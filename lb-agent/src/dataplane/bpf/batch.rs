//! Reads a hash map in batches: BPF_MAP_LOOKUP_BATCH (Linux 5.6).
//!
//! A walk may miss entries that are added or removed meanwhile; it returns no entry twice. A walk by keys
//! would restart whenever its last key is removed.

use std::io;

use aya::maps::MapData;

use super::sys;

/// The progress of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// More entries may follow.
    More,
    /// The walk is complete.
    End,
}

/// A walk over a map in batches.
pub(super) struct Batches<'a, K, V> {
    map: &'a MapData,
    keys: Vec<K>,
    values: Vec<V>,
    /// Number of the bucket at which the kernel continues; `None` at the start.
    from: Option<u32>,
    count: usize,
}

impl<'a, K: aya::Pod, V: aya::Pod> Batches<'a, K, V> {
    /// Starts a walk over the hash map `map`, `batch` entries at a time. A bucket must fit into a batch.
    /// The sizes of keys and values are those of the map, and multiples of eight bytes. `key` and `value`
    /// only fill the buffers.
    pub(super) fn new(map: &'a MapData, batch: u32, key: K, value: V) -> Self {
        const { assert!(size_of::<K>().is_multiple_of(8) && size_of::<V>().is_multiple_of(8)) };
        Self {
            map,
            keys: vec![key; batch as usize],
            values: vec![value; batch as usize],
            from: None,
            count: 0,
        }
    }

    /// Reads the next batch, replacing the last one.
    pub(super) fn next(&mut self) -> io::Result<Next> {
        let read = sys::lookup_batch(self.map, self.from, &mut self.keys, &mut self.values)?;
        self.count = read.entries;
        self.from = Some(read.to);
        Ok(if read.is_end { Next::End } else { Next::More })
    }

    /// The entries of the last batch.
    pub(super) fn entries(&self) -> Vec<(K, V)> {
        let keys = self.keys.iter().take(self.count);
        keys.copied().zip(self.values.iter().copied()).collect()
    }
}
