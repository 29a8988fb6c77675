//! The agent's log on standard error: its filter, its form, and the prefixes that journald reads.

use std::fmt;
use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::failure::Failure;
use super::journal::{is_journal, prefix};
use super::output;
use crate::metrics::events::{Keep, text};

/// Log filter in the absence of [`FILTER`].
const USUAL_FILTER: &str = "info";
/// Names the environment variable with the filter.
const FILTER: &str = "LB_AGENT_LOG";
/// The other crates of the agent that log.
const OURS: [&str; 3] = ["lb_config", "lb_http", "lb_net"];
/// Libraries that log much at DEBUG.
const LIBRARIES: [&str; 7] = [
    "aya",
    "aya_obj",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "rustls",
];

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Form {
    /// Lines to read
    Human,
    /// A JSON object in each line
    Json,
}

/// Starts the log of this process.
pub(super) fn start(form: Form) -> Result<(), Failure> {
    let wanted = std::env::var(FILTER).unwrap_or_default();
    let wanted = if wanted.is_empty() {
        USUAL_FILTER
    } else {
        &wanted
    };
    let filter = filter(wanted).map_err(|error| {
        Failure::usage(format!(
            "{FILTER}: {wanted:?}: {error} (write it like \"debug\" or \"info,lb_agent=debug\")"
        ))
    })?;
    let in_journal = is_journal(io::stderr());
    let lines = layer().with_writer(io::stderr);
    let log = tracing_subscriber::registry().with(filter).with(Keep);
    let started = match form {
        Form::Human => {
            let lines = lines.with_ansi(io::stderr().is_terminal() && output::may_colour());
            log.with(lines.event_format(Human { in_journal }))
                .try_init()
        }
        Form::Json => {
            let json = Format::default().json().flatten_event(true);
            let lines = lines.fmt_fields(JsonFields::new());
            log.with(lines.event_format(Prefixed { json, in_journal }))
                .try_init()
        }
    };
    started.map_err(|error| Failure::failed(format!("start the log: {error}")))
}

/// Lines for a reader. In the journal they have a priority, and the journal's time.
struct Human {
    in_journal: bool,
}

impl<S, N> FormatEvent<S, N> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let text = printable(&text(event));
        if self.in_journal {
            let prefix = prefix(level);
            return text
                .lines()
                .try_for_each(|line| writeln!(writer, "{prefix}{level:>5} {line}"));
        }
        let (dim, colour, plain) = match writer.has_ansi_escapes() {
            true => ("\x1b[2m", colour(level), "\x1b[0m"),
            false => ("", "", ""),
        };
        write!(writer, "{dim}")?;
        SystemTime.format_time(&mut writer)?;
        writeln!(writer, "{plain} {colour}{level:>5}{plain} {text}")
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[34m",
    }
}

/// The text without control characters, which a terminal might obey. The ends of its lines stay.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// JSON lines, in the journal with their priority.
struct Prefixed {
    json: Format<Json>,
    in_journal: bool,
}

impl<S> FormatEvent<S, JsonFields> for Prefixed
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.in_journal {
            writer.write_str(prefix(*event.metadata().level()))?;
        }
        self.json.format_event(context, writer, event)
    }
}

