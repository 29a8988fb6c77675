//! Sources of a compiler with the sources of `core`: an installed one, rustup, packages.

use super::Setup;
use crate::machine::Machine;
use crate::packages::{Kind, Packages};
use crate::sh::{CommandExt, say};
use crate::toolchain::{self, OLDEST_RUSTC, parse_release};
use anyhow::{Result, bail, ensure};
use std::path::Path;

/// The purpose of the packages, for messages.
pub(super) const PURPOSE: &str = "compiling eBPF programs";

/// A source of a compiler.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A compiler that is already installed.
    Present,
    /// A toolchain of rustup's. Needs no root.
    Rustup,
    /// A package of the distribution.
    Packages,
}

impl Way {
    /// All sources, in the order in which they are tried.
    pub(super) const ALL: [Self; 3] = [Way::Present, Way::Rustup, Way::Packages];

    pub(super) fn name(self) -> &'static str {
        match self {
            Way::Present => "compilers that are installed",
            Way::Rustup => "rustup",
            Way::Packages => "packages of the distribution",
        }
    }
}

impl Setup<'_> {
    /// Tries one source. Unless it fails, a compiler is there afterwards.
    pub(super) fn get_compiler(&self, way: Way) -> Result<()> {
        match way {
            Way::Present => {
                let found = toolchain::compilers(self.machine).next().is_some();
                ensure!(found, "none has the sources of core (rust-src)");
                Ok(())
            }
            Way::Rustup => by_rustup(self.machine),
            Way::Packages => {
                let Some(packages) = &self.packages else {
                    bail!("neither apt, dnf, zypper nor pacman is there");
                };
                by_packages(self.machine, packages)
            }
        }
    }
}

/// Adds the sources to the toolchain in use, which are small; else the newest nightly with its own.
fn by_rustup(machine: &Machine) -> Result<()> {
    let Some(rustup) = machine.find("rustup") else {
        bail!("it is not installed");
    };
    let run = |what: &str, arguments: &[&str]| {
        say(format!("{what} from rustup, for {PURPOSE}"));
        machine.command(&rustup).args(arguments).run_shown()
    };
    let sources = run(
        "getting the sources of core",
        &["component", "add", "rust-src"],
    );
    if sources.is_ok() && toolchain::compilers(machine).next().is_some() {
        return Ok(());
    }
    run(
        "getting a nightly compiler with the sources of core",
        // The user's rustup does not update itself.
        &[
            "toolchain",
            "install",
            "nightly",
            "--no-self-update",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ],
    )?;
    let found = toolchain::compilers(machine).next().is_some();
    ensure!(
        found,
        "it installed no compiler that has the sources of core"
    );
    Ok(())
}

/// A compiler and its sources, as one distribution's packages.
struct Pair {
    compiler: String,
    sources: String,
}

/// The distribution's compiler. If no known one is new enough, the lists of packages are fetched
/// once. Then Debian's security archive is added, if the machine leaves that out.
fn by_packages(machine: &Machine, packages: &Packages) -> Result<()> {
    let mut known = new_enough(machine, packages);
    if known.is_empty() {
        packages.refresh()?;
        known = new_enough(machine, packages);
    }
    if known.is_empty() && packages.add_security_archive()? {
        known = new_enough(machine, packages);
    }
    let (major, minor) = OLDEST_RUSTC;
    if known.is_empty() && !machine.root {
        bail!(
            "the lists of packages know no rustc {major}.{minor} or later with its sources; \
             they may be old, and fetching them takes root"
        );
    }
    let mut result = None;
    for pair in known {
        let names = [pair.compiler.as_str(), pair.sources.as_str()];
        match packages.ensure(&names, PURPOSE) {
            Ok(()) if toolchain::compilers(machine).next().is_some() => return Ok(()),
            Ok(()) => {}
            Err(error) => result = result.or(Some(error)),
        }
    }
    match result {
        Some(error) => Err(error),
        None => bail!("there is no rustc {major}.{minor} or later with its sources among them"),
    }
}

/// Compilers that are new enough for the crates, the best one first.
fn new_enough(machine: &Machine, packages: &Packages) -> Vec<Pair> {
    let fits = |name: &String| {
        let release = packages.candidate(name).and_then(|it| parse_release(&it));
        release.is_some_and(|release| release >= OLDEST_RUSTC)
    };
    let pairs = pairs(machine, packages).into_iter();
    pairs
        .filter(|pair| fits(&pair.compiler) && fits(&pair.sources))
        .collect()
}

fn pairs(machine: &Machine, packages: &Packages) -> Vec<Pair> {
    let pair = |compiler: &str, sources: &str| Pair {
        compiler: compiler.to_owned(),
        sources: sources.to_owned(),
    };
    if packages.kind() != Kind::Apt {
        return vec![pair("rust", "rust-src")];
    }
    // Debian's `rustc-web` is kept up to date for browsers, and takes the place of its `rustc`.
    let mut pairs = vec![pair("rustc-web", "rust-web-src"), pair("rustc", "rust-src")];
    if machine.find_all("rustc").any(|file| is_debians(&file)) {
        pairs.reverse();
    }
    pairs.extend(ubuntus(packages));
    pairs
}

/// Whether a rustc belongs to Debian's package of that name. `rustc-web` has it as a link.
fn is_debians(rustc: &Path) -> bool {
    rustc == Path::new("/usr/bin/rustc") && Path::new("/usr/share/doc/rustc/copyright").exists()
}

/// Ubuntu has a package for each release, such as `rustc-1.93`; the newest comes first.
fn ubuntus(packages: &Packages) -> Vec<Pair> {
    let names = packages.beginning_with("rustc-1.");
    let releases = names.iter().filter_map(|name| name.strip_prefix("rustc-"));
    let mut releases: Vec<&str> = releases
        .filter(|release| release.split('.').all(|part| part.parse::<u32>().is_ok()))
        .collect();
    releases.sort_by_key(|release| std::cmp::Reverse(parse_release(release)));
    let pair = |release: &str| Pair {
        compiler: format!("rustc-{release}"),
        sources: format!("rust-{release}-src"),
    };
    releases.into_iter().map(pair).collect()
}
