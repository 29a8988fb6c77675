//! Walking over a hash map many entries at a time: BPF_MAP_LOOKUP_BATCH (Linux 5.6).
//!
//! What comes or goes meanwhile may be missed; nothing is met twice. Walking by keys would begin
//! anew whenever the entry that was met last is gone.

use std::io;
use std::os::fd::RawFd;

use super::link::bpf;

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// The kernel's `union bpf_attr` for BPF_MAP_LOOKUP_BATCH (`batch` in `linux/bpf.h`).
#[repr(C)]
struct LookupBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Whether there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There may be.
    More,
    /// These were the last.
    End,
}

/// A walk over a map.
pub(super) struct Batches<K, V> {
    map: RawFd,
    keys: Vec<K>,
    values: Vec<V>,
    /// Where the kernel goes on: the number of a bucket.
    from: Option<u32>,
    count: usize,
}

impl<K: aya::Pod, V: aya::Pod> Batches<K, V> {
    /// A walk over the hash map `map`, `batch` entries at a time; a bucket has to fit. The sizes of
    /// keys and values are those of the map and multiples of eight. `key` and `value` are any.
    pub(super) fn new(map: RawFd, batch: u32, key: K, value: V) -> Self {
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
        let room = Room {
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            entries: self.keys.len() as u32,
        };
        let read = read(self.map, self.from, &room)?;
        self.count = read.entries as usize;
        self.from = Some(read.to);
        Ok(read.next)
    }

    /// What was read last.
    pub(super) fn entries(&self) -> Vec<(K, V)> {
        let keys = self.keys.iter().take(self.count);
        keys.copied().zip(self.values.iter().copied()).collect()
    }
}

/// Where entries are read to.
pub(super) struct Room {
    /// Address of as many keys, each a multiple of eight bytes.
    pub(super) keys: u64,
    /// Address of as many values, likewise.
    pub(super) values: u64,
    /// How many fit; a bucket has to.
    pub(super) entries: u32,
}

/// What one reading came to.
pub(super) struct Read {
    /// How many entries there are in the room.
    pub(super) entries: u32,
    /// Where the kernel goes on: the number of a bucket.
    pub(super) to: u32,
    /// Whether there is more.
    pub(super) next: Next,
}

/// Reads entries of `map` into `room`, from the bucket `from`, or from the first.
pub(super) fn read(map: RawFd, from: Option<u32>, room: &Room) -> io::Result<Read> {
    let mut begin = from.unwrap_or(0);
    let mut to = 0u32;
    let mut attr = LookupBatch {
        in_batch: from.map_or(0, |_| &raw mut begin as u64),
        out_batch: &raw mut to as u64,
        keys: room.keys,
        values: room.values,
        count: room.entries,
        map_fd: map as u32,
        elem_flags: 0,
        flags: 0,
    };
    let next = match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => Next::More,
        // The end; what was left has been read all the same.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Next::End,
        Err(error) => return Err(error),
    };
    Ok(Read {
        entries: attr.count.min(room.entries),
        to,
        next,
    })
}
