//! The Node.js applications and clients of `tests/apps`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::Process;
use crate::topology::hosts::Host;

/// Directory of the test applications.
pub fn apps_dir() -> PathBuf {
    std::env::var_os("LB_TEST_APPS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("apps"),
        PathBuf::from,
    )
}

fn node(host: &Host, script: &str, arguments: &[String], output: &Path) -> Process {
    let mut command = host.command("node");
    command.arg(apps_dir().join(script)).args(arguments);
    Process::start(command, output)
}

/// Starts `script` (`server.js`, `udp.js`) on `host`; it listens when this returns.
pub fn serve(host: &Host, script: &str, listen: SocketAddr, dir: &Path) -> Process {
    let arguments = [listen.ip().to_string(), listen.port().to_string()];
    let output = dir.join(format!("{script}-{}.log", listen.port()));
    let mut process = node(host, script, &arguments, &output);
    process.wait_for("listening");
    process
}

/// The web application on a unix socket, or with settings in its environment (`TRUST_PROXY`,
/// `NUMBER`); it listens when this returns.
pub fn serve_with(
    host: &Host,
    listen: [&str; 2],
    settings: &[(&str, &str)],
    dir: &Path,
) -> Process {
    serve_as(host, "server.js", listen, settings, dir)
}

/// The same of another application.
pub fn serve_as(
    host: &Host,
    script: &str,
    listen: [&str; 2],
    settings: &[(&str, &str)],
    dir: &Path,
) -> Process {
    let mut command = host.command("node");
    command.arg(apps_dir().join(script)).args(listen);
    command.envs(settings.iter().copied());
    let name = [&[script], &listen[..]]
        .concat()
        .join("-")
        .replace('/', "_");
    let mut process = Process::start(command, &dir.join(format!("{name}.log")));
    process.wait_for("listening");
    process
}

/// Copies of the web application on 127.0.0.1, one on each port; they listen when this returns.
pub fn copies<const N: usize>(host: &Host, ports: [u16; N], dir: &Path) -> [Process; N] {
    ports.map(|port| serve(host, "server.js", ([127, 0, 0, 1], port).into(), dir))
}

/// A process with many Socket.IO or WebSocket clients in it.
pub struct Clients(Process);

impl Clients {
    /// Starts the program without a client.
    pub fn new(host: &Host, dir: &Path, name: &str) -> Self {
        Self(node(
            host,
            "client.js",
            &[],
            &dir.join(format!("client-{name}.log")),
        ))
    }

    /// Opens one client of `kind` (`polling`, `websocket`, `both`, `ws`, `h2`) from each address.
    #[track_caller]
    pub fn open(&mut self, kind: &str, to: SocketAddr, from: &[IpAddr]) {
        let scheme = if kind == "h2" { "https" } else { "http" };
        let opened = self.tell(json!({
            "do": "open", "kind": kind, "url": format!("{scheme}://{to}"), "from": from,
        }));
        assert!(opened.as_u64() >= Some(from.len() as u64), "{opened}");
    }

    /// Every client sends `size` bytes and waits for them to come back.
    #[track_caller]
    pub fn echo(&mut self, size: usize) {
        self.tell(json!({ "do": "echo", "size": size }));
    }

    /// The port of the copy that each client is on.
    #[track_caller]
    pub fn ports(&mut self) -> BTreeMap<IpAddr, u16> {
        serde_json::from_value(self.tell(json!({ "do": "ports" }))).unwrap()
    }

    /// How many clients are on each copy, by its port.
    #[track_caller]
    pub fn per_port(&mut self) -> BTreeMap<u16, usize> {
        serde_json::from_value(self.tell(json!({ "do": "counts" }))).unwrap()
    }

    /// The address that each client has for its copy.
    #[track_caller]
    pub fn remotes(&mut self) -> BTreeMap<IpAddr, String> {
        serde_json::from_value(self.tell(json!({ "do": "remotes" }))).unwrap()
    }

    /// Those that have lost their connection, if only for a moment.
    #[track_caller]
    pub fn disconnects(&mut self) -> Vec<IpAddr> {
        serde_json::from_value(self.tell(json!({ "do": "disconnects" }))).unwrap()
    }

    /// Errors that Socket.IO and HTTP/2 clients have seen, each with its count.
    #[track_caller]
    pub fn errors(&mut self) -> BTreeMap<String, usize> {
        serde_json::from_value(self.tell(json!({ "do": "errors" }))).unwrap()
    }

    /// Closes all clients.
    #[track_caller]
    pub fn close(&mut self) {
        self.tell(json!({ "do": "close" }));
    }

    /// Closes all, and has none any more.
    #[track_caller]
    pub fn forget(&mut self) {
        self.tell(json!({ "do": "forget" }));
    }

    #[track_caller]
    fn tell(&mut self, command: Value) -> Value {
        self.0.tell(&command.to_string());
        let line = self.0.wait_for("{\"");
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["ok"].clone()
    }
}
