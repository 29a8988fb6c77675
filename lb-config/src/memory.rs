//! The memory that there is for the agent: that of the machine, and the limits of its cgroups.

use std::fs;
use std::path::{Path, PathBuf};

/// Where systemd mounts cgroup v2.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The cgroup of the agent under systemd, which `lb-agent check` is not in.
const OF_SERVICE: &str = "/system.slice/lb-agent.service";
const MEMORY: &str = "/proc/meminfo";

/// The memory of this machine in bytes (`MemTotal`), as far as it tells.
pub(crate) fn bytes() -> u64 {
    let text = fs::read_to_string(MEMORY).unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0u64) * 1024
}

/// The least bytes that the machine and the cgroups of the agent allow, and the file that says so.
pub(crate) fn limit() -> Option<(PathBuf, u64)> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = Some(bytes()).filter(|bytes| *bytes > 0);
    let machine = machine.map(|bytes| (PathBuf::from(MEMORY), bytes));
    let groups = own.lines().filter_map(|line| line.strip_prefix("0::"));
    let groups = groups.chain([OF_SERVICE]);
    let limits = groups.flat_map(|group| of_group(Path::new(CGROUPS), group));
    machine
        .into_iter()
        .chain(limits)
        .min_by_key(|(_, bytes)| *bytes)
}

/// The limits of a cgroup and of those around it (`memory.max`; "max" is none).
fn of_group(root: &Path, group: &str) -> Vec<(PathBuf, u64)> {
    let group = root.join(group.trim_start_matches('/'));
    let around = group.ancestors().take_while(|dir| dir.starts_with(root));
    let files = around.map(|dir| dir.join("memory.max"));
    let limits = files.filter_map(|file| {
        let limit = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
        Some((file, limit))
    });
    limits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_cgroup_are_its_own_and_those_around_it() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("system.slice/a.service");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(dir.path().join("system.slice/memory.max"), "1048576\n").unwrap();
        let of = |group| of_group(dir.path(), group);
        let limits = of("/system.slice/a.service");
        assert_eq!(
            limits,
            [(dir.path().join("system.slice/memory.max"), 1 << 20)]
        );
        assert_eq!(of("/"), []);
        assert!(bytes() > 0 && limit().is_some());
    }
}
