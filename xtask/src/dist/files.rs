//! The files of all packages, in one directory: the stripped program, services, configuration,
//! manual, completions, schema of configurations.

use super::directory;
use crate::build::{self, Profile};
use crate::packages;
use crate::sh::{self, CommandExt};
use crate::target::Target;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files of the repository, and their names.
const COPIED: [(&str, &str); 11] = [
    ("packaging/config.toml", "config.toml"),
    ("packaging/install.sh", "install.sh"),
    ("packaging/lb-agent.logrotate", "lb-agent.logrotate"),
    ("packaging/lb-agent.openrc", "lb-agent.openrc"),
    ("packaging/lb-agent.service", "lb-agent.service"),
    ("packaging/lb-agent.sysusers", "lb-agent.sysusers"),
    ("packaging/lb-agent.sysv", "lb-agent.sysv"),
    ("packaging/lb-agent.upstart", "lb-agent.upstart"),
    ("README.md", "README.md"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
];

/// The debug information of the program last stripped for a processor. The program names this file
/// without its directory.
pub(super) fn debug_information(target: Target) -> PathBuf {
    directory().join(target.processor).join("lb-agent.debug")
}

/// Puts the built files together in a directory, which is returned.
pub(crate) fn files(profile: Profile, target: Target) -> Result<PathBuf> {
    let dir = directory().join("files");
    // Files of an older version may be there.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let program = dir.join("lb-agent");
    strip(&build::agent_for(profile, target), &program, target)?;
    target.run(program).arg("generate").arg(&dir).run_shown()?;
    for (from, to) in COPIED {
        let from = sh::workspace().join(from);
        fs::copy(&from, dir.join(to)).with_context(|| format!("copy {}", from.display()))?;
    }
    let write = |name: &str, text: &str| {
        fs::write(dir.join(name), text).with_context(|| format!("write {name}"))
    };
    write("architecture", &format!("{}\n", target.processor))?;
    // Packages have another place for the program.
    let unit = dir.join("lb-agent.service");
    let unit = fs::read_to_string(&unit).context("read the unit")?;
    fs::create_dir_all(dir.join("packaged")).context("make a directory for the unit")?;
    let unit = unit.replace("/usr/local/bin/", "/usr/bin/");
    write("packaged/lb-agent.service", &unit)?;
    Ok(dir)
}

/// Copies a program without its debug information, which goes to a file of its own; the copy names
/// that file, so that debuggers and `perf` find it.
fn strip(program: &Path, stripped: &Path, target: Target) -> Result<()> {
    let tool = target.tool("objcopy");
    packages::ensure_program(&tool, &target.binutils(), "packages")?;
    let debug = debug_information(target);
    let beside = debug.with_file_name("");
    fs::create_dir_all(&beside).with_context(|| format!("make {}", beside.display()))?;
    let objcopy = |option: &str| {
        let mut command = Command::new(&tool);
        // The link to the debug file is its name without a directory.
        command.current_dir(&beside).arg(option);
        command
    };
    objcopy("--only-keep-debug")
        .args([program, &debug])
        .run_shown()?;
    objcopy("--strip-all")
        .arg("--add-gnu-debuglink=lb-agent.debug")
        .args([program, stripped])
        .run_shown()
}
