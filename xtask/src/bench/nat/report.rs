//! Medians of the rounds, and of each round's ratios to direct and to nftables.

use super::Way;
use crate::bench::report::median;
use crate::bench::wrk::{Kind, Reading};
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
        let requests = self.rounds.iter();
        requests
            .map(|reading| reading.requests_per_second)
            .collect()
    }

    fn errors(&self) -> u64 {
        self.rounds.iter().map(|reading| reading.errors).sum()
    }

    /// The median of each round's ratio to another way in the same round: what the machine did
    /// meanwhile, it did to both.
    fn ratio(&self, all: &[Series], to: Way) -> Option<f64> {
        let other = find(all, to, self.kind)?.requests();
        let ratios = self.requests().into_iter().zip(other);
        median(ratios.map(|(ours, theirs)| ours / theirs).collect())
    }
}

fn find(all: &[Series], way: Way, kind: Kind) -> Option<&Series> {
    all.iter()
        .find(|series| series.way == way && series.kind == kind)
}

/// A row for each way and kind.
pub(super) fn table(all: &[Series], seconds: u32, connections: u32) -> String {
    let rounds = all.first().map_or(0, |series| series.rounds.len());
    let mut text = format!(
        "medians of {rounds} rounds of {seconds} s, {connections} connections; ratios by round\n\n\
         {:24}{:10}{:>12}{:>10}{:>13}",
        "", "", "requests/s", "to direct", "to nftables"
    );
    for kind in Kind::ALL {
        for series in Way::ALL.into_iter().filter_map(|way| find(all, way, kind)) {
            let requests = median(series.requests()).unwrap_or_default();
            let ratio = |to| {
                let ratio = series.ratio(all, to);
                ratio.map_or(String::new(), |ratio| format!("{ratio:.3}"))
            };
            let _ = write!(
                text,
                "\n{:24}{:10}{requests:>12.0}{:>10}{:>13}",
                kind.name(),
                series.way.name(),
                ratio(Way::Direct),
                ratio(Way::Nftables)
            );
            if series.errors() > 0 {
                let _ = write!(text, "  {} errors", series.errors());
            }
        }
    }
    text
}

/// The same, with every round.
pub(super) fn json(all: &[Series], seconds: u32, connections: u32) -> Value {
    let results: Vec<Value> = all
        .iter()
        .map(|series| {
            json!({
                "way": series.way.name(),
                "kind": series.kind.name(),
                "requests_per_second": median(series.requests()),
                "ratio_to_direct": series.ratio(all, Way::Direct),
                "ratio_to_nftables": series.ratio(all, Way::Nftables),
                "errors": series.errors(),
                "rounds": series.requests(),
            })
        })
        .collect();
    json!({ "seconds": seconds, "connections": connections, "results": results })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_same_rounds() {
        let series = |way, rounds: &[f64]| Series {
            way,
            kind: Kind::KeepAlive,
            rounds: rounds
                .iter()
                .map(|&requests_per_second| Reading {
                    requests_per_second,
                    errors: 0,
                })
                .collect(),
        };
        let all = [
            series(Way::Direct, &[100.0, 50.0, 200.0]),
            series(Way::Tc, &[50.0, 25.0, 120.0]),
        ];
        let results = &json(&all, 3, 64)["results"];
        assert_eq!(results[1]["ratio_to_direct"], 0.5);
        assert_eq!(results[1]["ratio_to_nftables"], Value::Null);
        let text = table(&all, 3, 64);
        assert!(text.contains("0.500") && !text.contains("errors"), "{text}");
    }
}
