//! The affinities that a thread has read or written since its clock last ticked.
//!
//! Browsers come with several connections at once, and many clients share an address. Each look at the
//! kernel's table is a system call, of which such a connection would need two. Changes by other threads are
//! seen a tick later at most; a change of settings is seen at once.

use std::cell::RefCell;

use lb_common::abi::{Affinity, AffinityKey};

use super::clock;

/// Slots for clients, by a hash of their keys: a later client takes the slot of an earlier one.
const PLACES: usize = 256;

/// One client.
#[derive(Clone, Copy)]
struct Entry {
    key: AffinityKey,
    affinity: Affinity,
    /// The settings under which it was read or written.
    generation: u64,
    at_ms: u64,
    /// The table has it from this thread.
    written: bool,
}

struct Lately(RefCell<Vec<Option<Entry>>>);

thread_local! {
    static LATELY: Lately = const { Lately(RefCell::new(Vec::new())) };
}

impl Lately {
    fn get(&self, key: &AffinityKey, generation: u64) -> Option<Entry> {
        let places = self.0.borrow();
        let entry = places.get(place(key)).copied().flatten()?;
        let same = entry.key == *key && entry.generation == generation;
        (same && entry.at_ms == clock::now_ms()).then_some(entry)
    }

    fn put(&self, entry: Entry) {
        let mut places = self.0.borrow_mut();
        places.resize(PLACES, None);
        places[place(&entry.key)] = Some(entry);
    }
}

/// The slot of a key: FNV-1a (Fowler, Noll and Vo), as no attack on this hash matters here.
fn place(key: &AffinityKey) -> usize {
    let service = key.service.0.to_ne_bytes();
    let bytes = key.prefix.iter().chain(&service);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) as usize % PLACES
}

/// The affinity of a client: the cached one of this tick and these settings, else the result of `read`.
pub(super) fn affinity(
    key: &AffinityKey,
    generation: u64,
    read: impl FnOnce() -> Option<Affinity>,
) -> Option<Affinity> {
    LATELY.with(|lately| {
        if let Some(entry) = lately.get(key, generation) {
            return Some(entry.affinity);
        }
        let affinity = read()?;
        lately.put(Entry {
            key: *key,
            affinity,
            generation,
            at_ms: clock::now_ms(),
            written: false,
        });
        Some(affinity)
    })
}

/// Has `write` remember the backend of a client, unless that was done since the last tick.
pub(super) fn remember(
    key: &AffinityKey,
    generation: u64,
    affinity: Affinity,
    write: impl FnOnce(),
) {
    LATELY.with(|lately| {
        let known = lately.get(key, generation);
        if known.is_some_and(|entry| entry.written && entry.affinity.backend == affinity.backend) {
            return;
        }
        write();
        lately.put(Entry {
            key: *key,
            affinity,
            generation,
            at_ms: clock::now_ms(),
            written: true,
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::{BackendId, ServiceId};
    use lb_common::addr;
    use std::cell::Cell;
    use std::time::Duration;

    const GENERATION: u64 = 7;

    fn key(service: u32) -> AffinityKey {
        AffinityKey {
            prefix: addr::from_v4([203, 0, 113, 9]),
            service: ServiceId(service),
        }
    }

    fn at(backend: u32) -> Affinity {
        Affinity {
            seen_ns: 1,
            backend: BackendId(backend),
            pad: 0,
        }
    }

    /// The affinity that is found, and whether the table was asked.
    fn found(service: u32, generation: u64, table: Option<Affinity>) -> (Option<Affinity>, bool) {
        let asked = Cell::new(false);
        let found = affinity(&key(service), generation, || {
            asked.set(true);
            table
        });
        (found, asked.get())
    }

    fn is_written(service: u32, generation: u64, backend: u32) -> bool {
        let written = Cell::new(false);
        remember(&key(service), generation, at(backend), || written.set(true));
        written.get()
    }

    #[test]
    fn the_table_is_asked_once_for_each_client_and_settings() {
        assert_eq!(found(1, GENERATION, None), (None, true));
        assert_eq!(found(1, GENERATION, Some(at(5))), (Some(at(5)), true));
        assert_eq!(found(1, GENERATION, None), (Some(at(5)), false));
        assert_eq!(found(2, GENERATION, Some(at(6))), (Some(at(6)), true));
        assert_eq!(found(1, GENERATION + 1, Some(at(6))), (Some(at(6)), true));
    }

    #[test]
    fn a_client_is_written_once_unless_it_has_moved() {
        assert_eq!(found(3, GENERATION, Some(at(5))), (Some(at(5)), true));
        assert!(is_written(3, GENERATION, 5), "its time is renewed");
        assert!(!is_written(3, GENERATION, 5));
        assert!(is_written(3, GENERATION, 6));
        assert_eq!(found(3, GENERATION, None), (Some(at(6)), false));
        assert!(is_written(3, GENERATION + 1, 6));
    }

    #[test]
    fn what_was_before_the_last_tick_is_asked_for_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            tokio::task::spawn_local(clock::tick_forever(|| {}));
            assert!(is_written(4, GENERATION, 5));
            while !is_written(4, GENERATION, 5) {
                tokio::time::sleep(Duration::from_millis(clock::TICK_MS / 4)).await;
            }
        });
    }
}
