//! Rates of services and backends between two snapshots.

use std::collections::HashMap;

use serde::Serialize;

use super::counts::{Counts, Passed, ServiceCounts};
use crate::control::stats::http::LatencyStats;

/// Open connections now, and rates since an earlier snapshot, of a service or a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    /// Name of the service; of a backend with its address behind a space.
    pub(super) key: String,
    /// Number of open connections.
    pub(super) open: u64,
    /// New connections, or requests of a service with `mode = "http"`, a second. `None` without an earlier snapshot.
    pub(super) new: Option<f64>,
    /// Errors a second.
    pub(super) errors: Option<f64>,
    /// 99th percentile of the time to the head of an answer, in milliseconds; `None` without answers.
    pub(super) latency: Option<f64>,
}

/// Rows of all services, then of all backends.
pub(super) fn between(now: &Counts, before: Option<&Counts>) -> Vec<Row> {
    let elapsed_ms = before.and_then(|before| now.at_unix_ms.checked_sub(before.at_unix_ms));
    let seconds = elapsed_ms.filter(|ms| *ms > 0).map(|ms| ms as f64 / 1000.0);
    let earlier = before.iter().flat_map(|before| &before.services);
    let earlier: HashMap<&str, &ServiceCounts> = earlier
        .map(|service| (service.name.as_str(), service))
        .collect();
    let (mut services, mut backends) = (Vec::new(), Vec::new());
    for service in &now.services {
        let earlier = earlier.get(service.name.as_str()).copied();
        let since = seconds.zip(earlier);
        let own = backend_rows(service, since);
        services.push(service_row(service, &own, since));
        backends.extend(own);
    }
    services.extend(backends);
    services
}

fn backend_rows(service: &ServiceCounts, since: Option<(f64, &ServiceCounts)>) -> Vec<Row> {
    let earlier = since.iter().flat_map(|(_, service)| &service.backends);
    let earlier: HashMap<&str, &Passed> = earlier
        .map(|backend| (backend.address.as_str(), &backend.passed))
        .collect();
    let none = Passed::default();
    let rows = service.backends.iter().map(|backend| {
        // A backend that was added since then has begun at zero.
        let earlier = earlier.get(backend.address.as_str()).copied();
        let since = since.map(|(seconds, _)| (seconds, earlier.unwrap_or(&none)));
        let key = format!("{} {}", service.name, backend.address);
        row(key, backend.open, &backend.passed, since)
    });
    rows.collect()
}

fn service_row(
    service: &ServiceCounts,
    backends: &[Row],
    since: Option<(f64, &ServiceCounts)>,
) -> Row {
    let open = backends.iter().map(|row| row.open).sum();
    let key = service.name.clone();
    if let Some(http) = &service.http {
        let since = since.and_then(|(seconds, earlier)| Some((seconds, earlier.http.as_ref()?)));
        return row(key, open, http, since);
    }
    let sum = |part: fn(&Row) -> Option<f64>| since.map(|_| backends.iter().filter_map(part).sum());
    let refused = since.map(|(seconds, earlier)| more(service.refused, earlier.refused) / seconds);
    let errors: Option<f64> = sum(|row| row.errors);
    Row {
        key,
        open,
        new: sum(|row| row.new),
        errors: errors
            .zip(refused)
            .map(|(errors, refused)| errors + refused),
        latency: None,
    }
}

fn row(key: String, open: u64, now: &Passed, since: Option<(f64, &Passed)>) -> Row {
    Row {
        key,
        open,
        new: since.map(|(seconds, earlier)| more(now.count, earlier.count) / seconds),
        errors: since.map(|(seconds, earlier)| more(now.errors, earlier.errors) / seconds),
        latency: since.and_then(|(_, earlier)| latency(&now.latency, &earlier.latency)),
    }
}

/// The growth of a counter. A counter that is smaller than before has begun again at zero.
fn more(now: u64, before: u64) -> f64 {
    now.checked_sub(before).unwrap_or(now) as f64
}

