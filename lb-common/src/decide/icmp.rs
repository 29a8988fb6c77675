//! ICMP: echo to service addresses, and errors about flows. Quoted headers are rewritten so
//! that the receiver recognises its own packet (RFC 5508, section 4).

use super::data_path::{BackendEvent, Backends, Counters, DataPath, Flows, Host, Services};
use super::send::{REFUSED, addresses, frame};
use super::{PacketContext, Stage, Verdict, answer, malformed, nat};
use crate::abi::packet::{FlowKey, Hop, Ip, PacketCounter, VipKey, state, vip};
use crate::abi::{BackendId, protocol};
use crate::checksum::Delta;
use crate::headers::{self, IpHeader, Piece, Transport, number};
use crate::packet::{Packet, ports, ports_word};

/// An ICMP error and the packet that it quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quote {
    /// The quoted IP header.
    ip: IpHeader,
    /// The quoted ports.
    ports: [u16; 2],
    /// Key of the flow in the direction in which the error goes.
    key: FlowKey,
    /// Type and code of the error.
    what: u16,
}

impl Quote {
    /// Nothing.
    pub(super) const NONE: Self = Self {
        ip: IpHeader::NONE,
        ports: [0; 2],
        key: FlowKey::NONE,
        what: 0,
    };
}

/// An ICMP message that came by an interface.
#[inline(always)]
pub(super) fn received<P: Packet, W: Counters + Services>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    let ip = &context.segment.ip;
    if ip.piece != Piece::Whole || ip.v6 != (ip.protocol == number::ICMPV6) {
        return Verdict::PASS;
    }
    let Some([first]) = packet.words::<1>(ip.payload) else {
        return malformed(world, &ip.dst);
    };
    if ip.payload_len() < 8 {
        return malformed(world, &ip.dst);
    }
    let kind = (u32::from_be(first) >> 24) as u8;
    if kind == if ip.v6 { 128 } else { 8 } {
        return echo(packet, world, ip, first);
    }
    if !is_error(ip, kind) {
        return Verdict::PASS;
    }
    let Some(quote) = quote(packet, ip) else {
        return malformed(world, &ip.dst);
    };
    // It concerns the sender of the quoted packet, and comes to it.
    if ip.dst != quote.key.dst {
        return Verdict::PASS;
    }
    context.quote = quote;
    context.quote.what = (u32::from_be(first) >> 16) as u16;
    Verdict::next(Stage::IcmpRelated)
}

/// An ICMP error from the host's own stack about a flow of a backend on this host.
#[inline(always)]
pub(super) fn local_error<P: Packet>(packet: &P, context: &mut PacketContext) -> Verdict {
    let ip = &context.segment.ip;
    if ip.piece != Piece::Whole || ip.v6 != (ip.protocol == number::ICMPV6) {
        return Verdict::PASS;
    }
    let Some([first]) = packet.words::<1>(ip.payload) else {
        return Verdict::PASS;
    };
    if ip.payload_len() < 8 || !is_error(ip, (u32::from_be(first) >> 24) as u8) {
        return Verdict::PASS;
    }
    let Some(quote) = quote(packet, ip) else {
        return Verdict::PASS;
    };
    context.quote = quote;
    Verdict::next(Stage::LocalIcmpRelated)
}

/// The flow of a backend on this host that such an error is about.
#[inline(always)]
pub(super) fn local_related<W: Flows>(world: &mut W, context: &mut PacketContext) -> Verdict {
    let Some(flow) = world.flow(&context.quote.key) else {
        return Verdict::PASS;
    };
    if !flow.is_reply() || !flow.is(state::LOCAL) {
        return Verdict::PASS;
    }
    context.at = flow.at;
    context.hop = Hop::NONE;
    Verdict::next(Stage::Mend)
}

/// RFC 792; RFC 4443.
#[inline(always)]
const fn is_error(ip: &IpHeader, kind: u8) -> bool {
    if ip.v6 {
        kind >= 1 && kind <= 4
    } else {
        matches!(kind, 3 | 11 | 12)
    }
}

/// Answers an echo request to an address of a service that the host itself does not have.
#[inline(always)]
fn echo<P: Packet, W: Counters + Services>(
    packet: &mut P,
    world: &mut W,
    ip: &IpHeader,
    first: u32,
) -> Verdict {
    let Some(address) = world.vip(&VipKey::address(ip.dst)) else {
        return Verdict::PASS;
    };
    if address.flags & vip::ECHO == 0 {
        return Verdict::PASS;
    }
    if let Some(reason) = super::impossible_source(world, &ip.src) {
        return Verdict::drop(reason);
    }
    if echo_reply(packet, ip, first).is_none() {
        return REFUSED;
    }
    world.inc(PacketCounter::Echoed);
    Verdict::TRANSMIT
}

