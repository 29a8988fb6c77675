//! Debian's security archive, for machines with sources that leave it out. It has the compilers
//! that browsers are built by. The archive of the release keeps those of the day of the release.

use crate::machine::Machine;
use crate::sh::say;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

const FILE: &str = "apt/sources.list.d/lb-agent-security.list";

/// A source of packages to add.
pub(super) struct Source {
    file: PathBuf,
    line: String,
}

/// Debian's security archive, if this is a Debian release without it among its sources.
pub(super) fn missing_archive(machine: &Machine) -> Option<Source> {
    // Unstable and testing get everything in one archive, and have no such field or no such suite.
    let release = machine.os_release("VERSION_CODENAME")?;
    let stable = machine.os_release("VERSION_ID").is_some();
    if machine.os_release("ID")? != "debian" || !stable {
        return None;
    }
    let suite = format!("{release}-security");
    let named = |text: String| text.split_whitespace().any(|word| word == suite);
    if source_files(machine).into_iter().any(named) {
        return None;
    }
    Some(Source {
        file: machine.etc.join(FILE),
        line: format!("deb http://deb.debian.org/debian-security {suite} main\n"),
    })
}

/// The texts of all files that name sources.
fn source_files(machine: &Machine) -> Vec<String> {
    let apt = machine.etc.join("apt");
    let entries = apt.join("sources.list.d").read_dir();
    let parts = entries.into_iter().flatten().flatten();
    parts
        .map(|entry| entry.path())
        .chain([apt.join("sources.list")])
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect()
}

impl Source {
    pub(super) fn add(&self) -> Result<()> {
        let file = self.file.display();
        say(format!(
            "adding Debian's security archive, which has a newer compiler, in {file}"
        ));
        let dir = self.file.parent().context("no directory for sources")?;
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&self.file, &self.line))
            .with_context(|| format!("write {file}"))
    }

    pub(super) fn remove(&self) {
        say(format!("removing {} again", self.file.display()));
        let _ = fs::remove_file(&self.file);
    }
}
