//! Numbers that look random, from a seed that is printed: a failure can be had again with
//! `LB_TEST_SEED`.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub struct Random(u64);

impl Random {
    /// From `LB_TEST_SEED`, or from the time. libtest shows the seed when the test fails.
    pub fn new() -> Self {
        let given = std::env::var("LB_TEST_SEED").ok();
        let seed = given.map_or_else(
            || {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                now.as_nanos() as u64
            },
            |text| text.parse().expect("LB_TEST_SEED is a number"),
        );
        println!("LB_TEST_SEED={seed}");
        Self(seed)
    }

    /// The next number of the generator.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}
