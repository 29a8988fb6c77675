//! The short way of packets without anything special: TCP or UDP over IPv4, untagged, whole and
//! without options, of an established flow or the SYN of a new one, to a clean slot of `dsr`, or for
//! nobody here.
//!
//! What the long way works out for all packets is known of these, so their headers are looked at
//! once and written once. Everything else takes the long way from its beginning: nothing is
//! changed or counted before it is certain that a packet is plain.

use super::dsr::{gue_header, lower_mss, outer_hash, overhead, room, varied};
use super::nat::{HOP_FRESH_S, lead, note_new};
use super::send::{REFUSED, WAY_FRESH_S, fix_transport, is_fresh, lowered, readdressed};
use super::world::World;
use super::{Verdict, answer, counted, is_martian};
use crate::abi::packet::{AddressMarks, Hop, Ip, PacketCounter, Target, VipKey, kind, state, vip};
use crate::abi::protocol;
use crate::checksum::Delta;
use crate::flows::{By, End, Refused};
use crate::headers::{ether, number, ports, tcp};
use crate::packet::{Outer, Packet, Window};
use crate::select::{Client, slot_of};

/// Bytes that are looked at: an Ethernet, an IPv4 and a TCP header without options.
const HEAD: usize = 54;
/// Where the transport header begins.
const TRANSPORT: u32 = 34;

/// What a plain packet tells.
struct Plain {
    src: Ip,
    dst: Ip,
    /// The word with type of service and length, as a number.
    first: u32,
    /// The word with the TTL, in memory order.
    third: u32,
    protocol: u8,
    /// The word of the ports, in memory order.
    ports: u32,
    /// TCP: the word with flags and length of the header, as a number. UDP: 0.
    fourth: u32,
}

impl Plain {
    /// Length of the IP packet.
    #[inline(always)]
    const fn len(&self) -> u32 {
        self.first & 0xffff
    }

    /// Type of service.
    #[inline(always)]
    const fn tos(&self) -> u8 {
        (self.first >> 16) as u8
    }

    #[inline(always)]
    const fn is_tcp(&self) -> bool {
        self.fourth != 0
    }

    /// TCP: flags. UDP: none.
    #[inline(always)]
    const fn flags(&self) -> u8 {
        (self.fourth >> 16) as u8
    }

    /// TCP: whether there are no options.
    #[inline(always)]
    const fn is_bare(&self) -> bool {
        self.fourth >> 28 == 5
    }

    /// TCP: bytes behind the header.
    #[inline(always)]
    const fn data(&self) -> u32 {
        self.len() - 20 - (self.fourth >> 28) * 4
    }

    /// Addresses and ports, as flows are looked for by them.
    #[inline(always)]
    const fn words(&self) -> [u32; 3] {
        [self.src.0[3], self.dst.0[3], self.ports]
    }
}

/// What becomes of a plain packet; `None` for those that are not, with nothing done.
#[inline(always)]
pub(super) fn forward<P: Packet, W: World>(packet: &mut P, world: &mut W) -> Option<Verdict> {
    let plain = read(packet)?;
    let marks = world.marks(&plain.dst);
    if marks & AddressMarks::DSR != 0 {
        return dsr(packet, world, &plain);
    }
    let ours =
        marks & AddressMarks::KNOWN != 0 || world.marks(&plain.src) & AddressMarks::BACKEND != 0;
    if ours {
        return nat(packet, world, &plain, marks);
    }
    world.note(PacketCounter::Passed);
    Some(Verdict::PASS)
}

