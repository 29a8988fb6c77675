//! The processors of the kernels that are booted.

use crate::target::{self, Target};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::env::consts;

/// The names and the emulator of one kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arch {
    /// The name on the command line.
    name: target::Arch,
    /// Debian's name, as in `arm64`.
    pub(super) debian: &'static str,
    /// The emulator, and the package that has it.
    pub(super) qemu: &'static str,
    pub(super) qemu_package: &'static str,
    /// Arguments of the emulator beside memory and files.
    pub(super) machine: &'static [&'static str],
    /// The kernel's name of the serial line.
    pub(super) console: &'static str,
    /// More parameters of the kernel.
    pub(super) parameters: &'static str,
    /// Debian's kernels for it: suffixes of the packages' names, and those on the command line.
    pub(super) flavours: &'static [(&'static str, &'static str)],
}

/// The suffix in the name of a kernel with pages of 16 KiB.
pub(super) const LARGE_PAGES: &str = "-16k";

pub(super) const AMD64: Arch = Arch {
    name: target::Arch::Amd64,
    debian: "amd64",
    qemu: "qemu-system-x86_64",
    qemu_package: "qemu-system-x86",
    // Five-level page tables make later kernels panic at times under older emulators.
    machine: &["-cpu", "max,la57=off"],
    console: "ttyS0",
    // A busy machine emulates too few ticks for the kernel's test of its timer, which then panics.
    parameters: "no_timer_check",
    flavours: &[("-cloud-amd64", "")],
};

pub(super) const ARM64: Arch = Arch {
    name: target::Arch::Arm64,
    debian: "arm64",
    qemu: "qemu-system-aarch64",
    qemu_package: "qemu-system-arm",
    machine: &["-M", "virt", "-cpu", "max,pauth-impdef=on"],
    console: "ttyAMA0",
    parameters: "",
    flavours: &[("-cloud-arm64", ""), ("-arm64-16k", LARGE_PAGES)],
};

impl Arch {
    /// The target that a guest's programs are built for.
    pub(super) fn target(self) -> Target {
        Target::of(Some(self.name))
    }
}

/// The processor of this machine.
pub(super) fn own() -> Option<Arch> {
    [AMD64, ARM64]
        .into_iter()
        .find(|arch| arch.target().processor == consts::ARCH)
}

/// The processor that the first word names, else this machine's; and the other words.
///
/// # Errors
/// Fails if none is named, and Debian has no kernels for this machine's.
pub(super) fn chosen(words: &[String]) -> Result<(Arch, &[String])> {
    if let Some((first, rest)) = words.split_first()
        && let Ok(name) = target::Arch::from_str(first, false)
    {
        let mut all = [AMD64, ARM64].into_iter();
        let arch = all.find(|arch| arch.name == name);
        return Ok((arch.context("a processor without an emulator")?, rest));
    }
    match own() {
        Some(arch) => Ok((arch, words)),
        None => bail!("Debian has no kernels for {}", consts::ARCH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_word_may_name_a_processor() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        let named = words("arm64 6.12 6.1");
        let (arch, rest) = chosen(&named).unwrap();
        assert_eq!((arch, rest), (ARM64, &named[1..]));
        let series = words("6.12 arm64");
        if let Some(own) = own() {
            assert_eq!(chosen(&series).unwrap(), (own, &series[..]));
            assert_eq!(chosen(&[]).unwrap(), (own, &[][..]));
        }
    }

    #[test]
    fn every_processor_has_the_target_of_its_debian_name() {
        for arch in [AMD64, ARM64] {
            assert_eq!(arch.target().debian, arch.debian);
        }
    }
}
