//! Packets of our own, made from the one that came and sent back the way it came: resets (RFC
//! 9293, section 3.5.2), ICMP errors (RFC 792, RFC 4443).

use super::data_path::Counters;
use super::send::REFUSED;
use super::{PacketContext, Segment, Verdict, is_martian};
use crate::abi::packet::{Ip, PacketCounter};
use crate::abi::protocol;
use crate::checksum::Sum;
use crate::headers::{ETHERNET, IpHeader, Piece, exchanged, number, tcp};
use crate::packet::{Outer, Packet, ports_word};

/// TTL of packets that the programs make (IANA "IP Time To Live Parameter").
pub(super) const TTL: u32 = 64;
/// Words of an IPv4 header with all options and a TCP header.
const MOST_QUOTED: u32 = 20;

/// An ICMP error to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    /// Type and code, IPv4.
    v4: u16,
    /// Type and code, IPv6.
    v6: u16,
    /// The second word of the ICMP header.
    rest: u32,
    /// The counter for a packet that cannot be answered.
    drop: PacketCounter,
}

impl Problem {
    /// None.
    pub(super) const NONE: Self = Self {
        v4: 0,
        v6: 0,
        rest: 0,
        drop: PacketCounter::Passed,
    };

    /// "Time exceeded" in transit.
    pub(super) const TIME_EXCEEDED: Self = Self {
        v4: 0x0b00,
        v6: 0x0300,
        rest: 0,
        drop: PacketCounter::DropTtl,
    };

    /// "Port unreachable".
    pub(super) const PORT_UNREACHABLE: Self = Self {
        v4: 0x0303,
        v6: 0x0104,
        rest: 0,
        drop: PacketCounter::DropNoBackend,
    };

    /// "Fragmentation needed" (RFC 1191) or "packet too big": no more than `mtu` bytes fit.
    #[inline(always)]
    pub(super) const fn too_big(mtu: u32) -> Self {
        Self {
            v4: 0x0304,
            v6: 0x0200,
            rest: mtu,
            drop: PacketCounter::DropTooBig,
        }
    }
}

/// Sends an ICMP error about a packet, from the address that it went to. It quotes the IP header
/// and eight bytes behind it; the TCP header if its checksum is not ended yet.
#[inline(always)]
pub(super) fn error<P: Packet, W: Counters>(
    packet: &mut P,
    world: &mut W,
    context: &PacketContext,
) -> Verdict {
    let (ip, problem) = (&context.segment.ip, &context.problem);
    // RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e).
    let about_error = matches!(ip.protocol, number::ICMP | number::ICMPV6);
    if ip.piece == Piece::Later || is_martian(&ip.src) || about_error {
        return Verdict::drop(problem.drop);
    }
    let quote = Quote::of(packet, ip);
    let done = quote.and_then(|quote| {
        if ip.v6 {
            error_v6(packet, ip, problem, &quote)
        } else {
            error_v4(packet, ip, problem, &quote)
        }
    });
    if done.is_none() {
        return Verdict::drop(problem.drop);
    }
    world.inc(PacketCounter::IcmpSent);
    Verdict::TRANSMIT
}

/// The part of a packet that an ICMP error quotes.
struct Quote {
    /// Words, from the IP header on.
    words: u32,
    /// Words that are summed up one by one.
    summed: u32,
    /// The share of the other words in the sum.
    rest: Sum,
}

impl Quote {
    /// Truncates a packet behind its quoted bytes.
    ///
    /// A checksum that is only begun is ended later, in the quote: with it the words from there on
    /// add up to nothing but the complement of its beginning.
    #[inline(always)]
    fn of<P: Packet>(packet: &mut P, ip: &IpHeader) -> Option<Self> {
        let tcp = ip.protocol == protocol::TCP;
        let at = ip.payload + if tcp { 16 } else { 6 };
        let begun = packet.half(at);
        let headers = (ip.payload - ip.at) / 4;
        let most = (headers + 2).min(MOST_QUOTED);
        let quote = if let Some(begun) = begun
            && packet.is_begun(at)
        {
            Self {
                words: headers + if tcp { 5 } else { 2 },
                summed: headers,
                rest: Sum::ZERO.half(!begun),
            }
        } else {
            Self {
                words: most,
                summed: most,
                rest: Sum::ZERO,
            }
        };
        if quote.words > MOST_QUOTED {
            return None;
        }
        packet.truncate(ip.at + quote.words * 4)?;
        if !tcp && let Some(begun) = begun {
            // Not quoted behind many extension headers.
            let _ = packet.set_half(at, begun);
        }
        Some(quote)
    }

