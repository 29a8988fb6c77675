//! From the JSON of a benchmark to groups of bars, and to a table of them.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The unit of `bench http` that its picture shows.
const CPU: &str = "CPU of the proxy, us";

/// All bars of a run.
#[derive(Debug, PartialEq)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) groups: Vec<Group>,
}

/// Bars that can be compared with each other.
#[derive(Debug, PartialEq)]
pub(super) struct Group {
    pub(super) label: String,
    pub(super) bars: Vec<Bar>,
}

/// One figure.
#[derive(Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: f64,
    /// To the candidate that the benchmark compares with.
    pub(super) ratio: Option<f64>,
    /// Whether it is a figure of lb-agent.
    pub(super) ours: bool,
}

impl Bar {
    /// Value and ratio, as in table and picture.
    pub(super) fn shown(&self) -> String {
        let value = match self.value.abs() {
            0.0..100.0 => format!("{:.1}", self.value),
            _ => format!("{:.0}", self.value),
        };
        match self.ratio {
            Some(ratio) => format!("{value} ({ratio:.3})"),
            None => value,
        }
    }
}

impl Chart {
    /// Of a run of `bench socket`, `nat`, `http` or `xdp`.
    pub(super) fn of(run: &Value) -> Result<Self> {
        if let Some(cases) = run["cases"].as_array() {
            return of_packets(cases);
        }
        let results = run["results"].as_array().context("no results")?;
        let is_of_proxies = |result: &Value| result["measure"].is_string();
        if results.iter().any(is_of_proxies) {
            of_proxies(run, results)
        } else {
            of_ways(results)
        }
    }

    /// A table: a row for each group and a column for each name, or a row for each bar of a single group.
    pub(super) fn markdown(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for bar in self.groups.iter().flat_map(|group| &group.bars) {
            if !names.contains(&bar.name.as_str()) {
                names.push(&bar.name);
            }
        }
        if let [group] = self.groups.as_slice()
            && names.len() > 5
        {
            let row = |bar: &Bar| format!("| {} | {} |\n", bar.name, bar.shown());
            let rows: String = group.bars.iter().map(row).collect();
            return format!("| | {} |\n| --- | --- |\n{rows}", self.title);
        }
        let cells = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let head = std::iter::once(self.title.clone());
        let mut table = cells(head.chain(names.iter().map(ToString::to_string)).collect());
        table.push_str(&cells(vec!["---".to_owned(); names.len() + 1]));
        for group in &self.groups {
            let value = |name: &&str| {
                let bar = group.bars.iter().find(|bar| bar.name == *name);
                bar.map_or_else(String::new, Bar::shown)
            };
            let label = std::iter::once(group.label.clone());
            table.push_str(&cells(label.chain(names.iter().map(value)).collect()));
        }
        table
    }
}

fn text<'v>(value: &'v Value, key: &str) -> Result<&'v str> {
    value[key]
        .as_str()
        .with_context(|| format!("no text {key}"))
}

fn number(value: &Value, key: &str) -> Result<f64> {
    value[key]
        .as_f64()
        .with_context(|| format!("no number {key}"))
}

/// A run of `bench xdp`: one group with a bar for each case.
fn of_packets(cases: &[Value]) -> Result<Chart> {
    let bar = |case: &Value| {
        Ok(Bar {
            name: text(case, "case")?.to_owned(),
            value: number(case, "net_ns")?,
            ratio: None,
            ours: true,
        })
    };
    Ok(Chart {
        title: "ns a packet".to_owned(),
        groups: vec![Group {
            label: String::new(),
            bars: cases.iter().map(bar).collect::<Result<_>>()?,
        }],
    })
}

/// A run of `bench socket` or `nat`: a group for each kind of connection, a bar for each way.
fn of_ways(results: &[Value]) -> Result<Chart> {
    let mut groups: Vec<Group> = Vec::new();
    for result in results {
        let name = text(result, "path").or_else(|_| text(result, "way"))?;
        let bar = Bar {
            name: name.to_owned(),
            value: number(result, "requests_per_second")?,
            ratio: result["ratio_to_direct"].as_f64(),
            ours: ["steered", "tc", "xdp"].contains(&name),
        };
        let label = text(result, "kind")?;
        match groups.iter_mut().find(|group| group.label == label) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group {
                label: label.to_owned(),
                bars: vec![bar],
            }),
        }
    }
    let title = "requests/s (ratio to direct)".to_owned();
    Ok(Chart { title, groups })
}

/// A run of `bench http`: a group for each shape of request, a bar for each proxy, with its version.
fn of_proxies(run: &Value, results: &[Value]) -> Result<Chart> {
    let mut groups = Vec::new();
    for result in results.iter().filter(|result| result["unit"] == CPU) {
        let proxies = result["proxies"].as_object().context("no proxies")?;
        let bar = |(name, figures): (&String, &Value)| {
            let version = run["versions"][name].as_str().unwrap_or_default();
            let ours = name == "lb-agent";
            Ok(Bar {
                name: format!("{name} {version}").trim().to_owned(),
                value: number(figures, "median")?,
                ratio: result["ratio"].as_f64().filter(|_| ours),
                ours,
            })
        };
        groups.push(Group {
            label: text(result, "measure")?.to_owned(),
            bars: proxies.iter().map(bar).collect::<Result<_>>()?,
        });
    }
    if groups.is_empty() {
        bail!("no figure has the unit {CPU:?}");
    }
    let title = "CPU a request, µs (ratio to the better of the others)".to_owned();
    Ok(Chart { title, groups })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn proxies_are_grouped_by_measure_with_their_versions() {
        let figures = |median: f64| json!({"median": median, "rounds": [median]});
        let run = json!({"seconds": 1, "versions": {"nginx": "1.22.1"}, "errors": [], "results": [
            {"measure": "small", "unit": "per second", "ratio": 1.2, "proxies": {"nginx": figures(9.0)}},
            {"measure": "small", "unit": CPU, "ratio": 0.84,
             "proxies": {"lb-agent": figures(13.7), "nginx": figures(15.1)}}]});
        let chart = Chart::of(&run).unwrap();
        assert_eq!(chart.groups.len(), 1);
        let table = chart.markdown();
        assert!(table.contains("| lb-agent | nginx 1.22.1 |"), "{table}");
        assert!(table.contains("| small | 13.7 (0.840) | 15.1 |"), "{table}");
    }

    #[test]
    fn many_cases_of_one_group_are_rows() {
        let case =
            |name: &str| json!({"case": name, "net_ns": 62.5, "least_ns": 60.0, "most_ns": 70.0});
        let cases = ["a", "b", "c", "d", "e", "f"].map(case);
        let run = json!({ "cases": cases });
        let table = Chart::of(&run).unwrap().markdown();
        assert!(table.ends_with("| f | 62.5 |\n"), "{table}");
    }

    #[test]
    fn a_file_that_is_no_run_is_refused() {
        assert!(Chart::of(&json!({"a": 1})).is_err());
        assert!(Chart::of(&json!({"results": [{"kind": "x"}]})).is_err());
    }
}
