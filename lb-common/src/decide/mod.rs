//! The way of a packet from top to bottom, once, for XDP, TC and the host.
//!
//! | module | owns |
//! | --- | --- |
//! | [`world`] | what is needed beside the packet |
//! | `simulation` | all of that in memory |
//! | `nat` | flows: rewriting there and back |
//! | `dsr` | slots: sending on, wrapped or as it is |
//! | `icmp` | echo, and errors about flows |
//! | `answer` | packets of our own: resets, ICMP errors |
//! | `send` | the last step: hop limit, addresses, frame header |
//!
//! The destination is looked up first: what is not for a service and belongs to no flow passes
//! untouched, whatever it is.

mod answer;
mod dsr;
mod icmp;
mod nat;
mod send;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod world;

use crate::abi::packet::{AddressMarks, FlowKey, Fragment, Ip, PacketCounter, Vip, VipKey, vip};
use crate::abi::{BackendId, protocol};
use crate::headers::{self, Bad, IpHeader, Piece, Transport, number};
use crate::packet::Packet;
use world::World;

/// What becomes of a packet, or the next [`Stage`]: an [`Outcome`] as one number, which in the kernel goes from function
/// to function without a part that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict(u64);

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is not ours, or the stack serves it as it is: untouched.
    Pass,
    /// It was rewritten, and the stack takes it from here.
    Stack,
    /// It goes out by the interface that it came by.
    Transmit,
    /// It goes out by this interface.
    Redirect(u32),
    /// It goes out by this interface as soon as the kernel has found out to which MAC address.
    Neighbour(u32),
    /// It is dropped, for a reason that has been counted.
    Drop,
}

impl Verdict {
    pub(crate) const PASS: Self = Self(0);
    pub(crate) const STACK: Self = Self(1 << 32);
    pub(crate) const TRANSMIT: Self = Self(2 << 32);
    const REDIRECT: u64 = 3 << 32;
    const DROP: u64 = 4 << 32;
    const NEIGHBOUR: u64 = 5 << 32;
    const NEXT: u64 = 6 << 32;

    /// Not decided yet: that part of the way is next.
    #[inline(always)]
    pub(crate) const fn next(stage: Stage) -> Self {
        Self(Self::NEXT | stage as u64)
    }

    /// The part of the way that is next.
    #[inline(always)]
    const fn stage(self) -> Option<Stage> {
        if self.0 < Self::NEXT {
            return None;
        }
        match self.0.wrapping_sub(Self::NEXT) {
            0 => Some(Stage::Ingress),
            1 => Some(Stage::Flow),
            2 => Some(Stage::Forget),
            3 => Some(Stage::Known),
            4 => Some(Stage::Advance),
            5 => Some(Stage::Fresh),
            6 => Some(Stage::Orphaned),
            7 => Some(Stage::Dsr),
            8 => Some(Stage::Icmp),
            9 => Some(Stage::Reset),
            10 => Some(Stage::Error),
            11 => Some(Stage::Extensions),
            12 => Some(Stage::Received),
            13 => Some(Stage::Unsettled),
            14 => Some(Stage::Send),
            15 => Some(Stage::Leaving),
            16 => Some(Stage::LocalReply),
            17 => Some(Stage::LocalError),
            18 => Some(Stage::LocalExtensions),
            _ => None,
        }
    }

    #[inline(always)]
    pub(crate) const fn redirect(ifindex: u32) -> Self {
        Self(Self::REDIRECT | ifindex as u64)
    }

    #[inline(always)]
    pub(crate) const fn neighbour(ifindex: u32) -> Self {
        Self(Self::NEIGHBOUR | ifindex as u64)
    }

    /// Dropped, for a reason that is not counted yet.
    #[inline(always)]
    pub(crate) const fn drop(reason: PacketCounter) -> Self {
        Self(Self::DROP | (reason as u64 + 1))
    }

