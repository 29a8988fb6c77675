//! Garbage collection of flows: a thread walks over the flow tables in small batches and removes flows that
//! have ended or expired. It never reads a whole table at once.
//!
//! The age of a flow is the time since its packets, which the programs store in its entry by the kernel's
//! clock. An agent that takes over the tables of an earlier one therefore sees no flow older than it is.

use std::collections::{HashMap as StdMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use lb_common::abi::packet::{FlowKey, PacketSettings, Tracked, state};
use lb_common::abi::{self, BackendId, protocol};
use lb_common::flows::At;

use super::expiry::{self, Expiry, Served, expiry};
use super::flows::{Flows, Met};
use super::pinned;
use super::reset::Resets;
use crate::dataplane::bpf::batch::{Batches, Next};
use crate::dataplane::bpf::pod;
use crate::privilege::keep_or_warn;
use lb_net::clock::monotonic_s;

/// Entries of `TRACKED` in one batch.
const BATCH: u32 = 512;
/// Sets of flows in one batch.
const SETS: u32 = 512;
/// Pause between two batches.
const PAUSE: Duration = Duration::from_millis(20);
/// Least time between the beginnings of two walks over all tables.
const PASS: Duration = Duration::from_secs(1);
/// Age of a reservation in a table at which its writer counts as dead.
const STUCK: Duration = Duration::from_secs(5);
/// Seconds for which an abandoned flow stays in the table, so that its ends' answers to the reset are
/// matched.
const FAREWELL_S: u32 = 3;

/// The results of the last walk over the tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Swept {
    pub(super) established: u64,
    pub(super) capacity: u64,
    pub(super) opening: u64,
    pub(super) opening_capacity: u64,
    pub(super) tracked: u64,
    pub(super) tracked_capacity: u64,
    /// Walks since the agent's start, this one included.
    pub(super) walks: u64,
    /// Expired flows since the agent's start.
    pub(super) expired: u64,
    /// Flows that lost their backend, since the agent's start.
    pub(super) orphaned: u64,
    active: StdMap<BackendId, u64>,
    /// Attempts to open a flow that a backend did not answer, by backend, since the agent's start.
    unanswered: StdMap<BackendId, u64>,
    away: Arc<HashSet<(FlowKey, BackendId)>>,
}

/// The collector's results and controls, shared between its thread and the agent.
pub(super) struct Collector {
    swept: Mutex<Swept>,
    run_now: AtomicBool,
    wake: Condvar,
    now_s: AtomicU32,
}

impl Collector {
    /// A copy of the last walk's results.
    pub(super) fn swept(&self) -> Swept {
        self.lock().clone()
    }

    /// Open flows of a backend.
    pub(super) fn active(&self, backend: BackendId) -> u64 {
        self.lock().active.get(&backend).copied().unwrap_or(0)
    }

    /// Attempts to open a flow that a backend did not answer, since the agent's start.
    pub(super) fn unanswered(&self, backend: BackendId) -> u64 {
        self.lock().unanswered.get(&backend).copied().unwrap_or(0)
    }

    /// The tracked flows of the `dsr` path, each with its backend.
    pub(super) fn tracked(&self) -> Arc<HashSet<(FlowKey, BackendId)>> {
        Arc::clone(&self.lock().away)
    }

    /// The kernel's clock at the last batch: CLOCK_MONOTONIC, in seconds.
    pub(super) fn now_s(&self) -> u32 {
        self.now_s.load(Ordering::Relaxed)
    }

