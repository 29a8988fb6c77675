//! Flows that are over are taken out, in small batches: a thread walks over the tables, some
//! hundred entries at a time, and never looks at a whole table at once.
//!
//! Ages are those of the packets, kept in the entries by the kernel's own clock: an agent that
//! starts on tables which another one has left finds nothing older than it is.

use std::collections::{HashMap as StdMap, HashSet};
use std::io;
use std::iter;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use lb_common::abi::packet::{Flow, FlowKey, PacketSettings, Tracked, flow};
use lb_common::abi::{BackendId, protocol};

use super::fate::{self, Fate, fate};
use super::reset::Resets;
use super::{pinned, pinned_hash};
use crate::dataplane::bpf::batch::{Batches, Next};
use crate::dataplane::bpf::pod;
use crate::host::monotonic_s;

/// Entries that are looked at together.
const BATCH: u32 = 512;
/// Time between two batches.
const PAUSE: Duration = Duration::from_millis(20);
/// Time between the beginnings of two walks over everything, at least.
const PASS: Duration = Duration::from_secs(1);
/// Only where there is an entry: linux/bpf.h.
const BPF_EXIST: u64 = 2;
/// How long a flow that is given up is kept, so that the answers of its ends are understood.
const FAREWELL_S: u32 = 3;

/// What the last walk over the tables found.
#[derive(Clone, Debug, Default)]
pub(super) struct Swept {
    pub(super) established: u64,
    pub(super) capacity: u64,
    pub(super) opening: u64,
    pub(super) opening_capacity: u64,
    pub(super) opening_full: bool,
    pub(super) tracked: u64,
    pub(super) tracked_capacity: u64,
    /// Since the agent's start, this one included.
    pub(super) walks: u64,
    /// Since the agent's start.
    pub(super) expired: u64,
    /// The same.
    pub(super) expired_opening: u64,
    /// The same.
    pub(super) orphaned: u64,
    active: StdMap<BackendId, u64>,
    /// Attempts to open a flow that a backend has left without an answer, since the agent's start.
    unanswered: StdMap<BackendId, u64>,
    away: Arc<HashSet<(FlowKey, BackendId)>>,
}

/// The thread's side that others see.
pub(super) struct Sweeper {
    swept: Mutex<Swept>,
    hurry: AtomicBool,
    wake: Condvar,
    now_s: AtomicU32,
}

impl Sweeper {
    /// What the last walk found.
    pub(super) fn swept(&self) -> Swept {
        self.lock().clone()
    }

    /// Open flows of a backend.
    pub(super) fn active(&self, backend: BackendId) -> u64 {
        self.lock().active.get(&backend).copied().unwrap_or(0)
    }

    /// Attempts to open a flow that a backend has left without an answer.
    pub(super) fn unanswered(&self, backend: BackendId) -> u64 {
        self.lock().unanswered.get(&backend).copied().unwrap_or(0)
    }

    /// The flows of the `dsr` path that are tracked, each with its backend.
    pub(super) fn tracked(&self) -> Arc<HashSet<(FlowKey, BackendId)>> {
        Arc::clone(&self.lock().away)
    }

    /// The kernel's clock as of the last batch, CLOCK_MONOTONIC in seconds.
    pub(super) fn now_s(&self) -> u32 {
        self.now_s.load(Ordering::Relaxed)
    }

