//! `cargo xtask bench nat`: what it costs to get to a backend behind this host by the `nat` path, by
//! nftables, and by routing alone.

mod net;
mod report;
mod servers;

use super::net::CLIENT_HOST;
use super::requests::{Path, Requests};
use super::setup::{self, Options};
use super::wrk::{self, Kind};
use anyhow::Result;
use servers::{Servers, target};

/// Arguments of `cargo xtask bench nat`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    options: Options,
    /// Only these ways, for example `direct,nftables,tc`
    #[arg(
        long,
        value_delimiter = ',',
        default_values = ["direct", "nftables", "tc", "xdp", "wire"]
    )]
    ways: Vec<Way>,
}

/// A way from the client to a backend, in the order of the table.
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
    /// The number of its networks.
    fn number(self) -> u8 {
        self as u8 + 1
    }

    /// Whether lb-agent is on it.
    fn has_agent(self) -> bool {
        matches!(self, Self::Tc | Self::Xdp)
    }
}

impl Path for Way {
    /// Also the name of its host.
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nftables => "nftables",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::Wire => "wire",
        }
    }
}

/// Comparisons, by their keys in JSON.
const RATIOS: [(&str, Way); 2] = [
    ("ratio_to_direct", Way::Direct),
    ("ratio_to_nftables", Way::Nftables),
];

/// Measures and prints.
pub(super) fn bench(args: &Args) -> Result<()> {
    setup::ensure_root()?;
    prepare(&args.ways)?;
    let scratch = setup::begin()?;
    let net = net::hosts(&scratch.name, &args.ways)?;
    let servers = Servers::start(&net, &scratch.dir, &args.ways)?;
    let mut all = Requests::new();
    for kind in Kind::ALL {
        all.measure(kind, &args.ways, &args.options, |way, seconds| {
            let (address, port) = target(way);
            let url = format!("http://{address}:{port}/");
            wrk::measure(net.command(CLIENT_HOST, "wrk"), kind, seconds, &url)
        })?;
    }
    drop(servers);
    let seconds = args.options.seconds;
    args.options.print(
        || all.json(seconds, "way", &RATIOS),
        || report::table(&all, seconds),
    );
    Ok(())
}

/// Builds and installs what the ways need.
fn prepare(ways: &[Way]) -> Result<()> {
    if ways.iter().any(|way| way.has_agent()) {
        setup::build_agent()?;
    }
    let packages = setup::missing(&[
        ("ip", "iproute2"),
        ("wrk", "wrk"),
        ("nginx", "nginx"),
        ("nft", "nftables"),
        ("ethtool", "ethtool"),
    ]);
    setup::install(&packages, &["nginx", "nftables"])
}
