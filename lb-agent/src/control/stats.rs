//! The answer to `stats` and the source of the metrics: figures as flat rows, which are easy to extend.

pub mod http;

use serde::{Deserialize, Serialize};

use super::status::Status;
use http::{HttpBackendStats, HttpStats};

/// Every figure that the agent has, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// When it was taken, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Same content as the answer to `status`.
    pub status: Status,
    /// Resource use of the agent's process.
    pub process: ProcessStats,
    /// One row for each service.
    pub clients: Vec<ClientStats>,
    /// One row for each backend and path that it has been reached by.
    pub traffic: Vec<TrafficStats>,
    /// One row for each service and reason for which something was not forwarded.
    pub drops: Vec<DropStats>,
    /// One row for each service with `mode = "http"`.
    #[serde(default)]
    pub http: Vec<HttpStats>,
    /// One row for each backend of such a service that has answered.
    #[serde(default)]
    pub http_backends: Vec<HttpBackendStats>,
    /// One row for each table with a limit.
    pub tables: Vec<TableStats>,
    /// Recent log events of the agent, the latest last.
    pub events: Vec<Event>,
    /// Figures of parts that have no row of their own above.
    pub families: Vec<Family>,
}

/// Resource use of the agent's process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessStats {
    /// When it was started, seconds since 1970.
    pub start_unix_seconds: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Processor time used, user and system.
    pub cpu_seconds: f64,
    /// Number of open file descriptors.
    pub open_fds: u64,
    /// How many there can be.
    pub max_fds: u64,
    /// Number of threads.
    pub threads: u64,
}

/// The remembered clients of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientStats {
    /// Name of the service.
    pub service: String,
    /// Clients that were not remembered when they came.
    pub new: u64,
    /// Clients that were remembered with another backend than the one they went to.
    pub moved: u64,
}

/// Traffic of one backend on one path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficStats {
    /// Name of the service.
    pub service: String,
    /// The backend, as `status` writes it.
    pub backend: String,
    /// Path of the traffic: `socket`, `proxy`, …
    pub path: String,
    /// Number of open connections.
    pub active: u64,
    /// Connections (UDP: datagrams on the socket path, flows on the proxy path; HTTP: requests and
    /// WebSockets) so far.
    pub connections: u64,
    /// Attempts that the backend refused or did not answer; `None` if this path cannot observe them.
    pub failures: Option<u64>,
    /// Bytes from clients; `None` if they do not pass through the balancer.
    pub bytes_in: Option<u64>,
    /// Bytes to clients; `None` like `bytes_in`.
    pub bytes_out: Option<u64>,
    /// Number of packets from clients.
    pub packets_in: Option<u64>,
    /// Number of packets to clients.
    pub packets_out: Option<u64>,
}

impl TrafficStats {
    /// A row with nothing in it yet.
    pub fn new(service: &str, backend: impl ToString, path: &str) -> Self {
        Self {
            service: service.to_owned(),
            backend: backend.to_string(),
            path: path.to_owned(),
            ..Self::default()
        }
    }
}

/// Traffic that was not forwarded, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropStats {
    /// Name of the service; empty if the reason concerns no service.
    pub service: String,
    /// A word for the reason.
    pub reason: String,
    /// Number of occurrences.
    pub count: u64,
}

/// A table with a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStats {
    /// Name of the table.
    pub table: String,
    /// How many entries it has.
    pub entries: u64,
    /// How many it can have.
    pub capacity: u64,
    /// Entries that had to make room for others; `None` for a table that refuses when it is full.
    pub evictions: Option<u64>,
}

/// A line of the agent's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Time of the event, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Severity: `INFO`, `WARN` or `ERROR`.
    pub level: String,
    /// Text of the event.
    pub message: String,
}

/// A metric with its samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// Name by the Prometheus conventions: `lb_agent_`, subject, unit; without `_total`.
    pub name: String,
    /// A sentence without a full stop.
    pub help: String,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// One for each combination of labels.
    pub samples: Vec<Sample>,
}

/// Prometheus type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A value that only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts of values in buckets.
    Histogram,
}

/// One value of a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Label names and values.
    pub labels: Vec<(String, String)>,
    /// Value of the sample; of a histogram the sum of its values.
    pub value: f64,
    /// Upper bounds of a histogram up to infinity, each with the count of its bucket alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<(f64, u64)>,
}

impl Family {
    /// A metric without samples, which is not shown.
    pub fn new(kind: Kind, name: &str, help: &str) -> Self {
        Self {
            name: name.to_owned(),
            help: help.to_owned(),
            kind,
            samples: Vec::new(),
        }
    }

    /// Adds a sample with these labels.
    pub fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        self.add_histogram(labels, value, Vec::new());
    }

    /// Adds the sample of a histogram: the sum of its values, and its buckets.
    pub fn add_histogram(&mut self, labels: &[(&str, &str)], value: f64, buckets: Vec<(f64, u64)>) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.samples.push(Sample {
            labels: labels.iter().map(owned).collect(),
            value,
            buckets,
        });
    }

    /// The same metric with one sample more.
    #[must_use]
    pub fn with(mut self, labels: &[(&str, &str)], value: f64) -> Self {
        self.add(labels, value);
        self
    }
}
