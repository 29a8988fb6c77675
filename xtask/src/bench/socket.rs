//! `cargo xtask bench socket`: rounds, in which the ways take turns.

use super::cgroup::{Cgroup, Cgroups};
use super::config::STREAM_MODULE;
use super::idle::IdleAgents;
use super::net::Net;
use super::report::{self, Series};
use super::scratch::{Scratch, sweep};
use super::servers::Servers;
use super::ways::Way;
use super::wrk::{self, INTERRUPTED, Kind};
use crate::build::{self, Profile};
use crate::sh::{find_program, is_root, say};
use crate::{host, packages};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

/// Arguments of `cargo xtask bench socket`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print JSON, with every round
    #[arg(long)]
    json: bool,
    /// Rounds that count; one more comes first and does not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds for each way in each round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only these ways, for example `direct,steered`
    #[arg(long, value_delimiter = ',', default_values = ["direct", "steered", "nginx", "haproxy"])]
    ways: Vec<Way>,
    /// Idle agents beside the one that steers, each on a host of its own
    #[arg(long, value_name = "N", default_value_t = 0)]
    agents: u32,
    /// Only with a connection for each request
    #[arg(long)]
    per_request: bool,
}

/// Measures and prints.
pub(super) fn bench(args: &Args) -> Result<()> {
    ensure!(
        is_root(),
        "making network namespaces takes root: run this as root"
    );
    prepare(&args.ways)?;
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .context("listen to Ctrl-C")?;
    sweep();
    let scratch = Scratch::new()?;
    let net = Net::new(scratch.name.clone())?;
    let cgroups = Cgroups::new(&scratch.name)?;
    let watched = cgroups.dir(Cgroup::Watched);
    let idle = IdleAgents::start(&scratch.name, &scratch.dir, watched, args.agents)?;
    let servers = Servers::start(&net, &cgroups, &scratch.dir, &args.ways)?;
    let mut all = Vec::new();
    for kind in Kind::ALL {
        if kind == Kind::PerRequest || !args.per_request {
            all.extend(rounds(&net, &cgroups, kind, args)?);
        }
    }
    drop((servers, idle));
    if args.json {
        println!("{:#}", report::json(&all, args.seconds));
    } else {
        println!("{}", report::table(&all, args.seconds));
    }
    Ok(())
}

/// Builds and installs what the ways need.
fn prepare(ways: &[Way]) -> Result<()> {
    if ways.iter().any(|way| way.has_agent()) {
        build::build(Profile::Dist)?;
        host::mount_bpffs()?;
    }
    let mut packages = Vec::new();
    for (program, package) in [("ip", "iproute2"), ("wrk", "wrk"), ("nginx", "nginx")] {
        packages.extend(find_program(program).is_none().then_some(package));
    }
    if ways.contains(&Way::Nginx) && !has_stream() {
        packages.push("libnginx-mod-stream");
    }
    if ways.contains(&Way::Haproxy) && find_program("haproxy").is_none() {
        packages.push("haproxy");
    }
    if packages.is_empty() {
        return Ok(());
    }
    packages::ensure_without_services(&packages, "the benchmark", &["nginx", "haproxy"])
}

/// Whether nginx has its stream module, as a file or built in.
fn has_stream() -> bool {
    let built_in = || {
        let output = Command::new("nginx").arg("-V").output();
        // It tells how it was built on standard error.
        output.is_ok_and(|output| {
            String::from_utf8_lossy(&output.stderr)
                .split(' ')
                .any(|word| word == "--with-stream")
        })
    };
    Path::new(STREAM_MODULE).exists() || built_in()
}

/// All rounds of one kind. Each starts with another way, so that none is always the first after
/// a pause.
fn rounds(net: &Net, cgroups: &Cgroups, kind: Kind, args: &Args) -> Result<Vec<Series>> {
    let mut all: Vec<Series> = args
        .ways
        .iter()
        .map(|&way| Series {
            way,
            kind,
            rounds: Vec::new(),
        })
        .collect();
    for series in &all {
        wrk::measure(net, cgroups, series.way, kind, 1)?;
    }
    let ways = all.len();
    for round in 0..args.rounds as usize {
        for turn in 0..ways {
            let series = &mut all[(round + turn) % ways];
            let reading = wrk::measure(net, cgroups, series.way, kind, args.seconds)?;
            say(format!(
                "{}, round {} of {}, {}: {:.0} requests/s",
                kind.name(),
                round + 1,
                args.rounds,
                series.way.name(),
                reading.requests_per_second
            ));
            series.rounds.push(reading);
        }
    }
    Ok(all)
}
