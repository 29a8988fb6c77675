//! Programs for another processor that the kernel starts under an emulator (`binfmt_misc`), so that whole
//! systems of that processor run below a directory.

use crate::packages;
use crate::sh::{CommandExt, say};
use crate::target::Target;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The kernel's directory of interpreters.
const KERNEL: &str = "/proc/sys/fs/binfmt_misc";

/// Has the kernel start programs for `target`. With systemd that happens as soon as the package of
/// the emulators is installed.
pub(super) fn ensure(target: Target) -> Result<()> {
    let entry = format!("qemu-{}", target.processor);
    let is_there = || Path::new(KERNEL).join(&entry).exists();
    if target.cross.is_none() || is_there() {
        return Ok(());
    }
    let program = format!("{entry}-static");
    packages::ensure_program(&program, "qemu-user-static", "systems of other processors")?;
    if is_there() {
        return Ok(());
    }
    say(format!("having the kernel start programs by {program}"));
    if !Path::new(KERNEL).join("register").exists() {
        Command::new("mount")
            .args(["-t", "binfmt_misc", "binfmt_misc", KERNEL])
            .run_shown()?;
    }
    let format = format!("/usr/lib/binfmt.d/{entry}.conf");
    let format = fs::read(&format).with_context(|| format!("read {format}"))?;
    fs::write(Path::new(KERNEL).join("register"), format).context("register an interpreter")?;
    ensure!(is_there(), "the kernel did not take {program}");
    Ok(())
}
