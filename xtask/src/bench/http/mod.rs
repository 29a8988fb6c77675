//! `cargo xtask bench http`: lb-agent, nginx and HAProxy as reverse proxies, h2o, Caddy and Varnish for files and
//! stored answers beside them, in rounds in which they take turns.
//!
//! | module | owns |
//! | --- | --- |
//! | `ports`, `peers`, `config`, `pages`, `place`, `proxies` | the programs |
//! | `measure`, `figure`, `shape` | what is measured, and by which requests |
//! | `check`, `answer` | whether each proxy does it |
//! | `load`, `script`, `process` | load, and what it costs the proxy |
//! | `report` | table and JSON |

mod answer;
mod check;
mod config;
mod figure;
mod load;
mod measure;
mod pages;
mod peers;
mod place;
mod ports;
mod process;
mod proxies;
mod report;
mod script;
mod shape;

use super::figures::turns;
use super::net::Net;
use super::setup::{self, Options};
use crate::build::{self, Profile};
use crate::sh::say;
use anyhow::{Context, Result};
use check::Check;
use clap::ValueEnum;
use figure::Reading;
use load::Target;
use measure::{Amount, Measure, Prepared};
use peers::Peers;
use ports::Proxy;
use proxies::Proxies;
use report::Results;
use std::path::{Path, PathBuf};

/// All proxies, as `--proxies` names them.
const ALL: [&str; 6] = ["nginx", "haproxy", "h2o", "varnish", "caddy", "agent"];

/// Arguments of `cargo xtask bench http`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    options: Options,
    /// Only see that it works: one round of a second, a thousand idle connections
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Only these, for example `keep-alive64,messages`
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Only these proxies
    #[arg(long, value_delimiter = ',', default_values = ALL)]
    proxies: Vec<Proxy>,
    /// A root directory with another nginx and HAProxy, such as `debootstrap sid DIR` makes
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
}

/// Measures and prints.
pub(super) fn bench(args: &Args) -> Result<()> {
    setup::ensure_root()?;
    let peers = Peers::new(args.peers.as_deref())?;
    let (measures, order) = (args.measures(), args.order());
    prepare(&peers, &order)?;
    let scratch = setup::begin()?;
    let net = Net::pair(&scratch.name)?;
    let versions = order.iter().map(|proxy| {
        let version = peers.version(*proxy)?;
        Ok((*proxy, version))
    });
    let versions = versions.collect::<Result<_>>()?;
    let (rounds, amount) = args.amount();
    let mut run = Run {
        net: &net,
        dir: &scratch.dir,
        proxies: Proxies::start(&net, &scratch.dir, &peers, &order)?,
        order: &order,
        rounds,
        amount,
        results: Results::new(versions),
    };
    for measure in measures {
        run.measure(measure)?;
    }
    let results = run.results;
    args.options.print(
        || results.json(amount.seconds),
        || results.table(rounds, amount.seconds),
    );
    Ok(())
}

impl Args {
    /// The measurements to make, in their order.
    fn measures(&self) -> Vec<Measure> {
        let all = Measure::value_variants().iter().copied();
        all.filter(|measure| self.only.is_empty() || self.only.contains(measure))
            .collect()
    }

    /// The proxies that one of them is of.
    fn order(&self) -> Vec<Proxy> {
        let measures = self.measures();
        let proxies = self.proxies.iter().copied();
        proxies
            .filter(|proxy| measures.iter().any(|measure| measure.is_done_by(*proxy)))
            .collect()
    }

    /// Rounds, and how much each is.
    fn amount(&self) -> (u32, Amount) {
        if self.quick {
            let amount = Amount {
                seconds: 1,
                idle_sockets: 1000,
            };
            return (1, amount);
        }
        let amount = Amount {
            seconds: self.options.seconds,
            // Each takes two files, and others are open too.
            idle_sockets: (place::open_files() / 2 - 100).min(10_000),
        };
        (self.options.rounds, amount)
    }
}

/// The benchmark under way.
struct Run<'a> {
    net: &'a Net,
    dir: &'a Path,
    proxies: Proxies<'a>,
    /// The proxies that take turns.
    order: &'a [Proxy],
    rounds: u32,
    amount: Amount,
    results: Results,
}

impl Run<'_> {
    /// All rounds of one measurement.
    fn measure(&mut self, measure: Measure) -> Result<()> {
        let order = self.order.iter().copied();
        let order: Vec<Proxy> = order.filter(|proxy| measure.is_done_by(*proxy)).collect();
        let mut prepared = Vec::new();
        for &proxy in &order {
            let ready = self.prepare(measure, proxy);
            prepared.push(ready.with_context(|| format!("{}, {}", proxy.name(), measure.name()))?);
        }
        let rounds = if measure.is_of_memory() {
            1
        } else {
            self.rounds
        };
        for (round, turn) in turns(rounds, order.len()) {
            let proxy = order[turn];
            let reading = self.take(&prepared[turn], proxy, self.amount.seconds);
            let reading =
                reading.with_context(|| format!("{}, {}", proxy.name(), measure.name()))?;
            let figures = reading.figures.iter();
            let figures: Vec<String> = figures
                .map(|(unit, value)| format!("{value:.2} {}", unit.name()))
                .collect();
            say(format!(
                "{}, round {round} of {rounds}, {}: {}",
                measure.name(),
                proxy.name(),
                figures.join("; ")
            ));
            self.results.add(measure, proxy, reading);
        }
        Ok(())
    }

    /// Sees that a proxy does what is measured, and warms it up.
    fn prepare(&mut self, measure: Measure, proxy: Proxy) -> Result<Prepared> {
        if measure.is_of_memory() {
            self.proxies.restart(proxy)?;
        }
        let check = Check {
            net: self.net,
            proxy,
            dir: self.dir,
        };
        let prepared = measure.prepare(&check)?;
        if !measure.is_of_memory() {
            self.take(&prepared, proxy, 1)?;
        }
        Ok(prepared)
    }

    fn take(&self, prepared: &Prepared, proxy: Proxy, seconds: u32) -> Result<Reading> {
        let target = Target {
            net: self.net,
            proxy,
            pid: self.proxies.pid(proxy)?,
            seconds,
        };
        prepared.take(&target, self.amount.idle_sockets)
    }
}

/// Builds and installs what is needed.
fn prepare(peers: &Peers, proxies: &[Proxy]) -> Result<()> {
    setup::build_agent()?;
    build::package(Profile::Dist, "lb-load")?;
    let mut needed = vec![
        ("ip", "iproute2"),
        ("wrk", "wrk"),
        ("h2load", "nghttp2-client"),
        ("gzip", "gzip"),
        // The backends are nginx in any case.
        ("nginx", "nginx"),
        ("openssl", "openssl"),
        ("taskset", "util-linux"),
    ];
    let programs = proxies.iter().flat_map(|proxy| proxy.programs());
    needed.extend(programs.filter(|(name, _)| !peers.has(name)));
    setup::install(&setup::missing(&needed), &SERVICES)
}

/// Services of the packages of the peers.
const SERVICES: [&str; 6] = ["nginx", "haproxy", "h2o", "varnish", "varnishncsa", "caddy"];
