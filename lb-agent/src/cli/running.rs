//! The agent that runs, and the configuration that it reads.

use std::path::{Path, PathBuf};
use std::{fmt, io};

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

/// A configuration file, and the reason for its choice.
pub(super) enum Chosen {
    /// The user named it.
    Named(PathBuf),
    /// The running agent reads it.
    Running(PathBuf),
    /// Neither: the usual one.
    Usual,
}

impl Chosen {
    /// The file at `named`, else that of the running agent, else the usual one.
    pub(super) fn new(named: Option<&Path>, control: &Control) -> Result<Self, Failure> {
        if let Some(path) = named {
            return Ok(Self::Named(path.to_owned()));
        }
        let running = ask(&control.client())?;
        Ok(file_of(&running).map_or(Self::Usual, Self::Running))
    }

    /// The file; `None` for the usual one, which may be absent.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Named(path) | Self::Running(path) => Some(path),
            Self::Usual => None,
        }
    }
}

/// The file, if the user did not name it.
impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(_) => Ok(()),
            Self::Running(path) => write!(f, "{}, the file of the running agent", path.display()),
            Self::Usual => f.write_str(lb_config::DEFAULT_FILE),
        }
    }
}

/// The file that the agent reads; `None` if no agent answers, or it has none.
pub(super) fn file_of(running: &Running) -> Option<PathBuf> {
    match running {
        Running::Agent(status) => status.agent.config.as_ref().map(PathBuf::from),
        Running::None | Running::Hidden => None,
    }
}

/// The agent at the socket of `client`.
pub(super) fn ask(client: &Client) -> Result<Running, Failure> {
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
