//! The receiving end of the `dsr` path: which packets are wrapped for this host, and taking the
//! wrapping off.
//!
//! IPv4 and IPv6 in IPv4 and IPv6 (RFC 2003, RFC 2473, RFC 4213), and in Generic UDP Encapsulation
//! (draft-ietf-intarea-gue-09): variant 0 without options, and variant 1. Outer headers with options
//! or extension headers, and fragments, are left to the kernel.

use crate::addr::{self, Addr};

/// A frame that can be read, and shortened in front. Offsets are in bytes from the start of the
/// Ethernet header; words and halves are in memory order, that is in network byte order as they lie.
pub trait Frame {
    /// Length of the frame.
    fn length(&self) -> u32;
    /// Two bytes from `at`; `None` if they are not inside the frame.
    fn half(&self, at: u32) -> Option<u16>;
    /// Four bytes from `at`; `None` if they are not inside the frame.
    fn word(&self, at: u32) -> Option<u32>;
    /// Writes two bytes from `at`.
    fn set_half(&mut self, at: u32, half: u16) -> Option<()>;
    /// Writes four bytes from `at`.
    fn set_word(&mut self, at: u32, word: u32) -> Option<()>;
    /// Takes the first `by` bytes off.
    fn shrink(&mut self, by: u32) -> Option<()>;
}

/// The result for a packet; also the index of its counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The wrapping has been taken off.
    Unwrapped = 0,
    /// It is not wrapped in a way that is known here: untouched.
    NotWrapped = 1,
    /// It is wrapped, for another host: untouched.
    OtherHost = 2,
    /// Its outer source may not wrap packets: dropped.
    Refused = 3,
    /// It is wrapped, and lengths or checksums do not fit: untouched, the kernel will drop it.
    Malformed = 4,
    /// The kernel would not shorten it: dropped.
    Failed = 5,
}

impl Outcome {
    /// Number of outcomes.
    pub const COUNT: usize = 6;

    /// Whether the packet may go on.
    pub const fn passes(self) -> bool {
        !matches!(self, Self::Refused | Self::Failed)
    }
}

/// A packet with another one in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// Length of the Ethernet header with its tags: 14, 18 or 22.
    pub link: u32,
    /// Bytes between that and the inner packet.
    pub outer: u32,
    /// The inner packet is IPv6.
    pub inner_v6: bool,
    /// Outer source address, of the balancer.
    pub source: Addr,
    /// Outer destination address.
    pub destination: Addr,
}

/// The host's judgement of the outer source and destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is for this host, and the source may.
    Admitted,
    /// It is for another host.
    OtherHost,
    /// The source may not.
    Refused,
}

const IPV4: u16 = 0x0800u16.to_be();
const IPV6: u16 = 0x86ddu16.to_be();
const VLAN: u16 = 0x8100u16.to_be();
const SERVICE_VLAN: u16 = 0x88a8u16.to_be();
/// Length of an Ethernet header without tags.
const ETHERNET: u32 = 14;
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
const UDP_HEADER: u32 = 8;
/// IP protocol numbers (IANA "Protocol Numbers").
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const UDP: u8 = 17;

/// Takes the wrapping off a packet that `admit` admits. `gue_port_be` is the UDP port of GUE in
/// network byte order, 0 for none.
#[inline(always)]
pub fn unwrap<F: Frame>(
    frame: &mut F,
    gue_port_be: u16,
    admit: impl FnOnce(&Wrapped) -> Admission,
) -> Outcome {
    let wrapped = match read(frame, gue_port_be) {
        Ok(wrapped) => wrapped,
        Err(outcome) => return outcome,
    };
    match admit(&wrapped) {
        Admission::Admitted => {}
        Admission::OtherHost => return Outcome::OtherHost,
        Admission::Refused => return Outcome::Refused,
    }
    match take_off(frame, &wrapped) {
        Some(()) => Outcome::Unwrapped,
        None => Outcome::Failed,
    }
}

