//! Walking over a hash map many entries at a time: BPF_MAP_LOOKUP_BATCH (Linux 5.6).
//!
//! What comes or goes meanwhile may be missed; nothing is met twice. Walking by keys would begin
//! anew whenever the entry that was met last is gone.

use std::io;

use aya::maps::MapData;

use super::sys;

/// Whether there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There may be.
    More,
    /// These were the last.
    End,
}

/// A walk over a map.
pub(super) struct Batches<'a, K, V> {
    map: &'a MapData,
    keys: Vec<K>,
    values: Vec<V>,
    /// Where the kernel goes on: the number of a bucket.
    from: Option<u32>,
    count: usize,
}

impl<'a, K: aya::Pod, V: aya::Pod> Batches<'a, K, V> {
    /// A walk over the hash map `map`, `batch` entries at a time; a bucket has to fit. The sizes of
    /// keys and values are those of the map and multiples of eight. `key` and `value` are any.
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

    /// Reads the next entries.
    pub(super) fn next(&mut self) -> io::Result<Next> {
        let read = sys::lookup_batch(self.map, self.from, &mut self.keys, &mut self.values)?;
        self.count = read.entries;
        self.from = Some(read.to);
        Ok(if read.is_end { Next::End } else { Next::More })
    }

    /// What was read last.
    pub(super) fn entries(&self) -> Vec<(K, V)> {
        let keys = self.keys.iter().take(self.count);
        keys.copied().zip(self.values.iter().copied()).collect()
    }
}
