//! `lb-agent run`: the agent itself, in the foreground.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::failure::{self, Failure};
use super::{Control, output};
use crate::metrics::events::Keep;
use crate::run::{End, Start, WillNotHelp};
use lb_http::check_certificates;

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

/// Run the agent in the foreground
///
/// It logs to standard error; the variable LB_AGENT_LOG sets the level, as in "debug" or
/// "info,lb_agent::control=debug". SIGTERM, SIGINT and an agent with --take-over end it (exit code 0).
/// `lb-agent stop` ends it, too (exit code 4, so that a supervisor does not start it again). SIGHUP reloads the configuration, SIGUSR1 opens
/// the access logs anew. The kernel goes on forwarding without the agent.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent run --config /etc/lb-agent/config.toml --log json")]
pub(super) struct Run {
    /// Configuration [default: /etc/lb-agent/config.toml, or one service on port 80 without it]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Form of the log
    #[arg(long, value_enum, default_value_t = Log::Human, value_name = "FORM")]
    log: Log,
    /// Replace the agent that runs, if there is one, without a gap. See also "lb-agent upgrade"
    #[arg(long)]
    take_over: bool,
    /// Log where the replaced agent did
    #[arg(long, hide = true, requires = "take_over")]
    take_output: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Log {
    /// Lines to read
    Human,
    /// A JSON object in each line
    Json,
}

impl Run {
    pub(super) fn carry_out(self, control: Control) -> Result<(), Failure> {
        let mut config =
            lb_config::load(self.config.as_deref()).map_err(|error| Failure::of_config(&error))?;
        if let Some(path) = control.path {
            config.agent.control = path;
        }
        start_log(self.log)?;
        let certificates = check_certificates(&config, SystemTime::now());
        if !certificates.unusable.is_empty() {
            return Err(Failure::of_lines(certificates.unusable));
        }
        // An agent that refused to start for this would serve no client at all.
        for problem in certificates.tolerated() {
            tracing::warn!("{problem}");
        }
        for warning in lb_config::warnings(&config) {
            tracing::warn!("{warning}");
        }
        let start = match self.take_over {
            false => Start::Alone,
            true => Start::TakeOver {
                takes_output: self.take_output,
            },
        };
        match crate::run::run(config, self.config, start) {
            Ok(End::Signal | End::TakenOver) => Ok(()),
            Ok(End::Told) => Err(Failure::shown(failure::TOLD_TO_STOP)),
            // The supervisor need not try again.
            Err(error) if error.is::<WillNotHelp>() => {
                Err(Failure::usage(format!("run: {error:#}")))
            }
            Err(error) => Err(Failure::failed(format!("run: {error:#}"))),
        }
    }
}

fn start_log(form: Log) -> Result<(), Failure> {
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
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = tracing_subscriber::registry().with(filter).with(Keep);
    let started = match form {
        Log::Human => log
            .with(
                lines
                    .with_ansi(std::io::stderr().is_terminal() && output::may_colour())
                    .with_target(false),
            )
            .try_init(),
        Log::Json => log.with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|error| Failure::failed(format!("start the log: {error}")))
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
    use super::*;
    use tracing::Level;

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
