//! The programs on the server host: two backends, and the balancers before them.

use super::cgroup::{Cgroup, Cgroups};
use super::config;
use super::net::{Host, Net, SERVER};
use super::programs::Programs;
use super::ways::{BACKENDS, DIRECT, Way};
use crate::build::{self, Profile};
use crate::sh::CommandExt;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All programs on the server host; dropping them ends them, and takes the agent out of the kernel.
pub(super) struct Servers<'a> {
    net: &'a Net,
    cgroups: &'a Cgroups,
    /// For configurations, logs and state.
    dir: &'a Path,
    pin_dir: PathBuf,
    programs: Programs<'a>,
}

impl<'a> Servers<'a> {
    /// Starts the backends and what the ways need, and waits until each of them answers.
    pub(super) fn start(
        net: &'a Net,
        cgroups: &'a Cgroups,
        dir: &'a Path,
        ways: &[Way],
    ) -> Result<Self> {
        let name = dir.file_name().context("a directory without a name")?;
        let pin_dir = Path::new("/sys/fs/bpf").join(name);
        let mut servers = Self {
            net,
            cgroups,
            dir,
            pin_dir,
            programs: Programs::new(net, dir),
        };
        for port in BACKENDS {
            servers.start_backend(port, Cgroup::Watched)?;
        }
        if ways.iter().any(|way| way.has_agent()) {
            servers.start_agent()?;
        }
        for way in ways {
            match way {
                Way::Direct => servers.start_backend(DIRECT, Cgroup::Bare)?,
                Way::Beside | Way::Steered => {}
                Way::Nginx => {
                    servers.start_nginx("stream", &config::stream(), way.port(), way.cgroup())?;
                }
                Way::Haproxy => servers.start_haproxy()?,
            }
        }
        Ok(servers)
    }

    fn start_backend(&mut self, port: u16, cgroup: Cgroup) -> Result<()> {
        let name = format!("backend-{port}");
        self.start_nginx(&name, &config::backend(port), port, cgroup)
    }

    fn start_nginx(&mut self, name: &str, config: &str, port: u16, cgroup: Cgroup) -> Result<()> {
        let file = self.programs.write(&format!("{name}.conf"), config)?;
        let mut nginx = self.net.command(Host::Server, "nginx");
        nginx
            .arg("-p")
            .arg(self.dir)
            .arg("-c")
            .arg(file)
            .args(["-e", "stderr"]);
        let nginx = self.cgroups.inside(cgroup, &nginx);
        self.programs.spawn(name, nginx, port).map(drop)
    }

    fn start_haproxy(&mut self) -> Result<()> {
        let file = self.programs.write("haproxy.cfg", &config::haproxy())?;
        let mut haproxy = self.net.command(Host::Server, "haproxy");
        haproxy.arg("-db").arg("-f").arg(file);
        let haproxy = self.cgroups.inside(Way::Haproxy.cgroup(), &haproxy);
        let port = Way::Haproxy.port();
        self.programs.spawn("haproxy", haproxy, port).map(drop)
    }

    fn start_agent(&mut self) -> Result<()> {
        let cgroup = self.cgroups.dir(Cgroup::Watched);
        let text = config::agent(self.dir, &self.pin_dir, cgroup, SERVER);
        let file = self.programs.write("agent.toml", &text)?;
        let mut agent = self
            .net
            .command(Host::Server, &build::agent(Profile::Dist).to_string_lossy());
        agent.arg("run").arg("--config").arg(file);
        self.programs
            .spawn("lb-agent", agent, Way::Steered.port())?;
        self.check_paths()
    }

    /// Requests that went through the agent would be another measurement.
    fn check_paths(&self) -> Result<()> {
        let status = Command::new(build::agent(Profile::Dist))
            .arg("--control")
            .arg(self.dir.join("control.sock"))
            .args(["status", "--json"])
            .read()?;
        let status: serde_json::Value =
            serde_json::from_str(&status).context("read the status of lb-agent")?;
        let backends = status["services"][0]["backends"]
            .as_array()
            .context("no backends")?;
        let steered = backends.iter().all(|backend| backend["path"] == "socket");
        ensure!(
            steered,
            "lb-agent does not steer by the socket path: {backends:?}"
        );
        Ok(())
    }
}

impl Drop for Servers<'_> {
    fn drop(&mut self) {
        self.programs.end();
        // Programs without pins leave the kernel. There are none where no agent was started.
        let _ = fs::remove_dir_all(&self.pin_dir);
    }
}
