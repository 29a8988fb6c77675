//! Tools to build for another processor than this machine's. They are a C compiler with a C
//! library, and Rust's standard library. An emulator runs the programs.

use crate::machine::Machine;
use crate::packages::{Kind, Packages};
use crate::sh::{CommandExt, say};
use crate::target::{Cross, EMULATORS, Target};
use anyhow::{Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Installs the missing tools to build for `target`.
///
/// # Errors
/// Fails if the C compiler or the standard library cannot be had, and says why.
pub(super) fn ensure(machine: &Machine, target: Target) -> Result<()> {
    let Some(cross) = target.cross else {
        return Ok(());
    };
    let purpose = purpose(target);
    if machine.find(&target.tool("gcc")).is_none() {
        install(machine, &cross.packages, &purpose)?;
    }
    if has_standard_library(machine, cross) {
        return Ok(());
    }
    if is_rustups(machine) {
        add_by_rustup(machine, cross, &purpose)?;
    } else {
        add_by_apt(machine, target, &purpose)?;
    }
    let rustc = rustc(machine);
    ensure!(
        has_standard_library(machine, cross),
        "{} still has no standard library for {}",
        rustc.display(),
        cross.triple
    );
    Ok(())
}

/// Installs the emulator for `target`, if it is missing.
///
/// # Errors
/// Fails if there is no such package, or no right to install it.
pub(super) fn ensure_emulator(machine: &Machine, target: Target) -> Result<()> {
    match target.cross {
        Some(cross) if machine.find(cross.emulator).is_none() => {
            install(machine, &[EMULATORS], &purpose(target))
        }
        _ => Ok(()),
    }
}

/// The purpose of the packages, for messages.
fn purpose(target: Target) -> String {
    format!("programs for {}", target.debian)
}

fn install(machine: &Machine, names: &[&str], purpose: &str) -> Result<()> {
    match Packages::of(machine) {
        // Other managers have no packaged cross compiler with a C library.
        Some(packages) if packages.kind() == Kind::Apt => packages.ensure(names, purpose),
        _ => bail!(
            "{purpose} need what Debian has in: {}; please install it and run this again",
            names.join(" ")
        ),
    }
}

/// The compiler that cargo runs: the one in its directory.
fn rustc(machine: &Machine) -> PathBuf {
    let beside = machine.cargo.with_file_name("rustc");
    if beside.exists() {
        return beside;
    }
    machine.find("rustc").unwrap_or(beside)
}

fn has_standard_library(machine: &Machine, cross: &Cross) -> bool {
    let mut ask = machine.command(rustc(machine));
    ask.args(["--print", "target-libdir", "--target", cross.triple]);
    let Ok(directory) = ask.read() else {
        return false;
    };
    let entries = Path::new(directory.trim()).read_dir().into_iter().flatten();
    let is_library = |name: &str| name.starts_with("libstd-") && name.ends_with(".rlib");
    entries
        .flatten()
        .any(|entry| is_library(&entry.file_name().to_string_lossy()))
}

fn is_rustups(machine: &Machine) -> bool {
    rustc(machine).starts_with(&machine.rustup_home)
}

fn add_by_rustup(machine: &Machine, cross: &Cross, purpose: &str) -> Result<()> {
    let Some(rustup) = machine.find("rustup") else {
        bail!("{purpose} need rustup, whose compiler is in use");
    };
    say(format!(
        "getting the standard library from rustup, for {purpose}"
    ));
    machine
        .command(rustup)
        .args(["target", "add", cross.triple])
        .run_shown()
}

/// Debian's packages for the other processor. dpkg has to know its name first.
fn add_by_apt(machine: &Machine, target: Target, purpose: &str) -> Result<()> {
    let compiler = rustc(machine);
    let Some(packages) = Packages::of(machine).filter(|packages| packages.kind() == Kind::Apt)
    else {
        bail!(
            "{purpose} need a standard library for {} beside {}",
            target.processor,
            compiler.display()
        );
    };
    let names = ["libstd-rust-web-dev", "libstd-rust-dev"];
    let Some(name) = names.iter().find(|name| packages.is_installed(name)) else {
        bail!("{} is of none of Debian's packages", compiler.display());
    };
    let (name, arch) = (format!("{name}:{}", target.debian), target.debian);
    if !machine.root {
        bail!(
            "{purpose} need a package; please run\n  \
             sudo sh -c 'dpkg --add-architecture {arch} && apt-get update && \
             apt-get install -y --no-install-recommends {name}'\nand then this again"
        );
    }
    let dpkg = machine.find("dpkg").unwrap_or_else(|| "dpkg".into());
    let ask = machine
        .command(&dpkg)
        .arg("--print-foreign-architectures")
        .read()?;
    if !ask.lines().any(|line| line == arch) {
        machine
            .command(&dpkg)
            .args(["--add-architecture", arch])
            .run_shown()?;
        packages.refresh()?;
    }
    packages.ensure(&[&name], purpose)
}
