//! Runs other programs. Each command is shown first, and an error names it.

use crate::machine::Machine;
use anyhow::{Context, Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Prints a message about the next step on standard error: standard output is for results.
pub(crate) fn say(message: impl AsRef<str>) {
    eprintln!("xtask: {}", message.as_ref());
}

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

/// The directory that cargo builds into for the host.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(
        || workspace().join("target"),
        |dir| workspace().join(PathBuf::from(dir)),
    )
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> PathBuf {
    Machine::this().cargo
}

/// Whether this program runs as root.
pub(crate) fn is_root() -> bool {
    Machine::this().root
}

/// Looks for an executable in `PATH`, then in the usual directories and in cargo's.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    Machine::this().find(name)
}

/// Ways to run a command.
pub(crate) trait CommandExt {
    /// Shows the command, runs it, and fails unless it succeeds.
    fn run_shown(&mut self) -> Result<()>;
    /// The command's standard output; an error holds its standard error.
    fn read(&mut self) -> Result<String>;
}

impl CommandExt for Command {
    fn run_shown(&mut self) -> Result<()> {
        say(show(self));
        let status = self
            .status()
            .with_context(|| format!("run {}", show(self)))?;
        if !status.success() {
            bail!("{} failed ({status})", brief(self));
        }
        Ok(())
    }

    fn read(&mut self) -> Result<String> {
        let output = self
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {}", show(self)))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("{} failed ({}): {}", show(self), output.status, why.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The command as a user would type it, with the environment that was set for it.
fn show(command: &Command) -> String {
    let vars = command.get_envs().filter_map(|(name, value)| {
        let value = value?.to_string_lossy();
        Some(format!("{}={}", name.to_string_lossy(), quote(&value)))
    });
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quote(&word.to_string_lossy()));
    vars.chain(words).collect::<Vec<_>>().join(" ")
}

/// The program and its task, short as the whole command was just shown.
fn brief(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy();
    let verb = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .find(|word| is_verb(word));
    format!("{name} {}", verb.unwrap_or_default())
        .trim_end()
        .to_owned()
}

fn is_verb(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Quotes a word for a shell, if it has to be.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:+,@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_pasted_into_a_shell() {
        let mut command = Command::new("cargo");
        command.env("RUSTFLAGS", "--cfg it='s'").args(["build", ""]);
        assert_eq!(
            show(&command),
            r"RUSTFLAGS='--cfg it='\''s'\''' cargo build ''"
        );
    }

    #[test]
    fn a_failure_names_the_program_and_its_verb() {
        let mut command = Command::new("/opt/bin/cargo");
        assert_eq!(
            brief(command.args(["-q", "build", "--release"])),
            "cargo build"
        );
        assert_eq!(brief(&Command::new("false")), "false");
    }

    #[test]
    fn an_error_names_the_command_and_what_it_said() {
        let error = Command::new("sh")
            .args(["-c", "echo no such thing >&2; exit 3"])
            .read()
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("exit 3") && text.contains("no such thing"),
            "{text}"
        );
    }
}
