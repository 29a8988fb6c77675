//! redbot, a lint for HTTP in Python, in a virtual environment below `target/tools`.

use crate::packages;
use crate::sh::{self, CommandExt, say};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// The release whose notes `tests/http/redbot.rs` knows.
const RELEASE: &str = "2.7.1";

/// Path of the program, which is installed if it is not there.
pub(super) fn ensure() -> Result<PathBuf> {
    let dir = sh::target_dir().join(format!("tools/redbot-{RELEASE}"));
    let program = dir.join("bin/redbot");
    if program.exists() {
        return Ok(program);
    }
    // Debian has the module `venv` in a package of its own.
    let has_venv = || {
        Command::new("python3")
            .args(["-c", "import ensurepip, venv"])
            .read()
    };
    if has_venv().is_err() {
        packages::ensure(&["python3-venv"], "redbot, a lint for HTTP")?;
    }
    say(format!("installing redbot {RELEASE}"));
    Command::new("python3")
        .args(["-m", "venv"])
        .arg(&dir)
        .run_shown()?;
    Command::new(dir.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .arg(format!("redbot=={RELEASE}"))
        .run_shown()?;
    Ok(program)
}
