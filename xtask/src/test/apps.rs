//! The Node.js applications of the end-to-end tests: Node.js itself, and the packages of the
//! committed lock file.

use crate::machine::Machine;
use crate::packages::{self, Packages};
use crate::sh::{self, CommandExt, find_program, say};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest version of Node.js that Socket.IO's packages accept.
const OLDEST_NODE: u32 = 18;

/// Makes the applications ready and returns their directory.
pub(crate) fn ensure() -> Result<PathBuf> {
    for (program, package) in [
        ("ip", "iproute2"),
        ("setpriv", "util-linux"),
        ("systemd-analyze", "systemd"),
        ("node", "nodejs"),
        ("npm", "npm"),
        ("faketime", "faketime"),
        ("tmux", "tmux"),
        ("curl", "curl"),
        ("nft", "nftables"),
        ("openssl", "openssl"),
    ] {
        packages::ensure_program(program, package, "the end-to-end tests")?;
    }
    let browsers = ["chromium-headless-shell", "chromium"];
    if !browsers.iter().any(|name| find_program(name).is_some()) {
        packages::ensure(&browsers[..1], "the test with a browser")?;
    }
    if find_program("promtool").is_none() {
        packages::ensure_without_services(&["prometheus"], "checking metrics", &["prometheus"])?;
    }
    if find_program("nginx").is_none() {
        packages::ensure_without_services(&["nginx"], "comparing with nginx", &["nginx"])?;
    }
    ensure_acme()?;
    ensure_slow_clients()?;
    check_node()?;
    let dir = sh::workspace().join("tests/apps");
    install_packages(&dir)?;
    Ok(dir)
}

/// The ACME server Pebble, which few distributions have, and a client. Without them a test is skipped.
fn ensure_acme() -> Result<()> {
    let machine = Machine::this();
    if Packages::of(&machine).is_some_and(|packages| packages.has("pebble")) {
        let wanted = ["certbot", "pebble"];
        packages::ensure_without_services(&wanted, "certificates by ACME", &[])?;
    }
    Ok(())
}

/// The slow clients of slowhttptest, which few distributions have. Without it a test is skipped.
fn ensure_slow_clients() -> Result<()> {
    let machine = Machine::this();
    let has = |packages: Packages<'_>| packages.has("slowhttptest");
    if find_program("slowhttptest").is_none() && Packages::of(&machine).is_some_and(has) {
        packages::ensure(&["slowhttptest"], "slow clients")?;
    }
    Ok(())
}

fn check_node() -> Result<()> {
    let version = Command::new("node").arg("--version").read()?;
    let major = major(&version).with_context(|| format!("node calls itself {version:?}"))?;
    ensure!(
        major >= OLDEST_NODE,
        "the tests need Node.js {OLDEST_NODE} or later, not {version}"
    );
    Ok(())
}

fn major(version: &str) -> Option<u32> {
    version
        .trim()
        .strip_prefix('v')?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// `npm ci`, unless the packages of this very lock file are there.
fn install_packages(dir: &Path) -> Result<()> {
    let lock_file = dir.join("package-lock.json");
    let lock = fs::read(&lock_file).with_context(|| format!("read {}", lock_file.display()))?;
    let stamp = dir.join("node_modules/.installed-from");
    if fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    say(format!(
        "installing the packages of {}",
        lock_file.display()
    ));
    Command::new("npm")
        .current_dir(dir)
        .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        .run_shown()?;
    fs::create_dir_all(dir.join("node_modules"))
        .and_then(|()| fs::write(&stamp, lock))
        .with_context(|| format!("write {}", stamp.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_node_is_read() {
        assert_eq!(major("v20.20.2\n"), Some(20));
        assert_eq!(major("20"), None);
    }
}
