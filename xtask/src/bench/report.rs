//! The table of `bench socket`.

use super::requests::{Path, Requests};
use super::ways::Way;
use super::wrk::{CONNECTIONS, Kind};
use clap::ValueEnum;
use std::fmt::Write;

/// A row for each way, two columns for each kind.
pub(super) fn table(all: &Requests<Way>, seconds: u32) -> String {
    let mut text = format!(
        "requests/s, medians of {} rounds of {seconds} s, {CONNECTIONS} connections; \
         in brackets the ratio to direct\n\n{:14}",
        all.rounds(),
        ""
    );
    for kind in Kind::ALL {
        let _ = write!(text, "{:>26}", kind.name());
    }
    for &way in Way::value_variants() {
        let cells = Kind::ALL.map(|kind| cell(all, kind, way));
        if cells.iter().any(Option::is_some) {
            let [keep_alive, per_request] = cells.map(Option::unwrap_or_default);
            let _ = write!(text, "\n{:14}{keep_alive:>26}{per_request:>26}", way.name());
        }
    }
    for (kind, way) in all.measured() {
        let errors = all.errors(kind, way);
        if errors > 0 {
            let _ = write!(text, "\n{}, {}: {errors} errors", way.name(), kind.name());
        }
    }
    text
}

fn cell(all: &Requests<Way>, kind: Kind, way: Way) -> Option<String> {
    let requests = all.median(kind, way)?;
    Some(match all.ratio(kind, way, Way::Direct) {
        Some(ratio) => format!("{requests:.0} ({ratio:.3})"),
        None => format!("{requests:.0}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::wrk::Reading;

    #[test]
    fn the_table_leaves_out_what_was_not_measured() {
        let mut all = Requests::new();
        for (way, requests_per_second) in [(Way::Direct, 147_000.0), (Way::Haproxy, 73_500.0)] {
            let reading = Reading {
                requests_per_second,
                errors: 0,
            };
            all.add(Kind::KeepAlive, way, reading);
        }
        let text = table(&all, 3);
        assert!(
            text.contains("73500 (0.500)") && !text.contains("nginx"),
            "{text}"
        );
        let json = all.json(3, "path", &[("ratio_to_direct", Way::Direct)]);
        assert_eq!(json["results"][1]["path"], "HAProxy tcp");
        assert_eq!(json["results"][1]["ratio_to_direct"], 0.5);
    }
}
