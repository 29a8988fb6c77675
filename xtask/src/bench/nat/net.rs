//! The hosts: a client, a backend, and between them one host for each way, so that what one of them
//! has in its kernel (connection tracking) costs the others nothing.
//!
//! ```text
//!         .2  10.214.N.0/24  .1            .1  10.215.N.0/24  .2
//! client ──────────────────────  host N  ────────────────────── backend
//! ```

use super::Way;
use crate::bench::config;
use crate::bench::requests::Path as _;
use crate::bench::scratch::Scratch;
use crate::build::{self, Profile};
use crate::sh::CommandExt;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Ports of the two backends.
const BACKENDS: [u16; 2] = [5000, 5001];
/// How long a program may take until it answers.
const START: Duration = Duration::from_secs(15);
/// A connection per request takes many ports and long queues.
const BUSY: &str = "echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range; \
                    echo 8192 > /proc/sys/net/core/somaxconn; \
                    echo 8192 > /proc/sys/net/ipv4/tcp_max_syn_backlog";

/// Where the client finds a backend by this way.
pub(super) fn target(way: Way) -> String {
    let n = way.number();
    match way {
        Way::Direct => format!("10.215.{n}.2:{}", BACKENDS[0]),
        Way::Wire => format!("10.214.{n}.1:{}", BACKENDS[0]),
        _ => format!("10.214.{n}.1:80"),
    }
}

/// The hosts and what runs on them; gone when dropped.
pub(super) struct Net {
    name: String,
    dir: PathBuf,
    hosts: Vec<String>,
    pin_dirs: Vec<PathBuf>,
    children: Vec<Child>,
}

