//! `cargo xtask`: set up, build, run, test, bench, check and install lb-agent.
//!
//! Every command finds or installs the tools that it needs, and says so first. The second run finds
//! them in place. Nothing here depends on the agent's own crates, so that it compiles in seconds.

mod areas;
mod bench;
mod build;
mod deny;
mod dist;
mod docs;
mod host;
mod install;
mod lint;
mod machine;
mod packages;
mod run;
mod setup;
mod sh;
mod target;
mod test;
mod tidy;
mod toolchain;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Set up, build, run, test, bench, check and install lb-agent",
    after_help = "Example: cargo xtask run -- --config my.toml"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install the tools and packages that the build needs
    Setup(setup::Args),
    /// Compile the eBPF programs and the agent
    Build(build::Args),
    /// Build, then run the agent in the foreground
    Run(run::Args),
    /// Run the tests with all that they need: unit, bpf, e2e
    Test(test::Args),
    /// Measure, on hosts made for it: socket, maglev
    Bench(bench::Args),
    /// Check the rules of this repository that no compiler checks
    Tidy,
    /// Check the pages and build them as a book in HTML
    Docs,
    /// Install the program, its systemd unit and a first configuration
    Install(install::Args),
    /// Make a Debian package, an RPM, and an archive with an installer
    Dist(dist::Args),
    /// Check licences, sources and versions of the dependencies
    Deny,
    /// Clippy over every crate, the eBPF programs included, warnings as errors
    Clippy,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::setup(&args).map(success),
        Command::Build(args) => build::run(&args).map(success),
        Command::Run(args) => run::run(&args).map(success),
        Command::Test(args) => test::test(&args),
        Command::Bench(args) => bench::bench(&args).map(success),
        Command::Tidy => tidy::tidy().map(success),
        Command::Docs => docs::docs().map(success),
        Command::Install(args) => install::install(&args).map(success),
        Command::Dist(args) => dist::dist(&args).map(success),
        Command::Deny => deny::deny().map(success),
        Command::Clippy => lint::clippy().map(success),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn success((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
