//! The response cache, as metrics.

use lb_http::{CacheFigures, CacheResult};

use crate::control::stats::{Family, Kind};

/// The metrics of the response cache.
pub fn families(figures: &CacheFigures) -> Vec<Family> {
    let mut requests = Family::new(
        Kind::Counter,
        "lb_agent_http_cache_requests",
        "Requests to services with a response cache, by what it did",
    );
    for result in CacheResult::ALL {
        let count = figures.requests[result as usize];
        requests.add(&[("result", result.name())], count as f64);
    }
    let gauge = |name: &str, help: &str, value: u64| {
        Family::new(Kind::Gauge, name, help).with(&[], value as f64)
    };
    vec![
        requests,
        gauge(
            "lb_agent_http_cache_bytes",
            "Bytes that the response cache takes",
            figures.bytes,
        ),
        gauge(
            "lb_agent_http_cache_limit_bytes",
            "Bytes that it may take",
            figures.capacity,
        ),
        gauge(
            "lb_agent_http_cache_entries",
            "Its entries, indexes included",
            figures.entries,
        ),
    ]
}
