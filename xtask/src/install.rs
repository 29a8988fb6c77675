//! `cargo xtask install`: the program, its systemd unit and a first configuration.

use crate::build::{self, Profile};
use crate::host;
use crate::sh::{self, CommandExt, say};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "usr/local/bin/lb-agent";
const UNIT: &str = "etc/systemd/system/lb-agent.service";
const SYSUSERS: &str = "usr/lib/sysusers.d/lb-agent.conf";
const CONFIG: &str = "etc/lb-agent/config.toml";

/// Arguments of `cargo xtask install`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install below this directory, for an image or a package; implies --no-start
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Do not enable and start the service
    #[arg(long)]
    no_start: bool,
    /// Install what was built before
    #[arg(long)]
    no_build: bool,
}

/// Builds as whoever calls, then installs, which usually takes root.
pub(crate) fn install(args: &Args) -> Result<()> {
    if !args.no_build {
        build::build(Profile::Dist)?;
    }
    if args.root == Path::new("/") && !sh::is_root() {
        bail!(
            "it is built; installing it takes root, please run\n  sudo {} install --no-build{}",
            std::env::current_exe().context("find myself")?.display(),
            if args.no_start { " --no-start" } else { "" }
        );
    }
    let packaging = sh::workspace().join("packaging");
    put(
        &build::agent(Profile::Dist),
        &args.root.join(PROGRAM),
        0o755,
    )?;
    put(
        &packaging.join("lb-agent.service"),
        &args.root.join(UNIT),
        0o644,
    )?;
    put(
        &packaging.join("lb-agent.sysusers"),
        &args.root.join(SYSUSERS),
        0o644,
    )?;
    put_config(&packaging.join("config.toml"), &args.root.join(CONFIG))?;
    if args.root != Path::new("/") {
        return Ok(());
    }
    start(args.no_start)
}

/// Puts a file in its place by a rename: a program that runs cannot be written to.
fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    say(format!("installing {}", to.display()));
    let dir = to.parent().context("no directory to install to")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary)
        .and_then(|_| fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&temporary, to))
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// A configuration that is there belongs to whoever wrote it.
fn put_config(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        say(format!("keeping {} as it is", to.display()));
        return Ok(());
    }
    put(from, to, 0o644)
}

/// Hands the service to systemd, where that runs.
fn start(no_start: bool) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        say("systemd does not run here; start it by: lb-agent run");
        return host::mount_bpffs();
    }
    Command::new("systemd-sysusers")
        .arg(Path::new("/").join(SYSUSERS))
        .run_shown()?;
    systemctl(&["daemon-reload"])?;
    if no_start {
        say("not started, as asked; start it by: systemctl enable --now lb-agent");
        return Ok(());
    }
    systemctl(&["enable", "lb-agent"])?;
    // Starts it, or hands over to the new version: connections do not notice.
    systemctl(&["restart", "lb-agent"])
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    Command::new("systemctl").args(arguments).run_shown()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_is_there_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("etc/config.toml"));
        fs::write(&ours, "ours").unwrap();
        put_config(&ours, &theirs).unwrap();
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "ours");
        fs::write(&theirs, "theirs").unwrap();
        put_config(&ours, &theirs).unwrap();
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
    }

    #[test]
    fn an_installed_program_is_replaced_and_can_be_run() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("bin/lb-agent"));
        for content in ["one", "two"] {
            fs::write(&from, content).unwrap();
            put(&from, &to, 0o755).unwrap();
            assert_eq!(fs::read_to_string(&to).unwrap(), content);
        }
        assert_eq!(
            fs::metadata(&to).unwrap().permissions().mode() & 0o777,
            0o755
        );
    }
}
