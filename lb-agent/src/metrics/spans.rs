//! The spans of requests, as a metric.

use lb_http::SpanFigures;

use crate::control::stats::{Family, Kind};

/// The requests whose spans were recorded, by their outcome.
pub fn family(figures: &SpanFigures) -> Family {
    let mut family = Family::new(
        Kind::Counter,
        "lb_agent_trace_requests",
        "Sampled requests by the outcome of the export of their spans",
    );
    for (result, count) in [
        ("exported", figures.exported),
        ("dropped", figures.dropped),
        ("failed", figures.failed),
    ] {
        family.add(&[("result", result)], count as f64);
    }
    family
}
