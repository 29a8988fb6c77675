//! Start and end of every benchmark that makes hosts: options, programs, directory, output.

use super::scratch::{Scratch, sweep};
use super::wrk::INTERRUPTED;
use crate::build::{self, Profile};
use crate::sh::{find_program, is_root};
use crate::{host, packages};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::sync::atomic::Ordering;

#[derive(clap::Args)]
pub(super) struct Options {
    /// Print JSON, with every round
    #[arg(long)]
    json: bool,
    /// Rounds that count; one more comes first and does not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rounds: u32,
    /// Seconds for each way or proxy in each round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) seconds: u32,
}

impl Options {
    /// Prints results as JSON or as a table.
    pub(super) fn print(&self, json: impl FnOnce() -> Value, table: impl FnOnce() -> String) {
        if self.json {
            println!("{:#}", json());
        } else {
            println!("{}", table());
        }
    }
}

/// Fails without root, which network namespaces need.
pub(super) fn ensure_root() -> Result<()> {
    ensure!(
        is_root(),
        "making network namespaces takes root: run this as root"
    );
    Ok(())
}

/// Builds the agent, and mounts the file system of its pins.
pub(super) fn build_agent() -> Result<()> {
    build::build(Profile::Dist)?;
    host::mount_bpffs()
}

/// Packages of those programs that this machine does not have.
pub(super) fn missing(programs: &[(&str, &'static str)]) -> Vec<&'static str> {
    let missing = |(program, _): &&(&str, &'static str)| find_program(program).is_none();
    let missing = programs.iter().filter(missing);
    missing.map(|(_, package)| *package).collect()
}

/// Installs packages. Services that come with them are not started.
pub(super) fn install(packages: &[&str], services: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    packages::ensure_without_services(packages, "the benchmark", services)
}

/// Listens to Ctrl-C, cleans up after killed runs, and makes a directory for this one.
pub(super) fn begin() -> Result<Scratch> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .context("listen to Ctrl-C")?;
    sweep();
    Scratch::new()
}
