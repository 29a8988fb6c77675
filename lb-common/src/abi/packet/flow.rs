//! Layout of the flow tables, `FLOWS4`, `FLOWS6` and `NAT_PORTS`. Their operations are in
//! [`crate::flows`].

use super::Ip;
use crate::abi::BackendId;
use crate::clients::Counted;
use crate::packet::{ports, ports_word};

/// A flow in one direction: its packets as they come in, or as they leave.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src: Ip,
    /// Destination address.
    pub dst: Ip,
    /// Source port, network byte order.
    pub sport_be: u16,
    /// Destination port, network byte order.
    pub dport_be: u16,
    /// One of [`crate::abi::protocol`].
    pub protocol: u32,
}
const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// No flow.
    pub const NONE: Self = Self {
        src: Ip([0; 4]),
        dst: Ip([0; 4]),
        sport_be: 0,
        dport_be: 0,
        protocol: 0,
    };

    /// The key of the return direction.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport_be: self.dport_be,
            dport_be: self.sport_be,
            protocol: self.protocol,
        }
    }

    /// Both addresses and both ports in so many words: 3 over IPv4, 9 over IPv6.
    #[inline(always)]
    pub const fn words<const N: usize>(&self) -> [u32; N] {
        let mut words = [0; N];
        let (src, dst) = (self.src.0, self.dst.0);
        let half = N / 2;
        let mut i = 0;
        while i < half {
            words[i] = src[4 - half + i];
            words[half + i] = dst[4 - half + i];
            i += 1;
        }
        words[N - 1] = ports_word([self.sport_be, self.dport_be]);
        words
    }

    /// Writes the key that the words of a flow encode, field by field: in the kernel there is no room
    /// for it elsewhere.
    #[inline(always)]
    pub const fn set_words<const N: usize>(&mut self, words: &[u32; N], protocol: u8) {
        let half = N / 2;
        if half == 1 {
            self.src = Ip::v4(words[0]);
            self.dst = Ip::v4(words[half]);
        } else {
            let mut i = 0;
            while i < half {
                self.src.0[i] = words[i];
                self.dst.0[i] = words[half + i];
                i += 1;
            }
        }
        [self.sport_be, self.dport_be] = ports(words[N - 1]);
        self.protocol = protocol as u32;
    }
}

/// The next hop of frames, from the last route look-up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Interface; 0 for not known.
    pub ifindex: u32,
    /// When it was found, CLOCK_MONOTONIC in seconds.
    pub at_s: u32,
    /// Destination and source MAC address, as the first twelve bytes of a frame.
    pub macs: [u32; 3],
    /// Greatest packet, bytes.
    pub mtu: u32,
}
const _: () = assert!(size_of::<Hop>() == 24);

impl Hop {
    /// Not known.
    pub const NONE: Self = Self {
        ifindex: 0,
        at_s: 0,
        macs: [0; 3],
        mtu: 0,
    };

    /// Whether it is known, was found less than `fresh_s` seconds ago, and not before the second
    /// `since_s`.
    #[inline(always)]
    pub const fn is_fresh(&self, now_s: u32, fresh_s: u32, since_s: u32) -> bool {
        self.ifindex != 0 && self.at_s >= since_s && now_s.wrapping_sub(self.at_s) < fresh_s
    }
}

/// A flow, both directions of it, in one cache line (IPv4, `N` = 3) or two (IPv6, `N` = 9).
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry<const N: usize> {
    /// Bits of [`state`], and a version that is another one for the next flow that has this place.
    /// It is replaced by compare-and-exchange alone.
    pub state: u32,
    /// In the first entry of each half of a set: the counts of that half, see [`crate::flows`].
    pub counts: u32,
    /// Packets from the client as they come in, and packets from the backend as they come in: see
    /// [`FlowKey::words`]. A packet leaves with the other one, reversed.
    pub ends: [[u32; N]; 2],
    /// One of [`crate::abi::protocol`].
    pub protocol: u8,
    /// Padding, zero.
    pub pad: u8,
    /// Its service.
    pub service: u16,
    /// Its backend.
    pub backend: BackendId,
    /// Last packet from the client, and from the backend, CLOCK_MONOTONIC in seconds, renewed once
    /// a second.
    pub seen_s: [u32; 2],
    /// TCP: the sequence numbers that follow these packets, host byte order; an RST to the
    /// other end needs.
    pub next_seq: [u32; 2],
    /// The cell in `CLIENTS` that counts it for its client. It is replaced by compare-and-exchange alone.
    pub client: Counted,
}
const _: () = assert!(size_of::<FlowEntry<3>>() == 64);
const _: () = assert!(size_of::<FlowEntry<9>>() == 128);

