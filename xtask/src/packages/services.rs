//! Installs packages for their programs, without starting their services.

use super::{Kind, Packages, ensure};
use crate::machine::Machine;
use crate::sh::CommandExt;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// The script that denies every Debian package the start of its services.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs packages for their programs alone: their services are neither started now nor at the
/// next boot.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_without_services(
    names: &[&str],
    what_for: &str,
    services: &[&str],
) -> Result<()> {
    let machine = Machine::this();
    let Some(packages) = Packages::of(&machine) else {
        return ensure(names, what_for);
    };
    if packages.kind() != Kind::Apt {
        // Packages of other managers start nothing by themselves.
        return packages.ensure(names, what_for);
    }
    if names.iter().all(|name| packages.is_installed(name)) {
        return Ok(());
    }
    let ours = machine.root && !Path::new(POLICY).exists();
    let is_new = |name: &&&str| !packages.is_installed(name);
    let new: Vec<&&str> = services.iter().filter(is_new).collect();
    if ours {
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("write {POLICY}"))?;
    }
    let result = packages.ensure(names, what_for);
    if ours {
        fs::remove_file(POLICY).with_context(|| format!("remove {POLICY}"))?;
    }
    result?;
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let mut enabled = new.into_iter().filter(|name| packages.is_installed(name));
    enabled.try_for_each(|name| {
        Command::new("systemctl")
            .args(["--quiet", "disable", name])
            .run_shown()
    })
}
