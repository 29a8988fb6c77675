//! The place of a flow, and the search for it.

use core::borrow::Borrow;

use super::{At, End, HALF, NewFlow, ONE_DISPLACED, Set, is_there};
use crate::abi::packet::{AddressMarks, FlowSet, PacketSettings};
use crate::packet::ports;

/// How the flow of a packet is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By its destination, a source port that was given out.
    Port = 0,
    /// By its source, as the client's.
    Client = 1,
    /// By its destination, as the client's.
    Backend = 2,
}

impl By {
    /// The way with this number.
    #[inline(always)]
    pub const fn of_number(number: u32) -> Self {
        match number {
            0 => Self::Port,
            1 => Self::Client,
            _ => Self::Backend,
        }
    }

    /// The end that the packet comes from, if it belongs to the flow that is found.
    #[inline(always)]
    pub const fn end(self) -> End {
        match self {
            Self::Client => End::Client,
            Self::Port | Self::Backend => End::Backend,
        }
    }

    /// Whether there may be such a flow, going by the marks of source and destination.
    #[inline(always)]
    const fn may_find(self, [src, dst]: [u8; 2]) -> bool {
        match self {
            Self::Port => dst & AddressMarks::SOURCE != 0,
            Self::Client => dst & AddressMarks::KNOWN != 0,
            Self::Backend => src & (AddressMarks::KNOWN | AddressMarks::BACKEND) != 0,
        }
    }

    /// The first result of `find` among the directions that these marks allow.
    #[inline(always)]
    pub fn any<T>(marks: [u8; 2], mut find: impl FnMut(Self) -> Option<T>) -> Option<T> {
        let mut by = |by: Self| if by.may_find(marks) { find(by) } else { None };
        if let Some(found) = by(Self::Port) {
            return Some(found);
        }
        if let Some(found) = by(Self::Client) {
            return Some(found);
        }
        by(Self::Backend)
    }
}

/// The preferred place of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// Number of the set.
    pub set: u32,
    /// The way.
    pub way: usize,
}

impl Home {
    /// The home of the flow that a packet of `words` from `end` belongs to, unless its source port
    /// was given out.
    ///
    /// The hash is multilinear, which is strongly universal: whatever addresses somebody picks who
    /// does not know the key, they meet no more often than others would (Lemire and Kaser, "Strongly
    /// universal string hashing is fast", The Computer Journal 57(11), 2014). The linear result is
    /// then mixed by the multiplier of Fibonacci hashing (Knuth, volume 3, section 6.4).
    #[inline(always)]
    pub const fn of<const N: usize>(
        settings: &PacketSettings,
        words: &[u32; N],
        end: End,
        protocol: u8,
    ) -> Self {
        let half = N / 2;
        let [sport_be, dport_be] = ports(words[N - 1]);
        let (from, port_be) = match end {
            End::Client => (0, sport_be),
            End::Backend => (half, dport_be),
        };
        let key = &settings.key;
        let tail = port_be as u32 | (protocol as u32) << 16;
        let mut sum = key[0].wrapping_add(key[1].wrapping_mul(tail as u64));
        let mut i = 0;
        while i < half {
            sum = sum.wrapping_add(key[2 + i].wrapping_mul(words[from + i] as u64));
            i += 1;
        }
        // Ports in a row would be as far from each other as the key says.
        let mixed = (sum ^ sum >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            set: (((mixed >> 32) * settings.sets as u64) >> 32) as u32,
            way: (mixed >> 28) as usize % FlowSet::<3>::WAYS,
        }
    }

    /// The home of a new flow.
    #[inline(always)]
    pub const fn of_new<const N: usize>(settings: &PacketSettings, new: &NewFlow) -> Self {
        let words = new.key.words::<N>();
        Self::of(settings, &words, End::Client, new.key.protocol as u8)
    }

    /// A number that stands for it.
    #[inline(always)]
    pub const fn number(&self) -> u32 {
        self.set * FlowSet::<3>::WAYS as u32 + self.way as u32
    }

    /// The home that a number stands for.
    #[inline(always)]
    pub const fn of_number(number: u32) -> Self {
        Self {
            set: number / FlowSet::<3>::WAYS as u32,
            way: number as usize % FlowSet::<3>::WAYS,
        }
    }

