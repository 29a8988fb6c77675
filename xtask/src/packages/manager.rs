//! The supported package managers: their commands, and their names for packages.

use crate::machine::Machine;

/// A package manager and its commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) kind: Kind,
    /// The program that shows that a machine has this manager.
    pub(super) program: &'static str,
    /// Arguments that install packages; the names follow.
    pub(super) install: &'static [&'static str],
    /// Arguments that fetch the lists of packages anew. None if lists without an upgrade of the
    /// whole system would break it.
    pub(super) refresh: Option<&'static [&'static str]>,
    /// The command that tells the version to be installed of a package, and the field that holds
    /// it. The package's name follows.
    pub(super) ask: &'static [&'static str],
    pub(super) version: &'static str,
    /// A command that succeeds if a package is installed; its name follows.
    pub(super) installed: &'static [&'static str],
}

/// The kind of a manager; the order is that of the columns of [`NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Debian, Ubuntu and their kin.
    Apt,
    /// Fedora, RHEL and their kin.
    Dnf,
    /// openSUSE and its kin.
    Zypper,
    /// Arch and its kin.
    Pacman,
}

const MANAGERS: [Manager; 4] = [
    Manager {
        kind: Kind::Apt,
        program: "apt-get",
        // A machine that has just started may be looking for updates, hence the lock's timeout.
        // Debian's rustc-web and rustup exclude each other, so no package is removed.
        install: &[
            "-q",
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "DPkg::Lock::Timeout=600",
            "-o",
            "Acquire::Retries=3",
            "install",
            "-y",
            "--no-install-recommends",
            "--no-remove",
        ],
        refresh: Some(&[
            "-q",
            "-o",
            "DPkg::Lock::Timeout=600",
            "-o",
            "Acquire::Retries=3",
            "update",
        ]),
        ask: &["apt-cache", "policy"],
        version: "Candidate",
        installed: &["dpkg-query", "-W", "-f", "${db:Status-Status}"],
    },
    Manager {
        kind: Kind::Dnf,
        program: "dnf",
        install: &["install", "-y", "--setopt=install_weak_deps=False"],
        refresh: Some(&["makecache", "--refresh"]),
        ask: &["dnf", "--quiet", "info"],
        version: "Version",
        installed: &["rpm", "--query"],
    },
    Manager {
        kind: Kind::Zypper,
        program: "zypper",
        install: &["--non-interactive", "install", "--no-recommends"],
        refresh: Some(&["--non-interactive", "refresh"]),
        ask: &["zypper", "--non-interactive", "--no-refresh", "info"],
        version: "Version",
        installed: &["rpm", "--query"],
    },
    Manager {
        kind: Kind::Pacman,
        program: "pacman",
        install: &["-S", "--noconfirm", "--needed"],
        refresh: None,
        ask: &["pacman", "-Si"],
        version: "Version",
        installed: &["pacman", "-Q"],
    },
];

/// Debian's name of a package, and those of the other managers in the order of [`Kind`]. Packages
/// with one name everywhere are left out. An empty name: the distribution has no such package.
const NAMES: [(&str, [&str; 3]); 11] = [
    ("g++", ["gcc-c++", "gcc-c++", "gcc"]),
    ("iproute2", ["iproute", "iproute2", "iproute2"]),
    ("nodejs", ["nodejs", "nodejs-default", "nodejs"]),
    ("npm", ["nodejs-npm", "npm-default", "npm"]),
    ("faketime", ["libfaketime", "libfaketime", "libfaketime"]),
    (
        "chromium-headless-shell",
        ["chromium", "chromium", "chromium"],
    ),
    (
        "prometheus",
        [
            "golang-github-prometheus",
            "golang-github-prometheus-prometheus",
            "prometheus",
        ],
    ),
    ("libnginx-mod-stream", ["nginx-mod-stream", "nginx", ""]),
    ("nghttp2-client", ["nghttp2", "nghttp2", "nghttp2"]),
    ("pebble", ["", "", ""]),
    ("wrk", ["wrk", "wrk", ""]),
];

impl Manager {
    /// The package manager of a machine.
    pub(super) fn of(machine: &Machine) -> Option<&'static Manager> {
        // Debian has packages of the others' programs.
        let debian = machine.etc.join("debian_version").exists();
        MANAGERS
            .iter()
            .filter(|manager| (manager.kind == Kind::Apt) == debian)
            .find(|manager| machine.find(manager.program).is_some())
    }

    /// The manager's name for the package that Debian calls `name`.
    pub(super) fn name<'a>(&self, name: &'a str) -> Option<&'a str> {
        let column = match self.kind {
            Kind::Apt => return Some(name),
            Kind::Dnf => 0,
            Kind::Zypper => 1,
            Kind::Pacman => 2,
        };
        let row = NAMES.iter().find(|(debian, _)| *debian == name);
        let own = row.map_or(name, |(_, others)| others[column]);
        (!own.is_empty()).then_some(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_the_names_of_the_distribution() {
        let manager = |kind| {
            MANAGERS
                .iter()
                .find(|manager| manager.kind == kind)
                .unwrap()
        };
        assert_eq!(manager(Kind::Apt).name("g++"), Some("g++"));
        assert_eq!(manager(Kind::Dnf).name("g++"), Some("gcc-c++"));
        assert_eq!(manager(Kind::Pacman).name("tmux"), Some("tmux"));
        assert_eq!(manager(Kind::Pacman).name("wrk"), None);
    }
}
