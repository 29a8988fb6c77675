//! The counters of the workers: relaxed atomics, read by `status`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use lb_common::abi::{BackendId, Counter, MAX_BACKENDS, MAX_SERVICES, ServiceId};
use lb_common::select::Reason;

use super::sticky::sniffer::TunnelledSession;

/// The counters of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Requests under way and tunnels open.
    pub active: u64,
    /// Requests and tunnels since the start.
    pub total: u64,
    /// Attempts that the backend refused or did not answer.
    pub failures: u64,
    /// WebSockets and other tunnels that are open.
    pub tunnels: u64,
}

/// Counts of all services and backends.
pub(super) struct Counts {
    backends: Vec<OfBackend>,
    services: Vec<OfService>,
}

#[derive(Default)]
struct OfBackend {
    active: AtomicU64,
    total: AtomicU64,
    failures: AtomicU64,
    tunnels: AtomicU64,
    /// Its tunnels are to be closed.
    ending: AtomicBool,
}

#[derive(Default)]
struct OfService {
    active: AtomicU64,
    choices: [AtomicU64; Counter::COUNT],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            backends: std::iter::repeat_with(OfBackend::default)
                .take(MAX_BACKENDS)
                .collect(),
            services: std::iter::repeat_with(OfService::default)
                .take(MAX_SERVICES)
                .collect(),
        }
    }
}

impl Counts {
    /// Requests under way and tunnels open at a backend.
    pub(super) fn active(&self, id: BackendId) -> u64 {
        self.of_backend(id)
            .map_or(0, |counts| counts.active.load(Relaxed))
    }

    /// The same of a whole service.
    pub(super) fn active_total(&self, id: ServiceId) -> u64 {
        let counts = self.services.get(id.0 as usize);
        counts.map_or(0, |counts| counts.active.load(Relaxed))
    }

    /// Asks the tunnels of these backends to end, and those of no others; whether it is news.
    pub(super) fn end(&self, ending: &HashSet<BackendId>) -> bool {
        let indexes: HashSet<usize> = ending.iter().map(|id| id.index() as usize).collect();
        let mut news = false;
        for (index, counts) in self.backends.iter().enumerate() {
            let ends = indexes.contains(&index);
            news |= ends && counts.active.load(Relaxed) > 0;
            counts.ending.store(ends, Relaxed);
        }
        news
    }

    /// Counts an attempt that failed.
    pub(super) fn failed(&self, id: BackendId) {
        if let Some(counts) = self.of_backend(id) {
            counts.failures.fetch_add(1, Relaxed);
        }
    }

    /// All counts of a backend.
    pub(super) fn of(&self, id: BackendId) -> RequestCounts {
        self.of_backend(id)
            .map_or_else(RequestCounts::default, |counts| RequestCounts {
                active: counts.active.load(Relaxed),
                total: counts.total.load(Relaxed),
                failures: counts.failures.load(Relaxed),
                tunnels: counts.tunnels.load(Relaxed),
            })
    }

    /// How backends of a service were chosen.
    pub(super) fn choices(&self, id: ServiceId) -> [u64; Counter::COUNT] {
        let mut choices = [0; Counter::COUNT];
        if let Some(counts) = self.services.get(id.0 as usize) {
            for (choice, count) in choices.iter_mut().zip(&counts.choices) {
                *choice = count.load(Relaxed);
            }
        }
        choices
    }

    /// Counts a choice; `None` for one that found nothing.
    pub(super) fn chosen(&self, service: ServiceId, reason: Option<Reason>) {
        let counter = match reason {
            Some(Reason::Affinity) => Counter::Affinity,
            Some(Reason::Slot) => Counter::Slot,
            Some(Reason::Next) => Counter::Next,
            None => Counter::Refused,
        };
        if let Some(counts) = self.services.get(service.0 as usize) {
            counts.choices[counter as usize].fetch_add(1, Relaxed);
        }
    }

    fn of_backend(&self, id: BackendId) -> Option<&OfBackend> {
        self.backends.get(id.index() as usize)
    }
}

/// A request or a tunnel, counted for as long as this lives.
pub(super) struct Active {
    counts: std::sync::Arc<Counts>,
    service: ServiceId,
    backend: BackendId,
    is_tunnel: bool,
    /// The session that ends with it.
    pub(super) session: Option<Box<TunnelledSession>>,
}

impl Active {
    /// Counts one more.
    pub(super) fn new(
        counts: &std::sync::Arc<Counts>,
        service: ServiceId,
        backend: BackendId,
    ) -> Self {
        if let Some(of_backend) = counts.of_backend(backend) {
            of_backend.active.fetch_add(1, Relaxed);
            of_backend.total.fetch_add(1, Relaxed);
        }
        if let Some(of_service) = counts.services.get(service.0 as usize) {
            of_service.active.fetch_add(1, Relaxed);
        }
        Self {
            counts: std::sync::Arc::clone(counts),
            service,
            backend,
            is_tunnel: false,
            session: None,
        }
    }

    /// Counts it as a tunnel from now on, too.
    pub(super) fn becomes_tunnel(&mut self) {
        self.is_tunnel = true;
        if let Some(of_backend) = self.counts.of_backend(self.backend) {
            of_backend.tunnels.fetch_add(1, Relaxed);
        }
    }

    /// Whether its backend is drained, so that the tunnel is to be closed.
    pub(super) fn is_to_end(&self) -> bool {
        let backend = self.counts.of_backend(self.backend);
        backend.is_some_and(|counts| counts.ending.load(Relaxed))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if let Some(of_backend) = self.counts.of_backend(self.backend) {
            of_backend.active.fetch_sub(1, Relaxed);
            if self.is_tunnel {
                of_backend.tunnels.fetch_sub(1, Relaxed);
            }
        }
        if let Some(of_service) = self.counts.services.get(self.service.0 as usize) {
            of_service.active.fetch_sub(1, Relaxed);
        }
    }
}
