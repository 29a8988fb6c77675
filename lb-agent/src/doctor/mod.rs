//! `lb-agent doctor`: obstacles to lb-agent on this machine, and their remedies.
//!
//! | file | looks at |
//! | --- | --- |
//! | `kernel` | version, programs and maps by trying them, mounts |
//! | `rights` | privileges, and the checks that need them |
//! | `firewall` | rules that packets of the packet paths do not meet |
//! | `network` | sysctls, interfaces, other users of a port or a hook |
//! | `files` | state directory, pins, clock, limits, the agent that runs |
//!
//! The checks change nothing: programs and maps loaded for a trial are gone at once.

mod ethtool;
mod files;
mod firewall;
mod kernel;
mod network;
mod rights;

use serde::Serialize;

use crate::control::status::Status;
use lb_config::Config;
use rights::Rights;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No problem found.
    Ok,
    /// Not looked at, for want of privileges.
    Skipped,
    /// A feature works less well, or a feature that not every site needs does not work.
    Warning,
    /// lb-agent cannot serve like this.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Severity of the finding.
    pub level: Level,
    /// Subject of the check.
    pub check: String,
    /// Result of the check.
    pub found: String,
    /// The remedy; `None` when there is no problem.
    pub remedy: Option<String>,
}

/// The agent that runs.
#[derive(Clone, Debug)]
pub enum Running {
    /// It answered.
    Agent(Box<Status>),
    /// None answers.
    None,
    /// The caller may not speak to it.
    Hidden,
}

impl Running {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Agent(status) => Some(status),
            Self::None | Self::Hidden => None,
        }
    }
}

impl Finding {
    /// The remedy for want of privileges.
    const AS_ROOT: &str = "run this as root: sudo lb-agent doctor";

    fn skipped(check: &str) -> Self {
        Self::bad(
            Level::Skipped,
            check,
            "not looked at, for want of privileges",
            Self::AS_ROOT,
        )
    }

    fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            check: check.into(),
            found: found.into(),
            remedy: None,
        }
    }

    fn bad(
        level: Level,
        check: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level,
            check: check.into(),
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn warning(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::bad(Level::Warning, check, found, remedy)
    }

    fn failure(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::bad(Level::Failure, check, found, remedy)
    }
}

/// Looks at everything that `config` needs, for the agent `running` with it. The order of the findings is fixed.
pub fn examine(config: &Config, running: &Running) -> Vec<Finding> {
    let rights = Rights::own();
    let findings = [
        kernel::examine(config, &rights),
        network::examine(config, &rights),
        vec![firewall::examine(config, &rights)],
        files::examine(config, running, &rights),
    ]
    .concat();
    let privileges = rights.finding(&findings);
    std::iter::once(privileges).chain(findings).collect()
}
