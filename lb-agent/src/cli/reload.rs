//! `lb-agent reload`: the agent reads its configuration again.

use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use super::plan::{Options, show};
use super::{Control, running};
use crate::control::message::Command;

/// Put the configuration file in force
///
/// The agent reads the file that it was started with. A configuration with problems changes nothing. Changes made at
/// run time stay, unless --forget-runtime ends them. "lb-agent plan --config FILE" previews another file.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent reload --max-moved 5%")]
pub(super) struct Reload {
    /// Preview the changes, and make none
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    options: Options,
    /// Refused: the agent has its file from its start
    #[arg(value_name = "FILE", hide = true)]
    file: Option<PathBuf>,
    /// The same
    #[arg(long, value_name = "FILE", hide = true)]
    config: Option<PathBuf>,
}

impl Reload {
    pub(super) fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        if let Some(named) = self.file.as_ref().or(self.config.as_ref()) {
            let running = running::ask(&control.client())?;
            let file = running::file_of(&running);
            return Err(Failure::usage(another_file(named, file.as_deref())));
        }
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

/// The refusal to read the file `named` in place of the agent's own.
fn another_file(named: &Path, own: Option<&Path>) -> String {
    let own = own.unwrap_or(Path::new(lb_config::DEFAULT_FILE)).display();
    let named = named.display();
    format!(
        "reload: the agent reads the file that it was started with, {own} (change that file, or start the agent with \
         --config {named}; \"lb-agent plan --config {named}\" previews it)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_is_refused_with_the_ways_to_it() {
        let told = another_file(Path::new("new.toml"), Some(Path::new("/srv/lb.toml")));
        assert!(told.contains("started with, /srv/lb.toml ("), "{told}");
        assert!(
            told.contains("start the agent with --config new.toml"),
            "{told}"
        );
        let told = another_file(Path::new("new.toml"), None);
        assert!(told.contains(lb_config::DEFAULT_FILE), "{told}");
    }
}
