//! `lb-agent stop`: ends the agent, and removes its objects from the kernel.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::failure::Failure;
use super::{Control, output, wait_for};
use crate::control::client::{CallError, Client};
use crate::control::message::Command;
use lb_config::{Config, DEFAULT_CONTROL};

/// For the agent to be gone after it has said that it goes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Stop the agent
///
/// The kernel goes on forwarding; with --purge that ends too, and nothing of the agent is left but
/// its state directory. --purge also works when no agent is running.
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
        match wait_for(self.ask(&control.client_or(usual)))? {
            Err(error) if self.purge && is_absent(&error) => {
                purge_alone(&named.map_or_else(|| load(None), Ok)?)
            }
            outcome => {
                let (message, agent) = outcome.map_err(|error| Failure::of_call("stop", error))?;
                agent.map_or(Ok(()), |agent| wait_for_end(&agent))?;
                output::line(&message)
            }
        }
    }

    /// The agent's answer, and the agent's process if it can be seen.
    async fn ask(&self, client: &Client) -> Result<(String, Option<OwnedFd>), CallError> {
        // Opened while it surely lives: later its number may belong to another process.
        let agent = client.peer().await?.and_then(process);
        let command = Command::Stop { purge: self.purge };
        Ok((client.change(&command).await?, agent))
    }
}

fn load(path: Option<&Path>) -> Result<Config, Failure> {
    lb_config::load(path).map_err(|error| Failure::of_config(&error))
}

fn process(pid: i32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(pid)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

fn wait_for_end(agent: &OwnedFd) -> Result<(), Failure> {
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut ended = [PollFd::new(agent, PollFlags::IN)];
    match poll(&mut ended, Some(&patience)) {
        Ok(0) => Err(Failure::failed(format!(
            "stop: the agent is still there after {} seconds (see its log)",
            PATIENCE.as_secs()
        ))),
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::failed(format!(
            "stop: wait for the agent: {error}"
        ))),
    }
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
        Ok(true) => output::line(&format!("no agent was running; removed {pins}")),
        Ok(false) => output::line(&format!(
            "no agent was running, and there was nothing at {pins}"
        )),
        Err(error) => Err(Failure::failed(format!("purge {pins}: {error:#}"))),
    }
}