    /// The reason of a drop that is not counted yet, by its number.
    #[inline(always)]
    const fn uncounted(self) -> Option<u32> {
        if self.0 > Self::DROP && self.0 < Self::NEIGHBOUR {
            Some(self.0 as u32 - 1)
        } else {
            None
        }
    }

    /// The number.
    #[inline(always)]
    pub const fn code(self) -> u64 {
        self.0
    }

    /// The verdict with this number.
    #[inline(always)]
    pub const fn from_code(code: u64) -> Self {
        Self(code)
    }

    /// What it says.
    #[inline(always)]
    pub const fn outcome(self) -> Outcome {
        match self.0 >> 32 {
            0 => Outcome::Pass,
            1 => Outcome::Stack,
            2 => Outcome::Transmit,
            3 => Outcome::Redirect(self.0 as u32),
            5 => Outcome::Neighbour(self.0 as u32),
            _ => Outcome::Drop,
        }
    }
}

/// A TCP or UDP packet that was read.
#[derive(Clone, Copy, Debug)]
struct Segment {
    ip: IpHeader,
    transport: Transport,
}

/// What is known of the packet while it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    segment: Segment,
    /// Key of its flow.
    key: FlowKey,
    /// What listens on its destination.
    vip: Vip,
    /// `dsr`: the backend, where the slot alone does not say.
    backend: BackendId,
    /// `dsr`: a hash of its client.
    hash: u32,
    /// The answer that it gets.
    problem: answer::Problem,
}

impl Job {
    /// Nothing yet.
    pub const NONE: Self = Self {
        segment: Segment {
            ip: IpHeader::NONE,
            transport: Transport::NONE,
        },
        key: FlowKey::NONE,
        vip: Vip::NONE,
        backend: BackendId::NONE,
        hash: 0,
        problem: answer::Problem::NONE,
    };
}

/// Parts of the way; each names the next. In the kernel each is a function of its own, which the
/// verifier checks once and whose stack is its own, and the job lies where all of them find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Read the headers, and see what the packet is for.
    Ingress = 0,
    /// Find the flow.
    Flow = 1,
    /// A SYN on a known flow: forget the flow if it is over.
    Forget = 2,
    /// Go the way of a flow that is known.
    Known = 3,
    /// What a packet does for a flow that is not established.
    Advance = 4,
    /// Enter a new flow.
    Fresh = 5,
    /// Tell the sender that the backend is gone.
    Orphaned = 6,
    /// Send to the owner of the slot.
    Dsr = 7,
    /// An ICMP message.
    Icmp = 8,
    /// Answer with a reset.
    Reset = 9,
    /// Answer with an ICMP error.
    Error = 10,
    /// Read the extension headers of IPv6.
    Extensions = 11,
    /// See what a packet whose IP header has been read is for.
    Received = 12,
    /// Find the backend in a slot that is not clean.
    Unsettled = 13,
    /// Send to the backend that was found.
    Send = 14,
    /// See what a packet that leaves may be.
    Leaving = 15,
    /// Mend a reply of a backend on this host.
    LocalReply = 16,
    /// Mend an ICMP error of this host.
    LocalError = 17,
    /// The same behind extension headers of IPv6.
    LocalExtensions = 18,
}

/// The longest way: a SYN with extension headers on a flow that is over (arrived, extensions,
/// received, flow, forget, fresh, known, error).
const MOST_STAGES: u32 = 8;

/// The whole way of a packet that came by an interface.
#[inline(always)]
pub fn ingress<P: Packet, W: World>(packet: &mut P, world: &mut W, job: &mut Job) -> Verdict {
    let mut verdict = world.call(Stage::Ingress, packet, job);
    let mut stages = 1;
    while stages < MOST_STAGES
        && let Some(stage) = verdict.stage()
    {
        verdict = world.call(stage, packet, job);
        stages += 1;
    }
    verdict
}

