//! The way of a packet from top to bottom, once, for XDP, TC and the host.
//!
//! | module | owns |
//! | --- | --- |
//! | [`data_path`] | the state beside the packet |
//! | `simulation` | all of that in memory |
//! | `plain` | the fast path of packets without anything special |
//! | `nat` | flows: rewriting there and back |
//! | `new_flow` | the backend, source and source ports of a new flow |
//! | `dsr` | slots: sending on, wrapped or as it is |
//! | `icmp` | echo, and errors about flows |
//! | `answer` | packets of our own: resets, ICMP errors |
//! | `verdict` | the verdict on a packet, and the stages |
//! | `send` | the last step: hop limit, addresses, frame header |
//!
//! The destination is looked up first: a packet that is not for a service and belongs to no flow passes
//! untouched.

mod answer;
pub mod data_path;
mod dsr;
mod icmp;
mod nat;
mod new_flow;
mod plain;
mod send;
#[cfg(feature = "simulation")]
pub mod simulation;
mod verdict;

use crate::abi::packet::{
    AddressMarks, FlowKey, Fragment, Hop, Ip, PacketCounter, Vip, VipKey, vip,
};
use crate::abi::{BackendId, protocol};
use crate::flows::At;
use crate::headers::{self, Bad, IpHeader, Piece, Transport, number};
use crate::packet::Packet;
use data_path::{Clock, Counters, DataPath, Fragments, Services, Stages};
pub use verdict::{Outcome, Stage, Verdict};

/// A TCP or UDP packet that was read.
#[derive(Clone, Copy, Debug)]
struct Segment {
    ip: IpHeader,
    transport: Transport,
}

/// The state of a packet between its stages.
#[derive(Clone, Copy, Debug)]
pub struct PacketContext {
    segment: Segment,
    /// Key of its flow.
    key: FlowKey,
    /// The service entry of its destination.
    vip: Vip,
    /// The backend that was chosen; `dsr`: set if the slot alone does not determine it.
    backend: BackendId,
    /// `nat`: packets to that backend get another source.
    takes_source: bool,
    /// `nat`: the one that was chosen before, towards which no source port is free.
    avoid: BackendId,
    /// `nat`: the CPU from which source ports are tried.
    ports_of: u32,
    /// `dsr`: a hash of its client.
    hash: u32,
    /// The answer that it gets.
    problem: answer::Problem,
    /// `nat`: the place of its flow.
    at: At,
    /// The packet that an ICMP error quotes.
    quote: icmp::Quote,
    /// The way that this error takes.
    hop: Hop,
}

impl PacketContext {
    /// Nothing yet.
    pub const NONE: Self = Self {
        segment: Segment {
            ip: IpHeader::NONE,
            transport: Transport::NONE,
        },
        key: FlowKey::NONE,
        vip: Vip::NONE,
        backend: BackendId::NONE,
        takes_source: false,
        avoid: BackendId::NONE,
        ports_of: 0,
        hash: 0,
        problem: answer::Problem::NONE,
        at: At::NONE,
        quote: icmp::Quote::NONE,
        hop: Hop::NONE,
    };
}

/// The longest way: a SYN with extension headers on a flow that is over (arrived, extensions,
/// received, flow, forget, fresh, enter, and, when another CPU has entered it first, the same four
/// once more, known, error), for each CPU from which source ports are tried: borrow, enter, and all of these
/// once more for another backend, behind: borrow, fresh, enter.
const MOST_STAGES: u32 = 16 + 4 * nat::MOST_BORROWED;
/// The most stages of a packet that leaves: an ICMP error (leaving, extensions, error, about, mend).
const MOST_LEAVING_STAGES: u32 = 5;

/// The whole way of a packet without anything special; `None`, and nothing done, for others.
#[inline(always)]
pub fn at_once<P: Packet, W: DataPath>(packet: &mut P, world: &mut W) -> Option<Verdict> {
    plain::forward(packet, world)
}

