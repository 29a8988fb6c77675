//! The source of a guest's programs and libraries: this machine, or Debian's packages for another
//! processor, which are unpacked and not installed.

use super::arch::Arch;
use super::mirror::Mirror;
use crate::sh::{CommandExt, say};
use crate::target::Target;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs that the tests and the agent run, and the packages that they are in.
pub(super) const PROGRAMS: [(&str, &str); 9] = [
    ("busybox", "busybox-static"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("kmod", "kmod"),
    ("openssl", "openssl"),
    ("ss", "iproute2"),
    ("sysctl", "procps"),
    ("tc", "iproute2"),
];

/// Directories of the loader and the libraries, the same in every root with a merged `/usr`.
pub(super) const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Directories that are searched for programs.
const SEARCH: [&str; 2] = ["usr/bin", "usr/sbin"];

/// The tree that programs and libraries are copied from.
pub(super) struct System {
    target: Target,
    root: PathBuf,
}

impl System {
    /// This machine; for another processor packages below `dir`, which are fetched once.
    pub(super) fn ensure(dir: &Path, arch: Arch) -> Result<Self> {
        let target = arch.target();
        let root = match target.cross {
            Some(_) => unpacked(dir, arch)?,
            None => "/".into(),
        };
        Ok(Self { target, root })
    }

    /// A program of the guest.
    pub(super) fn find(&self, name: &str) -> Result<PathBuf> {
        if self.target.cross.is_none() {
            return super::find(name);
        }
        let mut places = SEARCH.map(|dir| self.root.join(dir).join(name)).into_iter();
        let found = places.find(|place| place.exists());
        found.with_context(|| format!("{} has no {name}", self.root.display()))
    }

    /// Paths of a program's shared libraries and of its loader, as the guest will have them. A static
    /// program has none.
    pub(super) fn libraries(&self, program: &Path) -> Vec<PathBuf> {
        let mut command = match self.target.cross {
            Some(cross) => {
                let mut traced = cross.command(&self.root, program.to_owned());
                // The loader prints the libraries that it would load, as for `ldd`.
                traced.env("QEMU_SET_ENV", "LD_TRACE_LOADED_OBJECTS=1");
                traced
            }
            None => {
                let mut ldd = Command::new("ldd");
                ldd.arg(program);
                ldd
            }
        };
        // `ldd` calls a static program a failure.
        paths(&command.read().unwrap_or_default())
    }

    /// The file here that a path of the guest is made of.
    pub(super) fn file(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The packages of a guest's programs with all that they depend on, unpacked.
fn unpacked(dir: &Path, arch: Arch) -> Result<PathBuf> {
    let root = dir.join(arch.debian).join("system");
    if root.exists() {
        return Ok(root);
    }
    let mirror = Mirror::of_programs(dir, arch)?;
    say(format!(
        "fetching the guest's programs for {}; nothing is installed",
        arch.debian
    ));
    let mut names: Vec<&str> = PROGRAMS.iter().map(|(_, package)| *package).collect();
    names.dedup();
    let temporary = root.with_extension("new");
    mirror.unpack_all(&mirror.with_dependencies(&names)?, &temporary)?;
    for name in MERGED {
        let link = temporary.join(name);
        if !link.exists() {
            let to = format!("usr/{name}");
            symlink(&to, &link).with_context(|| format!("link {to}"))?;
        }
    }
    fs::rename(&temporary, &root).with_context(|| format!("rename to {}", root.display()))?;
    Ok(root)
}

/// Paths in the output of `ldd`: `libc.so.6 => /lib/… (0x…)` and `/lib64/ld-linux… (0x…)`.
fn paths(ldd: &str) -> Vec<PathBuf> {
    let words = ldd.lines().flat_map(str::split_whitespace);
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::arch::{AMD64, ARM64};
    use super::*;

    const LDD: &str = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f01)\n";

    #[test]
    fn libraries_and_loader_are_read_from_ldd() {
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(paths(LDD), expected.map(PathBuf::from));
        assert!(paths("\tstatically linked\n").is_empty());
    }

    #[test]
    fn program_of_this_machine_comes_with_files_that_exist() {
        let system = System {
            target: Target::own(),
            root: "/".into(),
        };
        let libraries = system.libraries(&system.find("sh").unwrap());
        assert!(!libraries.is_empty());
        for library in libraries {
            assert!(system.file(&library).exists(), "{}", library.display());
        }
    }

    #[test]
    fn programs_and_libraries_for_another_processor_are_in_its_tree() {
        let dir = tempfile::tempdir().unwrap();
        let other = [AMD64, ARM64].map(Arch::target).into_iter();
        let target = other.into_iter().find(|one| one.cross.is_some()).unwrap();
        let root = dir.path().to_owned();
        fs::create_dir_all(root.join("usr/sbin")).unwrap();
        fs::write(root.join("usr/sbin/tc"), "").unwrap();
        let system = System { target, root };
        assert_eq!(system.find("tc").unwrap(), dir.path().join("usr/sbin/tc"));
        assert!(system.find("ip").is_err());
        let library = system.file(Path::new("/lib/libc.so.6"));
        assert_eq!(library, dir.path().join("lib/libc.so.6"));
    }
}