#[inline(always)]
fn echo_reply<P: Packet>(packet: &mut P, ip: &IpHeader, first: u32) -> Option<()> {
    let link = answer::Link::read(packet, ip.at)?;
    link.write_back(packet, ip.at)?;
    // Exchanging the addresses changes no checksum.
    if ip.v6 {
        let (s, d) = (ip.dst.0, ip.src.0);
        packet.set_words(ip.at + 8, [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3]])?;
    } else {
        packet.set_words(ip.at + 12, [ip.dst.0[3], ip.src.0[3]])?;
    }
    let answer = if ip.v6 { 129 } else { 0u32 };
    let word = (u32::from_be(first) & 0x00ff_ffff) | answer << 24;
    let mut delta = Delta::default();
    delta.word(
        (u32::from_be(first) & 0xffff_0000).to_be(),
        (word & 0xffff_0000).to_be(),
    );
    packet.set_words(ip.payload, [word.to_be()])?;
    packet.fix_checksum(ip.payload + 2, &delta)
}

/// Reads the packet that an ICMP error quotes; `None` if it is not a TCP or UDP packet with its ports.
#[inline(always)]
fn quote<P: Packet>(packet: &P, ip: &IpHeader) -> Option<Quote> {
    let inner = headers::quoted(packet, ip.payload + 8, ip.v6)?;
    let is_flow = matches!(inner.protocol, protocol::TCP | protocol::UDP);
    if !is_flow || inner.piece == Piece::Later {
        return None;
    }
    // Bytes behind the message in the frame are padding.
    if inner.payload + 4 > ip.at + ip.len {
        return None;
    }
    let [word] = packet.words::<1>(inner.payload)?;
    let ports = ports(word);
    Some(Quote {
        ip: inner,
        ports,
        key: inner.key(ports).reversed(),
        what: 0,
    })
}

/// An error about a packet of a service: it takes the route of packets in its direction.
#[inline(always)]
pub(super) fn related<W: DataPath>(world: &mut W, context: &mut PacketContext) -> Verdict {
    let key = &context.quote.key;
    let vip = world.vip(&VipKey::new(
        key.dst,
        key.dport_be,
        context.quote.ip.protocol,
    ));
    if let Some(vip) = vip
        && vip.flags & vip::DSR != 0
    {
        // The error is sent on unchanged, along the route of the client's packets.
        world.inc(PacketCounter::IcmpPassed);
        context.key = *key;
        context.vip = vip;
        context.segment.transport = Transport::NONE;
        context.segment.ip.src = context.key.src;
        return Verdict::next(Stage::Dsr);
    }
    let Some(flow) = world.flow(key) else {
        return match vip {
            Some(_) => Verdict::drop(PacketCounter::DropIcmp),
            None => Verdict::PASS,
        };
    };
    context.at = flow.at;
    if refuses(&context.quote) && flow.is_reply() && comes_from(world, flow.backend) {
        world.count_backend(flow.backend, BackendEvent::Refused);
    }
    Verdict::next(Stage::WayOut)
}

/// Whether an error says that no socket takes the datagrams of a client.
#[inline(always)]
const fn refuses(quote: &Quote) -> bool {
    let port_unreachable = if quote.ip.v6 { 0x0104 } else { 0x0303 };
    quote.ip.protocol == protocol::UDP && quote.what == port_unreachable
}

/// Whether a packet came by the interface that leads to a backend: errors from other interfaces do not
/// count.
#[inline(always)]
fn comes_from<W: Host + Backends>(world: &W, backend: BackendId) -> bool {
    let ingress = world.ingress();
    world
        .sent(backend)
        .is_some_and(|sent| sent.hop.ifindex == ingress)
}

/// Finds the way of an error about a packet of a flow.
#[inline(always)]
pub(super) fn way_out<P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    let Some(flow) = world.flow_at(&context.at) else {
        return REFUSED;
    };
    let way = nat::way_out(packet, world, context, flow);
    if way.instead != Verdict::PASS {
        return way.instead;
    }
    context.hop = way.hop;
    Verdict::next(Stage::Mend)
}

