//! The programs: two backends, and what leads to them on the host of each way.

use super::Way;
use super::net::BACKEND_HOST;
use crate::bench::net::{BACKENDS, CLIENT_HOST, Net};
use crate::bench::programs::Programs;
use crate::bench::requests::Path as _;
use crate::bench::{agent, config};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Address and port at which the client finds a backend by this way.
pub(super) fn target(way: Way) -> (String, u16) {
    let n = way.number();
    match way {
        Way::Direct => (format!("10.215.{n}.2"), BACKENDS[0]),
        Way::Wire => (format!("10.214.{n}.1"), BACKENDS[0]),
        Way::Nftables | Way::Tc | Way::Xdp => (format!("10.214.{n}.1"), 80),
    }
}

/// All programs; dropping them ends them, and takes the agents out of the kernel.
pub(super) struct Servers<'a> {
    net: &'a Net,
    dir: &'a Path,
    programs: Programs<'a>,
}

impl<'a> Servers<'a> {
    /// Starts the backends and what the ways need, and waits until each way leads to an answer.
    pub(super) fn start(net: &'a Net, dir: &'a Path, ways: &[Way]) -> Result<Self> {
        let mut servers = Self {
            net,
            dir,
            programs: Programs::new(net, dir),
        };
        servers.start_backends()?;
        for &way in ways {
            match way {
                Way::Direct | Way::Wire => {}
                Way::Nftables => servers.load_nftables(way)?,
                Way::Tc | Way::Xdp => servers.start_agent(way)?,
            }
            let (address, port) = target(way);
            servers
                .programs
                .wait_for_port(way.name(), CLIENT_HOST, &address, port)?;
            if way.has_agent() {
                check(way, &agent::status(&dir.join(way.name()))?)?;
            }
        }
        Ok(servers)
    }

    fn start_backends(&mut self) -> Result<()> {
        for port in BACKENDS {
            let name = format!("backend-{port}");
            let nginx = self.net.command(BACKEND_HOST, "nginx");
            let config = config::backend(port, &["0.0.0.0"]);
            let nginx = self.programs.nginx(nginx, &name, &config)?;
            self.programs.start(&name, nginx)?;
        }
        Ok(())
    }

    /// The backend by a hash of the client's address, as lb-agent chooses it.
    fn load_nftables(&self, way: Way) -> Result<()> {
        let n = way.number();
        let [first, second] = BACKENDS;
        let rules = format!(
            "table ip lb {{\n chain in {{\n  type nat hook prerouting priority dstnat;\n  \
             ip daddr 10.214.{n}.1 tcp dport 80 dnat to 10.215.{n}.2 : \
             jhash ip saddr mod 2 map {{ 0 : {first}, 1 : {second} }}\n }}\n}}\n"
        );
        let file = self.programs.write("nftables.conf", &rules)?;
        self.net
            .shell(way.name(), &format!("nft -f {}", file.display()))?;
        // Connections that are over leave the table as soon as those of lb-agent do.
        let wait = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait";
        self.net.shell(way.name(), &format!("echo 1 > {wait}"))
    }

    fn start_agent(&mut self, way: Way) -> Result<()> {
        let (n, name) = (way.number(), way.name());
        let dir = self.dir.join(name);
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let [first, second] = BACKENDS;
        let text = format!(
            "{}flow_table = 262144\nflow_timeouts = {{ closing = \"1s\" }}\n\
             interfaces = [{{ name = \"outside\", attach = {name:?} }}, \
             {{ name = \"inside\", attach = {name:?} }}]\n\
             [[service]]\nname = \"web\"\nlisten = [\"10.214.{n}.1:80\"]\npath = \"nat\"\n\
             backends = [\"10.215.{n}.2:{first}\", \"10.215.{n}.2:{second}\"]\n",
            agent::settings(&dir, &self.programs.pin_dir(name)),
        );
        let file = self.programs.write(&format!("{name}.toml"), &text)?;
        let agent = agent::command(self.net, name, &file);
        self.programs.start(name, agent).map(drop)
    }
}

/// Another path, or another place of the programs, would be another measurement.
fn check(way: Way, status: &Value) -> Result<()> {
    agent::ensure_backends(status, "class", "container")?;
    let interfaces = status["agent"]["packets"]["interfaces"].as_array();
    let interfaces = interfaces.context("no interfaces")?;
    let modes = match way {
        Way::Xdp => &["xdp"][..],
        _ => &["tcx", "tc"],
    };
    let fits = |interface: &Value| modes.iter().any(|mode| interface["mode"] == *mode);
    ensure!(
        interfaces.len() == 2 && interfaces.iter().all(fits),
        "the programs are not where they were to be: {interfaces:?}"
    );
    Ok(())
}
