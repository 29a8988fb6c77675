//! An agent with directories, pins and a socket of its own.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::process::Process;
use crate::topology::hosts::Host;
use crate::wait;

/// Path of the agent's program.
pub fn program() -> PathBuf {
    std::env::var_os("LB_AGENT_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/lb-agent"),
        PathBuf::from,
    )
}

/// Copies the program in another process. A file that this process wrote cannot be executed while a
/// just forked child of another thread has it open (ETXTBSY).
pub fn copy_program(to: &Path) {
    let status = Command::new("cp").arg(program()).arg(to).status();
    assert!(status.expect("cp").success(), "copy to {}", to.display());
}

/// Output and exit code of a command that has ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// An agent on a host. Dropping it removes everything that belongs to it.
pub struct Agent<'a> {
    host: &'a Host,
    dir: tempfile::TempDir,
    pin_dir: PathBuf,
    data_plane: &'static str,
    process: Option<Process>,
}

impl<'a> Agent<'a> {
    /// An agent with these services (TOML) on the kernel's data plane; it serves when this returns.
    #[track_caller]
    pub fn start(host: &'a Host, services: &str) -> Self {
        Self::start_on(host, services, "bpf")
    }

    /// The same on another data plane.
    #[track_caller]
    pub fn start_on(host: &'a Host, services: &str, data_plane: &'static str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pin_dir = format!("/sys/fs/bpf/lbt-{}-{count}", std::process::id()).into();
        let dir = tempfile::tempdir().unwrap();
        let mut agent = Self {
            host,
            dir,
            pin_dir,
            data_plane,
            process: None,
        };
        agent.configure(services);
        agent.start_again();
        agent
    }

    /// Writes another configuration; it is not read yet.
    pub fn configure(&self, services: &str) {
        let dir = self.dir().display();
        let head = format!(
            "[agent]\nstate_dir = '{dir}/state'\ncontrol = '{dir}/control.sock'\n\
             pin_dir = '{}'\ndata_plane = '{}'\nmax_clients = 4096\n",
            self.pin_dir.display(),
            self.data_plane
        );
        fs::write(self.config(), head + services).unwrap();
    }

    /// A directory for the files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir().join("config.toml")
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.dir().join("control.sock")
    }

    /// Directory of the pinned maps and programs.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Process id of the agent.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("an agent that runs").pid()
    }

    /// Starts it (again); it serves when this returns.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.start_as(self.run_command());
    }

    /// Starts it by another command than [`Agent::run_command`].
    #[track_caller]
    pub fn start_as(&mut self, command: Command) {
        let mut process = Process::start(command, &self.dir().join("agent.log"));
        process.wait_for("ready");
        self.process = Some(process);
    }

    /// Has another one take over (`lb-agent run --take-over`); it serves when this returns. Dropping the returned
    /// process, the one before, kills it.
    #[track_caller]
    pub fn take_over(&mut self) -> Process {
        let before = self.process.take().expect("an agent that runs");
        let mut command = self.run_command();
        command.arg("--take-over");
        self.start_as(command);
        before
    }

    /// `lb-agent run` as [`Agent::start_again`] starts it.
    pub fn run_command(&self) -> Command {
        let mut command = self.host.command(program());
        command
            .arg("run")
            .arg("--config")
            .arg(self.config())
            .env_remove("NOTIFY_SOCKET");
        command
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Whether it has ended without being asked to.
    pub fn has_ended(&mut self) -> bool {
        self.process
            .as_mut()
            .is_none_or(|process| process.ended().is_some())
    }

    /// Waits for it to end by itself, and says how.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> std::process::ExitStatus {
        let mut process = self.process.take().expect("an agent that runs");
        process.wait()
    }

    /// Tells the agent to end (SIGTERM) without killing it: its open connections go on for a while.
    /// Dropping the returned process kills it.
    pub fn end(&mut self) -> Process {
        let mut process = self.process.take().expect("an agent that runs");
        let pid = rustix::process::Pid::from_raw(process.pid() as i32).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        process.wait_for("stopping");
        process
    }

    /// All lines that the agent has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("agent.log")).unwrap_or_default()
    }

    /// `lb-agent ARGUMENTS` on the agent's host, with its control socket.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.host.command(program());
        command
            .args(arguments)
            .env("LB_AGENT_CONTROL", self.control())
            .stdin(Stdio::null());
        command.output().expect("start lb-agent").into()
    }

    /// The same, which must succeed. Returns its standard output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(
            outcome.code,
            0,
            "lb-agent {arguments:?}: {outcome:?}\n{}",
            self.log()
        );
        outcome.stdout
    }

    /// `status --json`
    #[track_caller]
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "--json"])).unwrap()
    }

    /// Waits until the first backend of every service is down.
    #[track_caller]
    pub fn wait_until_all_are_down(&self) {
        wait::until("all to be down", || {
            let status = self.status();
            let services = status["services"].as_array().unwrap();
            let is_down = |service: &Value| service["backends"][0]["state"] == "down";
            services.iter().all(is_down).then_some(())
        });
    }

    /// How often the packet paths have counted `name`.
    #[track_caller]
    pub fn packets(&self, name: &str) -> u64 {
        let status = self.status();
        let counts = &status["agent"]["packets"]["figures"]["packets"];
        let mut counts = counts.as_array().into_iter().flatten();
        let found = counts.find(|count| count[0] == name);
        found.unwrap_or_else(|| panic!("no counter {name}: {status:#}"))[1]
            .as_u64()
            .unwrap()
    }

    /// The entry in `status --json` for the backend at `address` of the first service.
    #[track_caller]
    pub fn backend(&self, address: &str) -> Value {
        let status = self.status();
        let backends = status["services"][0]["backends"].as_array().unwrap();
        let found = backends
            .iter()
            .find(|backend| backend["address"] == address);
        found
            .unwrap_or_else(|| panic!("no backend {address}: {status:#}"))
            .clone()
    }

    /// `lookup CLIENT --json`
    #[track_caller]
    pub fn lookup(&self, client: IpAddr) -> Value {
        serde_json::from_str(&self.ok(&["lookup", &client.to_string(), "--json"])).unwrap()
    }

    /// The port of the backend that `lookup` names.
    #[track_caller]
    pub fn looked_up_port(&self, client: IpAddr) -> u16 {
        let found = self.lookup(client);
        let backend: SocketAddr = found["backend"].as_str().unwrap().parse().unwrap();
        backend.port()
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent's log\n{}", self.log());
        }
        if self.process.is_some() {
            let _ = self.run(&["stop", "--purge"]);
        }
        self.process = None;
        // No-op if the agent has purged it already.
        let _ = lb_agent::dataplane::bpf::purge(&self.pin_dir);
    }
}
