//! The processors that lb-agent is built for: their names, and the tools that build for another one
//! than this machine's.

use crate::sh;
use std::env::consts;
use std::path::PathBuf;
use std::process::Command;

/// A processor on the command line, by Debian's name or Rust's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    /// 64-bit x86
    #[value(alias = "x86_64")]
    Amd64,
    /// 64-bit Arm
    #[value(alias = "aarch64")]
    Arm64,
}

/// The target that programs are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Rust's name of the processor, as in `aarch64`.
    pub(crate) processor: &'static str,
    /// Debian's name, as in `arm64`.
    pub(crate) debian: &'static str,
    /// The cross tools; `None` if programs are built for the processor of this machine.
    pub(crate) cross: Option<&'static Cross>,
}

/// The tools that build for another processor, and run its programs here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cross {
    /// Rust's name of the target.
    pub(crate) triple: &'static str,
    /// The prefix of the GNU tools' names.
    pub(crate) gnu: &'static str,
    /// The C compiler, and a C library with its headers.
    pub(crate) packages: [&'static str; 2],
    /// The emulator that runs programs of the other processor.
    pub(crate) emulator: &'static str,
}

/// The package of all [`Cross::emulator`]s.
pub(crate) const EMULATORS: &str = "qemu-user";

const CROSS_AMD64: Cross = Cross {
    triple: "x86_64-unknown-linux-gnu",
    gnu: "x86_64-linux-gnu",
    packages: ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
    emulator: "qemu-x86_64",
};

const CROSS_ARM64: Cross = Cross {
    triple: "aarch64-unknown-linux-gnu",
    gnu: "aarch64-linux-gnu",
    packages: ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    emulator: "qemu-aarch64",
};

impl Target {
    /// The processor of this machine.
    pub(crate) fn own() -> Self {
        Self::seen_from(consts::ARCH, None)
    }

    /// The target of `arch`; this machine's if it is `None`.
    pub(crate) fn of(arch: Option<Arch>) -> Self {
        Self::seen_from(consts::ARCH, arch)
    }

    /// The same on a machine with the processor `own`.
    fn seen_from(own: &'static str, arch: Option<Arch>) -> Self {
        let (processor, debian, cross) = match (arch, own) {
            (Some(Arch::Amd64), _) | (None, "x86_64") => ("x86_64", "amd64", Some(&CROSS_AMD64)),
            (Some(Arch::Arm64), _) | (None, "aarch64") => ("aarch64", "arm64", Some(&CROSS_ARM64)),
            (None, other) => (other, other, None),
        };
        Self {
            processor,
            debian,
            cross: cross.filter(|_| processor != own),
        }
    }

    /// The path of the eBPF object, which `lb-agent/build.rs` reads.
    pub(crate) fn bpf_object(self) -> PathBuf {
        let dir = sh::workspace().join("target/bpf");
        dir.join(self.processor).join("lb-ebpf.o")
    }

    /// The directory that cargo builds into for the target.
    pub(crate) fn directory(self) -> PathBuf {
        let dir = sh::target_dir();
        match self.cross {
            Some(cross) => dir.join(cross.triple),
            None => dir,
        }
    }

    /// The name of a GNU tool, such as `objcopy`, that handles the target's programs.
    pub(crate) fn tool(self, name: &str) -> String {
        match self.cross {
            Some(cross) => format!("{}-{name}", cross.gnu),
            None => name.to_owned(),
        }
    }

    /// The package of [`Target::tool`]s that read and change programs.
    pub(crate) fn binutils(self) -> String {
        match self.cross {
            Some(cross) => format!("binutils-{}", cross.gnu.replace('_', "-")),
            None => "binutils".to_owned(),
        }
    }

    /// Has cargo build for the target, and run its tests under an emulator.
    pub(crate) fn apply(self, cargo: &mut Command) {
        let Some(cross) = self.cross else { return };
        let variable = |what: &str| {
            let target = cross.triple.to_uppercase().replace('-', "_");
            format!("CARGO_TARGET_{target}_{what}")
        };
        cargo
            .env(variable("LINKER"), self.tool("gcc"))
            .env(variable("RUNNER"), cross.emulate(&cross.libraries()))
            .args(["--target", cross.triple]);
    }

    /// A command that runs one of the target's programs on this machine.
    pub(crate) fn run(self, program: impl Into<PathBuf>) -> Command {
        let program = program.into();
        match self.cross {
            None => Command::new(program),
            Some(cross) => cross.command(cross.libraries(), program),
        }
    }
}

impl Cross {
    /// The directory of the cross compiler's C library.
    fn libraries(&self) -> String {
        format!("/usr/{}", self.gnu)
    }

    /// A command line that runs a program under the emulator, with the libraries below `root`.
    fn emulate(&self, root: &str) -> String {
        format!("{} -L {root}", self.emulator)
    }

    /// The emulator with a program, as a command.
    pub(crate) fn command(&self, root: impl Into<PathBuf>, program: PathBuf) -> Command {
        let mut command = Command::new(self.emulator);
        command.arg("-L").arg(root.into()).arg(program);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn processor_is_named_as_debian_or_rust_does() {
        for (name, arch) in [("arm64", Arch::Arm64), ("aarch64", Arch::Arm64)] {
            assert_eq!(Arch::from_str(name, false), Ok(arch));
        }
        assert_eq!(Arch::from_str("x86_64", false), Ok(Arch::Amd64));
        assert!(Arch::from_str("riscv64", false).is_err());
    }

    #[test]
    fn own_processor_needs_no_cross_tools() {
        for arch in [None, Some(Arch::Amd64)] {
            let target = Target::seen_from("x86_64", arch);
            assert_eq!((target.debian, target.cross), ("amd64", None));
            assert_eq!(target.tool("strip"), "strip");
            assert_eq!(target.directory(), sh::target_dir());
        }
        let other = Target::seen_from("riscv64", None);
        assert_eq!((other.processor, other.cross), ("riscv64", None));
    }

    #[test]
    fn another_processor_has_tools_directory_and_emulator_of_its_own() {
        let target = Target::seen_from("x86_64", Some(Arch::Arm64));
        assert_eq!((target.processor, target.debian), ("aarch64", "arm64"));
        assert_eq!(target.tool("objcopy"), "aarch64-linux-gnu-objcopy");
        assert_eq!(target.binutils(), "binutils-aarch64-linux-gnu");
        assert!(target.directory().ends_with("aarch64-unknown-linux-gnu"));
        let mut cargo = Command::new("cargo");
        target.apply(cargo.arg("build"));
        let arguments: Vec<_> = cargo.get_args().collect();
        assert_eq!(
            arguments,
            ["build", "--target", "aarch64-unknown-linux-gnu"]
        );
        let variables: Vec<_> = cargo
            .get_envs()
            .map(|(name, value)| (name, value.unwrap()))
            .collect();
        assert!(variables.iter().any(|(name, value)| {
            *name == "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER"
                && *value == "aarch64-linux-gnu-gcc"
        }));
        assert!(variables.iter().any(|(name, value)| {
            *name == "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER"
                && *value == "qemu-aarch64 -L /usr/aarch64-linux-gnu"
        }));
        let amd64 = Target::seen_from("aarch64", Some(Arch::Amd64));
        assert_eq!(amd64.binutils(), "binutils-x86-64-linux-gnu");
    }
}
