//! The rows of the requests to services with `mode = "http"`, from the figures of the engine.

use std::collections::BTreeMap;

use crate::control::stats::http::{
    GatewayErrorStats, HttpBackendStats, HttpStats, LatencyStats, LimitStats, RequestStats,
};
use lb_config::http::HttpService;
use lb_http::LimitFigures;
use lb_http::metrics::{
    AUTH_VERDICTS, BOUNDS_NS, BackendFigures, CAUSES, CacheResult, GATEWAY_STATUSES, HANDSHAKES,
    HistogramFigures, LIMITS, METHODS, SOURCES, STATUSES, ServiceFigures,
};

/// The parts that a service may have.
#[derive(Clone, Copy, Default)]
pub(super) struct Parts {
    tls: bool,
    cache: bool,
    auth: bool,
}

impl Parts {
    /// Those of `http`.
    pub(super) fn of(http: &HttpService) -> Self {
        Self {
            tls: http.tls.is_some(),
            cache: http.settings.cache.is_some(),
            auth: http.auths().next().is_some(),
        }
    }
}

/// The row of a service.
pub(super) fn service(name: &str, figures: &ServiceFigures, parts: Parts) -> HttpStats {
    let came = |counts: &[u64]| counts.iter().any(|count| *count > 0);
    let of_methods = METHODS.iter().zip(&figures.requests);
    let requests = of_methods
        .filter(|(_, counts)| came(*counts))
        .flat_map(|(method, counts)| {
            STATUSES
                .iter()
                .zip(counts)
                .map(|(status, count)| RequestStats {
                    method: (*method).to_owned(),
                    status: (*status).to_owned(),
                    count: *count,
                })
        })
        .collect();
    HttpStats {
        service: name.to_owned(),
        requests,
        first_byte: latency(&figures.first_byte),
        duration: latency(&figures.duration),
        bytes_in: figures.received,
        bytes_out: figures.sent,
        tunnels_active: figures.tunnels_active,
        tunnels: figures.tunnels,
        aborted: figures.aborted,
        answers: named(&SOURCES, &figures.answers),
        cache: match parts.cache {
            true => named(&CacheResult::ALL.map(CacheResult::name), &figures.cache),
            false => BTreeMap::new(),
        },
        denied: parts.auth.then_some(figures.denied),
        refused: named(&LIMITS, &figures.refused),
        limits: BTreeMap::new(),
        gateway_errors: gateway_errors(figures),
        auth: match came(&figures.auth) {
            true => named(&AUTH_VERDICTS, &figures.auth),
            false => BTreeMap::new(),
        },
        auth_time: latency(&figures.auth_time),
        handshakes: match parts.tls {
            true => named(&HANDSHAKES, &figures.handshakes),
            false => BTreeMap::new(),
        },
    }
}

/// The figures of the limits of a service, by name.
pub(super) fn limits(figures: Vec<(String, LimitFigures)>) -> BTreeMap<String, LimitStats> {
    let stats = |figures: LimitFigures| LimitStats {
        refused: figures.refused,
        would_refuse: figures.would_refuse,
    };
    let limits = figures.into_iter();
    limits
        .map(|(name, figures)| (name, stats(figures)))
        .collect()
}

/// The row of a backend.
pub(super) fn backend(
    service: &str,
    backend: String,
    figures: &BackendFigures,
) -> HttpBackendStats {
    HttpBackendStats {
        service: service.to_owned(),
        backend,
        requests: named(&STATUSES, &figures.requests),
        first_byte: latency(&figures.first_byte),
        duration: latency(&figures.duration),
    }
}

/// Those that have occurred, and the usual status of each cause.
fn gateway_errors(figures: &ServiceFigures) -> Vec<GatewayErrorStats> {
    let of_statuses = GATEWAY_STATUSES.iter().zip(&figures.gateway_errors);
    let all = of_statuses.flat_map(|(status, counts)| {
        CAUSES
            .iter()
            .zip(counts)
            .map(|(cause, count)| GatewayErrorStats {
                status: (*status).to_owned(),
                cause: (*cause).to_owned(),
                count: *count,
            })
    });
    all.filter(|row| row.count > 0 || is_usual(&row.status, &row.cause))
        .collect()
}

/// Whether a cause usually has this status. These are told from the start, so that the first error is an
/// increase.
fn is_usual(status: &str, cause: &str) -> bool {
    let usual = match cause {
        "no_backend" | "connect" | "resources" | "refused" => "503",
        "broken" | "malformed" => "502",
        "timeout" => "504",
        _ => return false,
    };
    status == usual
}

fn named(names: &[&str], counts: &[u64]) -> BTreeMap<String, u64> {
    let named = names.iter().zip(counts);
    named
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

fn latency(figures: &HistogramFigures) -> LatencyStats {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let bounds = BOUNDS_NS.iter().map(|bound| seconds(*bound));
    LatencyStats {
        count: figures.buckets.iter().sum(),
        sum_seconds: seconds(figures.sum_ns),
        buckets: bounds.zip(figures.buckets).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_has_methods_that_have_come_and_the_usual_errors() {
        let mut figures = ServiceFigures::default();
        figures.requests[0][1] = 7;
        figures.gateway_errors[0][1] = 2;
        figures.first_byte.buckets[0] = 6;
        figures.first_byte.buckets[16] = 1;
        figures.first_byte.sum_ns = 2_500_000_000;
        let row = service("web", &figures, Parts::default());
        assert_eq!(row.requests.len(), STATUSES.len(), "those of GET");
        assert_eq!(row.of_class("2xx"), 7);
        assert_eq!((row.first_byte.count, row.first_byte.sum_seconds), (7, 2.5));
        assert_eq!(row.first_byte.buckets[0], (0.0005, 6));
        let errors: Vec<_> = row.gateway_errors.iter().collect();
        assert_eq!(
            errors.len(),
            CAUSES.len(),
            "one is unusual, and `other` is none"
        );
        assert!(
            errors
                .iter()
                .any(|row| row.status == "502" && row.cause == "connect" && row.count == 2)
        );
        assert!(row.handshakes.is_empty() && row.cache.is_empty() && row.denied.is_none());
        let all = Parts {
            tls: true,
            cache: true,
            auth: true,
        };
        let row = service("web", &figures, all);
        assert_eq!(
            (row.handshakes.len(), row.cache.len()),
            (HANDSHAKES.len(), 4)
        );
        assert_eq!(row.denied, Some(0));
    }
}
