//! The `nat` path: flows, as pairs of entries, one for each direction.
//!
//! A flow is new until both sides have spoken: its entries are where a flood of made-up clients
//! can push them out, and it is then served by hash again. Once established it is moved to where
//! nothing pushes it out.

use super::answer::Problem;
use super::send::{REFUSED, frame, is_fresh, rewrite, way};
use super::world::{BackendEvent, Chosen, NewFlow, World};
use super::{Job, Segment, Stage, Verdict, impossible_source, nobody, note_first};
use crate::abi::packet::{Flow, FlowKey, Hop, Ip, PacketCounter, Target, flow, kind};
use crate::abi::{BackendId, ServiceId, protocol};
use crate::hash;
use crate::headers::{ETHERNET, Piece, tcp};
use crate::packet::Packet;

/// How long a way out is trusted before the routes are asked again, seconds.
pub(super) const HOP_FRESH_S: u32 = 30;
/// Source ports tried for one flow.
const PORT_TRIES: u32 = 8;

/// A packet that may belong to a flow.
#[inline(always)]
pub(super) fn flow<P: Packet, W: World>(packet: &mut P, world: &mut W, job: &mut Job) -> Verdict {
    let Some(entry) = world.flow(&job.key) else {
        let verdict = begin(world, job);
        if verdict != Verdict::PASS {
            note_first(world, &job.segment);
        }
        return verdict;
    };
    note_first(world, &job.segment);
    if opens(&job.segment) && entry.flags & flow::REPLY == 0 {
        return Verdict::next(Stage::Forget);
    }
    if world.target(entry.backend).is_none() {
        return Verdict::next(Stage::Orphaned);
    }
    if entry.flags & flow::ESTABLISHED == 0 {
        return Verdict::next(Stage::Advance);
    }
    note(world, &job.segment, entry);
    forward(packet, world, job, entry)
}

