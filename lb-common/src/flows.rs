//! The flow table of `nat`: sets of sixteen flows in two halves, each flow one entry for both
//! directions.
//!
//! A set is found by the client's address and port, which a packet from the client has as its source
//! and one from the backend as its destination. If a source port that was given out
//! replaced the client's, `NAT_PORTS` has the place of the entry. In a set a flow has a *home*. It is looked
//! for there and then in the rest of that half, and in the other half only if some of this one are
//! *displaced*. An entry of an established flow is *pinned*: nothing pushes it out. One entry of a half
//! is never pinned, so that a new flow always finds a place, be it that of the oldest. Flows of one
//! client's port, to however many services, are all in one set.
//!
//! Several CPUs and the agent use a set at once, without a lock. Each entry has a state
//! word ([`state`]), replaced by compare-and-exchange alone. Its version changes before a place is given
//! to another flow. A reader of an entry compares the version once more before
//! acting on it, and changes the state only if the version is still the same. Times and sequence
//! numbers are written without that: if the flow has gone in this moment, another one's are a
//! packet off.

use crate::abi::packet::{FlowEntry, FlowKey, FlowSet, Hop, state};
use crate::abi::{BackendId, ServiceId};
use crate::clients::Counted;

mod change;
mod enter;
mod find;
#[cfg(all(test, feature = "simulation"))]
mod tests;

pub use change::{count, establish, keep, lock, mark, remove, unlock, unstick};
pub use enter::{Entered, Refused, Wanted, best_place, enter, enter_at};
pub use find::{By, Home, locate, port_place};

/// Entries of a half.
const HALF: usize = FlowSet::<3>::WAYS / 2;
/// Entries of a half that may be pinned.
const MOST_PINNED: u32 = HALF as u32 - 1;
/// Pinned entries from which a new flow without a place in a half looks in the other half.
const NEAR_FULL: u32 = 3;
/// One more that is pinned, in the counts of a half: the lower sixteen bits.
const ONE_PINNED: u32 = 1;
/// One more that is displaced: the upper ones.
const ONE_DISPLACED: u32 = 1 << 16;
/// Attempts when another CPU or the agent was faster.
const TRIES: u32 = 4;
/// Source ports tried for one flow.
const PORT_TRIES: u32 = 8;

/// The end of a flow that a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client.
    Client = 0,
    /// The backend.
    Backend = 1,
}

impl End {
    /// The other one.
    #[inline(always)]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }

    /// Its bits ([`state::SEEN`], [`state::FIN`], [`state::RST`]) in a state.
    #[inline(always)]
    pub const fn bits(self, bits: u32) -> u32 {
        match self {
            Self::Client => bits,
            Self::Backend => bits << state::BACKEND,
        }
    }
}

/// The place of a flow's entry, and the direction by which it was found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Number of its set.
    pub set: u32,
    /// Its way in the set.
    pub way: u16,
    /// Not 0: in `FLOWS6`.
    pub v6: u8,
    /// Not 0: by a packet from the backend.
    pub reply: u8,
    /// Its state then.
    pub state: u32,
}

impl At {
    /// Nowhere.
    pub const NONE: Self = Self {
        set: 0,
        way: 0,
        v6: 0,
        reply: 0,
        state: 0,
    };

    /// A way of a set, found by a packet from `end`.
    #[inline(always)]
    pub const fn new<const N: usize>(set: u32, way: usize, end: End, state: u32) -> Self {
        Self {
            set,
            way: way as u16,
            v6: (N != 3) as u8,
            reply: end as u8,
            state,
        }
    }

    /// The end that the packet comes from.
    #[inline(always)]
    pub const fn end(&self) -> End {
        if self.reply == 0 {
            End::Client
        } else {
            End::Backend
        }
    }

    #[inline(always)]
    const fn way(&self) -> usize {
        self.way as usize % FlowSet::<3>::WAYS
    }

    /// The value that `NAT_PORTS` holds for it, which is never 0.
    #[inline(always)]
    const fn number(&self) -> u32 {
        self.set * FlowSet::<3>::WAYS as u32 + self.way as u32 + 1
    }

    /// The place that a number of [`At::number`] stands for.
    #[inline(always)]
    pub const fn of_number(number: u32) -> Option<(u32, usize)> {
        match number.checked_sub(1) {
            Some(place) => Some((
                place / FlowSet::<3>::WAYS as u32,
                place as usize % FlowSet::<3>::WAYS,
            )),
            None => None,
        }
    }
}

/// A flow as a packet in one direction sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Place of the flow's entry.
    pub at: At,
    /// The key with which the packet leaves.
    pub out: FlowKey,
    /// The backend.
    pub backend: BackendId,
    /// The service.
    pub service: ServiceId,
    /// Last packet in this direction; see [`FlowEntry::seen_s`].
    pub seen_s: u32,
    /// Last packet in any direction.
    pub last_s: u32,
    /// See [`FlowEntry::next_seq`].
    pub next_seq: u32,
    /// The way back to the client.
    pub hop: Hop,
}

impl Flow {
    /// The end that the packet comes from.
    #[inline(always)]
    pub const fn end(&self) -> End {
        self.at.end()
    }

    /// Whether the packet comes from the backend.
    #[inline(always)]
    pub const fn is_reply(&self) -> bool {
        self.at.reply != 0
    }

    /// Whether all of `bits` of [`state`] are set.
    #[inline(always)]
    pub const fn is(&self, bits: u32) -> bool {
        self.at.state & bits == bits
    }

