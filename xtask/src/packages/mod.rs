//! Packages of the distribution: lists the installed and available ones, and installs them.
//!
//! Packages are named as Debian names them; `manager` translates.

mod manager;
mod services;
mod sources;

use crate::machine::Machine;
use crate::sh::{CommandExt, say};
use anyhow::{Result, bail};
use std::cell::Cell;
use std::process::Command;

pub(crate) use manager::{Kind, Manager};
pub(crate) use services::ensure_without_services;

/// Installs those of the packages that are missing on this machine.
///
/// # Errors
/// As [`Packages::ensure`].
pub(crate) fn ensure(names: &[&str], what_for: &str) -> Result<()> {
    let machine = Machine::this();
    let Some(packages) = Packages::of(&machine) else {
        bail!(
            "{what_for} needs what Debian has in: {}; please install it and run this again",
            names.join(" ")
        );
    };
    packages.ensure(names, what_for)
}

/// Makes sure that a program is installed, by Debian's `package` of it.
pub(crate) fn ensure_program(program: &str, package: &str, what_for: &str) -> Result<()> {
    if Machine::this().find(program).is_some() {
        return Ok(());
    }
    ensure(&[package], what_for)
}

/// The installed and available packages of a machine.
pub(crate) struct Packages<'a> {
    machine: &'a Machine,
    manager: &'static Manager,
    /// Whether this program has fetched the lists: once is enough.
    refreshed: Cell<bool>,
}

impl<'a> Packages<'a> {
    /// None if no package manager is known.
    pub(crate) fn of(machine: &'a Machine) -> Option<Self> {
        Some(Self {
            machine,
            manager: Manager::of(machine)?,
            refreshed: Cell::new(false),
        })
    }

    pub(crate) fn kind(&self) -> Kind {
        self.manager.kind
    }

    /// Installs those of the packages that are missing.
    ///
    /// # Errors
    /// Fails if it cannot install: no root, no such package. The error has the command to run.
    pub(crate) fn ensure(&self, names: &[&str], what_for: &str) -> Result<()> {
        let mut missing = Vec::new();
        for name in names {
            let Some(own) = self.manager.name(name) else {
                bail!("{what_for} needs {name}, which this distribution has no package of");
            };
            if !self.is_installed(own) {
                missing.push(own);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if !self.machine.root {
            bail!(
                "{what_for} needs packages; please run\n  {}\nand then this again",
                self.by_hand(&missing)
            );
        }
        say(format!("installing for {what_for}: {}", missing.join(" ")));
        if missing.iter().any(|name| self.candidate(name).is_none()) {
            self.refresh()?;
        }
        if let Some(unknown) = missing.iter().find(|name| self.candidate(name).is_none()) {
            let program = self.manager.program;
            bail!("{what_for} needs the package {unknown}, which {program} does not know");
        }
        self.install(&missing).or_else(|error| {
            if self.refreshed.get() || self.manager.refresh.is_none() {
                return Err(error);
            }
            say("the lists of packages may be out of date");
            self.refresh()?;
            self.install(&missing)
        })
    }

    /// Whether the distribution has a package that Debian calls `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        let Some(own) = self.manager.name(name) else {
            return false;
        };
        let is_known = || self.candidate(own).is_some();
        self.is_installed(own) || is_known() || (self.refresh().is_ok() && is_known())
    }

    /// The version that would be installed.
    pub(crate) fn candidate(&self, name: &str) -> Option<String> {
        let text = self.ask(self.manager.ask, name)?;
        version(&text, self.manager.version)
    }

    /// Fetches the lists of packages, unless they were fetched or cannot be.
    ///
    /// # Errors
    /// Fails if the package manager does.
    pub(crate) fn refresh(&self) -> Result<()> {
        let Some(arguments) = self.manager.refresh else {
            return Ok(());
        };
        if !self.machine.root || self.refreshed.replace(true) {
            return Ok(());
        }
        say("fetching the lists of packages");
        self.manage(arguments).run_shown()
    }

    /// Adds Debian's security archive if the machine's sources leave it out, and fetches the lists
    /// again. Returns whether there is anything new.
    pub(crate) fn add_security_archive(&self) -> Result<bool> {
        if self.kind() != Kind::Apt || !self.machine.root {
            return Ok(false);
        }
        let Some(source) = sources::missing_archive(self.machine) else {
            return Ok(false);
        };
        source.add()?;
        self.refreshed.set(false);
        self.refresh().inspect_err(|_| source.remove())?;
        Ok(true)
    }

    /// Names of packages that begin with `prefix`, in the lists of apt.
    pub(crate) fn beginning_with(&self, prefix: &str) -> Vec<String> {
        if self.kind() != Kind::Apt {
            return Vec::new();
        }
        let names = self.ask(&["apt-cache", "pkgnames"], prefix);
        let names = names.unwrap_or_default();
        names.lines().map(str::to_owned).collect()
    }

    pub(crate) fn is_installed(&self, name: &str) -> bool {
        let state = self.ask(self.manager.installed, name);
        // dpkg also knows packages that were removed.
        state.is_some_and(|state| self.kind() != Kind::Apt || state.starts_with("installed"))
    }

    /// The package manager's answer about a package; None if it fails.
    fn ask(&self, question: &[&str], name: &str) -> Option<String> {
        let program = self.machine.find(question[0])?;
        let mut command = self.machine.command(program);
        command.env("LC_ALL", "C").args(&question[1..]).arg(name);
        command.read().ok()
    }

    fn install(&self, names: &[&str]) -> Result<()> {
        self.manage(self.manager.install).args(names).run_shown()
    }

    fn manage(&self, arguments: &[&str]) -> Command {
        let program = self.machine.find(self.manager.program);
        let program = program.unwrap_or_else(|| self.manager.program.into());
        let mut command = self.machine.command(program);
        if self.kind() == Kind::Apt {
            command.env("DEBIAN_FRONTEND", "noninteractive");
        }
        command.args(arguments);
        command
    }

    /// The command that installs packages, to be pasted by the user.
    fn by_hand(&self, names: &[&str]) -> String {
        let names = names.join(" ");
        match self.kind() {
            Kind::Apt => format!(
                "sudo apt-get update && sudo apt-get install -y --no-install-recommends {names}"
            ),
            Kind::Dnf => format!("sudo dnf install -y {names}"),
            Kind::Zypper => format!("sudo zypper install --no-recommends {names}"),
            Kind::Pacman => format!("sudo pacman -Syu --needed {names}"),
        }
    }
}

/// The value of a field such as `  Candidate: 1.96.0` or `Version     : 22.1.8`.
fn version(text: &str, field: &str) -> Option<String> {
    let mut values = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == field).then(|| value.trim().to_owned())
    });
    values.find(|value| !value.is_empty() && value != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_each_manager_says() {
        let apt = "g++-99:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(version(apt, "Candidate"), None);
        let apt = "g++:\n  Installed: (none)\n  Candidate: 4:12.2.0-3\n";
        assert_eq!(version(apt, "Candidate").as_deref(), Some("4:12.2.0-3"));
        let dnf = "Available packages\nName         : llvm-devel\nVersion      : 21.1.8\n";
        assert_eq!(version(dnf, "Version").as_deref(), Some("21.1.8"));
        assert_eq!(version("package 'x' not found.\n", "Version"), None);
    }
}
