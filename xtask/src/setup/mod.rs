//! Installs the tools that the eBPF programs need. They are a compiler with the sources of `core`
//! (`compiler`), and a bpf-linker for its LLVM (`linker`, `release`).
//!
//! `cross` installs the tools for programs of another processor.
//!
//! Each tool has several sources, which are tried in turn. A source that fails says why in a line.
//! If none is left, all these lines are repeated, with the steps to do by hand.

mod compiler;
mod cross;
mod linker;
mod release;
#[cfg(test)]
mod standin;
#[cfg(test)]
mod tests;

use crate::host;
use crate::machine::Machine;
use crate::packages::Packages;
use crate::sh::{is_root, say};
use crate::target::{Arch, Target};
use crate::toolchain::{self, Toolchain};
use anyhow::{Result, anyhow};
use compiler::Way;

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also install the tools that build for this processor, and run its programs
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
}

/// `cargo xtask setup`
pub(crate) fn setup(args: &Args) -> Result<()> {
    let toolchain = ensure_toolchain()?;
    say(format!("eBPF: {toolchain}"));
    let target = Target::of(args.arch);
    ensure_cross(target)?;
    ensure_emulator(target)?;
    if is_root() {
        host::mount_bpffs()?;
    }
    say(format!(
        "all there; the eBPF object goes to {}",
        target.bpf_object().display()
    ));
    Ok(())
}

/// The toolchain for eBPF; it is installed first if it is missing.
pub(crate) fn ensure_toolchain() -> Result<Toolchain> {
    Setup::new(&Machine::this()).ensure_toolchain()
}

/// Installs the tools that build programs for `target`, if they are missing.
pub(crate) fn ensure_cross(target: Target) -> Result<()> {
    cross::ensure(&Machine::this(), target)
}

/// Installs the emulator that runs programs for `target` on this machine.
pub(crate) fn ensure_emulator(target: Target) -> Result<()> {
    cross::ensure_emulator(&Machine::this(), target)
}

/// An attempt to set a machine up.
struct Setup<'a> {
    machine: &'a Machine,
    packages: Option<Packages<'a>>,
    /// The reason of each attempt that failed.
    failures: Vec<String>,
    /// LLVM versions without an available linker.
    unlinkable: Vec<u32>,
}

impl<'a> Setup<'a> {
    fn new(machine: &'a Machine) -> Self {
        Self {
            machine,
            packages: Packages::of(machine),
            failures: Vec::new(),
            unlinkable: Vec::new(),
        }
    }

    fn ensure_toolchain(mut self) -> Result<Toolchain> {
        if let Some(found) = toolchain::find(self.machine) {
            return Ok(found);
        }
        for way in Way::ALL {
            if let Err(error) = self.get_compiler(way) {
                self.failed(way.name(), &error);
                continue;
            }
            if let Some(found) = self.link() {
                return Ok(found);
            }
        }
        Err(anyhow!("{}", self.instructions()))
    }

    /// Gets a linker for any of the installed compilers.
    fn link(&mut self) -> Option<Toolchain> {
        for compiler in toolchain::compilers(self.machine).collect::<Vec<_>>() {
            let llvm = compiler.llvm;
            if self.unlinkable.contains(&llvm) {
                continue;
            }
            self.get_linker(llvm);
            if let Some(found) = toolchain::find(self.machine) {
                return Some(found);
            }
            self.unlinkable.push(llvm);
        }
        None
    }

    fn failed(&mut self, what: &str, error: &anyhow::Error) {
        let failure = format!("{what}: {error:#}");
        say(&failure);
        self.failures.push(failure);
    }

    /// The failed attempts, and the steps to do by hand.
    fn instructions(&self) -> String {
        let tried: String = self
            .failures
            .iter()
            .map(|failure| format!("  - {failure}\n"))
            .collect();
        format!(
            "no toolchain for eBPF could be found or installed:\n{tried}\
             Mend one of these, or install by hand a rustc with its sources and a bpf-linker:\n  \
             rustup toolchain install nightly --profile minimal --component rust-src\n  \
             {}",
            release::by_hand(std::env::consts::ARCH)
        )
    }
}