/// Reads the headers.
#[inline(always)]
fn read<P: Packet>(packet: &mut P) -> Option<Plain> {
    let frame = packet.len();
    let head = packet.window::<HEAD>()?;
    let first = u32::from_be(head.word::<14>());
    let third = head.word::<22>();
    let protocol = (u32::from_be(third) >> 16) as u8;
    let len = first & 0xffff;
    let fragment = head.word::<18>() & 0x3fffu32.to_be();
    let other = (head.half::<12>() ^ ether::IPV4) as u32 | (first >> 24 ^ 0x45) | fragment;
    if other != 0 || 14 + len > frame || u32::from_be(third) >> 24 <= 1 {
        return None;
    }
    let mut fourth = 0;
    if protocol == protocol::TCP {
        fourth = u32::from_be(head.word::<46>());
        let header = (fourth >> 28) * 4;
        if header < 20 || 20 + header > len {
            return None;
        }
    } else {
        let datagram = u32::from_be(head.word::<38>()) >> 16;
        if protocol != protocol::UDP || datagram < 8 || 20 + datagram > len {
            return None;
        }
    }
    Some(Plain {
        src: Ip::v4(head.word::<26>()),
        dst: Ip::v4(head.word::<30>()),
        first,
        third,
        protocol,
        ports: head.word::<34>(),
        fourth,
    })
}

/// Sends a packet to the owner of a clean slot.
#[inline(always)]
fn dsr<P: Packet, W: World>(packet: &mut P, world: &mut W, plain: &Plain) -> Option<Verdict> {
    let [_, port_be] = ports(plain.ports);
    let vip = world.near_vip(&VipKey::new(plain.dst, port_be, plain.protocol))?;
    let strange = is_martian(&plain.src) || world.marks(&plain.src) & AddressMarks::KNOWN != 0;
    if strange || vip.flags & vip::DSR == 0 {
        return None;
    }
    let table = world.dsr(vip.service)?;
    let hash = Client::hash_of(&world.dsr_head(table), plain.src.halves());
    let owner = world.dsr_owner(table, slot_of(hash))?;
    let target: &Target = &*world.target(owner)?;
    let overhead = overhead(target);
    if overhead != 0 && !target.addr.is_v4() {
        return None;
    }
    let sent = world.sent(owner)?;
    let room = room(target, &sent.hop);
    if !is_fresh(world, &sent.hop, WAY_FRESH_S) || packet.segment_len(plain.len()) > room {
        return None;
    }
    if overhead != 0 && plain.flags() & tcp::SYN != 0 && !plain.is_bare() {
        lower_first_mss(packet, room)?;
    }
    world.count_sent(sent, packet.len());
    world.note(PacketCounter::Forwarded);
    let done = if overhead == 0 {
        by_mac(packet, world, plain, &sent.hop)
    } else {
        let hash = outer_hash(hash as u32, plain.ports);
        wrap(packet, plain, target, &sent.hop, hash)
    };
    Some(sent_by(world, &sent.hop, done))
}

/// Where a packet goes, unless the kernel refused to change it.
#[inline(always)]
fn sent_by<W: World>(world: &mut W, hop: &Hop, done: Option<()>) -> Verdict {
    match done {
        Some(()) => Verdict::out(world, hop.ifindex),
        None => counted(world, REFUSED),
    }
}

/// Forwards a packet of an established flow that neither opens nor ends it.
#[inline(always)]
fn nat<P: Packet, W: World>(
    packet: &mut P,
    world: &mut W,
    plain: &Plain,
    marks: u8,
) -> Option<Verdict> {
    let control = plain.flags() & (tcp::SYN | tcp::FIN | tcp::RST | tcp::ACK);
    if control & !tcp::ACK != 0 {
        if control != tcp::SYN || marks & AddressMarks::KNOWN == 0 {
            return None;
        }
        let verdict = world.open(packet);
        return (verdict != Verdict::LONG_WAY).then_some(verdict);
    }
    let given_out =
        marks & AddressMarks::SOURCE != 0 && world.marks(&plain.src) & AddressMarks::BACKEND != 0;
    let by = match (given_out, marks & AddressMarks::KNOWN != 0) {
        (true, _) => By::Port,
        (false, true) => By::Client,
        (false, false) => By::Backend,
    };
    let entry = world.entry(by, &plain.words(), plain.protocol)?;
    let end = by.end();
    let wanted = match end {
        End::Client => state::ESTABLISHED,
        End::Backend => state::ESTABLISHED | state::WAY_BACK,
    };
    if entry.state & (wanted | state::LOCAL | state::GIVEN_UP) != wanted {
        return None;
    }
    world.target(entry.backend)?;
    let sent = world.sent(entry.backend)?;
    let back = world.entry_hop(entry);
    let (hop, fresh_s): (&Hop, u32) = match end {
        End::Client => (&sent.hop, WAY_FRESH_S),
        End::Backend => (&back, HOP_FRESH_S),
    };
    if !is_fresh(world, hop, fresh_s) || packet.segment_len(plain.len()) > hop.mtu {
        return None;
    }
    let out = entry.ends[end.other() as usize];
    let (seen_s, seq) = (entry.seen_s[end as usize], entry.next_seq[end as usize]);
    let now_s = world.now_s();
    let looks_for_room = seen_s != now_s && entry.state & state::PINNED == 0;
    if looks_for_room || !world.is_there(entry) {
        return None;
    }
    match end {
        End::Client => {
            world.count_sent(sent, packet.len());
            world.note(PacketCounter::Forwarded);
        }
        End::Backend => world.note(PacketCounter::Replied),
    }
    if seen_s != now_s {
        world.touch_entry(entry, end, now_s, next_seq(packet, plain, seq));
    }
    let mut done = rewrite(packet, world, plain, &out, hop);
    if end == End::Backend && !world.is_there(entry) {
        // Its way back was written in this very moment.
        done = None;
    }
    Some(sent_by(world, hop, done))
}

