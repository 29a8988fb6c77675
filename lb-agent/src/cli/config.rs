//! `lb-agent config`: the content of a configuration, and the schema of all.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::output;
use lb_config::Show as Keys;

/// Show a configuration with its defaults, or the schema of configurations
///
/// "config show [FILE]" prints a configuration in its normal form, with --effective every default filled in.
/// "config schema" prints a JSON schema for editors.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent config show --effective")]
pub(super) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Show(Show),
    /// Print the JSON schema of configurations, for editors
    #[command(after_help = "Example: lb-agent config schema > lb-agent.schema.json")]
    Schema,
}

/// Print a configuration in its normal form
///
/// Without --effective only keys with another value than their default are printed. The key of the hash is printed too.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent config show --effective")]
struct Show {
    /// Configuration [default: /etc/lb-agent/config.toml]
    file: Option<PathBuf>,
    /// Print every key that has a value, defaults included
    #[arg(long)]
    effective: bool,
}

impl Config {
    pub(super) fn carry_out(&self) -> Result<(), Failure> {
        match &self.what {
            What::Schema => output::text(&lb_config::json_schema()),
            What::Show(show) => show.carry_out(),
        }
    }
}

impl Show {
    fn carry_out(&self) -> Result<(), Failure> {
        let keys = if self.effective {
            Keys::Effective
        } else {
            Keys::Changed
        };
        let shown = lb_config::show(self.file.as_deref(), keys);
        let text = shown.map_err(|error| {
            let lines = error.to_string();
            Failure::of_lines(lines.lines().map(str::to_owned).collect())
        })?;
        output::text(&text)
    }
}
