//! The agent that runs, and the configuration that it reads.

use std::io;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::{Control, wait_for};
use crate::control::client::{CallError, Client};
use crate::control::message::Command;
use crate::doctor::Running;
use lb_config::Config;

/// The configuration at `named`, else that of the running agent, else the usual one; and that agent.
pub(super) fn config(
    named: Option<&Path>,
    control: &Control,
) -> Result<(Config, Running), Failure> {
    let load = |path| lb_config::load(path).map_err(|error| Failure::of_config(&error));
    if let Some(path) = named {
        let mut config = load(Some(path))?;
        if let Some(path) = &control.path {
            config.agent.control.clone_from(path);
        }
        let running = ask(&Client::new(&config.agent.control))?;
        return Ok((config, running));
    }
    let running = ask(&control.client())?;
    let config = load(file_of(&running).as_deref())?;
    Ok((config, running))
}

/// The file that the agent reads; `None` if no agent answers, or it has none.
fn file_of(running: &Running) -> Option<PathBuf> {
    match running {
        Running::Agent(status) => status.agent.config.as_ref().map(PathBuf::from),
        Running::None | Running::Hidden => None,
    }
}

fn ask(client: &Client) -> Result<Running, Failure> {
    Ok(match wait_for(client.read(&Command::Status))? {
        Ok(status) => Running::Agent(Box::new(status)),
        Err(CallError::Unreachable { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            Running::Hidden
        }
        Err(_) => Running::None,
    })
}
