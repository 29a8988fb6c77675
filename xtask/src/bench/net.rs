//! Hosts for a benchmark: network namespaces, joined by veth pairs, gone when dropped.

use crate::sh::CommandExt;
use anyhow::Result;
use std::ffi::OsStr;
use std::process::Command;

/// The hosts of [`Net::pair`].
pub(super) const SERVER_HOST: &str = "server";
pub(super) const CLIENT_HOST: &str = "client";
/// The server's address on the link.
pub(super) const SERVER: &str = "10.213.0.1";
const CLIENT: &str = "10.213.0.2";
/// Ports of the two backends of every benchmark.
pub(super) const BACKENDS: [u16; 2] = [5000, 5001];
/// A connection per request takes many ports and long queues.
const BUSY: &str = "echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range; \
                    echo 8192 > /proc/sys/net/core/somaxconn; \
                    echo 8192 > /proc/sys/net/ipv4/tcp_max_syn_backlog";

/// The hosts of this process.
pub(super) struct Net {
    name: String,
    namespaces: Vec<String>,
}

impl Net {
    /// Without hosts. The names of their namespaces begin with `name`.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespaces: Vec::new(),
        }
    }

    /// A server and a client on one link.
    pub(super) fn pair(name: &str) -> Result<Self> {
        let mut net = Self::new(name);
        net.add_busy_host(SERVER_HOST)?;
        net.add_busy_host(CLIENT_HOST)?;
        net.join((SERVER_HOST, "uplink"), (CLIENT_HOST, "uplink"))?;
        net.set_address(SERVER_HOST, "uplink", SERVER)?;
        net.set_address(CLIENT_HOST, "uplink", CLIENT)?;
        Ok(net)
    }

    /// Makes a host with a loopback device.
    pub(super) fn add_host(&mut self, host: &str) -> Result<()> {
        let namespace = self.namespace(host);
        ip(&["netns", "add", &namespace])?;
        self.namespaces.push(namespace);
        self.ip(host, &["link", "set", "lo", "up"])
    }

    /// Makes a host for the ends of many connections.
    pub(super) fn add_busy_host(&mut self, host: &str) -> Result<()> {
        self.add_host(host)?;
        self.shell(host, BUSY)
    }

    /// Joins two hosts, each with the name of its device.
    pub(super) fn join(&self, one: (&str, &str), other: (&str, &str)) -> Result<()> {
        let (first, second) = (self.namespace(one.0), self.namespace(other.0));
        ip(&[
            "link", "add", one.1, "netns", &first, "type", "veth", "peer", "name", other.1,
            "netns", &second,
        ])
    }

    /// Gives a device its address in a network of 24 bits.
    pub(super) fn set_address(&self, host: &str, device: &str, address: &str) -> Result<()> {
        let address = format!("{address}/24");
        self.ip(host, &["address", "add", &address, "dev", device])?;
        self.ip(host, &["link", "set", "dev", device, "up"])
    }

    /// Runs `ip` on a host.
    pub(super) fn ip(&self, host: &str, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.namespace(host)], arguments].concat())
    }

    /// The name of a host's namespace, unique on this machine.
    pub(super) fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// A program on one of the hosts. It dies with us, however we die, and is out of reach of the
    /// terminal's Ctrl-C, which is for us to answer.
    ///
    /// Not `ip netns exec`: that mounts another /sys, without the cgroups.
    pub(super) fn command(&self, host: &str, program: impl AsRef<OsStr>) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net=/run/netns/{}", self.namespace(host)))
            .arg(program)
            .process_group(0);
        command
    }

    /// Runs a line of shell on a host.
    pub(super) fn shell(&self, host: &str, text: &str) -> Result<()> {
        self.command(host, "sh").args(["-c", text]).read().map(drop)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    Command::new("ip").args(arguments).read().map(drop)
}
