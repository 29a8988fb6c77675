//! The plots of the last hour: a ring of points for each service and backend, bounded.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::counts::Counts;
use super::rates::{self, Row};

/// Time of a point, in milliseconds.
const STEP_MS: u64 = 10_000;
/// Points of a row: an hour.
const POINTS: usize = 360;
/// Rows that have plots: the services, then the first backends. With 16 bytes a point this bounds the memory to
/// 1.5 MiB.
const MOST_ROWS: usize = 256;

/// A point: open connections, new ones a second, errors a second, latency in milliseconds. NaN for none.
type Point = [f32; 4];

/// Names of the parts of a point in JSON.
const PARTS: [&str; 4] = ["open", "new", "errors", "latency"];

/// The points of all rows.
#[derive(Default)]
pub(super) struct History {
    /// Number of the step that comes after the last point: the time by [`STEP_MS`].
    step: u64,
    /// The counters at the begin of that step, or later if nobody watched then.
    base: Option<Arc<Counts>>,
    rows: HashMap<String, VecDeque<Point>>,
}

impl History {
    /// Takes the counters of a snapshot. The steps that have ended since the last one get their points. Counters are
    /// exact, so a time in which nobody watched has its mean.
    pub(super) fn take(&mut self, now: Arc<Counts>) {
        let step = now.at_unix_ms / STEP_MS;
        let ended = step.checked_sub(self.step);
        match (&self.base, ended) {
            (Some(_), Some(0)) => return,
            (Some(base), Some(ended)) => {
                let mut rows = rates::between(&now, Some(base.as_ref()));
                rows.truncate(MOST_ROWS);
                self.add(&rows, ended);
            }
            // The first snapshot, or the clock has been set back.
            _ => {}
        }
        self.step = step;
        self.base = Some(now);
    }

    /// Adds points for `ended` steps. Rows of those that are gone go, too.
    fn add(&mut self, rows: &[Row], ended: u64) {
        let known: HashSet<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        self.rows.retain(|key, _| known.contains(key.as_str()));
        let ended = usize::try_from(ended).unwrap_or(usize::MAX).min(POINTS);
        for row in rows {
            let points = self.rows.entry(row.key.clone()).or_default();
            let number = |value: Option<f64>| value.map_or(f32::NAN, |value| value as f32);
            for left in (0..ended).rev() {
                if points.len() == POINTS {
                    points.pop_front();
                }
                let open = (left == 0).then_some(row.open as f64);
                points.push_back([
                    number(open),
                    number(row.new),
                    number(row.errors),
                    number(row.latency),
                ]);
            }
        }
    }

    /// Number of the next step. It grows by one with each point.
    pub(super) fn step(&self) -> u64 {
        self.step
    }

    /// The last point of each row, as JSON.
    pub(super) fn last(&self) -> Value {
        let rows = self.rows.iter();
        rows.filter_map(|(key, points)| {
            let last = points.back()?.map(rounded);
            Some((key.clone(), json!(last)))
        })
        .collect()
    }

    /// All points as JSON, each part in a list of its own with the latest last.
    pub(super) fn all(&self) -> Value {
        let rows = self.rows.iter().map(|(key, points)| {
            let part = |(nth, name): (usize, &&str)| {
                let values: Vec<f64> = points.iter().map(|point| rounded(point[nth])).collect();
                ((*name).to_owned(), json!(values))
            };
            let parts: Value = PARTS.iter().enumerate().map(part).collect();
            (key.clone(), parts)
        });
        let rows: Value = rows.collect();
        json!({ "step": self.step, "step_ms": STEP_MS, "points": POINTS, "rows": rows })
    }
}

/// With two digits behind the point: enough for a plot.
fn rounded(value: f32) -> f64 {
    (f64::from(value) * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::counts::{BackendCounts, Passed, ServiceCounts};

    fn counts(seconds: u64, connections: u64, backends: usize) -> Arc<Counts> {
        let backend = |nth| BackendCounts {
            address: format!("b{nth}"),
            open: 3,
            passed: Passed {
                count: connections,
                ..Passed::default()
            },
        };
        Arc::new(Counts {
            at_unix_ms: seconds * 1000,
            services: vec![ServiceCounts {
                name: "web".to_owned(),
                refused: 0,
                http: None,
                backends: (0..backends).map(backend).collect(),
            }],
        })
    }

    fn of(history: &History, key: &str, part: &str) -> Value {
        history.all()["rows"][key][part].clone()
    }

    #[test]
    fn point_is_made_at_the_end_of_its_step() {
        let mut history = History::default();
        for second in 0..=19 {
            history.take(counts(second, second * 5, 1));
        }
        assert_eq!(of(&history, "web b0", "new"), json!([5.0]));
        assert_eq!(history.step(), 1);
        history.take(counts(20, 100, 1));
        assert_eq!(of(&history, "web b0", "new"), json!([5.0, 5.0]));
        assert_eq!(history.last()["web"], json!([3.0, 5.0, 0.0, null]));
        assert_eq!(history.step(), 2);
    }

    #[test]
    fn time_without_watchers_has_its_mean_and_no_open_connections() {
        let mut history = History::default();
        history.take(counts(0, 0, 1));
        history.take(counts(30, 60, 1));
        assert_eq!(of(&history, "web", "new"), json!([2.0, 2.0, 2.0]));
        assert_eq!(of(&history, "web", "open"), json!([null, null, 3.0]));
        history.take(counts(1_000_000, 60, 1));
        let points = of(&history, "web", "new");
        assert_eq!(points.as_array().map(Vec::len), Some(POINTS));
        // The clock has been set back: the points stay.
        history.take(counts(100, 60, 1));
        history.take(counts(110, 70, 1));
        assert_eq!(history.last()["web"], json!([3.0, 1.0, 0.0, null]));
    }

    #[test]
    fn rows_are_bounded_and_go_with_their_backends() {
        let mut history = History::default();
        history.take(counts(0, 0, 1000));
        history.take(counts(10, 0, 1000));
        assert_eq!(history.rows.len(), MOST_ROWS);
        assert!(history.rows.contains_key("web"));
        history.take(counts(20, 0, 1));
        assert_eq!(history.rows.len(), 2);
    }
}
