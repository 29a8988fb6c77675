//! The table of `bench nat`.

use super::Way;
use crate::bench::requests::{Path, Requests};
use crate::bench::wrk::{CONNECTIONS, Kind};
use clap::ValueEnum;
use std::fmt::Write;

/// A row for each way and kind.
pub(super) fn table(all: &Requests<Way>, seconds: u32) -> String {
    let mut text = format!(
        "medians of {} rounds of {seconds} s, {CONNECTIONS} connections; ratios by round\n\n\
         {:24}{:10}{:>12}{:>10}{:>13}",
        all.rounds(),
        "",
        "",
        "requests/s",
        "to direct",
        "to nftables"
    );
    for kind in Kind::ALL {
        for &way in Way::value_variants() {
            let Some(requests) = all.median(kind, way) else {
                continue;
            };
            let ratio = |to| {
                let ratio = all.ratio(kind, way, to);
                ratio.map_or(String::new(), |ratio| format!("{ratio:.3}"))
            };
            let _ = write!(
                text,
                "\n{:24}{:10}{requests:>12.0}{:>10}{:>13}",
                kind.name(),
                way.name(),
                ratio(Way::Direct),
                ratio(Way::Nftables)
            );
            let errors = all.errors(kind, way);
            if errors > 0 {
                let _ = write!(text, "  {errors} errors");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::RATIOS;
    use super::*;
    use crate::bench::wrk::Reading;
    use serde_json::Value;

    #[test]
    fn ratios_are_those_of_the_same_rounds() {
        let mut all = Requests::new();
        for (way, rounds) in [
            (Way::Direct, [100.0, 50.0, 200.0]),
            (Way::Tc, [50.0, 25.0, 120.0]),
        ] {
            for requests_per_second in rounds {
                let reading = Reading {
                    requests_per_second,
                    errors: 0,
                };
                all.add(Kind::KeepAlive, way, reading);
            }
        }
        let results = &all.json(3, "way", &RATIOS)["results"];
        assert_eq!(results[1]["ratio_to_direct"], 0.5);
        assert_eq!(results[1]["ratio_to_nftables"], Value::Null);
        let text = table(&all, 3);
        assert!(text.contains("0.500") && !text.contains("errors"), "{text}");
    }
}
