//! `cargo xtask bench`: what it costs, measured here and now.
//!
//! | module | owns |
//! | --- | --- |
//! | `socket`, `ways`, `servers`, `idle`, `cgroup`, `report` | `bench socket` |
//! | `nat`, `http` | `bench nat`, `bench http` |
//! | `setup`, `scratch` | options, root, packages, directory, output of these three |
//! | `net`, `programs`, `agent`, `config` | hosts, and programs on them |
//! | `wrk` | load |
//! | `figures`, `requests` | order of rounds, medians, ratios; JSON of `socket` and `nat` |
//! | `plot` | table and picture of the JSON of a run |
//!
//! `maglev` is criterion's affair, in lb-common, and `xdp` that of a program in lb-tests.

mod agent;
mod cgroup;
mod config;
mod figures;
mod http;
mod idle;
mod nat;
mod net;
mod plot;
mod programs;
mod report;
mod requests;
mod scratch;
mod servers;
mod setup;
mod socket;
mod ways;
mod wrk;

use crate::sh::{self, CommandExt};
use anyhow::Result;
use std::process::Command;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask bench socket --rounds 9 --json")]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Subcommand)]
enum Bench {
    /// Requests per second: direct, steered by lb-agent, nginx stream, HAProxy tcp; root
    ///
    /// One client host and one server host, as network namespaces of this machine. Load is wrk with
    /// one thread and 64 connections from one client address; as every path is sticky, one of the
    /// two single-process HTTP servers (nginx, an answer of two bytes) does the work on each of
    /// them. nginx and HAProxy balance with one process and one thread, by the client's address.
    /// All share the processors of this machine, so that what a path costs is missing from the
    /// requests. Paths take turns in rounds; the medians of the rounds, and of each round's ratio
    /// to direct, are printed.
    ///
    /// The agents' programs are attached to a cgroup made for the run, which the sockets of `direct`,
    /// nginx and HAProxy are not in: they are as on a machine without an agent. `beside` is direct, but
    /// in that cgroup. With `--agents N` there are N more agents, each on a host of its own.
    Socket(socket::Args),
    /// What HTTP costs: lb-agent, nginx and HAProxy as reverse proxies; root
    ///
    /// Hosts as for `socket`. Each proxy has one worker or thread, keeps connections to the backends,
    /// sets the same headers, writes an access log, and serves HTTPS with the same certificate. Where
    /// there are two processors, the proxies have one of them to themselves, clients and backends
    /// share the other. Requests come from wrk, those over HTTP/2 from h2load, handshakes and WebSockets
    /// from `load`. Before a measurement each proxy is asked once, and has to answer as it should. The proxies
    /// take turns in rounds; the medians of the rounds are printed, and the median of each round's
    /// ratio of lb-agent to the better of the other two.
    Http(http::Args),
    /// Requests per second to a backend behind this host: lb-agent `nat`, nftables, routing; root
    ///
    /// A client, a backend, and between them a host for each way, as network namespaces of this
    /// machine. `direct` is routed by such a host without rules, `wire` has none between. nftables
    /// and lb-agent (at TC, and at XDP on veth) rewrite the destination; connections that are over
    /// leave the tables of both after a second. Load and rounds are those of `socket`.
    Nat(nat::Args),
    /// Nanoseconds of `lb_xdp` for a packet, by path and case, net of an empty program; root
    ///
    /// Nothing is attached and no network is needed: packets are handed to the program one by one
    /// (BPF_PROG_TEST_RUN), and the kernel says what the runs took. Instruction counts are printed
    /// with it.
    Xdp {
        /// Rounds; the median is taken
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Table and picture of a run, from the JSON that it printed, for docs/performance.md
    ///
    /// Example: cargo xtask bench socket --json > run.json, then cargo xtask bench plot socket run.json
    Plot(plot::Args),
    /// Time to build a Maglev table (criterion)
    Maglev {
        /// Handed to criterion
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

/// Runs one benchmark.
pub(crate) fn bench(args: &Args) -> Result<()> {
    match &args.bench {
        Bench::Socket(args) => socket::bench(args),
        Bench::Http(args) => http::bench(args),
        Bench::Nat(args) => nat::bench(args),
        Bench::Xdp { rounds, json } => xdp(*rounds, *json),
        Bench::Plot(args) => plot::plot(args),
        Bench::Maglev { arguments } => maglev(arguments),
    }
}

fn xdp(rounds: u32, json: bool) -> Result<()> {
    crate::build::build_object()?;
    let mut cost = Command::new(sh::cargo());
    cost.current_dir(sh::workspace())
        .args(["run", "--quiet", "--release", "--package", "lb-tests"])
        .args(["--bin", "packet_cost", "--", &rounds.to_string()]);
    if json {
        cost.arg("json");
    }
    cost.run_shown()
}

fn maglev(arguments: &[String]) -> Result<()> {
    Command::new(sh::cargo())
        .current_dir(sh::workspace())
        .args(["bench", "--package", "lb-common", "--bench", "maglev", "--"])
        .args(arguments)
        .run_shown()
}
