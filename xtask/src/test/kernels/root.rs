//! The guest's root: a few programs with the libraries that they name (`system`).

use super::cpio::Archive;
use super::system::{MERGED, PROGRAMS, System};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Names that call busybox, unless the machine's own program of that name is there.
const APPLETS: [&str; 22] = [
    "cat", "chmod", "cp", "cut", "dmesg", "echo", "env", "grep", "kill", "ln", "ls", "mkdir", "mv",
    "nproc", "rm", "sed", "sh", "sleep", "tail", "timeout", "true", "uname",
];

/// The script of the first process.
const INIT: &str = include_str!("init.sh");

/// The root file system of a guest, while it is put together.
pub(super) struct Root<'a> {
    system: &'a System,
    archive: Archive<Vec<u8>>,
    /// The paths that are in it.
    files: BTreeSet<String>,
}

impl<'a> Root<'a> {
    /// A root with the usual directories and programs.
    pub(super) fn new(system: &'a System) -> Result<Self> {
        let mut root = Self {
            system,
            archive: Archive::new(Vec::new()),
            files: BTreeSet::new(),
        };
        for name in MERGED {
            root.archive.directory(&format!("usr/{name}"))?;
            root.archive.link(name, &format!("usr/{name}"))?;
        }
        for name in [
            "dev", "etc", "guest", "proc", "root", "run", "sys", "tmp", "var/lib", "var/log",
        ] {
            root.archive.directory(name)?;
        }
        root.archive.link("var/run", "/run")?;
        root.archive.device("dev/console", [5, 1])?;
        root.archive.device("dev/null", [1, 3])?;
        root.text("init", 0o755, INIT)?;
        root.text(
            "etc/passwd",
            0o644,
            "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        )?;
        root.text(
            "etc/group",
            0o644,
            "root:x:0:\nnogroup:x:65534:\nlb-agent:x:999:\n",
        )?;
        root.text("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n")?;
        for (name, _) in PROGRAMS {
            root.program(&system.find(name)?, &format!("usr/bin/{name}"))?;
        }
        for name in APPLETS {
            root.archive.link(&format!("usr/bin/{name}"), "busybox")?;
        }
        // The path by which the kernel asks for modules.
        root.archive.link("usr/sbin/modprobe", "../bin/kmod")?;
        Ok(root)
    }

    pub(super) fn text(&mut self, path: &str, mode: u32, text: &str) -> Result<()> {
        self.archive.file(path, mode, text.as_bytes())
    }

    /// Puts a program at `path`, and its libraries into the directories that its loader searches.
    pub(super) fn program(&mut self, from: &Path, path: &str) -> Result<()> {
        self.copy(from, path)?;
        for library in self.system.libraries(from) {
            self.copy(&self.system.file(&library), &merged(&library))?;
        }
        Ok(())
    }

    fn copy(&mut self, from: &Path, path: &str) -> Result<()> {
        if !self.files.insert(path.to_owned()) {
            return Ok(());
        }
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.archive.file(path, 0o755, &content)
    }

    /// The finished archive, as bytes.
    pub(super) fn finish(self) -> Result<Vec<u8>> {
        self.archive.finish()
    }
}

/// A path as it is in the guest, without a slash in front.
fn merged(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = text.trim_start_matches('/');
    let first = text.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) {
        format!("usr/{text}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_where_usr_is_merged() {
        let expected = [
            (
                "/lib/x86_64-linux-gnu/libc.so.6",
                "usr/lib/x86_64-linux-gnu/libc.so.6",
            ),
            (
                "/lib64/ld-linux-x86-64.so.2",
                "usr/lib64/ld-linux-x86-64.so.2",
            ),
            ("/usr/lib/a.so", "usr/lib/a.so"),
            ("/opt/lib/a.so", "opt/lib/a.so"),
        ];
        for (path, in_guest) in expected {
            assert_eq!(merged(Path::new(path)), in_guest);
        }
    }
}
