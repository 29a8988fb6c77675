//! A new flow on the `nat` path: its backend, its source and its source ports.

use super::data_path::{BackendEvent, Backends, Counters, Host};
use crate::abi::BackendId;
use crate::abi::packet::{FlowKey, Ip, PacketCounter, Target, kind, state};
use crate::flows::{NewFlow, PortRange};
use crate::hash;

/// Counts a new flow, and the one that it has pushed out.
#[inline(always)]
pub(super) fn note_new<W: Counters + Backends>(world: &mut W, backend: BackendId, evicted: bool) {
    if evicted {
        world.inc(PacketCounter::FlowEvicted);
    }
    world.inc(PacketCounter::FlowNew);
    world.count_backend(backend, BackendEvent::Flow);
}

/// Whether packets to a backend get another source: to one on another host, and from a client on the
/// backend's own network, whom it would answer directly, from an address that the client has not asked.
#[inline(always)]
pub(super) fn takes_source<W: Host>(world: &W, target: &Target) -> bool {
    match target.kind {
        kind::REMOTE => true,
        kind::CONTAINER => target.ifindex == world.ingress(),
        _ => false,
    }
}

/// Leads a new flow with a known key to a backend; `takes_source` as [`takes_source`] has it, and
/// with source ports of the CPU `ports_of`. False if it needs one, and no CPU has any.
#[inline(always)]
pub(super) fn lead<W: Host>(
    world: &W,
    new: &mut NewFlow,
    target: &Target,
    takes_source: bool,
    ports_of: u32,
) -> bool {
    new.backend = target.id;
    new.state = state::SEEN;
    if target.kind == kind::LOCAL {
        new.state |= state::LOCAL;
    }
    new.out = new.key;
    new.out.dport_be = target.port_be;
    if target.addr != Ip::default() {
        new.out.dst = target.addr;
    }
    new.ports = PortRange::default();
    if !takes_source {
        return true;
    }
    new.out.src = target.source;
    new.ports = source_ports(world, &new.key, target, ports_of);
    new.ports.span != 0
}

/// The source ports that a flow may get.
///
/// Each CPU has a range of its own, so that two seldom look for the same port; within it the first
/// one tried depends on the flow alone, so that a flow whose entry was pushed out gets the same
/// again. A flow that has found none looks at the range of another CPU.
#[inline(always)]
fn source_ports<W: Host>(world: &W, key: &FlowKey, target: &Target, cpu: u32) -> PortRange {
    let settings = world.settings();
    let cpus = settings.cpus.max(1);
    let span = u32::from(target.ports) / cpus;
    if span == 0 {
        return PortRange::default();
    }
    PortRange {
        base: u32::from(target.first_port) + cpu % cpus * span,
        span,
        start: hash::place(flow_hash(key, settings.seed), span),
    }
}

/// A hash of a flow that needs no key of its own: its result can harm only the sender.
#[inline(always)]
fn flow_hash(key: &FlowKey, seed: u32) -> u32 {
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
