//! The `dsr` path: a slot names a backend, and the packet is sent there; the backend answers the
//! client itself.
//!
//! Nothing is stored while a slot has had one owner. When it changes hands, existing flows keep
//! going to the old owner, its *base*. Only new flows are tracked, until the agent finds the
//! old ones over (after "JET: Just Enough Tracking", Mendelson et al., CoNEXT 2021). Flows are
//! tracked by all of their key: a new connection never drags along a client's open ones.

use core::ops::Deref;

use super::answer::Problem;
use super::data_path::{Choices, DataPath};
use super::send::{REFUSED, frame, lower_hops, way};
use super::{
    PacketContext, Segment, Stage, Verdict, answer, impossible_source, nobody, note_first,
};
use crate::abi::packet::{FlowKey, Hop, Ip, PacketCounter, Target, Tracked, dsr, kind};
use crate::abi::{BackendId, ServiceHead, protocol};
use crate::checksum::Delta;
use crate::headers::{ETHERNET, ether, number, tcp};
use crate::packet::{Outer, Packet, ports_word};
use crate::select::{Client, slot_of};

/// TCP options that are looked at for the maximum segment size.
const OPTIONS: u32 = 8;
/// Source ports of GUE: the dynamic ones (RFC 6335, section 6).
const GUE_PORTS: u32 = 49_152;

/// Sends a packet for a service to the owner of its client's slot.
#[inline(always)]
pub(super) fn forward<P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    let (segment, src) = (&context.segment, &context.segment.ip.src);
    note_first(world, segment);
    if let Some(reason) = impossible_source(world, src) {
        return Verdict::drop(reason);
    }
    if world.bars(src, &segment.ip.dst) {
        return Verdict::drop(PacketCounter::DropNoRoute);
    }
    // Nothing tells an open connection from others, so a ban concerns each packet.
    if world.denies(context.vip.service, src) {
        return Verdict::DROPPED;
    }
    let Some(table) = world.dsr(context.vip.service) else {
        return Verdict::PASS;
    };
    let hash = Client::hash_of(&world.dsr_head(table), src.halves());
    context.hash = hash as u32;
    match world.dsr_owner(table, slot_of(hash)) {
        Some(owner) => send(packet, world, context, owner),
        None => Verdict::next(Stage::Transitioning),
    }
}

/// The same for a slot that has changed hands and is not clean yet.
#[inline(always)]
pub(super) fn transitioning<W: DataPath>(world: &mut W, context: &mut PacketContext) -> Verdict {
    let Some(table) = world.dsr(context.vip.service) else {
        return Verdict::PASS;
    };
    let head = world.dsr_head(table);
    let client = Client::new(&head, &context.segment.ip.src.to_addr());
    let slot = world.dsr_slot(table, client.slot());
    let dirty = Dirty {
        head,
        client,
        owner: slot.owner,
        base: dsr::id(slot.base),
    };
    context.backend = dirty.backend(world, context, table);
    Verdict::next(Stage::Send)
}

/// Sends a packet to the backend that was found for it.
#[inline(always)]
pub(super) fn chosen<P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    send(packet, world, context, context.backend)
}

/// Whether a packet begins a flow, as far as it tells.
#[inline(always)]
fn starts(segment: &Segment) -> bool {
    let flags = segment.transport.flags;
    segment.ip.protocol == protocol::TCP && flags & (tcp::SYN | tcp::ACK) == tcp::SYN
}

/// A slot that has changed hands and is not clean yet.
struct Dirty<H> {
    head: H,
    client: Client,
    owner: BackendId,
    base: BackendId,
}

