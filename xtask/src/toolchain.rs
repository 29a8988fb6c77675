//! Finds the tools that compile the eBPF programs: a rustc with the sources of `core` beside it,
//! and a bpf-linker that reads the output of its LLVM.
//!
//! A rustup toolchain with `rust-src` comes first, then any other rustc of the system: Debian's
//! `rustc-web`, Ubuntu's `rustc-1.93`. `setup` installs the missing ones.

use crate::machine::Machine;
use crate::sh::{self, CommandExt};
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest compiler that the crates build with (`rust-version` in Cargo.toml).
pub(crate) const OLDEST_RUSTC: (u32, u32) = (1, 90);

/// A compiler that has the sources of `core`.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    pub(crate) release: (u32, u32),
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

/// The tools that compile eBPF programs.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compiler {
            rustc,
            release: (major, minor),
            llvm,
        } = &self.compiler;
        let (rustc, linker) = (rustc.display(), self.linker.display());
        write!(
            f,
            "rustc {major}.{minor} ({rustc}, LLVM {llvm}) with {linker}"
        )
    }
}

impl Toolchain {
    /// `cargo COMMAND` for the eBPF crate, with its compiler, its linker and its target. The programs
    /// will run on a kernel for `processor`.
    pub(crate) fn cargo(&self, command: &str, crate_dir: &Path, processor: &str) -> Command {
        let target = bpf_target();
        let linker_var = format!(
            "CARGO_TARGET_{}_LINKER",
            target.to_uppercase().replace('-', "_")
        );
        let flags = format!(
            "--cfg bpf_target_arch=\"{processor}\" -C target-cpu=v3 -C debuginfo=2 -C link-arg=--btf"
        );
        let mut cargo = Command::new(self.compiler.cargo());
        cargo
            .current_dir(crate_dir)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env("RUSTC", &self.compiler.rustc)
            // `-Z build-std` and inline BPF assembly are nightly features. This variable lets a
            // stable compiler take them.
            .env("RUSTC_BOOTSTRAP", "1")
            .env(linker_var, &self.linker)
            .env("RUSTFLAGS", flags)
            .args([
                command,
                "--release",
                "-Z",
                "build-std=core",
                "--target",
                target,
            ]);
        // Profile variables set for the agent's build would make other programs than the tested
        // ones.
        let profile = |name: &OsString| name.to_string_lossy().starts_with("CARGO_PROFILE_");
        for (name, _) in env::vars_os().filter(|(name, _)| profile(name)) {
            cargo.env_remove(name);
        }
        cargo
    }
}

/// The BPF target with the byte order of this machine.
fn bpf_target() -> &'static str {
    if cfg!(target_endian = "little") {
        "bpfel-unknown-none"
    } else {
        "bpfeb-unknown-none"
    }
}

impl Compiler {
    /// The cargo that came with the compiler, else the one that runs this program.
    fn cargo(&self) -> PathBuf {
        let own = self.rustc.with_file_name("cargo");
        let in_rustup = own.starts_with(rustup_toolchains(&Machine::this()));
        if in_rustup && own.exists() {
            own
        } else {
            sh::cargo()
        }
    }

    /// Clippy of the same release, if it is installed.
    pub(crate) fn clippy_driver(&self) -> Option<PathBuf> {
        let driver = self.rustc.with_file_name("clippy-driver");
        driver.exists().then_some(driver)
    }

    /// Asks a compiler for its release; `None` when it has no sources of `core`, or is too old.
    fn inspect(machine: &Machine, rustc: PathBuf) -> Option<Self> {
        let sysroot = machine
            .command(&rustc)
            .args(["--print", "sysroot"])
            .read()
            .ok()?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        if !core.exists() {
            return None;
        }
        let (release, llvm) = parse_version(&machine.command(&rustc).arg("-vV").read().ok()?)?;
        (release >= OLDEST_RUSTC).then_some(Self {
            rustc,
            release,
            llvm,
        })
    }
}

/// The first compiler that has a linker to go with it.
pub(crate) fn find(machine: &Machine) -> Option<Toolchain> {
    let linkers: Vec<(PathBuf, Option<u32>)> = machine
        .find_all("bpf-linker")
        .map(|linker| (linker.clone(), llvm_of_linker(&linker)))
        .collect();
    if linkers.is_empty() {
        return None;
    }
    compilers(machine).find_map(|compiler| {
        let fits = |llvm: &Option<u32>| llvm.is_none_or(|llvm| llvm >= compiler.llvm);
        let (linker, _) = linkers.iter().find(|(_, llvm)| fits(llvm))?;
        let linker = linker.clone();
        Some(Toolchain { compiler, linker })
    })
}

/// Every compiler with sources: those of rustup, the newest first, then those of the system.
pub(crate) fn compilers(machine: &Machine) -> impl Iterator<Item = Compiler> {
    rustup_compilers(machine)
        .into_iter()
        .chain(system_compilers(machine))
        .filter_map(|rustc| Compiler::inspect(machine, rustc))
}