/// Enters the flow that a SYN begins, and forwards it. The backend has a way that is known.
#[inline(always)]
pub(super) fn open<P: Packet, W: World>(packet: &mut P, world: &mut W) -> Option<Verdict> {
    let plain = read(packet)?;
    let [sport_be, dport_be] = ports(plain.ports);
    let vip = world.near_vip(&VipKey::new(plain.dst, dport_be, plain.protocol))?;
    let strange = is_martian(&plain.src) || world.marks(&plain.src) & AddressMarks::KNOWN != 0;
    if strange || vip.flags & vip::DSR != 0 {
        return None;
    }
    let protocol = u32::from(plain.protocol);
    let home = world.home(&plain.words(), plain.protocol);
    let choice = world.pick(vip.service, protocol, &plain.src.to_addr(), &home)?;
    let target: &Target = &*world.target(choice.backend)?;
    let sent = world.sent(choice.backend)?;
    let hop: &Hop = &sent.hop;
    let forwards = matches!(target.kind, kind::CONTAINER | kind::REMOTE) && target.addr.is_v4();
    if !forwards || !is_fresh(world, hop, WAY_FRESH_S) || packet.segment_len(plain.len()) > hop.mtu
    {
        return None;
    }
    let mut new = world.room()?;
    new.key.src = plain.src;
    new.key.dst = plain.dst;
    new.key.sport_be = sport_be;
    new.key.dport_be = dport_be;
    new.key.protocol = protocol;
    new.service = vip.service;
    // SYN counts as one.
    new.next_seq = next_seq(packet, &plain, 0).wrapping_add(1);
    if !lead(world, &mut new, target) {
        return None;
    }
    let entered = match world.enter_v4(new, &home) {
        Ok(entered) => Some(entered),
        Err(Refused::NoPort) => None,
        Err(Refused::NoRoom | Refused::There) => return None,
    };
    world.count_choice(vip.service, choice.reason);
    let Some((flow, evicted)) = entered else {
        return Some(counted(world, Verdict::drop(PacketCounter::DropNoPort)));
    };
    note_new(world, choice.backend, evicted);
    world.count_sent(sent, packet.len());
    world.note(PacketCounter::Forwarded);
    let out = flow.out.reversed().words();
    let done = rewrite(packet, world, &plain, &out, hop);
    Some(sent_by(world, hop, done))
}

/// The sequence number behind a packet without SYN and FIN; `old` where it does not tell.
#[inline(always)]
fn next_seq<P: Packet>(packet: &P, plain: &Plain, old: u32) -> u32 {
    match packet.words::<1>(TRANSPORT + 4) {
        Some([seq]) if plain.is_tcp() => u32::from_be(seq).wrapping_add(plain.data()),
        _ => old,
    }
}

