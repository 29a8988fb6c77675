//! A small network for the packet paths: clients, a router, the balancer, a server behind the
//! router, and a container behind the balancer.
//!
//! ```text
//! clients ── router ── balancer ── container
//!               └───── server
//! ```

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::topology::hosts::Host;
use crate::wait;

/// Number of clients of each family.
pub const CLIENTS: u16 = 20;

/// The balancer's own addresses.
pub const BALANCER: [IpAddr; 2] = pair(2, 2);
/// Addresses of the server behind the router.
pub const SERVER: [IpAddr; 2] = pair(3, 2);
/// Addresses of the container.
pub const CONTAINER: [IpAddr; 2] = pair(4, 2);
/// Addresses that the router sends to the balancer and that no host has.
pub const VIP: [IpAddr; 2] = pair(9, 1);

/// The host `n` of the network `net`, in both families.
pub const fn pair(net: u8, n: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(10, 80, net, n)),
        IpAddr::V6(Ipv6Addr::new(0xfd80, 0, 0, net as u16, 0, 0, 0, n as u16)),
    ]
}

/// The nth client's addresses. Each IPv6 client would be in a /64 of its own on the Internet; here
/// tests choose prefixes of 128 bits.
pub fn client(n: u16) -> [IpAddr; 2] {
    pair(1, 10 + n as u8)
}

/// Gives a host addresses of a network of this kind, with its length.
pub fn give(host: &Host, addresses: [IpAddr; 2], interface: &str) {
    for address in addresses {
        let length = if address.is_ipv4() { 24 } else { 64 };
        host.address(&format!("{address}/{length}"), interface);
    }
}

/// Has a host send everything by these routers.
pub fn route_by(host: &Host, gateways: [IpAddr; 2]) {
    for gateway in gateways {
        let family = if gateway.is_ipv4() { "-4" } else { "-6" };
        let via = gateway.to_string();
        host.ip(&[family, "route", "add", "default", "via", &via]);
    }
}

/// The hosts of the routed network.
pub struct Net {
    /// Host of the clients.
    pub clients: Host,
    /// Between the clients, the server and the balancer.
    pub router: Host,
    /// Host of the agent.
    pub balancer: Host,
    /// Another host.
    pub server: Host,
    /// A namespace that reaches other networks through the balancer.
    pub container: Host,
}

impl Net {
    /// Makes all hosts and wires.
    pub fn new() -> Self {
        let net = Self {
            clients: Host::new("clients"),
            router: Host::new("router"),
            balancer: Host::new("balancer"),
            server: Host::new("server"),
            container: Host::new("container"),
        };
        for host in [
            &net.router,
            &net.clients,
            &net.server,
            &net.container,
            &net.balancer,
        ] {
            // An address is usable at once.
            host.set("net/ipv6/conf/default/accept_dad", "0");
        }
        net.router.set("net/ipv4/ip_forward", "1");
        net.router.set("net/ipv6/conf/all/forwarding", "1");
        let (router, balancer) = (&net.router, &net.balancer);
        router.wire("clients0", &net.clients, "eth0");
        router.wire("balancer0", balancer, "eth0");
        router.wire("server0", &net.server, "eth0");
        balancer.wire("cont0", &net.container, "eth0");
        for (network, gateway, interface, host) in [
            (1, router, "clients0", &net.clients),
            (2, router, "balancer0", balancer),
            (3, router, "server0", &net.server),
            (4, balancer, "cont0", &net.container),
        ] {
            give(gateway, pair(network, 1), interface);
            match network {
                1 => (1..=CLIENTS).for_each(|n| give(host, client(n), "eth0")),
                _ => give(host, pair(network, 2), "eth0"),
            }
            route_by(host, pair(network, 1));
        }
        net.lead_to(BALANCER);
        net
    }

    /// Sets the MTU of the route from the router to the clients. The MTU of the interface would also
    /// limit received packets, and no sender would be told.
    pub fn narrow(&self, mtu: u16) {
        let mtu = mtu.to_string();
        let [v4, v6] = pair(1, 0);
        // The metrics are those of the routes that come with the addresses.
        for (family, network, metric) in [
            ("-4", format!("{v4}/24"), "0"),
            ("-6", format!("{v6}/64"), "256"),
        ] {
            let mut route = vec![family, "route", "replace", &network, "dev", "clients0"];
            route.extend(["proto", "kernel", "metric", metric, "mtu", &mtu]);
            self.router.ip(&route);
        }
    }

