//! What the ways of datagrams and of packets that are answered directly need beyond one container
//! and web applications.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use lb_tests::hosts::{Host, Hosts};
use lb_tests::http::Answer;

use crate::world::App;

/// The address of the service on the `dsr` path, which is that of its backends, too.
pub(crate) const DIRECT: SocketAddr = SocketAddr::new(DIRECT_IP, 8300);
const DIRECT_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// Applications beside those on ports of their own: service, what it calls itself, address.
pub(crate) fn apps() -> impl Iterator<Item = (&'static str, u16, String)> {
    let near = ("near", 5050, "127.0.0.1:5300".to_owned());
    let direct = (0..2).map(|n| ("direct", 5030 + n, format!("10.{}.0.2:8300", 94 + n)));
    direct.chain([near])
}

/// Asks an application by a datagram, and again: who has never come back to an answer is not
/// remembered. Who answered last.
pub(crate) fn ask(from: IpAddr, to: SocketAddr) -> io::Result<Answer> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buffer = [0; 64];
    let mut length = 0;
    for _ in 0..2 {
        socket.send(b"who")?;
        length = socket.recv(&mut buffer)?;
    }
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let port = text.strip_suffix(":who").and_then(|port| port.parse().ok());
    Ok(Answer {
        port: port.ok_or_else(|| io::Error::other(format!("not an answer: {text}")))?,
        pid: 0,
        remote: from.to_string(),
    })
}

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

    /// Where an application runs.
    pub(crate) fn host_of<'a>(&'a self, app: &App, hosts: &'a Hosts) -> &'a Host {
        match (app.service, app.port) {
            ("far" | "echo", _) => &self.container,
            ("direct", 5030) => &self.direct[0],
            ("direct", _) => &self.direct[1],
            _ => &hosts.balancer,
        }
    }
}
