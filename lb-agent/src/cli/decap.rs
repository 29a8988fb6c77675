//! `lb-agent decap`: the receiving end of the `dsr` path, on a backend.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lb_common::decap::Outcome;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;
use super::{output, wait_for};
use crate::dataplane::bpf::decap::{self, Counts, Decap, DecapError, Mode, Settings};
use crate::errors::chain;
use lb_config::http::Cidr;
use lb_config::value::BadValue;

/// Take the wrapping off packets of the dsr path, on a backend
///
/// For backends without tunnel devices. An XDP program unwraps IPv4 and IPv6 in IPv4, IPv6 and GUE,
/// addressed to this host. It leaves everything else alone. The backend also needs the
/// service's address on a device without ARP: ip addr add ADDRESS/32 dev lo. Runs until it is
/// interrupted, or until --detach if --pin was given.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent decap --interface eth0 --from 10.0.0.0/24")]
pub(super) struct DecapCommand {
    /// Interface by which wrapped packets come
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// Balancers that may wrap; without, anybody may pretend to be any client
    #[arg(long, value_name = "CIDR", value_parser = block)]
    from: Vec<Cidr>,
    /// UDP port of GUE; 0 for no GUE
    #[arg(long, value_name = "PORT", default_value_t = 6080)]
    gue_port: u16,
    /// In the driver, or in the stack [default: the driver, if it can]
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeName>,
    /// Leave it attached and return; addresses that this host gets later are not known to it
    #[arg(long, conflicts_with_all = ["detach", "show"])]
    pin: bool,
    /// Detach a pinned program
    #[arg(long, conflicts_with_all = ["show", "from", "mode"])]
    detach: bool,
    /// Print the counters of a pinned program
    #[arg(long, conflicts_with_all = ["from", "mode"])]
    show: bool,
    /// With --show: print JSON
    #[arg(long, requires = "show")]
    json: bool,
    /// Directory of the pins, in a bpf file system
    #[arg(long, value_name = "DIR", default_value = decap::DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeName {
    Native,
    Generic,
}

fn block(text: &str) -> Result<Cidr, BadValue> {
    text.parse()
}

impl DecapCommand {
    pub(super) fn carry_out(&self) -> Result<(), Failure> {
        let interface = &self.interface;
        if self.detach {
            decap::detach(&self.pin_dir, interface).map_err(|error| failure(&error))?;
            return output::line(&format!("lb_decap is off {interface}"));
        }
        if self.show {
            let counts = decap::pinned_counts(&self.pin_dir, interface);
            return self.print(&counts.map_err(|error| failure(&error))?);
        }
        let settings = Settings {
            gue_port: (self.gue_port != 0).then_some(self.gue_port),
            from: self.from.iter().map(Cidr::prefix).collect(),
        };
        let mode = self.mode.map(|name| match name {
            ModeName::Native => Mode::Native,
            ModeName::Generic => Mode::Generic,
        });
        let decap = Decap::attach(interface, mode, &settings).map_err(|error| failure(&error))?;
        if let Some(error) = decap.not_native() {
            let why = chain(error);
            warn(&format!(
                "{why}; the stack does it, which takes more time per packet"
            ));
        }
        for note in decap.notes() {
            warn(note);
        }
        if self.from.is_empty() {
            warn("without --from, anybody who reaches this host may pretend to be any client");
        }
        let told = format!("lb_decap is on {interface}, {} mode", decap.mode().name());
        if self.pin {
            decap
                .pin(&self.pin_dir, interface)
                .map_err(|error| failure(&error))?;
            return output::line(&format!("{told}, until --detach"));
        }
        output::line(&told)?;
        wait_for(interrupted())?.map_err(|error| Failure::failed(format!("decap: {error}")))?;
        self.print(&decap.counts().map_err(|error| failure(&error))?)
    }

    fn print(&self, counts: &Counts) -> Result<(), Failure> {
        let count = |outcome: Outcome| counts[outcome as usize];
        let figures = [
            ("unwrapped", count(Outcome::Unwrapped)),
            ("not_wrapped", count(Outcome::NotWrapped)),
            ("other_host", count(Outcome::OtherHost)),
            ("refused", count(Outcome::Refused)),
            ("malformed", count(Outcome::Malformed)),
            ("failed", count(Outcome::Failed)),
        ];
        if self.json {
            let map: serde_json::Map<_, _> = figures
                .iter()
                .map(|(name, count)| ((*name).to_owned(), (*count).into()))
                .collect();
            return output::line(&serde_json::Value::Object(map).to_string());
        }
        let text = figures.map(|(name, count)| format!("{} {count}", name.replace('_', " ")));
        output::line(&format!("packets: {}", text.join(", ")))
    }
}

/// A line for the operator, beside the printed output.
fn warn(line: &str) {
    let _ = writeln!(std::io::stderr(), "lb-agent: decap: {line}");
}

async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn failure(error: &DecapError) -> Failure {
    let whole = chain(error);
    // A refused program comes with the verifier's log, which is for its authors.
    let text = whole
        .split_once("Verifier output:")
        .map_or(whole.as_str(), |(text, _)| {
            text.trim_end_matches([' ', '.'])
        });
    let root = rustix::process::geteuid().is_root();
    if !root && (text.contains("os error 1)") || text.contains("os error 13)")) {
        return Failure::failed(format!(
            "decap: {text} (run it as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)"
        ));
    }
    Failure::failed(format!("decap: {text}"))
}
