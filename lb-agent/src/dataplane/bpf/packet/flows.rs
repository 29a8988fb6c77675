//! The flow tables of `lb_common::flows` over the kernel's memory, which is mapped into the agent.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use lb_common::abi::BackendId;
use lb_common::abi::packet::{FlowEntry, FlowKey, FlowSet, NatPort, PacketSettings, state};
use lb_common::clients::{Bucket, CELLS, CLIENT_BUCKETS, Cells, Counted, open};
use lb_common::flows::{self, At, End, NewFlow, Ports, Set};

use super::pinned;

/// An array of the kernel, mapped into the agent's memory.
struct Mapped {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: memory of the kernel's, which the programs use too; it is touched by atomic accesses, or copied
// and then checked.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps `count` elements of `size` bytes each of the array `name`, which is pinned in `pin_dir`.
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
        // SAFETY: `open` mapped these bytes, and no reference into them exists.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A copy of a flow's entry, taken during a walk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Met {
    /// Place and state of the entry.
    pub(super) at: At,
    /// Addresses and ports of the client's packets as they arrive.
    pub(super) key: FlowKey,
    /// Addresses and ports of the client's packets as they leave.
    pub(super) out: FlowKey,
    pub(super) backend: BackendId,
    /// See [`FlowEntry::seen_s`].
    pub(super) seen_s: [u32; 2],
    /// See [`FlowEntry::next_seq`].
    pub(super) next_seq: [u32; 2],
}

impl Met {
    /// Time of the last packet from either end, in seconds of the kernel's clock.
    pub(super) const fn last_s(&self) -> u32 {
        flows::latest(self.seen_s)
    }

    /// Whether one of `bits` of [`state`] is set.
    pub(super) const fn has(&self, bits: u32) -> bool {
        self.at.state & bits != 0
    }
}

/// The mapped tables `FLOWS4`, `FLOWS6`, `NAT_PORTS` and `CLIENTS`.
pub(super) struct Flows {
    v4: Mapped,
    v6: Mapped,
    ports: Mapped,
    clients: Mapped,
    settings: PacketSettings,
}

impl Flows {
    /// Flows per set at the intended load: a set has twice as many places.
    const A_SET: u32 = FlowSet::<3>::WAYS as u32 / 2;

    /// Sets that `flows` flows need.
    pub(super) fn sets_for(flows: u32) -> u32 {
        flows.div_ceil(Self::A_SET)
    }

    /// Flows for which `sets` sets have room.
    pub(super) fn flows_of(sets: u32) -> u32 {
        sets * Self::A_SET
    }

    /// Source ports that `flows` flows need. One in four is taken if new flows of one family fill their
    /// table.
    pub(super) fn ports_for(flows: u32) -> u32 {
        flows.saturating_mul(8).max(4096).next_power_of_two()
    }

    /// Maps the tables pinned in `pin_dir`. `settings` hold the number of elements in use.
    pub(super) fn open(pin_dir: &Path, settings: PacketSettings) -> io::Result<Self> {
        let open = |name, size, count| Mapped::open(pin_dir, name, size, count);
        Ok(Self {
            v4: open("FLOWS4", size_of::<FlowSet<3>>(), settings.sets)?,
            v6: open("FLOWS6", size_of::<FlowSet<9>>(), settings.sets)?,
            ports: open("NAT_PORTS", size_of::<NatPort>(), settings.ports)?,
            clients: open("CLIENTS", size_of::<Bucket>(), CLIENT_BUCKETS as u32)?,
            settings,
        })
    }

    /// Sets of each family.
    pub(super) fn sets(&self) -> u32 {
        self.settings.sets
    }

    /// Configured number of established flows of each family.
    pub(super) fn capacity(&self) -> u64 {
        u64::from(Self::flows_of(self.settings.sets))
    }

    /// Places for flows of both families.
    pub(super) fn places(&self) -> u64 {
        4 * self.capacity()
    }

    /// A set of flows with keys of `N` words: 3 for IPv4, 9 for IPv6.
    fn set<const N: usize>(&self, number: u32) -> Place<N> {
        const { assert!(N == 3 || N == 9) };
        let table = if N == 3 { &self.v4 } else { &self.v6 };
        let sets: *mut FlowSet<N> = table.base.as_ptr().cast();
        // SAFETY: the index is below the number of sets, all of which are mapped.
        Place(unsafe { sets.add((number % self.settings.sets) as usize) })
    }

