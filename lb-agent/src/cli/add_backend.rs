//! `lb-agent add-backend`: one more backend, or one back in service.

use clap::Args;

use super::failure::Failure;
use super::{Control, output, wait_for};
use crate::config::BackendAddress;
use crate::control::client::CallError;
use crate::control::message::{Command, RefusalKind};

/// Add a backend, or put one back in service
///
/// New clients go to it as soon as the command returns; nobody who is known elsewhere is moved. It
/// is kept over restarts, until remove-backend.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent add-backend 127.0.0.1:5001 --weight 2")]
pub(super) struct AddBackend {
    /// Where the application listens
    #[arg(value_name = "ADDR", value_parser = super::backend_address)]
    address: BackendAddress,
    /// Service that gets it; may be left out when there is only one
    #[arg(long, value_name = "NAME", value_parser = super::service_name)]
    service: Option<String>,
    /// Its share in relation to the other backends [default: 1]
    #[arg(long, value_name = "N", value_parser = super::weight, allow_negative_numbers = true)]
    weight: Option<u16>,
    /// Do not complain when it is in service already
    #[arg(long)]
    ensure: bool,
}

impl AddBackend {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let Self {
            address,
            service,
            weight,
            ensure,
        } = self;
        let command = Command::AddBackend {
            address,
            service,
            weight,
        };
        let outcome = wait_for(control.client().change(&command))?;
        match outcome {
            Ok(message) => output::line(&message),
            // It is there as it was asked for: a script that starts it again is content.
            Err(CallError::Refused(refusal)) if ensure && refusal.kind == RefusalKind::Conflict => {
                output::line(&refusal.error)
            }
            Err(error) => Err(Failure::of_call("add-backend", error)),
        }
    }
}
