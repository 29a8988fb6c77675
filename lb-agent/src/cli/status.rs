//! `lb-agent status`: services, backends and the agent, as a table or as JSON.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;

use super::failure::Failure;
use super::output::Look;
use super::{Control, output, status_table, wait_for};
use crate::control::client::{CallError, Client};
use crate::control::message::Command;
use crate::control::status;

/// Moves the cursor to the top left corner and clears the screen (ECMA-48, CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show services, backends and connections
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent status --json | jq '.services[].backends[].active'")]
pub(super) struct Status {
    /// Print JSON; with --watch, a line each time
    #[arg(long)]
    json: bool,
    /// Repeat, until interrupted
    #[arg(long)]
    watch: bool,
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "watch",
          value_parser = super::duration)]
    interval: Duration,
}

impl Status {
    pub(super) fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        let client = control.client();
        if self.watch {
            return wait_for(self.go_on(&client))?;
        }
        if self.json {
            let text = wait_for(client.text(&Command::Status))?.map_err(failed)?;
            return output::text(&text);
        }
        let status = wait_for(client.read(&Command::Status))?.map_err(failed)?;
        output::text(&status_table::render(&status, Look::of_stdout()))
    }

    async fn go_on(&self, client: &Client) -> Result<(), Failure> {
        let clear = io::stdout().is_terminal() && !self.json;
        let mut ticks = tokio::time::interval(self.interval.max(Duration::from_millis(100)));
        loop {
            ticks.tick().await;
            let status: status::Status = client.read(&Command::Status).await.map_err(failed)?;
            let page = if self.json {
                serde_json::to_string(&status)
                    .map_err(|error| Failure::failed(format!("status: {error}")))?
            } else {
                status_table::render(&status, Look::of_stdout())
            };
            let before = if clear { CLEAR } else { "" };
            if !output::goes_on(&format!("{before}{page}\n"))? {
                return Ok(());
            }
        }
    }
}

fn failed(error: CallError) -> Failure {
    Failure::of_call("status", error)
}