    /// One more host behind the router, at `10.80.network.2` and `fd80:0:0:network::2`; returns it
    /// and its addresses.
    pub fn another(&self, role: &str, network: u8) -> (Host, [IpAddr; 2]) {
        let host = Host::new(role);
        host.set("net/ipv6/conf/default/accept_dad", "0");
        let interface = format!("{role}0");
        self.router.wire(&interface, &host, "eth0");
        give(&self.router, pair(network, 1), &interface);
        give(&host, pair(network, 2), "eth0");
        route_by(&host, pair(network, 1));
        (host, pair(network, 2))
    }

    /// Has the router send everything for the services to a balancer.
    pub fn lead_to(&self, balancer: [IpAddr; 2]) {
        let [vip4, vip6] = pair(9, 0);
        for (address, network) in balancer
            .iter()
            .zip([format!("{vip4}/24"), format!("{vip6}/64")])
        {
            let family = if address.is_ipv4() { "-4" } else { "-6" };
            let via = address.to_string();
            self.router
                .ip(&[family, "route", "replace", &network, "via", &via]);
        }
    }

    /// Wires on which XDP can run: receivers take frames from it, and senders compute checksums.
    pub fn ready_for_xdp(&self) {
        for (host, interface) in [
            (&self.router, "balancer0"),
            (&self.balancer, "eth0"),
            (&self.balancer, "cont0"),
            (&self.container, "eth0"),
            (&self.router, "clients0"),
            (&self.clients, "eth0"),
            (&self.router, "server0"),
            (&self.server, "eth0"),
        ] {
            ethtool(host, &["-K", interface, "gro", "on"]);
            ethtool(host, &["-K", interface, "tx", "off"]);
        }
    }
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}

/// How `status` calls programs that run behind the driver: by TCX, which came with Linux 6.6.
pub fn behind_the_driver() -> &'static str {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 6) { "tcx" } else { "tc" }
}

fn ethtool(host: &Host, arguments: &[&str]) {
    let done = host.command("ethtool").args(arguments).output();
    let done = done.expect("ethtool");
    assert!(done.status.success(), "ethtool {arguments:?}: {done:?}");
}

/// A server that keeps received bytes and sends as many as requested: for transfers larger than any
/// buffer. Ends with the test.
pub fn bulk_server(host: &Host, address: SocketAddr) {
    let listener = host.run(|| TcpListener::bind(address).unwrap());
    host.spawn(move || {
        while let Ok((stream, peer)) = listener.accept() {
            std::thread::spawn(move || serve_bulk(stream, peer));
        }
    });
}

/// Reads the lengths of `upload` and `download`, then receives the one and sends the other. Then it
/// sends the digest of the received bytes, and the peer's address.
fn serve_bulk(mut stream: TcpStream, peer: SocketAddr) {
    let mut lengths = [0; 16];
    while stream.read_exact(&mut lengths).is_ok() {
        let word = |at: usize| u64::from_be_bytes(lengths[at..at + 8].try_into().unwrap());
        let (upload, download) = (word(0), word(8));
        let Ok(digest) = receive(&mut stream, upload) else {
            return;
        };
        let text = peer.ip().to_canonical().to_string();
        let answer = [
            &digest.to_be_bytes()[..],
            &[text.len() as u8],
            text.as_bytes(),
        ]
        .concat();
        if stream.write_all(&answer).is_err() || send(&mut stream, download).is_err() {
            return;
        }
    }
}

/// A connection to a [`bulk_server`].
pub struct Bulk(TcpStream);

impl Bulk {
    /// Connects from the address `from`.
    pub fn connect(from: IpAddr, to: SocketAddr) -> io::Result<Self> {
        let stream = crate::http::connect(from, to)?;
        stream.set_write_timeout(Some(wait::slowed(Duration::from_secs(20))))?;
        Ok(Self(stream))
    }

