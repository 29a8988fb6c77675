//! The `nat` path: flows, as pairs of entries, one for each direction.
//!
//! A flow is new until both sides have spoken: its entries are where a flood of made-up clients
//! can push them out, and it is then served by hash again. Once established it is moved to where
//! nothing pushes it out.

use super::send::{REFUSED, frame, rewrite};
use super::world::{BackendEvent, Chosen, NewFlow, World};
use super::{Segment, Verdict, answer, impossible_source};
use crate::abi::packet::{Flow, FlowKey, Hop, Ip, PacketCounter, Target, flow, kind};
use crate::abi::{BackendId, ServiceId, protocol};
use crate::hash;
use crate::headers::{IpHeader, Piece, tcp};
use crate::packet::Packet;

/// How long a way out is trusted before the routes are asked again, seconds.
const HOP_FRESH_S: u32 = 5;
/// Source ports tried for one flow.
const PORT_TRIES: u32 = 8;

/// A packet of a flow that is known.
#[inline(always)]
pub(super) fn known<P: Packet, W: World>(
    packet: &mut P,
    world: &mut W,
    segment: &Segment,
    handle: W::Flow,
) -> Verdict {
    let entry = world.read(handle);
    if world.target(entry.backend).is_none() {
        return orphaned(packet, world, segment, &entry);
    }
    let reply = entry.flags & flow::REPLY != 0;
    if !reply && opens(segment) && is_over(world, &entry) {
        let key = segment.ip.key(segment.transport.ports);
        world.remove(&key, &entry.pair());
        return fresh(packet, world, segment, entry.service);
    }
    note(world, segment, handle, &entry);
    if entry.flags & flow::ESTABLISHED == 0 && advance(world, segment, &entry) {
        // Its entry is another one now.
        let key = segment.ip.key(segment.transport.ports);
        let Some(handle) = world.flow(&key) else {
            return REFUSED;
        };
        return forward(packet, world, segment, handle, &entry);
    }
    forward(packet, world, segment, handle, &entry)
}

/// Whether a packet opens a connection.
#[inline(always)]
fn opens(segment: &Segment) -> bool {
    segment.ip.protocol == protocol::TCP
        && segment.transport.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN
}

