//! `cargo xtask bench nat`: what it costs to get to a backend behind this host by the `nat` path, by
//! nftables, and by routing alone.

mod net;
mod report;

use super::scratch::{Scratch, sweep};
use super::wrk::{self, CONNECTIONS, INTERRUPTED, Kind};
use crate::build::{self, Profile};
use crate::sh::{find_program, is_root, say};
use crate::{host, packages};
use anyhow::{Context, Result, ensure};
use net::Net;
use report::Series;
use std::sync::atomic::Ordering;

/// Arguments of `cargo xtask bench nat`.
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
    /// Only these ways, for example `direct,nftables,tc`
    #[arg(
        long,
        value_delimiter = ',',
        default_values = ["direct", "nftables", "tc", "xdp", "wire"]
    )]
    ways: Vec<Way>,
}

/// A way from the client to a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Way {
    /// To the backend's own address, by a host that only routes
    Direct,
    /// To the host between, which has a rule of nftables (DNAT)
    Nftables,
    /// To the host between, which has lb-agent behind the driver (TC)
    Tc,
    /// To the host between, which has lb-agent at the driver (XDP)
    Xdp,
    /// To the backend's own address, by a wire without a host between
    Wire,
}

impl Way {
    /// All of them, in the order of the table.
    const ALL: [Self; 5] = [
        Self::Direct,
        Self::Nftables,
        Self::Tc,
        Self::Xdp,
        Self::Wire,
    ];

    /// Its name in tables, JSON, and of its host.
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nftables => "nftables",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::Wire => "wire",
        }
    }

    /// The number of its networks.
    fn number(self) -> u8 {
        self as u8 + 1
    }

    /// Whether lb-agent is on it.
    fn has_agent(self) -> bool {
        matches!(self, Self::Tc | Self::Xdp)
    }
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
    let net = Net::start(&scratch, &args.ways)?;
    let mut all = Vec::new();
    for kind in Kind::ALL {
        all.extend(rounds(&net, kind, args)?);
    }
    drop(net);
    if args.json {
        println!("{:#}", report::json(&all, args.seconds, CONNECTIONS));
    } else {
        println!("{}", report::table(&all, args.seconds, CONNECTIONS));
    }
    Ok(())
}

/// Builds and installs what the ways need.
fn prepare(ways: &[Way]) -> Result<()> {
    if ways.iter().any(|way| way.has_agent()) {
        build::build(Profile::Dist)?;
        host::mount_bpffs()?;
    }
    let needed = [
        ("ip", "iproute2"),
        ("wrk", "wrk"),
        ("nginx", "nginx"),
        ("nft", "nftables"),
        ("ethtool", "ethtool"),
    ];
    let missing = |&(program, package): &(&str, &'static str)| {
        find_program(program).is_none().then_some(package)
    };
    let packages: Vec<&str> = needed.iter().filter_map(missing).collect();
    if packages.is_empty() {
        return Ok(());
    }
    packages::ensure_without_services(&packages, "the benchmark", &["nginx", "nftables"])
}

/// All rounds of one kind. Each starts with another way, so that none is always the first after
/// a pause.
fn rounds(net: &Net, kind: Kind, args: &Args) -> Result<Vec<Series>> {
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
        measure(net, series.way, kind, 1)?;
    }
    let ways = all.len();
    for round in 0..args.rounds as usize {
        for turn in 0..ways {
            let series = &mut all[(round + turn) % ways];
            let reading = measure(net, series.way, kind, args.seconds)?;
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

/// Lets the client ask for some seconds.
fn measure(net: &Net, way: Way, kind: Kind, seconds: u32) -> Result<wrk::Reading> {
    let mut load = net.client("wrk");
    load.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")]);
    if kind == Kind::PerRequest {
        load.args(["-H", "Connection: close"]);
    }
    load.arg(format!("http://{}/", net::target(way)));
    let text = wrk::run(load)?;
    wrk::parse(&text).with_context(|| format!("wrk to {} said:\n{text}", way.name()))
}