/// The whole way of a SYN without anything special; for others [`Verdict::LONG_WAY`], and nothing
/// done.
#[inline(always)]
pub fn open<P: Packet, W: DataPath>(packet: &mut P, world: &mut W) -> Verdict {
    plain::open(packet, world).unwrap_or(Verdict::LONG_WAY)
}

/// The whole way of a packet over IPv6 without anything special; for others [`Verdict::LONG_WAY`],
/// and nothing done.
#[inline(always)]
pub fn six<P: Packet, W: DataPath>(packet: &mut P, world: &mut W) -> Verdict {
    plain::six(packet, world).unwrap_or(Verdict::LONG_WAY)
}

/// The whole way of a packet that came by an interface. Most need no context.
#[inline(always)]
pub fn ingress<'a, P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    context: impl FnOnce() -> Option<&'a mut PacketContext>,
) -> Verdict {
    if !world.is_ours(packet) {
        return Verdict::PASS;
    }
    if let Some(verdict) = at_once(packet, world) {
        return verdict;
    }
    match context() {
        Some(context) => by_stages(packet, world, context),
        None => Verdict::PASS,
    }
}

/// The same by the long way, which every packet can take.
#[inline(always)]
fn by_stages<P: Packet, W: Stages>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    from_stage(Stage::Ingress, MOST_STAGES, packet, world, context)
}

#[inline(always)]
fn from_stage<P: Packet, W: Stages>(
    first: Stage,
    most: u32,
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    let mut verdict = world.call(first, packet, context);
    let mut stages = 1;
    while stages < most
        && let Some(stage) = verdict.stage()
    {
        verdict = world.call(stage, packet, context);
        stages += 1;
    }
    verdict
}

/// Runs one part of the way.
#[inline(always)]
pub fn run<P: Packet, W: DataPath>(
    stage: Stage,
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    let verdict = match stage {
        Stage::Ingress => first(packet, world, context),
        Stage::Flow => nat::flow(world, context),
        Stage::Forget => nat::forget(world, context),
        Stage::Known => nat::known(packet, world, context),
        Stage::Advance => nat::advance(world, context),
        Stage::NewFlow => nat::new_flow(world, context),
        Stage::Enter => nat::entered(world, context),
        Stage::Borrow => nat::borrow(world, context),
        Stage::BackendGone => nat::backend_gone(world, context),
        Stage::Dsr => dsr::forward(packet, world, context),
        Stage::Icmp => icmp::received(packet, world, context),
        Stage::IcmpRelated => icmp::related(world, context),
        Stage::WayOut => icmp::way_out(packet, world, context),
        Stage::Mend => icmp::mended(packet, world, context),
        Stage::Reset => answer::reset(packet, world, context),
        Stage::Error => answer::error(packet, world, context),
        Stage::Extensions => extended(packet, world, context),
        Stage::Received => received(packet, world, context),
        Stage::Transitioning => dsr::transitioning(world, context),
        Stage::Send => dsr::chosen(packet, world, context),
        Stage::Leaving => leaving(packet, world, context),
        Stage::LocalReply => local_reply(packet, world, context),
        Stage::LocalKnown => nat::local_known(packet, world, context),
        Stage::LocalError => icmp::local_error(packet, context),
        Stage::LocalIcmpRelated => icmp::local_related(world, context),
        Stage::LocalExtensions => leaving_extended(packet, context),
    };
    if verdict == Verdict::PASS {
        world.inc(PacketCounter::Passed);
    }
    counted(world, verdict)
}

/// Counts the reason of a drop at the point of decision.
#[inline(always)]
fn counted<W: Counters>(world: &mut W, verdict: Verdict) -> Verdict {
    match verdict.uncounted() {
        Some(reason) => {
            world.count(reason);
            Verdict::DROPPED
        }
        None => verdict,
    }
}

/// The first part of the way, and all of it for most packets that go by `dsr` or pass.
#[inline(always)]
fn first<P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    let verdict = arrived(packet, world, context);
    if verdict == Verdict::next(Stage::Dsr) {
        return dsr::forward(packet, world, context);
    }
    verdict
}

