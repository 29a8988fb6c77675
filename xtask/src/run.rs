//! `cargo xtask run`: the agent in the foreground, from this checkout.

use crate::build::{self, Profile};
use crate::host;
use crate::sh::{is_root, say};
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Handed to `lb-agent run`, for example `-- --config my.toml`
    #[arg(last = true)]
    agent: Vec<String>,
}

/// Builds, then becomes the agent.
pub(crate) fn run(args: &Args) -> Result<()> {
    build::build(Profile::Release)?;
    let agent = build::agent(Profile::Release);
    if !is_root() {
        bail!(
            "serving ports and loading eBPF programs takes root; it is built, please run\n  \
             sudo {} run {}",
            agent.display(),
            args.agent.join(" ")
        );
    }
    host::mount_bpffs()?;
    say(format!(
        "starting {} run {}",
        agent.display(),
        args.agent.join(" ")
    ));
    let error = Command::new(&agent).arg("run").args(&args.agent).exec();
    Err(error).with_context(|| format!("start {}", agent.display()))
}
