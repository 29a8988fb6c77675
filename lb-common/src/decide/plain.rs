//! The short way of packets without anything special: TCP or UDP, untagged, whole and without
//! options or extension headers, of an established flow, to a clean slot of `dsr`, or for
//! nobody here; over IPv4 also the SYN of a new flow.
//!
//! What the long way works out for all packets is known of these, so their headers are looked at
//! once and written once. Everything else takes the long way from its beginning: nothing is
//! changed or counted before it is certain that a packet is plain.

use super::data_path::{Counters, DataPath, Host};
use super::nat::{self, HOP_FRESH_S};
use super::new_flow::{lead, note_new, takes_source};
use super::send::{REFUSED, WAY_FRESH_S, is_fresh};
use super::{Verdict, counted, is_martian};
use crate::abi::packet::{AddressMarks, Hop, PacketCounter, Target, VipKey, kind, state, vip};
use crate::flows::{By, End};
use crate::headers::ether;
use crate::packet::Packet;
use dsr::{Wrap, dsr};
use headers::{Headers, Plain, next_seq, rewrite};

mod dsr;
mod headers;

/// The verdict on a plain packet; `None` for those that are not, with nothing done.
#[inline(always)]
pub(super) fn forward<P: Packet, W: DataPath>(packet: &mut P, world: &mut W) -> Option<Verdict> {
    let Some(plain) = Plain::<3>::read(packet) else {
        let v6 = packet.half(12)? == ether::IPV6;
        return if v6 {
            long_way(world.six(packet))
        } else {
            None
        };
    };
    let marks = world.marks(&plain.dst());
    if marks & AddressMarks::KNOWN != 0 && plain.opens() && marks & AddressMarks::DSR == 0 {
        return long_way(world.open(packet));
    }
    by_marks(packet, world, &plain, marks)
}

/// The same over IPv6.
#[inline(always)]
pub(super) fn six<P: Packet, W: DataPath>(packet: &mut P, world: &mut W) -> Option<Verdict> {
    let plain = Plain::<9>::read(packet)?;
    let marks = world.marks(&plain.dst());
    by_marks(packet, world, &plain, marks)
}

/// The same for a packet that opens no flow of `nat`. `marks` are those of the destination.
#[inline(always)]
fn by_marks<const N: usize, P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    plain: &Plain<N>,
    marks: u8,
) -> Option<Verdict>
where
    Plain<N>: Headers<N> + Wrap,
{
    if marks & AddressMarks::DSR != 0 {
        return dsr(packet, world, plain);
    }
    let known = marks & AddressMarks::KNOWN != 0;
    if !known && world.marks(&plain.src()) & AddressMarks::BACKEND == 0 {
        world.inc(PacketCounter::Passed);
        return Some(Verdict::PASS);
    }
    if plain.is_turn() {
        return None;
    }
    nat(packet, world, plain, marks)
}

/// Decodes the result of a function of its own.
#[inline(always)]
fn long_way(verdict: Verdict) -> Option<Verdict> {
    (verdict != Verdict::LONG_WAY).then_some(verdict)
}

/// The verdict of sending a packet, unless the kernel refused to change it.
#[inline(always)]
fn sent_by<W: Host + Counters>(world: &mut W, hop: &Hop, done: Option<()>) -> Verdict {
    match done {
        Some(()) => Verdict::out(hop.ifindex, world.ingress()),
        None => counted(world, REFUSED),
    }
}

/// See [`nat::has_moved`].
#[inline(always)]
fn has_moved<const N: usize, P: Packet>(packet: &P, plain: &Plain<N>, old: u32) -> bool
where
    Plain<N>: Headers<N>,
{
    nat::has_moved(next_seq(packet, plain, old), old)
}

/// An RST of either end: whether that was accepted is for the long way to see.
const RESET: u32 = state::RST | End::Backend.bits(state::RST);

