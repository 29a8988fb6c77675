//! Health checks: probes find the backends that are fit to serve.
//!
//! | file | owns |
//! | --- | --- |
//! | `threshold` | from outcomes in a row to up or down; pure |
//! | `schedule` | when the next probe is due: spread, jitter; pure |
//! | `board` | the states of all backends and their consequences; pure |
//! | `probe` | one probe, TCP or HTTP |
//! | `prober` | the task that carries the probes out |
//!
//! The pure parts get time and randomness from their callers. Changes of health reach the tables
//! by way of [`crate::state::desired`], like any other change.

mod board;
mod probe;
mod prober;
mod schedule;
mod threshold;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub use board::{About, Watched};
pub use threshold::State;

use crate::state::overlay::Target;
use crate::state::verdict::Verdict;
use board::Board;
use lb_config::BackendAddress;
use schedule::Random;

/// The health of all backends. Clones share it.
#[derive(Clone)]
pub struct Health(Arc<Shared>);

struct Shared {
    origin: Instant,
    board: Mutex<Board>,
    /// Wakes the prober: something is due earlier than it thought.
    wake: Notify,
    /// Wakes the reconciler: a backend has gone up or down.
    changed: Notify,
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Shared {
            origin: Instant::now(),
            board: Mutex::new(Board::new(Random::seeded())),
            wake: Notify::new(),
            changed: Notify::new(),
        }))
    }
}

impl Health {
    /// Watches these backends, and no others any more. The results of those that stay are kept.
    pub fn watch(&self, wanted: Vec<Watched>) {
        self.0.board().watch(wanted, self.0.now());
        self.0.wake.notify_one();
    }

    /// Whether `target` is fit to serve; `None` if it is not watched.
    pub fn verdict(&self, target: &Target) -> Option<Verdict> {
        self.0.board().verdict(target, self.0.now())
    }

    /// Health of `target`, if it is watched.
    pub fn about(&self, target: &Target) -> Option<About> {
        self.0.board().about(target, self.0.now())
    }

    /// When a verdict changes by itself next: a step of a slow start.
    pub fn next_step(&self) -> Option<Instant> {
        let step = self.0.board().next_step(self.0.now())?;
        Some(self.0.origin + step)
    }

    /// Waits until a verdict has changed.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// A handle for tasks that meet failures while they serve: see [`FailureReports`].
    pub fn failure_reports(&self) -> FailureReports {
        FailureReports(Arc::clone(&self.0))
    }

    /// Probes the watched backends, for ever.
    pub async fn probe(self) {
        prober::run(self.0).await;
    }
}

/// Failures met by tasks that serve. Each counts like a failed probe, and the next probe comes at once. A
/// passive check has that probe alone. Failures of unwatched backends are ignored. Cheap, and never blocks
/// for long.
#[derive(Clone)]
pub struct FailureReports(Arc<Shared>);

impl FailureReports {
    /// The backend at `address` of `service` could not be used; `error` says how that showed.
    pub fn failed(&self, service: &str, address: &BackendAddress, error: &str) {
        let target = Target {
            service: service.to_owned(),
            address: address.clone(),
        };
        let shared = &self.0;
        let changed = shared.board().suspect(&target, error, shared.now());
        shared.announce(&target, changed);
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the tasks that wait for a change of `target`.
    fn announce(&self, target: &Target, changed: bool) {
        if changed {
            self.log(target);
            self.changed.notify_one();
        }
        // The next probe may be due before the time for which the prober waits.
        self.wake.notify_one();
    }

    fn log(&self, target: &Target) {
        let Some(about) = self.board().about(target, self.now()) else {
            return;
        };
        let Target { service, address } = target;
        let check = about.check;
        match (about.state.serves(), about.last_error) {
            (false, Some((error, _))) => {
                tracing::warn!(%service, backend = %address, check, error, "unhealthy");
            }
            _ => tracing::info!(%service, backend = %address, check, "healthy again"),
        }
    }

    /// Time since the start, by the monotonic clock: a clock that is set changes nothing.
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}
