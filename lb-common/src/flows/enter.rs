//! How a flow comes into its set.

use super::change::leave;
use super::find::{Home, port_place};
use super::{
    At, End, HALF, MOST_PINNED, NEAR_FULL, NewFlow, ONE_DISPLACED, PORT_TRIES, Ports, Set,
};
use crate::abi::packet::{PacketSettings, state};

/// Why a flow was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another CPU or the agent took the place in this very moment.
    NoRoom,
    /// No source port is free, or the client's own is another flow's towards the backend.
    NoPort,
    /// It is there.
    There,
}

/// A flow that was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Place of the entry.
    pub at: At,
    /// Another one was pushed out before it was over.
    pub evicted: bool,
}

/// Enters a flow, unless it is there. Its source port is filled in.
#[inline(always)]
pub fn enter<const N: usize, S: Set<N>, P: Ports>(
    set: &mut S,
    ports: &mut P,
    settings: &PacketSettings,
    wanted: &Wanted<N>,
    new: &mut NewFlow,
) -> Result<Entered, Refused> {
    let best = best_place(set, settings, wanted);
    enter_at(set, ports, settings, wanted, new, best)
}

/// The same at the place that [`best_place`] has found.
#[inline(always)]
pub fn enter_at<const N: usize, S: Set<N>, P: Ports>(
    set: &mut S,
    ports: &mut P,
    settings: &PacketSettings,
    wanted: &Wanted<N>,
    new: &mut NewFlow,
    mut best: u64,
) -> Result<Entered, Refused> {
    let home = &wanted.home;
    if best == THERE {
        return Err(Refused::There);
    }
    if is_settled(best) {
        // Both flows claim the same packets. If the other one is over, they are this one's.
        let way = home.way_of(best);
        let (old, seen_s) = (set.state(way), set.seen_s(way));
        let over = old & state::GIVEN_UP != 0 || is_over(old, seen_s, settings, wanted.now_s);
        if !over {
            return Err(Refused::NoPort);
        }
        best = 1 << TIME | best & ((1 << TIME) - 1);
    }
    // A number for "none", not an `Option`: without a value the compiler leaves the old content of its
    // register, which it then spills as a number although it may be a pointer. Linux 6.1
    // refuses that.
    let mut port = NO_PORT;
    if new.ports.span != 0 {
        let taken = take_port::<N, P>(ports, settings, wanted.protocol, new);
        port = taken.ok_or(Refused::NoPort)?;
    }
    let Some(claimed) = claim(set, ports, settings, wanted, best) else {
        if port != NO_PORT {
            ports.replace(port, RESERVED, 0);
        }
        return Err(Refused::NoRoom);
    };
    let way = claimed.way;
    let mut state = (claimed.state & state::VERSION) | state::IN_USE | new.state;
    let at = At::new::<N>(home.set, way, End::Client, 0);
    if port != NO_PORT {
        ports.replace(port, RESERVED, at.number());
        state |= state::GIVEN_OUT;
    }
    if (way ^ home.way) & HALF != 0 {
        state |= state::DISPLACED;
        set.add_counts(home.half(), ONE_DISPLACED);
    }
    set.write(way, new, wanted.now_s);
    let at = At { state, ..at };
    if !set.replace_state(way, claimed.state, state) {
        // It took so long that the agent has mended it.
        leave(set, ports, settings, &at);
        return Err(Refused::NoRoom);
    }
    Ok(Entered {
        at,
        evicted: claimed.evicted,
    })
}

/// A flow that looks for a place, as its client sends it.
pub struct Wanted<const N: usize> {
    words: [u32; N],
    /// Words of packets that will come back from the backend, and their protocol: an unused one if the
    /// client does not keep its port.
    back: [u32; N],
    back_protocol: u8,
    protocol: u8,
    now_s: u32,
    home: Home,
}

