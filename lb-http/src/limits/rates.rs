//! Rates by key: the generic cell rate algorithm (ITU-T I.371, Annex A) in a table of fixed size that all
//! workers share.
//!
//! A key has one time: when its debt is paid, the theoretical arrival time of the algorithm. A time in the past
//! is worth as much as none, so no timer has to tidy. A new key takes the place with the earliest time of its
//! set. That is a place without a debt, else the one with the least. Made-up keys have a debt of one request
//! each and push out each other; a key at its limit stays until its debt is as small as theirs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lb_config::http::Rate;

/// Places of a set, which with their lock fill two cache lines.
const WAYS: usize = 7;
/// Sets, of 128 bytes each: 4 MiB for 229,376 keys.
const SETS: usize = 1 << 15;

/// The rates of all keys.
pub(crate) struct Rates {
    sets: Box<[Set]>,
    evicted: AtomicU64,
}

#[derive(Default)]
#[repr(align(64))]
struct Set(Mutex<[Place; WAYS]>);

/// A key and its time in nanoseconds. A time of zero belongs to no key.
#[derive(Clone, Copy, Default)]
struct Place {
    key: u64,
    paid_at: u64,
}

/// A rate in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// The debt of one request.
    interval: u64,
    /// The debt of a whole burst.
    most: u64,
}

impl Pace {
    pub(crate) fn of(rate: &Rate) -> Self {
        let per = u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX);
        let interval = (per / u64::from(rate.count.max(1))).max(1);
        Self {
            interval,
            most: interval.saturating_mul(u64::from(rate.burst.max(1))),
        }
    }
}

impl Rates {
    pub(crate) fn new() -> Self {
        Self::of_sets(SETS)
    }

    fn of_sets(sets: usize) -> Self {
        Self {
            sets: std::iter::repeat_with(Set::default).take(sets).collect(),
            evicted: AtomicU64::new(0),
        }
    }

    /// Counts a request of `key` at `now`, in nanoseconds. The error is the time until there is room for it;
    /// such a request is not counted.
    pub(crate) fn take(&self, key: u64, pace: Pace, now: u64) -> Result<(), Duration> {
        let set = &self.sets[(key >> 32) as usize % self.sets.len()];
        let mut places = set.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = places.iter().position(|place| place.key == key);
        let paid_at = own.map_or(0, |own| places[own].paid_at).max(now) + pace.interval;
        let debt = paid_at - now;
        if debt > pace.most {
            return Err(Duration::from_nanos(debt - pace.most));
        }
        let at = own.unwrap_or_else(|| self.make_room(&places, now));
        places[at] = Place { key, paid_at };
        Ok(())
    }

    /// The place with the least debt.
    fn make_room(&self, places: &[Place; WAYS], now: u64) -> usize {
        let mut least = 0;
        for (at, place) in places.iter().enumerate() {
            if place.paid_at < places[least].paid_at {
                least = at;
            }
        }
        if places[least].paid_at > now {
            self.evicted.fetch_add(1, Relaxed);
        }
        least
    }

    /// Keys with a debt at `now`. It looks at every place.
    pub(crate) fn indebted(&self, now: u64) -> u64 {
        let of_set = |set: &Set| {
            let places = set.0.lock().unwrap_or_else(PoisonError::into_inner);
            places.iter().filter(|place| place.paid_at > now).count() as u64
        };
        self.sets.iter().map(of_set).sum()
    }

    /// Keys that have room at most.
    pub(crate) fn capacity(&self) -> u64 {
        (self.sets.len() * WAYS) as u64
    }

    /// Keys that lost a debt to make room.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::hash;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn pace(count: u32, per: u64, burst: u32) -> Pace {
        Pace::of(&Rate {
            count,
            per: Duration::from_secs(per),
            burst,
        })
    }

    fn key(number: u64) -> u64 {
        hash::bytes([1, 2], &number.to_le_bytes())
    }

    #[test]
    fn burst_passes_at_once_and_then_one_request_an_interval() {
        let (rates, pace) = (Rates::of_sets(8), pace(10, 60, 10));
        let now = 1_000 * SECOND;
        for _ in 0..10 {
            assert_eq!(rates.take(1, pace, now), Ok(()));
        }
        assert_eq!(rates.take(1, pace, now), Err(Duration::from_secs(6)));
        let later = now + 4 * SECOND;
        assert_eq!(rates.take(1, pace, later), Err(Duration::from_secs(2)));
        assert_eq!(rates.take(1, pace, now + 6 * SECOND), Ok(()));
        assert!(rates.take(1, pace, now + 6 * SECOND).is_err());
        assert_eq!(rates.take(2, pace, now), Ok(()), "another key");
    }

    #[test]
    fn set_is_two_cache_lines() {
        assert_eq!(size_of::<Set>(), 128);
    }

    #[test]
    fn flood_of_made_up_keys_does_not_free_a_key_at_its_limit() {
        let (rates, pace) = (Rates::new(), pace(100, 60, 100));
        let now = 1_000 * SECOND;
        while rates.take(key(0), pace, now).is_ok() {}
        // More keys than places, with one request each.
        for made_up in 1..=400_000 {
            assert_eq!(rates.take(key(made_up), pace, now), Ok(()));
        }
        assert!(rates.take(key(0), pace, now).is_err());
        assert!(rates.evicted() > 0);
        assert!(rates.indebted(now) <= rates.capacity());
        assert_eq!(rates.indebted(now + 60 * SECOND), 0);
    }

    proptest! {
        /// However requests come, in no span do more pass than the burst and those of the rate.
        #[test]
        fn no_more_pass_than_the_rate_allows(
            gaps in proptest::collection::vec(0u64..3 * SECOND, 1..200),
            count in 1u32..20, burst in 1u32..20,
        ) {
            let (rates, pace) = (Rates::of_sets(1), pace(count, 10, burst));
            let (mut now, mut passed) = (SECOND, Vec::new());
            for gap in gaps {
                now += gap;
                if rates.take(7, pace, now).is_ok() {
                    passed.push(now);
                }
            }
            for (from, begin) in passed.iter().enumerate() {
                for (to, end) in passed.iter().enumerate().skip(from) {
                    let most = u64::from(burst) + (end - begin) / pace.interval;
                    prop_assert!((to - from + 1) as u64 <= most);
                }
            }
        }
    }
}
