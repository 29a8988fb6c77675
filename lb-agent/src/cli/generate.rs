//! `lb-agent generate`: manual pages, shell completions and the schema of configurations, for packages.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::failure::Failure;
use super::{Cli, man, output};

/// Write manual pages, shell completions and the schema of configurations
#[derive(Debug, Args)]
#[command(hide = true)]
pub(super) struct Generate {
    /// Directory to write them to; it is made if need be
    directory: PathBuf,
}

impl Generate {
    pub(super) fn carry_out(&self) -> Result<(), Failure> {
        let failed = |error| {
            let directory = self.directory.display();
            Failure::failed(format!("write to {directory}: {error}"))
        };
        let mut command = Cli::command();
        let pages = self.directory.join("man");
        let completions = self.directory.join("completions");
        for directory in [&pages, &completions] {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        man::write_all(&pages).map_err(failed)?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut command, "lb-agent", &completions)
                .map_err(failed)?;
        }
        let schema = self.directory.join("config.schema.json");
        fs::write(schema, lb_config::json_schema()).map_err(failed)?;
        output::line(&format!("written to {}", self.directory.display()))
    }
}
