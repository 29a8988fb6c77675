//! What a process has used: time on a processor and memory.

use anyhow::{Context, Result};
use std::fs;

/// What all threads of a process have spent on a processor so far, in microseconds.
pub(super) fn cpu_us(pid: u32) -> Result<f64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("read the threads of a proxy")?;
    let mut ns = 0.0;
    for task in tasks.flatten() {
        // A thread that has just ended has no figures any more.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let spent = text
            .split(' ')
            .next()
            .and_then(|first| first.parse::<f64>().ok());
        ns += spent.unwrap_or(0.0);
    }
    Ok(ns / 1000.0)
}

/// The memory of a process that is in RAM.
pub(super) fn resident_kib(pid: u32) -> Result<f64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).context("read a proxy's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .context("no VmRSS in a proxy's status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_time_and_memory() {
        let me = std::process::id();
        assert!(cpu_us(me).unwrap() > 0.0);
        assert!(resident_kib(me).unwrap() > 0.0);
    }
}
