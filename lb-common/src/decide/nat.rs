//! The `nat` path: flows, there and back.
//!
//! A flow is new until both sides have spoken: a flood of made-up clients can push it out, and it is
//! then served by hash again. Once it is established nothing pushes it out.

use super::answer::Problem;
use super::data_path::{
    BARRED, BackendEvent, Backends, Chosen, Clock, DataPath, Flows, Host, Services,
};
use super::new_flow::{lead, note_new, takes_source};
use super::send::{REFUSED, frame, is_fresh, rewrite, way};
use super::{PacketContext, Segment, Stage, Verdict, impossible_source, nobody, note_first};
use crate::abi::packet::{Hop, Ip, PacketCounter, state};
use crate::abi::{BackendId, protocol};
use crate::flows::{End, Flow, Refused};
use crate::headers::{ETHERNET, Piece, tcp};
use crate::packet::Packet;

/// How long a way out is trusted before the routes are asked again, seconds.
pub(super) const HOP_FRESH_S: u32 = 30;

/// A packet that may belong to a flow.
#[inline(always)]
pub(super) fn flow<W: DataPath>(world: &mut W, context: &mut PacketContext) -> Verdict {
    let Some(flow) = world.flow(&context.key) else {
        let verdict = begin(world, context);
        if verdict != Verdict::PASS {
            note_first(world, &context.segment);
        }
        return verdict;
    };
    context.at = flow.at;
    note_first(world, &context.segment);
    if opens(&context.segment) && !flow.is_reply() {
        return Verdict::next(Stage::Forget);
    }
    if flow.is(state::GIVEN_UP) || world.target(flow.backend).is_none() {
        return Verdict::next(Stage::BackendGone);
    }
    if !flow.is(state::ESTABLISHED) {
        return Verdict::next(Stage::Advance);
    }
    note(world, &context.segment, flow);
    Verdict::next(Stage::Known)
}

/// The remaining steps of a packet after its flow is updated.
#[inline(always)]
pub(super) fn known<P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    match world.flow_at(&context.at) {
        Some(flow) => forward(packet, world, context, flow),
        None => REFUSED,
    }
}

/// Whether a packet opens a connection.
#[inline(always)]
fn opens(segment: &Segment) -> bool {
    segment.ip.protocol == protocol::TCP
        && segment.transport.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN
}

/// A SYN on a flow that is known: when that has ended or aged, it is a new one.
#[inline(always)]
pub(super) fn forget<W: DataPath>(world: &mut W, context: &mut PacketContext) -> Verdict {
    let Some(flow) = world.flow_at(&context.at) else {
        return REFUSED;
    };
    // A SYN that comes again while its backend is out of service gets another one.
    let serves = flow.is(state::ESTABLISHED) || world.serves(flow.backend);
    let served = serves && !flow.is(state::GIVEN_UP) && world.target(flow.backend).is_some();
    if served && !is_over(world, flow) {
        return Verdict::next(Stage::Advance);
    }
    world.remove(flow);
    begin(world, context)
}

/// A packet of no flow that is known: it may begin one if a service listens. A packet of a connection that
/// this host has itself, from a port that is also a service's, belongs to the stack.
#[inline(always)]
fn begin<W: Host + Services>(world: &mut W, context: &mut PacketContext) -> Verdict {
    context.vip = super::listening(world, &context.key);
    context.avoid = BackendId::NONE;
    let opens = opens(&context.segment);
    if context.vip.is_none() || !opens && world.has_socket(&context.key) {
        return Verdict::PASS;
    }
    if !opens && context.segment.transport.flags & tcp::SYN != 0 {
        // It answers a SYN that this host has not sent (RFC 9293, section 3.10.7.1).
        return nobody(context);
    }
    Verdict::next(Stage::NewFlow)
}