/// A packet that came by an interface.
#[inline(always)]
fn arrived<P: Packet, W: Services + Fragments>(
    packet: &P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    match headers::ip(packet) {
        Ok(ip) => {
            context.segment.ip = ip;
            if ip.has_extensions() {
                return Verdict::next(Stage::Extensions);
            }
            received(packet, world, context)
        }
        Err(Bad::Beyond(dst)) => malformed(world, &dst),
        Err(Bad::NotIp | Bad::Ip) => Verdict::PASS,
    }
}

/// The whole way of a packet of the host's own stack that goes out by an interface: replies of
/// backends on this host get the address of the service. Everything else is left as it is.
#[inline(always)]
pub fn egress<P: Packet, W: Stages>(
    packet: &mut P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    from_stage(Stage::Leaving, MOST_LEAVING_STAGES, packet, world, context)
}

/// A packet that leaves, up to its classification.
#[inline(always)]
fn leaving<P: Packet, W: Services>(packet: &P, world: &W, context: &mut PacketContext) -> Verdict {
    let Ok(ip) = headers::ip(packet) else {
        return Verdict::PASS;
    };
    context.segment.ip = ip;
    let marks = world.marks(&ip.src);
    let stage = match ip.protocol {
        number::ICMP | number::ICMPV6 => Stage::LocalError,
        _ if marks & (AddressMarks::KNOWN | AddressMarks::BACKEND) == 0 => return Verdict::PASS,
        protocol::TCP | protocol::UDP => Stage::LocalReply,
        _ if ip.has_extensions() => Stage::LocalExtensions,
        _ => return Verdict::PASS,
    };
    Verdict::next(stage)
}

/// A packet that leaves with IPv6 extension headers.
#[inline(always)]
fn leaving_extended<P: Packet>(packet: &P, context: &mut PacketContext) -> Verdict {
    if headers::extensions(packet, &mut context.segment.ip).is_none() {
        return Verdict::PASS;
    }
    match context.segment.ip.protocol {
        protocol::TCP | protocol::UDP => Verdict::next(Stage::LocalReply),
        number::ICMP | number::ICMPV6 => Verdict::next(Stage::LocalError),
        _ => Verdict::PASS,
    }
}

/// A TCP or UDP packet that leaves.
#[inline(always)]
fn local_reply<P: Packet, W: DataPath>(
    packet: &P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    match read_segment(packet, world, context) {
        None => nat::local_reply(world, context),
        Some(_) => Verdict::PASS,
    }
}

/// A packet with IPv6 extension headers.
#[inline(always)]
fn extended<P: Packet, W: Services>(
    packet: &P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    let ip = &mut context.segment.ip;
    if headers::extensions(packet, ip).is_none() {
        return malformed(world, &context.segment.ip.dst);
    }
    Verdict::next(Stage::Received)
}

/// A packet with a parsed IP header.
#[inline(always)]
fn received<P: Packet, W: Services + Fragments>(
    packet: &P,
    world: &mut W,
    context: &mut PacketContext,
) -> Verdict {
    match context.segment.ip.protocol {
        protocol::TCP | protocol::UDP => {}
        number::ICMP | number::ICMPV6 => return Verdict::next(Stage::Icmp),
        _ => return Verdict::PASS,
    }
    if let Some(verdict) = read_segment(packet, world, context) {
        return verdict;
    }
    // Flows are many and services few: a packet not for `dsr` asks for its flow first, and one that has
    // to do with no address that is known asks for nothing.
    let marks = world.marks(&context.key.dst);
    if marks & AddressMarks::DSR != 0 {
        context.vip = at_port(world, &context.key);
        if context.vip.flags & vip::DSR != 0 {
            return Verdict::next(Stage::Dsr);
        }
    }
    let ours = marks & AddressMarks::KNOWN != 0
        || world.marks(&context.key.src) & AddressMarks::BACKEND != 0;
    if ours {
        Verdict::next(Stage::Flow)
    } else {
        Verdict::PASS
    }
}

/// The service entry of a packet's destination.
#[inline(always)]
fn listening<W: Services>(world: &W, key: &FlowKey) -> Vip {
    if world.marks(&key.dst) & AddressMarks::KNOWN == 0 {
        return Vip::NONE;
    }
    at_port(world, key)
}

