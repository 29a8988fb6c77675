//! The processors whose kernels are booted.

use std::env;

/// How a machine of one kind is called and emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arch {
    /// Debian's name.
    pub(super) debian: &'static str,
    /// The emulator, and the package that has it.
    pub(super) qemu: &'static str,
    pub(super) qemu_package: &'static str,
    /// What the emulator is told beside memory and files.
    pub(super) machine: &'static [&'static str],
    /// The kernel's name of the serial line.
    pub(super) console: &'static str,
}

pub(super) const AMD64: Arch = Arch {
    debian: "amd64",
    qemu: "qemu-system-x86_64",
    qemu_package: "qemu-system-x86",
    // Five-level page tables make later kernels panic at times under older emulators.
    machine: &["-cpu", "max,la57=off"],
    console: "ttyS0",
};

pub(super) const ARM64: Arch = Arch {
    debian: "arm64",
    qemu: "qemu-system-aarch64",
    qemu_package: "qemu-system-arm",
    machine: &["-M", "virt", "-cpu", "max,pauth-impdef=on"],
    console: "ttyAMA0",
};

/// That of this machine.
pub(super) fn own() -> Option<Arch> {
    match env::consts::ARCH {
        "x86_64" => Some(AMD64),
        "aarch64" => Some(ARM64),
        _ => None,
    }
}
