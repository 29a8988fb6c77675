//! A counter of one worker.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writer, read by any thread. Two writers would lose counts of each other.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Counts `n` more. A load and a store are some cycles, a locked addition some twenty.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The count now.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Adds counts to sums.
pub(super) fn add<const N: usize>(sums: &mut [u64; N], counts: &[Count; N]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum += count.get();
    }
}
