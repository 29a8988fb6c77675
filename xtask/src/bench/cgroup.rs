//! Two cgroups of a run. The programs of every agent are attached to one of them, so sockets of the
//! other are as on a machine without an agent.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One of the two cgroups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cgroup {
    /// No program sees its sockets.
    Bare,
    /// Every agent's programs see its sockets.
    Watched,
}

/// Both cgroups, removed when dropped. Their processes have to be gone by then.
pub(super) struct Cgroups {
    bare: PathBuf,
    watched: PathBuf,
}

impl Cgroups {
    /// Makes both, at the root of the cgroup v2 hierarchy.
    pub(super) fn new(name: &str) -> Result<Self> {
        let root = root().context("no cgroup v2 hierarchy is mounted")?;
        let cgroups = Self {
            bare: root.join(format!("{name}-bare")),
            watched: root.join(format!("{name}-watched")),
        };
        for dir in [&cgroups.bare, &cgroups.watched] {
            fs::create_dir(dir).with_context(|| format!("make the cgroup {}", dir.display()))?;
        }
        Ok(cgroups)
    }

    /// The directory of one of them.
    pub(super) fn dir(&self, cgroup: Cgroup) -> &Path {
        match cgroup {
            Cgroup::Bare => &self.bare,
            Cgroup::Watched => &self.watched,
        }
    }

    /// `command`, to be started inside of `cgroup`.
    pub(super) fn inside(&self, cgroup: Cgroup, command: &Command) -> Command {
        use std::os::unix::process::CommandExt as _;
        let join = "echo 0 > \"$0\" && exec \"$@\"";
        let mut inside = Command::new("sh");
        inside
            .args(["-c", join])
            .arg(self.dir(cgroup).join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args())
            .process_group(0);
        inside
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for dir in [&self.bare, &self.watched] {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Where the cgroup v2 hierarchy is mounted.
pub(super) fn root() -> Option<PathBuf> {
    mounted(&fs::read_to_string("/proc/mounts").ok()?)
}

fn mounted(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_device, dir, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(dir))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_mount_is_found_beside_version_1() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let root = Path::new("/sys/fs/cgroup/unified");
        assert_eq!(mounted(mounts).as_deref(), Some(root));
        assert_eq!(mounted("proc /proc proc rw 0 0\n"), None);
    }
}
