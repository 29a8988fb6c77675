//! The applications behind the balancer.

use std::path::Path;

use lb_tests::node;
use lb_tests::process::Process;
use lb_tests::topology::hosts::{CONTAINER, Host};

use crate::ways::Way;

/// A copy of an application.
pub(crate) struct App {
    pub(crate) service: &'static str,
    pub(crate) address: String,
    /// The name by which it answers.
    pub(crate) port: u16,
    pub(crate) process: Option<Process>,
}

impl App {
    pub(crate) fn all(dir: &Path) -> Vec<Self> {
        let app = |service, port, address| Self {
            service,
            address,
            port,
            process: None,
        };
        let local = |service, port: u16| app(service, port, format!("127.0.0.1:{port}"));
        let mut all: Vec<Self> = (5000..5004).map(|port| local("web", port)).collect();
        all.extend((5004..5006).map(|port| local("six", port)));
        all.extend((5010..5012).map(|port| local("app", port)));
        let path = dir.join("app.sock");
        all.push(app("app", 5012, format!("unix:{}", path.display())));
        let inside = |service, port: u16| app(service, port, format!("{}:{port}", CONTAINER[0]));
        all.extend((5020..5022).map(|port| inside("far", port)));
        all.extend((5040..5042).map(|port| inside("echo", port)));
        all.extend(others().map(|(service, port, address)| app(service, port, address)));
        all
    }

    /// The ways that lead to it.
    pub(crate) fn ways(&self) -> &'static [Way] {
        match self.service {
            "web" => &[Way::Socket],
            "six" => &[Way::Proxy],
            "app" => &[Way::Http, Way::Http2],
            "direct" => &[Way::Dsr],
            "near" => &[Way::Datagrams],
            "echo" => &[Way::NatDatagrams],
            _ => &[Way::Nat],
        }
    }

    /// Starts it; it listens when this returns.
    pub(crate) fn start(&mut self, host: &Host, dir: &Path) {
        let port = self.port.to_string();
        let path = self.address.strip_prefix("unix:");
        let listen = match path {
            Some(path) => {
                // The last process has left it behind.
                let _ = std::fs::remove_file(path);
                path
            }
            None => self.address.split(':').next().expect("an address"),
        };
        let (script, listen, port) = match self.service {
            "direct" => ("server.js", ["10.96.0.1", "8300"], port.as_str()),
            // Which answers from the address that was asked.
            "near" => ("udp.js", ["0.0.0.0", "5300"], port.as_str()),
            "echo" => ("udp.js", [listen, &port], port.as_str()),
            _ => ("server.js", [listen, &port], port.as_str()),
        };
        self.process = Some(node::serve_as(
            host,
            script,
            listen,
            &[("NUMBER", port)],
            dir,
        ));
    }
}

/// Applications beside those on ports of their own: service, name by which it answers, address.
fn others() -> impl Iterator<Item = (&'static str, u16, String)> {
    let near = ("near", 5050, "127.0.0.1:5300".to_owned());
    let direct = (0..2).map(|n| ("direct", 5030 + n, format!("10.{}.0.2:8300", 94 + n)));
    direct.chain([near])
}
