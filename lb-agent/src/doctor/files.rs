//! Files and clocks: the state directory, pins, limits, and the agent that runs.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use lb_common::abi::ABI_VERSION;
use rustix::io::Errno;

use super::rights::Rights;
use super::{Finding, Running};
use crate::control::status::Status;
use crate::dataplane::bpf::{leftover, probe};
use lb_config::{AgentConfig, Config, DataPlane};

/// TMPFS_MAGIC, `linux/magic.h`.
const TMPFS: u64 = 0x0102_1994;
/// Files that two sockets for each of many connections need.
const MANY_FILES: u64 = 65_536;
/// 2024-01-01: a clock that is before has not been set.
const LONG_AGO_MS: u64 = 1_704_067_200_000;

pub(super) fn examine(config: &Config, running: &Running, rights: &Rights) -> Vec<Finding> {
    let state_dir = &config.agent.state_dir;
    let mut findings = vec![match &config.source {
        Some(file) if config.is_built_in => Finding::ok(
            "configuration",
            format!("{}, which has no service: one on port 80", file.display()),
        ),
        Some(file) => Finding::ok("configuration", file.display().to_string()),
        None => Finding::ok("configuration", "built in: one service on port 80"),
    }];
    findings.extend(state(state_dir, rights));
    if rights.can_load() {
        findings.extend(pins(&config.agent, running.status().is_some()));
    } else {
        findings.push(Finding::skipped("pins"));
    }
    findings.push(agent(running));
    findings.push(files(running.status()));
    findings.extend(clock());
    findings
}

fn state(dir: &Path, rights: &Rights) -> Vec<Finding> {
    let check = "state directory";
    let shown = dir.display();
    let there = dir.ancestors().find(|dir| dir.exists());
    let there = there.unwrap_or(Path::new("/"));
    let mut findings = Vec::new();
    let writable = rustix::fs::access(there, rustix::fs::Access::WRITE_OK);
    let stat = rustix::fs::statvfs(there);
    match writable {
        // The agent runs as another user, whose rights cannot be told from here.
        Err(Errno::ACCESS) if !rights.is_root => findings.push(Finding::skipped(check)),
        Err(error) => findings.push(Finding::failure(
            check,
            format!("{} cannot be written to: {error}", there.display()),
            "name another in [agent] state_dir, or run this as root",
        )),
        Ok(()) if there != dir => {
            findings.push(Finding::ok(check, format!("{shown} will be made")));
        }
        Ok(()) => findings.push(Finding::ok(check, shown.to_string())),
    }
    if stat.is_ok_and(|stat| stat.f_bavail * stat.f_frsize < 1 << 20) {
        findings.push(Finding::failure(
            check,
            format!("less than 1 MiB is free for {shown}"),
            "make room: no change can be kept",
        ));
    }
    if rustix::fs::statfs(there).is_ok_and(|stat| stat.f_type as u64 == TMPFS) {
        findings.push(Finding::warning(
            check,
            format!("{shown} is in memory: changes made at run time are lost at a reboot"),
            "name a directory on disk in [agent] state_dir",
        ));
    }
    if let Ok(meta) = fs::metadata(dir)
        && meta.permissions().mode() & 0o022 != 0
    {
        findings.push(Finding::failure(
            check,
            format!(
                "{shown} can be written to by others than its owner (uid {})",
                meta.uid()
            ),
            format!("chmod go-w {shown}"),
        ));
    }
    findings
}

/// Pins of this agent and, beside them, of others.
fn pins(agent: &AgentConfig, is_running: bool) -> Vec<Finding> {
    let check = "pins";
    let own = agent.pin_dir.as_path();
    let Some(parent) = own.parent() else {
        return Vec::new();
    };
    let all = probe::pins_below(parent);
    let mut findings = Vec::new();
    if !all.iter().any(|pins| pins.dir == own) {
        findings.push(if own.exists() && !is_running {
            left(agent)
        } else {
            Finding::ok(check, format!("none at {}", own.display()))
        });
    }
    for pins in all {
        let dir = pins.dir.display();
        let version = pins.abi_version;
        findings.push(if version != ABI_VERSION {
            Finding::warning(
                check,
                format!(
                    "{dir} is of another version of lb-agent (layout {version}, not {ABI_VERSION})"
                ),
                "if no agent of that version is to go on: lb-agent stop --purge, with --config for \
                 other than the usual pins",
            )
        } else if pins.dir != own {
            Finding::ok(check, format!("{dir} is of another agent"))
        } else if is_running {
            Finding::ok(check, format!("{dir}, layout {version}"))
        } else {
            left(agent)
        });
    }
    findings
}

/// Pins of this agent, while it does not run.
fn left(agent: &AgentConfig) -> Finding {
    let check = "pins";
    let dir = agent.pin_dir.display();
    match leftover::check(&agent.pin_dir) {
        Ok(()) => Finding::ok(check, format!("{dir} steers nothing here")),
        Err(found) if agent.data_plane == DataPlane::Userspace => Finding::failure(
            check,
            format!("{found}: data_plane = \"userspace\" does not start beside them"),
            "lb-agent stop --purge, or data_plane = \"auto\"",
        ),
        Err(_) => Finding::warning(
            check,
            format!("{dir} is in force, and no agent runs: the kernel goes on by itself"),
            "start the agent, or end it all: lb-agent stop --purge",
        ),
    }
}

fn agent(running: &Running) -> Finding {
    let check = "agent";
    let agent = match running {
        Running::Agent(status) => &status.agent,
        Running::Hidden => return Finding::skipped(check),
        Running::None => {
            return Finding::warning(
                check,
                "none is running",
                "systemctl start lb-agent, or lb-agent run",
            );
        }
    };
    let own = env!("CARGO_PKG_VERSION");
    if agent.version != own {
        return Finding::warning(
            check,
            format!("{} is running, this is {own}", agent.version),
            "systemctl restart lb-agent: connections do not notice",
        );
    }
    match agent.notes.as_slice() {
        [] => Finding::ok(check, format!("{own}, pid {}", agent.pid)),
        notes => Finding::warning(check, notes.join("; "), "see lb-agent status"),
    }
}

/// The limit on open files of the running agent, or of an agent that would be started from here.
fn files(status: Option<&Status>) -> Finding {
    let check = "open files";
    let who = status.map_or("self".to_owned(), |status| status.agent.pid.to_string());
    let limits = fs::read_to_string(format!("/proc/{who}/limits")).unwrap_or_default();
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    match limit {
        Some(limit) if limit < MANY_FILES => Finding::warning(
            check,
            format!(
                "at most {limit}: the proxy path and mode \"http\" take two for each connection"
            ),
            "the systemd unit allows 1048576; elsewhere: ulimit -n 1048576",
        ),
        Some(limit) => Finding::ok(check, format!("at most {limit}")),
        None => Finding::ok(check, "no limit to be seen"),
    }
}

fn clock() -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(if crate::state::overlay::unix_ms() < LONG_AGO_MS {
        Finding::warning(
            "clock",
            "it has not been set",
            "set it (NTP): drains end by the clock on the wall; affinity does not mind",
        )
    } else {
        Finding::ok("clock", "set")
    });
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    if let Ok(text) = fs::read_to_string(source) {
        let source = text.trim();
        findings.push(if ["hpet", "acpi_pm", "jiffies", "pit"].contains(&source) {
            Finding::warning(
                "clock source",
                format!("{source} is slow to read, and is read for each new connection"),
                "see the kernel's log for why the TSC was given up",
            )
        } else {
            Finding::ok("clock source", source)
        });
    }
    findings
}