    /// `sum` plus the sum of the quoted bytes.
    #[inline(always)]
    fn sum<P: Packet>(&self, packet: &P, at: u32, sum: Sum) -> Option<Sum> {
        with_quote(packet, at, self.summed, sum.and(self.rest))
    }
}

#[inline(always)]
fn error_v4<P: Packet>(
    packet: &mut P,
    ip: &IpHeader,
    problem: &Problem,
    quote: &Quote,
) -> Option<()> {
    let link = Link::read(packet, ip.at)?;
    let head = u32::from(problem.v4) << 16;
    let rest = problem.rest;
    let sum = Sum::ZERO.word(head.to_be()).word(rest.to_be());
    let sum = quote.sum(packet, ip.at, sum)?;
    let head = (head | u32::from(u16::from_be(sum.checksum()))).to_be();
    packet.grow(28, Outer::Answer)?;
    link.write_back(packet, ip.at)?;
    let header = ipv4_header(
        28 + quote.words * 4,
        u32::from(number::ICMP),
        &ip.dst,
        &ip.src,
        0,
    );
    packet.set_words(ip.at, header)?;
    packet.set_words(ip.at + 20, [head, rest.to_be()])
}

/// A sum with `quoted` words of the packet more, at most [`MOST_QUOTED`].
#[inline(always)]
fn with_quote<P: Packet>(packet: &P, at: u32, quoted: u32, mut sum: Sum) -> Option<Sum> {
    let mut i = 0;
    // Of two bounds the compiler would make one, their minimum. Linux 6.1 understands bounds of
    // a loop only if they are constants.
    while i < MOST_QUOTED && i < core::hint::black_box(quoted) {
        let [word] = packet.words::<1>(at + i * 4)?;
        sum = sum.word(word);
        i += 1;
    }
    Some(sum)
}

#[inline(always)]
fn error_v6<P: Packet>(
    packet: &mut P,
    ip: &IpHeader,
    problem: &Problem,
    quote: &Quote,
) -> Option<()> {
    let link = Link::read(packet, ip.at)?;
    let head = u32::from(problem.v6) << 16;
    let (length, rest) = (8 + quote.words * 4, problem.rest.to_be());
    let sum = pseudo_v6(&ip.dst, &ip.src, length, number::ICMPV6)
        .word(head.to_be())
        .word(rest);
    let sum = quote.sum(packet, ip.at, sum)?;
    let head = (head | u32::from(u16::from_be(sum.checksum()))).to_be();
    packet.grow(48, Outer::Answer)?;
    link.write_back(packet, ip.at)?;
    set_ipv6(packet, ip.at, length, number::ICMPV6, &ip.dst, &ip.src)?;
    packet.set_words(ip.at + 40, [head, rest])
}

/// Answers a TCP segment with a reset.
#[inline(always)]
pub(super) fn reset<P: Packet, W: Counters>(
    packet: &mut P,
    world: &mut W,
    context: &PacketContext,
) -> Verdict {
    let segment = &context.segment;
    if is_martian(&segment.ip.src) {
        return Verdict::drop(PacketCounter::DropMartian);
    }
    if write_reset(packet, segment).is_none() {
        return REFUSED;
    }
    world.inc(PacketCounter::ResetSent);
    Verdict::TRANSMIT
}

#[inline(always)]
fn write_reset<P: Packet>(packet: &mut P, segment: &Segment) -> Option<()> {
    let (ip, transport) = (&segment.ip, &segment.transport);
    let link = Link::read(packet, ip.at)?;
    let header = if ip.v6 { 40 } else { 20 };
    let begun = packet.is_begun(ip.payload + 16);
    if begun && ip.payload != ip.at + header {
        // The network card would end the checksum at its former place.
        return None;
    }
    packet.truncate(ip.at + header + 20)?;
    link.write_back(packet, ip.at)?;
    let control =
        u32::from(transport.flags & tcp::SYN != 0) + u32::from(transport.flags & tcp::FIN != 0);
    let length = ip.payload_len().saturating_sub(transport.header) + control;
    let (seq, ack, flags) = if transport.flags & tcp::ACK != 0 {
        (transport.ack, 0, tcp::RST)
    } else {
        (0, transport.seq.wrapping_add(length), tcp::RST | tcp::ACK)
    };
    let ports = ports_word([transport.ports[1], transport.ports[0]]);
    let fourth = (5 << 28 | u32::from(flags) << 16).to_be();
    let mut words = [ports, seq.to_be(), ack.to_be(), fourth, 0];
    let pseudo = if ip.v6 {
        pseudo_v6(&ip.dst, &ip.src, 20, protocol::TCP)
    } else {
        let tail = u32::from(protocol::TCP) << 16 | 20;
        Sum::ZERO
            .word(ip.src.0[3])
            .word(ip.dst.0[3])
            .word(tail.to_be())
    };
    let checksum = if begun {
        pseudo.folded()
    } else {
        pseudo.words(&words).checksum()
    };
    words[4] = (u32::from(u16::from_be(checksum)) << 16).to_be();
    if ip.v6 {
        set_ipv6(packet, ip.at, 20, protocol::TCP, &ip.dst, &ip.src)?;
    } else {
        let tcp = u32::from(protocol::TCP);
        let words = ipv4_header(40, tcp, &ip.dst, &ip.src, 0);
        packet.set_words(ip.at, words)?;
    }
    packet.set_words(ip.at + header, words)
}

