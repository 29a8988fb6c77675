//! Table and JSON, with ratios of lb-agent to the better of the others.

use super::super::figures::Figures;
use super::figure::{Reading, Unit};
use super::measure::Measure;
use super::ports::Proxy;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// All that was measured.
pub(super) struct Results {
    /// Of the proxies, in the order of the table.
    versions: Vec<(Proxy, String)>,
    figures: Figures<(Measure, Unit), Proxy>,
    errors: Vec<(Measure, Proxy, u64)>,
}

impl Results {
    /// None yet, of proxies with these versions.
    pub(super) fn new(versions: Vec<(Proxy, String)>) -> Self {
        Self {
            versions,
            figures: Figures::new(),
            errors: Vec::new(),
        }
    }

    /// One more round of a measurement.
    pub(super) fn add(&mut self, measure: Measure, proxy: Proxy, reading: Reading) {
        if reading.errors > 0 {
            self.errors.push((measure, proxy, reading.errors));
        }
        for (unit, value) in reading.figures {
            self.figures.add((measure, unit), proxy, value);
        }
    }

    /// The median of each round's ratio of lb-agent to the better of the others in that round.
    fn ratio(&self, figure: (Measure, Unit)) -> Option<f64> {
        let better = if figure.1.is_gain() {
            f64::max
        } else {
            f64::min
        };
        let others = Proxy::ALL.map(|proxy| (proxy != Proxy::Agent).then_some(proxy));
        let others: Vec<Proxy> = others.into_iter().flatten().collect();
        self.figures.ratio(figure, Proxy::Agent, &others, better)
    }

    /// The figures in the order in which they were measured.
    fn rows(&self) -> Vec<(Measure, Unit)> {
        let mut rows = Vec::new();
        for (figure, _) in self.figures.measured() {
            if !rows.contains(&figure) {
                rows.push(figure);
            }
        }
        rows
    }

    /// A row for each figure, a column for each proxy.
    pub(super) fn table(&self, rounds: u32, seconds: u32) -> String {
        let versions = self.versions.iter();
        let versions: Vec<String> = versions
            .map(|(proxy, version)| format!("{} {version}", proxy.name()))
            .collect();
        let mut text = format!(
            "{}\nmedians of {rounds} rounds of {seconds} s; ratio: lb-agent to the better of the others\n\n\
             {:60}",
            versions.join(", "),
            ""
        );
        for proxy in Proxy::ALL {
            let _ = write!(text, "{:>12}", proxy.name());
        }
        let _ = write!(text, "{:>9}", "ratio");
        for (measure, unit) in self.rows() {
            let name = format!("{}: {}", measure.name(), unit.name());
            let _ = write!(text, "\n{name:60}");
            for proxy in Proxy::ALL {
                let value = self.figures.median((measure, unit), proxy);
                let _ = write!(text, "{:>12}", value.map_or_else(String::new, shown));
            }
            if let Some(ratio) = self.ratio((measure, unit)) {
                let _ = write!(text, "{ratio:>9.3}");
            }
        }
        for (measure, proxy, errors) in &self.errors {
            let _ = write!(
                text,
                "\n{}, {}: {errors} errors",
                proxy.name(),
                measure.name()
            );
        }
        text
    }

    /// The same, with every round.
    pub(super) fn json(&self, seconds: u32) -> Value {
        let row = |(measure, unit): (Measure, Unit)| {
            let mut proxies = Map::new();
            for proxy in Proxy::ALL {
                if let Some(median) = self.figures.median((measure, unit), proxy) {
                    let rounds = self.figures.rounds((measure, unit), proxy);
                    let figures = json!({ "median": median, "rounds": rounds });
                    proxies.insert(proxy.name().to_owned(), figures);
                }
            }
            json!({
                "measure": measure.name(),
                "unit": unit.name(),
                "more_is_better": unit.is_gain(),
                "ratio": self.ratio((measure, unit)),
                "proxies": proxies,
            })
        };
        let results: Vec<Value> = self.rows().into_iter().map(row).collect();
        let error = |(measure, proxy, count): &(Measure, Proxy, u64)| json!({ "measure": measure.name(), "proxy": proxy.name(), "count": count });
        let errors: Vec<Value> = self.errors.iter().map(error).collect();
        let versions = self.versions.iter();
        let versions: Map<String, Value> = versions
            .map(|(proxy, version)| (proxy.name().to_owned(), version.as_str().into()))
            .collect();
        json!({ "seconds": seconds, "versions": versions, "results": results, "errors": errors })
    }
}

/// Three digits at least.
fn shown(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_to_the_better_of_the_others_in_each_round() {
        let mut results = Results::new(vec![(Proxy::Nginx, "1.22.1".to_owned())]);
        let measure = Measure::KeepAlive64;
        for (proxy, rounds) in [
            (Proxy::Nginx, [100.0, 50.0, 90.0]),
            (Proxy::Haproxy, [80.0, 60.0, 100.0]),
            (Proxy::Agent, [120.0, 66.0, 110.0]),
        ] {
            for value in rounds {
                let figures = vec![(Unit::PerSecond, value), (Unit::CpuUs, 1000.0 / value)];
                let errors = 0;
                results.add(measure, proxy, Reading { figures, errors });
            }
        }
        assert_eq!(results.ratio((measure, Unit::PerSecond)), Some(1.1));
        let cpu = results.ratio((measure, Unit::CpuUs)).unwrap();
        assert!((cpu - 1.0 / 1.1).abs() < 1e-9, "{cpu}");
        assert!(results.table(3, 1).contains("1.100"));
        assert!(results.table(3, 1).starts_with("nginx 1.22.1\n"));
        let json = results.json(1);
        assert_eq!(json["results"][0]["ratio"], 1.1);
        assert_eq!(json["versions"]["nginx"], "1.22.1");
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let mut results = Results::new(Vec::new());
        let reading = Reading {
            figures: vec![(Unit::KibPerSocket, 1.5)],
            errors: 2,
        };
        results.add(Measure::Idle, Proxy::Agent, reading);
        assert_eq!(results.ratio((Measure::Idle, Unit::KibPerSocket)), None);
        let table = results.table(1, 1);
        assert!(
            table.contains("1.50") && table.contains("2 errors"),
            "{table}"
        );
        assert!(!table.contains("keep-alive"));
    }
}
