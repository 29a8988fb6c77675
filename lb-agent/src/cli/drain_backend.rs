//! `lb-agent drain-backend`: a backend gets no new clients, and loses those it has in good order.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::failure::Failure;
use super::{Control, drain_wait, output, wait_for};
use crate::control::message::Command;
use crate::state::overlay;
use lb_config::BackendAddress;

/// Give a backend no new clients; let the known ones stay for a while
///
/// When the time is over it gets nothing any more. add-backend puts it back in service, at any time.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent drain-backend 127.0.0.1:5001 --timeout 10m --wait")]
pub(super) struct DrainBackend {
    /// Address of the application
    #[arg(value_name = "ADDR", value_parser = super::backend_address)]
    address: BackendAddress,
    /// Service that has it [default: the only one that does]
    #[arg(long, value_name = "NAME", env = super::SERVICE, value_parser = super::service_name)]
    service: Option<String>,
    /// How long the known clients may stay, as in "90s" or "1h30m" [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    timeout: Option<Duration>,
    /// Wait until no connection is left or the time is over, and count down. At the end the known
    /// clients go elsewhere, too, and the application can be stopped unnoticed. Exits with 1 if
    /// connections are left
    #[arg(long)]
    wait: bool,
    /// Treatment of open connections at the end
    #[arg(long, value_enum, default_value_t = AtEnd::Leave, value_name = "TREATMENT")]
    at_end: AtEnd,
    /// Let the known clients move at once, not at the end: with their next connection
    #[arg(long)]
    now: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AtEnd {
    /// clients move, open connections go on
    Leave,
    /// clients move, open connections are closed
    Close,
    /// clients stay
    Keep,
}

impl From<AtEnd> for overlay::AtEnd {
    fn from(at_end: AtEnd) -> Self {
        match at_end {
            AtEnd::Leave => Self::Leave,
            AtEnd::Close => Self::Close,
            AtEnd::Keep => Self::Keep,
        }
    }
}

impl DrainBackend {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let command = Command::DrainBackend {
            address: self.address.clone(),
            service: self.service.clone(),
            timeout: self.timeout,
            at_end: self.at_end.into(),
            now: self.now,
        };
        let message = wait_for(control.client().change(&command))?
            .map_err(|error| Failure::of_call("drain-backend", error))?;
        if !self.wait {
            return if self.json {
                output::line(&json!({ "message": message }).to_string())
            } else {
                output::line(&message)
            };
        }
        if !self.json {
            output::line(&message)?;
        }
        let drained = drain_wait::Drained {
            client: control.client(),
            address: self.address,
            service: self.service,
            json: self.json,
            closes: matches!(self.at_end, AtEnd::Close),
        };
        wait_for(drained.wait())?
    }
}
