//! `lb-agent run`: the agent itself, in the foreground.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;

use super::failure::{self, Failure};
use super::{Control, log};
use crate::privilege::Worker;
use crate::run::{End, Start, WillNotHelp};
use lb_http::check_certificates;

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
    #[arg(long, value_enum, default_value_t = log::Form::Human, value_name = "FORM")]
    log: log::Form,
    /// Replace the agent that runs, if there is one, without a gap. See also "lb-agent upgrade"
    #[arg(long)]
    take_over: bool,
    /// Log where the replaced agent did
    #[arg(long, hide = true, requires = "take_over")]
    take_output: bool,
}

impl Run {
    pub(super) fn carry_out(self, control: Control) -> Result<(), Failure> {
        let mut config =
            lb_config::load(self.config.as_deref()).map_err(|error| Failure::of_config(&error))?;
        if let Some(path) = control.path {
            config.agent.control = path;
        }
        log::start(self.log)?;
        let certificates = check_certificates(&config, SystemTime::now());
        if !certificates.unusable.is_empty() {
            return Err(Failure::of_lines(certificates.unusable));
        }
        // An agent that refused to start for this would serve no client at all.
        for problem in certificates.tolerated() {
            tracing::warn!("{problem}");
        }
        let worker = Worker::of_this_process();
        let files = lb_http::check_files(&config, worker.name(), || worker.confine());
        for problem in files.iter().chain(&lb_http::check_users(&config)) {
            tracing::warn!("{problem}");
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
