//! `cargo xtask dist`: a Debian package with everything in it.

use crate::build::{self, Profile};
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

/// `cargo xtask dist`
pub(crate) fn dist(args: &Args) -> Result<()> {
    build::build(Profile::Dist)?;
    let package = package(args.deb_version.as_deref(), Profile::Dist)?;
    say(format!("made {}", package.display()));
    Ok(())
}

/// Where packages and what is in them go.
pub(crate) fn directory() -> PathBuf {
    sh::workspace().join("target/packages")
}

/// Makes a package of what was built; that of [`Profile::Dist`] is as small as it can be, any other
/// is made quickly.
pub(crate) fn package(version: Option<&str>, profile: Profile) -> Result<PathBuf> {
    ensure_cargo_deb()?;
    let dir = directory();
    strip(&build::agent(profile), &dir)?;
    for part in ["man", "completions", "scripts"] {
        let _ = fs::remove_dir_all(dir.join(part));
    }
    Command::new(dir.join("lb-agent"))
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
            "--no-strip",
            "--quiet",
            "--output",
        ])
        .arg(&package);
    if profile != Profile::Dist {
        command.arg("--fast");
    }
    if let Some(version) = version {
        command.args(["--deb-version", version]);
    }
    command.run_shown()?;
    Ok(package)
}

/// Puts the program into `dir` without its debug information, which goes to a file beside it; the
/// program names that file, so that debuggers and `perf` find it.
fn strip(program: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let (stripped, debug) = (dir.join("lb-agent"), dir.join("lb-agent.debug"));
    let objcopy = |option: &str| {
        let mut command = Command::new("objcopy");
        // The link to the debug file is its name without a directory.
        command.current_dir(dir).arg(option);
        command
    };
    objcopy("--only-keep-debug")
        .args([program, &debug])
        .run_shown()?;
    objcopy("--strip-all")
        .arg("--add-gnu-debuglink=lb-agent.debug")
        .args([program, &stripped])
        .run_shown()
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