/// Whether a flow has ended or aged.
#[inline(always)]
fn is_over<W: Clock + Host + Flows>(world: &W, flow: W::Flow) -> bool {
    let settings = world.settings();
    let timeout_s = if flow.is(state::ESTABLISHED) {
        settings.established_s
    } else {
        settings.syn_s
    };
    state::is_ended(flow.at.state) || world.now_s().wrapping_sub(flow.last_s) >= timeout_s
}

/// Notes a packet of a flow: once a second, when it changes something, or when its sequence number has
/// moved on.
#[inline(always)]
fn note<W: Clock + Flows>(world: &mut W, segment: &Segment, flow: W::Flow) {
    let ends = segment.transport.flags & (tcp::FIN | tcp::RST);
    if ends != 0 && !is_plausible(segment, &flow) {
        // The receiver drops it (RFC 9293, section 3.10.7.4), and the flow goes on.
        return;
    }
    let mut bits = state::SEEN;
    if ends & tcp::FIN != 0 {
        bits |= state::FIN;
    }
    if ends & tcp::RST != 0 {
        bits |= state::RST;
    }
    let bits = flow.end().bits(bits);
    let now_s = world.now_s();
    let undone = if ends & tcp::RST == 0 {
        refuted(&flow, now_s)
    } else {
        0
    };
    let news = !flow.is(bits) || undone != 0;
    if news {
        world.mark(flow, bits, undone);
    }
    let seq = next_seq(segment, flow.next_seq);
    if news || now_s != flow.seen_s || has_moved(seq, flow.next_seq) {
        world.touch(flow, now_s, seq);
        if flow.is(state::ESTABLISHED) && !flow.is(state::PINNED) {
            world.keep(flow);
        }
    }
}

/// Bytes that a sender may get ahead of the sequence number that its flow has, until that is renewed.
const MOVED: i32 = 1 << 15;
/// How far the sequence number of a FIN or RST may be from the one that its flow has, bytes: [`MOVED`] and
/// more ahead of it, and behind it by the bytes in flight to the receiver, or lost.
const PLAUSIBLE: u32 = 1 << 18;
/// An end that accepted an RST is silent after this time, except for packets already in flight. Seconds.
const ACCEPTED_S: u32 = 2;

/// Whether the sequence number that a flow has of a sender is to be renewed. `seq` follows its packet.
#[inline(always)]
pub(super) const fn has_moved(seq: u32, next_seq: u32) -> bool {
    seq.wrapping_sub(next_seq) as i32 > MOVED
}

/// Whether the receiver may accept the FIN or RST of a flow: blind ones are far away (RFC 5961, section
/// 1.2).
#[inline(always)]
fn is_plausible(segment: &Segment, flow: &Flow) -> bool {
    let off = segment
        .transport
        .seq
        .wrapping_sub(flow.next_seq)
        .wrapping_add(PLAUSIBLE);
    off <= 2 * PLAUSIBLE || !flow.is(state::ESTABLISHED)
}

/// The RST of the other end, as a bit of [`state`], if the packets of this one show that it did not accept
/// it (RFC 5961, section 3.2).
#[inline(always)]
fn refuted(flow: &Flow, now_s: u32) -> u32 {
    let late = now_s.wrapping_sub(flow.last_s) >= ACCEPTED_S;
    match late {
        true => flow.at.state & flow.end().other().bits(state::RST),
        false => 0,
    }
}

/// The sequence number behind a TCP segment; `old` if the packet does not tell.
#[inline(always)]
fn next_seq(segment: &Segment, old: u32) -> u32 {
    let (ip, transport) = (&segment.ip, &segment.transport);
    if ip.protocol != protocol::TCP || ip.piece == Piece::Later {
        return old;
    }
    let data = ip.payload_len().saturating_sub(transport.header);
    let control =
        u32::from(transport.flags & tcp::SYN != 0) + u32::from(transport.flags & tcp::FIN != 0);
    transport.seq.wrapping_add(data).wrapping_add(control)
}

