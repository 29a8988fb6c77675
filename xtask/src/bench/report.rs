//! From rounds to medians, as a table for people and as JSON for programs.

use super::ways::Way;
use super::wrk::{CONNECTIONS, Kind, Reading};
use serde_json::{Value, json};
use std::fmt::Write;

/// All rounds of one way and one kind.
pub(super) struct Series {
    pub(super) way: Way,
    pub(super) kind: Kind,
    /// One for each round, in order.
    pub(super) rounds: Vec<Reading>,
}

impl Series {
    fn requests(&self) -> Vec<f64> {
        self.rounds
            .iter()
            .map(|reading| reading.requests_per_second)
            .collect()
    }

    fn errors(&self) -> u64 {
        self.rounds.iter().map(|reading| reading.errors).sum()
    }

    /// The median of each round's ratio to the direct way in the same round: what the machine did
    /// meanwhile, it did to both.
    fn ratio(&self, all: &[Series]) -> Option<f64> {
        let direct = find(all, Way::Direct, self.kind)?;
        let ratios = self.requests().into_iter().zip(direct.requests());
        median(ratios.map(|(ours, theirs)| ours / theirs).collect())
    }
}

fn find(all: &[Series], way: Way, kind: Kind) -> Option<&Series> {
    all.iter()
        .find(|series| series.way == way && series.kind == kind)
}

/// The middle value, or the mean of the two middle ones.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(*values.get(lower)?, *values.get(upper)?))
}

/// A row for each way, two columns for each kind.
pub(super) fn table(all: &[Series], seconds: u32) -> String {
    let rounds = all.first().map_or(0, |series| series.rounds.len());
    let mut text = format!(
        "requests/s, medians of {rounds} rounds of {seconds} s, {CONNECTIONS} connections; \
         in brackets the ratio to direct\n\n{:14}",
        ""
    );
    for kind in Kind::ALL {
        let _ = write!(text, "{:>26}", kind.name());
    }
    for way in Way::ALL {
        let cells = Kind::ALL.map(|kind| find(all, way, kind).map(|series| cell(series, all)));
        if cells.iter().any(Option::is_some) {
            let [keep_alive, per_request] = cells.map(Option::unwrap_or_default);
            let _ = write!(text, "\n{:14}{keep_alive:>26}{per_request:>26}", way.name());
        }
    }
    for series in all.iter().filter(|series| series.errors() > 0) {
        let (way, kind) = (series.way.name(), series.kind.name());
        let _ = write!(text, "\n{way}, {kind}: {} errors", series.errors());
    }
    text
}

fn cell(series: &Series, all: &[Series]) -> String {
    let requests = median(series.requests()).unwrap_or_default();
    match series.ratio(all) {
        Some(ratio) => format!("{requests:.0} ({ratio:.3})"),
        None => format!("{requests:.0}"),
    }
}

/// The same, with every round.
pub(super) fn json(all: &[Series], seconds: u32) -> Value {
    let results: Vec<Value> = all
        .iter()
        .map(|series| {
            json!({
                "path": series.way.name(),
                "kind": series.kind.name(),
                "requests_per_second": median(series.requests()),
                "ratio_to_direct": series.ratio(all),
                "errors": series.errors(),
                "rounds": series.requests(),
            })
        })
        .collect();
    json!({ "seconds": seconds, "connections": CONNECTIONS, "results": results })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(way: Way, rounds: &[f64]) -> Series {
        let reading = |&requests_per_second: &f64| Reading {
            requests_per_second,
            errors: 0,
        };
        Series {
            way,
            kind: Kind::KeepAlive,
            rounds: rounds.iter().map(reading).collect(),
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn a_slow_round_that_hit_both_does_not_change_the_ratio() {
        let all = [
            series(Way::Direct, &[100.0, 50.0, 100.0]),
            series(Way::Nginx, &[50.0, 25.0, 48.0]),
        ];
        assert_eq!(all[1].ratio(&all), Some(0.5));
    }

    #[test]
    fn the_table_leaves_out_what_was_not_measured() {
        let all = [
            series(Way::Direct, &[147_000.0]),
            series(Way::Haproxy, &[73_500.0]),
        ];
        let text = table(&all, 3);
        assert!(
            text.contains("73500 (0.500)") && !text.contains("nginx"),
            "{text}"
        );
        assert_eq!(json(&all, 3)["results"][1]["ratio_to_direct"], 0.5);
    }
}