impl<const N: usize> Wanted<N> {
    /// A new flow.
    #[inline(always)]
    pub const fn new(settings: &PacketSettings, new: &NewFlow, now_s: u32) -> Self {
        Self::at(Home::of_new::<N>(settings, new), new, now_s)
    }

    /// The same with a known home.
    #[inline(always)]
    pub const fn at(home: Home, new: &NewFlow, now_s: u32) -> Self {
        let (words, protocol) = (new.key.words(), new.key.protocol as u8);
        Self {
            home,
            words,
            back: new.out.reversed().words(),
            back_protocol: if new.ports.span == 0 { protocol } else { 0 },
            protocol,
            now_s,
        }
    }

    /// Number of its set.
    #[inline(always)]
    pub const fn set(&self) -> u32 {
        self.home.set
    }
}

/// In the place of the index of a source port in its map: none was asked for.
const NO_PORT: u32 = u32::MAX;

/// A place that its claimant alone may write.
struct Claimed {
    way: usize,
    state: u32,
    /// Another flow had to go that was not over.
    evicted: bool,
}

/// Makes the best place a flow's own. `None` if another CPU was faster.
#[inline(always)]
fn claim<const N: usize, S: Set<N>, P: Ports>(
    set: &mut S,
    ports: &mut P,
    settings: &PacketSettings,
    wanted: &Wanted<N>,
    best: u64,
) -> Option<Claimed> {
    let way = wanted.home.way_of(best);
    let old = set.state(way);
    let was = old & state::IN_USE != 0;
    // Since it was looked at it may have got another flow, which may be pinned.
    if old & KEPT != 0 || was && best >> TIME == 0 {
        return None;
    }
    let evicted = was && !is_over(old, set.seen_s(way), settings, wanted.now_s);
    let state = (old & state::VERSION).wrapping_add(state::NEXT_VERSION) | state::BUSY;
    if !set.replace_state(way, old, state) {
        return None;
    }
    if was {
        let at = At::new::<N>(wanted.home.set, way, End::Client, old);
        leave(set, ports, settings, &at);
    }
    Some(Claimed {
        way,
        state,
        evicted,
    })
}

/// An entry with one of these is not given to another flow.
pub(super) const KEPT: u32 = state::PINNED | state::LOCKED | state::BUSY;
/// The place of the flow itself, which is there.
const THERE: u64 = u64::MAX;
/// Set in places that are not to be had.
const NOT_FREE: u64 = 1 << 62;
/// Set in the place of another flow if its packets from the backend would come in like those of this one.
const CLASH: u64 = 1 << 61;
/// Set in places of flows that are established.
const OPEN: u64 = 1 << 60;
/// Set in places of flows that have not ended.
const ALIVE: u64 = 1 << 59;
/// Bit of a place at which the time of its last packet begins, plus one; 0 if it is free. Before that is its
/// half, and how far from home it is.
const TIME: u32 = 4;

/// The best place in a set, for [`enter_at`].
#[inline(always)]
pub fn best_place<const N: usize, S: Set<N>>(
    set: &S,
    settings: &PacketSettings,
    wanted: &Wanted<N>,
) -> u64 {
    let home = wanted.home.way;
    let here = best_in(set, home, wanted);
    let counts = set.counts(home & HALF);
    // A half that is full of new flows is so in the other half of the table, too.
    let near_full = counts & 0xffff >= NEAR_FULL;
    if is_settled(here) || !near_full && counts < ONE_DISPLACED {
        return here;
    }
    let full = counts & 0xffff >= MOST_PINNED;
    let fits = !full && is_to_be_had(set, settings, here, wanted);
    // Known values would make the verifier check all following code for each case apart.
    let stays = set.forgotten((fits && counts < ONE_DISPLACED) as u64);
    let fits = set.forgotten(fits as u64);
    if stays != 0 {
        return here;
    }
    let there = best_in(set, home ^ HALF, wanted);
    let room = set.counts((home ^ HALF) & HALF) & 0xffff < MOST_PINNED;
    let better = fits == 0 && room && is_to_be_had(set, settings, there, wanted);
    // Rather a new flow of the other half than one of this that is established.
    let gentler = here >= OPEN && there < OPEN;
    if is_settled(there) || better || gentler {
        there
    } else {
        here
    }
}