    /// Begins the next walk now: a backend is gone.
    pub(super) fn hurry(&self) {
        self.hurry.store(true, Ordering::Release);
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Swept> {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rest(&self, until: Instant) {
        let mut swept = self.lock();
        while !self.hurry.swap(false, Ordering::AcqRel) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.wake.wait_timeout(swept, left);
            swept = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Begins to walk over the tables pinned in `pin_dir`.
pub(super) fn start(pin_dir: &Path, ages: PacketSettings) -> io::Result<Arc<Sweeper>> {
    let tables = Tables::open(pin_dir).map_err(io::Error::other)?;
    let sweeper = Arc::new(Sweeper {
        swept: Mutex::default(),
        hurry: AtomicBool::new(false),
        wake: Condvar::new(),
        now_s: AtomicU32::new(monotonic_s()),
    });
    let resets = Resets::open()
        .inspect_err(|error| {
            tracing::warn!(%error, "the ends of flows that are given up are not told (give lb-agent CAP_NET_RAW)");
        })
        .ok();
    let mut walk = Walk {
        tables,
        ages,
        resets,
        farewells: StdMap::new(),
        looks_s: [monotonic_s(); 2],
        swept: Swept::default(),
        sweeper: Arc::clone(&sweeper),
    };
    std::thread::Builder::new()
        .name("flow-sweep".into())
        .spawn(move || walk.for_ever())?;
    Ok(sweeper)
}

struct Tables {
    flows: HashMap<MapData, pod::FlowKey, pod::Flow>,
    opening: HashMap<MapData, pod::FlowKey, pod::Flow>,
    tracked: HashMap<MapData, pod::FlowKey, pod::Tracked>,
    targets: Array<MapData, pod::Target>,
    /// The three tables, to be walked over.
    walked: [MapData; 3],
    capacities: [u64; 3],
}

impl Tables {
    fn open(pin_dir: &Path) -> Result<Self, MapError> {
        let capacity =
            |name| Ok::<_, MapError>(pinned(pin_dir, name)?.info()?.max_entries().into());
        Ok(Self {
            flows: pinned_hash(pin_dir, "FLOWS", false)?,
            opening: pinned_hash(pin_dir, "FLOWS_NEW", true)?,
            tracked: pinned_hash(pin_dir, "TRACKED", true)?,
            targets: Map::Array(pinned(pin_dir, "TARGETS")?).try_into()?,
            walked: [
                pinned(pin_dir, "FLOWS")?,
                pinned(pin_dir, "FLOWS_NEW")?,
                pinned(pin_dir, "TRACKED")?,
            ],
            capacities: [
                capacity("FLOWS")?,
                capacity("FLOWS_NEW")?,
                capacity("TRACKED")?,
            ],
        })
    }

    fn gone(&self, backend: BackendId) -> bool {
        self.targets
            .get(&backend.index(), 0)
            .is_ok_and(|target| target.0.id != backend || backend == BackendId::NONE)
    }

    /// An entry in either table.
    fn entry(&self, key: &FlowKey) -> Option<Flow> {
        let key = pod::FlowKey(*key);
        let found = self
            .flows
            .get(&key, 0)
            .or_else(|_| self.opening.get(&key, 0));
        found.ok().map(|flow| flow.0)
    }

    /// The other entry of a flow.
    fn other(&self, key: &FlowKey, entry: &Flow) -> Option<Flow> {
        self.entry(&entry.pair())
            .filter(|other| other.is_pair_of(key))
    }

    /// Has the program answer what still comes for a flow as if its backend were gone.
    fn give_up(&mut self, key: &FlowKey, entry: &Flow, pair: Option<&Flow>) {
        let pair = pair.map(|flow| (entry.pair(), flow));
        for (key, flow) in iter::once((*key, entry)).chain(pair) {
            let closed = Flow {
                backend: BackendId::NONE,
                ..*flow
            };
            // One that has gone meanwhile is over, too.
            let _ = self
                .flows
                .insert(pod::FlowKey(key), pod::Flow(closed), BPF_EXIST);
        }
    }

    /// Takes both entries of a flow out. What has been pushed out since is no matter.
    fn remove(&mut self, key: &FlowKey, entry: &Flow) {
        let pair = self.other(key, entry).map(|_| entry.pair());
        for key in iter::once(*key).chain(pair) {
            let key = pod::FlowKey(key);
            let _ = self.flows.remove(&key);
            let _ = self.opening.remove(&key);
        }
    }
}

/// One walk after the other.
struct Walk {
    tables: Tables,
    ages: PacketSettings,
    resets: Option<Resets>,
    /// Flows whose backend is gone and whose ends have been told, and when.
    farewells: StdMap<FlowKey, u32>,
    /// When the last walk over the flows began, and this one; the kernel's clock.
    looks_s: [u32; 2],
    swept: Swept,
    sweeper: Arc<Sweeper>,
}

impl Walk {
    fn for_ever(&mut self) {
        loop {
            let begun = Instant::now();
            if let Err(error) = self.once() {
                tracing::warn!(%error, "the flow tables cannot be read");
            }
            self.sweeper.rest(begun + PASS);
        }
    }

    /// Walks over all tables once.
    fn once(&mut self) -> io::Result<()> {
        self.swept = Swept {
            capacity: self.tables.capacities[0] / 2,
            opening_capacity: self.tables.capacities[1] / 2,
            tracked_capacity: self.tables.capacities[2],
            expired: self.swept.expired,
            expired_opening: self.swept.expired_opening,
            orphaned: self.swept.orphaned,
            opening_full: self.swept.opening_full,
            walks: self.swept.walks + 1,
            unanswered: std::mem::take(&mut self.swept.unanswered),
            ..Swept::default()
        };
        self.looks_s = [self.looks_s[1], monotonic_s()];
        for established in [true, false] {
            self.flows(established)?;
        }
        self.tracked()?;
        let full = self.swept.opening * 10 >= self.swept.opening_capacity * 9;
        self.swept.opening_full |= full;
        let now_s = monotonic_s();
        self.farewells
            .retain(|_, at_s| now_s.saturating_sub(*at_s) < 10 * FAREWELL_S);
        *self.sweeper.lock() = self.swept.clone();
        Ok(())
    }

    fn flows(&mut self, established: bool) -> io::Result<()> {
        let table = &self.tables.walked[usize::from(!established)];
        let fd = table.fd().as_fd().as_raw_fd();
        let mut batches: Batches<pod::FlowKey, pod::Flow> = Batches::new(
            fd,
            BATCH,
            pod::FlowKey(FlowKey::default()),
            pod::Flow(Flow::default()),
        );
        loop {
            let next = batches.next()?;
            let now_s = monotonic_s();
            self.sweeper.now_s.store(now_s, Ordering::Relaxed);
            for (key, entry) in batches.entries() {
                self.look_at(&key.0, &entry.0, now_s, established);
            }
            if next == Next::End {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Looks at one entry of a flow. Both entries of one that is over are taken out with the first
    /// that is met.
    fn look_at(&mut self, key: &FlowKey, entry: &Flow, now_s: u32, established: bool) {
        let forward = entry.flags & flow::REPLY == 0;
        let gone = self.tables.gone(entry.backend);
        if forward {
            self.count(entry, established, gone);
            if !established && !gone && fate::is_silent(key, entry, self.looks_s) {
                self.silent(key, entry);
            }
        }
        let told_s = self.farewells.get(key).filter(|_| forward && !gone);
        if told_s.is_some_and(|told_s| entry.seen_s <= told_s + 1) {
            // Its backend is back in service; its ends know that this flow is over.
            self.tables.remove(key, entry);
            return;
        }
        // The other entry is asked for only where it matters.
        if fate(key, entry, None, gone, now_s, &self.ages) == Fate::Keep
            && entry.flags & (flow::FIN | flow::RST) == 0
        {
            return;
        }
        let pair = self.tables.other(key, entry);
        match fate(key, entry, pair.as_ref(), gone, now_s, &self.ages) {
            Fate::Keep => {}
            Fate::Forget => {
                self.swept.expired_opening += u64::from(!established && forward);
                self.tables.remove(key, entry);
            }
            Fate::Expire => {
                self.swept.expired += 1;
                // First, as answers come at once.
                self.tables.give_up(key, entry, pair.as_ref());
                self.farewells.insert(forward_key(key, entry), now_s);
                self.tell(key, entry, pair.as_ref());
            }
            Fate::Orphan => self.orphan(key, entry, pair.as_ref(), now_s),
        }
    }

    /// Counts the flow of an entry from the client. One that ends is not open any more.
    fn count(&mut self, entry: &Flow, established: bool, gone: bool) {
        if !established {
            self.swept.opening += 1;
            return;
        }
        self.swept.established += 1;
        if !gone && entry.backend != BackendId::NONE && entry.flags & (flow::FIN | flow::RST) == 0 {
            *self.swept.active.entry(entry.backend).or_default() += 1;
        }
    }

    /// A client has waited for long enough: unless the backend has spoken, this attempt failed.
    fn silent(&mut self, key: &FlowKey, entry: &Flow) {
        let answered = self.tables.other(key, entry);
        if answered.is_none_or(|pair| pair.flags & flow::SEEN == 0) {
            *self.swept.unanswered.entry(entry.backend).or_default() += 1;
        }
    }

    fn orphan(&mut self, key: &FlowKey, entry: &Flow, pair: Option<&Flow>, now_s: u32) {
        let forward = forward_key(key, entry);
        match self.farewells.get(&forward) {
            None => {
                self.swept.orphaned += 1;
                self.farewells.insert(forward, now_s);
                // For good: its ends take it for over, also when the backend is back before it is
                // taken out, or another agent does that.
                self.tables.give_up(key, entry, pair);
                self.tell(key, entry, pair);
            }
            Some(at_s) if now_s.saturating_sub(*at_s) < FAREWELL_S => {}
            Some(_) => self.tables.remove(key, entry),
        }
    }

    fn tell(&self, key: &FlowKey, entry: &Flow, pair: Option<&Flow>) {
        let Some(resets) = &self.resets else {
            return;
        };
        if key.protocol != u32::from(protocol::TCP) {
            return;
        }
        // The entries in this direction and the other know what each end has sent.
        let back = pair.map_or(0, |pair| pair.next_seq);
        let there = resets.tell(&entry.out, entry.next_seq, back);
        let here = match pair {
            Some(pair) => resets.tell(&pair.out, pair.next_seq, entry.next_seq),
            None => Ok(()),
        };
        if let Err(error) = there.and(here) {
            tracing::debug!(%error, "the end of a flow was not told");
        }
    }

    fn tracked(&mut self) -> io::Result<()> {
        let fd = self.tables.walked[2].fd().as_fd().as_raw_fd();
        let none = (
            pod::FlowKey(FlowKey::default()),
            pod::Tracked(Tracked::default()),
        );
        let mut batches: Batches<pod::FlowKey, pod::Tracked> =
            Batches::new(fd, BATCH, none.0, none.1);
        let mut with = HashSet::new();
        loop {
            let next = batches.next()?;
            let now_s = monotonic_s();
            for (key, tracked) in batches.entries() {
                let udp = key.0.protocol == u32::from(protocol::UDP);
                let limit_s = if udp {
                    self.ages.udp_s
                } else {
                    self.ages.established_s
                };
                let over = now_s.saturating_sub(tracked.0.seen_s) >= limit_s;
                if over || self.tables.gone(tracked.0.backend) {
                    let _ = self.tables.tracked.remove(&key);
                } else {
                    with.insert((key.0, tracked.0.backend));
                }
            }
            if next == Next::End {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        self.swept.tracked = with.len() as u64;
        self.swept.away = Arc::new(with);
        Ok(())
    }
}

/// Key of the entry from the client, as either entry stands for the flow.
fn forward_key(key: &FlowKey, entry: &Flow) -> FlowKey {
    if entry.flags & flow::REPLY == 0 {
        *key
    } else {
        entry.out.reversed()
    }
}
