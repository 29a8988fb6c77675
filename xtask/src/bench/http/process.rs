//! What a process has used: time on a processor and memory.

use anyhow::{Context, Result};
use std::fs;

/// What all threads of a process and of its children have spent on a processor so far, in microseconds.
pub(super) fn cpu_us(pid: u32) -> Result<f64> {
    let parents = parents()?;
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        at += 1;
        let children = parents.iter().filter(|(_, of)| *of == parent);
        family.extend(children.map(|(child, _)| *child));
    }
    family.into_iter().map(of_threads).sum()
}

/// All processes, each with its parent.
fn parents() -> Result<Vec<(u32, u32)>> {
    let processes = fs::read_dir("/proc").context("read the processes")?;
    let parent = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name before it is in parentheses, and may have some itself.
        let parent = stat.rsplit(") ").next()?.split(' ').nth(1)?;
        Some((pid, parent.parse().ok()?))
    };
    Ok(processes.flatten().filter_map(parent).collect())
}

fn of_threads(pid: u32) -> Result<f64> {
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
    fn the_time_of_children_counts() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let parents = parents().unwrap();
        let has_spent = loop {
            match of_threads(child.id()) {
                Ok(spent) if spent > 0.0 => break spent,
                _ => std::thread::yield_now(),
            }
        };
        let together = cpu_us(std::process::id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(parents.contains(&(child.id(), std::process::id())));
        assert!(together > has_spent);
    }

    #[test]
    fn a_process_has_used_time_and_memory() {
        let me = std::process::id();
        assert!(cpu_us(me).unwrap() > 0.0);
        assert!(resident_kib(me).unwrap() > 0.0);
    }
}