/// Advances the state of a flow that is not established.
#[inline(always)]
pub(super) fn advance<W: DataPath>(world: &mut W, context: &mut PacketContext) -> Verdict {
    let Some(flow) = world.flow_at(&context.at) else {
        return REFUSED;
    };
    note(world, &context.segment, flow);
    if flow.is(state::ESTABLISHED) {
        return Verdict::next(Stage::Known);
    }
    if flow.is_reply() {
        answered(world, &context.segment, flow.backend);
    } else {
        confirmed(world, context, flow);
    }
    Verdict::next(Stage::Known)
}

/// The backend speaks: it may refuse.
#[inline(always)]
fn answered<W: Backends>(world: &mut W, segment: &Segment, backend: BackendId) {
    if segment.transport.flags & tcp::RST != 0 {
        world.count_backend(backend, BackendEvent::Refused);
    }
}

/// The client speaks: once the backend has spoken too the flow is established.
#[inline(always)]
fn confirmed<W: DataPath>(world: &mut W, context: &PacketContext, flow: W::Flow) {
    let spoken = flow.is(End::Backend.bits(state::SEEN)) && !flow.is(End::Backend.bits(state::RST));
    let refuses = context.segment.transport.flags & tcp::RST != 0;
    if !spoken || refuses || opens(&context.segment) {
        return;
    }
    let Some(pinned) = world.establish(flow) else {
        return;
    };
    world.inc(PacketCounter::FlowEstablished);
    if !pinned {
        world.inc(PacketCounter::FlowQuota);
    }
    world.count_backend(flow.backend, BackendEvent::Answered);
    if context.key.protocol == u32::from(protocol::TCP) {
        world.count_client(flow, &context.key.src);
    }
    let client = context.key.src.to_addr();
    world.remember(context.key.protocol, flow.service, &client, flow.backend);
}

/// Rewrites a packet and sends it on.
#[inline(always)]
fn forward<P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
    flow: W::Flow,
) -> Verdict {
    let way = way_out(packet, world, context, flow);
    if way.instead != Verdict::PASS {
        return way.instead;
    }
    if way.asks != 0 && context.segment.ip.at == ETHERNET {
        if rewrite(packet, &context.segment, &flow.out, 1).is_none() {
            return REFUSED;
        }
        world.inc(sent(&flow));
        return Verdict::neighbour(way.asks);
    }
    if way.hop.ifindex == 0 {
        world.inc(PacketCounter::ToStack);
        let done = rewrite(packet, &context.segment, &flow.out, 0);
        return if done.is_some() {
            Verdict::STACK
        } else {
            REFUSED
        };
    }
    if rewrite(packet, &context.segment, &flow.out, 1).is_none() {
        return REFUSED;
    }
    world.inc(sent(&flow));
    frame(packet, world, &context.segment.ip, &way.hop)
}

/// The counter for a packet of the flow that was sent on.
#[inline(always)]
fn sent(flow: &Flow) -> PacketCounter {
    if flow.is_reply() {
        PacketCounter::Replied
    } else {
        PacketCounter::Forwarded
    }
}

/// The next hop of a packet of a flow.
pub(super) struct Way {
    /// The way out; [`Hop::NONE`] when the stack has to deliver the packet.
    pub(super) hop: Hop,
    /// Interface of a neighbour without a known MAC address. The stack would ask for it too, but
    /// takes no packet from elsewhere whose source is an address of this host, and forwards IPv6 only
    /// if all interfaces do (before Linux 6.17).
    asks: u32,
    /// The verdict instead of sending; [`Verdict::PASS`] for none.
    pub(super) instead: Verdict,
}

impl Way {
    const BY_STACK: Self = Self {
        hop: Hop::NONE,
        asks: 0,
        instead: Verdict::PASS,
    };

    #[inline(always)]
    const fn refused(instead: Verdict) -> Self {
        Self {
            hop: Hop::NONE,
            asks: 0,
            instead,
        }
    }
}

