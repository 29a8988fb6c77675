//! `lb-agent reset-backend`: a backend is as the configuration says.

use clap::Args;

use super::Control;
use super::failure::Failure;
use crate::control::message::Command;
use lb_config::BackendAddress;

/// Forget what was changed at run time for a backend
///
/// A backend of the file is in service again, with the weight in the file. A backend that is not in the file is
/// removed at once.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent reset-backend 127.0.0.1:5001")]
pub(super) struct ResetBackend {
    /// Address of the application
    #[arg(value_name = "ADDR", value_parser = super::backend_address)]
    address: BackendAddress,
    /// Service of the backend [default: the only one with changes of it]
    #[arg(long, value_name = "NAME", env = super::SERVICE, value_parser = super::service_name)]
    service: Option<String>,
}

impl ResetBackend {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let Self { address, service } = self;
        let command = Command::ResetBackend { address, service };
        control.change("reset-backend", &command)
    }
}
