//! `cargo xtask dist`: packages for users without a compiler, as a Debian package, an RPM, and an
//! archive with an installer.
//!
//! All three are made of the same files, which `files` puts together.

mod archive;
mod deb;
mod files;
mod rpm;

use crate::build::{self, Profile};
use crate::setup;
use crate::sh::{self, CommandExt, find_program, say};
use crate::target::{Arch, Target};
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::Command;

pub(crate) use archive::archive;
pub(crate) use deb::deb;
pub(crate) use files::files;
pub(crate) use rpm::rpm;

/// Arguments of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Version of the packages; that of the program if left out
    #[arg(long, value_name = "VERSION")]
    package_version: Option<String>,
    /// Package the programs that are already built
    #[arg(long)]
    no_build: bool,
    /// The processor of the packages, this machine's if left out
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
}

/// `cargo xtask dist`
pub(crate) fn dist(args: &Args) -> Result<()> {
    let target = Target::of(args.arch);
    if !args.no_build {
        build::build_for(Profile::Dist, target)?;
    }
    setup::ensure_emulator(target)?;
    let version = args.package_version.as_deref().unwrap_or(VERSION);
    files(Profile::Dist, target)?;
    for package in [
        archive(version, target)?,
        deb(version, Profile::Dist, target)?,
        rpm(version, target)?,
    ] {
        say(format!("made {}", package.display()));
    }
    let debug = files::debug_information(target);
    say(format!("debug information is in {}", debug.display()));
    Ok(())
}

/// The version of the program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The directory for packages and their contents.
pub(crate) fn directory() -> PathBuf {
    sh::workspace().join("target/packages")
}

/// Installs a cargo subcommand from crates.io, if it is missing.
fn ensure_cargo_command(name: &str, version: &str) -> Result<()> {
    if find_program(name).is_some() {
        return Ok(());
    }
    say(format!("installing {name} (about a minute)"));
    Command::new(sh::cargo())
        .current_dir("/")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .args(["install", name, "--version", version, "--locked"])
        .run_shown()?;
    if find_program(name).is_none() {
        bail!("{name} is installed, but not where cargo puts programs");
    }
    Ok(())
}