/// Finds the way out for a packet of a flow, and whether it may go that way.
#[inline(always)]
pub(super) fn way_out<P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
    flow: W::Flow,
) -> Way {
    if flow.is(state::LOCAL) {
        if !flow.is_reply()
            && let Some(sent) = world.sent(flow.backend)
        {
            world.count_sent(sent, packet.len());
        }
        return Way::BY_STACK;
    }
    let (src, dst) = (&flow.out.src, &flow.out.dst);
    let hop = if !flow.is_reply() {
        way(world, flow.backend, packet.len(), src, dst)
    } else if is_fresh(world, &flow.hop, HOP_FRESH_S) {
        flow.hop
    } else if world.bars(dst, src) {
        // The client is refused by rules that came when its flow was there.
        return Way::refused(Verdict::drop(PacketCounter::DropNoRoute));
    } else {
        let hop = world.route(src, dst);
        world.set_hop(flow, &hop);
        hop
    };
    if context.segment.ip.ttl <= 1 {
        context.problem = Problem::TIME_EXCEEDED;
        return Way::refused(Verdict::next(Stage::Error));
    }
    if hop.ifindex == 0 {
        // A hop without an interface was looked up just now.
        let asks = world.neighbour();
        if asks == BARRED {
            return Way::refused(Verdict::drop(PacketCounter::DropNoRoute));
        }
        return Way {
            asks,
            ..Way::BY_STACK
        };
    }
    if packet.segment_len(context.segment.ip.len) > hop.mtu {
        if !context.segment.ip.whole_only {
            // The stack fragments it.
            return Way::BY_STACK;
        }
        context.problem = Problem::too_big(hop.mtu);
        return Way::refused(Verdict::next(Stage::Error));
    }
    Way {
        hop,
        ..Way::BY_STACK
    }
}

/// A packet of a flow with a removed backend: the sender is told, so that it connects
/// again now and not when it has given up.
#[inline(always)]
pub(super) fn backend_gone<W: Flows>(world: &mut W, context: &mut PacketContext) -> Verdict {
    if context.segment.ip.protocol == protocol::UDP {
        let Some(flow) = world.flow_at(&context.at).filter(|flow| !flow.is_reply()) else {
            return Verdict::drop(PacketCounter::DropNoBackend);
        };
        // The client's next datagram begins anew.
        world.remove(flow);
    }
    nobody(context)
}

/// A packet for a service that belongs to no flow that is known.
#[inline(always)]
pub(super) fn new_flow<W: DataPath>(world: &mut W, context: &mut PacketContext) -> Verdict {
    let vip = context.vip;
    if let Some(reason) = impossible_source(world, &context.key.src) {
        return Verdict::drop(reason);
    }
    if world.bars(&context.key.src, &context.key.dst) {
        return Verdict::drop(PacketCounter::DropNoRoute);
    }
    if world.denies(vip.service, &context.key.src) {
        return Verdict::DROPPED;
    }
    let client = context.key.src.to_addr();
    let chosen = world.choose(vip.service, context.key.protocol, &client, context.avoid);
    let backend = match chosen {
        Chosen::OtherPath => {
            world.inc(PacketCounter::OtherPath);
            return Verdict::PASS;
        }
        Chosen::Packet(backend) => backend,
        Chosen::None if context.avoid != BackendId::NONE => {
            return Verdict::drop(PacketCounter::DropNoPort);
        }
        Chosen::None => return nobody(context),
    };
    let Some(target) = world.target(backend) else {
        return nobody(context);
    };
    if target.addr != Ip::default() && target.addr.is_v4() != context.key.dst.is_v4() {
        // Only the agent can join two address families.
        world.inc(PacketCounter::OtherPath);
        return Verdict::PASS;
    }
    if context.segment.transport.flags & tcp::RST != 0 {
        // It ends an unknown flow.
        return Verdict::drop(PacketCounter::DropNoBackend);
    }
    // A second backend is asked for by the same connection.
    if opens(&context.segment)
        && context.avoid == BackendId::NONE
        && world.is_full(vip.service, &context.key.src)
    {
        return Verdict::DROPPED;
    }
    context.backend = backend;
    context.takes_source = takes_source(world, &target);
    context.ports_of = world.cpu();
    Verdict::next(Stage::Enter)
}

