//! `lb-agent doctor`: what of this machine stands in lb-agent's way, and what to do about it.
//!
//! | file | looks at |
//! | --- | --- |
//! | `kernel` | version, programs and maps by trying them, mounts, privileges |
//! | `firewall` | rules that packets of the packet paths do not meet |
//! | `network` | sysctls, interfaces, who else is on a port or a hook |
//! | `files` | state directory, pins, clock, limits, the agent that runs |
//!
//! Everything here only looks: nothing is changed, and what is loaded to try it is gone at once.

mod ethtool;
mod files;
mod firewall;
mod kernel;
mod network;

use serde::Serialize;

use lb_config::Config;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Something works less well, or not at all that not everybody needs.
    Warning,
    /// lb-agent cannot serve like this.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub check: String,
    /// What was found.
    pub found: String,
    /// What to do about it; `None` when it is as it should be.
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