    /// Over a connection that stands.
    pub fn over(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// Sends and receives so many bytes, checked; returns the address that the server sees.
    pub fn transfer(&mut self, upload: u64, download: u64) -> io::Result<IpAddr> {
        let lengths = [upload.to_be_bytes(), download.to_be_bytes()].concat();
        self.0.write_all(&lengths)?;
        send(&mut self.0, upload)?;
        let mut digest = [0; 8];
        self.0.read_exact(&mut digest)?;
        assert_eq!(
            u64::from_be_bytes(digest),
            digest_of(upload),
            "what the server got"
        );
        let mut length = [0];
        self.0.read_exact(&mut length)?;
        let mut text = vec![0; usize::from(length[0])];
        self.0.read_exact(&mut text)?;
        assert_eq!(
            receive(&mut self.0, download)?,
            digest_of(download),
            "what the client got"
        );
        String::from_utf8(text)
            .unwrap()
            .parse()
            .map_err(io::Error::other)
    }

    /// Waits for the end of the connection; returns the error that ended it.
    pub fn end(&mut self) -> io::Error {
        // Unlike `read`, it goes on when a signal interrupts it.
        match self.0.read_exact(&mut [0]) {
            Ok(()) => io::Error::other("more bytes, not the end"),
            Err(error) => error,
        }
    }
}

/// Bytes that tell their place.
fn block(at: u64) -> [u8; 1024] {
    std::array::from_fn(|i| (at.wrapping_mul(31).wrapping_add(i as u64 * 7) >> 3) as u8)
}

fn send(stream: &mut TcpStream, length: u64) -> io::Result<()> {
    let mut at = 0;
    while at < length {
        let size = (length - at).min(1024) as usize;
        stream.write_all(&block(at)[..size])?;
        at += size as u64;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, length: u64) -> io::Result<u64> {
    let mut digest = Digest::default();
    let mut buffer = vec![0; 16 * 1024];
    let mut left = length;
    while left > 0 {
        let size = left.min(buffer.len() as u64) as usize;
        let got = stream.read(&mut buffer[..size])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        digest.add(&buffer[..got]);
        left -= got as u64;
    }
    Ok(digest.0)
}

fn digest_of(length: u64) -> u64 {
    let mut digest = Digest::default();
    let mut at = 0;
    while at < length {
        let size = (length - at).min(1024) as usize;
        digest.add(&block(at)[..size]);
        at += size as u64;
    }
    digest.0
}

/// FNV-1a, which tells places apart.
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// A UDP server that answers with the peer's address, a blank and the received bytes. Ends with the
/// test.
pub fn udp_echo(host: &Host, address: SocketAddr) {
    let socket = host.run(|| UdpSocket::bind(address).unwrap());
    host.spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((size, peer)) = socket.recv_from(&mut buffer) {
            let mut answer = format!("{} ", peer.ip().to_canonical()).into_bytes();
            answer.extend(&buffer[..size]);
            let _ = socket.send_to(&answer, peer);
        }
    });
}

/// Asks a [`udp_echo`] server: the address that it sees. Not for long, as datagrams may be lost.
pub fn ask_udp(from: IpAddr, to: SocketAddr, text: &[u8]) -> io::Result<IpAddr> {
    ask_udp_for(Duration::from_secs(2), from, to, text)
}

/// Sends to an address without a listener; returns the error. A refusal comes at once, by any clock.
pub fn refused_udp(from: IpAddr, to: SocketAddr) -> io::Error {
    ask_udp_for(Duration::from_secs(20), from, to, b"hello").unwrap_err()
}

fn ask_udp_for(
    patience: Duration,
    from: IpAddr,
    to: SocketAddr,
    text: &[u8],
) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((from, 0))?;
    // Answers from anywhere else are not heard.
    socket.connect(to)?;
    socket.set_read_timeout(Some(wait::slowed(patience)))?;
    let mut buffer = vec![0; 65_536];
    socket.send(text)?;
    let size = socket.recv(&mut buffer)?;
    let blank = buffer[..size]
        .iter()
        .position(|byte| *byte == b' ')
        .unwrap();
    assert_eq!(&buffer[blank + 1..size], text);
    let seen = std::str::from_utf8(&buffer[..blank]).unwrap();
    Ok(seen.parse().unwrap())
}

/// A TCP connection over IPv4 that is being made, from a client's address.
pub fn connecting(from: IpAddr, to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let _ = socket.connect(&to.into());
    socket
}

/// The configuration `services`, each checked, and refusing clients while all its backends are down.
pub fn refusing(services: &str) -> String {
    let mut parts = services.split("[[service]]");
    let head = parts.next().unwrap_or_default().to_owned();
    parts.fold(head, |text, part| {
        format!("{text}[[service]]{part}[service.health]\ntype = 'tcp'\nall_down = 'refuse'\n")
    })
}
