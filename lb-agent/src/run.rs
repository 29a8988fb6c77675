//! The life of the agent.

use std::path::PathBuf;

use crate::config::Config;

/// Runs the agent.
pub fn run(_config: Config, _config_path: Option<PathBuf>) -> anyhow::Result<()> {
    anyhow::bail!("no agent here")
}

/// Removes what an agent has left in the kernel.
pub fn purge(_config: &Config) -> anyhow::Result<bool> {
    Ok(false)
}
