//! Requests per second of ways to a backend, for `bench socket` and `bench nat`.

use super::figures::{Figures, turns};
use super::setup::Options;
use super::wrk::{CONNECTIONS, Kind, Reading};
use crate::sh::say;
use anyhow::Result;
use serde_json::{Value, json};

/// A way from the client to a backend.
pub(super) trait Path: Copy + PartialEq {
    /// Its name in tables and JSON.
    fn name(self) -> &'static str;
}

/// Requests per second of all rounds.
pub(super) struct Requests<P> {
    figures: Figures<Kind, P>,
    errors: Vec<(Kind, P, u64)>,
}

impl<P: Path> Requests<P> {
    /// Without readings.
    pub(super) fn new() -> Self {
        Self {
            figures: Figures::new(),
            errors: Vec::new(),
        }
    }

    /// All rounds of one kind. `measure` lets the client send requests for some seconds.
    pub(super) fn measure(
        &mut self,
        kind: Kind,
        paths: &[P],
        options: &Options,
        measure: impl Fn(P, u32) -> Result<Reading>,
    ) -> Result<()> {
        for &path in paths {
            measure(path, 1)?;
        }
        for (round, turn) in turns(options.rounds, paths.len()) {
            let path = paths[turn];
            let reading = measure(path, options.seconds)?;
            say(format!(
                "{}, round {round} of {}, {}: {:.0} requests/s",
                kind.name(),
                options.rounds,
                path.name(),
                reading.requests_per_second
            ));
            self.add(kind, path, reading);
        }
        Ok(())
    }

    /// Adds one more round.
    pub(super) fn add(&mut self, kind: Kind, path: P, reading: Reading) {
        self.figures.add(kind, path, reading.requests_per_second);
        self.errors.push((kind, path, reading.errors));
    }

    /// Kinds and paths that were measured.
    pub(super) fn measured(&self) -> impl Iterator<Item = (Kind, P)> {
        self.figures.measured()
    }

    /// Number of rounds.
    pub(super) fn rounds(&self) -> usize {
        let mut measured = self.measured();
        measured
            .next()
            .map_or(0, |(kind, path)| self.figures.rounds(kind, path).len())
    }

    /// The median of the rounds.
    pub(super) fn median(&self, kind: Kind, path: P) -> Option<f64> {
        self.figures.median(kind, path)
    }

    /// The median of each round's ratio to another path.
    pub(super) fn ratio(&self, kind: Kind, path: P, to: P) -> Option<f64> {
        self.figures.ratio(kind, path, &[to], f64::max)
    }

    /// Errors of all rounds.
    pub(super) fn errors(&self, kind: Kind, path: P) -> u64 {
        let of_path = self
            .errors
            .iter()
            .filter(|error| (error.0, error.1) == (kind, path));
        of_path.map(|error| error.2).sum()
    }

    /// All rounds as JSON. `path_key` is the key of the path's name, `ratios` has key and path of each
    /// comparison.
    pub(super) fn json(&self, seconds: u32, path_key: &str, ratios: &[(&str, P)]) -> Value {
        let result = |(kind, path): (Kind, P)| {
            let mut result = json!({
                path_key: path.name(),
                "kind": kind.name(),
                "requests_per_second": self.median(kind, path),
                "errors": self.errors(kind, path),
                "rounds": self.figures.rounds(kind, path),
            });
            for &(key, to) in ratios {
                result[key] = json!(self.ratio(kind, path, to));
            }
            result
        };
        let results: Vec<Value> = self.measured().map(result).collect();
        json!({ "seconds": seconds, "connections": CONNECTIONS, "results": results })
    }
}
