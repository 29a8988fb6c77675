//! The programs of `bench http`: backends and proxies.

use super::super::net::{BACKENDS, Net, SERVER_HOST};
use super::super::programs::Programs;
use super::peers::{self, Peers};
use super::place::{Place, command, load_program};
use super::ports::{ECHO, Proxy};
use super::{config, pages};
use crate::build::{self, Profile};
use crate::sh::CommandExt;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of nginx from which `http2` is a line of its own.
const HTTP2_LINE: [u32; 3] = [1, 25, 1];
/// Everything on the server host. Dropping it ends it, and takes the agent out of the kernel.
pub(super) struct Proxies<'a> {
    net: &'a Net,
    dir: &'a Path,
    pin_dir: PathBuf,
    peers: &'a Peers,
    programs: Programs<'a>,
    pids: Vec<(Proxy, u32)>,
}

impl<'a> Proxies<'a> {
    /// Starts all that the measurements of these proxies need.
    pub(super) fn start(
        net: &'a Net,
        dir: &'a Path,
        peers: &'a Peers,
        proxies: &[Proxy],
    ) -> Result<Self> {
        let mut programs = Programs::new(net, dir);
        let mut all = Self {
            net,
            dir,
            pin_dir: programs.pin_dir(SERVER_HOST),
            peers,
            programs,
            pids: Vec::new(),
        };
        pages::write(&dir.join("pages"))?;
        all.make_certificate()?;
        all.start_backends()?;
        for &proxy in proxies {
            let pid = all.start_proxy(proxy)?;
            all.pids.push((proxy, pid));
        }
        Ok(all)
    }

    /// The process id of a proxy.
    pub(super) fn pid(&self, proxy: Proxy) -> Result<u32> {
        let found = self.pids.iter().find(|(known, _)| *known == proxy);
        found.map(|(_, pid)| *pid).context("it was not started")
    }

    /// Ends a proxy and starts it anew, for measurements of memory.
    pub(super) fn restart(&mut self, proxy: Proxy) -> Result<()> {
        self.programs.end(self.pid(proxy)?);
        self.pids.retain(|(known, _)| *known != proxy);
        let pid = self.start_proxy(proxy)?;
        self.pids.push((proxy, pid));
        Ok(())
    }

    fn make_certificate(&self) -> Result<()> {
        let (key, certificate) = (self.dir.join("bench.key"), self.dir.join("bench.pem"));
        Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "30", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", "/CN=bench.test"])
            .args(["-addext", "subjectAltName=DNS:bench.test", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .read()?;
        let both = fs::read_to_string(certificate)? + &fs::read_to_string(key)?;
        fs::write(self.dir.join("both.pem"), both).context("write a certificate")
    }

    fn start_backends(&mut self) -> Result<()> {
        for port in BACKENDS {
            let name = format!("backend-{port}");
            let config = config::backend(self.dir, port);
            // The proxies alone are on the server's outer address; backends answer on the inner.
            let nginx = self.nginx(&["nginx".into()], &name, &config, Place::Others)?;
            self.programs.spawn_unseen(&name, nginx, port)?;
        }
        let mut echo = command(self.net, SERVER_HOST, Place::Others, load_program());
        echo.args(["echo", &format!("127.0.0.1:{ECHO}")]);
        self.programs.spawn_unseen("echo", echo, ECHO).map(drop)
    }

    fn start_proxy(&mut self, proxy: Proxy) -> Result<u32> {
        let command = match proxy {
            Proxy::Nginx => {
                let version = self.peers.version(proxy)?;
                let has_http2_line = peers::is_at_least(&version, HTTP2_LINE);
                let config = config::reverse_nginx(self.dir, has_http2_line);
                self.nginx(&self.peers.words("nginx"), "nginx", &config, Place::Proxies)?
            }
            Proxy::Haproxy => {
                let config = config::haproxy(self.dir);
                let file = self.programs.write("haproxy.cfg", &config)?;
                let words = self.peers.words("haproxy");
                let mut haproxy = self.program(&words, Place::Proxies);
                haproxy.arg("-db").arg("-f").arg(file);
                haproxy
            }
            Proxy::H2o => {
                let file = self.programs.write("h2o.conf", &config::h2o(self.dir))?;
                let mut h2o = self.program(&self.peers.words("h2o"), Place::Proxies);
                h2o.arg("-c").arg(file);
                h2o
            }
            Proxy::Varnish => {
                let file = self.programs.write("varnish.vcl", &config::varnish())?;
                let start = config::start_varnish(self.dir, &file);
                let mut shell = self.program(&["sh".into()], Place::Proxies);
                shell.arg("-c").arg(start);
                shell
            }
            Proxy::Caddy => {
                let file = self.programs.write("Caddyfile", &config::caddy(self.dir))?;
                let mut caddy = self.program(&self.peers.words("caddy"), Place::Proxies);
                caddy.args(["run", "--adapter", "caddyfile", "--config"]);
                caddy.arg(file).env("GOMAXPROCS", "1");
                caddy.env("XDG_DATA_HOME", self.dir);
                caddy.env("XDG_CONFIG_HOME", self.dir);
                caddy
            }
            Proxy::Agent => {
                let config = config::agent(self.dir, &self.pin_dir);
                let file = self.programs.write("agent.toml", &config)?;
                let agent = build::agent(Profile::Dist).into();
                let mut agent = self.program(&[agent], Place::Proxies);
                agent.arg("run").arg("--config").arg(file);
                agent
            }
        };
        self.programs
            .spawn(proxy.name(), command, proxy.first_port())
    }

    fn nginx(&self, words: &[OsString], name: &str, config: &str, place: Place) -> Result<Command> {
        let nginx = self.program(words, place);
        self.programs.nginx(nginx, name, config)
    }

    fn program(&self, words: &[OsString], place: Place) -> Command {
        let mut command = command(self.net, SERVER_HOST, place, &words[0]);
        command.args(&words[1..]);
        command
    }
}
