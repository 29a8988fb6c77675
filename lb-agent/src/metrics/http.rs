//! The metrics of services with `mode = "http"`.

use std::collections::BTreeMap;

use crate::control::stats::http::{HttpBackendStats, HttpStats, LatencyStats};
use crate::control::stats::{Family, Kind, Stats};
use crate::control::status::ServiceStatus;

/// All of a snapshot.
pub(super) fn families(stats: &Stats) -> Vec<Family> {
    [
        requests(&stats.http),
        latencies(&stats.http),
        traffic(&stats.http),
        authentication(&stats.http),
        answers(&stats.http),
        errors(&stats.http),
        backends(&stats.http_backends),
        certificates(&stats.status.services),
    ]
    .concat()
}

fn counter(name: &str, help: &str) -> Family {
    Family::new(Kind::Counter, name, help)
}

fn histogram(name: &str, help: &str) -> Family {
    Family::new(Kind::Histogram, name, help)
}

fn requests(rows: &[HttpStats]) -> Vec<Family> {
    let mut requests = counter(
        "lb_agent_http_requests",
        "Requests by method and class of status; a WebSocket when it ends",
    );
    let mut aborted = counter("lb_agent_http_aborted", "Answers that were cut off");
    for row in rows {
        let service = ("service", row.service.as_str());
        for one in &row.requests {
            let labels = [
                service,
                ("method", one.method.as_str()),
                ("status", one.status.as_str()),
            ];
            requests.add(&labels, one.count as f64);
        }
        aborted.add(&[service], row.aborted as f64);
    }
    vec![requests, aborted]
}

fn latencies(rows: &[HttpStats]) -> Vec<Family> {
    let mut first_byte = histogram(
        "lb_agent_http_first_byte_seconds",
        "Time from a request to the head of its answer",
    );
    let mut duration = histogram(
        "lb_agent_http_request_seconds",
        "Time from a request to the end of its answer, without WebSockets",
    );
    for row in rows {
        let labels = [("service", row.service.as_str())];
        add(&mut first_byte, &labels, &row.first_byte);
        add(&mut duration, &labels, &row.duration);
    }
    vec![first_byte, duration]
}

fn traffic(rows: &[HttpStats]) -> Vec<Family> {
    let mut bytes = counter(
        "lb_agent_http_bytes",
        "Bytes of bodies and WebSockets, in from clients and out to them",
    );
    let mut open = Family::new(
        Kind::Gauge,
        "lb_agent_http_tunnels_active",
        "Open WebSockets and other tunnels",
    );
    let mut tunnels = counter("lb_agent_http_tunnels", "WebSockets and other tunnels");
    let mut handshakes = counter("lb_agent_tls_handshakes", "TLS handshakes by outcome");
    for row in rows {
        let service = ("service", row.service.as_str());
        for (direction, count) in [("in", row.bytes_in), ("out", row.bytes_out)] {
            bytes.add(&[service, ("direction", direction)], count as f64);
        }
        open.add(&[service], row.tunnels_active as f64);
        tunnels.add(&[service], row.tunnels as f64);
        add_named(&mut handshakes, &[service], "result", &row.handshakes);
    }
    vec![bytes, open, tunnels, handshakes]
}

/// Forward authentication, of the services that have it.
fn authentication(rows: &[HttpStats]) -> Vec<Family> {
    let mut requests = counter(
        "lb_agent_http_auth_requests",
        "Requests about which a server of forward authentication was asked, by its verdict",
    );
    let mut time = histogram(
        "lb_agent_http_auth_seconds",
        "Time that the server of forward authentication took",
    );
    for row in rows.iter().filter(|row| !row.auth.is_empty()) {
        let service = ("service", row.service.as_str());
        add_named(&mut requests, &[service], "verdict", &row.auth);
        add(&mut time, &[service], &row.auth_time);
    }
    vec![requests, time]
}