/// The filter that an operator asks for. `lb_agent` stands for all crates of the agent, and `debug` leaves out the
/// libraries, of which aya alone has thousands of lines at each start. A target that is named has its own level.
fn filter(wanted: &str) -> Result<Targets, ParseError> {
    let filter: Targets = wanted.parse()?;
    let named: Vec<(String, LevelFilter)> = filter
        .iter()
        .map(|(target, level)| (target.to_owned(), level))
        .collect();
    let level_of = |target: &str| {
        named
            .iter()
            .find(|(name, _)| name == target)
            .map(|(_, level)| *level)
    };
    let ours = level_of("lb_agent")
        .into_iter()
        .flat_map(|level| OURS.map(|target| (target, level)));
    let most = filter
        .default_level()
        .unwrap_or(LevelFilter::OFF)
        .min(LevelFilter::INFO);
    let libraries = LIBRARIES.map(|target| (target, most));
    let unnamed = ours
        .chain(libraries)
        .filter(|(target, _)| level_of(target).is_none());
    let unnamed: Vec<_> = unnamed.collect();
    Ok(filter.with_targets(unnamed))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Lines that are written to memory.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the events of `log` look like.
    fn logged<S: Subscriber + Send + Sync>(
        subscriber: impl FnOnce(Lines) -> S,
        log: impl FnOnce(),
    ) -> String {
        let lines = Lines::default();
        tracing::subscriber::with_default(subscriber(lines.clone()), log);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn human(in_journal: bool, log: impl FnOnce()) -> String {
        let subscriber = |lines: Lines| {
            let lines = layer().with_ansi(false).with_writer(move || lines.clone());
            tracing_subscriber::registry().with(lines.event_format(Human { in_journal }))
        };
        logged(subscriber, log)
    }

    fn refused() {
        tracing::warn!(command = "stop", error = "no", "stop refused: no");
    }

    #[test]
    fn line_in_the_journal_has_a_priority_and_no_time() {
        let told = human(true, || {
            tracing::error!(backend = %"127.0.0.1:1", "unhealthy\nfor\x1b[1m long");
            refused();
            tracing::info!("ready");
        });
        let expected = "<3>ERROR unhealthy\n<3>ERROR for\\u{1b}[1m long backend=127.0.0.1:1\n\
                        <4> WARN stop refused: no\n<6> INFO ready\n";
        assert_eq!(told, expected);
    }

    #[test]
    fn line_elsewhere_begins_with_the_time() {
        let told = human(false, refused);
        let (time, rest) = told.split_once(' ').unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{told}");
        assert_eq!(rest, " WARN stop refused: no\n");
    }

    #[test]
    fn json_has_the_parts_of_a_command_as_fields() {
        let subscriber = |lines: Lines| {
            let lines = layer().with_writer(move || lines.clone());
            let json = Format::default().json().flatten_event(true);
            let format = Prefixed {
                json,
                in_journal: true,
            };
            tracing_subscriber::registry()
                .with(lines.fmt_fields(JsonFields::new()).event_format(format))
        };
        let told = logged(subscriber, refused);
        let line: serde_json::Value =
            serde_json::from_str(told.strip_prefix("<4>").unwrap()).unwrap();
        let fields = ["level", "message", "command", "error"].map(|name| line[name].as_str());
        assert_eq!(fields, ["WARN", "stop refused: no", "stop", "no"].map(Some));
    }

    #[test]
    fn journal_is_known_by_the_device_and_inode_of_its_stream() {
        assert!(!is_journal(io::stderr()), "no variable names this stream");
    }

    #[test]
    fn debug_is_for_the_agent_and_not_for_its_libraries() {
        let debug = filter("debug").unwrap();
        for target in ["lb_agent::reconcile", "lb_http::serve", "lb_net"] {
            assert!(debug.would_enable(target, &Level::DEBUG), "{target}");
        }
        for target in ["aya", "aya_obj::relocation", "h2::codec", "rustls"] {
            assert!(!debug.would_enable(target, &Level::DEBUG), "{target}");
            assert!(debug.would_enable(target, &Level::INFO), "{target}");
        }
    }

    #[test]
    fn lb_agent_stands_for_all_crates_of_the_agent() {
        let named = filter("warn,lb_agent=debug,lb_net=error,aya=trace").unwrap();
        assert!(named.would_enable("lb_http::serve", &Level::DEBUG));
        assert!(!named.would_enable("lb_net::handover", &Level::WARN));
        assert!(named.would_enable("aya", &Level::TRACE));
        assert!(!named.would_enable("aya_obj::relocation", &Level::INFO));
        assert!(filter("lb_agent=loud").is_err());
    }
}
