//! The counters of services and backends that rates are made of.

use std::collections::HashMap;

use crate::control::stats::Stats;
use crate::control::stats::http::{HttpBackendStats, HttpStats, LatencyStats};
use crate::control::status::ServiceStatus;

/// Counters of all services at one moment.
pub(super) struct Counts {
    /// Milliseconds since 1970.
    pub(super) at_unix_ms: u64,
    /// In the order of `status`.
    pub(super) services: Vec<ServiceCounts>,
}

/// Counters of one service.
pub(super) struct ServiceCounts {
    pub(super) name: String,
    /// Connections that no backend could take.
    pub(super) refused: u64,
    /// Requests, in the mode `http`.
    pub(super) http: Option<Passed>,
    pub(super) backends: Vec<BackendCounts>,
}

/// Counters of one backend.
pub(super) struct BackendCounts {
    /// As `status` writes it.
    pub(super) address: String,
    pub(super) open: u64,
    pub(super) passed: Passed,
}

/// What has passed so far.
#[derive(Default)]
pub(super) struct Passed {
    /// Connections, or requests.
    pub(super) count: u64,
    /// Attempts that failed, and answers of the class 5xx.
    pub(super) errors: u64,
    /// Time to the head of an answer, in the mode `http`.
    pub(super) latency: LatencyStats,
}

impl Counts {
    /// The counters of a snapshot.
    pub(super) fn of(stats: &Stats) -> Self {
        let rows = Rows::of(stats);
        let services = stats.status.services.iter();
        Self {
            at_unix_ms: stats.at_unix_ms,
            services: services.map(|service| rows.service(service)).collect(),
        }
    }
}

/// Rows of a snapshot by service and backend.
struct Rows<'a> {
    failures: HashMap<(&'a str, &'a str), u64>,
    answers: HashMap<(&'a str, &'a str), &'a HttpBackendStats>,
    http: HashMap<&'a str, &'a HttpStats>,
}

impl<'a> Rows<'a> {
    fn of(stats: &'a Stats) -> Self {
        let mut failures: HashMap<_, u64> = HashMap::new();
        for row in &stats.traffic {
            let key = (row.service.as_str(), row.backend.as_str());
            *failures.entry(key).or_default() += row.failures.unwrap_or(0);
        }
        let answers = stats.http_backends.iter();
        Self {
            failures,
            answers: answers
                .map(|row| ((row.service.as_str(), row.backend.as_str()), row))
                .collect(),
            http: stats
                .http
                .iter()
                .map(|row| (row.service.as_str(), row))
                .collect(),
        }
    }

    fn service(&self, service: &ServiceStatus) -> ServiceCounts {
        let http = self.http.get(service.name.as_str()).map(|row| Passed {
            count: row.requests.iter().map(|row| row.count).sum(),
            errors: row.of_class("5xx"),
            latency: row.first_byte.clone(),
        });
        let backends = service.backends.iter().map(|backend| {
            let address = backend.address.to_string();
            let key = (service.name.as_str(), address.as_str());
            let answers = self.answers.get(&key);
            let failed = answers.and_then(|row| row.requests.get("5xx")).copied();
            let passed = Passed {
                count: backend.connections,
                errors: self.failures.get(&key).copied().unwrap_or(0) + failed.unwrap_or(0),
                latency: answers
                    .map(|row| row.first_byte.clone())
                    .unwrap_or_default(),
            };
            BackendCounts {
                open: backend.active,
                passed,
                address,
            }
        });
        ServiceCounts {
            name: service.name.clone(),
            refused: service.counters.refused,
            http,
            backends: backends.collect(),
        }
    }
}
