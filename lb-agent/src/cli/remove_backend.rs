//! `lb-agent remove-backend`: a backend gets nothing from now on.

use clap::Args;

use super::Control;
use super::failure::Failure;
use crate::control::message::Command;
use lb_config::BackendAddress;

/// Remove a backend at once
///
/// Its clients go elsewhere with their next connection. To let them finish first, see
/// drain-backend.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent remove-backend 127.0.0.1:5001")]
pub(super) struct RemoveBackend {
    /// Address of the application
    #[arg(value_name = "ADDR", value_parser = super::backend_address)]
    address: BackendAddress,
    /// Service that has it [default: the only one that does]
    #[arg(long, value_name = "NAME", env = super::SERVICE, value_parser = super::service_name)]
    service: Option<String>,
}

impl RemoveBackend {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let Self { address, service } = self;
        control.change(
            "remove-backend",
            &Command::RemoveBackend { address, service },
        )
    }
}