/// Whether a flow has ended or aged, so that a SYN on it is a new one.
#[inline(always)]
fn is_over<W: World>(world: &W, entry: &Flow) -> bool {
    let pair = world.flow(&entry.pair()).map(|pair| world.read(pair));
    let (other, seen_s) = match pair {
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
fn note<W: World>(world: &mut W, segment: &Segment, handle: W::Flow, entry: &Flow) {
    let mut flags = entry.flags | flow::SEEN;
    if segment.transport.flags & tcp::FIN != 0 {
        flags |= flow::FIN;
    }
    if segment.transport.flags & tcp::RST != 0 {
        flags |= flow::RST;
    }
    let now_s = world.now_s();
    if flags != entry.flags || now_s != entry.seen_s {
        world.touch(handle, flags, now_s, next_seq(segment, entry.next_seq));
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
    let control = u32::from(transport.flags & tcp::SYN != 0)
        + u32::from(transport.flags & tcp::FIN != 0);
    transport.seq.wrapping_add(data).wrapping_add(control)
}

/// What a packet does for a flow that is not established. Whether it is now.
#[inline(always)]
fn advance<W: World>(world: &mut W, segment: &Segment, entry: &Flow) -> bool {
    let refuses = segment.transport.flags & tcp::RST != 0;
    if entry.flags & flow::REPLY != 0 {
        if refuses && entry.flags & flow::SEEN == 0 {
            world.count_backend(entry.backend, BackendEvent::Refused);
        }
        return false;
    }
    let pair = entry.pair();
    let Some(reply) = world.flow(&pair) else {
        // Pushed out by others; it is still needed.
        let key = segment.ip.key(segment.transport.ports);
        world.insert(&pair, &reply_entry(&key, entry));
        return false;
    };
    let answered = world.read(reply).flags & (flow::SEEN | flow::RST) == flow::SEEN;
    if !answered || refuses || opens(segment) {
        return false;
    }
    let key = segment.ip.key(segment.transport.ports);
    let moved = world.establish(&key, &pair);
    world.count(if moved {
        PacketCounter::FlowEstablished
    } else {
        PacketCounter::FlowQuota
    });
    world.count_backend(entry.backend, BackendEvent::Answered);
    let client = segment.ip.src.to_addr();
    world.remember(key.protocol, entry.service, &client, entry.backend);
    moved
}

/// The entry of what comes back, for a flow that comes in as `key`.
#[inline(always)]
fn reply_entry(key: &FlowKey, forward: &Flow) -> NewFlow {
    NewFlow {
        out: key.reversed(),
        backend: forward.backend,
        service: forward.service,
        flags: flow::REPLY | forward.flags & flow::LOCAL,
        next_seq: 0,
    }
}

/// Rewrites a packet and sends it on.
#[inline(always)]
fn forward<P: Packet, W: World>(
    packet: &mut P,
    world: &mut W,
    segment: &Segment,
    handle: W::Flow,
    entry: &Flow,
) -> Verdict {
    let reply = entry.flags & flow::REPLY != 0;
    if !reply {
        let event = BackendEvent::Packet(packet.len());
        world.count_backend(entry.backend, event);
    }
    let hop = match way_out(packet, world, &segment.ip, handle, entry) {
        Ok(hop) => hop,
        Err(Some(verdict)) => return verdict,
        Err(None) => {
            world.count(PacketCounter::ToStack);
            let done = rewrite(packet, segment, &entry.out, 0);
            return done.map_or(REFUSED, |()| Verdict::Stack);
        }
    };
    if rewrite(packet, segment, &entry.out, 1).is_none() {
        return REFUSED;
    }
    world.count(if reply {
        PacketCounter::Replied
    } else {
        PacketCounter::Forwarded
    });
    frame(packet, world, &segment.ip, &hop)
}

/// Where a packet of a flow goes; else what becomes of it instead, or nothing: the stack has to
/// deliver it.
#[inline(always)]
pub(super) fn way_out<P: Packet, W: World>(
    packet: &mut P,
    world: &mut W,
    ip: &IpHeader,
    handle: W::Flow,
    entry: &Flow,
) -> Result<Hop, Option<Verdict>> {
    if entry.flags & flow::LOCAL != 0 {
        return Err(None);
    }
    if ip.ttl <= 1 {
        return Err(Some(answer::time_exceeded(packet, world, ip)));
    }
    let hop = if entry.hop.ifindex != 0
        && world.now_s().wrapping_sub(entry.hop.at_s) < HOP_FRESH_S
    {
        entry.hop
    } else {
        let hop = world.route(&entry.out.src, &entry.out.dst, ip.len).ok_or(None)?;
        world.set_hop(handle, &hop);
        hop
    };
    if packet.segment_len(ip.len) > hop.mtu {
        if !ip.whole_only {
            // The stack fragments it.
            return Err(None);
        }
        return Err(Some(answer::too_big(packet, world, ip, hop.mtu)));
    }
    Ok(hop)
}

/// A packet of a flow whose backend has been removed: the sender is told, so that it connects
/// again now and not when it has given up.
#[inline(always)]
fn orphaned<P: Packet, W: World>(
    packet: &mut P,
    world: &mut W,
    segment: &Segment,
    entry: &Flow,
) -> Verdict {
    let key = segment.ip.key(segment.transport.ports);
    if opens(segment) {
        world.remove(&key, &entry.pair());
        return fresh(packet, world, segment, entry.service);
    }
    let flags = segment.transport.flags;
    if segment.ip.piece == Piece::Later || flags & tcp::RST != 0 {
        return Verdict::Drop(PacketCounter::DropNoBackend);
    }
    if segment.ip.protocol == protocol::TCP {
        return answer::reset(packet, world, segment);
    }
    if entry.flags & flow::REPLY != 0 {
        return Verdict::Drop(PacketCounter::DropNoBackend);
    }
    // The client's next datagram begins anew.
    world.remove(&key, &entry.pair());
    answer::port_unreachable(packet, world, &segment.ip)
}

/// A packet for a service that belongs to no flow that is known.
#[inline(always)]
pub(super) fn fresh<P: Packet, W: World>(
    packet: &mut P,
    world: &mut W,
    segment: &Segment,
    service: ServiceId,
) -> Verdict {
    let ip = &segment.ip;
    if let Some(reason) = impossible_source(world, &ip.src) {
        return Verdict::Drop(reason);
    }
    let chosen = world.choose(service, &ip.src.to_addr());
    let backend = match chosen {
        Chosen::OtherPath => {
            world.count(PacketCounter::OtherPath);
            return Verdict::Pass;
        }
        Chosen::Packet(backend) => backend,
        Chosen::None => return nobody(packet, world, segment),
    };
    let Some(target) = world.target(backend) else {
        return nobody(packet, world, segment);
    };
    if segment.transport.flags & tcp::RST != 0 {
        // It ends what is not known.
        return Verdict::Drop(PacketCounter::DropNoBackend);
    }
    let Some(entry) = enter(world, segment, service, backend, &target) else {
        return Verdict::Drop(PacketCounter::DropNoPort);
    };
    world.count(PacketCounter::FlowNew);
    world.count_backend(backend, BackendEvent::Flow);
    let key = ip.key(segment.transport.ports);
    match world.flow(&key) {
        Some(handle) => forward(packet, world, segment, handle, &entry),
        None => Verdict::Drop(PacketCounter::DropKernel),
    }
}

/// Nobody can take what is new: the client is told, as a closed port would.
#[inline(always)]
fn nobody<P: Packet, W: World>(packet: &mut P, world: &mut W, segment: &Segment) -> Verdict {
    let rst = segment.transport.flags & tcp::RST != 0;
    if rst || segment.ip.piece == Piece::Later {
        return Verdict::Drop(PacketCounter::DropNoBackend);
    }
    if segment.ip.protocol == protocol::TCP {
        return answer::reset(packet, world, segment);
    }
    answer::port_unreachable(packet, world, &segment.ip)
}

/// Enters both directions of a new flow; `None` when no source port is free.
#[inline(always)]
fn enter<W: World>(
    world: &mut W,
    segment: &Segment,
    service: ServiceId,
    backend: BackendId,
    target: &Target,
) -> Option<Flow> {
    let key = segment.ip.key(segment.transport.ports);
    let local = target.kind == kind::LOCAL;
    let mut new = NewFlow {
        out: FlowKey {
            dst: if target.addr == Ip::default() {
                key.dst
            } else {
                target.addr
            },
            dport_be: target.port_be,
            ..key
        },
        backend,
        service,
        flags: flow::SEEN | if local { flow::LOCAL } else { 0 },
        next_seq: next_seq(segment, 0),
    };
    let entry = new.value(world.now_s());
    let reply = reply_entry(&key, &entry);
    if target.kind == kind::REMOTE {
        new.out.src = target.source;
        new.out.sport_be = take_port(world, &key, target, &new.out, &reply)?;
    } else {
        // An entry that is there is one that is needed: of this flow, before it was pushed out.
        world.insert(&new.out.reversed(), &reply);
    }
    world.insert(&key, &new);
    Some(new.value(world.now_s()))
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
    out: &FlowKey,
    reply: &NewFlow,
) -> Option<u16> {
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
            ..*out
        }
        .reversed();
        let free = match world.flow(&back) {
            None => true,
            // The same flow, whose other entry was pushed out.
            Some(found) => world.read(found).out == reply.out,
        };
        if free {
            world.insert(&back, reply);
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
    segment: &Segment,
) -> Verdict {
    let key = segment.ip.key(segment.transport.ports);
    let Some(handle) = world.flow(&key) else {
        return Verdict::Pass;
    };
    let entry = world.read(handle);
    let wanted = flow::REPLY | flow::LOCAL;
    if entry.flags & wanted != wanted {
        return Verdict::Pass;
    }
    note(world, segment, handle, &entry);
    if entry.flags & flow::ESTABLISHED == 0 {
        advance(world, segment, &entry);
    }
    world.count(PacketCounter::Replied);
    let done = rewrite(packet, segment, &entry.out, 0);
    done.map_or(REFUSED, |()| Verdict::Stack)
}
