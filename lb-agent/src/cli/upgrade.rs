//! `lb-agent upgrade`: another agent takes over from the running one.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use clap::Args;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::failure::Failure;
use super::{Control, output, wait_for};
use crate::control::message::Command as Request;
use crate::control::status::Status;

/// Replace the running agent without a gap
///
/// Starts this program with the arguments of the running agent. The new agent tries its programs, takes the
/// listening sockets over, and serves; then the running one ends. If anything fails before that, the running one goes on.
/// Under a supervisor such as systemd, restart the service instead.
#[derive(Debug, Args)]
#[command(after_help = "Example: /usr/local/bin/lb-agent upgrade --pid-file /run/lb-agent.pid")]
pub(super) struct Upgrade {
    /// Program of the new agent [default: this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// File for the new agent's process id
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
}

impl Upgrade {
    pub(super) fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        let before = status(control)?;
        let running = Running::read(before.agent.pid)?;
        let program = match &self.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(failed("find this program"))?,
        };
        let mut child = running
            .start_again(&program)
            .map_err(failed(&format!("start {}", program.display())))?;
        show_log(&mut child);
        // Its log goes elsewhere now: it serves, or it ends.
        let after = status(control)?;
        if after.agent.pid != child.id() {
            let end = child
                .wait()
                .map_or_else(|error| error.to_string(), |end| end.to_string());
            return Err(Failure::failed(format!(
                "upgrade: {} has not taken over ({end}; its log is above), and process {} goes on",
                program.display(),
                after.agent.pid
            )));
        }
        if let Some(path) = &self.pid_file {
            let write = format!("write {}", path.display());
            fs::write(path, format!("{}\n", after.agent.pid)).map_err(failed(&write))?;
        }
        output::line(&format!(
            "lb-agent {} (pid {}) has taken over from {} (pid {}), which ends with its connections",
            after.agent.version, after.agent.pid, before.agent.version, before.agent.pid
        ))
    }
}

fn status(control: &Control) -> Result<Status, Failure> {
    wait_for(control.client().read(&Request::Status))?
        .map_err(|error| Failure::of_call("upgrade", error))
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::failed(format!("upgrade: {what}: {error}"))
}

/// How the running agent was started (proc(5)).
struct Running {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
    open_files: Option<u64>,
}

impl Running {
    fn read(pid: u32) -> Result<Self, Failure> {
        let of = |name: &str| format!("/proc/{pid}/{name}");
        let read = |name: &str| {
            fs::read(of(name)).map_err(|error| {
                let remedy = "use sudo: the new agent gets the arguments and the environment of the running one";
                Failure::failed(format!("upgrade: read {}: {error} ({remedy})", of(name)))
            })
        };
        let mut arguments = strings(&read("cmdline")?);
        if !arguments.iter().any(|argument| argument == "run") {
            let problem = format!("upgrade: process {pid} is not an \"lb-agent run\"");
            return Err(Failure::failed(problem));
        }
        arguments.remove(0);
        arguments.retain(|argument| argument != TAKE_OVER && argument != TAKE_OUTPUT);
        let environment = strings(&read("environ")?).into_iter().filter_map(pair);
        Ok(Self {
            arguments,
            environment: environment.collect(),
            directory: fs::read_link(of("cwd")).map_err(failed("look at the running agent"))?,
            open_files: open_files(&fs::read_to_string(of("limits")).unwrap_or_default()),
        })
    }

    /// Starts `program` in the same way, to take over.
    fn start_again(&self, program: &std::path::Path) -> io::Result<Child> {
        if let Some(most) = self.open_files {
            // A lower limit would do for fewer clients; the new agent says so itself.
            let limit = Rlimit {
                current: Some(most),
                maximum: Some(most),
            };
            let _ = setrlimit(Resource::Nofile, limit);
        }
        Command::new(program)
            .args(&self.arguments)
            .args([TAKE_OVER, TAKE_OUTPUT])
            .env_clear()
            .envs(self.environment.iter().cloned())
            .current_dir(&self.directory)
            // It is not of this terminal.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// Arguments of `lb-agent run`.
const TAKE_OVER: &str = "--take-over";
const TAKE_OUTPUT: &str = "--take-output";

/// Strings that are each ended by a zero.
fn strings(bytes: &[u8]) -> Vec<OsString> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let parts = bytes.split(|byte| *byte == 0);
    parts
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect()
}

/// A variable and its value.
fn pair(line: OsString) -> Option<(OsString, OsString)> {
    let mut name = line.into_vec();
    let equals = name.iter().position(|byte| *byte == b'=')?;
    let value = name.split_off(equals + 1);
    name.pop();
    Some((OsString::from_vec(name), OsString::from_vec(value)))
}

/// The hard limit of open files in `/proc/PID/limits`.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Shows the new agent's log until it goes elsewhere.
fn show_log(child: &mut Child) {
    let Some(log) = child.stderr.take() else {
        return;
    };
    let mut stderr = io::stderr().lock();
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        let _ = writeln!(stderr, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_environment_are_read_as_the_kernel_shows_them() {
        assert_eq!(
            strings(b"lb-agent\0run\0--log\0\0"),
            ["lb-agent", "run", "--log", ""]
        );
        let two = |text: &str| pair(text.into()).unwrap();
        assert_eq!(two("A=b=c"), ("A".into(), "b=c".into()));
        assert_eq!(two("A="), ("A".into(), "".into()));
        assert_eq!(pair("A".into()), None);
    }

    #[test]
    fn hard_limit_of_open_files_is_the_second_figure() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             95637                95637                processes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(524_288));
        assert_eq!(open_files(""), None);
    }
}
