//! The programs on the server host: two backends, and the balancers before them.

use super::cgroup::{Cgroup, Cgroups};
use super::net::{BACKENDS, Net, SERVER, SERVER_HOST};
use super::programs::Programs;
use super::ways::{DIRECT, Way};
use super::{agent, config};
use anyhow::Result;
use std::path::Path;

/// All programs on the server host; dropping them ends them, and takes the agent out of the kernel.
pub(super) struct Servers<'a> {
    net: &'a Net,
    cgroups: &'a Cgroups,
    /// For configurations, logs and state.
    dir: &'a Path,
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
        let mut servers = Self {
            net,
            cgroups,
            dir,
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
        let config = config::backend(port, &["127.0.0.1", SERVER]);
        self.start_nginx(&name, &config, port, cgroup)
    }

    fn start_nginx(&mut self, name: &str, config: &str, port: u16, cgroup: Cgroup) -> Result<()> {
        let nginx = self.net.command(SERVER_HOST, "nginx");
        let nginx = self.programs.nginx(nginx, name, config)?;
        let nginx = self.cgroups.inside(cgroup, &nginx);
        self.programs.spawn(name, nginx, port).map(drop)
    }

    fn start_haproxy(&mut self) -> Result<()> {
        let file = self.programs.write("haproxy.cfg", &config::haproxy())?;
        let mut haproxy = self.net.command(SERVER_HOST, "haproxy");
        haproxy.arg("-db").arg("-f").arg(file);
        let haproxy = self.cgroups.inside(Way::Haproxy.cgroup(), &haproxy);
        let port = Way::Haproxy.port();
        self.programs.spawn("haproxy", haproxy, port).map(drop)
    }

    fn start_agent(&mut self) -> Result<()> {
        let cgroup = self.cgroups.dir(Cgroup::Watched);
        let pin_dir = self.programs.pin_dir(SERVER_HOST);
        let text = config::agent(self.dir, &pin_dir, cgroup, SERVER);
        let file = self.programs.write("agent.toml", &text)?;
        let agent = agent::command(self.net, SERVER_HOST, &file);
        self.programs
            .spawn("lb-agent", agent, Way::Steered.port())?;
        agent::ensure_backends(&agent::status(self.dir)?, "path", "socket")
    }
}
