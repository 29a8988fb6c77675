//! lb-agent as a program of a benchmark.

use super::net::Net;
use crate::build::{self, Profile};
use crate::sh::CommandExt;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The first lines of its configuration, with everything it keeps in places of this benchmark.
pub(super) fn settings(dir: &Path, pin_dir: &Path) -> String {
    format!(
        "[agent]\nstate_dir = {state:?}\ncontrol = {control:?}\npin_dir = {pin_dir:?}\n\
         data_plane = \"bpf\"\n",
        state = dir.join("state"),
        control = dir.join("control.sock"),
    )
}

/// The agent on a host, with the configuration of a file.
pub(super) fn command(net: &Net, host: &str, config: &Path) -> Command {
    let mut agent = net.command(host, build::agent(Profile::Dist));
    agent.arg("run").arg("--config").arg(config);
    agent
}

/// The status of the agent that keeps its files in `dir`.
pub(super) fn status(dir: &Path) -> Result<Value> {
    let status = Command::new(build::agent(Profile::Dist))
        .arg("--control")
        .arg(dir.join("control.sock"))
        .args(["status", "--json"])
        .read()?;
    serde_json::from_str(&status).context("read the status of lb-agent")
}

/// Fails unless all backends have this value in the status: another path would be another
/// measurement.
pub(super) fn ensure_backends(status: &Value, key: &str, value: &str) -> Result<()> {
    let backends = status["services"][0]["backends"].as_array();
    let backends = backends.context("no backends")?;
    ensure!(
        backends.iter().all(|backend| backend[key] == value),
        "lb-agent has backends whose {key} is not {value}: {backends:?}"
    );
    Ok(())
}
