//! Latencies in buckets from half a millisecond to a minute.

use std::time::Duration;

use super::count::{Count, add};

/// Upper bounds of the buckets, inclusive, in nanoseconds. One more bucket has everything above.
pub const BOUNDS_NS: [u64; 16] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

const BUCKETS: usize = BOUNDS_NS.len() + 1;

/// The latencies that one worker has seen.
#[derive(Default)]
pub(crate) struct Histogram {
    buckets: [Count; BUCKETS],
    sum_ns: Count,
}

impl Histogram {
    /// Counts one.
    pub(crate) fn observe(&self, latency: Duration) {
        let ns = latency.as_nanos() as u64;
        self.buckets[bucket(ns)].add(1);
        self.sum_ns.add(ns);
    }
}

/// The bucket of a latency.
fn bucket(ns: u64) -> usize {
    BOUNDS_NS.partition_point(|bound| *bound < ns)
}

/// The latencies that all workers have seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramFigures {
    /// How many are in each bucket alone, by its number.
    pub buckets: [u64; BUCKETS],
    /// Their sum, in nanoseconds.
    pub sum_ns: u64,
}

impl HistogramFigures {
    pub(super) fn add(&mut self, more: &Histogram) {
        add(&mut self.buckets, &more.buckets);
        self.sum_ns += more.sum_ns.get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_belong_to_their_buckets() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(500_000), 0);
        assert_eq!(bucket(500_001), 1);
        assert_eq!(bucket(60_000_000_000), 15);
        assert_eq!(bucket(60_000_000_001), 16);
        assert!(BOUNDS_NS.is_sorted());
    }

    #[test]
    fn histogram_has_the_number_and_the_sum_of_latencies() {
        let (histogram, mut figures) = (Histogram::default(), HistogramFigures::default());
        for ms in [1, 2, 70_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        figures.add(&histogram);
        assert_eq!(figures.buckets.iter().sum::<u64>(), 3);
        assert_eq!(figures.buckets[16], 1);
        assert_eq!(figures.sum_ns, 70_003_000_000);
    }
}