impl<H: Deref<Target = ServiceHead>> Dirty<H> {
    /// Where a packet goes: tracked flows go to their first backend, a client with
    /// affinity to its last one, new flows to the owner, and all others to the base.
    #[inline(always)]
    fn backend<W: DataPath>(
        &self,
        world: &mut W,
        context: &PacketContext,
        table: W::Dsr,
    ) -> BackendId {
        let (segment, key) = (&context.segment, context.key);
        let now_s = world.now_s();
        let fresh = starts(segment);
        if let Some(tracked) = world.tracked(&key)
            && !fresh
            && world.target(tracked.backend).is_some()
        {
            if tracked.seen_s != now_s {
                let seen = Tracked {
                    seen_s: now_s,
                    ..tracked
                };
                world.track(&key, &seen);
            }
            return tracked.backend;
        }
        let base_lives = world.target(self.base).is_some();
        // A datagram that is not tracked may be of a flow of before: UDP knows no beginning.
        if base_lives && (!fresh || self.stays(world, &key)) {
            world.base_seen(table, self.client.slot());
            if !fresh {
                let addr = segment.ip.src.to_addr();
                world.remember(key.protocol, self.head.id, &addr, self.base);
            }
            return self.base;
        }
        if (fresh || !base_lives) && self.owner != BackendId::NONE {
            let tracked = Tracked {
                backend: self.owner,
                seen_s: now_s,
            };
            world.track(&key, &tracked);
            world.inc(PacketCounter::Tracked);
        }
        self.owner
    }

    /// Whether a client that opens a connection was seen at the base and may stay there.
    #[inline(always)]
    fn stays<W: Choices>(&self, world: &W, key: &FlowKey) -> bool {
        world.remembered(key.protocol, &self.head, &self.client.key) == Some(self.base)
    }
}

/// Sends a packet on, wrapped or by MAC address.
#[inline(always)]
fn send<P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
    backend: BackendId,
) -> Verdict {
    let Some(target) = world.target(backend) else {
        return nobody(context);
    };
    let target: &Target = &target;
    let ip = &context.segment.ip;
    let hop = way(world, backend, packet.len(), &target.source, &target.addr);
    if hop.ifindex == 0 {
        return Verdict::drop(PacketCounter::DropNoRoute);
    }
    if ip.ttl <= 1 {
        context.problem = Problem::TIME_EXCEEDED;
        return Verdict::next(Stage::Error);
    }
    let overhead = overhead(target);
    let room = room(target, &hop);
    if packet.segment_len(ip.len) > room {
        // Also of a fragment that might be cut further: no hop here does that, and its sender learns
        // the size that fits.
        context.problem = Problem::too_big(room);
        return Verdict::next(Stage::Error);
    }
    if overhead != 0
        && ip.protocol == protocol::TCP
        && context.segment.transport.flags & tcp::SYN != 0
    {
        // An option that cannot be read is the business of the ends.
        let _ = clamp(packet, &context.segment, room);
    }
    if lower_hops(packet, ip).is_none() {
        return REFUSED;
    }
    world.inc(PacketCounter::Forwarded);
    if overhead == 0 {
        return frame(packet, world, ip, &hop);
    }
    let hash = outer_hash(context.hash, ports_word(context.segment.transport.ports));
    if wrap(packet, &context.segment, target, &hop, hash).is_none() {
        return REFUSED;
    }
    Verdict::out(hop.ifindex, world.ingress())
}

/// A hash of the flow for what the network cards of backends spread by, from the client's and from
/// the word of its ports.
#[inline(always)]
pub(super) const fn outer_hash(client: u32, ports: u32) -> u32 {
    // The multiplier of Fibonacci hashing (Knuth, volume 3, section 6.4).
    (client ^ ports).wrapping_mul(0x9e37_79b1) >> 16
}

/// Greatest packet that there is room for on the way to a backend, bytes; room for wrapping is left.
#[inline(always)]
pub(super) const fn room(target: &Target, hop: &Hop) -> u32 {
    let mtu = if target.mtu == 0 {
        hop.mtu
    } else {
        target.mtu as u32
    };
    mtu.saturating_sub(overhead(target))
}

/// Bytes that wrapping adds.
#[inline(always)]
pub(super) const fn overhead(target: &Target) -> u32 {
    let ip = if target.addr.is_v4() { 20 } else { 40 };
    match target.kind {
        kind::IP => ip,
        kind::GUE => ip + 8,
        _ => 0,
    }
}