/// Changes addresses, ports and the header of the frame. `out` is what would come back.
#[inline(always)]
fn rewrite<P: Packet, W: World>(
    packet: &mut P,
    world: &W,
    plain: &Plain,
    [dst, src, back]: &[u32; 3],
    hop: &Hop,
) -> Option<()> {
    untag(packet, world, hop)?;
    let ports = back.rotate_left(16);
    let mut delta = Delta {
        zero_is_none: !plain.is_tcp(),
        ..Delta::default()
    };
    delta.address(plain.src.0[3], *src);
    delta.address(plain.dst.0[3], *dst);
    let third = readdressed(plain.third, &delta, 1);
    delta.word(plain.ports, ports);
    fix_transport(packet, TRANSPORT, plain.is_tcp(), false, &delta)?;
    let mut head = packet.window::<HEAD>()?;
    set_frame(&mut head, hop);
    head.set_word::<22>(third);
    head.set_word::<26>(*src);
    head.set_word::<30>(*dst);
    head.set_word::<34>(ports);
    Some(())
}

/// Lowers the maximum segment size of a SYN to what fits in `room`, where it is the first option
/// (RFC 9293, section 3.2: kind 2, length 4), as systems have it.
#[inline(always)]
fn lower_first_mss<P: Packet>(packet: &mut P, room: u32) -> Option<()> {
    let most = room.checked_sub(20 + 20)?;
    let [option] = packet.words::<1>(HEAD as u32)?;
    if u32::from_be(option) >> 16 != 0x0204 {
        return None;
    }
    let _ = lower_mss(packet, TRANSPORT, HEAD as u32 + 2, most);
    Some(())
}

/// Changes nothing but the header of the frame, and the TTL.
#[inline(always)]
fn by_mac<P: Packet, W: World>(packet: &mut P, world: &W, plain: &Plain, hop: &Hop) -> Option<()> {
    untag(packet, world, hop)?;
    let mut head = packet.window::<HEAD>()?;
    set_frame(&mut head, hop);
    head.set_word::<22>(lowered(plain.third));
    Some(())
}

/// Takes off a tag beside the frame, unless that goes back by where it came from.
#[inline(always)]
fn untag<P: Packet, W: World>(packet: &mut P, world: &W, hop: &Hop) -> Option<()> {
    if hop.ifindex == world.ingress() {
        return Some(());
    }
    packet.untag(0)
}

/// Puts the outer headers around a packet.
#[inline(always)]
fn wrap<P: Packet>(
    packet: &mut P,
    plain: &Plain,
    target: &Target,
    hop: &Hop,
    hash: u32,
) -> Option<()> {
    packet.untag(0)?;
    let source = varied(target, hash);
    if target.kind == kind::GUE {
        packet.grow(28, Outer::Ipv4Udp)?;
        let mut head = packet.window::<HEAD>()?;
        set_frame(&mut head, hop);
        set_outer(&mut head, plain, 28, protocol::UDP, &source, &target.addr);
        let [ports, length] = gue_header(target, hash, plain.len());
        head.set_word::<34>(ports);
        head.set_word::<38>(length);
        head.set_word::<50>(lowered(plain.third));
        return Some(());
    }
    packet.grow(20, Outer::Ipv4)?;
    let mut head = packet.window::<HEAD>()?;
    set_frame(&mut head, hop);
    set_outer(&mut head, plain, 20, number::IPV4, &source, &target.addr);
    head.set_word::<42>(lowered(plain.third));
    Some(())
}

/// Writes the Ethernet header.
#[inline(always)]
fn set_frame(head: &mut impl Window<HEAD>, hop: &Hop) {
    head.set_word::<0>(hop.macs[0]);
    head.set_word::<4>(hop.macs[1]);
    head.set_word::<8>(hop.macs[2]);
    head.set_half::<12>(ether::IPV4);
}

/// Writes the outer IP header.
#[inline(always)]
fn set_outer(
    head: &mut impl Window<HEAD>,
    plain: &Plain,
    overhead: u32,
    carried: u8,
    src: &Ip,
    dst: &Ip,
) {
    let len = overhead + plain.len();
    let words = answer::ipv4_header(len, u32::from(carried), src, dst, plain.tos());
    head.set_word::<14>(words[0]);
    head.set_word::<18>(words[1]);
    head.set_word::<22>(words[2]);
    head.set_word::<26>(words[3]);
    head.set_word::<30>(words[4]);
}
