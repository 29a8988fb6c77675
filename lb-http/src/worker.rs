//! The state of a worker: settings, upstream connections and memory of its own. Requests need nothing that
//! is shared with another thread.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use super::breaker::{CircuitBreaker, RetryBudget};
use super::files::Cache;
use super::metrics::Meters;
use super::settings::Snapshot;
use super::sticky::spread::Spread;
use super::upstream::Pool;

/// The thread's own state.
pub(super) struct Worker {
    /// Counted once more by this thread: every request counts, and the one count that all threads
    /// share would go from core to core.
    #[expect(clippy::redundant_allocation)]
    snapshot: RefCell<Rc<Arc<Snapshot>>>,
    /// Idle connections to backends.
    pub(super) pool: Rc<Pool>,
    /// The round robin for new sessions.
    pub(super) spread: Spread,
    /// The passive health of the backends.
    pub(super) breaker: CircuitBreaker,
    /// How many retries there may be.
    pub(super) budget: RetryBudget,
    /// The counters that this thread alone writes.
    pub(super) meters: Meters,
    /// The files that it knows.
    pub(super) files: Cache,
    stopping: Cell<bool>,
    /// Tasks that are not over.
    open: Cell<usize>,
}

impl Worker {
    /// A worker to which nothing has happened.
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            meters: Meters::new(Arc::clone(&snapshot.metrics)),
            snapshot: RefCell::new(Rc::new(snapshot)),
            pool: Rc::default(),
            spread: Spread::default(),
            breaker: CircuitBreaker::default(),
            budget: RetryBudget::default(),
            files: Cache::default(),
            stopping: Cell::new(false),
            open: Cell::new(0),
        }
    }

    /// Puts settings in force.
    pub(super) fn publish(&self, snapshot: Arc<Snapshot>) {
        self.meters.keep_only(&snapshot.names());
        *self.snapshot.borrow_mut() = Rc::new(snapshot);
    }

    /// The settings in force.
    #[expect(clippy::redundant_allocation)]
    pub(super) fn snapshot(&self) -> Rc<Arc<Snapshot>> {
        Rc::clone(&self.snapshot.borrow())
    }

    /// From now on connections end after the request that they carry.
    pub(super) fn stop(&self) {
        self.stopping.set(true);
        self.pool.clear();
    }

    /// How many of its tasks are not over.
    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// Whether connections should end after the request that they carry.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Runs `task` on this thread; the worker does not end before it, unless its time is over.
    pub(super) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        self.open.set(self.open.get() + 1);
        let worker = Rc::clone(self);
        // Boxed: the runtime moves a task about before its first step and after its last.
        tokio::task::spawn_local(Box::pin(async move {
            task.await;
            worker.open.set(worker.open.get() - 1);
        }));
    }
}