/// Lowers the maximum segment size that a SYN announces to the size that fits in `room` (RFC 9293, section
/// 3.7.1).
#[inline(always)]
fn clamp<P: Packet>(packet: &mut P, segment: &Segment, room: u32) -> Option<()> {
    let ip = &segment.ip;
    let headers = 20 + if ip.v6 { 40 } else { 20 };
    let most = room.checked_sub(headers)?;
    let end = ip.payload + segment.transport.header;
    let mut at = ip.payload + 20;
    let mut looked = 0;
    while looked < OPTIONS && at + 4 <= end {
        let option = u32::from(u16::from_be(packet.half(at)?));
        let (kind, len) = (option >> 8, option & 0xff);
        if kind == 0 {
            return None;
        }
        if kind == 2 && len == 4 {
            return lower_mss(packet, ip.payload, at + 2, most);
        }
        at += if kind == 1 { 1 } else { len.max(2) };
        looked += 1;
    }
    None
}

/// Lowers the maximum segment size at `at` in the TCP header at `tcp`.
#[inline(always)]
pub(super) fn lower_mss<P: Packet>(packet: &mut P, tcp: u32, at: u32, most: u32) -> Option<()> {
    let old = packet.half(at)?;
    if u32::from(u16::from_be(old)) <= most {
        return None;
    }
    let new = (most as u16).to_be();
    let mut delta = Delta::default();
    if (at - tcp) & 1 == 0 {
        delta.half(old, new);
    } else {
        // The checksum adds up pairs of bytes that begin at even places.
        delta.half(old.swap_bytes(), new.swap_bytes());
    }
    packet.set_half(at, new)?;
    packet.fix_checksum(tcp + 16, &delta)
}

/// Puts the outer headers around a packet.
#[inline(always)]
fn wrap<P: Packet>(
    packet: &mut P,
    segment: &Segment,
    target: &Target,
    hop: &Hop,
    hash: u32,
) -> Option<()> {
    let ip = &segment.ip;
    packet.untag(ip.at - ETHERNET)?;
    let gue = target.kind == kind::GUE;
    let udp = if gue { 8 } else { 0 };
    let inner = if ip.v6 { number::IPV6 } else { number::IPV4 };
    let carried = if gue { protocol::UDP } else { inner };
    let source = varied(target, hash);
    let v4 = target.addr.is_v4();
    if v4 {
        packet.grow(20 + udp, if gue { Outer::Ipv4Udp } else { Outer::Ipv4 })?;
        packet.set_half(12, ether::IPV4)?;
        let len = 20 + udp + ip.len;
        let words = answer::ipv4_header(len, u32::from(carried), &source, &target.addr, ip.tos);
        packet.set_words(ETHERNET, words)?;
    } else {
        packet.grow(40 + udp, if gue { Outer::Ipv6Udp } else { Outer::Ipv6 })?;
        packet.set_half(12, ether::IPV6)?;
        answer::set_ipv6(
            packet,
            ETHERNET,
            udp + ip.len,
            carried,
            &source,
            &target.addr,
        )?;
    }
    packet.set_words(0, hop.macs)?;
    if gue {
        let at = ETHERNET + if v4 { 20 } else { 40 };
        packet.set_words(at, gue_header(target, hash, ip.len))?;
    }
    Some(())
}

/// The UDP header of GUE around a packet of `len` bytes. Without a checksum (RFC 768, and for IPv6
/// RFC 6935), since the inner packet has its own.
#[inline(always)]
pub(super) const fn gue_header(target: &Target, hash: u32, len: u32) -> [u32; 2] {
    let sport = GUE_PORTS | hash & 0x3fff;
    let ports = sport << 16 | u16::from_be(target.port_be) as u32;
    [ports.to_be(), (answer::told(8 + len) << 16).to_be()]
}

/// The outer source, varied by flow so that the receiving network card spreads packets.
#[inline(always)]
pub(super) const fn varied(target: &Target, hash: u32) -> Ip {
    let bits = if target.source_bits > 16 {
        16
    } else {
        target.source_bits as u32
    };
    let mask = (1u32 << bits) - 1;
    let [a, b, c, d] = target.source.0;
    Ip([a, b, c, d ^ (hash & mask).to_be()])
}
