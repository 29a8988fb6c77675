//! The way of a packet from top to bottom, once, for XDP, TC and the host.
//!
//! | module | owns |
//! | --- | --- |
//! | [`world`] | what is needed beside the packet |
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
pub mod world;

use crate::abi::packet::{Fragment, Ip, PacketCounter, VipKey, vip};
use crate::abi::protocol;
use crate::headers::{self, Bad, IpHeader, Piece, Transport, number};
use crate::packet::Packet;
use world::World;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is not ours, or the stack serves it as it is: untouched.
    Pass,
    /// It was rewritten, and the stack takes it from here.
    Stack,
    /// It goes out by the interface that it came by.
    Transmit,
    /// It goes out by this interface.
    Redirect(u32),
    /// It is dropped, for this reason.
    Drop(PacketCounter),
}

/// A TCP or UDP packet that was read.
#[derive(Clone, Copy, Debug)]
struct Segment {
    ip: IpHeader,
    transport: Transport,
}

/// A packet that came by an interface.
#[inline(always)]
pub fn ingress<P: Packet, W: World>(packet: &mut P, world: &mut W) -> Verdict {
    let verdict = match headers::ip(packet) {
        Ok(ip) => received(packet, world, &ip),
        Err(Bad::Beyond(dst)) => malformed(world, &dst),
        Err(Bad::NotIp | Bad::Ip) => Verdict::Pass,
    };
    if let Verdict::Drop(reason) = verdict {
        world.count(reason);
    }
    verdict
}

/// A packet of the host's own stack that goes out by an interface: replies of backends on this
/// host get the address of the service. Everything else is left as it is.
#[inline(always)]
pub fn egress<P: Packet, W: World>(packet: &mut P, world: &mut W) -> Verdict {
    let Ok(ip) = headers::ip(packet) else {
        return Verdict::Pass;
    };
    match ip.protocol {
        protocol::TCP | protocol::UDP => match segment(packet, world, &ip) {
            Ok(segment) => nat::local_reply(packet, world, &segment),
            Err(_) => Verdict::Pass,
        },
        number::ICMP | number::ICMPV6 => icmp::local_error(packet, world, &ip),
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn received<P: Packet, W: World>(packet: &mut P, world: &mut W, ip: &IpHeader) -> Verdict {
    match ip.protocol {
        protocol::TCP | protocol::UDP => {}
        number::ICMP | number::ICMPV6 => return icmp::received(packet, world, ip),
        _ => return Verdict::Pass,
    }
    let segment = match segment(packet, world, ip) {
        Ok(segment) => segment,
        Err(verdict) => return verdict,
    };
    let key = ip.key(segment.transport.ports);
    let vip = world.vip(&VipKey::new(key.dst, key.dport_be, ip.protocol));
    if let Some(vip) = vip
        && vip.flags & vip::DSR != 0
    {
        note_first(world, ip, &segment.transport);
        return dsr::forward(packet, world, &segment, vip.service);
    }
    if let Some(flow) = world.flow(&key) {
        note_first(world, ip, &segment.transport);
        return nat::known(packet, world, &segment, flow);
    }
    let Some(vip) = vip else {
        return Verdict::Pass;
    };
    note_first(world, ip, &segment.transport);
    nat::fresh(packet, world, &segment, vip.service)
}

/// Reads the transport header, or what the first fragment told of it. Else what becomes of the
/// packet.
#[inline(always)]
fn segment<P: Packet, W: World>(
    packet: &P,
    world: &mut W,
    ip: &IpHeader,
) -> Result<Segment, Verdict> {
    if ip.piece != Piece::Later {
        return match headers::transport(packet, ip) {
            Some(transport) => Ok(Segment { ip: *ip, transport }),
            None => Err(malformed(world, &ip.dst)),
        };
    }
    let Some(fragment) = world.fragment(&ip.fragment_key()) else {
        return Err(for_service(world, &ip.dst, PacketCounter::DropFragment));
    };
    let transport = Transport {
        ports: fragment.ports,
        ..Transport::default()
    };
    Ok(Segment { ip: *ip, transport })
}

#[inline(always)]
fn note_first<W: World>(world: &mut W, ip: &IpHeader, transport: &Transport) {
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
        Some(vip) if vip.flags & vip::SERVICE != 0 => Verdict::Drop(reason),
        _ => Verdict::Pass,
    }
}

/// Why a client's address cannot be one; `None` if it can.
#[inline(always)]
fn impossible_source<W: World>(world: &W, src: &Ip) -> Option<PacketCounter> {
    if is_martian(src) {
        return Some(PacketCounter::DropMartian);
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
