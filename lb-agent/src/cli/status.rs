//! `lb-agent status`: services, backends and the agent, as a table or as JSON.

use clap::Args;

use super::failure::Failure;
use super::output::Look;
use super::{Control, output, status_table, wait_for};
use crate::control::message::Command;

/// Show services, backends and connections
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent status --json | jq '.services[].backends[].active'")]
pub(super) struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        let client = control.client();
        if self.json {
            let text = wait_for(client.text(&Command::Status))?
                .map_err(|error| Failure::of_call("status", error))?;
            return output::text(&text);
        }
        let status = wait_for(client.read(&Command::Status))?
            .map_err(|error| Failure::of_call("status", error))?;
        output::text(&status_table::render(&status, Look::of_stdout()))
    }
}
