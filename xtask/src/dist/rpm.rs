//! An RPM, by cargo-generate-rpm. What is in it is listed in `lb-agent/Cargo.toml`.

use super::{directory, ensure_cargo_command};
use crate::sh::{self, CommandExt};
use anyhow::Result;
use std::env::consts::ARCH;
use std::path::PathBuf;
use std::process::Command;

/// Makes it of the files that are there.
pub(crate) fn rpm(version: &str) -> Result<PathBuf> {
    ensure_cargo_command("cargo-generate-rpm", "^0.21")?;
    let package = directory().join(format!("lb-agent-{version}-1.{ARCH}.rpm"));
    Command::new(sh::cargo())
        .current_dir(sh::workspace())
        // What it needs is listed: found out, it would be what this machine has.
        .args([
            "generate-rpm",
            "--package",
            "lb-agent",
            "--auto-req",
            "disabled",
        ])
        .args(["--set-metadata", &format!("version = \"{version}\"")])
        .arg("--output")
        .arg(&package)
        .run_shown()?;
    Ok(package)
}
