//! Prepares the running kernel for the agent: bpffs has to be mounted before it starts.

use crate::sh::{CommandExt, say};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

const BPFFS: &str = "/sys/fs/bpf";

/// Mounts bpffs at its usual place, unless it is mounted there.
pub(crate) fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    if has_mount(&mounts, BPFFS, "bpf") {
        return Ok(());
    }
    if !Path::new(BPFFS).is_dir() {
        fs::create_dir_all(BPFFS).with_context(|| format!("make {BPFFS}"))?;
    }
    say(format!(
        "mounting bpffs at {BPFFS}, where the agent keeps its maps"
    ));
    Command::new("mount")
        .args(["-t", "bpf", "bpf", BPFFS])
        .run_shown()
}

fn has_mount(mounts: &str, at: &str, kind: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(at) && fields.next() == Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpf_mount_at_that_very_place_counts() {
        let mounts = "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,relatime 0 0\n";
        assert!(has_mount(mounts, "/sys/fs/bpf", "bpf"));
        assert!(!has_mount(mounts, "/sys", "bpf"));
        assert!(!has_mount(
            "none /sys/fs/bpf tmpfs rw 0 0\n",
            "/sys/fs/bpf",
            "bpf"
        ));
    }
}
