//! A packet as the packet paths see it: reads and writes by offset, whole words in memory order.

use crate::checksum::Delta;

/// A frame that can be read and changed. Offsets and lengths are in bytes from the start of the
/// Ethernet header; words and halves are in memory order, that is in network byte order as they
/// lie.
#[expect(
    clippy::len_without_is_empty,
    reason = "a frame has its Ethernet header at least"
)]
pub trait Packet {
    /// Length of the frame.
    fn len(&self) -> u32;

    /// `W` words from `at`; `None` if they are not all inside the frame.
    fn words<const W: usize>(&self, at: u32) -> Option<[u32; W]>;

    /// Two bytes from `at`; `None` if they are not inside the frame.
    fn half(&self, at: u32) -> Option<u16>;

    /// Writes `W` words from `at`. `None`, and nothing written, if they are not all inside.
    fn set_words<const W: usize>(&mut self, at: u32, words: [u32; W]) -> Option<()>;

    /// Writes two bytes from `at`. `None`, and nothing written, if they are not inside.
    fn set_half(&mut self, at: u32, half: u16) -> Option<()>;

    /// The first `N` bytes; `None` if the frame is shorter.
    fn window<const N: usize>(&mut self) -> Option<impl Window<N>>;

    /// Corrects the TCP, UDP or ICMPv6 checksum at `at` for a change.
    fn fix_checksum(&mut self, at: u32, delta: &Delta) -> Option<()>;

    /// Makes room for `by` bytes between the Ethernet header (of 14 bytes) and the data behind it.
    /// The content of the Ethernet header and of the room is undefined afterwards.
    fn grow(&mut self, by: u32, outer: Outer) -> Option<()>;

    /// Takes all VLAN tags off, of which `by` bytes are in the frame behind the first 12; others may
    /// be beside it (Linux: in the socket buffer). If `by` is not 0, the content of the Ethernet header
    /// is undefined afterwards.
    fn untag(&mut self, by: u32) -> Option<()>;

    /// Cuts the frame off after `len` bytes; `len` is at most its length.
    fn truncate(&mut self, len: u32) -> Option<()>;

    /// Whether the TCP or UDP checksum at `at` is only begun, for a network card to end (Linux:
    /// CHECKSUM_PARTIAL, in frames from senders on the same machine). To find out, the frame may be
    /// cut off behind the first byte at `at`; one that is cut off can be made longer again by
    /// [`Packet::truncate`].
    fn is_begun(&mut self, _at: u32) -> bool {
        false
    }

    /// The largest IP packet that the frame will be on the wire, `ip_len` unless the frame is one
    /// that will be cut up (GSO).
    fn segment_len(&self, ip_len: u32) -> u32 {
        ip_len
    }
}

/// The first `N` bytes of a frame, found to be inside at one look. Words and halves are in memory
/// order; that a place is one of the `N` is seen to when it is compiled.
pub trait Window<const N: usize> {
    /// The word at `AT`.
    fn word<const AT: usize>(&self) -> u32;

    /// The two bytes at `AT`.
    fn half<const AT: usize>(&self) -> u16;

    /// Writes the word at `AT`.
    fn set_word<const AT: usize>(&mut self, word: u32);

    /// Writes the two bytes at `AT`.
    fn set_half<const AT: usize>(&mut self, half: u16);
}

/// The two ports in the first word of a TCP or UDP header.
#[inline(always)]
pub const fn ports(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// The first word of a TCP or UDP header.
#[inline(always)]
pub const fn ports_word(ports: [u16; 2]) -> u32 {
    let ([a, b], [c, d]) = (ports[0].to_ne_bytes(), ports[1].to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// The headers that [`Packet::grow`] makes room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// An IPv4 header.
    Ipv4,
    /// An IPv6 header.
    Ipv6,
    /// An IPv4 and a UDP header.
    Ipv4Udp,
    /// An IPv6 and a UDP header.
    Ipv6Udp,
    /// Headers of an answer of ours.
    Answer,
}

#[cfg(feature = "alloc")]
pub use host::Frame;

#[cfg(feature = "alloc")]
mod host {
    use super::{Delta, Outer, Packet, Window};
    use alloc::vec::Vec;

    /// A frame in the memory of the host.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Frame(pub Vec<u8>);

    impl Frame {
        fn slice(&self, at: u32, len: usize) -> Option<&[u8]> {
            let at = at as usize;
            self.0.get(at..at.checked_add(len)?)
        }

        fn slice_mut(&mut self, at: u32, len: usize) -> Option<&mut [u8]> {
            let at = at as usize;
            self.0.get_mut(at..at.checked_add(len)?)
        }
    }

    impl Packet for Frame {
        fn len(&self) -> u32 {
            self.0.len() as u32
        }

        fn words<const W: usize>(&self, at: u32) -> Option<[u32; W]> {
            let (words, _) = self.slice(at, 4 * W)?.as_chunks::<4>();
            let mut out = [0; W];
            for (out, word) in out.iter_mut().zip(words) {
                *out = u32::from_ne_bytes(*word);
            }
            Some(out)
        }

        fn half(&self, at: u32) -> Option<u16> {
            self.slice(at, 2)
                .map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]))
        }

        fn set_words<const W: usize>(&mut self, at: u32, words: [u32; W]) -> Option<()> {
            let (places, _) = self.slice_mut(at, 4 * W)?.as_chunks_mut::<4>();
            for (place, word) in places.iter_mut().zip(words) {
                *place = word.to_ne_bytes();
            }
            Some(())
        }

        fn set_half(&mut self, at: u32, half: u16) -> Option<()> {
            self.slice_mut(at, 2)?.copy_from_slice(&half.to_ne_bytes());
            Some(())
        }

        fn window<const N: usize>(&mut self) -> Option<impl Window<N>> {
            self.0.first_chunk_mut::<N>()
        }

        fn fix_checksum(&mut self, at: u32, delta: &Delta) -> Option<()> {
            let old = self.half(at)?;
            self.set_half(at, delta.applied(old))
        }

        fn grow(&mut self, by: u32, _outer: Outer) -> Option<()> {
            self.0.splice(0..0, core::iter::repeat_n(0, by as usize));
            Some(())
        }

        fn untag(&mut self, by: u32) -> Option<()> {
            self.slice(0, by as usize)?;
            self.0.drain(..by as usize);
            Some(())
        }

        fn truncate(&mut self, len: u32) -> Option<()> {
            self.slice(0, len as usize)?;
            self.0.truncate(len as usize);
            Some(())
        }
    }

    impl<const N: usize> Window<N> for &mut [u8; N] {
        fn word<const AT: usize>(&self) -> u32 {
            u32::from_ne_bytes(core::array::from_fn(|i| self[AT + i]))
        }

        fn half<const AT: usize>(&self) -> u16 {
            u16::from_ne_bytes([self[AT], self[AT + 1]])
        }

        fn set_word<const AT: usize>(&mut self, word: u32) {
            self[AT..AT + 4].copy_from_slice(&word.to_ne_bytes());
        }

        fn set_half<const AT: usize>(&mut self, half: u16) {
            self[AT..AT + 2].copy_from_slice(&half.to_ne_bytes());
        }
    }
}
