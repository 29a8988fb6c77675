//! `lb-agent stats`: every figure, once or again and again.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use super::failure::Failure;
use super::{Control, output, wait_for};
use crate::control::client::Client;
use crate::control::message::Command;
use crate::control::stats::http::HttpStats;
use crate::control::stats::{Stats as Figures, TrafficStats};

/// Show counters: connections, clients, drops, tables
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent stats --watch")]
pub(super) struct Stats {
    /// Print JSON; with --watch, a line each time
    #[arg(long)]
    json: bool,
    /// Repeat with rates, until interrupted
    #[arg(long)]
    watch: bool,
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "watch",
          value_parser = super::duration)]
    interval: Duration,
}

impl Stats {
    pub(super) fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        let client = control.client();
        let failed = |error| Failure::of_call("stats", error);
        if self.watch {
            return wait_for(self.go_on(&client))?;
        }
        if self.json {
            return output::text(&wait_for(client.text(&Command::Stats))?.map_err(failed)?);
        }
        let stats: Figures = wait_for(client.read(&Command::Stats))?.map_err(failed)?;
        output::text(&render(&stats, None))
    }

    async fn go_on(&self, client: &Client) -> Result<(), Failure> {
        let mut ticks = tokio::time::interval(self.interval.max(Duration::from_millis(100)));
        let mut before: Option<Figures> = None;
        loop {
            ticks.tick().await;
            let stats: Figures = client
                .read(&Command::Stats)
                .await
                .map_err(|error| Failure::of_call("stats", error))?;
            let shown = if self.json {
                serde_json::to_string(&stats)
                    .map(|line| line + "\n")
                    .map_err(|error| Failure::failed(format!("stats: {error}")))?
            } else {
                render(&stats, before.as_ref()) + "\n"
            };
            if !output::goes_on(&shown)? {
                return Ok(());
            }
            before = Some(stats);
        }
    }
}

/// All tables. With an earlier snapshot, connections have a rate.
fn render(stats: &Figures, before: Option<&Figures>) -> String {
    let mut text = table(
        &[
            "SERVICE",
            "BACKEND",
            "PATH",
            "ACTIVE",
            "TOTAL",
            "PER SECOND",
            "FAILED",
            "BYTES IN",
            "BYTES OUT",
        ],
        3,
        stats.traffic.iter().map(|row| {
            vec![
                row.service.clone(),
                row.backend.clone(),
                row.path.clone(),
                row.active.to_string(),
                row.connections.to_string(),
                or_dash(before.and_then(|before| rate(stats, before, row))),
                or_dash(row.failures),
                or_dash(row.bytes_in),
                or_dash(row.bytes_out),
            ]
        }),
    );
    text.push('\n');
    text += &services(stats);
    if !stats.http.is_empty() {
        text.push('\n');
        text += &requests(&stats.http);
        text.push('\n');
        text += &answers(&stats.http);
    }
    text.push('\n');
    text += &table(
        &["TABLE", "ENTRIES", "OF", "EVICTED"],
        1,
        stats.tables.iter().map(|row| {
            vec![
                row.table.clone(),
                row.entries.to_string(),
                row.capacity.to_string(),
                or_dash(row.evictions),
            ]
        }),
    );
    for (heads, rows) in [
        (["SERVICE", "LIMIT", "ABOVE IT"], limits(&stats.http)),
        (["SERVICE", "DROPPED BECAUSE", "COUNT"], drops(stats)),
        (["PACKETS", "BY", "COUNT"], packets(stats)),
    ] {
        if !rows.is_empty() {
            text.push('\n');
            text += &table(&heads, 2, rows.into_iter());
        }
    }
    text
}

/// Drop counters above zero.
fn drops(stats: &Figures) -> Vec<Vec<String>> {
    let rows = stats.drops.iter().filter(|row| row.count > 0);
    rows.map(|row| {
        let service = Some(row.service.clone()).filter(|name| !name.is_empty());
        let service = service.unwrap_or_else(|| "-".to_owned());
        vec![service, row.reason.clone(), row.count.to_string()]
    })
    .collect()
}

/// Packet counters of the packet paths.
fn packets(stats: &Figures) -> Vec<Vec<String>> {
    let paths = stats.status.agent.packets.iter();
    let counts = paths.flat_map(|packets| &packets.figures.packets);
    counts
        .filter(|(name, count)| *count > 0 && !name.starts_with("drop_"))
        .map(|(name, count)| vec!["all".to_owned(), name.clone(), count.to_string()])
        .collect()
}

fn services(stats: &Figures) -> String {
    let drops = |name: &str| {
        let rows = stats.drops.iter().filter(|row| row.service == name);
        rows.map(|row| row.count).sum::<u64>()
    };
    let rows = stats.status.services.iter().map(|service| {
        let clients = stats.clients.iter().find(|row| row.service == service.name);
        vec![
            service.name.clone(),
            service.counters.affinity.to_string(),
            service.counters.slot.to_string(),
            service.counters.next.to_string(),
            drops(&service.name).to_string(),
            or_dash(clients.map(|row| row.new)),
            or_dash(clients.map(|row| row.moved)),
        ]
    });
    table(
        &[
            "SERVICE",
            "BY AFFINITY",
            "BY SLOT",
            "NEXT",
            "DROPPED",
            "NEW CLIENTS",
            "MOVED",
        ],
        1,
        rows,
    )
}

