//! `cargo xtask clippy`: warnings are errors, in every crate.

use crate::packages;
use crate::setup;
use crate::sh::{self, CommandExt, is_root, say};
use crate::toolchain::Toolchain;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// `cargo xtask clippy`
pub(crate) fn clippy() -> Result<()> {
    let workspace = Command::new(sh::cargo())
        .current_dir(sh::workspace())
        .args(["clippy", "--workspace", "--all-targets", "--keep-going"])
        .args(["--", "-D", "warnings"])
        .run_shown();
    // Both run before an error is returned, so that one run shows all warnings.
    let ebpf = clippy_ebpf(&sh::workspace().join("lb-ebpf"));
    if let (Err(first), Err(second)) = (&workspace, &ebpf) {
        bail!("{first}, and {second}");
    }
    workspace.and(ebpf)
}

/// Lints the eBPF crate as a BPF program, if its compiler has a clippy. Otherwise it is linted as
/// the host program that it compiles to as well.
fn clippy_ebpf(crate_dir: &Path) -> Result<()> {
    let toolchain = setup::ensure_toolchain()?;
    let debians = toolchain.compiler.rustc.starts_with("/usr/bin");
    if toolchain.compiler.clippy_driver().is_none() && debians && is_root() {
        // The clippy of `rustc-web`; another compiler there has no clippy of its release.
        let installed = packages::ensure(&["rust-web-clippy"], "clippy over lb-ebpf");
        installed.unwrap_or_else(|error| say(format!("{error:#}")));
    }
    match toolchain.compiler.clippy_driver() {
        Some(driver) => clippy_for_bpf(&toolchain, &driver, crate_dir),
        None => clippy_for_host(crate_dir),
    }
}

/// The command that `cargo clippy` runs: `cargo check` with clippy in the place of the compiler.
fn clippy_for_bpf(toolchain: &Toolchain, driver: &Path, crate_dir: &Path) -> Result<()> {
    toolchain
        .cargo("check", crate_dir, std::env::consts::ARCH)
        .env("RUSTC_WORKSPACE_WRAPPER", driver)
        // The variable that takes arguments to clippy-driver past cargo.
        .env(
            "CLIPPY_ARGS",
            "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__",
        )
        .run_shown()
}

fn clippy_for_host(crate_dir: &Path) -> Result<()> {
    say("the compiler of lb-ebpf has no clippy: reading lb-ebpf as a host program");
    Command::new(sh::cargo())
        .current_dir(crate_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["clippy", "--release", "--", "-D", "warnings"])
        .run_shown()
}
