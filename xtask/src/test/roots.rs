//! Clean Debian systems below `target/packages/roots`, which are kept: for tests of packages, of
//! services, and of setting up a fresh machine.

use crate::dist;
use crate::machine::Machine;
use crate::packages::{self, Kind, Packages};
use crate::sh::{CommandExt, say};
use crate::target::Target;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files with this machine's sources of packages; the first one that exists counts.
const SOURCES: [&str; 2] = [
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d/debian.sources",
];

/// A root file system to make.
pub(super) struct Root<'a> {
    /// The name of its directory.
    pub(super) name: &'a str,
    pub(super) release: &'a str,
    /// The processor. Programs of another processor than this machine's must be able to run here.
    pub(super) target: Target,
    /// Packages beside those of a minimal system.
    pub(super) include: &'a str,
    /// A file that exists once all packages are installed.
    pub(super) proof: &'a str,
}

/// The variables that the tests of the Debian package need. They name a system of this machine's
/// release with systemd, and two versions of the package.
pub(super) fn for_package() -> Result<Vec<(&'static str, PathBuf)>> {
    let release = Machine::this().os_release("VERSION_CODENAME");
    let release = release.context("this Debian has no VERSION_CODENAME in /etc/os-release")?;
    let root = Root {
        name: "systemd",
        release: &release,
        target: Target::own(),
        include: "iproute2,systemd",
        proof: "usr/lib/systemd/systemd",
    };
    let (profile, target) = (crate::build::Profile::Release, Target::own());
    dist::files(profile, target)?;
    Ok(vec![
        ("LB_TEST_DEBIAN_ROOT", root.ensure()?),
        ("LB_TEST_DEB", dist::deb("0.1.0", profile, target)?),
        ("LB_TEST_NEWER_DEB", dist::deb("0.1.1", profile, target)?),
    ])
}

/// Whether this machine has the package manager that makes such systems.
pub(super) fn can_be_made() -> bool {
    Packages::of(&Machine::this()).is_some_and(|packages| packages.kind() == Kind::Apt)
}

impl Root<'_> {
    /// Makes the system, unless it exists already.
    pub(super) fn ensure(&self) -> Result<PathBuf> {
        let roots = dist::directory().join("roots");
        let root = roots.join(self.name);
        let is_whole = |path: &str| root.join(path).exists();
        // On some releases /lib is a link to /usr/lib, on others systemd is in /lib.
        let other = self.proof.strip_prefix("usr/").unwrap_or(self.proof);
        if is_whole(self.proof) || is_whole(other) {
            return Ok(root);
        }
        packages::ensure_program("mmdebstrap", "mmdebstrap", "testing packages")?;
        say(format!(
            "making a clean Debian system, {} (a minute or two, once)",
            self.name
        ));
        let temporary = root.with_extension("new");
        // Removes a system of another kind, and one that was cut short.
        let _ = fs::remove_dir_all(&root);
        let _ = fs::remove_dir_all(&temporary);
        fs::create_dir_all(&roots).with_context(|| format!("make {}", roots.display()))?;
        self.bootstrap(&temporary)?;
        fs::rename(&temporary, &root).with_context(|| format!("rename to {}", root.display()))?;
        Ok(root)
    }

    /// Makes the system from the mirror that is configured here. It keeps the lists of packages
    /// that it was made from.
    fn bootstrap(&self, to: &Path) -> Result<()> {
        let mut command = Command::new("mmdebstrap");
        command
            .args(["--variant=minbase", "--skip=cleanup/apt/lists", "--quiet"])
            .arg(format!("--include={}", self.include));
        if self.target.cross.is_some() {
            command.arg(format!("--architectures={}", self.target.debian));
            // mmdebstrap looks for the emulator with a program of its own.
            packages::ensure_program("arch-test", "arch-test", "testing packages")?;
        }
        if takes_old_lists() {
            command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
        }
        command.arg(self.release).arg(to).arg(mirror());
        command.run_shown()?;
        for file in ["etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"] {
            // The system reaches the mirror and crates.io by this machine's settings.
            let (from, to) = (Path::new("/").join(file), to.join(file));
            if from.exists() && to.parent().is_some_and(Path::exists) {
                fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
            }
        }
        Ok(())
    }
}

/// Whether this machine takes lists that have expired, as it does with a mirror that stands still.
fn takes_old_lists() -> bool {
    let setting = Command::new("apt-config").arg("dump").read();
    setting.is_ok_and(|text| text.contains("Acquire::Check-Valid-Until \"false\""))
}

/// Debian's mirror as this machine has it, else Debian's own.
fn mirror() -> String {
    let texts = SOURCES.iter().map(fs::read_to_string);
    let found = texts.flatten().find_map(|text| mirror_in(&text));
    found.unwrap_or_else(|| "http://deb.debian.org/debian".to_owned())
}

fn mirror_in(sources: &str) -> Option<String> {
    sources.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        if first != "deb" && first != "URIs:" {
            return None;
        }
        let address = words.find(|word| word.contains("://"))?;
        let address = address.trim_end_matches('/');
        address.ends_with("/debian").then(|| address.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_source_of_the_release_itself() {
        let list = "# deb http://old.example/debian x\n\
                    deb [signed-by=/k] http://one.example/debian/ trixie main\n";
        assert_eq!(
            mirror_in(list).as_deref(),
            Some("http://one.example/debian")
        );
        let stanza = "Types: deb\nURIs: http://security.example/debian-security\n\n\
                      URIs: http://two.example/debian\n";
        assert_eq!(
            mirror_in(stanza).as_deref(),
            Some("http://two.example/debian")
        );
        assert_eq!(
            mirror_in("deb http://archive.example/ubuntu noble main"),
            None
        );
    }
}
