//! Programs on the hosts, with their files, logs and pins.

use super::net::{CLIENT_HOST, Net, SERVER, SERVER_HOST};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a program may take to answer for the first time.
const START: Duration = Duration::from_secs(30);

/// Programs on the hosts; gone when dropped.
pub(super) struct Programs<'a> {
    net: &'a Net,
    /// For configurations, logs and state.
    dir: &'a Path,
    children: Vec<Child>,
    pin_dirs: Vec<PathBuf>,
}

impl<'a> Programs<'a> {
    /// None yet.
    pub(super) fn new(net: &'a Net, dir: &'a Path) -> Self {
        Self {
            net,
            dir,
            children: Vec::new(),
            pin_dirs: Vec::new(),
        }
    }

    /// Writes a file for a program.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.dir.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }

    /// A directory for the pins of the agent on this host. It is removed with the programs.
    pub(super) fn pin_dir(&mut self, host: &str) -> PathBuf {
        let pin_dir = Path::new("/sys/fs/bpf").join(self.net.namespace(host));
        self.pin_dirs.push(pin_dir.clone());
        pin_dir
    }

    /// `nginx`, a command for it, with its configuration.
    pub(super) fn nginx(&self, mut nginx: Command, name: &str, config: &str) -> Result<Command> {
        let file = self.write(&format!("{name}.conf"), config)?;
        nginx
            .arg("-p")
            .arg(self.dir)
            .arg("-c")
            .arg(file)
            .args(["-e", "stderr"]);
        Ok(nginx)
    }

    /// Starts a server on the server host, and waits until its port answers the client.
    /// Its process id is returned.
    pub(super) fn spawn(&mut self, name: &str, command: Command, port: u16) -> Result<u32> {
        let pid = self.start(name, command)?;
        self.wait_for_port(name, CLIENT_HOST, SERVER, port)?;
        Ok(pid)
    }

    /// The same for one that listens on the loopback alone.
    pub(super) fn spawn_unseen(&mut self, name: &str, command: Command, port: u16) -> Result<u32> {
        let pid = self.start(name, command)?;
        self.wait_for_port(name, SERVER_HOST, "127.0.0.1", port)?;
        Ok(pid)
    }

    /// Starts a program with its output in a file. Its process id is returned.
    pub(super) fn start(&mut self, name: &str, mut command: Command) -> Result<u32> {
        let log = self.log(name);
        let output = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let errors = output.try_clone().context("share a log file")?;
        let child = command.stdout(output).stderr(errors).spawn();
        let child = child.with_context(|| format!("start {name}"))?;
        let pid = child.id();
        self.children.push(child);
        Ok(pid)
    }

    /// Waits until a host can connect to an address. An error holds the log of the program `name`.
    pub(super) fn wait_for_port(
        &mut self,
        name: &str,
        host: &str,
        address: &str,
        port: u16,
    ) -> Result<()> {
        let net = self.net;
        let connect = format!("exec 3<>/dev/tcp/{address}/{port}");
        self.wait(name, || {
            let mut client = net.command(host, "timeout");
            let done = client.args(["1", "bash", "-c", &connect]).output();
            done.is_ok_and(|output| output.status.success())
        })
        .with_context(|| format!("no answer on port {port}"))
    }

    /// Waits until the program `name` answers. Fails early if any program has ended.
    pub(super) fn wait(&mut self, name: &str, answers: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + START;
        while !answers() {
            let mut children = self.children.iter_mut();
            let has_ended = children.any(|child| !matches!(child.try_wait(), Ok(None)));
            if has_ended || Instant::now() > deadline {
                let said = fs::read_to_string(self.log(name)).unwrap_or_default();
                bail!("{name} does not answer; it said:\n{}", said.trim());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Ends one of them, by its process id.
    pub(super) fn end(&mut self, pid: u32) {
        for child in self.children.iter_mut().filter(|child| child.id() == pid) {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.retain(|child| child.id() != pid);
    }
}

impl Drop for Programs<'_> {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Programs without pins leave the kernel.
        for pin_dir in &self.pin_dirs {
            let _ = fs::remove_dir_all(pin_dir);
        }
    }
}
