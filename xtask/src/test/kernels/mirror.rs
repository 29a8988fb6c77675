//! Debian's kernels by apt, with lists and a cache of its own. The machine's own lists do not
//! change.

use super::arch::{Arch, LARGE_PAGES};
use super::sources::Places;
use crate::sh::{CommandExt, say};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The keys of all releases, from the package `debian-archive-keyring`.
pub(super) const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Releases with a kernel of their own, and its series.
const RELEASES: [(&str, &str); 3] = [
    ("5.10", "bullseye"),
    ("6.1", "bookworm"),
    ("6.12", "trixie"),
];

/// The kernel series of the release that guests for another processor get their programs from. Its
/// C library has to be as new as that of the cross compiler.
const PROGRAMS: &str = "6.12";

/// Suites with kernels of all other series.
const NEWER: [&str; 3] = ["bookworm-backports", "trixie-backports", "sid"];

/// An archive of packages of one processor.
pub(super) struct Mirror {
    arch: Arch,
    config: PathBuf,
}

impl Mirror {
    /// Reads the lists that kernels of these series are in, to directories below `dir`.
    pub(super) fn open(dir: &Path, arch: Arch, series: &[&str]) -> Result<Self> {
        let dir = dir.join("apt");
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
        }
        let sources = dir.join("sources.list");
        let write = |path: &Path, text: String| {
            fs::write(path, text).with_context(|| format!("write {}", path.display()))
        };
        write(&sources, list(&Places::find(), series))?;
        let config = dir.join("apt.conf");
        write(&config, configuration(&dir, arch))?;
        let mirror = Self { arch, config };
        say("reading the lists of Debian's kernels");
        if mirror
            .apt("apt-get")
            .args(["-q", "update"])
            .run_shown()
            .is_err()
        {
            say("some lists could not be read; going on with the others");
        }
        Ok(mirror)
    }

    /// Reads the lists that a guest's programs are in.
    pub(super) fn of_programs(dir: &Path, arch: Arch) -> Result<Self> {
        Self::open(dir, arch, &[PROGRAMS])
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // This file is read after the machine's own, which may know a proxy.
        command.env("LC_ALL", "C").arg("-c").arg(&self.config);
        command
    }

    /// The newest package with a kernel of the series.
    pub(super) fn kernel(&self, series: &str) -> Result<String> {
        let names = self
            .apt("apt-cache")
            .args(["pkgnames", "linux-image-"])
            .read()?;
        let all = kernels(&names, self.arch);
        let of_series = all.iter().filter(|one| one.series == series);
        match of_series.max_by_key(|one| &one.numbers) {
            Some(newest) => Ok(newest.package.clone()),
            None => bail!("{}", unknown(series, &all)),
        }
    }

    /// Downloads a kernel with the packages that hold parts of it, and unpacks all into `to`.
    pub(super) fn unpack(&self, package: &str, to: &Path) -> Result<()> {
        let depends = self.apt("apt-cache").args(["depends", package]).read()?;
        self.unpack_all(&parts(package, &depends)?, to)
    }

    /// Packages, and all that they depend on.
    pub(super) fn with_dependencies(&self, packages: &[&str]) -> Result<Vec<String>> {
        let mut ask = self.apt("apt-get");
        ask.args(["-q", "--no-install-recommends", "--simulate", "install"]);
        Ok(to_install(&ask.args(packages).read()?))
    }

    /// Downloads packages and unpacks them into `to`.
    pub(super) fn unpack_all(&self, packages: &[String], to: &Path) -> Result<()> {
        let debs = to.with_extension("debs");
        let _ = fs::remove_dir_all(&debs);
        let _ = fs::remove_dir_all(to);
        for dir in [&debs, to] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let mut download = self.apt("apt-get");
        download.current_dir(&debs).args(["-q", "download"]);
        download.args(packages).run_shown()?;
        let entries = fs::read_dir(&debs).with_context(|| format!("read {}", debs.display()))?;
        for deb in entries.flatten() {
            Command::new("dpkg-deb")
                .arg("-x")
                .args([&deb.path(), to])
                .read()?;
        }
        fs::remove_dir_all(&debs).with_context(|| format!("remove {}", debs.display()))
    }
}