/// The frame header of a packet that is answered.
pub(super) struct Link {
    macs: [u32; 3],
    /// EtherType and tags, in pairs of bytes; as many as there are.
    kinds: [u16; 5],
}

impl Link {
    /// Reads the header of a frame with its IP header at `at`.
    #[inline(always)]
    pub(super) fn read<P: Packet>(packet: &P, at: u32) -> Option<Self> {
        let macs = packet.words::<3>(0)?;
        let mut kinds = [packet.half(12)?, 0, 0, 0, 0];
        if at > ETHERNET {
            kinds[1] = packet.half(14)?;
            kinds[2] = packet.half(16)?;
        }
        if at > ETHERNET + 4 {
            kinds[3] = packet.half(18)?;
            kinds[4] = packet.half(20)?;
        }
        Some(Self { macs, kinds })
    }

    /// Writes it with sender and receiver exchanged.
    #[inline(always)]
    pub(super) fn write_back<P: Packet>(&self, packet: &mut P, at: u32) -> Option<()> {
        packet.set_words(0, exchanged(self.macs))?;
        packet.set_half(12, self.kinds[0])?;
        if at > ETHERNET {
            packet.set_half(14, self.kinds[1])?;
            packet.set_half(16, self.kinds[2])?;
        }
        if at > ETHERNET + 4 {
            packet.set_half(18, self.kinds[3])?;
            packet.set_half(20, self.kinds[4])?;
        }
        Some(())
    }
}

/// An IPv4 header without options (RFC 791); `len` with the header.
#[inline(always)]
pub(super) fn ipv4_header(len: u32, protocol: u32, src: &Ip, dst: &Ip, tos: u8) -> [u32; 5] {
    let first = 0x4500_0000 | u32::from(tos) << 16 | told(len);
    let third = TTL << 24 | protocol << 16;
    let (src, dst) = (src.0[3], dst.0[3]);
    let words = [first.to_be(), 0, third.to_be(), src, dst];
    let checksum = u32::from(u16::from_be(Sum::ZERO.words(&words).checksum()));
    [first.to_be(), 0, (third | checksum).to_be(), src, dst]
}

/// The value of a 16-bit length field for a packet of `len` bytes: 0 of one that has no room in it, which
/// Linux cuts up before it leaves (BIG TCP).
#[inline(always)]
pub(super) const fn told(len: u32) -> u32 {
    if len > 0xffff { 0 } else { len }
}

/// Writes an [`ipv6_header`].
#[inline(always)]
pub(super) fn set_ipv6<P: Packet>(
    packet: &mut P,
    at: u32,
    len: u32,
    protocol: u8,
    src: &Ip,
    dst: &Ip,
) -> Option<()> {
    packet.set_words(at, ipv6_header(len, protocol, src, dst))
}

/// An IPv6 header (RFC 8200); `len` without the header.
#[inline(always)]
pub(super) const fn ipv6_header(len: u32, protocol: u8, src: &Ip, dst: &Ip) -> [u32; 10] {
    let second = told(len) << 16 | (protocol as u32) << 8 | TTL;
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (src.0, dst.0);
    let first = 6u32 << 28;
    [
        first.to_be(),
        second.to_be(),
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ]
}

/// The pseudo header of RFC 8200, section 8.1.
#[inline(always)]
fn pseudo_v6(src: &Ip, dst: &Ip, len: u32, protocol: u8) -> Sum {
    Sum::ZERO
        .words(&src.0)
        .words(&dst.0)
        .word(len.to_be())
        .word(u32::from(protocol).to_be())
}
