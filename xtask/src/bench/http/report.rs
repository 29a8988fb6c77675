//! From rounds to medians, and to ratios of lb-agent to the better of the others.

use super::super::report::median;
use super::figure::Unit;
use super::measure::Measure;
use super::ports::Proxy;
use serde_json::{Value, json};
use std::fmt::Write;

/// All rounds of one figure of one proxy.
pub(super) struct Series {
    pub(super) measure: Measure,
    pub(super) unit: Unit,
    pub(super) proxy: Proxy,
    /// One for each round, in order.
    pub(super) rounds: Vec<f64>,
}

/// All that was measured.
#[derive(Default)]
pub(super) struct Results {
    /// Of the proxies, in the order of the table.
    versions: Vec<(Proxy, String)>,
    series: Vec<Series>,
    errors: Vec<(Measure, Proxy, u64)>,
}

impl Results {
    /// None yet, of proxies with these versions.
    pub(super) fn new(versions: Vec<(Proxy, String)>) -> Self {
        Self {
            versions,
            ..Self::default()
        }
    }

    /// One more round of a measurement.
    pub(super) fn add(
        &mut self,
        measure: Measure,
        proxy: Proxy,
        figures: Vec<(Unit, f64)>,
        errors: u64,
    ) {
        if errors > 0 {
            self.errors.push((measure, proxy, errors));
        }
        for (unit, value) in figures {
            let known = self.series.iter_mut().find(|series| {
                (series.measure, series.unit, series.proxy) == (measure, unit, proxy)
            });
            match known {
                Some(series) => series.rounds.push(value),
                None => self.series.push(Series {
                    measure,
                    unit,
                    proxy,
                    rounds: vec![value],
                }),
            }
        }
    }

    fn find(&self, measure: Measure, unit: Unit, proxy: Proxy) -> Option<&Series> {
        self.series
            .iter()
            .find(|series| (series.measure, series.unit, series.proxy) == (measure, unit, proxy))
    }

    /// The median of each round's ratio of lb-agent to the better of the others in that round.
    fn ratio(&self, measure: Measure, unit: Unit) -> Option<f64> {
        let ours = self.find(measure, unit, Proxy::Agent)?;
        let others: Vec<&Series> = [Proxy::Nginx, Proxy::Haproxy]
            .into_iter()
            .filter_map(|proxy| self.find(measure, unit, proxy))
            .collect();
        let better = |round: usize| {
            let values = others.iter().filter_map(|series| series.rounds.get(round));
            values
                .copied()
                .reduce(if unit.is_gain() { f64::max } else { f64::min })
        };
        let ratios = ours.rounds.iter().enumerate();
        median(
            ratios
                .filter_map(|(round, value)| Some(value / better(round)?))
                .collect(),
        )
    }

    /// The figures in the order of the table.
    fn rows(&self) -> Vec<(Measure, Unit)> {
        let mut rows = Vec::new();
        for measure in Measure::ALL {
            for series in self
                .series
                .iter()
                .filter(|series| series.measure == measure)
            {
                if !rows.contains(&(measure, series.unit)) {
                    rows.push((measure, series.unit));
                }
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
                let series = self.find(measure, unit, proxy);
                let value = series.and_then(|series| median(series.rounds.clone()));
                let _ = write!(text, "{:>12}", value.map_or_else(String::new, shown));
            }
            if let Some(ratio) = self.ratio(measure, unit) {
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
        let figure = |(measure, unit): (Measure, Unit)| {
            let of = |proxy: Proxy| {
                let series = self.find(measure, unit, proxy)?;
                let median = median(series.rounds.clone());
                Some((
                    proxy.name(),
                    json!({ "median": median, "rounds": series.rounds }),
                ))
            };
            let proxies: serde_json::Map<String, Value> = Proxy::ALL
                .into_iter()
                .filter_map(of)
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            json!({
                "measure": measure.name(),
                "unit": unit.name(),
                "more_is_better": unit.is_gain(),
                "ratio": self.ratio(measure, unit),
                "proxies": proxies,
            })
        };
        let results: Vec<Value> = self.rows().into_iter().map(figure).collect();
        let error = |(measure, proxy, count): &(Measure, Proxy, u64)| json!({ "measure": measure.name(), "proxy": proxy.name(), "count": count });
        let errors: Vec<Value> = self.errors.iter().map(error).collect();
        let versions = self.versions.iter();
        let versions: serde_json::Map<String, Value> = versions
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
                results.add(measure, proxy, figures, 0);
            }
        }
        assert_eq!(results.ratio(measure, Unit::PerSecond), Some(1.1));
        let cpu = results.ratio(measure, Unit::CpuUs).unwrap();
        assert!((cpu - 1.0 / 1.1).abs() < 1e-9, "{cpu}");
        assert!(results.table(3, 1).contains("1.100"));
        assert!(results.table(3, 1).starts_with("nginx 1.22.1\n"));
        let json = results.json(1);
        assert_eq!(json["results"][0]["ratio"], 1.1);
        assert_eq!(json["versions"]["nginx"], "1.22.1");
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let mut results = Results::default();
        results.add(
            Measure::Idle,
            Proxy::Agent,
            vec![(Unit::KibPerSocket, 1.5)],
            2,
        );
        assert_eq!(results.ratio(Measure::Idle, Unit::KibPerSocket), None);
        let table = results.table(1, 1);
        assert!(
            table.contains("1.50") && table.contains("2 errors"),
            "{table}"
        );
        assert!(!table.contains("keep-alive"));
    }
}