fn answers(rows: &[HttpStats]) -> Vec<Family> {
    let mut answers = counter("lb_agent_http_answers", "Answers by their source");
    let mut cache = counter(
        "lb_agent_http_cache_requests",
        "Requests to services with a response cache, by what it did",
    );
    let mut denied = counter(
        "lb_agent_http_auth_refused",
        "Requests that their authentication refused",
    );
    for row in rows {
        let service = ("service", row.service.as_str());
        add_named(&mut answers, &[service], "source", &row.answers);
        add_named(&mut cache, &[service], "result", &row.cache);
        if let Some(count) = row.denied {
            denied.add(&[service], count as f64);
        }
    }
    vec![answers, cache, denied]
}

fn errors(rows: &[HttpStats]) -> Vec<Family> {
    let mut refused = counter(
        "lb_agent_http_refused",
        "Requests that were refused, by the limit that they exceed",
    );
    let mut limited = counter(
        "lb_agent_http_limited",
        "Requests above a limit of the configuration, refused or passed on by `dry_run`",
    );
    let mut gateway = counter(
        "lb_agent_http_gateway_errors",
        "Answers of the gateway in the place of a backend's, by cause",
    );
    for row in rows {
        let service = ("service", row.service.as_str());
        add_named(&mut refused, &[service], "limit", &row.refused);
        for (limit, stats) in &row.limits {
            let verdicts = [
                ("refused", stats.refused),
                ("would_refuse", stats.would_refuse),
            ];
            for (verdict, count) in verdicts {
                let labels = [service, ("limit", limit.as_str()), ("verdict", verdict)];
                limited.add(&labels, count as f64);
            }
        }
        for one in &row.gateway_errors {
            let labels = [
                service,
                ("status", one.status.as_str()),
                ("cause", one.cause.as_str()),
            ];
            gateway.add(&labels, one.count as f64);
        }
    }
    vec![refused, limited, gateway]
}

fn backends(rows: &[HttpBackendStats]) -> Vec<Family> {
    let mut requests = counter(
        "lb_agent_http_backend_requests",
        "Answers that came from the backend, by class of status",
    );
    let mut first_byte = histogram(
        "lb_agent_http_backend_first_byte_seconds",
        "Time from a request to the head of the backend's answer",
    );
    let mut duration = histogram(
        "lb_agent_http_backend_request_seconds",
        "Time from a request to the end of the backend's answer, without WebSockets",
    );
    for row in rows {
        let labels = [
            ("service", row.service.as_str()),
            ("backend", row.backend.as_str()),
        ];
        add_named(&mut requests, &labels, "status", &row.requests);
        add(&mut first_byte, &labels, &row.first_byte);
        add(&mut duration, &labels, &row.duration);
    }
    vec![requests, first_byte, duration]
}

/// The end of the certificate for each name; of several for the same name the first end.
fn certificates(services: &[ServiceStatus]) -> Vec<Family> {
    let mut expiry = Family::new(
        Kind::Gauge,
        "lb_agent_certificate_expiry_timestamp_seconds",
        "When the certificate in force for the name ends, since the unix epoch",
    );
    for service in services {
        let mut ends = BTreeMap::new();
        let tls = service.tls.iter();
        for certificate in tls.flat_map(|tls| &tls.certificates) {
            let Some(end) = certificate.not_after_unix_seconds else {
                continue;
            };
            for name in &certificate.names {
                let first = ends.entry(name.as_str()).or_insert(end);
                *first = end.min(*first);
            }
        }
        for (name, end) in ends {
            expiry.add(&[("service", &service.name), ("name", name)], end as f64);
        }
    }
    vec![expiry]
}

fn add(family: &mut Family, labels: &[(&str, &str)], latency: &LatencyStats) {
    let counted: u64 = latency.buckets.iter().map(|(_, count)| count).sum();
    let above = (f64::INFINITY, latency.count.saturating_sub(counted));
    let buckets = latency.buckets.iter().copied().chain([above]).collect();
    family.add_histogram(labels, latency.sum_seconds, buckets);
}

fn add_named(
    family: &mut Family,
    labels: &[(&str, &str)],
    label: &str,
    counts: &BTreeMap<String, u64>,
) {
    for (name, count) in counts {
        let labels = [labels, &[(label, name.as_str())]].concat();
        family.add(&labels, *count as f64);
    }
}
