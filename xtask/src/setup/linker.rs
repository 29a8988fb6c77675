//! Sources of a bpf-linker for an LLVM: built from crates.io against the distribution's LLVM, or
//! the released binary.

use super::compiler::PURPOSE;
use super::{Setup, release};
use crate::machine::Machine;
use crate::packages::{Kind, Packages};
use crate::sh::{CommandExt, say};
use crate::toolchain::parse_release;
use anyhow::{Context, Result, bail};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The LLVM versions that bpf-linker 0.13 has a feature for.
const LINKER_LLVMS: RangeInclusive<u32> = 21..=23;

impl Setup<'_> {
    /// Gets a linker that reads the output of LLVM `llvm`; failures are noted.
    pub(super) fn get_linker(&mut self, llvm: u32) {
        if self.built_linker(llvm) {
            return;
        }
        match release::install(self.machine, self.packages.as_ref(), llvm) {
            Ok(()) => return,
            Err(error) => self.failed("the released bpf-linker", &error),
        }
        // A compiler of rustup's may be newer than every LLVM of the release.
        let packages = self.packages.as_ref();
        match packages.map_or(Ok(false), Packages::add_security_archive) {
            Ok(true) => drop(self.built_linker(llvm)),
            Ok(false) => {}
            Err(error) => self.failed("Debian's security archive", &error),
        }
    }

    /// Whether a linker could be built against the distribution's LLVM.
    fn built_linker(&mut self, llvm: u32) -> bool {
        let built = match &self.packages {
            Some(packages) => build(self.machine, packages, llvm),
            None => Err(anyhow::anyhow!("no package manager is known here")),
        };
        if let Err(error) = &built {
            self.failed(&format!("bpf-linker against LLVM {llvm}"), error);
        }
        built.is_ok()
    }
}

/// Builds bpf-linker against an LLVM of the distribution: the same one, or a newer one, which reads
/// older bitcode.
fn build(machine: &Machine, packages: &Packages, llvm: u32) -> Result<()> {
    let versions = || llvm.max(*LINKER_LLVMS.start())..=*LINKER_LLVMS.end();
    let find = || {
        let with_names = |version| Some((version, llvm_packages(packages, version)?));
        versions().find_map(with_names)
    };
    let (version, mut names) = match find() {
        Some(found) => found,
        None => {
            packages.refresh()?;
            find().with_context(|| {
                let last = LINKER_LLVMS.end();
                format!("the distribution has no LLVM from {llvm} to {last} to build with")
            })?
        }
    };
    if machine.find("c++").is_none() {
        names.push("g++".to_owned());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    packages.ensure(&names, PURPOSE)?;
    let prefix = prefix(machine, version)
        .with_context(|| format!("no llvm-config of LLVM {version} was found"))?;
    install(machine, version, &prefix)
}

/// The packages that are needed to link with LLVM `version`, as far as they are known.
fn llvm_packages(packages: &Packages, version: u32) -> Option<Vec<String>> {
    let choices = match packages.kind() {
        Kind::Apt => vec![vec![
            format!("llvm-{version}-dev"),
            format!("libpolly-{version}-dev"),
        ]],
        Kind::Dnf | Kind::Zypper => vec![
            vec![format!("llvm{version}-devel")],
            vec!["llvm-devel".to_owned()],
        ],
        Kind::Pacman => vec![vec!["llvm".to_owned()], vec![format!("llvm{version}")]],
    };
    let is_of_version = |name: &String| {
        let candidate = packages.candidate(name);
        candidate
            .and_then(|version| parse_release(&version))
            .is_some_and(|(major, _)| major == version)
    };
    choices
        .into_iter()
        .find(|names| names.iter().all(is_of_version))
}

/// The directory that LLVM `version` is installed in, by its `llvm-config`.
fn prefix(machine: &Machine, version: u32) -> Option<PathBuf> {
    let usual = [
        format!("/usr/lib/llvm-{version}/bin"),
        format!("/usr/lib64/llvm{version}/bin"),
        format!("/usr/lib/llvm{version}/bin"),
    ];
    let numbered = [
        format!("llvm-config-{version}"),
        format!("llvm-config-{version}-64"),
    ];
    let found = numbered.iter().flat_map(|name| machine.find_all(name));
    let usual = usual.iter().map(|dir| Path::new(dir).join("llvm-config"));
    let programs = found.chain(usual).chain(machine.find_all("llvm-config"));
    for program in programs {
        let ask = |what: &str| machine.command(&program).arg(what).read().ok();
        let found = ask("--version").and_then(|text| parse_release(text.trim()));
        if found.is_some_and(|(major, _)| major == version) {
            return Some(ask("--prefix")?.trim().into());
        }
    }
    None
}

fn install(machine: &Machine, llvm: u32, prefix: &Path) -> Result<()> {
    say(format!(
        "building bpf-linker from crates.io against LLVM {llvm} (a minute or two)"
    ));
    machine
        .command(&machine.cargo)
        // The profile and flags of this workspace are not for bpf-linker.
        .current_dir("/")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        // Its own profile takes three times as long. The linker spends its time in LLVM.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), prefix)
        // bpf-linker's own build script looks for libLLVM here.
        .env("LLVM_PREFIX", prefix)
        .args([
            "install",
            "bpf-linker",
            "--version",
            "^0.13",
            "--locked",
            "--force",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
        ])
        .run_shown()?;
    if machine.find("bpf-linker").is_none() {
        bail!("cargo has installed it, but not where it puts programs");
    }
    Ok(())
}
