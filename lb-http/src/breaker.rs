//! The passive health of backends as one worker sees it. It holds backends that fail too often, and the retry
//! budget.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use lb_common::abi::BackendId;

use super::clock;
use lb_config::http::Upstream;

/// The backends that fail, as one worker has met them: those that fail again and again are ejected for a
/// while.
#[derive(Default)]
pub(super) struct CircuitBreaker {
    backends: RefCell<HashMap<BackendId, Fault>>,
    /// Whether any backend has ever failed. If not, the tables are empty and lookups are skipped.
    any: Cell<bool>,
}

#[derive(Default)]
struct Fault {
    failures: u32,
    /// When the first of them was.
    failing_since_ms: u64,
    /// Passed by until then.
    open_until_ms: u64,
    /// When a connection to it last broke.
    broken_ms: Option<u64>,
}

impl CircuitBreaker {
    /// The backends to be passed by.
    pub(super) fn ejected(&self) -> Vec<BackendId> {
        if !self.any.get() {
            return Vec::new();
        }
        let now_ms = clock::now_ms();
        let backends = self.backends.borrow();
        let ejected = backends
            .iter()
            .filter(|(_, fault)| fault.open_until_ms > now_ms);
        ejected.map(|(id, _)| *id).collect()
    }

    /// A request has failed: no connection, no answer, or none in time.
    pub(super) fn failed(&self, backend: BackendId, settings: &Upstream) {
        if settings.max_fails == 0 {
            return;
        }
        self.any.set(true);
        let mut backends = self.backends.borrow_mut();
        let fault = backends.entry(backend).or_default();
        let now_ms = clock::now_ms();
        let window_ms = settings.fail_timeout.as_millis() as u64;
        if now_ms.saturating_sub(fault.failing_since_ms) > window_ms {
            fault.failures = 0;
            fault.failing_since_ms = now_ms;
        }
        fault.failures += 1;
        if fault.failures >= settings.max_fails {
            fault.open_until_ms = now_ms + window_ms;
            // The next failure after that opens it again at once; an answer forgets everything.
            fault.failures = settings.max_fails - 1;
            fault.failing_since_ms = fault.open_until_ms;
        }
    }

    /// A connection broke on which a request was begun at that time. Whether that says anything new:
    /// a process that ends breaks all that are open, and it may be back in a moment.
    pub(super) fn broke(&self, backend: BackendId, begun_ms: u64, settings: &Upstream) -> bool {
        self.any.set(true);
        let mut backends = self.backends.borrow_mut();
        let fault = backends.entry(backend).or_default();
        if fault.broken_ms.is_some_and(|last_ms| begun_ms <= last_ms) {
            return false;
        }
        fault.broken_ms = Some(clock::now_ms());
        drop(backends);
        self.failed(backend, settings);
        true
    }

    /// A request was answered.
    pub(super) fn answered(&self, backend: BackendId) {
        if self.any.get() {
            let mut backends = self.backends.borrow_mut();
            backends.remove(&backend);
            self.any.set(!backends.is_empty());
        }
    }
}

/// How many retries there may be: a share of the requests, with a few to begin with.
pub(super) struct RetryBudget {
    /// In thousandths of a retry.
    left: Cell<u32>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            left: Cell::new(Self::MOST),
        }
    }
}

impl RetryBudget {
    const MOST: u32 = 10_000;

    /// A request has come.
    pub(super) fn earn(&self, permille: u32) {
        self.left
            .set(self.left.get().saturating_add(permille).min(Self::MOST));
    }

    /// Whether there may be one more retry.
    pub(super) fn spend(&self) -> bool {
        let left = self.left.get().checked_sub(1000);
        left.inspect(|left| self.left.set(*left)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BackendId = BackendId::new(1, 0);

    #[test]
    fn a_backend_that_fails_too_often_is_passed_by_until_it_answers() {
        let settings = Upstream {
            max_fails: 2,
            ..Upstream::default()
        };
        let breaker = CircuitBreaker::default();
        breaker.failed(A, &settings);
        assert_eq!(breaker.ejected(), []);
        breaker.failed(A, &settings);
        assert_eq!(breaker.ejected(), [A]);
        breaker.answered(A);
        assert_eq!(breaker.ejected(), []);
    }

    #[test]
    fn connections_that_break_together_are_one_failure() {
        let settings = Upstream {
            max_fails: 2,
            ..Upstream::default()
        };
        let breaker = CircuitBreaker::default();
        let begun_ms = clock::now_ms();
        assert!(breaker.broke(A, begun_ms, &settings));
        for _ in 0..10 {
            assert!(!breaker.broke(A, begun_ms, &settings));
        }
        assert_eq!(breaker.ejected(), []);
        assert!(breaker.broke(A, begun_ms + 1, &settings));
        assert_eq!(breaker.ejected(), [A]);
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let budget = RetryBudget::default();
        let spent = std::iter::from_fn(|| budget.spend().then_some(())).count();
        assert_eq!(spent, 10);
        (0..4).for_each(|_| budget.earn(200));
        assert!(!budget.spend());
        budget.earn(200);
        assert!(budget.spend());
    }
}