impl<const N: usize> FlowEntry<N> {
    /// No flow.
    pub const NONE: Self = Self {
        state: 0,
        counts: 0,
        ends: [[0; N]; 2],
        protocol: 0,
        pad: 0,
        service: 0,
        backend: BackendId(0),
        seen_s: [0; 2],
        next_seq: [0; 2],
        client: Counted::NONE,
    };
}

/// Element of `FLOWS4` (`N` = 3) and `FLOWS6` (`N` = 9): a set of flows, in two halves.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSet<const N: usize> {
    /// The flows.
    pub entries: [FlowEntry<N>; FlowSet::<3>::WAYS],
    /// Their way back, from the backend to the client.
    pub hops: [Hop; FlowSet::<3>::WAYS],
}
const _: () = assert!(size_of::<FlowSet<3>>() == 16 * (64 + 24));
const _: () = assert!(size_of::<FlowSet<9>>() == 16 * (128 + 24));

impl<const N: usize> FlowSet<N> {
    /// Flows for which there is room.
    pub const WAYS: usize = 16;
    /// Nothing in it.
    pub const EMPTY: Self = Self {
        entries: [FlowEntry::NONE; FlowSet::<3>::WAYS],
        hops: [Hop::NONE; FlowSet::<3>::WAYS],
    };
}

/// Element of `NAT_PORTS`: the owner of a source port. (Elements of an array of the kernel's are eight bytes
/// apart at least, also in mapped memory.)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatPort {
    /// See [`crate::flows::At`]; 0 if it is free. It is replaced by compare-and-exchange alone.
    pub owner: u32,
    /// Padding, zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<NatPort>() == 8);

/// Bits of [`FlowEntry::state`].
pub mod state {
    /// A packet has come from the client. The same of the backend is [`BACKEND`] bits to the left.
    pub const SEEN: u32 = 1;
    /// FIN seen.
    pub const FIN: u32 = 2;
    /// RST seen.
    pub const RST: u32 = 4;
    /// How far to the left of a client's bits those of its backend are.
    pub const BACKEND: u32 = 3;
    /// The handshake is complete (TCP), or both sides have spoken (UDP).
    pub const ESTABLISHED: u32 = 1 << 6;
    /// Nothing pushes it out.
    pub const PINNED: u32 = 1 << 7;
    /// [`super::super::kind::LOCAL`]: the host's own stack takes it from here.
    pub const LOCAL: u32 = 1 << 8;
    /// `NAT_PORTS` has its source port.
    pub const GIVEN_OUT: u32 = 1 << 9;
    /// Given up: later packets are answered as if its backend were gone.
    pub const GIVEN_UP: u32 = 1 << 10;
    /// It is in the other half of its set than it would like to be.
    pub const DISPLACED: u32 = 1 << 11;
    /// A CPU writes its return hop; no other may give its place to another flow meanwhile.
    pub const LOCKED: u32 = 1 << 12;
    /// There is a flow.
    pub const IN_USE: u32 = 1 << 13;
    /// A CPU gives the place to another flow; there is none to be found.
    pub const BUSY: u32 = 1 << 14;
    /// The way back has been noted.
    pub const WAY_BACK: u32 = 1 << 15;
    /// The version.
    pub const VERSION: u32 = 0xffff << 16;
    /// One version more.
    pub const NEXT_VERSION: u32 = 1 << 16;

    /// Whether a TCP connection has come to its end: reset, or closed by both sides.
    #[inline(always)]
    pub const fn is_ended(state: u32) -> bool {
        is_ended_bit(state) & 1 != 0
    }

    /// The same as the lowest bit, by no branch. The others mean nothing.
    #[inline(always)]
    pub const fn is_ended_bit(state: u32) -> u32 {
        let there = state >> BACKEND;
        ((state | there) / RST) | ((state & there) / FIN)
    }
}
