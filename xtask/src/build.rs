//! `cargo xtask build`: the eBPF object first, then the agent that embeds it.

use crate::setup;
use crate::sh::{self, CommandExt, say};
use crate::target::{Arch, Target};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The processor to build for, this machine's if left out
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
}

/// `cargo xtask build`
pub(crate) fn run(args: &Args) -> Result<()> {
    let (profile, target) = (Profile::Release, Target::of(args.arch));
    build_for(profile, target)?;
    say(format!("built {}", agent_for(profile, target).display()));
    Ok(())
}

/// A profile of Cargo.toml; Cargo builds into a directory of the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build: for a first look and for tests.
    Release,
    /// Optimised over all crates: for installed, packaged and measured programs.
    Dist,
}

impl Profile {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Dist => "dist",
        }
    }
}

/// The path of a program of the workspace after `profile` was built for this machine.
pub(crate) fn program(profile: Profile, name: &str) -> PathBuf {
    sh::target_dir().join(profile.name()).join(name)
}

/// The objects that the agent embeds, by the names of their programs in `lb-ebpf`.
const OBJECTS: [&str; 3] = ["lb-decap", "lb-packets", "lb-ebpf"];

/// The path of the agent that `build` makes.
pub(crate) fn agent(profile: Profile) -> PathBuf {
    program(profile, "lb-agent")
}

/// The path of the agent that `build_for` makes.
pub(crate) fn agent_for(profile: Profile, target: Target) -> PathBuf {
    target.directory().join(profile.name()).join("lb-agent")
}

/// Builds the eBPF object, then the agent that embeds it.
pub(crate) fn build(profile: Profile) -> Result<()> {
    build_for(profile, Target::own())
}

/// Builds both for a processor.
pub(crate) fn build_for(profile: Profile, target: Target) -> Result<()> {
    setup::ensure_cross(target)?;
    build_object_for(target)?;
    package_for(profile, "lb-agent", target)
}

/// Compiles one package of the workspace.
pub(crate) fn package(profile: Profile, name: &str) -> Result<()> {
    package_for(profile, name, Target::own())
}

fn package_for(profile: Profile, name: &str, target: Target) -> Result<()> {
    let mut cargo = Command::new(sh::cargo());
    cargo.current_dir(sh::workspace()).args([
        "build",
        "--profile",
        profile.name(),
        "--package",
        name,
    ]);
    target.apply(&mut cargo);
    cargo.run_shown()
}

/// Compiles the eBPF programs and puts the objects in their place.
pub(crate) fn build_object() -> Result<()> {
    build_object_for(Target::own())
}

/// Compiles the eBPF programs for a processor.
pub(crate) fn build_object_for(target: Target) -> Result<()> {
    let toolchain = setup::ensure_toolchain()?;
    let crate_dir = sh::workspace().join("lb-ebpf");
    let processor = target.processor;
    say(format!("compiling lb-ebpf for {processor} by {toolchain}"));
    let mut cargo = toolchain.cargo("build", &crate_dir, processor);
    cargo.arg("--message-format=json-render-diagnostics");
    let messages = capture_stdout(&mut cargo, "compiling lb-ebpf")?;
    for name in OBJECTS {
        let built = executable(&messages, name)
            .with_context(|| format!("cargo named no object for {name}"))?;
        install_if_changed(
            &built,
            &target.bpf_object().with_file_name(format!("{name}.o")),
        )?;
    }
    Ok(())
}

/// Runs cargo with its diagnostics on the terminal, and returns its messages.
pub(crate) fn capture_stdout(cargo: &mut Command, what: &str) -> Result<String> {
    let output = cargo
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("run cargo")?;
    anyhow::ensure!(output.status.success(), "{what} failed");
    String::from_utf8(output.stdout).context("read cargo's messages")
}

/// The file that cargo says it built for the program `name`.
pub(crate) fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// Copies a file by a rename, and leaves one with the same content alone, so that nothing is
/// built again for its time stamp.
pub(crate) fn install_if_changed(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let dir = to.parent().context("no directory to write to")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let temporary = to.with_extension("new");
    fs::write(&temporary, content)
        .and_then(|()| fs::rename(&temporary, to))
        .with_context(|| format!("write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_the_executable_of_the_crate_itself() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"core"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"lb-ebpf"},"executable":"target/x/lb-ebpf"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executable(messages, "lb-ebpf"),
            Some(PathBuf::from("target/x/lb-ebpf"))
        );
        assert_eq!(executable(messages, "lb-decap"), None);
    }

    #[test]
    fn an_unchanged_file_keeps_its_time_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("deep/to.o"));
        fs::write(&from, "one").unwrap();
        install_if_changed(&from, &to).unwrap();
        let stamp = fs::metadata(&to).unwrap().modified().unwrap();
        install_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), stamp);
        fs::write(&from, "two").unwrap();
        install_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
    }
}