/// Puts the Ethernet header, with its tags, in front of the inner packet.
#[inline(always)]
fn take_off<F: Frame>(frame: &mut F, wrapped: &Wrapped) -> Option<()> {
    let kind = if wrapped.inner_v6 { IPV6 } else { IPV4 };
    // The addresses, and four bytes for each tag: at most 20, and the outer header has no fewer, so
    // nothing is overwritten before it is read.
    let mut at = 0;
    while at < 20 {
        if at + 2 >= wrapped.link {
            break;
        }
        frame.set_word(wrapped.outer + at, frame.word(at)?)?;
        at += 4;
    }
    frame.set_half(wrapped.outer + wrapped.link - 2, kind)?;
    frame.shrink(wrapped.outer)
}

/// Reads the headers up to the inner packet.
#[inline(always)]
fn read<F: Frame>(frame: &F, gue_port_be: u16) -> Result<Wrapped, Outcome> {
    let (link, kind) = link_header(frame).ok_or(Outcome::NotWrapped)?;
    let outer = match kind {
        IPV4 => ipv4(frame, link)?,
        IPV6 => ipv6(frame, link)?,
        _ => return Err(Outcome::NotWrapped),
    };
    let (inner, inner_v6) = match outer.protocol {
        IPV4_IN_IP => (outer.payload, false),
        IPV6_IN_IP => (outer.payload, true),
        _ => gue(frame, &outer, gue_port_be)?,
    };
    let room = outer.end.checked_sub(inner).ok_or(Outcome::Malformed)?;
    if !fits(frame, inner, inner_v6, room).unwrap_or(false) {
        return Err(Outcome::Malformed);
    }
    Ok(Wrapped {
        link,
        outer: inner - link,
        inner_v6,
        source: outer.source,
        destination: outer.destination,
    })
}

/// Length of the Ethernet header with up to two tags, and the EtherType behind it.
#[inline(always)]
fn link_header<F: Frame>(frame: &F) -> Option<(u32, u16)> {
    let mut at = ETHERNET - 2;
    let mut tags = 0;
    loop {
        let kind = frame.half(at)?;
        if tags == 2 || (kind != VLAN && kind != SERVICE_VLAN) {
            return Some((at + 2, kind));
        }
        at += 4;
        tags += 1;
    }
}

/// The outer IP header.
struct Outer {
    protocol: u8,
    /// Offset of its payload, bytes.
    payload: u32,
    /// Offset of its end, bytes.
    end: u32,
    source: Addr,
    destination: Addr,
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, at: u32) -> Result<Outer, Outcome> {
    let mut words = [0u32; 5];
    let mut sum = 0u64;
    let mut i = 0;
    while i < 5 {
        words[i] = frame.word(at + 4 * i as u32).ok_or(Outcome::NotWrapped)?;
        sum += u64::from(words[i]);
        i += 1;
    }
    let [version, _, len_high, len_low] = words[0].to_ne_bytes();
    let [_, protocol, _, _] = words[2].to_ne_bytes();
    let [_, _, fragment_high, fragment_low] = words[1].to_ne_bytes();
    let known = matches!(protocol, IPV4_IN_IP | IPV6_IN_IP | UDP);
    // More fragments, or not the first.
    let fragment = fragment_high & 0x3f | fragment_low != 0;
    if version != 0x45 || !known || fragment {
        return Err(Outcome::NotWrapped);
    }
    let len = u32::from(u16::from_be_bytes([len_high, len_low]));
    if len < IPV4_HEADER || at + len > frame.length() || !sums_up(sum) {
        return Err(malformed(protocol));
    }
    Ok(Outer {
        protocol,
        payload: at + IPV4_HEADER,
        end: at + len,
        source: addr::from_v4(words[3].to_ne_bytes()),
        destination: addr::from_v4(words[4].to_ne_bytes()),
    })
}

/// Not every broken UDP datagram is a broken wrapping.
#[inline(always)]
const fn malformed(protocol: u8) -> Outcome {
    if protocol == UDP {
        Outcome::NotWrapped
    } else {
        Outcome::Malformed
    }
}

