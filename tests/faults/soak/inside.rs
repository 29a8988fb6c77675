//! The hosts behind the balancer that applications run on.

use lb_tests::topology::hosts::{Host, Hosts};

use crate::apps::App;
use crate::ways::DIRECT_IP;

/// Hosts behind the balancer.
pub(crate) struct Inside {
    container: Host,
    /// Those that answer clients themselves.
    direct: [Host; 2],
}

impl Inside {
    pub(crate) fn new(hosts: &Hosts) -> Self {
        let direct = [0, 1].map(|n| {
            let host = Host::new(&format!("direct{n}"));
            let (network, wire) = (94 + n, format!("direct{n}"));
            hosts.balancer.wire(&wire, &host, "eth0");
            hosts
                .balancer
                .address(&format!("10.{network}.0.1/24"), &wire);
            host.address(&format!("10.{network}.0.2/24"), "eth0");
            host.address(&format!("{DIRECT_IP}/32"), "lo");
            let gateway = format!("10.{network}.0.1");
            host.ip(&["route", "add", "default", "via", &gateway]);
            host
        });
        let way = [&DIRECT_IP.to_string(), "via", "10.99.0.1"];
        hosts.clients.ip(&[&["route", "add"], &way[..]].concat());
        Self {
            container: hosts.container(),
            direct,
        }
    }

    /// The host of an application.
    pub(crate) fn host_of<'a>(&'a self, app: &App, hosts: &'a Hosts) -> &'a Host {
        match (app.service, app.port) {
            ("far" | "echo", _) => &self.container,
            ("direct", 5030) => &self.direct[0],
            ("direct", _) => &self.direct[1],
            _ => &hosts.balancer,
        }
    }
}
