//! `lb-agent reload`: the agent reads its configuration again.

use clap::Args;

use super::Control;
use super::failure::Failure;
use crate::control::message::Command;

/// Have the agent read its configuration again
///
/// A configuration with problems changes nothing. What was changed at run time stays.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent reload")]
pub(super) struct Reload {}

impl Reload {
    pub(super) fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        control.change("reload", &Command::Reload)
    }
}
