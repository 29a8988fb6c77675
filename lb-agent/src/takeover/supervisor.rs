//! Who started this agent, and would start another one when it ends.

use std::fs;

/// Environment variables of a supervisor, with the command that replaces the agent there.
const BY_VARIABLE: [(&str, &str); 2] = [
    ("NOTIFY_SOCKET", "systemctl restart lb-agent"),
    ("UPSTART_JOB", "restart lb-agent"),
];
/// Names of supervising processes.
const BY_PARENT: [(&str, &str); 6] = [
    ("supervise-daemo", "rc-service lb-agent restart"),
    ("runsv", "sv restart lb-agent"),
    ("s6-supervise", "s6-svc -r on its service directory"),
    ("supervisord", "supervisorctl restart lb-agent"),
    ("containerd-shim", "a new container"),
    ("conmon", "a new container"),
];

/// The reason why no other agent can take over from this one: a supervisor would start a third one.
pub(super) fn obstacle() -> Option<String> {
    let variable = BY_VARIABLE
        .iter()
        .find(|(name, _)| std::env::var_os(name).is_some());
    let parent = parent().unwrap_or_default();
    let by_parent = || {
        BY_PARENT
            .iter()
            .find(|(name, _)| parent.trim_end() == *name)
    };
    let remedy = match variable.or_else(by_parent) {
        Some((_, remedy)) => remedy,
        None if std::process::id() == 1 => "a new container",
        None => return None,
    };
    Some(format!(
        "a supervisor would start another agent when this one ends (use {remedy})"
    ))
}

/// The parent's name, of at most 15 bytes (proc(5), `comm`).
fn parent() -> Option<String> {
    let parent = rustix::process::getppid()?.as_raw_pid();
    fs::read_to_string(format!("/proc/{parent}/comm")).ok()
}
