//! The short way of `dsr`: to a clean slot, wrapped in the packet's own family or not at all.

use super::super::data_path::DataPath;
use super::super::dsr::{gue_header, lower_mss, outer_hash, overhead, room, varied};
use super::super::send::{WAY_FRESH_S, is_fresh, lowered, lowered_v6};
use super::super::{Verdict, answer, is_martian};
use super::headers::{HEAD, HEAD6, Headers, Plain, set_frame, untag};
use super::sent_by;
use crate::abi::packet::{AddressMarks, Hop, Ip, PacketCounter, Target, VipKey, kind, vip};
use crate::abi::protocol;
use crate::headers::{ether, number, tcp};
use crate::packet::{Outer, Packet, Window};
use crate::select::{Client, slot_of};

/// Sends a packet to the owner of a clean slot.
#[inline(always)]
pub(super) fn dsr<const N: usize, P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    plain: &Plain<N>,
) -> Option<Verdict>
where
    Plain<N>: Wrap + Headers<N>,
{
    let [_, port_be] = plain.both_ports();
    let vip = world.near_vip(&VipKey::new(plain.dst(), port_be, plain.protocol))?;
    let src = plain.src();
    let strange = is_martian(&src) || world.marks(&src) & AddressMarks::KNOWN != 0;
    let strange = strange || world.settings().rules != 0 || world.is_guarded(vip.service);
    if strange || vip.flags & vip::DSR == 0 {
        return None;
    }
    let table = world.dsr(vip.service)?;
    let hash = Client::hash_of(&world.dsr_head(table), src.halves());
    let owner = world.dsr_owner(table, slot_of(hash))?;
    let target: &Target = &*world.target(owner)?;
    let overhead = overhead(target);
    if overhead != 0 && target.addr.is_v4() != (N == 3) {
        return None;
    }
    let sent = world.sent(owner)?;
    let room = room(target, &sent.hop);
    if !is_fresh(world, &sent.hop, WAY_FRESH_S) || packet.segment_len(plain.len) > room {
        return None;
    }
    if overhead != 0 && plain.flags() & tcp::SYN != 0 && !plain.is_bare() {
        lower_first_mss::<N, P>(packet, room)?;
    }
    world.count_sent(sent, packet.len());
    world.inc(PacketCounter::Forwarded);
    let done = if overhead == 0 {
        untag(packet, world, &sent.hop).and_then(|()| plain.lower(packet, &sent.hop))
    } else {
        let hash = outer_hash(hash as u32, plain.ports());
        plain.wrap(packet, target, &sent.hop, hash)
    };
    Some(sent_by(world, &sent.hop, done))
}

/// Lowers the maximum segment size of a SYN to the size that fits in `room`, if it is the first option
/// (RFC 9293, section 3.2: kind 2, length 4), as systems have it.
#[inline(always)]
fn lower_first_mss<const N: usize, P: Packet>(packet: &mut P, room: u32) -> Option<()>
where
    Plain<N>: Headers<N>,
{
    let tcp = Plain::<N>::TRANSPORT;
    let most = room.checked_sub(tcp - 14 + 20)?;
    let [option] = packet.words::<1>(tcp + 20)?;
    if u32::from_be(option) >> 16 != 0x0204 {
        return None;
    }
    let _ = lower_mss(packet, tcp, tcp + 22, most);
    Some(())
}

/// The outer headers of packets of one family.
pub(super) trait Wrap {
    /// Puts the outer headers around a packet, and takes a hop off the inner one.
    fn wrap<P: Packet>(&self, packet: &mut P, target: &Target, hop: &Hop, hash: u32) -> Option<()>;
}

impl Wrap for Plain<3> {
    #[inline(always)]
    fn wrap<P: Packet>(&self, packet: &mut P, target: &Target, hop: &Hop, hash: u32) -> Option<()> {
        packet.untag(0)?;
        let source = varied(target, hash);
        let inner = lowered(self.hops);
        if target.kind == kind::GUE {
            packet.grow(28, Outer::Ipv4Udp)?;
            let mut head = packet.window::<HEAD>()?;
            set_frame(&mut head, hop, ether::IPV4);
            set_outer(&mut head, self, 28, protocol::UDP, &source, &target.addr);
            let [ports, length] = gue_header(target, hash, self.len);
            head.set_word::<34>(ports);
            head.set_word::<38>(length);
            head.set_word::<50>(inner);
            return Some(());
        }
        packet.grow(20, Outer::Ipv4)?;
        let mut head = packet.window::<HEAD>()?;
        set_frame(&mut head, hop, ether::IPV4);
        set_outer(&mut head, self, 20, number::IPV4, &source, &target.addr);
        head.set_word::<42>(inner);
        Some(())
    }
}

/// Writes the outer IPv4 header.
#[inline(always)]
fn set_outer(
    head: &mut impl Window<HEAD>,
    plain: &Plain<3>,
    overhead: u32,
    carried: u8,
    src: &Ip,
    dst: &Ip,
) {
    let len = overhead + plain.len;
    let words = answer::ipv4_header(len, u32::from(carried), src, dst, plain.tos);
    head.set_word::<14>(words[0]);
    head.set_word::<18>(words[1]);
    head.set_word::<22>(words[2]);
    head.set_word::<26>(words[3]);
    head.set_word::<30>(words[4]);
}

impl Wrap for Plain<9> {
    #[inline(always)]
    fn wrap<P: Packet>(&self, packet: &mut P, target: &Target, hop: &Hop, hash: u32) -> Option<()> {
        packet.untag(0)?;
        let source = varied(target, hash);
        let inner = lowered_v6(self.hops, 1);
        if target.kind == kind::GUE {
            packet.grow(48, Outer::Ipv6Udp)?;
            let mut head = packet.window::<HEAD6>()?;
            set_frame(&mut head, hop, ether::IPV6);
            set_outer_v6(
                &mut head,
                8 + self.len,
                protocol::UDP,
                &source,
                &target.addr,
            );
            let [ports, length] = gue_header(target, hash, self.len);
            head.set_word::<54>(ports);
            head.set_word::<58>(length);
            head.set_word::<66>(inner);
            return Some(());
        }
        packet.grow(40, Outer::Ipv6)?;
        let mut head = packet.window::<HEAD6>()?;
        set_frame(&mut head, hop, ether::IPV6);
        set_outer_v6(&mut head, self.len, number::IPV6, &source, &target.addr);
        head.set_word::<58>(inner);
        Some(())
    }
}

/// Writes the outer IPv6 header.
#[inline(always)]
fn set_outer_v6(head: &mut impl Window<HEAD6>, len: u32, carried: u8, src: &Ip, dst: &Ip) {
    let words = answer::ipv6_header(len, carried, src, dst);
    head.set_word::<14>(words[0]);
    head.set_word::<18>(words[1]);
    head.set_word::<22>(words[2]);
    head.set_word::<26>(words[3]);
    head.set_word::<30>(words[4]);
    head.set_word::<34>(words[5]);
    head.set_word::<38>(words[6]);
    head.set_word::<42>(words[7]);
    head.set_word::<46>(words[8]);
    head.set_word::<50>(words[9]);
}