/// Answers of services with `mode = "http"` by class, and how long they took.
fn requests(rows: &[HttpStats]) -> String {
    let rows = rows.iter().map(|row| {
        let classes = ["2xx", "3xx", "4xx", "5xx", "none"];
        let counts = classes.map(|class| row.of_class(class).to_string());
        let times = [
            row.first_byte.quantile(0.5),
            row.first_byte.quantile(0.99),
            row.duration.quantile(0.5),
            row.duration.quantile(0.99),
        ];
        let times = times.map(|time| time.map_or_else(|| "-".to_owned(), milliseconds));
        let cells = [row.service.clone()].into_iter();
        let cells = cells.chain(counts).chain([row.tunnels_active.to_string()]);
        cells.chain(times).collect()
    });
    table(
        &[
            "SERVICE", "2XX", "3XX", "4XX", "5XX", "LEFT", "TUNNELS", "HEAD P50", "P99", "ALL P50",
            "P99",
        ],
        1,
        rows,
    )
}

/// Answers by their source, with the part of the cache.
fn answers(rows: &[HttpStats]) -> String {
    let rows = rows.iter().map(|row| {
        let sources = ["backend", "cache", "files", "route", "gateway"];
        let counts = sources.map(|source| row.answers.get(source).copied().unwrap_or(0));
        let counts = counts.map(|count| count.to_string());
        let hits = row.from_memory_percent();
        let hits = hits.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%"));
        let cells = [row.service.clone()].into_iter().chain(counts);
        cells.chain([hits, or_dash(row.denied)]).collect()
    });
    let heads = [
        "SERVICE",
        "BY BACKENDS",
        "CACHE",
        "FILES",
        "ROUTES",
        "PAGES",
        "HIT RATE",
        "NO ACCESS",
    ];
    table(&heads, 1, rows)
}

/// Requests above each limit, with its name.
fn limits(rows: &[HttpStats]) -> Vec<Vec<String>> {
    let all = rows.iter().flat_map(|row| {
        let limits = row.limits.iter();
        limits.map(|(name, stats)| {
            let above = stats.refused + stats.would_refuse;
            vec![row.service.clone(), name.clone(), above.to_string()]
        })
    });
    all.collect()
}

/// Seconds as milliseconds, with a fraction below ten.
fn milliseconds(seconds: f64) -> String {
    let ms = seconds * 1000.0;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// Connections a second since an earlier snapshot.
pub(super) fn rate(now: &Figures, before: &Figures, row: &TrafficStats) -> Option<u64> {
    let same = |other: &&TrafficStats| {
        (&other.service, &other.backend, &other.path) == (&row.service, &row.backend, &row.path)
    };
    let earlier = before.traffic.iter().find(same)?;
    let elapsed_ms = now.at_unix_ms.checked_sub(before.at_unix_ms)?;
    let more = row.connections.saturating_sub(earlier.connections);
    (more * 1000).checked_div(elapsed_ms)
}

fn or_dash(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// Columns as wide as they have to be, those from `numbers` on with numbers.
fn table(heads: &[&str], numbers: usize, rows: impl Iterator<Item = Vec<String>>) -> String {
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            // Writing to a string cannot fail.
            let _ = if column < numbers {
                write!(line, "{cell:width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::stats::http::{LatencyStats, RequestStats};

    #[test]
    fn requests_are_shown_by_class_with_their_latency() {
        let row = |method: &str, status: &str, count| RequestStats {
            method: method.to_owned(),
            status: status.to_owned(),
            count,
        };
        let latency = LatencyStats {
            count: 4,
            sum_seconds: 1.0,
            buckets: vec![(0.001, 2), (0.05, 2)],
        };
        let web = HttpStats {
            service: "web".to_owned(),
            requests: vec![
                row("GET", "2xx", 3),
                row("PUT", "2xx", 1),
                row("PUT", "none", 2),
            ],
            first_byte: latency.clone(),
            tunnels_active: 7,
            ..HttpStats::default()
        };
        assert_eq!(
            requests(&[web]),
            "SERVICE  2XX  3XX  4XX  5XX  LEFT  TUNNELS  HEAD P50    P99  ALL P50  P99\n\
             web        4    0    0    0     2        7    1.0 ms  49 ms        -    -\n"
        );
    }

    #[test]
    fn answers_are_shown_by_source_with_the_hit_rate() {
        let counts = |counts: &[(&str, u64)]| {
            let counts = counts.iter();
            counts
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect()
        };
        let web = HttpStats {
            service: "web".to_owned(),
            answers: counts(&[("backend", 3), ("cache", 9), ("files", 5), ("gateway", 1)]),
            cache: counts(&[("hit", 8), ("stale", 1), ("miss", 3)]),
            denied: Some(4),
            ..HttpStats::default()
        };
        let bare = HttpStats {
            service: "bare".to_owned(),
            ..HttpStats::default()
        };
        assert_eq!(
            answers(&[web, bare]),
            "SERVICE  BY BACKENDS  CACHE  FILES  ROUTES  PAGES  HIT RATE  NO ACCESS\n\
             web                3      9      5       0      1       75%          4\n\
             bare               0      0      0       0      0         -          -\n"
        );
    }

    #[test]
    fn a_table_has_columns_as_wide_as_they_have_to_be() {
        let rows = [["a", "10"], ["long", "5"]].map(|row| row.map(str::to_owned).to_vec());
        let text = table(&["X", "N"], 1, rows.into_iter());
        assert_eq!(text, "X      N\na     10\nlong   5\n");
    }
}