/// Runs one part of the way.
#[inline(always)]
pub fn run<P: Packet, W: World>(
    stage: Stage,
    packet: &mut P,
    world: &mut W,
    job: &mut Job,
) -> Verdict {
    let verdict = match stage {
        Stage::Ingress => first(packet, world, job),
        Stage::Flow => nat::flow(packet, world, job),
        Stage::Forget => nat::forget(world, job),
        Stage::Known => nat::known(packet, world, job),
        Stage::Advance => nat::advance(world, job),
        Stage::Fresh => nat::fresh(world, job),
        Stage::Orphaned => nat::orphaned(world, job),
        Stage::Dsr => dsr::forward(packet, world, job),
        Stage::Icmp => icmp::received(packet, world, job),
        Stage::Reset => answer::reset(packet, world, job),
        Stage::Error => answer::error(packet, world, job),
        Stage::Extensions => extended(packet, world, job),
        Stage::Received => received(packet, world, job),
        Stage::Unsettled => dsr::unsettled(world, job),
        Stage::Send => dsr::chosen(packet, world, job),
        Stage::Leaving => leaving(packet, world, job),
        Stage::LocalReply => local_reply(packet, world, job),
        Stage::LocalError => icmp::local_error(packet, world, job),
        Stage::LocalExtensions => leaving_extended(packet, world, job),
    };
    if verdict == Verdict::PASS {
        world.note(PacketCounter::Passed);
    }
    counted(world, verdict)
}

/// Counts why a packet is dropped, where that is decided.
#[inline(always)]
fn counted<W: World>(world: &mut W, verdict: Verdict) -> Verdict {
    match verdict.uncounted() {
        Some(reason) => {
            world.count(reason);
            Verdict(Verdict::DROP)
        }
        None => verdict,
    }
}

/// The first part of the way, and for most packets all of it.
#[inline(always)]
fn first<P: Packet, W: World>(packet: &mut P, world: &mut W, job: &mut Job) -> Verdict {
    let verdict = arrived(packet, world, job);
    if verdict == Verdict::next(Stage::Dsr) {
        return dsr::forward(packet, world, job);
    }
    if verdict == Verdict::next(Stage::Flow) {
        return nat::flow(packet, world, job);
    }
    verdict
}

/// A packet that came by an interface.
#[inline(always)]
fn arrived<P: Packet, W: World>(packet: &P, world: &mut W, job: &mut Job) -> Verdict {
    match headers::ip(packet) {
        Ok(ip) => {
            job.segment.ip = ip;
            if ip.has_extensions() {
                return Verdict::next(Stage::Extensions);
            }
            received(packet, world, job)
        }
        Err(Bad::Beyond(dst)) => malformed(world, &dst),
        Err(Bad::NotIp | Bad::Ip) => Verdict::PASS,
    }
}

/// The whole way of a packet of the host's own stack that goes out by an interface: replies of
/// backends on this host get the address of the service. Everything else is left as it is.
#[inline(always)]
pub fn egress<P: Packet, W: World>(packet: &mut P, world: &mut W, job: &mut Job) -> Verdict {
    let verdict = world.call(Stage::Leaving, packet, job);
    match verdict.stage() {
        Some(stage) => world.call(stage, packet, job),
        None => verdict,
    }
}

