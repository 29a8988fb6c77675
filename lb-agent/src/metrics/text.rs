//! Metrics as text: OpenMetrics 1.0 by `prometheus-client`, and the older Prometheus text format
//! 0.0.4, which is made of it.

use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::control::stats::{Family, Kind, Sample};

/// `Content-Type` of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// `Content-Type` of the Prometheus text format.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics in the format that an `Accept` header asks for, with its content type.
pub fn encode(families: &[Family], accept: &str) -> (&'static str, String) {
    let text = open_metrics(families);
    if accept.contains("application/openmetrics-text") {
        (OPEN_METRICS, text)
    } else {
        (PROMETHEUS, prometheus(&text))
    }
}

fn open_metrics(families: &[Family]) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families.to_vec())));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut text, &registry);
    text
}

/// The older format from the newer one: counters are called `_total` in their heads too, and there
/// are no units and no end mark.
fn prometheus(open_metrics: &str) -> String {
    let is_counter = |name: &str| open_metrics.contains(&format!("# TYPE {name} counter\n"));
    let mut text = String::new();
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        let head = (words.next(), words.next(), words.next(), words.next());
        let _ = match head {
            (Some("#"), Some("EOF" | "UNIT"), _, _) => Ok(()),
            (Some("#"), Some(what), Some(name), Some(rest)) if is_counter(name) => {
                writeln!(text, "# {what} {name}_total {rest}")
            }
            _ => writeln!(text, "{line}"),
        };
    }
    text
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(&family.name, &family.help, None, kind)?;
            for sample in &family.samples {
                let Sample {
                    labels,
                    value,
                    buckets,
                } = sample;
                let mut one = metric.encode_family(labels)?;
                match family.kind {
                    Kind::Counter => ConstCounter::new(*value).encode(one)?,
                    Kind::Gauge => ConstGauge::new(*value).encode(one)?,
                    Kind::Histogram => {
                        let count = buckets.iter().map(|(_, count)| count).sum();
                        one.encode_histogram::<NoLabelSet>(*value, count, buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        vec![
            Family::new(Kind::Counter, "lb_agent_connections", "Connections so far")
                .with(&[("service", "we\"b\\"), ("path", "a\nb")], 3.0),
            Family::new(Kind::Gauge, "lb_agent_share_ratio", "Share").with(&[], 0.25),
            Family::new(Kind::Gauge, "lb_agent_nothing", "Nothing"),
        ]
    }

    #[test]
    fn open_metrics_ends_with_its_mark_and_escapes_labels() {
        let (kind, text) = encode(
            &families(),
            "application/openmetrics-text;version=1.0.0,*/*",
        );
        assert_eq!(kind, OPEN_METRICS);
        assert!(
            text.contains("# TYPE lb_agent_connections counter\n"),
            "{text}"
        );
        let sample = "lb_agent_connections_total{service=\"we\\\"b\\\\\",path=\"a\\nb\"} 3";
        assert!(text.contains(sample), "{text}");
        assert!(text.ends_with("# EOF\n"));
        assert!(
            !text.contains("nothing"),
            "a metric without samples is not shown"
        );
    }

    #[test]
    fn the_older_format_names_counters_in_full() {
        let (kind, text) = encode(&families(), "*/*");
        assert_eq!(kind, PROMETHEUS);
        assert!(
            text.contains("# TYPE lb_agent_connections_total counter\n"),
            "{text}"
        );
        assert!(
            text.contains("# HELP lb_agent_connections_total Connections so far"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE lb_agent_share_ratio gauge\n"),
            "{text}"
        );
        assert!(text.contains("\nlb_agent_share_ratio{} 0.25\n"), "{text}");
        assert!(!text.contains("EOF") && !text.contains("UNIT"), "{text}");
    }
}
