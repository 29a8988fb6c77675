//! Programs on the server host, whichever they are.

use super::net::{Host, Net, SERVER};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a server may take to answer its first connection.
const START: Duration = Duration::from_secs(15);

/// From where a program is seen, and its address there.
type Seen = (Host, &'static str, u16);

/// Programs on the server host, each waited for until it answers; gone when dropped.
pub(super) struct Programs<'a> {
    net: &'a Net,
    /// For configurations, logs and state.
    dir: &'a Path,
    children: Vec<Child>,
}

impl<'a> Programs<'a> {
    /// None yet.
    pub(super) fn new(net: &'a Net, dir: &'a Path) -> Self {
        Self {
            net,
            dir,
            children: Vec::new(),
        }
    }

    /// Writes a file for a program.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.dir.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }

    /// Starts a server with its output in a file, and waits until its port answers the client.
    /// Its process id is returned.
    pub(super) fn spawn(&mut self, name: &str, command: Command, port: u16) -> Result<u32> {
        self.start(name, command, (Host::Client, SERVER, port))
    }

    /// The same for one that listens on the loopback alone.
    pub(super) fn spawn_unseen(&mut self, name: &str, command: Command, port: u16) -> Result<u32> {
        self.start(name, command, (Host::Server, "127.0.0.1", port))
    }

    fn start(&mut self, name: &str, mut command: Command, seen: Seen) -> Result<u32> {
        let log = self.dir.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let errors = output.try_clone().context("share a log file")?;
        let child = command.stdout(output).stderr(errors).spawn();
        let child = child.with_context(|| format!("start {name}"))?;
        let pid = child.id();
        self.children.push(child);
        let deadline = Instant::now() + START;
        while !self.answers(seen) {
            let ended = self.children.last_mut().map(Child::try_wait);
            if Instant::now() > deadline || !matches!(ended, Some(Ok(None))) {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!(
                    "{name} does not answer on port {}; it said:\n{}",
                    seen.2,
                    said.trim()
                );
            }
            sleep(Duration::from_millis(20));
        }
        Ok(pid)
    }

    /// Whether one can connect.
    fn answers(&self, (from, address, port): Seen) -> bool {
        let connect = format!("exec 3<>/dev/tcp/{address}/{port}");
        self.net
            .command(from, "timeout")
            .args(["1", "bash", "-c", &connect])
            .output()
            .is_ok_and(|output| output.status.success())
    }

    /// Ends one of them, by its process id.
    pub(super) fn end_one(&mut self, pid: u32) {
        for child in self.children.iter_mut().filter(|child| child.id() == pid) {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.retain(|child| child.id() != pid);
    }

    /// Ends all of them.
    pub(super) fn end(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.clear();
    }
}

impl Drop for Programs<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