    /// Starts the next walk now, because a backend is gone or out of service.
    pub(super) fn run_now(&self) {
        self.run_now.store(true, Ordering::Release);
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Swept> {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rest(&self, until: Instant) {
        let mut swept = self.lock();
        while !self.run_now.swap(false, Ordering::AcqRel) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.wake.wait_timeout(swept, left);
            swept = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Starts the thread that walks over the tables pinned in `pin_dir`.
pub(super) fn start(pin_dir: &Path, ages: PacketSettings) -> io::Result<Arc<Collector>> {
    let tables = Tables::open(pin_dir).map_err(io::Error::other)?;
    let flows = Flows::open(pin_dir, ages)?;
    let collector = Arc::new(Collector {
        swept: Mutex::default(),
        run_now: AtomicBool::new(false),
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
        flows,
        ages,
        resets,
        farewells: StdMap::new(),
        stuck: StdMap::new(),
        looks_s: [monotonic_s(); 2],
        swept: Swept::default(),
        collector: Arc::clone(&collector),
    };
    std::thread::Builder::new()
        .name("flow-sweep".into())
        .spawn(move || {
            // The thread drops its capabilities: its sockets and maps are open.
            keep_or_warn(&[]);
            walk.for_ever();
        })?;
    Ok(collector)
}

struct Tables {
    tracked: HashMap<MapData, pod::FlowKey, pod::Tracked>,
    targets: Array<MapData, pod::Target>,
    backends: Array<MapData, pod::Backend>,
    /// A second handle of the map `tracked`, for the batched walk.
    walked: MapData,
    tracked_capacity: u64,
}

impl Tables {
    fn open(pin_dir: &Path) -> Result<Self, MapError> {
        let walked = pinned(pin_dir, "TRACKED")?;
        Ok(Self {
            tracked: Map::LruHashMap(pinned(pin_dir, "TRACKED")?).try_into()?,
            targets: Map::Array(pinned(pin_dir, "TARGETS")?).try_into()?,
            backends: Map::Array(pinned(pin_dir, "BACKENDS")?).try_into()?,
            tracked_capacity: walked.info()?.max_entries().into(),
            walked,
        })
    }

    fn gone(&self, backend: BackendId) -> bool {
        self.targets
            .get(&backend.index(), 0)
            .is_ok_and(|target| target.0.id != backend || backend == BackendId::NONE)
    }
}

impl Tables {
    fn down(&self, backend: BackendId) -> bool {
        self.backends
            .get(&backend.index(), 0)
            .is_ok_and(|found| found.0.id == backend && found.0.state == abi::state::DOWN)
    }
}

/// Identity of a flow between two walks: family, set, way and version of its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Known(u8, u32, u16, u32);

impl From<&At> for Known {
    fn from(at: &At) -> Self {
        Self(at.v6, at.set, at.way, at.state & state::VERSION)
    }
}

/// The state of the collector's thread, which repeats its walk.
struct Walk {
    tables: Tables,
    flows: Flows,
    ages: PacketSettings,
    resets: Option<Resets>,
    /// Abandoned flows with the time of the reset to their ends, in seconds of the kernel's clock.
    farewells: StdMap<Known, u32>,
    /// Reserved places that the last walk met, each with the time of its first sighting.
    stuck: StdMap<Known, Instant>,
    /// Starts of the previous and of this walk over the flows, in seconds of the kernel's clock.
    looks_s: [u32; 2],
    swept: Swept,
    collector: Arc<Collector>,
}

impl Walk {
    fn for_ever(&mut self) {
        loop {
            let begun = Instant::now();
            if let Err(error) = self.once() {
                tracing::warn!(%error, "the flow tables cannot be read");
            }
            self.collector.rest(begun + PASS);
        }
    }

    /// Walks over all tables once.
    fn once(&mut self) -> io::Result<()> {
        self.swept = Swept {
            capacity: self.flows.capacity(),
            tracked_capacity: self.tables.tracked_capacity,
            expired: self.swept.expired,
            orphaned: self.swept.orphaned,
            walks: self.swept.walks + 1,
            unanswered: std::mem::take(&mut self.swept.unanswered),
            ..Swept::default()
        };
        self.looks_s = [self.looks_s[1], monotonic_s()];
        self.walk_flows();
        self.tracked()?;
        let places = self.flows.places();
        self.swept.opening_capacity = places.saturating_sub(self.swept.established);
        let now_s = monotonic_s();
        self.farewells
            .retain(|_, at_s| now_s.saturating_sub(*at_s) < 10 * FAREWELL_S);
        *self.collector.lock() = self.swept.clone();
        Ok(())
    }

    fn walk_flows(&mut self) {
        let before = std::mem::take(&mut self.stuck);
        for v6 in [false, true] {
            for set in 0..self.flows.sets() {
                if set % SETS == SETS - 1 {
                    std::thread::sleep(PAUSE);
                }
                let now_s = monotonic_s();
                self.collector.now_s.store(now_s, Ordering::Relaxed);
                for met in self.flows.met(v6, set) {
                    match met {
                        Ok(flow) => self.look_at(&flow, now_s),
                        Err(at) => self.somebody_is_at(&at, &before),
                    }
                }
            }
        }
    }

    /// Handles a place that is reserved for a new flow. A program holds a reservation for less than a
    /// microsecond, so one older than `STUCK` is repaired.
    fn somebody_is_at(&mut self, at: &At, before: &StdMap<Known, Instant>) {
        let known = Known::from(at);
        let since = before.get(&known).copied().unwrap_or_else(Instant::now);
        if since.elapsed() >= STUCK {
            self.flows.unstick(at);
        } else {
            self.stuck.insert(known, since);
        }
    }

    fn look_at(&mut self, flow: &Met, now_s: u32) {
        let served = if flow.has(state::GIVEN_UP) || self.tables.gone(flow.backend) {
            Served::Gone
        } else if self.tables.down(flow.backend) {
            Served::Down
        } else {
            Served::Here
        };
        let gone = served == Served::Gone;
        self.count(flow, gone);
        if !gone && expiry::is_silent(flow, self.looks_s) {
            *self.swept.unanswered.entry(flow.backend).or_default() += 1;
        }
        match expiry(flow, served, now_s, &self.ages) {
            Expiry::Keep => {}
            Expiry::Forget => self.flows.remove(&flow.at),
            Expiry::Expire => {
                self.swept.expired += 1;
                self.give_up(flow, now_s);
            }
            Expiry::Orphan => match self.farewells.get(&Known::from(&flow.at)) {
                None => {
                    self.swept.orphaned += 1;
                    self.give_up(flow, now_s);
                }
                Some(at_s) if now_s.saturating_sub(*at_s) < FAREWELL_S => {}
                Some(_) => self.flows.remove(&flow.at),
            },
        }
    }

    /// Counts a flow. A flow that is closing does not count as open.
    fn count(&mut self, flow: &Met, gone: bool) {
        if !flow.has(state::ESTABLISHED) {
            self.swept.opening += 1;
            return;
        }
        self.swept.established += 1;
        if !gone && !flow.has(state::FIN | state::RST) {
            *self.swept.active.entry(flow.backend).or_default() += 1;
        }
    }

    /// Abandons a flow and resets both of its ends. The flow stays abandoned even if its backend returns,
    /// or another agent takes over, before the entry is removed.
    fn give_up(&mut self, flow: &Met, now_s: u32) {
        // The mark precedes the resets, because answers arrive at once.
        self.flows.give_up(&flow.at);
        self.farewells.insert(Known::from(&flow.at), now_s);
        let Some(resets) = &self.resets else {
            return;
        };
        if flow.key.protocol != u32::from(protocol::TCP) {
            return;
        }
        let [client, backend] = flow.next_seq;
        let there = resets.tell(&flow.out, client, backend);
        let here = resets.tell(&flow.key.reversed(), backend, client);
        if let Err(error) = there.and(here) {
            tracing::debug!(%error, "the end of a flow was not told");
        }
    }

    fn tracked(&mut self) -> io::Result<()> {
        let none = (
            pod::FlowKey(FlowKey::default()),
            pod::Tracked(Tracked::default()),
        );
        let mut batches: Batches<'_, pod::FlowKey, pod::Tracked> =
            Batches::new(&self.tables.walked, BATCH, none.0, none.1);
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
