//! What the tests of the Debian package need: a clean Debian root, which is kept, and two versions
//! of the package.

use crate::build::Profile;
use crate::dist;
use crate::packages;
use crate::sh::{CommandExt, say};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes all of it ready, as variables for the test.
pub(crate) fn ensure() -> Result<Vec<(&'static str, PathBuf)>> {
    dist::files(Profile::Release)?;
    Ok(vec![
        ("LB_TEST_DEBIAN_ROOT", root()?),
        ("LB_TEST_DEB", dist::deb("0.1.0", Profile::Release)?),
        ("LB_TEST_NEWER_DEB", dist::deb("0.1.1", Profile::Release)?),
    ])
}

/// A Debian of the same release as this one, from the mirrors that are configured here.
fn root() -> Result<PathBuf> {
    let root = dist::directory().join("debian-root");
    let is_whole = |root: &Path| {
        root.join("usr/lib/systemd/systemd").exists() || root.join("lib/systemd/systemd").exists()
    };
    if is_whole(&root) {
        return Ok(root);
    }
    // One of before, without systemd.
    let _ = fs::remove_dir_all(&root);
    packages::ensure_program("mmdebstrap", "mmdebstrap", "testing the package")?;
    say("making a clean Debian root (a minute or two, once)");
    let temporary = root.with_extension("new");
    // One that was cut short.
    let _ = fs::remove_dir_all(&temporary);
    fs::create_dir_all(dist::directory()).context("make target/packages")?;
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let name = codename(&release).context("this Debian has no VERSION_CODENAME")?;
    let mut command = Command::new("mmdebstrap");
    command
        .args([
            "--variant=minbase",
            "--include=iproute2,systemd",
            "--quiet",
            name,
        ])
        .arg(&temporary);
    // Without it, mmdebstrap asks Debian's own mirrors.
    let places = [
        "/etc/apt/sources.list",
        "/etc/apt/sources.list.d/debian.sources",
    ];
    let names_one = |file: &&str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .any(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
    };
    command.args(places.into_iter().find(names_one));
    command.run_shown()?;
    fs::rename(&temporary, &root).with_context(|| format!("rename to {}", root.display()))?;
    Ok(root)
}

fn codename(release: &str) -> Option<&str> {
    release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_known_by_its_name() {
        assert_eq!(
            codename("ID=debian\nVERSION_CODENAME=bookworm\n"),
            Some("bookworm")
        );
        assert_eq!(codename("ID=other\n"), None);
    }
}
