//! The packages of a workspace, as `cargo metadata` knows them.

use super::shown;
use crate::sh::{self, CommandExt};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A package that is compiled, for a program or a test.
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// The licence expression of its manifest.
    pub(super) license: Option<String>,
    /// The source as in `registry+https://…`; `None` for a directory of this repository.
    pub(super) source: Option<String>,
}

/// The packages of the workspace of `manifest` that are compiled for `targets`.
pub(super) fn packages(manifest: &Path, targets: &[String]) -> Result<Vec<Package>> {
    let mut command = Command::new(sh::cargo());
    command
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--all-features",
        ])
        .arg("--manifest-path")
        .arg(manifest);
    for target in targets {
        command.args(["--filter-platform", target]);
    }
    let text = command.read()?;
    let document: Value = serde_json::from_str(&text).context("read cargo's metadata")?;
    let packages = document["packages"].as_array();
    let packages =
        packages.with_context(|| format!("cargo names no packages of {}", shown(manifest)))?;
    let text = |package: &Value, key: &str| package[key].as_str().map(str::to_owned);
    Ok(packages
        .iter()
        .map(|package| Package {
            name: text(package, "name").unwrap_or_default(),
            version: text(package, "version").unwrap_or_default(),
            license: text(package, "license"),
            source: text(package, "source"),
        })
        .collect())
}
