//! `lb-agent reload`: the agent reads its configuration again.

use clap::Args;

use super::Control;
use super::failure::Failure;
use super::plan::{Options, show};
use crate::control::message::Command;

/// Put the configuration file in force
///
/// A configuration with problems changes nothing. Changes made at run time stay, unless --forget-runtime ends them.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent reload --max-moved 5%")]
pub(super) struct Reload {
    /// Preview the changes, and make none
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    options: Options,
}

impl Reload {
    pub(super) fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        if self.dry_run {
            return show("reload --dry-run", control, None, &self.options);
        }
        if self.options.json {
            let remedy = "reload: --json is for --dry-run (leave it out)";
            return Err(Failure::usage(remedy));
        }
        let command = Command::Reload {
            max_moved: self.options.max_moved,
            forget_runtime: self.options.forget_runtime,
        };
        control.change("reload", &command)
    }
}
