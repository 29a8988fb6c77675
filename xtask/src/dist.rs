//! `cargo xtask dist`: a Debian package with everything in it.

use crate::build;
use crate::sh::{self, CommandExt, find_program, say};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Version of the package; that of the program if left out
    #[arg(long, value_name = "VERSION")]
    deb_version: Option<String>,
}

/// What a package is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// As small as it can be.
    Release,
    /// Made quickly.
    Test,
}

/// `cargo xtask dist`
pub(crate) fn dist(args: &Args) -> Result<()> {
    build::build()?;
    let package = package(args.deb_version.as_deref(), Care::Release)?;
    say(format!("made {}", package.display()));
    Ok(())
}

/// Where packages and what is in them go.
pub(crate) fn directory() -> PathBuf {
    sh::workspace().join("target/dist")
}

/// Makes a package of what `cargo xtask build` has made.
pub(crate) fn package(version: Option<&str>, care: Care) -> Result<PathBuf> {
    ensure_cargo_deb()?;
    let dir = directory();
    for part in ["man", "completions", "scripts"] {
        let _ = fs::remove_dir_all(dir.join(part));
    }
    Command::new(build::agent())
        .arg("generate")
        .arg(&dir)
        .run_shown()?;
    scripts(&dir.join("scripts"))?;
    let name = format!("lb-agent_{}.deb", version.unwrap_or("current"));
    let package = dir.join(name);
    let mut command = Command::new(sh::cargo());
    command
        .current_dir(sh::workspace())
        .args([
            "deb",
            "--package",
            "lb-agent",
            "--no-build",
            "--quiet",
            "--output",
        ])
        .arg(&package);
    if care == Care::Test {
        command.args(["--fast", "--no-strip"]);
    }
    if let Some(version) = version {
        command.args(["--deb-version", version]);
    }
    command.run_shown()?;
    Ok(package)
}

/// Maintainer scripts, and the unit with the place where packages put programs.
fn scripts(dir: &Path) -> Result<()> {
    let packaging = sh::workspace().join("packaging");
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    for name in ["postinst", "prerm", "postrm"] {
        let from = packaging.join("debian").join(name);
        fs::copy(&from, dir.join(name)).with_context(|| format!("copy {}", from.display()))?;
    }
    let unit = fs::read_to_string(packaging.join("lb-agent.service")).context("read the unit")?;
    fs::write(
        dir.join("service"),
        unit.replace("/usr/local/bin/", "/usr/bin/"),
    )
    .context("write the unit")
}

fn ensure_cargo_deb() -> Result<()> {
    if find_program("cargo-deb").is_some() {
        return Ok(());
    }
    say("installing cargo-deb (about a minute)");
    Command::new(sh::cargo())
        .current_dir("/")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .args(["install", "cargo-deb", "--version", "^3", "--locked"])
        .run_shown()?;
    if find_program("cargo-deb").is_none() {
        bail!("cargo-deb is installed, but not where cargo puts programs");
    }
    Ok(())
}
