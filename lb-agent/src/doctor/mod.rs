//! `lb-agent doctor`: obstacles to lb-agent on this machine, and their remedies.
//!
//! | file | looks at |
//! | --- | --- |
//! | `kernel` | version, programs and maps by trying them, mounts, privileges |
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

use serde::Serialize;

use lb_config::Config;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No problem found.
    Ok,
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

impl Finding {
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

/// Looks at everything that `config` needs.
pub fn examine(config: &Config) -> Vec<Finding> {
    [
        kernel::examine(config),
        network::examine(config),
        vec![firewall::examine(config)],
        files::examine(config),
    ]
    .concat()
}
