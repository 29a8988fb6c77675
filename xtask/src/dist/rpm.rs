//! An RPM, by cargo-generate-rpm. Its contents are listed in `lb-agent/Cargo.toml`.

use super::{directory, ensure_cargo_command};
use crate::sh::{self, CommandExt};
use crate::target::Target;
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// Makes the package of the built files.
pub(crate) fn rpm(version: &str, target: Target) -> Result<PathBuf> {
    ensure_cargo_command("cargo-generate-rpm", "^0.21")?;
    let processor = target.processor;
    let package = directory().join(format!("lb-agent-{version}-1.{processor}.rpm"));
    Command::new(sh::cargo())
        .current_dir(sh::workspace())
        // The dependencies are listed by hand. Detected ones would follow this machine's libraries.
        .args([
            "generate-rpm",
            "--package",
            "lb-agent",
            "--auto-req",
            "disabled",
        ])
        .args(["--arch", processor])
        .args(["--set-metadata", &format!("version = \"{version}\"")])
        .arg("--output")
        .arg(&package)
        .run_shown()?;
    Ok(package)
}
