//! Two hosts for a benchmark: network namespaces, joined by a veth pair, gone when dropped.

use crate::sh::CommandExt;
use anyhow::Result;
use std::process::Command;

/// The server's address on the link.
pub(super) const SERVER: &str = "10.213.0.1";
const CLIENT: &str = "10.213.0.2";

/// One of the hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Host {
    Server,
    Client,
}

/// The hosts of this process.
pub(super) struct Net {
    name: String,
}

impl Net {
    /// Makes both hosts. What was made so far goes away if it fails.
    pub(super) fn new(name: String) -> Result<Self> {
        let net = Self { name };
        for host in [Host::Server, Host::Client] {
            ip(&["netns", "add", &net.namespace(host)])?;
        }
        let (server, client) = (net.namespace(Host::Server), net.namespace(Host::Client));
        ip(&[
            "link", "add", "uplink", "netns", &server, "type", "veth", "peer", "name", "uplink",
            "netns", &client,
        ])?;
        net.configure(Host::Server, SERVER)?;
        net.configure(Host::Client, CLIENT)?;
        Ok(net)
    }

    fn configure(&self, host: Host, address: &str) -> Result<()> {
        let namespace = self.namespace(host);
        ip(&[
            "-n",
            &namespace,
            "address",
            "add",
            &format!("{address}/24"),
            "dev",
            "uplink",
        ])?;
        ip(&["-n", &namespace, "link", "set", "uplink", "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        // A connection per request takes many ports and long queues.
        let settings = "echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range; \
                        echo 8192 > /proc/sys/net/core/somaxconn; \
                        echo 8192 > /proc/sys/net/ipv4/tcp_max_syn_backlog";
        self.command(host, "sh")
            .args(["-c", settings])
            .read()
            .map(drop)
    }

    fn namespace(&self, host: Host) -> String {
        let host = match host {
            Host::Server => "server",
            Host::Client => "client",
        };
        format!("{}-{host}", self.name)
    }

    /// A program on one of the hosts. It dies with us, however we die, and is out of reach of the
    /// terminal's Ctrl-C, which is for us to answer.
    ///
    /// Not `ip netns exec`: that mounts another /sys, without the cgroups.
    pub(super) fn command(&self, host: Host, program: &str) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net=/run/netns/{}", self.namespace(host)))
            .arg(program)
            .process_group(0);
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in [Host::Server, Host::Client] {
            // A namespace that could not be made cannot be removed.
            let _ = ip(&["netns", "delete", &self.namespace(host)]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    Command::new("ip").args(arguments).read().map(drop)
}
