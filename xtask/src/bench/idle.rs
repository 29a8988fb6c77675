//! Agents that do nothing but be there: each on a host of its own, with its own state and pins.

use super::config;
use crate::build::{self, Profile};
use crate::sh::CommandExt;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long an agent may take to answer.
const START: Duration = Duration::from_secs(30);

/// Idle agents, gone when dropped.
pub(super) struct IdleAgents(Vec<IdleAgent>);

impl IdleAgents {
    /// Starts `count` agents with names that begin with `name` and files in `dir`, attached to
    /// `cgroup`, and waits until each answers.
    pub(super) fn start(name: &str, dir: &Path, cgroup: &Path, count: u32) -> Result<Self> {
        let mut agents = Self(Vec::new());
        for number in 0..count {
            let mut agent = IdleAgent::new(format!("{name}-idle{number}"), dir)?;
            agent.spawn(cgroup)?;
            agents.0.push(agent);
        }
        for agent in &agents.0 {
            agent.wait()?;
        }
        Ok(agents)
    }
}

struct IdleAgent {
    /// Of its network namespace and the directory of its pins.
    name: String,
    dir: PathBuf,
    process: Option<Child>,
}

impl IdleAgent {
    fn new(name: String, dir: &Path) -> Result<Self> {
        let dir = dir.join(&name);
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        ip(&["netns", "add", &name])?;
        let agent = Self {
            name,
            dir,
            process: None,
        };
        ip(&["-n", &agent.name, "link", "set", "lo", "up"])?;
        Ok(agent)
    }

    fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(&self.name)
    }

    fn spawn(&mut self, cgroup: &Path) -> Result<()> {
        let file = self.dir.join("agent.toml");
        let text = config::agent(&self.dir, &self.pins(), cgroup, "127.0.0.1");
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        let log = File::create(self.dir.join("log")).context("make a log")?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg(build::agent(Profile::Dist))
            .args(["run", "--config"])
            .arg(file)
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log)
            .spawn();
        self.process = Some(child.with_context(|| format!("start {}", self.name))?);
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + START;
        while !self.answers() {
            if Instant::now() > deadline {
                let said = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                bail!("{} does not answer; it said:\n{}", self.name, said.trim());
            }
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        Command::new(build::agent(Profile::Dist))
            .arg("--control")
            .arg(self.dir.join("control.sock"))
            .arg("status")
            .output()
            .is_ok_and(|output| output.status.success())
    }
}

impl Drop for IdleAgent {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
        // Programs without pins leave the kernel.
        let _ = fs::remove_dir_all(self.pins());
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    Command::new("ip").args(arguments).read().map(drop)
}