    #[inline(always)]
    pub(super) const fn half(&self) -> usize {
        self.way & HALF
    }

    /// The way of a half that is looked at as number `i`.
    #[inline(always)]
    pub(super) const fn nth(way: usize, i: usize) -> usize {
        (way & HALF) | ((way + i) & (HALF - 1))
    }

    /// The way of a place that `best_in` has found.
    #[inline(always)]
    pub(super) const fn way_of(&self, place: u64) -> usize {
        let (near, half) = (self.way & (HALF - 1), place as usize & HALF);
        Self::nth(near | half, place as usize & (HALF - 1))
    }
}

/// The place in `NAT_PORTS` of the source port of packets that come from the backend as `words`:
/// ports that follow each other have places that do, and other backends have others.
#[inline(always)]
pub const fn port_place<const N: usize>(
    settings: &PacketSettings,
    words: &[u32; N],
    protocol: u8,
) -> u32 {
    let [sport_be, dport_be] = ports(words[N - 1]);
    let mut sum = (sport_be as u32) << 8 | protocol as u32;
    let mut i = 0;
    while i < N - 1 {
        // The multiplier of Fibonacci hashing (Knuth, volume 3, section 6.4).
        sum = (sum.rotate_left(5) ^ words[i]).wrapping_mul(0x9e37_79b1);
        i += 1;
    }
    let port = u16::from_be(dport_be) as u32;
    (sum >> 8).wrapping_add(port) & (settings.ports.wrapping_sub(1))
}

/// Finds the flow of a packet that comes from `end` as `words`: its way and its state.
#[inline(always)]
pub(super) fn find<const N: usize, S: Set<N>>(
    set: &S,
    home: &Home,
    end: End,
    words: &[u32; N],
    protocol: u8,
) -> Option<(usize, u32)> {
    let found = find_in(set, home.way, end, words, protocol);
    if found.is_some() || set.counts(home.half()) < ONE_DISPLACED {
        return found;
    }
    find_in(set, home.way ^ HALF, end, words, protocol)
}

/// The same in one half, from `way` on.
#[inline(always)]
fn find_in<const N: usize, S: Set<N>>(
    set: &S,
    way: usize,
    end: End,
    words: &[u32; N],
    protocol: u8,
) -> Option<(usize, u32)> {
    let mut i = 0;
    while i < HALF {
        let way = Home::nth(way, i);
        if let Some(state) = state_of(set, way, end, words, protocol) {
            return Some((way, state));
        }
        i = set.after(i);
    }
    None
}

/// The place of the flow of packets that come in as `words`, and its set. `far` says that it may be in the
/// other half of that; `owner` reads `NAT_PORTS` at a place, and `set` has the sets.
#[inline(always)]
pub fn locate<const N: usize, S: Set<N>, T: Borrow<S>>(
    settings: &PacketSettings,
    by: By,
    (words, protocol): (&[u32; N], u8),
    far: bool,
    owner: impl FnOnce(u32) -> Option<u32>,
    set: impl FnOnce(u32) -> Option<T>,
) -> Option<(T, At)> {
    let end = by.end();
    if by == By::Port {
        let (number, way) = At::of_number(owner(port_place(settings, words, protocol))?)?;
        let set = set(number)?;
        let state = state_of(set.borrow(), way, end, words, protocol)?;
        return Some((set, At::new::<N>(number, way, end, state)));
    }
    let home = Home::of(settings, words, end, protocol);
    let set = set(home.set)?;
    let (way, state) = if far {
        find(set.borrow(), &home, end, words, protocol)?
    } else {
        find_in(set.borrow(), home.way, end, words, protocol)?
    };
    Some((set, At::new::<N>(home.set, way, end, state)))
}

/// The state of the flow of such packets, if it is at this way.
#[inline(always)]
fn state_of<const N: usize, S: Set<N>>(
    set: &S,
    way: usize,
    end: End,
    words: &[u32; N],
    protocol: u8,
) -> Option<u32> {
    let state = set.state(way);
    let found = is_there(state) && set.difference(way, end, words, protocol) == 0;
    found.then_some(state)
}