/// The same for an address that may be known.
#[inline(always)]
fn at_port<W: Services>(world: &W, key: &FlowKey) -> Vip {
    let key = VipKey::new(key.dst, key.dport_be, key.protocol as u8);
    world.vip(&key).unwrap_or(Vip::NONE)
}

/// Reads the transport header, or takes the ports stored from the first fragment. Otherwise it returns the
/// verdict on the packet.
#[inline(always)]
fn read_segment<P: Packet, W: Services + Fragments>(
    packet: &P,
    world: &mut W,
    context: &mut PacketContext,
) -> Option<Verdict> {
    let ip = &context.segment.ip;
    let transport = if ip.piece == Piece::Later {
        let Some(fragment) = world.fragment(&ip.fragment_key()) else {
            return Some(for_service(world, &ip.dst, PacketCounter::DropFragment));
        };
        Transport {
            ports: fragment.ports,
            ..Transport::NONE
        }
    } else {
        let Some(transport) = headers::transport(packet, ip) else {
            return Some(malformed(world, &ip.dst));
        };
        transport
    };
    context.segment.transport = transport;
    context.key = context.segment.ip.key(transport.ports);
    None
}

/// Notes the ports of the first fragment of a datagram that is ours.
#[inline(always)]
fn note_first<W: Clock + Fragments>(world: &mut W, segment: &Segment) {
    let Segment { ip, transport } = segment;
    if ip.piece == Piece::First {
        let fragment = Fragment {
            ports: transport.ports,
            at_s: world.now_s(),
        };
        world.note_fragment(&ip.fragment_key(), &fragment);
    }
}

/// A packet that cannot be read: dropped if it is for an address of a service, else not ours.
#[inline(always)]
fn malformed<W: Services>(world: &mut W, dst: &Ip) -> Verdict {
    for_service(world, dst, PacketCounter::DropMalformed)
}

/// Drops packets for an address of a service; passes all others.
#[inline(always)]
fn for_service<W: Services>(world: &W, dst: &Ip, reason: PacketCounter) -> Verdict {
    match world.vip(&VipKey::address(*dst)) {
        Some(vip) if vip.flags & vip::SERVICE != 0 => Verdict::drop(reason),
        _ => Verdict::PASS,
    }
}

/// No backend can take a packet: the sender gets the answer of a closed port.
#[inline(always)]
fn nobody(context: &mut PacketContext) -> Verdict {
    let rst = context.segment.transport.flags & headers::tcp::RST != 0;
    if rst || context.segment.ip.piece == Piece::Later {
        return Verdict::drop(PacketCounter::DropNoBackend);
    }
    if context.segment.ip.protocol == protocol::TCP {
        return Verdict::next(Stage::Reset);
    }
    context.problem = answer::Problem::PORT_UNREACHABLE;
    Verdict::next(Stage::Error)
}

/// Why a client's address cannot be one; `None` if it can.
#[inline(always)]
fn impossible_source<W: Services>(world: &W, src: &Ip) -> Option<PacketCounter> {
    if is_martian(src) {
        return Some(PacketCounter::DropMartian);
    }
    if world.marks(src) & AddressMarks::KNOWN == 0 {
        return None;
    }
    let known = world.vip(&VipKey::address(*src))?;
    (known.flags & (vip::OWN | vip::SERVICE) != 0).then_some(PacketCounter::DropSpoofed)
}

/// Addresses that no packet on a wire comes from (RFC 6890, RFC 1122 section 3.2.1.3): loopback,
/// "this network", multicast and broadcast, unspecified.
#[inline(always)]
const fn is_martian(src: &Ip) -> bool {
    let [a, b, c, d] = src.0;
    if src.is_v4() {
        let first = u32::from_be(d) >> 24;
        return first == 0 || first == 127 || first >= 224 && first < 240 || d == u32::MAX;
    }
    let loopback_or_none = a | b | c == 0 && u32::from_be(d) <= 1;
    loopback_or_none || u32::from_be(a) >> 24 == 0xff
}