/// `rustc` of each rustup toolchain: nightly, then stable, then the rest from the newest down.
fn rustup_compilers(machine: &Machine) -> Vec<PathBuf> {
    let Ok(entries) = rustup_toolchains(machine).read_dir() else {
        return Vec::new();
    };
    let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    names.sort_by_key(|path| std::cmp::Reverse(rank(path)));
    names
        .into_iter()
        // Asking a compiler costs a process, while rustup has the sources in a fixed place.
        .filter(|dir| dir.join("lib/rustlib/src/rust/library/core").is_dir())
        .map(|dir| dir.join("bin/rustc"))
        .collect()
}

/// Sort key of a toolchain directory: the likelier it takes nightly features, the greater.
fn rank(toolchain: &Path) -> (u8, String) {
    let name = toolchain
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let class = match name.split('-').next() {
        Some("nightly") => 2,
        Some("stable") => 1,
        _ => 0,
    };
    (class, name)
}

fn rustup_toolchains(machine: &Machine) -> PathBuf {
    machine.rustup_home.join("toolchains")
}

/// `rustc`, then `rustc-1.96` and so on from the newest down, of the system. rustup's own proxies
/// are left out: its toolchains are asked themselves.
fn system_compilers(machine: &Machine) -> Vec<PathBuf> {
    let mut numbered: Vec<((u32, u32), PathBuf)> = machine
        .search
        .iter()
        .filter_map(|dir| dir.read_dir().ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| {
            let name = entry.file_name();
            let release = parse_release(name.to_str()?.strip_prefix("rustc-")?)?;
            Some((release, entry.path()))
        })
        .collect();
    numbered.sort_by(|(a, _), (b, _)| b.cmp(a));
    let mut found: Vec<PathBuf> = machine.find_all("rustc").collect();
    found.extend(numbered.into_iter().map(|(_, path)| path));
    let mut seen = std::collections::HashSet::new();
    found.retain(|file| !is_rustup_proxy(machine, file) && seen.insert(real(file)));
    found
}

fn real(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_owned())
}

fn is_rustup_proxy(machine: &Machine, rustc: &Path) -> bool {
    let program = real(rustc);
    let file = |name: &str| real(&rustc.with_file_name(name));
    program.file_name().is_some_and(|name| name == "rustup")
        || program.starts_with(rustup_toolchains(machine))
        // rustup's own installation has hard links; a distribution's rustc may lie beside a rustup.
        || same_file(&program, &file("rustup"))
}

fn same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    identity(one).is_some_and(|file| identity(other) == Some(file))
}

/// Release out of a version such as `1.96.0+dfsg1-1` or `1:1.95.0-1` (with an epoch).
pub(crate) fn parse_release(version: &str) -> Option<(u32, u32)> {
    let version = version.rsplit(':').next()?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Release and LLVM major version out of `rustc -vV`.
fn parse_version(text: &str) -> Option<((u32, u32), u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let release = parse_release(field("release: ")?)?;
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((release, llvm))
}

/// The LLVM that bpf-linker was linked with, if it uses a shared one. The released binaries hold
/// an LLVM of their own, newer than that of the compilers of their day: `None` is good news.
fn llvm_of_linker(linker: &Path) -> Option<u32> {
    shared_llvm(&std::fs::read(linker).ok()?)
}

fn shared_llvm(binary: &[u8]) -> Option<u32> {
    const NAMES: [&[u8]; 2] = [b"\0libLLVM.so.", b"\0libLLVM-"];
    // Names of shared libraries are in the dynamic string table, near the start of the file.
    let at = NAMES.iter().find_map(|name| {
        let start = binary
            .windows(name.len())
            .position(|window| window == *name)?;
        Some(start + name.len())
    })?;
    let digits: String = binary[at..]
        .iter()
        .map(|&b| char::from(b))
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_and_llvm_come_from_the_verbose_version() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                    release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_version(text), Some(((1, 97), 22)));
        assert_eq!(parse_version("rustc 1.97.0\n"), None);
    }

    #[test]
    fn the_release_of_a_package_is_that_behind_its_epoch() {
        assert_eq!(parse_release("1.96.0+dfsg1-1~deb13u1+b1"), Some((1, 96)));
        assert_eq!(parse_release("1:22.1.8-1"), Some((22, 1)));
        assert_eq!(parse_release("1.93"), Some((1, 93)));
        assert_eq!(parse_release("(none)"), None);
    }

    #[test]
    fn a_linker_tells_its_shared_llvm_and_a_static_one_tells_nothing() {
        assert_eq!(shared_llvm(b"junk\0libLLVM.so.22.1\0libc.so.6\0"), Some(22));
        assert_eq!(shared_llvm(b"\0libLLVM-21.so\0"), Some(21));
        assert_eq!(shared_llvm(b"\0libc.so.6\0"), None);
    }

    #[test]
    fn nightly_is_tried_before_stable_and_stable_before_a_pinned_one() {
        let mut names = ["1.95.0-x86_64", "stable-x86_64", "nightly-x86_64"].map(PathBuf::from);
        names.sort_by_key(|path| std::cmp::Reverse(rank(path)));
        assert_eq!(
            names,
            ["nightly-x86_64", "stable-x86_64", "1.95.0-x86_64"].map(PathBuf::from)
        );
    }
}
