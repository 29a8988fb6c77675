//! The command line: one file for each command, and the only code that prints.
//!
//! Reading commands (`status`, `lookup`, `check`) have nouns for output, or JSON. Changing commands
//! print one line about the change. Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 agent
//! not reachable.

mod add_backend;
mod ban;
mod bans;
mod cache;
mod check;
mod completions;
mod config;
mod decap;
mod doctor;
mod drain_backend;
mod drain_wait;
mod failure;
mod generate;
mod import;
mod journal;
mod log;
mod lookup;
mod man;
mod output;
mod plan;
mod purge;
mod reload;
mod remove_backend;
mod reset_backend;
mod run;
mod running;
mod stats;
mod status;
mod status_table;
mod stop;
mod top;
mod upgrade;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::control::client::Client;
use crate::control::message::{Command as Request, Part};
use failure::Failure;
use lb_config::http::Cidr;
use lb_config::value::{self, BadValue};
use lb_config::{BackendAddress, DEFAULT_CONTROL};

/// A sticky load balancer that lets the kernel do the work.
#[derive(Debug, Parser)]
#[command(name = "lb-agent", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    control: Control,
    #[command(subcommand)]
    command: Command,
}

/// The environment variable that stands for `--service`.
const SERVICE: &str = "LB_SERVICE";

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 no agent answers
Example: lb-agent add-backend 127.0.0.1:5000";

#[derive(Debug, clap::Args)]
struct Control {
    /// Control socket of the agent [default: /run/lb-agent/control.sock]
    #[arg(
        long = "control",
        value_name = "PATH",
        global = true,
        env = "LB_AGENT_CONTROL"
    )]
    path: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Config(config::Config),
    Plan(plan::Plan),
    Reload(reload::Reload),
    AddBackend(add_backend::AddBackend),
    RemoveBackend(remove_backend::RemoveBackend),
    DrainBackend(drain_backend::DrainBackend),
    ResetBackend(reset_backend::ResetBackend),
    Ban(ban::Ban),
    Unban(ban::Unban),
    Bans(bans::Bans),
    Status(status::Status),
    Stats(stats::Stats),
    Top(top::Top),
    Doctor(doctor::Doctor),
    Generate(generate::Generate),
    Import(import::Import),
    Lookup(lookup::Lookup),
    Cache(cache::Cache),
    Purge(purge::Purge),
    Stop(stop::Stop),
    Upgrade(upgrade::Upgrade),
    Decap(decap::DecapCommand),
    Man(man::Print),
    Completions(completions::Completions),
}

impl Control {
    /// A caller of the agent that is meant.
    fn client(&self) -> Client {
        self.client_or(Path::new(DEFAULT_CONTROL))
    }

    /// The same, with another socket for when none was named.
    fn client_or(&self, usual: &Path) -> Client {
        Client::new(self.path.as_deref().unwrap_or(usual))
    }

    /// Has the agent make a change, and prints its answer. `tried` is the name of the command.
    fn change(&self, tried: &str, request: &Request) -> Result<(), Failure> {
        let message = wait_for(self.client().change(request))?
            .map_err(|error| Failure::of_call(tried, error))?;
        output::line(&message)
    }
}

/// Carries out the command in `args`, the name of the program first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let outcome = match Cli::try_parse_from(args) {
        Ok(cli) => carry_out(cli),
        Err(error) => misunderstood(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn carry_out(Cli { control, command }: Cli) -> Result<(), Failure> {
    match command {
        Command::Run(run) => run.carry_out(control),
        Command::Check(check) => check.carry_out(&control),
        Command::Config(config) => config.carry_out(&control),
        Command::Plan(plan) => plan.carry_out(&control),
        Command::Reload(reload) => reload.carry_out(&control),
        Command::AddBackend(add) => add.carry_out(&control),
        Command::RemoveBackend(remove) => remove.carry_out(&control),
        Command::DrainBackend(drain) => drain.carry_out(&control),
        Command::ResetBackend(reset) => reset.carry_out(&control),
        Command::Ban(ban) => ban.carry_out(&control),
        Command::Unban(unban) => unban.carry_out(&control),
        Command::Bans(bans) => bans.carry_out(&control),
        Command::Status(status) => status.carry_out(&control),
        Command::Stats(stats) => stats.carry_out(&control),
        Command::Top(top) => top.carry_out(&control),
        Command::Doctor(doctor) => doctor.carry_out(&control),
        Command::Man(print) => print.carry_out(),
        Command::Completions(completions) => completions.carry_out(),
        Command::Generate(generate) => generate.carry_out(),
        Command::Import(import) => import.carry_out(),
        Command::Lookup(lookup) => lookup.carry_out(&control),
        Command::Cache(cache) => cache.carry_out(&control),
        Command::Purge(purge) => purge.carry_out(&control),
        Command::Stop(stop) => stop.carry_out(&control),
        Command::Upgrade(upgrade) => upgrade.carry_out(&control),
        Command::Decap(decap) => decap.carry_out(),
    }
}

/// Help and versions are no mistakes; everything else is told in one line, like any other error.
fn misunderstood(error: clap::Error) -> Result<(), Failure> {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => output::text(&text),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Err(Failure::shown(failure::USAGE))
        }
        ErrorKind::ValueValidation => Err(Failure::usage(message_of(&text))),
        _ => Err(Failure::usage(format!(
            "{} (see \"lb-agent --help\")",
            message_of(&text)
        ))),
    }
}

/// The paragraphs of clap's message in one line, without its advice to ask for help.
fn message_of(text: &str) -> String {
    let told = |line: &&str| {
        !line.is_empty() && !line.starts_with("For more information") && !line.starts_with("Usage:")
    };
    let mut message = String::new();
    for line in text.lines().map(str::trim).filter(told) {
        if !message.is_empty() {
            message.push_str(if message.ends_with(':') { " " } else { ", " });
        }
        message.push_str(line.trim_start_matches("error: "));
    }
    message
}

/// Runs a call to the agent.
fn wait_for<F: Future>(call: F) -> Result<F::Output, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(call))
        .map_err(|error| Failure::failed(format!("start: {error}")))
}

fn backend_address(text: &str) -> Result<BackendAddress, BadValue> {
    text.parse()
}

fn client_address(text: &str) -> Result<IpAddr, BadValue> {
    value::client_address(text)
}

fn service_name(text: &str) -> Result<String, BadValue> {
    value::any_service_name(text)
}

fn duration(text: &str) -> Result<Duration, BadValue> {
    value::duration(text)
}

fn prefix(text: &str) -> Result<Cidr, BadValue> {
    text.parse()
}

fn percent(text: &str) -> Result<Part, BadValue> {
    value::percent(text).map(Part)
}

fn weight(text: &str) -> Result<u16, BadValue> {
    match text.parse() {
        Ok(number) => value::weight(number),
        Err(_) => Err(BadValue {
            problem: format!("{} is not a weight", value::quoted(text)),
            remedy: "use 1 to 65535".to_owned(),
        }),
    }
}

#[cfg(test)]
mod pages;