/// A packet that leaves, up to what it may be.
#[inline(always)]
fn leaving<P: Packet, W: World>(packet: &P, world: &W, job: &mut Job) -> Verdict {
    let Ok(ip) = headers::ip(packet) else {
        return Verdict::PASS;
    };
    job.segment.ip = ip;
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
fn leaving_extended<P: Packet, W: World>(packet: &mut P, world: &mut W, job: &mut Job) -> Verdict {
    if headers::extensions(packet, &mut job.segment.ip).is_none() {
        return Verdict::PASS;
    }
    match job.segment.ip.protocol {
        protocol::TCP | protocol::UDP => local_reply(packet, world, job),
        number::ICMP | number::ICMPV6 => icmp::local_error(packet, world, job),
        _ => Verdict::PASS,
    }
}

/// A TCP or UDP packet that leaves.
#[inline(always)]
fn local_reply<P: Packet, W: World>(packet: &mut P, world: &mut W, job: &mut Job) -> Verdict {
    match read_segment(packet, world, job) {
        None => nat::local_reply(packet, world, job),
        Some(_) => Verdict::PASS,
    }
}

/// A packet with IPv6 extension headers.
#[inline(always)]
fn extended<P: Packet, W: World>(packet: &P, world: &mut W, job: &mut Job) -> Verdict {
    let ip = &mut job.segment.ip;
    if headers::extensions(packet, ip).is_none() {
        return malformed(world, &job.segment.ip.dst);
    }
    Verdict::next(Stage::Received)
}

/// A packet whose IP header has been read.
#[inline(always)]
fn received<P: Packet, W: World>(packet: &P, world: &mut W, job: &mut Job) -> Verdict {
    match job.segment.ip.protocol {
        protocol::TCP | protocol::UDP => {}
        number::ICMP | number::ICMPV6 => return Verdict::next(Stage::Icmp),
        _ => return Verdict::PASS,
    }
    if let Some(verdict) = read_segment(packet, world, job) {
        return verdict;
    }
    // Flows are many and services few: what is not for `dsr` asks for its flow first, and what has
    // to do with no address that is known asks for nothing.
    let marks = world.marks(&job.key.dst);
    if marks & AddressMarks::DSR != 0 {
        job.vip = at_port(world, &job.key);
        if job.vip.flags & vip::DSR != 0 {
            return Verdict::next(Stage::Dsr);
        }
    }
    let ours =
        marks & AddressMarks::KNOWN != 0 || world.marks(&job.key.src) & AddressMarks::BACKEND != 0;
    if ours {
        Verdict::next(Stage::Flow)
    } else {
        Verdict::PASS
    }
}

/// What listens on the destination of a packet.
#[inline(always)]
fn listening<W: World>(world: &W, key: &FlowKey) -> Vip {
    if world.marks(&key.dst) & AddressMarks::KNOWN == 0 {
        return Vip::NONE;
    }
    at_port(world, key)
}

/// The same for an address that may be known.
#[inline(always)]
fn at_port<W: World>(world: &W, key: &FlowKey) -> Vip {
    let key = VipKey::new(key.dst, key.dport_be, key.protocol as u8);
    world.vip(&key).unwrap_or(Vip::NONE)
}

/// Reads the transport header, or takes what the first fragment told of it; else says what becomes
/// of the packet.
#[inline(always)]
fn read_segment<P: Packet, W: World>(packet: &P, world: &mut W, job: &mut Job) -> Option<Verdict> {
    let ip = &job.segment.ip;
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
    job.segment.transport = transport;
    job.key = job.segment.ip.key(transport.ports);
    None
}

/// Notes the ports of the first fragment of a datagram that is ours.
#[inline(always)]
fn note_first<W: World>(world: &mut W, segment: &Segment) {
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
fn malformed<W: World>(world: &mut W, dst: &Ip) -> Verdict {
    for_service(world, dst, PacketCounter::DropMalformed)
}

/// Drops what is for an address of a service; passes everything else.
#[inline(always)]
fn for_service<W: World>(world: &W, dst: &Ip, reason: PacketCounter) -> Verdict {
    match world.vip(&VipKey::address(*dst)) {
        Some(vip) if vip.flags & vip::SERVICE != 0 => Verdict::drop(reason),
        _ => Verdict::PASS,
    }
}

/// Nobody can take a packet: the sender is told, as a closed port would.
#[inline(always)]
fn nobody(job: &mut Job) -> Verdict {
    let rst = job.segment.transport.flags & headers::tcp::RST != 0;
    if rst || job.segment.ip.piece == Piece::Later {
        return Verdict::drop(PacketCounter::DropNoBackend);
    }
    if job.segment.ip.protocol == protocol::TCP {
        return Verdict::next(Stage::Reset);
    }
    job.problem = answer::Problem::PORT_UNREACHABLE;
    Verdict::next(Stage::Error)
}

/// Why a client's address cannot be one; `None` if it can.
#[inline(always)]
fn impossible_source<W: World>(world: &W, src: &Ip) -> Option<PacketCounter> {
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
