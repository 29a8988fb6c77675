//! `lb-agent completions`: what a shell needs to complete the command line.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::failure::Failure;
use super::{Cli, output};

/// Print completions for a shell
///
/// Packages install them. Otherwise the output goes where the shell looks for it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: lb-agent completions bash | sudo tee /usr/share/bash-completion/completions/lb-agent"
)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub(super) fn carry_out(&self) -> Result<(), Failure> {
        output::text(&script(self.shell)?)
    }
}

fn script(shell: Shell) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lb-agent", &mut bytes);
    String::from_utf8(bytes).map_err(|error| Failure::failed(format!("completions: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell).unwrap();
            assert!(script.contains("add-backend"), "{shell}");
        }
    }
}
