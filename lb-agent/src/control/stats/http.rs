//! The rows of services with `mode = "http"`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The requests of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpStats {
    /// Name of the service.
    pub service: String,
    /// Requests by method and class of status: those of methods that have come.
    pub requests: Vec<RequestStats>,
    /// Time from a request to the head of its answer.
    pub first_byte: LatencyStats,
    /// Time from a request to the end of its answer, without WebSockets.
    pub duration: LatencyStats,
    /// Bytes of bodies and WebSockets from clients.
    pub bytes_in: u64,
    /// Bytes of bodies and WebSockets to clients.
    pub bytes_out: u64,
    /// Open WebSockets.
    pub tunnels_active: u64,
    /// WebSockets so far.
    pub tunnels: u64,
    /// Answers that were cut off.
    pub aborted: u64,
    /// Answers by their source: `backend`, `cache`, `files`, `route` or `gateway`.
    #[serde(default)]
    pub answers: BTreeMap<String, u64>,
    /// Requests by the result of the response cache; none without one.
    #[serde(default)]
    pub cache: BTreeMap<String, u64>,
    /// Requests that their authentication refused; `None` without authentication.
    #[serde(default)]
    pub denied: Option<u64>,
    /// Requests that were refused, by the limit.
    pub refused: BTreeMap<String, u64>,
    /// Requests above a limit of the configuration, by its name.
    #[serde(default)]
    pub limits: BTreeMap<String, LimitStats>,
    /// Gateway errors by status and cause.
    pub gateway_errors: Vec<GatewayErrorStats>,
    /// Requests about which a server of forward authentication was asked, by its verdict; none without one.
    #[serde(default)]
    pub auth: BTreeMap<String, u64>,
    /// The time that the server took.
    #[serde(default)]
    pub auth_time: LatencyStats,
    /// TLS handshakes by outcome; none without TLS.
    pub handshakes: BTreeMap<String, u64>,
}

/// The answers of one backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpBackendStats {
    /// Name of the service.
    pub service: String,
    /// The backend, as `status` writes it.
    pub backend: String,
    /// Answers by class of status.
    pub requests: BTreeMap<String, u64>,
    /// Time from a request to the head of the answer.
    pub first_byte: LatencyStats,
    /// Time from a request to the end of the answer, without WebSockets.
    pub duration: LatencyStats,
}

/// Requests of one method with answers of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestStats {
    /// The method, or `other`.
    pub method: String,
    /// `1xx` to `5xx`, or `none` for a client that went before its answer.
    pub status: String,
    /// How many.
    pub count: u64,
}

/// Requests above one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitStats {
    /// Those that got 429.
    pub refused: u64,
    /// Those that were passed on, as the limit has `dry_run`.
    pub would_refuse: u64,
}

/// Gateway errors of one status and cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayErrorStats {
    /// `502`, `503` or `504`.
    pub status: String,
    /// A word for the cause.
    pub cause: String,
    /// How many.
    pub count: u64,
}

/// Latencies in buckets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyStats {
    /// How many.
    pub count: u64,
    /// Their sum, in seconds.
    pub sum_seconds: f64,
    /// Upper bounds in seconds, each with the count of its bucket alone. Those above the last are in `count`
    /// only.
    pub buckets: Vec<(f64, u64)>,
}

impl HttpStats {
    /// Requests with answers of a class.
    pub fn of_class(&self, status: &str) -> u64 {
        let rows = self.requests.iter().filter(|row| row.status == status);
        rows.map(|row| row.count).sum()
    }
}

impl HttpStats {
    /// Requests that were answered from memory, and all that came to the response cache; `None` without one.
    pub fn cached(&self) -> Option<(u64, u64)> {
        let all: u64 = self.cache.values().sum();
        let missed = self.cache.get("miss")?;
        Some((all.saturating_sub(*missed), all))
    }

    /// The part of the requests that were answered from memory, in per cent; `None` without any.
    pub fn from_memory_percent(&self) -> Option<u64> {
        let (hits, all) = self.cached()?;
        (hits * 100).checked_div(all)
    }

    /// Requests that limits of the configuration refused.
    pub fn limited(&self) -> u64 {
        self.limits.values().map(|limit| limit.refused).sum()
    }
}

impl LatencyStats {
    /// The latency below which a fraction of them is, in seconds, interpolated in its bucket; `None` without
    /// any. A latency above the last bound is as long as that.
    pub fn quantile(&self, fraction: f64) -> Option<f64> {
        let rank = fraction * self.count as f64;
        let (mut below, mut lower) = (0, 0.0);
        for (upper, count) in &self.buckets {
            let share = (rank - below as f64) / *count as f64;
            if *count > 0 && share <= 1.0 {
                return Some(lower + (upper - lower) * share.max(0.0));
            }
            below += count;
            lower = *upper;
        }
        (self.count > 0).then_some(lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_lies_in_the_bucket_of_its_rank() {
        let latency = LatencyStats {
            count: 100,
            sum_seconds: 0.0,
            buckets: vec![(0.001, 50), (0.01, 0), (0.1, 49)],
        };
        assert_eq!(latency.quantile(0.25), Some(0.0005));
        assert_eq!(latency.quantile(0.5), Some(0.001));
        let most = latency.quantile(0.99).unwrap();
        assert!((most - 0.1).abs() < 1e-9, "{most}");
        assert_eq!(latency.quantile(1.0), Some(0.1), "above the last bound");
        assert_eq!(LatencyStats::default().quantile(0.5), None);
    }
}
