//! Requests under way by key. A key is kept as long as it has one, so the memory is bounded by the requests
//! themselves, each of which takes far more.

use std::hash::BuildHasherDefault;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hasher;

/// Parts, each with a lock of its own.
const PARTS: usize = 64;

/// The requests under way.
pub(crate) struct InFlight([Mutex<Counts>; PARTS]);

type Counts = HashMap<u64, u32, BuildHasherDefault<Hashed>>;

/// Takes a key for its hash: it is one already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// A request under way, counted for as long as this lives.
pub(crate) struct Held {
    all: Arc<InFlight>,
    key: u64,
    /// That of another limit.
    next: Option<Box<Held>>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl InFlight {
    /// Counts a request of `key`; `None` if `most` are under way.
    pub(crate) fn enter(self: &Arc<Self>, key: u64, most: u32) -> Option<Held> {
        let mut counts = self.part(key);
        let count = counts.entry(key).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Held {
            all: Arc::clone(self),
            key,
            next: None,
        })
    }

    /// Keys with requests under way.
    #[cfg(test)]
    fn keys(&self) -> usize {
        (0..PARTS).map(|part| self.part(part as u64).len()).sum()
    }

    fn part(&self, key: u64) -> MutexGuard<'_, Counts> {
        let part = &self.0[key as usize % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Holds `other` too.
    pub(crate) fn and(mut self, other: Option<Self>) -> Self {
        self.next = other.map(Box::new);
        self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.all.part(self.key).entry(self.key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_allowed_are_under_way_and_each_end_makes_room() {
        let all = Arc::<InFlight>::default();
        let first = all.enter(1, 2).unwrap();
        let second = all.enter(1, 2).unwrap();
        assert!(all.enter(1, 2).is_none());
        assert!(all.enter(2, 2).is_some(), "another key");
        drop(first);
        let third = all.enter(1, 2).unwrap();
        assert!(all.enter(1, 2).is_none());
        drop((second, third));
        assert_eq!(all.keys(), 0);
    }

    #[test]
    fn limits_that_hold_one_request_end_with_it() {
        let all = Arc::<InFlight>::default();
        let one = all.enter(1, 1);
        let both = all.enter(2, 1).map(|other| other.and(one));
        assert_eq!(all.keys(), 2);
        drop(both);
        assert_eq!(all.keys(), 0);
    }
}