/// The sources for kernels of these series.
fn list(places: &Places, names: &[&str]) -> String {
    let series: Vec<&str> = names
        .iter()
        .map(|name| name.trim_end_matches(LARGE_PAGES))
        .collect();
    let mut lines = String::new();
    let mut add = |place: &str, suite: &str| {
        lines += &format!("deb [signed-by={KEYS}] {place} {suite} main\n");
    };
    let is_newer = |name: &&str| !RELEASES.iter().any(|(series, _)| series == name);
    let newer = series.iter().any(is_newer);
    for (name, release) in RELEASES {
        // If a series is not known, the error names all known ones.
        if newer || series.contains(&name) {
            add(&places.main, release);
            add(&places.security, &format!("{release}-security"));
        }
    }
    if newer {
        NEWER.iter().for_each(|suite| add(&places.main, suite));
    }
    lines
}

/// A configuration with its own directories, without the machine's settings for its own packages.
fn configuration(dir: &Path, arch: Arch) -> String {
    let dir = dir.display();
    let arch = arch.debian;
    format!(
        "Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"{dir}/parts\";\n\
         Dir::Etc::preferences \"{dir}/parts/none\";\n\
         Dir::Etc::preferencesparts \"{dir}/parts\";\n\
         Dir::State::lists \"{dir}/lists\";\n\
         Dir::State::status \"/dev/null\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         Dir::Cache::archives \"archives\";\n\
         APT::Architecture \"{arch}\";\n\
         #clear APT::Architectures;\n\
         APT::Architectures {{ \"{arch}\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         APT::Get::List-Cleanup \"false\";\n\
         #clear APT::Update::Pre-Invoke;\n\
         #clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         Acquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Acquire::Retries \"3\";\n\
         // Releases that are not cared for any more have expired.\n\
         Acquire::Check-Valid-Until \"false\";\n"
    )
}

/// A package with a kernel.
#[derive(Debug)]
struct Package {
    package: String,
    /// The series as in `6.12` and `6.12-16k`.
    series: String,
    /// The numbers of its version, to compare by.
    numbers: Vec<u32>,
}

/// The kernels that can be booted among all packages of kernels.
fn kernels(names: &str, arch: Arch) -> Vec<Package> {
    let parse = |name: &str| {
        let name_and_flavour = name.strip_prefix("linux-image-")?;
        let (version, ending) = arch.flavours.iter().find_map(|(suffix, ending)| {
            let version = name_and_flavour.strip_suffix(suffix)?;
            Some((version, ending))
        })?;
        let numbers: Vec<u32> = version
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        // Other names stand for the newest kernel of a series.
        let [major, minor, _, ..] = numbers[..] else {
            return None;
        };
        Some(Package {
            package: name.to_owned(),
            series: format!("{major}.{minor}{ending}"),
            numbers,
        })
    };
    names.lines().filter_map(parse).collect()
}

/// The message about a series that is not there.
fn unknown(series: &str, all: &[Package]) -> String {
    let mut known: Vec<(&[u32], &str)> = all
        .iter()
        .map(|one| (&one.numbers[..2], one.series.as_str()))
        .collect();
    known.sort_unstable();
    known.dedup();
    if known.is_empty() {
        return format!("no kernel {series}: none of the lists in /etc/apt's mirror could be read");
    }
    let names: Vec<&str> = known.into_iter().map(|(_, series)| series).collect();
    format!(
        "Debian has no kernel {series} here; it has {}",
        names.join(", ")
    )
}

