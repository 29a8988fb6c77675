//! Changes to a flow that was found.

use super::find::port_place;
use super::{At, HALF, MOST_PINNED, ONE_DISPLACED, ONE_PINNED, Ports, Set, TRIES, is_same};
use crate::abi::packet::{PacketSettings, state};
use crate::clients::Counted;

/// Gives back what a flow had besides its place: its source port, its part of the counts, and of its client's.
#[inline(always)]
pub(super) fn leave<const N: usize, S: Set<N>, P: Ports>(
    set: &mut S,
    ports: &mut P,
    settings: &PacketSettings,
    at: &At,
) {
    let way = at.way();
    ports.uncount(set.take_client(way));
    if at.state & state::GIVEN_OUT != 0 {
        let (words, protocol) = set.backend_end(way);
        ports.replace(port_place(settings, &words, protocol), at.number(), 0);
    }
    if at.state & state::PINNED != 0 {
        set.add_counts(way & HALF, ONE_PINNED.wrapping_neg());
    }
    if at.state & state::DISPLACED != 0 {
        set.add_counts((way & HALF) ^ HALF, ONE_DISPLACED.wrapping_neg());
    }
}

/// Sets the bits `add` in the state of a flow that was found, and clears `remove`. A connection that
/// has ended is not pinned any more, and not counted for its client.
#[inline(always)]
pub fn mark<const N: usize, S: Set<N>, P: Ports>(
    set: &mut S,
    ports: &mut P,
    at: &At,
    add: u32,
    remove: u32,
) {
    let way = at.way();
    let mut tries = 0;
    while tries < TRIES {
        let now = set.state(way);
        let mut new = now & !remove | add;
        if state::is_ended(new) {
            new &= !state::PINNED;
        }
        if new == now || !is_same(at.state, now) {
            return;
        }
        if set.replace_state(way, now, new) {
            if now & !new & state::PINNED != 0 {
                set.add_counts(way & HALF, ONE_PINNED.wrapping_neg());
            }
            if state::is_ended(new) {
                ports.uncount(set.take_client(way));
            }
            return;
        }
        tries += 1;
    }
}

/// Notes that a flow is established, and pins it if that is possible. `None` if it has gone or was
/// established before; else whether it is pinned.
#[inline(always)]
pub fn establish<const N: usize, S: Set<N>>(set: &mut S, at: &At) -> Option<bool> {
    pin(set, at, state::ESTABLISHED)
}

/// Notes that a flow is counted for its client, until it ends. If it has ended or gone, it is not.
#[inline(always)]
pub fn count<const N: usize, S: Set<N>, P: Ports>(
    set: &mut S,
    ports: &mut P,
    at: &At,
    counted: Counted,
) {
    let way = at.way();
    if !set.set_client(way, counted) {
        ports.uncount(counted);
        return;
    }
    let now = set.state(way);
    if !is_same(at.state, now) || state::is_ended(now) {
        ports.uncount(set.take_client(way));
    }
}

/// Pins an established flow for which there was no room before, if there is now.
#[inline(always)]
pub fn keep<const N: usize, S: Set<N>>(set: &mut S, at: &At) {
    let _ = pin(set, at, state::PINNED);
}

/// Sets `bit`, unless it is set, and pins the flow if that is possible.
#[inline(always)]
fn pin<const N: usize, S: Set<N>>(set: &mut S, at: &At, bit: u32) -> Option<bool> {
    let way = at.way();
    let before = set.add_counts(way & HALF, ONE_PINNED) & 0xffff;
    let now = set.state(way);
    let pins = before < MOST_PINNED && !state::is_ended(now);
    let new = match pins {
        true => now | bit | state::PINNED,
        false => now | bit & !state::PINNED,
    };
    let free = is_same(at.state, now) && now & (bit | state::PINNED) == 0;
    let done = free && set.replace_state(way, now, new);
    if !done || !pins {
        set.add_counts(way & HALF, ONE_PINNED.wrapping_neg());
    }
    done.then_some(pins)
}

/// Keeps others from changing the way back of a flow that was found, and from giving its place away,
/// until [`unlock`]. False if that is not possible.
#[inline(always)]
pub fn lock<const N: usize, S: Set<N>>(set: &mut S, at: &At) -> bool {
    let now = set.state(at.way());
    let free = is_same(at.state, now) && now & state::LOCKED == 0;
    let locked = now & !state::WAY_BACK | state::LOCKED;
    free && set.replace_state(at.way(), now, locked)
}

/// See [`lock`]. The way back has been written.
#[inline(always)]
pub fn unlock<const N: usize, S: Set<N>>(set: &mut S, at: &At) {
    let mut tries = 0;
    while tries < 4 * TRIES {
        let now = set.state(at.way());
        let written = now & !state::LOCKED | state::WAY_BACK;
        if set.replace_state(at.way(), now, written) {
            return;
        }
        tries += 1;
    }
}

/// Takes a flow out that was found. False if it has gone, or it is locked.
#[inline(always)]
pub fn remove<const N: usize, S: Set<N>, P: Ports>(
    set: &mut S,
    ports: &mut P,
    settings: &PacketSettings,
    at: &At,
) -> bool {
    let way = at.way();
    let mut tries = 0;
    while tries < TRIES {
        let now = set.state(way);
        if !is_same(at.state, now) || now & state::LOCKED != 0 {
            return false;
        }
        let free = (now & state::VERSION).wrapping_add(state::NEXT_VERSION);
        if set.replace_state(way, now, free | state::BUSY) {
            leave(set, ports, settings, &At { state: now, ..*at });
            return set.replace_state(way, free | state::BUSY, free);
        }
        tries += 1;
    }
    false
}

/// Mends what an agent has left that was killed while it took a flow out: `at.state` has been
/// [`state::BUSY`] for so long that no agent works on it any more.
pub fn unstick<const N: usize, S: Set<N>, P: Ports>(
    set: &mut S,
    ports: &mut P,
    settings: &PacketSettings,
    at: &At,
) {
    let way = at.way();
    if set.state(way) != at.state {
        return;
    }
    ports.uncount(set.take_client(way));
    let (words, protocol) = set.backend_end(way);
    ports.replace(port_place(settings, &words, protocol), at.number(), 0);
    if !set.replace_state(way, at.state, at.state & state::VERSION) {
        return;
    }
    for half in [0, HALF] {
        let before = set.counts(half);
        let count = |half: usize, bit: u32| {
            let there = (half..half + HALF).filter(|way| set.state(*way) & bit != 0);
            there.count() as u32
        };
        let pinned = count(half, state::PINNED) * ONE_PINNED;
        let right = pinned + count(half ^ HALF, state::DISPLACED) * ONE_DISPLACED;
        // Else another CPU has changed the counted entries.
        if set.counts(half) == before {
            set.add_counts(half, right.wrapping_sub(before));
        }
    }
}
