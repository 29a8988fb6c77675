//! Passive health checks from failure counts of the kernel. On the `nat` path the kernel sees
//! refused and unanswered connections long before the next probe.

use std::collections::HashMap;
use std::time::Duration;

use lb_common::abi::{Backend, BackendId, path, state};

use super::Reconciler;

/// Interval between two looks at the counters.
pub(super) const AGAIN: Duration = Duration::from_millis(250);

/// Failure counts of backends at the last look.
#[derive(Default)]
pub(super) struct Failures(HashMap<BackendId, u64>);

impl Failures {
    /// The number of new failures since the last look. The first look returns 0, as its failures
    /// are old.
    fn more(&mut self, id: BackendId, total: u64) -> u64 {
        let before = self.0.insert(id, total).unwrap_or(total);
        total.saturating_sub(before)
    }
}

impl Reconciler {
    /// Whether the kernel counts failures of a backend that has a health check.
    pub(super) fn counts_failures(&self) -> bool {
        self.counted().next().is_some()
    }

    fn counted(&self) -> impl Iterator<Item = &Backend> {
        let services = self.desired.services.iter();
        services
            .filter(|service| service.health.is_some())
            .filter_map(|service| self.observed.service(&service.name))
            .flat_map(|id| self.observed.backends_of(id))
            .filter(|backend| backend.path == path::NAT && backend.state != state::DOWN)
    }

    /// Reports the failures since the last look. Each counts like a failed probe.
    pub(super) fn pass_failures_on(&mut self) {
        let mut failures = std::mem::take(&mut self.failures);
        let failure_reports = self.health.failure_reports();
        for backend in self.counted() {
            let total = match self.plane.backend_counts(backend) {
                Ok(counts) => counts.failures,
                Err(error) => {
                    tracing::debug!(%error, "failures are not read");
                    continue;
                }
            };
            let Some(service) = self.observed.names.get(&backend.service) else {
                continue;
            };
            let address = self.observed.address(backend);
            // No health check has a threshold above 1000 failures.
            for _ in 0..failures.more(backend.id, total).min(1000) {
                failure_reports.failed(
                    service,
                    &address,
                    "it has refused a connection, or not answered",
                );
            }
        }
        self.failures = failures;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_come_since_counts() {
        let (one, other) = (BackendId::new(1, 0), BackendId::new(2, 0));
        let mut failures = Failures::default();
        assert_eq!(failures.more(one, 7), 0, "of before the agent's start");
        assert_eq!(failures.more(one, 9), 2);
        assert_eq!(failures.more(other, 3), 0);
        assert_eq!(failures.more(one, 9), 0);
        assert_eq!(failures.more(one, 0), 0, "counted anew");
        assert_eq!(failures.more(one, 1), 1);
    }
}
