//! The last step of a forwarded packet: hop limit, addresses and ports, frame header.

use super::{Segment, Verdict};
use crate::abi::packet::{FlowKey, Hop, Ip, PacketCounter};
use crate::abi::{BackendId, protocol};
use crate::checksum::{Delta, Sum, corrected};
use crate::decide::data_path::{Backends, Clock, Host, Routes};
use crate::headers::{ETHERNET, IpHeader, Piece, ether};
use crate::packet::{Packet, ports_word};

/// The verdict when the kernel cannot change a packet: cut off, or out of memory.
pub(super) const REFUSED: Verdict = Verdict::drop(PacketCounter::DropKernel);

/// How long a way to a backend is trusted before the routes are asked again, seconds.
pub(super) const WAY_FRESH_S: u32 = 2;

/// Counts a packet of `len` bytes to a backend, and returns the next hop: the one that this CPU found
/// lately, one for all clients.
#[inline(always)]
pub(super) fn way<W: Clock + Backends + Routes>(
    world: &mut W,
    backend: BackendId,
    len: u32,
    src: &Ip,
    dst: &Ip,
) -> Hop {
    let Some(sent) = world.sent(backend) else {
        return Hop::NONE;
    };
    world.count_sent(sent, len);
    if is_fresh(world, &sent.hop, WAY_FRESH_S) {
        return sent.hop;
    }
    let hop = world.route(src, dst);
    world.set_way(sent, &hop);
    hop
}

/// Whether a way that was found can still be trusted.
#[inline(always)]
pub(super) fn is_fresh<W: Clock + Host>(world: &W, hop: &Hop, fresh_s: u32) -> bool {
    hop.is_fresh(world.now_s(), fresh_s, world.settings().routes_s)
}

/// Changes addresses and ports from those of the received packet to `out`; the TTL goes down by `hops`.
#[inline(always)]
pub(super) fn rewrite<P: Packet>(
    packet: &mut P,
    segment: &Segment,
    out: &FlowKey,
    hops: u32,
) -> Option<()> {
    let ip = &segment.ip;
    let mut delta = Delta::default();
    let tcp = ip.protocol == protocol::TCP;
    delta.zero_is_none = !tcp;
    addresses(packet, ip, out, hops, &mut delta)?;
    if ip.piece == Piece::Later {
        return Some(());
    }
    let old = ports_word(segment.transport.ports);
    let new = ports_word([out.sport_be, out.dport_be]);
    delta.word(old, new);
    fix_transport(packet, ip.payload, tcp, ip.v6, &delta)?;
    packet.set_words(ip.payload, [new])
}

/// Corrects the checksum in the TCP or UDP header at `payload`. A datagram over IPv4 may have none
/// (RFC 768).
#[inline(always)]
pub(super) fn fix_transport<P: Packet>(
    packet: &mut P,
    payload: u32,
    tcp: bool,
    v6: bool,
    delta: &Delta,
) -> Option<()> {
    let at = payload + if tcp { 16 } else { 6 };
    if tcp || v6 || packet.half(at)? != 0 {
        packet.fix_checksum(at, delta)?;
    }
    Some(())
}

/// Changes the addresses of the IP header, adding the change of the pseudo header to `delta`.
#[inline(always)]
pub(super) fn addresses<P: Packet>(
    packet: &mut P,
    ip: &IpHeader,
    out: &FlowKey,
    hops: u32,
    delta: &mut Delta,
) -> Option<()> {
    if ip.v6 {
        return addresses_v6(packet, ip, out, hops, delta);
    }
    let [third, src, dst] = packet.words::<3>(ip.at + 8)?;
    let (new_src, new_dst) = (out.src.0[3], out.dst.0[3]);
    delta.address(src, new_src);
    delta.address(dst, new_dst);
    packet.set_words(
        ip.at + 8,
        [readdressed(third, delta, hops), new_src, new_dst],
    )
}

/// The word of an IPv4 header with the TTL, in memory order, with other addresses (the pseudo header
/// of `delta`) and so many hops less.
#[inline(always)]
pub(super) const fn readdressed(third: u32, delta: &Delta, hops: u32) -> u32 {
    let lowered = u32::from_be(third) - (hops << 24);
    let mut header = Delta {
        pseudo: delta.pseudo,
        segment: Sum::ZERO,
        zero_is_none: false,
    };
    header.word(third, lowered.to_be());
    let checksum = header.applied(third_low(third));
    ((lowered & 0xffff_0000) | u16::from_be(checksum) as u32).to_be()
}

/// The checksum of an IPv4 header, in the word with the TTL, in memory order.
#[inline(always)]
const fn third_low(word: u32) -> u16 {
    (u32::from_be(word) as u16).to_be()
}

#[inline(always)]
fn addresses_v6<P: Packet>(
    packet: &mut P,
    ip: &IpHeader,
    out: &FlowKey,
    hops: u32,
    delta: &mut Delta,
) -> Option<()> {
    let (src, dst) = (ip.src.0, ip.dst.0);
    let (s, d) = (out.src.0, out.dst.0);
    let mut i = 0;
    while i < 4 {
        delta.address(src[i], s[i]);
        delta.address(dst[i], d[i]);
        i += 1;
    }
    let [second] = packet.words::<1>(ip.at + 4)?;
    packet.set_words(
        ip.at + 4,
        [
            lowered_v6(second, hops),
            s[0],
            s[1],
            s[2],
            s[3],
            d[0],
            d[1],
            d[2],
            d[3],
        ],
    )
}

/// The TTL of a packet that is sent on unchanged otherwise goes down by one.
#[inline(always)]
pub(super) fn lower_hops<P: Packet>(packet: &mut P, ip: &IpHeader) -> Option<()> {
    if ip.v6 {
        let [second] = packet.words::<1>(ip.at + 4)?;
        return packet.set_words(ip.at + 4, [lowered_v6(second, 1)]);
    }
    let [third] = packet.words::<1>(ip.at + 8)?;
    packet.set_words(ip.at + 8, [lowered(third)])
}

/// The word of an IPv6 header with the hop limit, in memory order, with so many hops less.
#[inline(always)]
pub(super) const fn lowered_v6(second: u32, hops: u32) -> u32 {
    (u32::from_be(second) - hops).to_be()
}

/// The word of an IPv4 header with the TTL, in memory order, with one hop less.
#[inline(always)]
pub(super) const fn lowered(third: u32) -> u32 {
    let lowered = u32::from_be(third) - (1 << 24);
    let checksum = corrected(third_low(third), third, lowered.to_be());
    ((lowered & 0xffff_0000) | u16::from_be(checksum) as u32).to_be()
}

/// Gives the frame the header for `hop` and sends it there. Tags stay on a frame that goes back
/// by the interface that it came by.
#[inline(always)]
pub(super) fn frame<P: Packet, W: Host>(
    packet: &mut P,
    world: &W,
    ip: &IpHeader,
    hop: &Hop,
) -> Verdict {
    let back = hop.ifindex == world.ingress();
    if !back {
        if packet.untag(ip.at - ETHERNET).is_none() {
            return REFUSED;
        }
        let kind = if ip.v6 { ether::IPV6 } else { ether::IPV4 };
        if ip.at > ETHERNET && packet.set_half(12, kind).is_none() {
            return REFUSED;
        }
    }
    if packet.set_words(0, hop.macs).is_none() {
        return REFUSED;
    }
    Verdict::out(hop.ifindex, world.ingress())
}
