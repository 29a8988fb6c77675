//! What cache, limits, bans and passwords of a service do at present, in words.

use crate::control::stats::Stats;
use crate::control::stats::http::HttpStats;

/// Hit rate of the cache, and limited and denied clients a second, between two snapshots; empty for a service
/// without any of them.
pub(super) fn notes(now: &Stats, before: Option<&Stats>, service: &str) -> String {
    let mut notes = String::new();
    let Some(before) = before else {
        return notes;
    };
    let (http, earlier) = (row(now, service), row(before, service));
    if let Some(((hits, all), (hits_before, all_before))) = cached(http).zip(cached(earlier)) {
        let hits = hits.saturating_sub(hits_before);
        let percent = (hits * 100).checked_div(all.saturating_sub(all_before));
        let percent = percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%"));
        notes += &format!(", cache {percent}");
    }
    let elapsed_ms = now.at_unix_ms.saturating_sub(before.at_unix_ms);
    let rate = |now: u64, before: u64| {
        let more = now.saturating_sub(before);
        (more * 1000).checked_div(elapsed_ms).unwrap_or(0)
    };
    if http.is_some_and(|row| !row.limits.is_empty()) {
        let limited = |row: Option<&HttpStats>| row.map_or(0, HttpStats::limited);
        notes += &format!(", {}/s limited", rate(limited(http), limited(earlier)));
    }
    let (denied, denied_before) = (denied(now, service), denied(before, service));
    if denied > 0 {
        notes += &format!(", {}/s denied", rate(denied, denied_before));
    }
    notes
}

fn row<'a>(stats: &'a Stats, service: &str) -> Option<&'a HttpStats> {
    stats.http.iter().find(|row| row.service == service)
}

fn cached(row: Option<&HttpStats>) -> Option<(u64, u64)> {
    row?.cached()
}

/// Clients that bans and lists refused, and requests without access.
fn denied(stats: &Stats, service: &str) -> u64 {
    let drops = stats.drops.iter();
    let drops = drops.filter(|row| row.service == service && row.reason == "denied");
    let requests = row(stats, service).and_then(|row| row.denied);
    drops.map(|row| row.count).sum::<u64>() + requests.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::stats::http::LimitStats;

    fn stats(at_unix_ms: u64, [hit, miss, limited, denied]: [u64; 4]) -> Stats {
        let limit = LimitStats {
            refused: limited,
            would_refuse: 99,
        };
        let web = HttpStats {
            service: "web".to_owned(),
            cache: [("hit".to_owned(), hit), ("miss".to_owned(), miss)].into(),
            limits: [("login".to_owned(), limit)].into(),
            denied: Some(denied),
            ..HttpStats::default()
        };
        serde_json::from_value(json!({
            "at_unix_ms": at_unix_ms,
            "status": {"services": [], "agent": {"version": "1", "pid": 1, "uptime_seconds": 1, "data_plane": "bpf",
                "notes": [], "config": null}},
            "process": {"start_unix_seconds": 0.0, "resident_bytes": 0, "cpu_seconds": 0.0, "open_fds": 0,
                "max_fds": 0, "threads": 0},
            "clients": [], "traffic": [], "tables": [], "events": [], "families": [], "http": [web],
            "drops": [{"service": "web", "reason": "denied", "count": 2 * denied},
                {"service": "other", "reason": "denied", "count": 1000}],
        }))
        .unwrap()
    }

    #[test]
    fn notes_have_the_hit_rate_and_refusals_since_the_snapshot_before() {
        let (before, now) = (stats(0, [10, 10, 5, 0]), stats(2000, [19, 11, 11, 4]));
        assert_eq!(
            notes(&now, Some(&before), "web"),
            ", cache 90%, 3/s limited, 6/s denied"
        );
        assert_eq!(
            notes(&before, Some(&before), "web"),
            ", cache -, 0/s limited"
        );
        assert_eq!(notes(&now, None, "web"), "");
        assert_eq!(notes(&now, Some(&before), "none"), "");
    }
}