    /// Reads an entry.
    #[inline(always)]
    pub const fn read<const N: usize>(&mut self, at: At, entry: &FlowEntry<N>, hop: &Hop) {
        let end = at.end();
        self.at = at;
        let (here, there) = (end as usize, end.other() as usize);
        let out = &mut self.out;
        out.set_words(&entry.ends[there], entry.protocol);
        *out = out.reversed();
        self.backend = entry.backend;
        self.service = ServiceId(entry.service as u32);
        self.seen_s = entry.seen_s[here];
        self.last_s = latest(entry.seen_s);
        self.next_seq = entry.next_seq[here];
        self.hop = *hop;
        if at.state & state::WAY_BACK == 0 {
            self.hop.ifindex = 0;
        }
    }
}

/// A flow to be entered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFlow {
    /// Packets from the client as they come in.
    pub key: FlowKey,
    /// The key with which packets from the client leave. A source port that is to be given out is
    /// filled in.
    pub out: FlowKey,
    /// Its backend.
    pub backend: BackendId,
    /// Its service.
    pub service: ServiceId,
    /// Bits of [`state`].
    pub state: u32,
    /// See [`FlowEntry::next_seq`].
    pub next_seq: u32,
    /// Source ports that it may get.
    pub ports: PortRange,
}

impl NewFlow {
    /// Nothing yet.
    pub const NONE: Self = Self {
        key: FlowKey::NONE,
        out: FlowKey::NONE,
        backend: BackendId::NONE,
        service: ServiceId(0),
        state: 0,
        next_seq: 0,
        ports: PortRange {
            base: 0,
            span: 0,
            start: 0,
        },
    };
}

/// Source ports that may be given to a flow, in host byte order: `start` and others, of the `span`
/// that begin with `base`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRange {
    /// The first of all.
    pub base: u32,
    /// How many; 0 if the source port stays unchanged.
    pub span: u32,
    /// Which one is tried first, below `span`.
    pub start: u32,
}

impl PortRange {
    #[inline(always)]
    const fn port(&self, tried: u32) -> u16 {
        let place = self.start + tried * tried;
        let place = if place >= self.span {
            place % self.span
        } else {
            place
        };
        (self.base + place) as u16
    }
}

impl<const N: usize> FlowEntry<N> {
    /// Makes it that of a new flow, except for state and counts.
    #[inline(always)]
    pub fn begin(&mut self, new: &NewFlow, now_s: u32) {
        self.ends = [new.key.words(), new.out.reversed().words()];
        self.protocol = new.key.protocol as u8;
        self.service = new.service.0 as u16;
        self.backend = new.backend;
        self.seen_s = [now_s; 2];
        self.next_seq = [new.next_seq, 0];
    }
}

/// The later one of both ends' times.
#[inline(always)]
pub const fn latest([client_s, backend_s]: [u32; 2]) -> u32 {
    if client_s > backend_s {
        client_s
    } else {
        backend_s
    }
}

/// A set, in a kernel map or in memory. Ways are below [`FlowSet::WAYS`].
pub trait Set<const N: usize> {
    /// The state of an entry. Later reads see values of that moment or newer ones.
    fn state(&self, way: usize) -> u32;
    /// Replaces a state, if it still is `old`. Earlier writes become visible first.
    fn replace_state(&mut self, way: usize, old: u32, new: u32) -> bool;
    /// The counts in an entry.
    fn counts(&self, way: usize) -> u32;
    /// Adds to the counts; returns their former value.
    fn add_counts(&mut self, way: usize, amount: u32) -> u32;
    /// How packets that come from `end` come in, compared with `words`: 0 if they are the same.
    fn difference(&self, way: usize, end: End, words: &[u32; N], protocol: u8) -> u32;
    /// Words of packets that come in from the backend, and their protocol.
    fn backend_end(&self, way: usize) -> ([u32; N], u8);
    /// When the client's last packet came.
    fn seen_s(&self, way: usize) -> u32;
    /// The number after `i`. (In the kernel the compiler is kept from writing a loop out: it would
    /// need more stack than there is.)
    #[inline(always)]
    fn after(&self, i: usize) -> usize {
        i + 1
    }
    /// The same number. (In the kernel neither the compiler nor the verifier knows anything of it: the
    /// one would make a branch of code that has none, the other look at every way to come by it.)
    #[inline(always)]
    fn forgotten(&self, number: u64) -> u64 {
        number
    }
    /// Notes that the flow is counted for its client. False, and nothing done, if it was before.
    fn set_client(&mut self, way: usize, counted: Counted) -> bool;
    /// Removes that note, and returns it.
    fn take_client(&mut self, way: usize) -> Counted;
    /// Writes a flow, except for state and counts.
    fn write(&mut self, way: usize, new: &NewFlow, now_s: u32);
}

/// `NAT_PORTS` and `CLIENTS`, in kernel maps or in memory.
pub trait Ports {
    /// Replaces the value at a place, if it still is `old`.
    fn replace(&mut self, place: u32, old: u32, new: u32) -> bool;
    /// Takes a flow off the count of its client.
    fn uncount(&mut self, counted: Counted);
}

/// Whether an entry is that of a flow.
#[inline(always)]
pub const fn is_there(word: u32) -> bool {
    word & (state::IN_USE | state::BUSY) == state::IN_USE
}

/// Whether an entry is still that of the flow that was found.
#[inline(always)]
pub const fn is_same(found: u32, now: u32) -> bool {
    (found ^ now) & state::VERSION == 0 && is_there(now)
}

/// Whether an entry and its way back are still as they were found. (But for a way back that was
/// written whole meanwhile.)
#[inline(always)]
pub const fn is_untouched(found: u32, now: u32) -> bool {
    (found ^ now) & (state::VERSION | state::WAY_BACK) == 0 && is_there(now)
}
