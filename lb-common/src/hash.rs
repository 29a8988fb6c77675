//! The keyed hash that spreads clients over slots, and the fixed one that places backends.
//!
//! SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012, with
//! one compression and three finalization rounds) over whole 64-bit words: without the key an attacker
//! cannot pick addresses that all land on one backend.

use crate::addr::{self, Addr};

/// SipHash on its way.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    #[inline(always)]
    const fn new(key: [u64; 2]) -> Self {
        Self {
            v0: key[0] ^ 0x736f_6d65_7073_6575,
            v1: key[1] ^ 0x646f_7261_6e64_6f6d,
            v2: key[0] ^ 0x6c79_6765_6e65_7261,
            v3: key[1] ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    const fn word(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    /// Ends with the bytes of `tail`, of which there are fewer than eight, and the length of all.
    #[inline(always)]
    const fn finish(mut self, tail: u64, len: u64) -> u64 {
        self.word(tail | len << 56);
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

/// The hash of a service's clients: SipHash-1-3 under its key of the 24 bytes that are its salt
/// (little endian) and a client's prefix. The part common to all clients has been hashed before.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHash {
    /// With the salt.
    v6: State,
    /// The same with the first half of an IPv4 client's prefix, which is zero.
    v4: State,
}

impl ClientHash {
    /// The hash under `key` for the service with this salt.
    pub const fn new(key: [u64; 2], salt: u64) -> Self {
        let mut v6 = State::new(key);
        v6.word(salt);
        let mut v4 = v6;
        v4.word(0);
        Self { v6, v4 }
    }

    /// The hash of the client with this prefix.
    #[inline(always)]
    pub const fn of(&self, prefix: &Addr) -> u64 {
        self.of_halves(addr::halves(prefix))
    }

    /// [`ClientHash::of`] a prefix in two halves, as numbers, most significant first.
    #[inline(always)]
    pub(crate) const fn of_halves(&self, (high, low): (u64, u64)) -> u64 {
        let mut state = if high == 0 {
            self.v4
        } else {
            let mut state = self.v6;
            state.word(high.swap_bytes());
            state
        };
        state.word(low.swap_bytes());
        state.finish(0, 24)
    }
}

/// SipHash-1-3 of `bytes` under `key`, for values not hashed per packet: names and identities.
pub fn bytes(key: [u64; 2], bytes: &[u8]) -> u64 {
    let mut state = State::new(key);
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        state.word(u64::from_le_bytes(*word));
    }
    let mut last = [0u8; 8];
    last[..tail.len()].copy_from_slice(tail);
    state.finish(u64::from_le_bytes(last), bytes.len() as u64)
}

/// The salt of a service: a digest of its name, the same on every machine.
pub fn salt(name: &str) -> u64 {
    bytes([0, 0], name.as_bytes())
}

/// The place of `hash` among `count` cells, each as likely as the others (Lemire, "Fast random
/// integer generation in an interval", 2019): no division, which is slow in the kernel.
#[inline(always)]
pub const fn place(hash: u32, count: u32) -> u32 {
    ((hash as u64 * count as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;
    use std::vec::Vec;

    fn reference(key: [u64; 2], bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(key[0], key[1]);
        hasher.write(bytes);
        hasher.finish()
    }

    proptest! {
        #[test]
        fn a_client_is_hashed_as_siphash_1_3_says(key: [u64; 2], salt: u64, prefix: Addr) {
            let mut message = Vec::from(salt.to_le_bytes());
            message.extend(prefix);
            prop_assert_eq!(ClientHash::new(key, salt).of(&prefix), reference(key, &message));
        }

        #[test]
        fn a_client_of_ipv4_is_hashed_the_same_way(key: [u64; 2], salt: u64, v4: [u8; 4]) {
            let prefix = addr::from_v4(v4);
            let mut message = Vec::from(salt.to_le_bytes());
            message.extend(prefix);
            prop_assert_eq!(ClientHash::new(key, salt).of(&prefix), reference(key, &message));
        }

        #[test]
        fn bytes_are_hashed_as_siphash_1_3_says(key: [u64; 2], message in prop::collection::vec(any::<u8>(), 0..=70)) {
            prop_assert_eq!(bytes(key, &message), reference(key, &message));
        }

        #[test]
        fn a_place_is_inside(hash: u32, count in 1u32..) {
            prop_assert!(place(hash, count) < count);
        }
    }

    #[test]
    fn places_run_from_first_to_last_in_equal_steps() {
        assert_eq!(place(0, 7), 0);
        assert_eq!(place(u32::MAX, 7), 6);
        assert_eq!(place(1 << 31, 65_537), 32_768);
        assert_eq!(place(u32::MAX, 0), 0);
    }

    #[test]
    fn the_salt_is_a_digest_of_the_name() {
        assert_eq!(salt("web"), reference([0, 0], b"web"));
        assert_ne!(salt("web"), salt("web2"));
    }
}
