//! The flow tables in the kernel's memory, which is mapped here: `lb_common::flows` over it.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering, fence};

use lb_common::abi::BackendId;
use lb_common::abi::packet::{FlowEntry, FlowKey, FlowSet, NatPort, PacketSettings, state};
use lb_common::flows::{self, At, End, NewFlow, Ports, Set};

use super::pinned;

/// An array of the kernel's that is mapped.
struct Mapped {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: memory of the kernel's, which others use too; it is touched by atomic accesses, or copied
// and then checked.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps `count` elements of `size` bytes each of the array pinned in `pin_dir`.
    fn open(pin_dir: &Path, name: &str, size: usize, count: u32) -> io::Result<Self> {
        let map = pinned(pin_dir, name).map_err(io::Error::other)?;
        if map.info().map_err(io::Error::other)?.max_entries() < count {
            let what = format!("{name} is smaller than was told");
            return Err(io::Error::other(what));
        }
        let len = (size * count as usize).next_multiple_of(rustix::param::page_size());
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nobody has a reference into it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A flow as it was when it was met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Met {
    /// Where.
    pub(super) at: At,
    /// Packets from the client as they come in.
    pub(super) key: FlowKey,
    /// The same as they leave.
    pub(super) out: FlowKey,
    /// Its backend.
    pub(super) backend: BackendId,
    /// See [`FlowEntry::seen_s`].
    pub(super) seen_s: [u32; 2],
    /// See [`FlowEntry::next_seq`].
    pub(super) next_seq: [u32; 2],
}

impl Met {
    /// When the last packet came.
    pub(super) const fn last_s(&self) -> u32 {
        flows::latest(self.seen_s)
    }

    /// Whether one of `bits` of [`state`] is set.
    pub(super) const fn has(&self, bits: u32) -> bool {
        self.at.state & bits != 0
    }
}

/// `FLOWS4`, `FLOWS6` and `NAT_PORTS`.
pub(super) struct Flows {
    v4: Mapped,
    v6: Mapped,
    ports: Mapped,
    settings: PacketSettings,
}

impl Flows {
    /// Flows for which there is a set with twice as many places.
    const A_SET: u32 = FlowSet::<3>::WAYS as u32 / 2;

    /// Sets for so many flows.
    pub(super) fn sets_for(flows: u32) -> u32 {
        flows.div_ceil(Self::A_SET)
    }

    /// Flows that so many sets have room for.
    pub(super) fn flows_of(sets: u32) -> u32 {
        sets * Self::A_SET
    }

    /// Places for the source ports of so many flows. One in four is taken when there are as many new
    /// flows of one family as find room.
    pub(super) fn ports_for(flows: u32) -> u32 {
        flows.saturating_mul(8).max(4096).next_power_of_two()
    }

    /// Maps what is pinned in `pin_dir`. `settings` say how much of it is used.
    pub(super) fn open(pin_dir: &Path, settings: PacketSettings) -> io::Result<Self> {
        let open = |name, size, count| Mapped::open(pin_dir, name, size, count);
        Ok(Self {
            v4: open("FLOWS4", size_of::<FlowSet<3>>(), settings.sets)?,
            v6: open("FLOWS6", size_of::<FlowSet<9>>(), settings.sets)?,
            ports: open("NAT_PORTS", size_of::<NatPort>(), settings.ports)?,
            settings,
        })
    }

    /// How many sets there are for each family.
    pub(super) fn sets(&self) -> u32 {
        self.settings.sets
    }

    /// Established flows that were asked for, of each family.
    pub(super) fn capacity(&self) -> u64 {
        u64::from(Self::flows_of(self.settings.sets))
    }

    /// Places that there are, of both families.
    pub(super) fn places(&self) -> u64 {
        4 * self.capacity()
    }

    /// A set of flows of so many words, 3 or 9.
    fn set<const N: usize>(&self, number: u32) -> Place<N> {
        const { assert!(N == 3 || N == 9) };
        let table = if N == 3 { &self.v4 } else { &self.v6 };
        let sets: *mut FlowSet<N> = table.base.as_ptr().cast();
        // SAFETY: it is mapped.
        Place(unsafe { sets.add((number % self.settings.sets) as usize) })
    }

    /// What is in a set of one family: flows, and places that somebody gives to another flow.
    pub(super) fn met(&self, v6: bool, set: u32) -> Vec<Result<Met, At>> {
        if v6 {
            self.set::<9>(set).met(set)
        } else {
            self.set::<3>(set).met(set)
        }
    }

    /// Has the programs answer what still comes for a flow as if its backend were gone.
    pub(super) fn give_up(&self, at: &At) {
        if at.v6 == 0 {
            flows::mark(&mut self.set::<3>(at.set), at, state::GIVEN_UP, 0);
        } else {
            flows::mark(&mut self.set::<9>(at.set), at, state::GIVEN_UP, 0);
        }
    }

    /// Takes a flow out. One that has gone since, or has changed its way back in this moment, is
    /// met again if it is there.
    pub(super) fn remove(&self, at: &At) {
        let (settings, mut ports) = (&self.settings, PortTable(self));
        let _ = if at.v6 == 0 {
            flows::remove(&mut self.set::<3>(at.set), &mut ports, settings, at)
        } else {
            flows::remove(&mut self.set::<9>(at.set), &mut ports, settings, at)
        };
    }

    /// Mends an entry that nobody is at any more.
    pub(super) fn unstick(&self, at: &At) {
        let (settings, mut ports) = (&self.settings, PortTable(self));
        if at.v6 == 0 {
            flows::unstick(&mut self.set::<3>(at.set), &mut ports, settings, at);
        } else {
            flows::unstick(&mut self.set::<9>(at.set), &mut ports, settings, at);
        }
    }
}

struct PortTable<'a>(&'a Flows);

impl Ports for PortTable<'_> {
    fn replace(&mut self, place: u32, old: u32, new: u32) -> bool {
        let ports: *mut NatPort = self.0.ports.base.as_ptr().cast();
        let port = ports.wrapping_add((place % self.0.settings.ports) as usize);
        let owner = port.wrapping_byte_add(offset_of!(NatPort, owner)).cast();
        // SAFETY: mapped, aligned, and touched by atomic instructions alone.
        let word = unsafe { AtomicU32::from_ptr(owner) };
        word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

/// A set.
#[derive(Clone, Copy)]
struct Place<const N: usize>(*mut FlowSet<N>);

impl<const N: usize> Place<N> {
    fn entry(self, way: usize) -> *mut FlowEntry<N> {
        self.0
            .cast::<FlowEntry<N>>()
            .wrapping_add(way % FlowSet::<3>::WAYS)
    }

    fn word(&self, way: usize, at: usize) -> &AtomicU32 {
        // SAFETY: an aligned word of the entry.
        unsafe { AtomicU32::from_ptr(self.entry(way).wrapping_byte_add(at).cast()) }
    }

    /// An entry as it is now, whatever others write.
    fn copy(self, way: usize) -> FlowEntry<N> {
        // SAFETY: mapped and aligned, and any bytes are a value.
        unsafe { ptr::read_volatile(self.entry(way)) }
    }

    fn met(self, set: u32) -> Vec<Result<Met, At>> {
        let ways = 0..FlowSet::<3>::WAYS;
        ways.filter_map(|way| self.meet(set, way)).collect()
    }

    fn meet(self, set: u32, way: usize) -> Option<Result<Met, At>> {
        let word = self.state(way);
        let at = At::new::<N>(set, way, End::Client, word);
        if word & state::BUSY != 0 {
            return Some(Err(at));
        }
        if !flows::is_there(word) {
            return None;
        }
        let entry = self.copy(way);
        if !flows::is_same(word, self.state(way)) {
            return None;
        }
        let mut key = FlowKey::NONE;
        let mut back = FlowKey::NONE;
        key.set_words(&entry.ends[End::Client as usize], entry.protocol);
        back.set_words(&entry.ends[End::Backend as usize], entry.protocol);
        Some(Ok(Met {
            at,
            key,
            out: back.reversed(),
            backend: entry.backend,
            seen_s: entry.seen_s,
            next_seq: entry.next_seq,
        }))
    }
}

impl<const N: usize> Set<N> for Place<N> {
    fn state(&self, way: usize) -> u32 {
        // What was read before is not read later, and what is read afterwards not before.
        fence(Ordering::Acquire);
        let state = self.word(way, offset_of!(FlowEntry<N>, state));
        state.load(Ordering::Acquire)
    }

    fn replace_state(&mut self, way: usize, old: u32, new: u32) -> bool {
        let state = self.word(way, offset_of!(FlowEntry<N>, state));
        state
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    fn counts(&self, way: usize) -> u32 {
        let counts = self.word(way, offset_of!(FlowEntry<N>, counts));
        counts.load(Ordering::SeqCst)
    }

    fn add_counts(&mut self, way: usize, amount: u32) -> u32 {
        let counts = self.word(way, offset_of!(FlowEntry<N>, counts));
        counts.fetch_add(amount, Ordering::SeqCst)
    }

    fn difference(&self, way: usize, end: End, words: &[u32; N], protocol: u8) -> u32 {
        let entry = self.copy(way);
        let same = entry.ends[end as usize] == *words && entry.protocol == protocol;
        u32::from(!same)
    }

    fn backend_end(&self, way: usize) -> ([u32; N], u8) {
        let entry = self.copy(way);
        (entry.ends[End::Backend as usize], entry.protocol)
    }

    fn seen_s(&self, way: usize) -> u32 {
        self.copy(way).seen_s[End::Client as usize]
    }

    fn write(&mut self, way: usize, new: &NewFlow, now_s: u32) {
        let mut entry = self.copy(way);
        entry.begin(new, now_s);
        let skipped = offset_of!(FlowEntry<N>, ends);
        let from = (&raw const entry).wrapping_byte_add(skipped).cast::<u8>();
        let to = self.entry(way).wrapping_byte_add(skipped).cast::<u8>();
        let len = size_of::<FlowEntry<N>>() - skipped;
        // SAFETY: both are that long, and the entry is this one's to write but for what is skipped.
        unsafe { ptr::copy_nonoverlapping(from, to, len) };
    }
}

#[cfg(test)]
mod tests;