impl Net {
    /// Makes the hosts of these ways and starts what they need. What was made so far goes away if it
    /// fails.
    pub(super) fn start(scratch: &Scratch, ways: &[Way]) -> Result<Self> {
        let mut net = Self {
            name: scratch.name.clone(),
            dir: scratch.dir.clone(),
            hosts: Vec::new(),
            pin_dirs: Vec::new(),
            children: Vec::new(),
        };
        for host in ["client", "backend"] {
            net.host(host)?;
            net.shell(host, BUSY)?;
        }
        for &way in ways {
            net.wire(way)?;
        }
        net.backends()?;
        for &way in ways {
            match way {
                Way::Direct | Way::Wire => {}
                Way::Nftables => net.nftables(way)?,
                Way::Tc | Way::Xdp => net.agent(way)?,
            }
            net.wait(way)?;
            if way.has_agent() {
                net.check(way)?;
            }
        }
        Ok(net)
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    fn host(&mut self, host: &str) -> Result<()> {
        let namespace = self.namespace(host);
        ip(&["netns", "add", &namespace])?;
        self.hosts.push(namespace.clone());
        ip(&["-n", &namespace, "link", "set", "lo", "up"])
    }

    /// One end of a wire, with its address.
    fn end(&self, host: &str, device: &str, address: &str) -> Result<()> {
        let namespace = self.namespace(host);
        let address = format!("{address}/24");
        ip(&["-n", &namespace, "address", "add", &address, "dev", device])?;
        ip(&["-n", &namespace, "link", "set", "dev", device, "up"])
    }

    fn join(&self, one: (&str, &str), other: (&str, &str)) -> Result<()> {
        let (first, second) = (self.namespace(one.0), self.namespace(other.0));
        ip(&[
            "link", "add", one.1, "netns", &first, "type", "veth", "peer", "name", other.1,
            "netns", &second,
        ])
    }

    /// The host of a way, between the client and the backend.
    fn wire(&mut self, way: Way) -> Result<()> {
        let (host, n) = (way.name(), way.number());
        let (left, right) = (format!("10.214.{n}"), format!("10.215.{n}"));
        if way == Way::Wire {
            self.join(("client", host), ("backend", host))?;
            self.end("client", host, &format!("{left}.2"))?;
            return self.end("backend", host, &format!("{left}.1"));
        }
        self.host(host)?;
        self.shell(host, "echo 1 > /proc/sys/net/ipv4/ip_forward")?;
        self.join((host, "outside"), ("client", host))?;
        self.join((host, "inside"), ("backend", host))?;
        self.end(host, "outside", &format!("{left}.1"))?;
        self.end(host, "inside", &format!("{right}.1"))?;
        self.end("client", host, &format!("{left}.2"))?;
        self.end("backend", host, &format!("{right}.2"))?;
        self.route("client", &right, &format!("{left}.1"))?;
        self.route("backend", &left, &format!("{right}.1"))?;
        if way == Way::Xdp {
            // XDP needs the other end to poll, and the senders' checksums.
            for (host, device) in [
                (host, "outside"),
                (host, "inside"),
                ("client", host),
                ("backend", host),
            ] {
                self.shell(host, &format!("ethtool -K {device} gro on tx off"))?;
            }
        }
        Ok(())
    }

    fn route(&self, host: &str, network: &str, via: &str) -> Result<()> {
        let namespace = self.namespace(host);
        let network = format!("{network}.0/24");
        ip(&["-n", &namespace, "route", "add", &network, "via", via])
    }

    fn backends(&mut self) -> Result<()> {
        for port in BACKENDS {
            let name = format!("backend-{port}");
            let text = format!(
                "{}http {{ access_log off; keepalive_requests 1000000000; server {{ \
                 listen {port} backlog=8192; location / {{ return 200 ok; }} }} }}\n",
                config::nginx(&name)
            );
            let file = self.write(&format!("{name}.conf"), &text)?;
            let mut nginx = self.command("backend", "nginx");
            nginx.arg("-p").arg(&self.dir).arg("-c").arg(file);
            nginx.args(["-e", "stderr"]);
            self.spawn(&name, nginx)?;
        }
        Ok(())
    }

    /// The backend by a hash of the client's address, as lb-agent chooses it.
    fn nftables(&self, way: Way) -> Result<()> {
        let n = way.number();
        let [first, second] = BACKENDS;
        let rules = format!(
            "table ip lb {{\n chain in {{\n  type nat hook prerouting priority dstnat;\n  \
             ip daddr 10.214.{n}.1 tcp dport 80 dnat to 10.215.{n}.2 : \
             jhash ip saddr mod 2 map {{ 0 : {first}, 1 : {second} }}\n }}\n}}\n"
        );
        let file = self.write("nftables.conf", &rules)?;
        self.shell(way.name(), &format!("nft -f {}", file.display()))?;
        // Connections that are over leave the table as soon as those of lb-agent do.
        let wait = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait";
        self.shell(way.name(), &format!("echo 1 > {wait}"))
    }

    fn agent(&mut self, way: Way) -> Result<()> {
        let (n, name) = (way.number(), way.name());
        let pin_dir = Path::new("/sys/fs/bpf").join(self.namespace(name));
        let dir = self.dir.join(name);
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let [first, second] = BACKENDS;
        let text = format!(
            "[agent]\nstate_dir = {state:?}\ncontrol = {control:?}\npin_dir = {pin_dir:?}\n\
             data_plane = \"bpf\"\nflow_table = 262144\nflow_timeouts = {{ closing = \"1s\" }}\n\
             interfaces = [{{ name = \"outside\", attach = {name:?} }}, \
             {{ name = \"inside\", attach = {name:?} }}]\n\
             [[service]]\nname = \"web\"\nlisten = [\"10.214.{n}.1:80\"]\npath = \"nat\"\n\
             backends = [\"10.215.{n}.2:{first}\", \"10.215.{n}.2:{second}\"]\n",
            state = dir.join("state"),
            control = self.control(way),
        );
        let file = self.write(&format!("{name}.toml"), &text)?;
        self.pin_dirs.push(pin_dir);
        let mut agent = self.command(name, &build::agent(Profile::Dist).to_string_lossy());
        agent.arg("run").arg("--config").arg(file);
        self.spawn(&format!("lb-agent-{name}"), agent)
    }

    fn control(&self, way: Way) -> PathBuf {
        self.dir.join(way.name()).join("control.sock")
    }

    /// Another path, or another place of the programs, would be another measurement.
    fn check(&self, way: Way) -> Result<()> {
        let status = Command::new(build::agent(Profile::Dist))
            .arg("--control")
            .arg(self.control(way))
            .args(["status", "--json"])
            .read()?;
        let status: serde_json::Value =
            serde_json::from_str(&status).context("read the status of lb-agent")?;
        let backends = status["services"][0]["backends"].as_array();
        let backends = backends.context("no backends")?;
        ensure!(
            backends
                .iter()
                .all(|backend| backend["class"] == "container"),
            "lb-agent does not keep the clients' addresses: {backends:?}"
        );
        let interfaces = status["agent"]["packets"]["interfaces"].as_array();
        let interfaces = interfaces.context("no interfaces")?;
        let modes = if way == Way::Xdp {
            &["xdp"][..]
        } else {
            &["tcx", "tc"]
        };
        let fits =
            |interface: &serde_json::Value| modes.iter().any(|mode| interface["mode"] == *mode);
        ensure!(
            interfaces.len() == 2 && interfaces.iter().all(fits),
            "the programs are not where they were to be: {interfaces:?}"
        );
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.dir.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> Result<()> {
        let log = self.dir.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let errors = output.try_clone().context("share a log file")?;
        let child = command.stdout(output).stderr(errors).spawn();
        self.children
            .push(child.with_context(|| format!("start {name}"))?);
        Ok(())
    }

    /// Waits until the client is answered by a way.
    fn wait(&self, way: Way) -> Result<()> {
        let target = target(way);
        let (address, port) = target.split_once(':').context("no port")?;
        let connect = format!("exec 3<>/dev/tcp/{address}/{port}");
        let deadline = Instant::now() + START;
        loop {
            let mut client = self.client("timeout");
            let done = client.args(["1", "bash", "-c", &connect]).output();
            if done.is_ok_and(|output| output.status.success()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = self.dir.join(format!("lb-agent-{}.log", way.name()));
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("nobody answers by {}\n{}", way.name(), said.trim());
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// A program where the client is.
    pub(super) fn client(&self, program: &str) -> Command {
        self.command("client", program)
    }

    /// A program on one of the hosts. It dies with us, however we die, and is out of reach of the
    /// terminal's Ctrl-C, which is for us to answer.
    fn command(&self, host: &str, program: &str) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net=/run/netns/{}", self.namespace(host)))
            .arg(program)
            .process_group(0);
        command
    }

    fn shell(&self, host: &str, text: &str) -> Result<()> {
        self.command(host, "sh").args(["-c", text]).read().map(drop)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pin_dir in &self.pin_dirs {
            let _ = fs::remove_dir_all(pin_dir);
        }
        for host in &self.hosts {
            let _ = ip(&["netns", "delete", host]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    Command::new("ip").args(arguments).read().map(drop)
}
