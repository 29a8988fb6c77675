//! The Internet checksum (RFC 1071) and its correction for changed words (RFC 1624).
//!
//! Sums are of words in memory order: the ones' complement sum does not mind the byte order, as
//! long as all parts have the same (RFC 1071, section 2 (B)).

/// A ones' complement sum that has not been folded yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// With four bytes more.
    #[inline(always)]
    pub const fn word(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// With two bytes more.
    #[inline(always)]
    pub const fn half(self, half: u16) -> Self {
        Self(self.0 + half as u64)
    }

    /// With all of another sum.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// With words more.
    #[inline(always)]
    pub const fn words<const W: usize>(mut self, words: &[u32; W]) -> Self {
        let mut i = 0;
        while i < W {
            self = self.word(words[i]);
            i += 1;
        }
        self
    }

    /// The sum folded to 16 bits.
    #[inline(always)]
    pub const fn folded(self) -> u16 {
        let mut sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        // The first fold leaves at most 17 bits and a carry, the third none.
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The checksum: its complement.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// A change of the data under a checksum, as a difference of sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Changes of the pseudo header: addresses.
    pub pseudo: Sum,
    /// Changes of the segment itself: ports.
    pub segment: Sum,
    /// 0 stands for "no checksum" (UDP, RFC 768): one that would become 0 is written as 0xffff.
    pub zero_is_none: bool,
}

impl Delta {
    /// `old` in the pseudo header became `new`.
    #[inline(always)]
    pub const fn address(&mut self, old: u32, new: u32) {
        self.pseudo = self.pseudo.word(!old).word(new);
    }

    /// `old` in the segment became `new`.
    #[inline(always)]
    pub const fn word(&mut self, old: u32, new: u32) {
        self.segment = self.segment.word(!old).word(new);
    }

    /// `old` in the segment became `new`.
    #[inline(always)]
    pub const fn half(&mut self, old: u16, new: u16) {
        self.segment = self.segment.half(!old).half(new);
    }

    /// The checksum that was `old`, corrected (RFC 1624, equation 3).
    #[inline(always)]
    pub const fn applied(&self, old: u16) -> u16 {
        let sum = Sum(self.pseudo.0 + self.segment.0).half(!old);
        let new = sum.checksum();
        if self.zero_is_none && new == 0 {
            0xffff
        } else {
            new
        }
    }
}

/// The header checksum `old` of IPv4, corrected for one changed word.
#[inline(always)]
pub const fn corrected(old: u16, from: u32, to: u32) -> u16 {
    Sum::ZERO.half(!old).word(!from).word(to).checksum()
}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// RFC 1071, section 4.1, by the letter.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn ours(words: &[u32]) -> u16 {
        words
            .iter()
            .fold(Sum::ZERO, |sum, word| sum.word(*word))
            .checksum()
    }

    proptest! {
        #[test]
        fn a_checksum_is_that_of_rfc_1071(words in prop::collection::vec(any::<u32>(), 0..40)) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            prop_assert_eq!(ours(&words).to_ne_bytes(), reference(&bytes).to_be_bytes());
        }

        #[test]
        fn a_corrected_checksum_is_as_good_as_a_new_one(
            mut words in prop::collection::vec(any::<u32>(), 3..20),
            at in 0usize..3,
            new: u32,
        ) {
            // A message of zeros alone has two checksums.
            prop_assume!(words.iter().any(|word| *word != 0) && new != 0);
            let old = ours(&words);
            let mut delta = Delta::default();
            delta.word(words[at], new);
            prop_assert_eq!(corrected(old, words[at], new), delta.applied(old));
            words[at] = new;
            prop_assert_eq!(delta.applied(old), ours(&words));
        }
    }

    #[test]
    fn a_udp_checksum_never_becomes_none() {
        let mut zero = Delta {
            zero_is_none: true,
            ..Delta::default()
        };
        zero.half(0, 0x1234);
        assert_eq!(zero.applied(0x1234), 0xffff);
    }
}