/// Names in the list that apt would install: `Inst curl (8.14.1 Debian:13/stable [arm64])`.
fn to_install(simulation: &str) -> Vec<String> {
    let lines = simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst "));
    lines
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// The packages that hold a kernel: later kernels consist of several. apt prints those that are in
/// no list in angle brackets, as backports lose their modules before the rest.
fn parts(package: &str, depends: &str) -> Result<Vec<String>> {
    let mut packages = vec![package.to_owned()];
    for name in depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
    {
        let plain = name.trim_matches(['<', '>']);
        if !plain.starts_with("linux-binary-") && !plain.starts_with("linux-modules-") {
            continue;
        }
        ensure!(
            plain == name,
            "{package} cannot be booted: Debian has no {plain} any more"
        );
        packages.push(name.to_owned());
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::super::arch::{AMD64, ARM64};
    use super::*;

    const NAMES: &str = "linux-image-6.1-cloud-amd64\nlinux-image-6.1.0-9-cloud-amd64\n\
                         linux-image-6.1.0-57-cloud-amd64\nlinux-image-6.1.0-57-amd64\n\
                         linux-image-6.1.0-0.deb11.52-cloud-amd64\n\
                         linux-image-6.12.118+deb13-cloud-amd64\n\
                         linux-image-6.12.118+deb13-cloud-amd64-unsigned\n";

    #[test]
    fn newest_kernel_of_a_series_is_found_by_number() {
        let all = kernels(NAMES, AMD64);
        let newest = |series: &str| {
            let of_series = all.iter().filter(|one| one.series == series);
            of_series
                .max_by_key(|one| &one.numbers)
                .map(|one| one.package.as_str())
        };
        assert_eq!(newest("6.1"), Some("linux-image-6.1.0-57-cloud-amd64"));
        assert_eq!(
            newest("6.12"),
            Some("linux-image-6.12.118+deb13-cloud-amd64")
        );
        assert_eq!(newest("6.6"), None);
        assert_eq!(
            unknown("6.6", &all),
            "Debian has no kernel 6.6 here; it has 6.1, 6.12"
        );
    }

    #[test]
    fn kernel_with_pages_of_16_kib_has_a_name_of_its_own() {
        let names = "linux-image-6.12.118+deb13-arm64-16k\nlinux-image-6.12.117+deb13-cloud-arm64\n\
                     linux-image-6.12.118+deb13-arm64\nlinux-image-arm64-16k\n";
        let all = kernels(names, ARM64);
        let found: Vec<_> = all.iter().map(|one| one.series.as_str()).collect();
        assert_eq!(found, ["6.12-16k", "6.12"]);
        assert!(kernels(names, AMD64).is_empty());
    }

    #[test]
    fn lists_are_read_for_what_is_asked_alone() {
        let places = Places {
            main: "http://m".to_owned(),
            security: "http://s".to_owned(),
        };
        for name in ["6.1", "6.1-16k"] {
            assert_eq!(list(&places, &[name]).lines().count(), 2, "{name}");
        }
        let text = list(&places, &["6.1"]);
        assert!(text.contains("http://m bookworm main"), "{text}");
        assert!(text.contains("http://s bookworm-security main"), "{text}");
        let text = list(&places, &["7.3"]);
        assert_eq!(text.lines().count(), 9, "{text}");
    }

    #[test]
    fn kernel_of_several_packages_is_fetched_whole() {
        let depends = "linux-image-x\n  Depends: kmod\n |Depends: dracut\n  Depends: linux-base-x\n\
                       \x20 Depends: linux-binary-x\n  Depends: linux-modules-x\n";
        let all = parts("linux-image-x", depends).unwrap();
        assert_eq!(all, ["linux-image-x", "linux-binary-x", "linux-modules-x"]);
    }

    #[test]
    fn kernel_whose_modules_are_gone_is_refused_by_name() {
        let depends = "  Depends: <linux-initramfs-tool>\n  Depends: linux-binary-x\n\
                       \x20 Depends: <linux-modules-x>\n";
        let error = parts("linux-image-x", depends).unwrap_err().to_string();
        assert!(error.contains("no linux-modules-x any more"), "{error}");
    }
}
