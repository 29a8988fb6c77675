//! An archive with an installer, for any distribution.

use super::directory;
use crate::sh::CommandExt;
use crate::target::Target;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Makes the archive of the files in [`directory`].
pub(crate) fn archive(version: &str, target: Target) -> Result<PathBuf> {
    let name = format!("lb-agent-{version}-{}-linux", target.processor);
    let dir = directory();
    let (files, named) = (dir.join("files"), dir.join(&name));
    let archive = dir.join(format!("{name}.tar.gz"));
    // It unpacks to a directory of its name.
    let _ = fs::remove_dir_all(&named);
    let copied = Command::new("cp").arg("-a").args([&files, &named]).read();
    copied.context("copy the files")?;
    let _ = fs::remove_dir_all(named.join("packaged"));
    let made = Command::new("tar")
        .current_dir(&dir)
        .args(["--create", "--gzip", "--sort=name"])
        .args(["--owner=0", "--group=0", "--numeric-owner"])
        .arg("--mode=u=rwX,go=rX")
        .arg("--file")
        .arg(&archive)
        .arg(&name)
        .run_shown();
    let _ = fs::remove_dir_all(&named);
    made.map(|()| archive)
}
