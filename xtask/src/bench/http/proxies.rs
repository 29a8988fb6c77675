//! The programs of `bench http`: backends and proxies, each on a processor of its own where there
//! are two.

use super::super::net::{Host, Net};
use super::super::programs::Programs;
use super::config;
use crate::build::{self, Profile};
use crate::sh::CommandExt;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Ports of the backends that answer requests.
pub(super) const BACKENDS: [u16; 2] = [5000, 5001];
/// The port of the backend that sends WebSocket messages back.
pub(super) const ECHO: u16 = 6000;
/// Files that a proxy should be able to have open, two for each WebSocket.
const OPEN_FILES: u32 = 65_536;

/// Files that programs here can have open: [`OPEN_FILES`], or what this machine lets root have.
pub(super) fn open_files() -> u32 {
    static LIMIT: LazyLock<u32> = LazyLock::new(|| {
        let raised = Command::new("prlimit")
            .args([&format!("--nofile={OPEN_FILES}:{OPEN_FILES}"), "true"])
            .read();
        if raised.is_ok() {
            return OPEN_FILES;
        }
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let hard = line.and_then(|line| line.split_whitespace().nth(4)?.parse().ok());
        hard.unwrap_or(1024).min(OPEN_FILES)
    });
    *LIMIT
}

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Proxy {
    /// nginx, one worker
    Nginx,
    /// HAProxy, one thread
    Haproxy,
    /// lb-agent, one worker
    Agent,
}

/// Where a proxy takes what.
pub(super) struct Ports {
    pub(super) plain: u16,
    pub(super) tls: u16,
    pub(super) websocket: u16,
}

impl Proxy {
    /// All of them, in the order of the table.
    pub(super) const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Agent];

    /// Its name in tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Agent => "lb-agent",
        }
    }

    pub(super) fn ports(self) -> Ports {
        let (plain, tls, websocket) = match self {
            Self::Nginx => (8080, 8443, 8090),
            Self::Haproxy => (8081, 8444, 8091),
            Self::Agent => (80, 443, 8092),
        };
        Ports {
            plain,
            tls,
            websocket,
        }
    }
}

/// Which processor a program runs on.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// That of the proxies; only one of them works at a time.
    Proxies,
    /// That of clients and backends.
    Others,
}

/// A program on one of the hosts, in its place.
pub(super) fn command(net: &Net, host: Host, place: Place, program: &Path) -> Command {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let processor = match place {
        Place::Others if processors > 1 => "1",
        _ => "0",
    };
    let mut command = net.command(host, "prlimit");
    command
        .arg(format!("--nofile={0}:{0}", open_files()))
        .args(["taskset", "--cpu-list", processor])
        .arg(program);
    command
}

/// The program that makes load and echoes.
pub(super) fn load_program() -> PathBuf {
    build::program(Profile::Dist, "lb-load")
}

/// Everything on the server host. Dropping it ends it, and takes the agent out of the kernel.
pub(super) struct Proxies<'a> {
    net: &'a Net,
    dir: &'a Path,
    pin_dir: PathBuf,
    programs: Programs<'a>,
    pids: Vec<(Proxy, u32)>,
}

impl<'a> Proxies<'a> {
    /// Starts all that the measurements of these proxies need.
    pub(super) fn start(net: &'a Net, dir: &'a Path, proxies: &[Proxy]) -> Result<Self> {
        let name = dir.file_name().context("a directory without a name")?;
        let mut all = Self {
            net,
            dir,
            pin_dir: Path::new("/sys/fs/bpf").join(name),
            programs: Programs::new(net, dir),
            pids: Vec::new(),
        };
        all.make_pages()?;
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

    fn make_pages(&self) -> Result<()> {
        let pages = self.dir.join("pages");
        fs::create_dir(&pages).context("make the pages")?;
        for (name, bytes) in [("64k", 64 << 10), ("10m", 10 << 20)] {
            let page = File::create(pages.join(name)).context("make a page")?;
            page.set_len(bytes).context("make a page")?;
        }
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
            let nginx = self.nginx(&name, &config, Place::Others)?;
            self.programs.spawn_unseen(&name, nginx, port)?;
        }
        let mut echo = command(self.net, Host::Server, Place::Others, &load_program());
        echo.args(["echo", &format!("127.0.0.1:{ECHO}")]);
        self.programs.spawn_unseen("echo", echo, ECHO).map(drop)
    }

    fn start_proxy(&mut self, proxy: Proxy) -> Result<u32> {
        let command = match proxy {
            Proxy::Nginx => {
                let config = config::reverse_nginx(self.dir);
                self.nginx("nginx", &config, Place::Proxies)?
            }
            Proxy::Haproxy => {
                let config = config::haproxy(self.dir);
                let file = self.programs.write("haproxy.cfg", &config)?;
                let mut haproxy = self.program(Path::new("haproxy"), Place::Proxies);
                haproxy.arg("-db").arg("-f").arg(file);
                haproxy
            }
            Proxy::Agent => {
                let config = config::agent(self.dir, &self.pin_dir);
                let file = self.programs.write("agent.toml", &config)?;
                let mut agent = self.program(&build::agent(Profile::Dist), Place::Proxies);
                agent.arg("run").arg("--config").arg(file);
                agent
            }
        };
        let port = proxy.ports().plain;
        self.programs.spawn(proxy.name(), command, port)
    }

    fn nginx(&self, name: &str, config: &str, place: Place) -> Result<Command> {
        let file = self.programs.write(&format!("{name}.conf"), config)?;
        let mut nginx = self.program(Path::new("nginx"), place);
        nginx
            .arg("-p")
            .arg(self.dir)
            .arg("-c")
            .arg(file)
            .args(["-e", "stderr"]);
        Ok(nginx)
    }

    fn program(&self, program: &Path, place: Place) -> Command {
        command(self.net, Host::Server, place, program)
    }
}

impl Drop for Proxies<'_> {
    fn drop(&mut self) {
        self.programs.end();
        // Programs without pins leave the kernel.
        let _ = fs::remove_dir_all(&self.pin_dir);
    }
}