/// Mends an error about a packet of a flow, and sends it on.
#[inline(always)]
pub(super) fn mended<P: Packet, W: Host + Counters + Flows>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    let Some(flow) = world.flow_at(&context.at) else {
        return REFUSED;
    };
    let (ip, quote) = (&context.segment.ip, &context.quote);
    let hops = u32::from(context.hop.ifindex != 0);
    if mend(packet, ip, quote, &flow.out, &mut context.key, hops).is_none() {
        return REFUSED;
    }
    world.inc(PacketCounter::IcmpPassed);
    if hops == 0 {
        return Verdict::STACK;
    }
    frame(packet, world, ip, &context.hop)
}

/// Rewrites an ICMP error about a flow: the quoted packet to the one that its sender sent, the error to go
/// to that sender, as `out` says afterwards.
#[inline(always)]
fn mend<P: Packet>(
    packet: &mut P,
    ip: &IpHeader,
    quote: &Quote,
    flow: &FlowKey,
    out: &mut FlowKey,
    hops: u32,
) -> Option<()> {
    let mut delta = Delta::default();
    inner_addresses(packet, &quote.ip, &flow.reversed(), &mut delta)?;
    inner_ports(packet, ip, quote, flow, &mut delta)?;
    // The error of a router keeps its address, that of the other end gets the end's. Where both
    // ends see each other's addresses changed, so does the router's: it may be on both ways, and
    // would not take a packet from itself.
    let both = flow.src != quote.key.src && flow.dst != quote.key.dst;
    let src = if both || ip.src == quote.key.src {
        flow.src
    } else {
        ip.src
    };
    *out = *flow;
    out.src = src;
    let mut pseudo = Delta::default();
    addresses(packet, ip, out, hops, &mut pseudo)?;
    if ip.v6 {
        delta.pseudo = pseudo.pseudo;
    }
    packet.fix_checksum(ip.payload + 2, &delta)
}

/// The quoted IP header; its changes are added to `delta`.
#[inline(always)]
fn inner_addresses<P: Packet>(
    packet: &mut P,
    inner: &IpHeader,
    original: &FlowKey,
    delta: &mut Delta,
) -> Option<()> {
    if inner.v6 {
        note(delta, &inner.src, &original.src);
        note(delta, &inner.dst, &original.dst);
        let (s, d) = (original.src.0, original.dst.0);
        return packet.set_words(
            inner.at + 8,
            [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3]],
        );
    }
    // A header with a right checksum adds nothing to the sum around it, before or after. But a
    // router may have quoted it with its TTL lowered and the checksum not; so go by differences.
    let [third] = packet.words::<1>(inner.at + 8)?;
    let old = (u32::from_be(third) as u16).to_be();
    let mut header = Delta::default();
    header.word(inner.src.0[3], original.src.0[3]);
    header.word(inner.dst.0[3], original.dst.0[3]);
    let new = header.applied(old);
    delta.segment = header.segment;
    delta.half(old, new);
    let third = (u32::from_be(third) & 0xffff_0000) | u32::from(u16::from_be(new));
    let (src, dst) = (original.src.0[3], original.dst.0[3]);
    packet.set_words(inner.at + 8, [third.to_be(), src, dst])
}

#[inline(always)]
fn note(delta: &mut Delta, old: &Ip, new: &Ip) {
    let mut i = 0;
    while i < 4 {
        delta.word(old.0[i], new.0[i]);
        i += 1;
    }
}

/// The quoted ports, and the quoted checksum if the quote reaches that far.
#[inline(always)]
fn inner_ports<P: Packet>(
    packet: &mut P,
    ip: &IpHeader,
    quote: &Quote,
    out: &FlowKey,
    delta: &mut Delta,
) -> Option<()> {
    let inner = &quote.ip;
    let old_ports = ports_word(quote.ports);
    let new_ports = ports_word([out.dport_be, out.sport_be]);
    delta.word(old_ports, new_ports);
    let tcp = inner.protocol == protocol::TCP;
    let at = inner.payload + if tcp { 16 } else { 6 };
    if at + 2 <= ip.at + ip.len
        && let Some(old) = packet.half(at)
        && (tcp || old != 0)
    {
        let mut segment = Delta {
            zero_is_none: !tcp,
            ..Delta::default()
        };
        segment.word(old_ports, new_ports);
        note_pseudo(&mut segment, &inner.src, &out.dst);
        note_pseudo(&mut segment, &inner.dst, &out.src);
        let new = segment.applied(old);
        delta.half(old, new);
        packet.set_half(at, new)?;
    }
    packet.set_words(inner.payload, [new_ports])
}

#[inline(always)]
fn note_pseudo(delta: &mut Delta, old: &Ip, new: &Ip) {
    let mut i = 0;
    while i < 4 {
        delta.address(old.0[i], new.0[i]);
        i += 1;
    }
}
