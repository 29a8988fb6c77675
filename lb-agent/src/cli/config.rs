//! `lb-agent config`: the content of a configuration, and the schema of all.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::running::Chosen;
use super::{Control, output};
use lb_config::Show as Keys;

/// Show a configuration with its defaults, or the schema of configurations
///
/// "lb-agent config show" prints a configuration in its normal form, and with --effective every default too.
/// "lb-agent config schema" prints a JSON schema, by which editors complete and check a file.
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
/// Without --effective only keys with another value than their default are printed. The output has the key of the hash
/// in it, which is a secret. A comment names the file of the running agent.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent config show --effective")]
struct Show {
    /// Configuration [default: the file of the running agent, else /etc/lb-agent/config.toml]
    file: Option<PathBuf>,
    /// Print every key that has a value, defaults included
    #[arg(long)]
    effective: bool,
}

impl Config {
    pub(super) fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        match &self.what {
            What::Schema => output::text(&lb_config::json_schema()),
            What::Show(show) => show.carry_out(control),
        }
    }
}

impl Show {
    fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        let keys = if self.effective {
            Keys::Effective
        } else {
            Keys::Changed
        };
        let chosen = Chosen::new(self.file.as_deref(), control)?;
        let shown = lb_config::show(chosen.path(), keys);
        let text = shown.map_err(|error| {
            let lines = error.to_string();
            Failure::of_lines(lines.lines().map(str::to_owned).collect())
        })?;
        match &chosen {
            Chosen::Running(_) => output::text(&format!("# {chosen}\n\n{text}")),
            Chosen::Named(_) | Chosen::Usual => output::text(&text),
        }
    }
}
