//! Maps by ids that the agent gives out itself: no client can choose them to collide, so their hash is
//! cheap.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by an id that is a `u32`.
pub(super) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Multiplies by an odd constant (Fibonacci hashing; Knuth, volume 3, section 6.4).
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        let word = self.0.rotate_left(32) ^ u64::from(id);
        self.0 = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hash as _;

    #[test]
    fn ids_in_a_row_differ_in_the_bits_that_maps_look_at() {
        let hash = |id: u32| {
            let mut hasher = IdHasher::default();
            id.hash(&mut hasher);
            hasher.finish()
        };
        let low: std::collections::HashSet<u64> = (0..128).map(|id| hash(id) & 127).collect();
        let high: std::collections::HashSet<u64> = (0..128).map(|id| hash(id) >> 57).collect();
        assert!(
            low.len() == 128 && high.len() > 100,
            "{} {}",
            low.len(),
            high.len()
        );
    }
}