/// Whether a checksum over words is right (RFC 1071: byte order does not matter).
#[inline(always)]
const fn sums_up(sum: u64) -> bool {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum == 0xffff
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, at: u32) -> Result<Outer, Outcome> {
    let word = |at: u32| frame.word(at).ok_or(Outcome::NotWrapped);
    let [version, ..] = word(at)?.to_ne_bytes();
    let [len_high, len_low, protocol, _] = word(at + 4)?.to_ne_bytes();
    let known = matches!(protocol, IPV4_IN_IP | IPV6_IN_IP | UDP);
    if version >> 4 != 6 || !known {
        return Err(Outcome::NotWrapped);
    }
    let end = at + IPV6_HEADER + u32::from(u16::from_be_bytes([len_high, len_low]));
    if end > frame.length() {
        return Err(malformed(protocol));
    }
    let source = [
        word(at + 8)?,
        word(at + 12)?,
        word(at + 16)?,
        word(at + 20)?,
    ];
    let destination = [
        word(at + 24)?,
        word(at + 28)?,
        word(at + 32)?,
        word(at + 36)?,
    ];
    Ok(Outer {
        protocol,
        payload: at + IPV6_HEADER,
        end,
        source: joined(source),
        destination: joined(destination),
    })
}

#[inline(always)]
fn joined(words: [u32; 4]) -> Addr {
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
        d[3],
    ]
}

/// Offset of the inner packet of a GUE datagram, and whether it is IPv6.
#[inline(always)]
fn gue<F: Frame>(frame: &F, outer: &Outer, gue_port_be: u16) -> Result<(u32, bool), Outcome> {
    let at = outer.payload;
    let port_be = frame.half(at + 2).ok_or(Outcome::NotWrapped)?;
    if gue_port_be == 0 || port_be != gue_port_be || at + UDP_HEADER + 4 > outer.end {
        return Err(Outcome::NotWrapped);
    }
    let len = u16::from_be(frame.half(at + 4).ok_or(Outcome::Malformed)?);
    if at + u32::from(len) != outer.end {
        return Err(Outcome::Malformed);
    }
    let at = at + UDP_HEADER;
    let first = frame.word(at).ok_or(Outcome::Malformed)?;
    let [head, protocol, flags_high, flags_low] = first.to_ne_bytes();
    match head >> 6 {
        // Section 4 of the draft: the version of IP doubles as the variant.
        1 => match head >> 4 {
            4 => Ok((at, false)),
            6 => Ok((at, true)),
            _ => Err(Outcome::Malformed),
        },
        // Section 3: neither a control message, nor options, nor flags that would bring fields.
        0 if head == 0 && flags_high | flags_low == 0 => match protocol {
            IPV4_IN_IP => Ok((at + 4, false)),
            IPV6_IN_IP => Ok((at + 4, true)),
            _ => Err(Outcome::NotWrapped),
        },
        _ => Err(Outcome::NotWrapped),
    }
}

/// Whether an IP packet at `at` keeps within `room` bytes.
#[inline(always)]
fn fits<F: Frame>(frame: &F, at: u32, v6: bool, room: u32) -> Option<bool> {
    let [version, _, len_high, len_low] = frame.word(at)?.to_ne_bytes();
    if v6 {
        let [high, low] = frame.half(at + 4)?.to_ne_bytes();
        let len = IPV6_HEADER + u32::from(u16::from_be_bytes([high, low]));
        return Some(version >> 4 == 6 && len <= room);
    }
    let header = u32::from(version & 15) * 4;
    let len = u32::from(u16::from_be_bytes([len_high, len_low]));
    Some(version >> 4 == 4 && header >= IPV4_HEADER && header <= len && len <= room)
}

#[cfg(feature = "alloc")]
impl Frame for alloc::vec::Vec<u8> {
    fn length(&self) -> u32 {
        self.len() as u32
    }

    fn half(&self, at: u32) -> Option<u16> {
        let bytes = self.get(at as usize..at as usize + 2)?;
        Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
    }

    fn word(&self, at: u32) -> Option<u32> {
        let bytes = self.get(at as usize..at as usize + 4)?;
        Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn set_half(&mut self, at: u32, half: u16) -> Option<()> {
        self.get_mut(at as usize..at as usize + 2)?
            .copy_from_slice(&half.to_ne_bytes());
        Some(())
    }

    fn set_word(&mut self, at: u32, word: u32) -> Option<()> {
        self.get_mut(at as usize..at as usize + 4)?
            .copy_from_slice(&word.to_ne_bytes());
        Some(())
    }

    fn shrink(&mut self, by: u32) -> Option<()> {
        self.get(..by as usize)?;
        self.drain(..by as usize);
        Some(())
    }
}

#[cfg(all(test, feature = "alloc"))]
mod tests;