/// The rest of the way of a packet whose flow has been seen to.
#[inline(always)]
pub(super) fn known<P: Packet, W: World>(packet: &mut P, world: &mut W, job: &mut Job) -> Verdict {
    match world.flow(&job.key) {
        Some(entry) => forward(packet, world, job, entry),
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
pub(super) fn forget<W: World>(world: &mut W, job: &mut Job) -> Verdict {
    let Some(entry) = world.flow(&job.key) else {
        return begin(world, job);
    };
    if world.target(entry.backend).is_some() && !is_over(world, &job.key, &entry) {
        return Verdict::next(Stage::Advance);
    }
    take_out(world, &job.key, &entry);
    begin(world, job)
}

/// The other entry of a flow.
#[inline(always)]
fn other<W: World>(world: &W, key: &FlowKey, entry: &Flow) -> Option<W::Flow> {
    world
        .flow(&entry.pair())
        .filter(|other| other.is_pair_of(key))
}

/// Takes a flow out, and nothing of another.
#[inline(always)]
fn take_out<W: World>(world: &mut W, key: &FlowKey, entry: &Flow) {
    let pair = match other(world, key, entry) {
        Some(_) => entry.pair(),
        None => *key,
    };
    world.remove(key, &pair);
}

/// A packet of no flow that is known: it may begin one if somebody listens.
#[inline(always)]
fn begin<W: World>(world: &W, job: &mut Job) -> Verdict {
    job.vip = super::listening(world, &job.key);
    if job.vip.is_none() {
        return Verdict::PASS;
    }
    Verdict::next(Stage::Fresh)
}

/// Whether a flow has ended or aged.
#[inline(always)]
fn is_over<W: World>(world: &W, key: &FlowKey, entry: &Flow) -> bool {
    let (other, seen_s) = match other(world, key, entry) {
        Some(pair) => (pair.flags, pair.seen_s.max(entry.seen_s)),
        None => (0, entry.seen_s),
    };
    let settings = world.settings();
    let timeout_s = if entry.flags & flow::ESTABLISHED == 0 {
        settings.syn_s
    } else {
        settings.established_s
    };
    let ended = (entry.flags | other) & flow::RST != 0 || entry.flags & other & flow::FIN != 0;
    ended || world.now_s().wrapping_sub(seen_s) >= timeout_s
}

/// Notes a packet in its entry, once a second or when it changes something.
#[inline(always)]
fn note<W: World>(world: &mut W, segment: &Segment, entry: W::Flow) {
    let mut flags = entry.flags | flow::SEEN;
    if segment.transport.flags & tcp::FIN != 0 {
        flags |= flow::FIN;
    }
    if segment.transport.flags & tcp::RST != 0 {
        flags |= flow::RST;
    }
    let now_s = world.now_s();
    if flags != entry.flags || now_s != entry.seen_s {
        world.touch(entry, flags, now_s, next_seq(segment, entry.next_seq));
    }
}

/// The sequence number behind a TCP segment; `old` where the packet does not tell.
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

/// What a packet does for a flow that is not established.
#[inline(always)]
pub(super) fn advance<W: World>(world: &mut W, job: &mut Job) -> Verdict {
    let Some(entry) = world.flow(&job.key) else {
        return REFUSED;
    };
    if entry.flags & (flow::ESTABLISHED | flow::REPLY) == 0 && is_bereft(world, job, &entry) {
        world.remove(&job.key, &job.key);
        return begin(world, job);
    }
    note(world, &job.segment, entry);
    if entry.flags & flow::ESTABLISHED == 0 {
        if entry.flags & flow::REPLY != 0 {
            answered(world, &job.segment, &entry);
        } else {
            confirmed(world, job, &entry);
        }
    }
    Verdict::next(Stage::Known)
}

/// Whether the source port of a flow has been given to another: its entry for what comes back was
/// pushed out, and nobody could know that the port was still in use.
#[inline(always)]
fn is_bereft<W: World>(world: &W, job: &Job, entry: &Flow) -> bool {
    match world.flow(&entry.pair()) {
        Some(reply) => !reply.is_pair_of(&job.key),
        None => false,
    }
}

/// The backend speaks: it may refuse.
#[inline(always)]
fn answered<W: World>(world: &mut W, segment: &Segment, entry: &Flow) {
    if segment.transport.flags & tcp::RST != 0 {
        world.count_backend(entry.backend, BackendEvent::Refused);
    }
}

/// The client speaks: once the backend has spoken too the flow is established.
#[inline(always)]
fn confirmed<W: World>(world: &mut W, job: &Job, entry: &Flow) {
    let pair = entry.pair();
    let Some(reply) = world.flow(&pair) else {
        // Pushed out by others; it is still needed.
        let new = NewFlow {
            out: entry.out,
            backend: entry.backend,
            service: entry.service,
            flags: entry.flags,
            next_seq: 0,
        };
        world.insert(&pair, &reply_of(&job.key, &new));
        return;
    };
    let spoken = reply.flags & (flow::SEEN | flow::RST) == flow::SEEN;
    let refuses = job.segment.transport.flags & tcp::RST != 0;
    if !spoken || refuses || opens(&job.segment) {
        return;
    }
    let moved = world.establish(&job.key, &pair);
    world.note(if moved {
        PacketCounter::FlowEstablished
    } else {
        PacketCounter::FlowQuota
    });
    world.count_backend(entry.backend, BackendEvent::Answered);
    let client = job.key.src.to_addr();
    world.remember(job.key.protocol, entry.service, &client, entry.backend);
}

/// Rewrites a packet and sends it on.
#[inline(always)]
fn forward<P: Packet, W: World>(
    packet: &mut P,
    world: &mut W,
    job: &mut Job,
    entry: W::Flow,
) -> Verdict {
    let reply = entry.flags & flow::REPLY != 0;
    let way = way_out(packet, world, job, entry);
    if way.instead != Verdict::PASS {
        return way.instead;
    }
    if way.asks != 0 && job.segment.ip.at == ETHERNET {
        if rewrite(packet, &job.segment, &entry.out, 1).is_none() {
            return REFUSED;
        }
        world.note(PacketCounter::Replied);
        return Verdict::neighbour(way.asks);
    }
    if way.hop.ifindex == 0 {
        world.note(PacketCounter::ToStack);
        let done = rewrite(packet, &job.segment, &entry.out, 0);
        return if done.is_some() {
            Verdict::STACK
        } else {
            REFUSED
        };
    }
    if rewrite(packet, &job.segment, &entry.out, 1).is_none() {
        return REFUSED;
    }
    world.note(if reply {
        PacketCounter::Replied
    } else {
        PacketCounter::Forwarded
    });
    frame(packet, world, &job.segment.ip, &way.hop)
}

/// Where a packet of a flow goes.
pub(super) struct Way {
    /// The way out; [`Hop::NONE`] when the stack has to deliver the packet.
    pub(super) hop: Hop,
    /// Interface of a neighbour whose MAC address is not known yet. The stack would ask for it too,
    /// but takes no packet from elsewhere whose source is an address of this host.
    asks: u32,
    /// What becomes of it instead; [`Verdict::PASS`] for nothing.
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
pub(super) fn way_out<P: Packet, W: World>(
    packet: &mut P,
    world: &mut W,
    job: &mut Job,
    entry: W::Flow,
) -> Way {
    if entry.flags & flow::LOCAL != 0 {
        if entry.flags & flow::REPLY == 0
            && let Some(sent) = world.sent(entry.backend)
        {
            world.count_sent(sent, packet.len());
        }
        return Way::BY_STACK;
    }
    let (src, dst) = (&entry.out.src, &entry.out.dst);
    let mut asks = 0;
    let hop = if entry.flags & flow::REPLY == 0 {
        way(world, entry.backend, packet.len(), src, dst)
    } else if is_fresh(world, &entry.hop, HOP_FRESH_S) {
        entry.hop
    } else {
        let hop = world.route(src, dst);
        if hop.ifindex == 0 {
            asks = world.neighbour();
        }
        world.set_hop(entry, &hop);
        hop
    };
    if job.segment.ip.ttl <= 1 {
        job.problem = Problem::TIME_EXCEEDED;
        return Way::refused(Verdict::next(Stage::Error));
    }
    if hop.ifindex == 0 {
        return Way {
            asks,
            ..Way::BY_STACK
        };
    }
    if packet.segment_len(job.segment.ip.len) > hop.mtu {
        if !job.segment.ip.whole_only {
            // The stack fragments it.
            return Way::BY_STACK;
        }
        job.problem = Problem::too_big(hop.mtu);
        return Way::refused(Verdict::next(Stage::Error));
    }
    Way {
        hop,
        ..Way::BY_STACK
    }
}

/// A packet of a flow whose backend has been removed: the sender is told, so that it connects
/// again now and not when it has given up.
#[inline(always)]
pub(super) fn orphaned<W: World>(world: &mut W, job: &mut Job) -> Verdict {
    let Some(entry) = world.flow(&job.key) else {
        return Verdict::drop(PacketCounter::DropNoBackend);
    };
    if job.segment.ip.protocol == protocol::UDP {
        if entry.flags & flow::REPLY != 0 {
            return Verdict::drop(PacketCounter::DropNoBackend);
        }
        // The client's next datagram begins anew.
        take_out(world, &job.key, &entry);
    }
    nobody(job)
}

/// A packet for a service that belongs to no flow that is known.
#[inline(always)]
pub(super) fn fresh<W: World>(world: &mut W, job: &mut Job) -> Verdict {
    let vip = job.vip;
    if let Some(reason) = impossible_source(world, &job.key.src) {
        return Verdict::drop(reason);
    }
    let chosen = world.choose(vip.service, job.key.protocol, &job.key.src.to_addr());
    let backend = match chosen {
        Chosen::OtherPath => {
            world.note(PacketCounter::OtherPath);
            return Verdict::PASS;
        }
        Chosen::Packet(backend) => backend,
        Chosen::None => return nobody(job),
    };
    let Some(target) = world.target(backend) else {
        return nobody(job);
    };
    if target.addr != Ip::default() && target.addr.is_v4() != job.key.dst.is_v4() {
        // Only the agent can join two address families.
        world.note(PacketCounter::OtherPath);
        return Verdict::PASS;
    }
    if job.segment.transport.flags & tcp::RST != 0 {
        // It ends what is not known.
        return Verdict::drop(PacketCounter::DropNoBackend);
    }
    if !enter(world, job, vip.service, backend, &target) {
        return Verdict::drop(PacketCounter::DropNoPort);
    }
    world.note(PacketCounter::FlowNew);
    world.count_backend(backend, BackendEvent::Flow);
    Verdict::next(Stage::Known)
}

/// Enters both directions of a new flow; false when no source port is free.
#[inline(always)]
fn enter<W: World>(
    world: &mut W,
    job: &Job,
    service: ServiceId,
    backend: BackendId,
    target: &Target,
) -> bool {
    let key = &job.key;
    let local = target.kind == kind::LOCAL;
    let mut new = NewFlow {
        out: FlowKey {
            dport_be: target.port_be,
            ..*key
        },
        backend,
        service,
        flags: flow::SEEN | if local { flow::LOCAL } else { 0 },
        next_seq: next_seq(&job.segment, 0),
    };
    if target.addr != Ip::default() {
        new.out.dst = target.addr;
    }
    if target.kind == kind::REMOTE {
        new.out.src = target.source;
        let Some(port) = take_port(world, key, target, &new) else {
            return false;
        };
        new.out.sport_be = port;
    } else {
        // An entry that is there is one that is needed: of this flow, before it was pushed out.
        world.insert(&new.out.reversed(), &reply_of(key, &new));
    }
    world.insert(key, &new);
    true
}

/// The entry of what comes back, for a new flow that comes in as `key`.
#[inline(always)]
fn reply_of(key: &FlowKey, new: &NewFlow) -> NewFlow {
    NewFlow {
        out: key.reversed(),
        backend: new.backend,
        service: new.service,
        flags: flow::REPLY | new.flags & flow::LOCAL,
        next_seq: 0,
    }
}

/// Takes a source port for a flow by entering what will come back to it.
///
/// Each CPU has a range of its own, so that two never look for the same port; within it the first
/// one tried depends on the flow alone, so that a flow whose entries were pushed out gets the
/// same again.
#[inline(always)]
fn take_port<W: World>(
    world: &mut W,
    key: &FlowKey,
    target: &Target,
    new: &NewFlow,
) -> Option<u16> {
    let reply = reply_of(key, new);
    let settings = world.settings();
    let cpus = settings.cpus.max(1);
    let span = u32::from(target.ports) / cpus;
    if span == 0 {
        return None;
    }
    let base = u32::from(target.first_port) + world.cpu() % cpus * span;
    let start = hash::place(flow_hash(key, settings.seed), span);
    let mut tried = 0;
    while tried < PORT_TRIES {
        let place = start + tried * tried;
        let port = (base + if place >= span { place % span } else { place }) as u16;
        let back = FlowKey {
            sport_be: port.to_be(),
            ..new.out
        }
        .reversed();
        let free = match world.flow(&back) {
            None => true,
            // The same flow, whose other entry was pushed out.
            Some(found) => found.out == reply.out,
        };
        if free {
            world.insert(&back, &reply);
            return Some(port.to_be());
        }
        tried += 1;
    }
    None
}

/// A hash of a flow that needs no key of its own: what it decides harms nobody but its sender.
#[inline(always)]
pub(super) fn flow_hash(key: &FlowKey, seed: u32) -> u32 {
    let [a, b, c, d] = key.src.0;
    let ports = u32::from(key.sport_be) << 16 | u32::from(key.dport_be);
    let mut hash = u64::from(seed ^ ports);
    let mut mix = |word: u32| {
        // The multiplier of Fibonacci hashing (Knuth, volume 3, section 6.4).
        hash = (hash ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
    };
    mix(a ^ b.rotate_left(16));
    mix(c ^ d.rotate_left(16));
    mix(key.dst.0[3]);
    hash as u32
}

/// A packet of the host's own stack that may be a reply of a backend on this host.
#[inline(always)]
pub(super) fn local_reply<P: Packet, W: World>(
    packet: &mut P,
    world: &mut W,
    job: &Job,
) -> Verdict {
    let Some(entry) = world.flow(&job.key) else {
        return Verdict::PASS;
    };
    let wanted = flow::REPLY | flow::LOCAL;
    if entry.flags & wanted != wanted {
        return Verdict::PASS;
    }
    note_first(world, &job.segment);
    note(world, &job.segment, entry);
    if entry.flags & flow::ESTABLISHED == 0 {
        answered(world, &job.segment, &entry);
    }
    world.note(PacketCounter::Replied);
    let done = rewrite(packet, &job.segment, &entry.out, 0);
    if done.is_some() {
        Verdict::STACK
    } else {
        REFUSED
    }
}