/// Whether no other place will do: that of the flow itself, or of one that it clashes with.
#[inline(always)]
const fn is_settled(place: u64) -> bool {
    place == THERE || place & (CLASH | NOT_FREE) == CLASH
}

/// Whether a place is free, or that of a flow that is over.
#[inline(always)]
fn is_to_be_had<const N: usize, S: Set<N>>(
    set: &S,
    settings: &PacketSettings,
    place: u64,
    wanted: &Wanted<N>,
) -> bool {
    let way = wanted.home.way_of(place);
    let over = || is_over(set.state(way), set.seen_s(way), settings, wanted.now_s);
    place >> TIME == 0 || place < NOT_FREE && over()
}

/// The same in one half: one that is free, next to home, or with the client that has been silent for longest:
/// of flows that have ended rather than of new ones, and of these rather than of established ones.
///
/// The memory of each entry is a long way off, and the processor asks for all at once as long as it
/// foresees every branch; so there are few.
#[inline(always)]
fn best_in<const N: usize, S: Set<N>>(set: &S, home: usize, wanted: &Wanted<N>) -> u64 {
    let mut best = u64::MAX >> 1;
    let mut i = 0;
    while i < HALF {
        let way = Home::nth(home, i);
        let nth = (home & HALF) as u64 | i as u64;
        let word = set.state(way);
        let none = (word & (state::IN_USE | state::BUSY)) ^ state::IN_USE;
        let other = set.difference(way, End::Client, &wanted.words, wanted.protocol);
        if none | other == 0 {
            return THERE;
        }
        let other = set.difference(way, End::Backend, &wanted.back, wanted.back_protocol);
        if none | other == 0 {
            return CLASH | nth;
        }
        let in_use = u64::from((word / state::IN_USE) & 1);
        let kept = (word & KEPT) as u64;
        let kept = set.forgotten(kept.wrapping_neg()) >> 63;
        let alive = !state::is_ended_bit(word) & 1;
        let open = (word / state::ESTABLISHED) & alive;
        let kind = (u64::from(alive) * ALIVE) | (u64::from(open) * OPEN);
        let flow = kind | ((u64::from(set.seen_s(way)) + 1) << TIME);
        let place = (kept * NOT_FREE) | (flow & in_use.wrapping_neg()) | nth;
        best = set.forgotten(if place < best { place } else { best });
        i = set.after(i);
    }
    best
}

/// Whether a TCP flow has ended, or one that is not established is too old.
#[inline(always)]
const fn is_over(word: u32, seen_s: u32, settings: &PacketSettings, now_s: u32) -> bool {
    let old = now_s.saturating_sub(seen_s) >= settings.syn_s;
    state::is_ended(word) || word & state::ESTABLISHED == 0 && old
}

/// The value in `NAT_PORTS` for a flow that looks for its place.
const RESERVED: u32 = u32::MAX;

/// Finds a source port for a flow, and its place in `NAT_PORTS`, which is reserved.
#[inline(always)]
fn take_port<const N: usize, P: Ports>(
    ports: &mut P,
    settings: &PacketSettings,
    protocol: u8,
    new: &mut NewFlow,
) -> Option<u32> {
    new.out.sport_be = 0;
    let first = port_place(settings, &new.out.reversed().words::<N>(), protocol);
    let mut tried = 0;
    while tried < PORT_TRIES {
        let port = new.ports.port(tried);
        let place = first.wrapping_add(port as u32) & (settings.ports.wrapping_sub(1));
        if ports.replace(place, 0, RESERVED) {
            new.out.sport_be = port.to_be();
            return Some(place);
        }
        tried += 1;
    }
    None
}