    /// Reads a set of one family. A flow is `Ok`; a place that a writer has reserved is `Err`.
    pub(super) fn met(&self, v6: bool, set: u32) -> Vec<Result<Met, At>> {
        if v6 {
            self.set::<9>(set).met(set)
        } else {
            self.set::<3>(set).met(set)
        }
    }

    /// Marks a flow as abandoned: the programs answer its packets as if its backend were gone.
    pub(super) fn give_up(&self, at: &At) {
        let mut ports = PortTable(self);
        if at.v6 == 0 {
            flows::mark(
                &mut self.set::<3>(at.set),
                &mut ports,
                at,
                state::GIVEN_UP,
                0,
            );
        } else {
            flows::mark(
                &mut self.set::<9>(at.set),
                &mut ports,
                at,
                state::GIVEN_UP,
                0,
            );
        }
    }

    /// Removes a flow. If another writer has just removed it or changed its return path, nothing happens.
    /// The next walk meets the flow again if it is still there.
    pub(super) fn remove(&self, at: &At) {
        let (settings, mut ports) = (&self.settings, PortTable(self));
        let _ = if at.v6 == 0 {
            flows::remove(&mut self.set::<3>(at.set), &mut ports, settings, at)
        } else {
            flows::remove(&mut self.set::<9>(at.set), &mut ports, settings, at)
        };
    }

    /// Repairs a place that a dead writer has left reserved.
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

    fn uncount(&mut self, counted: Counted) {
        if counted != Counted::NONE {
            let (bucket, _) = counted.place();
            let buckets: *mut Bucket = self.0.clients.base.as_ptr().cast();
            let bucket = buckets.wrapping_add(bucket as usize % CLIENT_BUCKETS);
            open::take(&mut Clients(bucket.cast()), counted);
        }
    }
}

/// A bucket of `CLIENTS` in mapped memory.
struct Clients(*mut u64);

impl Clients {
    fn cell(&self, cell: u64) -> &AtomicU64 {
        let cell = self.0.wrapping_add(cell as usize % CELLS);
        // SAFETY: mapped, aligned, and touched by atomic instructions alone.
        unsafe { AtomicU64::from_ptr(cell) }
    }
}

impl Cells for Clients {
    fn word(&self, cell: u64) -> u64 {
        self.cell(cell).load(Ordering::SeqCst)
    }

    fn replace(&mut self, cell: u64, old: u64, new: u64) -> bool {
        self.cell(cell)
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

/// A set of flows in mapped memory.
#[derive(Clone, Copy)]
struct Place<const N: usize>(*mut FlowSet<N>);

impl<const N: usize> Place<N> {
    fn entry(self, way: usize) -> *mut FlowEntry<N> {
        self.0
            .cast::<FlowEntry<N>>()
            .wrapping_add(way % FlowSet::<3>::WAYS)
    }

    fn word(&self, way: usize, at: usize) -> &AtomicU32 {
        // SAFETY: the word lies in the mapped entry and is aligned.
        unsafe { AtomicU32::from_ptr(self.entry(way).wrapping_byte_add(at).cast()) }
    }

    fn client(&self, way: usize) -> &AtomicU64 {
        let at = offset_of!(FlowEntry<N>, client);
        // SAFETY: the word lies in the mapped entry and is aligned.
        unsafe { AtomicU64::from_ptr(self.entry(way).wrapping_byte_add(at).cast()) }
    }

    /// A copy of an entry, which the programs may be changing.
    fn copy(self, way: usize) -> FlowEntry<N> {
        // SAFETY: the entry is mapped and aligned, and any bytes are a valid value.
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
        // The fence and the load keep earlier reads before this one, and later reads after it.
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

    fn set_client(&mut self, way: usize, counted: Counted) -> bool {
        self.client(way)
            .compare_exchange(0, counted.0, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    fn take_client(&mut self, way: usize) -> Counted {
        Counted(self.client(way).swap(0, Ordering::SeqCst))
    }

    fn write(&mut self, way: usize, new: &NewFlow, now_s: u32) {
        let mut entry = self.copy(way);
        entry.begin(new, now_s);
        let skipped = offset_of!(FlowEntry<N>, ends);
        let from = (&raw const entry).wrapping_byte_add(skipped).cast::<u8>();
        let to = self.entry(way).wrapping_byte_add(skipped).cast::<u8>();
        let len = offset_of!(FlowEntry<N>, client) - skipped;
        // SAFETY: both ranges have `len` bytes, and this thread has reserved all of the entry except the
        // skipped bytes.
        unsafe { ptr::copy_nonoverlapping(from, to, len) };
    }
}

#[cfg(test)]
mod tests;
