//! The memory of the flow tables: sets that other CPUs and the agent use too.

use core::mem::offset_of;
use core::ptr;

use lb_common::abi::packet::{FlowEntry, FlowSet, Hop};
use lb_common::clients::Counted;
use lb_common::flows::{End, NewFlow, Ports, Set};

use crate::atomic::{add_fetched, fence, replace, replace_64};
use crate::caps;
use crate::hints::{forgotten, opaque};
use crate::packet_maps::{FLOWS4, FLOWS6, NAT_PORTS, scratch};

const WAYS: usize = FlowSet::<3>::WAYS;

/// A set in its map.
pub struct Place<const N: usize>(*mut FlowSet<N>);

impl<const N: usize> Clone for Place<N> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<const N: usize> Copy for Place<N> {}

impl<const N: usize> Place<N> {
    /// Pointer to one entry of the set.
    #[inline(always)]
    pub fn entry(self, way: usize) -> *mut FlowEntry<N> {
        self.0
            .cast::<FlowEntry<N>>()
            .wrapping_add(opaque(way) % WAYS)
    }

    #[inline(always)]
    fn state_at(self, way: usize) -> *mut u32 {
        let at = offset_of!(FlowEntry<N>, state);
        self.entry(way).wrapping_byte_add(at).cast()
    }

    /// Prefetches an entry into the cache; its state does not matter.
    #[inline(always)]
    pub fn fetch(self, way: usize) {
        // SAFETY: inside the set.
        let _ = unsafe { ptr::read_volatile(self.state_at(way)) };
    }

    #[inline(always)]
    fn counts_at(self, way: usize) -> *mut u32 {
        let at = offset_of!(FlowEntry<N>, counts);
        self.entry(way).wrapping_byte_add(at).cast()
    }

    #[inline(always)]
    fn client_at(self, way: usize) -> *mut u64 {
        let at = offset_of!(FlowEntry<N>, client);
        self.entry(way).wrapping_byte_add(at).cast()
    }

    /// The return hop of a flow in the set.
    #[inline(always)]
    pub fn hop(self, way: usize) -> *mut Hop {
        // SAFETY: the kernel returned a valid, aligned set.
        let hops: *mut Hop = unsafe { &raw mut (*self.0).hops }.cast();
        hops.wrapping_add(opaque(way) % WAYS)
    }
}

impl<const N: usize> Set<N> for Place<N> {
    #[inline(always)]
    fn state(&self, way: usize) -> u32 {
        let word = self.state_at(way);
        fence(word);
        // SAFETY: inside the set.
        let state = unsafe { ptr::read_volatile(word) };
        fence(word);
        state
    }

    #[inline(always)]
    fn replace_state(&mut self, way: usize, old: u32, new: u32) -> bool {
        // SAFETY: inside the set, and aligned.
        unsafe { replace(self.state_at(way), old, new) == old }
    }

    #[inline(always)]
    fn counts(&self, way: usize) -> u32 {
        // SAFETY: inside the set.
        unsafe { ptr::read_volatile(self.counts_at(way)) }
    }

    #[inline(always)]
    fn add_counts(&mut self, way: usize, amount: u32) -> u32 {
        // SAFETY: inside the set, and aligned.
        unsafe { add_fetched(self.counts_at(way), amount) }
    }

    #[inline(always)]
    fn difference(&self, way: usize, end: End, words: &[u32; N], protocol: u8) -> u32 {
        // SAFETY: inside the set; the reader checks the state afterwards.
        let entry = unsafe { &*self.entry(way) };
        let ours = match end {
            End::Client => &entry.ends[0],
            End::Backend => &entry.ends[1],
        };
        let mut other = u32::from(entry.protocol ^ protocol);
        let mut i = 0;
        while i < N {
            other |= ours[i] ^ words[i];
            i += 1;
        }
        other
    }

    #[inline(always)]
    fn backend_end(&self, way: usize) -> ([u32; N], u8) {
        // SAFETY: inside the set, and this one's.
        let entry = unsafe { &*self.entry(way) };
        (entry.ends[1], entry.protocol)
    }

    #[inline(always)]
    fn seen_s(&self, way: usize) -> u32 {
        // SAFETY: inside the set; a time of a moment ago.
        unsafe { (*self.entry(way)).seen_s[0] }
    }

    #[inline(always)]
    fn after(&self, i: usize) -> usize {
        opaque(i) + 1
    }

    #[inline(always)]
    fn forgotten(&self, number: u64) -> u64 {
        forgotten(number)
    }

    #[inline(always)]
    fn set_client(&mut self, way: usize, counted: Counted) -> bool {
        // SAFETY: inside the set, and aligned.
        unsafe { replace_64(self.client_at(way), 0, counted.0) == 0 }
    }

    #[inline(always)]
    fn take_client(&mut self, way: usize) -> Counted {
        let place = self.client_at(way);
        // SAFETY: inside the set, and aligned.
        let noted = unsafe { ptr::read_volatile(place) };
        // SAFETY: as above.
        if noted != 0 && unsafe { replace_64(place, noted, 0) } == noted {
            Counted(noted)
        } else {
            Counted::NONE
        }
    }

    #[inline(always)]
    fn write(&mut self, way: usize, new: &NewFlow, now_s: u32) {
        // SAFETY: inside the set, and this one's to write.
        unsafe { &mut *self.entry(way) }.begin(new, now_s);
    }
}

/// The source ports and the counts of clients in their maps.
pub struct PortMap;

impl Ports for PortMap {
    #[inline(always)]
    fn replace(&mut self, place: u32, old: u32, new: u32) -> bool {
        match NAT_PORTS.get_ptr_mut(place) {
            // SAFETY: the kernel returned a valid, aligned element, which begins with its owner.
            Some(port) => unsafe { replace(port.cast(), old, new) == old },
            None => false,
        }
    }

    #[inline(always)]
    fn uncount(&mut self, counted: Counted) {
        caps::take(counted);
    }
}

/// The same while a flow is entered: the count of the one that makes room is kept in [`Scratch::replaced`], as the stack
/// has no room for one more call there.
///
/// [`Scratch::replaced`]: crate::packet_maps::Scratch::replaced
pub struct Entering;

impl Ports for Entering {
    #[inline(always)]
    fn replace(&mut self, place: u32, old: u32, new: u32) -> bool {
        PortMap.replace(place, old, new)
    }

    #[inline(always)]
    fn uncount(&mut self, counted: Counted) {
        if counted == Counted::NONE {
            return;
        }
        if let Some(scratch) = scratch() {
            // SAFETY: this CPU's own element.
            unsafe { (*scratch).replaced = counted.0 };
        }
    }
}

/// A set of flows of so many words, 3 or 9.
#[inline(always)]
pub fn set<const N: usize>(number: u32) -> Option<Place<N>> {
    const { assert!(N == 3 || N == 9) };
    if N == 3 {
        FLOWS4.get_ptr_mut(number).map(|set| Place(set.cast()))
    } else {
        FLOWS6.get_ptr_mut(number).map(|set| Place(set.cast()))
    }
}