/// 99th percentile of the latencies between two snapshots, in milliseconds.
fn latency(now: &LatencyStats, before: &LatencyStats) -> Option<f64> {
    let count = now.count.checked_sub(before.count)?;
    let buckets = now.buckets.iter().enumerate().map(|(nth, (upper, count))| {
        let earlier = before.buckets.get(nth).map_or(0, |(_, count)| *count);
        (*upper, count.saturating_sub(earlier))
    });
    let since = LatencyStats {
        count,
        sum_seconds: 0.0,
        buckets: buckets.collect(),
    };
    since.quantile(0.99).map(|seconds| seconds * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::counts::BackendCounts;

    fn passed(count: u64, errors: u64, latencies: u64) -> Passed {
        Passed {
            count,
            errors,
            latency: LatencyStats {
                count: latencies,
                sum_seconds: 0.0,
                buckets: vec![(0.001, latencies / 2), (0.01, latencies - latencies / 2)],
            },
        }
    }

    fn backend(address: &str, open: u64, passed: Passed) -> BackendCounts {
        BackendCounts {
            address: address.to_owned(),
            open,
            passed,
        }
    }

    fn counts(
        at_unix_ms: u64,
        refused: u64,
        http: Option<Passed>,
        backends: Vec<BackendCounts>,
    ) -> Counts {
        let web = ServiceCounts {
            name: "web".to_owned(),
            refused,
            http,
            backends,
        };
        Counts {
            at_unix_ms,
            services: vec![web],
        }
    }

    fn shown(rows: &[Row]) -> Vec<(&str, u64, Option<f64>, Option<f64>)> {
        rows.iter()
            .map(|row| (row.key.as_str(), row.open, row.new, row.errors))
            .collect()
    }

    #[test]
    fn service_without_http_is_the_sum_of_its_backends() {
        let before = counts(
            0,
            1,
            None,
            vec![
                backend("a", 1, passed(10, 0, 0)),
                backend("b", 0, passed(90, 2, 0)),
            ],
        );
        // The backend b has gone, and c has come.
        let now = counts(
            2000,
            3,
            None,
            vec![
                backend("a", 3, passed(20, 4, 0)),
                backend("c", 2, passed(6, 0, 0)),
            ],
        );
        let rows = between(&now, Some(&before));
        let expected = [
            ("web", 5, Some(8.0), Some(3.0)),
            ("web a", 3, Some(5.0), Some(2.0)),
            ("web c", 2, Some(3.0), Some(0.0)),
        ];
        assert_eq!(shown(&rows), expected);
        let first = between(&now, None);
        assert_eq!(shown(&first)[0], ("web", 5, None, None));
    }

    #[test]
    fn service_with_http_counts_its_own_requests_and_their_latency() {
        let before = counts(
            0,
            0,
            Some(passed(100, 5, 100)),
            vec![backend("a", 0, passed(50, 1, 0))],
        );
        let now = counts(
            1000,
            0,
            Some(passed(130, 6, 130)),
            vec![backend("a", 1, passed(60, 1, 0))],
        );
        let rows = between(&now, Some(&before));
        assert_eq!(shown(&rows)[0], ("web", 1, Some(30.0), Some(1.0)));
        let latency = rows[0].latency.unwrap();
        assert!((latency - 9.82).abs() < 0.1, "{latency}");
        assert_eq!(rows[1].latency, None, "no answers");
    }

    #[test]
    fn counter_that_begins_again_is_no_negative_rate() {
        let before = counts(0, 0, None, vec![backend("a", 0, passed(1000, 0, 0))]);
        let now = counts(1000, 0, None, vec![backend("a", 0, passed(7, 0, 0))]);
        assert_eq!(between(&now, Some(&before))[1].new, Some(7.0));
        // The clock has been set back.
        assert_eq!(between(&before, Some(&now))[1].new, None);
    }
}
