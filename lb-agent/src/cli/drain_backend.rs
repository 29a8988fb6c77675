//! `lb-agent drain-backend`: a backend keeps the clients it has, for a while.

use std::time::Duration;

use clap::Args;

use super::Control;
use super::failure::Failure;
use crate::config::BackendAddress;
use crate::control::message::Command;

/// Give a backend no new clients; let the known ones stay for a while
///
/// When the time is over it gets nothing any more. add-backend puts it back in service.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent drain-backend 127.0.0.1:5001 --timeout 10m")]
pub(super) struct DrainBackend {
    /// Where the application listens
    #[arg(value_name = "ADDR", value_parser = super::backend_address)]
    address: BackendAddress,
    /// Service that has it; may be left out when there is only one
    #[arg(long, value_name = "NAME", value_parser = super::service_name)]
    service: Option<String>,
    /// How long the known clients may stay, as in "90s" or "1h30m" [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    timeout: Option<Duration>,
}

impl DrainBackend {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let Self {
            address,
            service,
            timeout,
        } = self;
        let command = Command::DrainBackend {
            address,
            service,
            timeout,
        };
        control.change("drain-backend", &command)
    }
}
