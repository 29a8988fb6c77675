//! The paths by which requests reach an application, and one visit by each.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use lb_tests::http::{self, Answer};
use lb_tests::topology::hosts::{SERVICE_V4, SERVICE_V6};

/// The address of the service on the `dsr` path, which is that of its backends, too.
pub(crate) const DIRECT: SocketAddr = SocketAddr::new(DIRECT_IP, 8300);
pub(crate) const DIRECT_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// How requests get to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// The kernel hands a connection to the application's socket.
    Socket,
    /// The agent connects to it, as an IPv6 client wants an IPv4 application.
    Proxy,
    /// The agent reads requests.
    Http,
    /// Packets are rewritten to a container.
    Nat,
    /// Packets are sent on as they are to a host that answers clients itself.
    Dsr,
    /// The kernel hands datagrams to the application's socket.
    Datagrams,
    /// Datagrams are rewritten to a container.
    NatDatagrams,
    /// The agent reads requests of HTTP/2 over TLS.
    Http2,
}

impl Way {
    pub(crate) const ALL: [Self; 8] = [
        Self::Socket,
        Self::Proxy,
        Self::Http,
        Self::Nat,
        Self::Dsr,
        Self::Datagrams,
        Self::NatDatagrams,
        Self::Http2,
    ];

    pub(crate) fn address(self) -> SocketAddr {
        match self {
            Self::Socket => SERVICE_V4,
            Self::Proxy => SERVICE_V6,
            Self::Http => SocketAddr::new(SERVICE_V4.ip(), 81),
            Self::Nat => SocketAddr::new(SERVICE_V4.ip(), 90),
            Self::Dsr => DIRECT,
            Self::Datagrams => SocketAddr::new(SERVICE_V4.ip(), 5300),
            Self::NatDatagrams => SocketAddr::new(SERVICE_V4.ip(), 91),
            Self::Http2 => TLS,
        }
    }

    pub(crate) fn is_udp(self) -> bool {
        matches!(self, Self::Datagrams | Self::NatDatagrams)
    }

    /// One visit from a client.
    pub(crate) fn visit(self, from: IpAddr) -> io::Result<Answer> {
        match self {
            Self::Datagrams | Self::NatDatagrams => ask(from, self.address()),
            // Only the transport below HTTP/2 matters here.
            Self::Http2 => http::ask_well(&http::connect(from, Self::Http.address())?),
            _ => http::ask_well(&http::connect(from, self.address())?),
        }
    }
}

/// The address of HTTPS.
pub(crate) const TLS: SocketAddr = SocketAddr::new(SERVICE_V4.ip(), 443);

/// Asks an application by a datagram, and again: a client that sends nothing after an answer is not
/// remembered. Returns the last answer.
fn ask(from: IpAddr, to: SocketAddr) -> io::Result<Answer> {
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
