//! Counts the remembered clients. The kernel keeps no count of an LRU map's entries, so the agent walks
//! over them in batches, at most every ten seconds.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{MapData, MapError};

use super::{maps, sys};
use crate::privilege::keep_or_warn;

/// Age at which a count is renewed.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// Entries in one batch. A bucket of the map must fit.
const BATCH: u32 = 4096;

/// A pinned map with a cached count of its entries.
pub(super) struct Counted {
    map: MapData,
    key_size: usize,
    value_size: usize,
    pub(super) capacity: u64,
    last: Mutex<Option<(Instant, u64)>>,
    under_way: AtomicBool,
}

impl Counted {
    /// Opens the pinned map `name`.
    pub(super) fn open(pin_dir: &Path, name: &str) -> Result<Arc<Self>, MapError> {
        let map = MapData::from_pin(maps::pin_of(pin_dir, name))?;
        let info = map.info()?;
        Ok(Arc::new(Self {
            key_size: info.key_size() as usize,
            value_size: info.value_size() as usize,
            capacity: info.max_entries().into(),
            map,
            last: Mutex::new(None),
            under_way: AtomicBool::new(false),
        }))
    }

    /// Number of entries, as of some seconds ago. Only the first count blocks its caller.
    pub(super) fn entries(self: &Arc<Self>) -> io::Result<u64> {
        let last = *self.last();
        let Some((at, count)) = last else {
            return self.count();
        };
        if at.elapsed() >= GOOD_FOR && !self.under_way.swap(true, Ordering::AcqRel) {
            let this = Arc::clone(self);
            let count = move || {
                keep_or_warn(&[]);
                if let Err(error) = this.count() {
                    tracing::warn!(%error, "the remembered clients cannot be counted");
                }
                this.under_way.store(false, Ordering::Release);
            };
            let thread = std::thread::Builder::new().name("count-clients".into());
            if thread.spawn(count).is_err() {
                self.under_way.store(false, Ordering::Release);
            }
        }
        Ok(count)
    }

    fn count(&self) -> io::Result<u64> {
        let count = count(&self.map, self.key_size, self.value_size)?;
        *self.last() = Some((Instant::now(), count));
        Ok(count)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(Instant, u64)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(map: &MapData, key_size: usize, value_size: usize) -> io::Result<u64> {
    let mut keys = vec![0u8; key_size.next_multiple_of(8) * BATCH as usize];
    let mut values = vec![0u8; value_size.next_multiple_of(8) * BATCH as usize];
    let (mut total, mut from) = (0, None);
    loop {
        let read = sys::lookup_batch(map, from, &mut keys, &mut values)?;
        total += read.entries as u64;
        if read.is_end {
            return Ok(total);
        }
        from = Some(read.to);
    }
}
