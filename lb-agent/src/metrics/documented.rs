//! The table of docs/metrics.md has every metric with its labels, and no other.

use std::collections::{BTreeMap, BTreeSet};

use lb_http::{CacheFigures, SpanFigures};
use lb_net::admission::Admission;
use serde_json::json;

use super::{Source as _, cache, collect, spans, syn_cookies, text};
use crate::control::stats::http::{
    GatewayErrorStats, HttpBackendStats, HttpStats, LatencyStats, LimitStats, RequestStats,
};
use crate::control::stats::{Family, Kind, Stats};

/// One row of everything that HTTP has, and the packet paths.
fn stats() -> Stats {
    let latency = LatencyStats {
        count: 3,
        sum_seconds: 1.5,
        buckets: vec![(0.25, 2), (0.5, 0)],
    };
    let one = |name: &str| BTreeMap::from([(name.to_owned(), 1)]);
    let http = HttpStats {
        service: "web".to_owned(),
        requests: vec![RequestStats {
            method: "GET".to_owned(),
            status: "2xx".to_owned(),
            count: 3,
        }],
        first_byte: latency.clone(),
        duration: latency.clone(),
        answers: one("backend"),
        cache: one("hit"),
        denied: Some(1),
        refused: one("body"),
        limits: BTreeMap::from([("login".to_owned(), LimitStats::default())]),
        gateway_errors: vec![GatewayErrorStats {
            status: "502".to_owned(),
            cause: "broken".to_owned(),
            count: 1,
        }],
        auth: one("granted"),
        auth_time: latency.clone(),
        handshakes: one("full"),
        ..HttpStats::default()
    };
    let backend = HttpBackendStats {
        service: "web".to_owned(),
        backend: "127.0.0.1:5000".to_owned(),
        requests: one("2xx"),
        first_byte: latency.clone(),
        duration: latency,
    };
    let certificate = |names: &[&str], end: u64| json!({"file": "/c.pem", "names": names, "not_after_unix_seconds": end, "problem": null});
    let service = json!({
        "name": "web", "mode": "http", "listen": ["0.0.0.0:80"],
        "tls": {"listen": [], "certificates": [
            certificate(&["a.test", "b.test"], 2000), certificate(&["a.test"], 1000),
        ]},
        "affinity": {"timeout_seconds": 0, "ipv4_prefix": 32, "ipv6_prefix": 64},
        "max_load": null,
        "counters": {"affinity": 0, "slot": 0, "next": 0, "refused": 0},
        "backends": [],
    });
    let figures = json!({
        "established": 0, "capacity": 0, "opening": 0, "tracked": 0, "expired": 0, "orphaned": 0,
        "evicted": 0, "packets": [["forwarded", 1]],
    });
    let agent = json!({
        "version": "1", "pid": 1, "uptime_seconds": 1, "data_plane": "bpf", "notes": [],
        "config": null, "packets": {"interfaces": [], "figures": figures},
    });
    serde_json::from_value(json!({
        "at_unix_ms": 0, "status": {"agent": agent, "services": [service]},
        "process": {
            "start_unix_seconds": 0.0, "resident_bytes": 0, "cpu_seconds": 0.0, "open_fds": 0,
            "max_fds": 0, "threads": 0,
        },
        "clients": [], "traffic": [], "drops": [], "tables": [], "events": [], "families": [],
        "http": [http], "http_backends": [backend],
    }))
    .unwrap()
}

fn families() -> Vec<Family> {
    let mut families = collect::families(&stats());
    families.extend(Admission::default().families());
    families.extend(cache::families(&CacheFigures::default()));
    families.push(spans::family(&SpanFigures::default()));
    families.push(syn_cookies::family(""));
    families
}

/// Metrics with their labels, from the last table of the page.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let page = include_str!("../../../docs/metrics.md");
    let (_, table) = page.split_once("## All metrics").unwrap();
    let words = |cell: &str| -> Vec<String> {
        let parts = cell.split('`').skip(1).step_by(2);
        parts.map(str::to_owned).collect()
    };
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        let [name] = &words(cells[1])[..] else {
            panic!("{row}");
        };
        (name.clone(), words(cells[2]).into_iter().collect())
    })
    .collect()
}

#[test]
fn the_page_has_every_metric_with_its_labels_and_no_other() {
    let documented = documented();
    let name = |family: &Family| match family.kind {
        Kind::Counter => format!("{}_total", family.name),
        Kind::Gauge | Kind::Histogram => family.name.clone(),
    };
    let mut told: BTreeSet<String> = families().iter().map(name).collect();
    // It is there with a limit.
    told.insert("lb_agent_client_connections_limit".to_owned());
    assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), told);
    for family in families() {
        for sample in &family.samples {
            let labels = sample.labels.iter().map(|(label, _)| label.clone());
            let labels: BTreeSet<String> = labels.collect();
            assert_eq!(documented[&name(&family)], labels, "{}", family.name);
        }
    }
}

/// Each metric in the expressions of the dashboard has a row in the page, and the figures of HTTP that operators watch
/// are on the dashboard.
#[test]
fn the_dashboard_has_documented_metrics_and_those_of_cache_limits_and_access() {
    let dashboard = include_str!("../../../examples/grafana/lb-agent.json");
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let named: BTreeSet<&str> = dashboard
        .split(|c: char| !is_name(c))
        .filter(|word| word.starts_with("lb_agent_"))
        .map(|word| word.trim_end_matches("_bucket"))
        .collect();
    let documented: BTreeSet<String> = documented().into_keys().collect();
    let unknown: Vec<_> = named
        .iter()
        .filter(|name| !documented.contains(**name))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    for name in [
        "lb_agent_http_answers_total",
        "lb_agent_http_cache_requests_total",
        "lb_agent_http_cache_bytes",
        "lb_agent_http_limited_total",
        "lb_agent_http_auth_refused_total",
        "lb_agent_bans",
    ] {
        assert!(named.contains(name), "{name}");
    }
}

#[test]
fn histograms_have_cumulative_buckets_in_both_formats() {
    for accept in ["", "application/openmetrics-text"] {
        let (_, text) = text::encode(&families(), accept);
        for line in [
            "# TYPE lb_agent_http_request_seconds histogram",
            "lb_agent_http_request_seconds_sum{service=\"web\"} 1.5",
            "lb_agent_http_request_seconds_count{service=\"web\"} 3",
            "lb_agent_http_request_seconds_bucket{le=\"0.25\",service=\"web\"} 2",
            "lb_agent_http_request_seconds_bucket{le=\"0.5\",service=\"web\"} 2",
            "lb_agent_http_request_seconds_bucket{le=\"+Inf\",service=\"web\"} 3",
            "lb_agent_http_requests_total{service=\"web\",method=\"GET\",status=\"2xx\"} 3.0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
    }
}

#[test]
fn name_in_two_certificates_has_the_first_end() {
    let (_, text) = text::encode(&families(), "");
    let name = "lb_agent_certificate_expiry_timestamp_seconds{service=\"web\",name=";
    assert!(
        text.contains(&format!("{name}\"a.test\"}} 1000.0\n")),
        "{text}"
    );
    assert!(
        text.contains(&format!("{name}\"b.test\"}} 2000.0\n")),
        "{text}"
    );
}
