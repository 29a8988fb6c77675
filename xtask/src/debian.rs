//! Debian packages: which are there, which could be, and how they get installed.

use crate::sh::{CommandExt, find_program, is_root, say};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Whether this is a machine with Debian's packages.
pub(crate) fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && find_program("apt-get").is_some()
}

/// Answers every package that asks whether it may start its services: no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs packages for their programs alone: their services are neither started now nor at the
/// next boot.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_without_services(
    packages: &[&str],
    what_for: &str,
    services: &[&str],
) -> Result<()> {
    if packages.iter().all(|name| is_installed(name)) {
        return Ok(());
    }
    let ours = is_root() && is_debian() && !Path::new(POLICY).exists();
    let new: Vec<&&str> = services.iter().filter(|name| !is_installed(name)).collect();
    if ours {
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("write {POLICY}"))?;
    }
    let result = ensure(packages, what_for);
    if ours {
        fs::remove_file(POLICY).with_context(|| format!("remove {POLICY}"))?;
    }
    result?;
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let enabled = new.into_iter().filter(|name| is_installed(name));
    enabled.copied().try_for_each(|name| {
        Command::new("systemctl")
            .args(["--quiet", "disable", name])
            .run_shown()
    })
}

/// Installs those of the packages that are missing.
///
/// # Errors
/// Fails with the command to run where it cannot: no root, another distribution, no such package.
pub(crate) fn ensure(packages: &[&str], what_for: &str) -> Result<()> {
    if !is_debian() {
        bail!(
            "{what_for} needs what Debian has in: {}; please install it and run this again",
            packages.join(" ")
        );
    }
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|name| !is_installed(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !is_root() {
        bail!(
            "{what_for} needs packages; please run\n  \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {names}\n\
             and then this again"
        );
    }
    say(format!("installing for {what_for}: {names}"));
    if missing.iter().any(|name| !is_known(name)) {
        apt_get(&["update"])?;
    }
    if let Some(unknown) = missing.iter().find(|name| !is_known(name)) {
        bail!("{what_for} needs the package {unknown}, which no source in /etc/apt offers");
    }
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(missing);
    apt_get(&arguments).or_else(|_| {
        say("perhaps what apt has heard of these packages is out of date");
        apt_get(&["update"])?;
        apt_get(&arguments)
    })
}

/// Whether apt has heard of the package.
pub(crate) fn is_known(package: &str) -> bool {
    policy(package).is_some_and(|text| has_candidate(&text))
}

/// The version that apt would install.
fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate: "))
        .any(|version| version != "(none)")
}

fn policy(package: &str) -> Option<String> {
    Command::new("apt-cache")
        .env("LC_ALL", "C")
        .args(["policy", package])
        .read()
        .ok()
}

/// Refreshes apt's lists if the package is not in them.
pub(crate) fn refresh_for(package: &str) -> Result<()> {
    if is_known(package) || !is_root() {
        return Ok(());
    }
    apt_get(&["update"])
}

/// What the package depends on.
pub(crate) fn depends_on(package: &str) -> Vec<String> {
    let text = Command::new("apt-cache")
        .args(["depends", package])
        .read()
        .unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .map(str::to_owned)
        .collect()
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .read()
        .is_ok_and(|status| status.ends_with(" installed"))
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-o", "Dpkg::Use-Pty=0"])
        // A machine that has just started may be looking for updates.
        .args(["-o", "DPkg::Lock::Timeout=600"])
        .args(["-o", "Acquire::Retries=3"])
        .args(arguments)
        .run_shown()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_candidate_is_unknown() {
        assert!(!has_candidate(""));
        assert!(!has_candidate(
            "g++-99:\n  Installed: (none)\n  Candidate: (none)\n"
        ));
        assert!(has_candidate(
            "g++:\n  Installed: (none)\n  Candidate: 4:12.2.0-3\n"
        ));
    }
}
