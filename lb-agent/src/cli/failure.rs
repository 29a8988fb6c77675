//! From an error to its printed message and the exit code.

use std::io;
use std::io::Write as _;
use std::process::ExitCode;

use tracing::Level;

use super::journal::{is_journal, prefix};
use crate::control::client::CallError;
use crate::control::message::{Refusal, RefusalKind};
use lb_config::ConfigError;

/// The command could not be carried out.
pub(super) const FAILED: u8 = 1;
/// The command line or the configuration makes no sense.
pub(super) const USAGE: u8 = 2;
/// No agent answers.
pub(super) const UNREACHABLE: u8 = 3;

/// Exit code of `run` after `lb-agent stop`: the supervisor must not start it again. The systemd unit names
/// it.
pub(super) const TOLD_TO_STOP: u8 = 4;

/// An end that is not a good one.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    lines: Vec<String>,
}

impl Failure {
    /// The attempted action, the cause, and the remedy.
    pub(super) fn failed(line: impl Into<String>) -> Self {
        Self::new(FAILED, [line.into()])
    }

    pub(super) fn usage(line: impl Into<String>) -> Self {
        Self::new(USAGE, [line.into()])
    }

    /// One that has been printed already.
    pub(super) fn shown(code: u8) -> Self {
        Self::new(code, [])
    }

    /// A configuration with problems.
    pub(super) fn of_config(error: &ConfigError) -> Self {
        Self::new(USAGE, error.to_string().lines().map(str::to_owned))
    }

    /// Problems found beside those in the text of a configuration.
    pub(super) fn of_lines(lines: Vec<String>) -> Self {
        Self::new(USAGE, lines)
    }

    /// A call for the command `tried` that has no good answer.
    pub(super) fn of_call(tried: &str, error: CallError) -> Self {
        match &error {
            CallError::Unreachable { source, .. } => {
                let (cause, remedy) = unreachable(source);
                Self::new(UNREACHABLE, [format!("{error}: {cause} ({remedy})")])
            }
            CallError::Silent { pid, .. } => Self::new(
                UNREACHABLE,
                [format!("{tried}: {error} ({})", silent(*pid))],
            ),
            CallError::Refused(refusal) => Self::of_refusal(tried, refusal),
            CallError::Garbled { .. } | CallError::Late { .. } => Self::failed(format!(
                "{tried}: {error} (see the agent's log; is it an lb-agent that listens there?)"
            )),
        }
    }

    /// The agent's text may have several lines: the problems of a configuration.
    fn of_refusal(tried: &str, refusal: &Refusal) -> Self {
        let code = match refusal.kind {
            RefusalKind::BadRequest => USAGE,
            RefusalKind::NotFound | RefusalKind::Conflict | RefusalKind::Failed => FAILED,
        };
        let mut lines: Vec<String> = refusal.error.lines().map(str::to_owned).collect();
        match (lines.as_mut_slice(), &refusal.hint) {
            ([line], None) => *line = format!("{tried}: {line}"),
            ([line], Some(hint)) => *line = format!("{tried}: {line} ({hint})"),
            (_, Some(hint)) => lines.push(format!("{tried}: {hint}")),
            (_, None) => {}
        }
        Self::new(code, lines)
    }

    fn new(code: u8, lines: impl IntoIterator<Item = String>) -> Self {
        Self {
            code,
            lines: lines.into_iter().collect(),
        }
    }

    /// Prints it and gives the exit code.
    pub(super) fn report(self) -> ExitCode {
        let mut stderr = io::stderr().lock();
        let prefix = match is_journal(&stderr) {
            true => prefix(Level::ERROR),
            false => "",
        };
        for line in &self.lines {
            // Without a reader of stderr, the exit code has to do.
            let _ = writeln!(stderr, "{prefix}lb-agent: {line}");
        }
        ExitCode::from(self.code)
    }
}

/// The reason for which no agent answers, and the remedy.
fn unreachable(error: &io::Error) -> (String, &'static str) {
    const START: &str = "start it with \"systemctl start lb-agent\" or \"lb-agent run\", or name \
                         its socket with --control";
    match error.kind() {
        io::ErrorKind::NotFound => ("no such file".to_owned(), START),
        io::ErrorKind::ConnectionRefused => ("connection refused".to_owned(), START),
        io::ErrorKind::PermissionDenied => (
            "permission denied".to_owned(),
            "use sudo, or join the group that owns the socket",
        ),
        _ => (error.to_string(), START),
    }
}

/// The remedy for an agent that does not answer. The kernel's part goes on without it.
fn silent(pid: Option<i32>) -> String {
    const AGAIN: &str = "see its log, and start it anew: systemctl restart lb-agent";
    let Some(pid) = pid else {
        return AGAIN.to_owned();
    };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    if is_stopped(&stat) {
        format!("process {pid} was stopped by a signal: kill -CONT {pid}")
    } else {
        format!("process {pid} may hang: {AGAIN}")
    }
}

/// Whether a process is stopped, by a signal or a debugger (proc(5): the state is behind the name,
/// which may hold anything).
fn is_stopped(stat: &str) -> bool {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    matches!(after_name.trim_start().chars().next(), Some('T' | 't'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable_by(kind: io::ErrorKind) -> Failure {
        let error = CallError::Unreachable {
            path: "/run/x.sock".into(),
            source: kind.into(),
        };
        Failure::of_call("status", error)
    }

    fn refused(kind: RefusalKind, error: &str, hint: Option<&str>) -> Failure {
        let refusal = Refusal {
            kind,
            error: error.to_owned(),
            hint: hint.map(str::to_owned),
        };
        Failure::of_call("reload", CallError::Refused(refusal))
    }

    #[test]
    fn without_an_agent_the_line_says_how_to_start_one() {
        let failure = unreachable_by(io::ErrorKind::NotFound);
        assert_eq!(failure.code, UNREACHABLE);
        let expected = "no agent answers at /run/x.sock: no such file (start it with \"systemctl \
                        start lb-agent\" or \"lb-agent run\", or name its socket with --control)";
        assert_eq!(failure.lines, [expected]);
        let failure = unreachable_by(io::ErrorKind::PermissionDenied);
        let expected = "no agent answers at /run/x.sock: permission denied (use sudo, or join the \
                        group that owns the socket)";
        assert_eq!(failure.lines, [expected]);
    }

    #[test]
    fn a_process_that_was_stopped_is_known_by_its_state() {
        assert!(is_stopped("12 (a) b) T 1 12"));
        assert!(!is_stopped("12 (T) S 1 12"));
        assert!(!is_stopped(""));
    }

    #[test]
    fn a_refusal_is_one_line_and_a_bad_configuration_a_line_for_each_problem() {
        let failure = refused(RefusalKind::Conflict, "it is there", Some("see status"));
        assert_eq!(failure.code, FAILED);
        assert_eq!(failure.lines, ["reload: it is there (see status)"]);
        let failure = refused(RefusalKind::BadRequest, "f:1: a\nf:2: b", Some("no change"));
        assert_eq!(failure.code, USAGE);
        assert_eq!(failure.lines, ["f:1: a", "f:2: b", "reload: no change"]);
    }
}
