//! A Debian package, by cargo-deb. Its contents are listed in `lb-agent/Cargo.toml`.

use super::{directory, ensure_cargo_command};
use crate::build::Profile;
use crate::sh::{self, CommandExt};
use crate::target::Target;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Makes the package of the built files; small for [`Profile::Dist`], else quickly.
pub(crate) fn deb(version: &str, profile: Profile, target: Target) -> Result<PathBuf> {
    ensure_cargo_command("cargo-deb", "^3")?;
    scripts()?;
    let package = directory().join(format!("lb-agent_{version}_{}.deb", target.debian));
    let mut command = Command::new(sh::cargo());
    command
        .current_dir(sh::workspace())
        .args(["deb", "--package", "lb-agent"])
        .args(["--no-build", "--no-strip", "--quiet"])
        .args(["--deb-version", version, "--output"])
        .arg(&package);
    if let Some(cross) = target.cross {
        // cargo-deb takes the package's architecture from the target.
        command.args(["--target", cross.triple]);
    }
    if profile != Profile::Dist {
        command.arg("--fast");
    }
    command.run_shown()?;
    Ok(package)
}

/// Maintainer scripts and the unit, as cargo-deb names and looks for them.
fn scripts() -> Result<()> {
    let dir = directory().join("scripts");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let packaging = sh::workspace().join("packaging/debian");
    let unit = directory().join("files/packaged/lb-agent.service");
    let scripts = ["postinst", "prerm", "postrm"].map(|name| (packaging.join(name), name));
    for (from, name) in scripts.into_iter().chain([(unit, "service")]) {
        fs::copy(&from, dir.join(name)).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}