/// Forwards a packet of an established flow that neither opens nor ends it.
#[inline(always)]
fn nat<const N: usize, P: Packet, W: DataPath>(
    packet: &mut P,
    world: &mut W,
    plain: &Plain<N>,
    marks: u8,
) -> Option<Verdict>
where
    Plain<N>: Headers<N>,
{
    let given_out =
        marks & AddressMarks::SOURCE != 0 && world.marks(&plain.src()) & AddressMarks::BACKEND != 0;
    let by = match (given_out, marks & AddressMarks::KNOWN != 0) {
        (true, _) => By::Port,
        (false, true) => By::Client,
        (false, false) => By::Backend,
    };
    let entry = world.entry(by, &plain.words, plain.protocol)?;
    let end = by.end();
    let wanted = match end {
        End::Client => state::ESTABLISHED,
        End::Backend => state::ESTABLISHED | state::WAY_BACK,
    };
    let other = state::LOCAL | state::GIVEN_UP | RESET;
    if entry.state & (wanted | other) != wanted {
        return None;
    }
    world.target(entry.backend)?;
    let sent = world.sent(entry.backend)?;
    let back = world.entry_hop(entry);
    let (hop, fresh_s): (&Hop, u32) = match end {
        End::Client => (&sent.hop, WAY_FRESH_S),
        End::Backend => (&back, HOP_FRESH_S),
    };
    if !is_fresh(world, hop, fresh_s) || packet.segment_len(plain.len) > hop.mtu {
        return None;
    }
    let out = entry.ends[end.other() as usize];
    let now_s = world.now_s();
    let is_stale = entry.seen_s[end as usize] != now_s
        || has_moved(packet, plain, entry.next_seq[end as usize]);
    let looks_for_room = is_stale && entry.state & state::PINNED == 0;
    if looks_for_room || !world.is_there(entry) {
        return None;
    }
    match end {
        End::Client => {
            world.count_sent(sent, packet.len());
            world.inc(PacketCounter::Forwarded);
        }
        End::Backend => world.inc(PacketCounter::Replied),
    }
    if is_stale {
        let seq = next_seq(packet, plain, entry.next_seq[end as usize]);
        world.touch_entry(entry, end, now_s, seq);
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
pub(super) fn open<P: Packet, W: DataPath>(packet: &mut P, world: &mut W) -> Option<Verdict> {
    let plain = Plain::<3>::read(packet)?;
    let (src, dst) = (plain.src(), plain.dst());
    let [sport_be, dport_be] = plain.both_ports();
    let vip = world.near_vip(&VipKey::new(dst, dport_be, plain.protocol))?;
    let strange = is_martian(&src)
        || world.marks(&src) & AddressMarks::KNOWN != 0
        || world.settings().rules != 0
        || world.is_guarded(vip.service);
    if strange || vip.flags & vip::DSR != 0 {
        return None;
    }
    let protocol = u32::from(plain.protocol);
    let home = world.home(&plain.words, plain.protocol);
    let choice = world.pick(vip.service, protocol, &src.to_addr(), &home)?;
    let target: &Target = &*world.target(choice.backend)?;
    let sent = world.sent(choice.backend)?;
    let hop: &Hop = &sent.hop;
    let forwards = matches!(target.kind, kind::CONTAINER | kind::REMOTE) && target.addr.is_v4();
    if !forwards || !is_fresh(world, hop, WAY_FRESH_S) || packet.segment_len(plain.len) > hop.mtu {
        return None;
    }
    let mut new = world.room()?;
    new.key.src = src;
    new.key.dst = dst;
    new.key.sport_be = sport_be;
    new.key.dport_be = dport_be;
    new.key.protocol = protocol;
    new.service = vip.service;
    // SYN counts as one.
    new.next_seq = next_seq(packet, &plain, 0).wrapping_add(1);
    if !lead(
        world,
        &mut new,
        target,
        takes_source(world, target),
        world.cpu(),
    ) {
        return None;
    }
    let (flow, evicted) = world.enter_v4(new, &home).ok()?;
    world.count_choice(vip.service, choice.reason);
    note_new(world, choice.backend, evicted);
    world.count_sent(sent, packet.len());
    world.inc(PacketCounter::Forwarded);
    let out = flow.out.reversed().words();
    let done = rewrite(packet, world, &plain, &out, hop);
    Some(sent_by(world, hop, done))
}
