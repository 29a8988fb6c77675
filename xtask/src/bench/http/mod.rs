//! `cargo xtask bench http`: lb-agent, nginx and HAProxy as reverse proxies, in rounds in which
//! they take turns.
//!
//! `config` and `proxies` are the programs, `measure` what is measured of them, `report` the medians.

mod config;
mod measure;
mod proxies;
mod report;

use super::net::Net;
use super::scratch::{Scratch, sweep};
use super::wrk::INTERRUPTED;
use crate::build::{self, Profile};
use crate::sh::{find_program, is_root, say};
use crate::{host, packages};
use anyhow::{Context, Result, ensure};
use measure::{Amount, Measure};
use proxies::{Proxies, Proxy};
use report::Results;
use std::sync::atomic::Ordering;

/// Arguments of `cargo xtask bench http`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print JSON, with every round
    #[arg(long)]
    json: bool,
    /// Rounds that count; one more comes first and does not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds for each proxy in each round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only see that it works: one round of a second, a thousand idle WebSockets
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Only these, for example `keep-alive64,messages`
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Only these proxies
    #[arg(long, value_delimiter = ',', default_values = ["nginx", "haproxy", "agent"])]
    proxies: Vec<Proxy>,
}

/// Measures and prints.
pub(super) fn bench(args: &Args) -> Result<()> {
    ensure!(
        is_root(),
        "making network namespaces takes root: run this as root"
    );
    prepare()?;
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .context("listen to Ctrl-C")?;
    sweep();
    let scratch = Scratch::new()?;
    let net = Net::new(scratch.name.clone())?;
    let proxies = Proxies::start(&net, &scratch.dir, &args.proxies)?;
    let (rounds, amount) = if args.quick {
        let amount = Amount {
            seconds: 1,
            idle_sockets: 1000,
        };
        (1, amount)
    } else {
        let amount = Amount {
            seconds: args.seconds,
            // Each takes two files, and others are open too.
            idle_sockets: (proxies::open_files() / 2 - 100).min(10_000),
        };
        (args.rounds, amount)
    };
    let mut results = Results::default();
    for measure in Measure::ALL {
        if args.only.is_empty() || args.only.contains(&measure) {
            let rounds = if measure.repeats() { rounds } else { 1 };
            run(&net, &proxies, measure, args, rounds, amount, &mut results)?;
        }
    }
    drop(proxies);
    if args.json {
        println!("{:#}", results.json(amount.seconds));
    } else {
        println!("{}", results.table(rounds, amount.seconds));
    }
    Ok(())
}

/// All rounds of one measurement. Each starts with another proxy, so that none is always the first
/// after a pause.
fn run(
    net: &Net,
    proxies: &Proxies<'_>,
    measure: Measure,
    args: &Args,
    rounds: u32,
    amount: Amount,
    results: &mut Results,
) -> Result<()> {
    if measure.repeats() {
        let short = Amount {
            seconds: 1,
            ..amount
        };
        for &proxy in &args.proxies {
            measure
                .take(net, proxies, proxy, short)
                .with_context(|| format!("{}, {}", proxy.name(), measure.name()))?;
        }
    }
    for round in 0..rounds as usize {
        for turn in 0..args.proxies.len() {
            let proxy = args.proxies[(round + turn) % args.proxies.len()];
            let reading = measure
                .take(net, proxies, proxy, amount)
                .with_context(|| format!("{}, {}", proxy.name(), measure.name()))?;
            let figures: Vec<String> = reading
                .figures
                .iter()
                .map(|(unit, value)| format!("{value:.2} {}", unit.name()))
                .collect();
            say(format!(
                "{}, round {} of {rounds}, {}: {}",
                measure.name(),
                round + 1,
                proxy.name(),
                figures.join("; ")
            ));
            results.add(measure, proxy, reading.figures, reading.errors);
        }
    }
    Ok(())
}

/// Builds and installs what is needed.
fn prepare() -> Result<()> {
    build::build(Profile::Dist)?;
    build::package(Profile::Dist, "lb-load")?;
    host::mount_bpffs()?;
    let needed = [
        ("ip", "iproute2"),
        ("wrk", "wrk"),
        ("nginx", "nginx"),
        ("haproxy", "haproxy"),
        ("openssl", "openssl"),
        ("taskset", "util-linux"),
    ];
    let packages: Vec<&str> = needed
        .into_iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| package)
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    packages::ensure_without_services(&packages, "the benchmark", &["nginx", "haproxy"])
}
