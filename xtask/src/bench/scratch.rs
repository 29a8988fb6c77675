//! What a run leaves on the machine while it lasts: names that begin alike, a directory.

use super::cgroup;
use crate::sh::say;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the names of namespaces, pins and directories of a run begin with; its process id follows.
const PREFIX: &str = "lbbench-";

/// Removes what a run left that was killed before it could.
pub(super) fn sweep() {
    let cgroups = cgroup::root().unwrap_or_default();
    for dir in ["/run/netns", "/sys/fs/bpf", "/tmp"]
        .map(Path::new)
        .into_iter()
        .chain([cgroups.as_path()])
    {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_left_over(&name, |pid| Path::new("/proc").join(pid).exists()) {
                continue;
            }
            say(format!(
                "removing {}, left over from a run that was killed",
                entry.path().display()
            ));
            if dir == cgroups {
                let _ = fs::remove_dir(entry.path());
            } else if dir == Path::new("/run/netns") {
                let _ = Command::new("ip").args(["netns", "delete", &name]).status();
            } else {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn is_left_over(name: &str, is_alive: impl Fn(&str) -> bool) -> bool {
    let pid = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split('-').next());
    pid.is_some_and(|pid| !is_alive(pid))
}

/// A directory for this run, gone when dropped.
pub(super) struct Scratch {
    pub(super) name: String,
    pub(super) dir: PathBuf,
}

impl Scratch {
    /// Makes it.
    pub(super) fn new() -> Result<Self> {
        let name = format!("{PREFIX}{}", std::process::id());
        let dir = Path::new("/tmp").join(&name);
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self { name, dir })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(Path::new(&self.dir));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_run_left_is_removed() {
        let is_alive = |pid: &str| pid == "7";
        assert!(is_left_over("lbbench-8-server", is_alive));
        assert!(is_left_over("lbbench-8", is_alive));
        assert!(!is_left_over("lbbench-7-server", is_alive));
        assert!(!is_left_over("other-8", is_alive));
    }
}
