//! Agents that do nothing but be there: each on a host of its own, with its own state and pins.

use super::net::Net;
use super::programs::Programs;
use super::{agent, config};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Their hosts.
fn hosts(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("idle{number}"))
}

/// Makes hosts for `count` agents.
pub(super) fn add_hosts(net: &mut Net, count: u32) -> Result<()> {
    hosts(count).try_for_each(|host| net.add_host(&host))
}

/// Starts the agents with files in `dir`, attached to `cgroup`, and waits until each answers.
pub(super) fn start<'a>(
    net: &'a Net,
    dir: &'a Path,
    cgroup: &Path,
    count: u32,
) -> Result<Programs<'a>> {
    let mut agents = Programs::new(net, dir);
    for host in hosts(count) {
        let dir = dir.join(&host);
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let text = config::agent(&dir, &agents.pin_dir(&host), cgroup, "127.0.0.1");
        let file = agents.write(&format!("{host}.toml"), &text)?;
        agents.start(&host, agent::command(net, &host, &file))?;
    }
    for host in hosts(count) {
        agents.wait(&host, || agent::status(&dir.join(&host)).is_ok())?;
    }
    Ok(agents)
}