/// CPUs from which source ports are tried when this one's are used up.
pub(super) const MOST_BORROWED: u32 = 3;

/// Enters a new flow with a chosen backend.
#[inline(always)]
pub(super) fn entered<W: DataPath>(world: &mut W, context: &mut PacketContext) -> Verdict {
    let backend = context.backend;
    let Some(target) = world.target(backend) else {
        return nobody(context);
    };
    let Some(mut new) = world.room() else {
        return REFUSED;
    };
    new.key = context.key;
    new.service = context.vip.service;
    new.next_seq = next_seq(&context.segment, 0);
    if !lead(
        world,
        &mut new,
        &target,
        context.takes_source,
        context.ports_of,
    ) {
        return Verdict::next(Stage::Borrow);
    }
    let evicted = match world.enter(new) {
        Ok((flow, evicted)) => {
            context.at = flow.at;
            evicted
        }
        Err(Refused::NoPort) => return Verdict::next(Stage::Borrow),
        Err(Refused::NoRoom) => return Verdict::drop(PacketCounter::DropNoRoom),
        // Another CPU was faster.
        Err(Refused::There) => return Verdict::next(Stage::Flow),
    };
    if context.avoid != BackendId::NONE {
        world.inc(PacketCounter::FlowElsewhere);
    }
    note_new(world, backend, evicted);
    Verdict::next(Stage::Known)
}

/// A flow has found no source port among those of one CPU.
#[inline(always)]
pub(super) fn borrow<W: Host>(world: &W, context: &mut PacketContext) -> Verdict {
    if context.ports_of.wrapping_sub(world.cpu()) >= MOST_BORROWED || !context.takes_source {
        return elsewhere(context);
    }
    context.ports_of = context.ports_of.wrapping_add(1);
    Verdict::next(Stage::Enter)
}

/// No source port towards the backend of a flow is free: one that begins goes to the next, once. A client
/// that keeps its port has no other.
#[inline(always)]
fn elsewhere(context: &mut PacketContext) -> Verdict {
    let begins = context.segment.ip.protocol == protocol::UDP || opens(&context.segment);
    if !begins || !context.takes_source || context.avoid != BackendId::NONE {
        return Verdict::drop(PacketCounter::DropNoPort);
    }
    context.avoid = context.backend;
    Verdict::next(Stage::NewFlow)
}

/// A packet of the host's own stack that may be a reply of a backend on this host.
#[inline(always)]
pub(super) fn local_reply<W: DataPath>(world: &mut W, context: &mut PacketContext) -> Verdict {
    let Some(flow) = world.flow(&context.key) else {
        return Verdict::PASS;
    };
    if !flow.is_reply() || !flow.is(state::LOCAL) {
        return Verdict::PASS;
    }
    note_first(world, &context.segment);
    note(world, &context.segment, flow);
    if !flow.is(state::ESTABLISHED) {
        answered(world, &context.segment, flow.backend);
    }
    world.inc(PacketCounter::Replied);
    context.at = flow.at;
    Verdict::next(Stage::LocalKnown)
}

/// Gives such a reply the address of the service.
#[inline(always)]
pub(super) fn local_known<P: Packet, W: Flows>(
    packet: &mut P,
    world: &W,
    context: &PacketContext,
) -> Verdict {
    let flow = world.flow_at(&context.at);
    let done = flow.and_then(|flow| rewrite(packet, &context.segment, &flow.out, 0));
    if done.is_some() {
        Verdict::STACK
    } else {
        REFUSED
    }
}
