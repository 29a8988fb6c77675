//! The response cache, as metrics.

use lb_http::CacheFigures;

use crate::control::stats::{Family, Kind};

/// The metrics of the response cache as a whole.
pub fn families(figures: &CacheFigures) -> Vec<Family> {
    let gauge = |name: &str, help: &str, value: u64| {
        Family::new(Kind::Gauge, name, help).with(&[], value as f64)
    };
    vec![
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
