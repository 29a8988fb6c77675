//! `cargo xtask bench socket`: rounds, in which the ways take turns.

use super::cgroup::{Cgroup, Cgroups};
use super::config::STREAM_MODULE;
use super::idle;
use super::net::{CLIENT_HOST, Net, SERVER};
use super::report;
use super::requests::Requests;
use super::servers::Servers;
use super::setup::{self, Options};
use super::ways::Way;
use super::wrk::{self, Kind};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// Arguments of `cargo xtask bench socket`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    options: Options,
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
    setup::ensure_root()?;
    prepare(&args.ways)?;
    let scratch = setup::begin()?;
    let mut net = Net::pair(&scratch.name)?;
    idle::add_hosts(&mut net, args.agents)?;
    let cgroups = Cgroups::new(&scratch.name)?;
    let watched = cgroups.dir(Cgroup::Watched);
    let idle = idle::start(&net, &scratch.dir, watched, args.agents)?;
    let servers = Servers::start(&net, &cgroups, &scratch.dir, &args.ways)?;
    let mut all = Requests::new();
    for kind in Kind::ALL {
        if kind == Kind::PerRequest || !args.per_request {
            all.measure(kind, &args.ways, &args.options, |way, seconds| {
                let wrk = net.command(CLIENT_HOST, "wrk");
                let url = format!("http://{SERVER}:{}/", way.port());
                wrk::measure(cgroups.inside(way.cgroup(), &wrk), kind, seconds, &url)
            })?;
        }
    }
    drop((servers, idle));
    let seconds = args.options.seconds;
    args.options.print(
        || all.json(seconds, "path", &[("ratio_to_direct", Way::Direct)]),
        || report::table(&all, seconds),
    );
    Ok(())
}

/// Builds and installs what the ways need.
fn prepare(ways: &[Way]) -> Result<()> {
    if ways.iter().any(|way| way.has_agent()) {
        setup::build_agent()?;
    }
    let mut programs = vec![("ip", "iproute2"), ("wrk", "wrk"), ("nginx", "nginx")];
    if ways.contains(&Way::Haproxy) {
        programs.push(("haproxy", "haproxy"));
    }
    let mut packages = setup::missing(&programs);
    if ways.contains(&Way::Nginx) && !has_stream() {
        packages.push("libnginx-mod-stream");
    }
    setup::install(&packages, &["nginx", "haproxy"])
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
