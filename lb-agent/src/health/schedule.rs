//! When the next probe is due. Thousands of probes are spread over the interval from the first
//! round on, and jitter keeps them from falling into step.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// First probes of a round that comes in one go: as many in each millisecond.
const FIRST_PER_MS: u32 = 1;

/// Which key is due when.
#[derive(Debug)]
pub(super) struct Schedule<K> {
    order: BTreeSet<(Duration, K)>,
    due: HashMap<K, Duration>,
}

impl<K: Clone + Eq + Hash + Ord> Schedule<K> {
    /// Nothing is due.
    pub(super) fn new() -> Self {
        Self {
            order: BTreeSet::new(),
            due: HashMap::new(),
        }
    }

    /// `key` is due at `at`, and at no other time any more.
    pub(super) fn put(&mut self, key: K, at: Duration) {
        self.remove(&key);
        self.due.insert(key.clone(), at);
        self.order.insert((at, key));
    }

    /// `key` is not due any more.
    pub(super) fn remove(&mut self, key: &K) {
        if let Some(at) = self.due.remove(key) {
            self.order.remove(&(at, key.clone()));
        }
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes out one that is due at `now`.
    pub(super) fn pop(&mut self, now: Duration) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.due.remove(&key);
        Some(key)
    }
}

/// How long the first probe of one of `accept_policy` waits: soon, but not all at once, and never
/// longer than an interval. `random` is 0 to 1.
pub(super) fn first_wait(accept_policy: usize, interval: Duration, random: f64) -> Duration {
    let window = Duration::from_millis((accept_policy as u32 / FIRST_PER_MS).into());
    window.min(interval).mul_f64(random)
}

/// How long the next probe waits. While outcomes contradict the state, it comes after a quarter of
/// the time, so that a failure is certain soon. `random` is 0 to 1.
pub(super) fn next_wait(
    interval: Duration,
    jitter_permille: u32,
    in_doubt: bool,
    random: f64,
) -> Duration {
    let jitter = f64::from(jitter_permille) / 1000.0;
    let wait = interval.mul_f64(1.0 - jitter + 2.0 * jitter * random);
    if in_doubt { wait / 4 } else { wait }
}

/// Numbers that look random: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
/// number generators", 2014).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    /// Numbers that follow from `seed`.
    #[cfg(test)]
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Others at each call. Without a source of randomness always the same: jitter is no secret.
    pub(super) fn seeded() -> Self {
        Self(getrandom::u64().unwrap_or(1))
    }

    /// The next number, 0 to 1.
    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn keys_come_in_the_order_of_their_times_and_only_once() {
        let mut schedule = Schedule::new();
        for (key, at) in [("a", 3), ("b", 1), ("c", 2), ("a", 1)] {
            schedule.put(key, SECOND * at);
        }
        schedule.remove(&"c");
        assert_eq!(schedule.next(), Some(SECOND));
        assert_eq!(schedule.pop(Duration::ZERO), None);
        let due: Vec<&str> = std::iter::from_fn(|| schedule.pop(SECOND * 9)).collect();
        assert_eq!(due, ["a", "b"]);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn four_thousand_backends_are_spread_over_four_seconds_and_ten_come_at_once() {
        let mut random = Random::new(7);
        let interval = SECOND * 10;
        let mut per_second = [0; 4];
        for _ in 0..4000 {
            let wait = first_wait(4000, interval, random.next());
            per_second[wait.as_secs() as usize] += 1;
        }
        assert!(
            per_second.iter().all(|n| (900..1100).contains(n)),
            "{per_second:?}"
        );
        assert!(first_wait(10, interval, 1.0) <= Duration::from_millis(10));
        assert!(
            first_wait(100_000, SECOND, 1.0) <= SECOND,
            "within an interval"
        );
    }

    #[test]
    fn who_starts_together_does_not_stay_together() {
        // A thousand that come up in the same moment, over fifty intervals.
        let mut random = Random::new(7);
        let mut at = vec![Duration::ZERO; 1000];
        for _ in 0..50 {
            for at in &mut at {
                *at += next_wait(SECOND, 100, false, random.next());
            }
        }
        let mut per_tenth = std::collections::HashMap::new();
        for at in &at {
            *per_tenth.entry(at.as_millis() / 100).or_insert(0) += 1;
        }
        let most = per_tenth.values().max();
        assert!(most < Some(&200), "{per_tenth:?}");
        let mean = at.iter().sum::<Duration>() / 1000;
        assert!((mean.as_secs_f64() - 50.0).abs() < 0.5, "{mean:?}");
    }

    #[test]
    fn in_doubt_the_next_probe_comes_soon() {
        assert_eq!(next_wait(SECOND, 0, false, 0.3), SECOND);
        assert_eq!(next_wait(SECOND, 0, true, 0.3), SECOND / 4);
    }
}
