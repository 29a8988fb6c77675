//! `lb-agent stop`: ends the agent, and removes its objects from the kernel.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::failure::Failure;
use super::{Control, output, running, wait_for};
use crate::control::client::{CallError, Client};
use crate::control::message::{Command, Stopping};
use lb_config::{Config, DEFAULT_CONTROL};

/// For the agent to be gone after the time that it gives open connections.
const PATIENCE: Duration = Duration::from_secs(20);
/// Interval of the countdown.
const SECOND: Duration = Duration::from_secs(1);

/// Stop the agent
///
/// Services that the kernel carries go on without the agent. Others end, after a time for their open connections. A
/// line for each service tells which it is. With --purge all end, and only the state directory is left, which the
/// command names. --purge also works without a running agent.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent stop --purge")]
pub(super) struct Stop {
    /// Also remove all programs and maps from the kernel
    #[arg(long)]
    purge: bool,
    /// Configuration that names the control socket and the pins
    /// [default: /etc/lb-agent/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Stop {
    pub(super) fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        let named = self.config.as_deref().map(|path| load(Some(path)));
        let named = named.transpose()?;
        let usual = named
            .as_ref()
            .map_or(Path::new(DEFAULT_CONTROL), |config| &config.agent.control);
        let client = control.client_or(usual);
        let state = self.purge.then(|| state_dir(named.as_ref(), &client));
        match wait_for(self.ask(&client))? {
            Err(error) if self.purge && is_absent(&error) => {
                purge_alone(&named.map_or_else(|| load(None), Ok)?)
            }
            outcome => {
                let (told, agent) = outcome.map_err(|error| Failure::of_call("stop", error))?;
                for line in &told.services {
                    output::line(line)?;
                }
                if let Some(agent) = agent {
                    wait_for_end(&agent, Duration::from_secs(told.wait_seconds))?;
                }
                output::line(&told.message.replacen("stopping", "stopped", 1))?;
                state.flatten().map_or(Ok(()), |state| name_state(&state))
            }
        }
    }

    /// The agent's answer, and the agent's process if it can be seen.
    async fn ask(&self, client: &Client) -> Result<(Stopping, Option<OwnedFd>), CallError> {
        // Opened while it surely lives: later its number may belong to another process.
        let agent = client.peer().await?.and_then(process);
        let command = Command::Stop { purge: self.purge };
        Ok((client.read(&command).await?, agent))
    }
}

fn load(path: Option<&Path>) -> Result<Config, Failure> {
    lb_config::load(path).map_err(|error| Failure::of_config(&error))
}

/// The state directory of the agent that is to be stopped, if its configuration can be read.
fn state_dir(named: Option<&Config>, client: &Client) -> Option<PathBuf> {
    let config = match named {
        Some(config) => config.clone(),
        None => lb_config::load(running::file_of(&running::ask(client).ok()?).as_deref()).ok()?,
    };
    Some(config.agent.state_dir)
}

/// Tells that the state directory is left, if it is there.
fn name_state(directory: &Path) -> Result<(), Failure> {
    if !directory.exists() {
        return Ok(());
    }
    output::line(&format!(
        "{} is left: changes made at run time, and the key of the hash",
        directory.display()
    ))
}

fn process(pid: i32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(pid)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits for the end of the agent, which gives open connections `grace`. A terminal shows the seconds that are left.
fn wait_for_end(agent: &OwnedFd, grace: Duration) -> Result<(), Failure> {
    let begun = Instant::now();
    let counts_down = io::stderr().is_terminal();
    loop {
        let left = (grace + PATIENCE).saturating_sub(begun.elapsed());
        let of_grace = grace.saturating_sub(begun.elapsed());
        if counts_down && !of_grace.is_zero() {
            // A terminal that is gone needs no figure.
            let _ = write!(io::stderr(), "\r{:>3} s left", of_grace.as_secs() + 1);
        }
        let ended = has_ended(agent, left.min(SECOND));
        let ended =
            ended.map_err(|error| Failure::failed(format!("stop: wait for the agent: {error}")));
        if counts_down && (!matches!(ended, Ok(false)) || of_grace.is_zero()) {
            let _ = write!(io::stderr(), "\r{:12}\r", "");
        }
        if ended? {
            return Ok(());
        }
        if left.is_zero() {
            return Err(Failure::failed(format!(
                "stop: the agent is still there after {} seconds (see its log)",
                begun.elapsed().as_secs()
            )));
        }
    }
}

/// Whether the process ends within `patience`.
fn has_ended(agent: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let patience = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    let mut ended = [PollFd::new(agent, PollFlags::IN)];
    Ok(poll(&mut ended, Some(&patience))? > 0)
}

/// Whether no agent is there, as opposed to one that the caller may not speak to.
fn is_absent(error: &CallError) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error, CallError::Unreachable { source, .. }
        if matches!(source.kind(), NotFound | ConnectionRefused))
}

fn purge_alone(config: &Config) -> Result<(), Failure> {
    let pins = config.agent.pin_dir.display();
    match crate::run::purge(config) {
        Ok(is_removed) => {
            output::line(&if is_removed {
                format!("no agent was running; removed {pins}")
            } else {
                format!("no agent was running, and there was nothing at {pins}")
            })?;
            name_state(&config.agent.state_dir)
        }
        Err(error) => Err(Failure::failed(format!("purge {pins}: {error:#}"))),
    }
}
