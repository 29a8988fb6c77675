//! Sockets for the userspace path, ready for tokio.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use lb_common::abi::ServiceKey;
use lb_common::addr;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted; the kernel's `net.core.somaxconn` bounds it too.
const BACKLOG: i32 = 4096;

/// Listen addresses that could not be opened, with the reasons.
#[derive(Default)]
pub struct Problems(HashMap<ServiceKey, Problem>);

struct Problem {
    text: String,
    /// The agent lacks the permission. Waiting for another process to release the address does not
    /// help.
    is_forbidden: bool,
}

/// Numbers of listen addresses that are served and not served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// Addresses that are open.
    pub open: usize,
    /// Addresses that are not open, and are tried again.
    pub failed: usize,
    /// Those of the failed ones that the agent has no permission to open.
    pub forbidden: usize,
}

impl std::ops::Add for Listening {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            open: self.open + other.open,
            failed: self.failed + other.failed,
            forbidden: self.forbidden + other.forbidden,
        }
    }
}

impl Listening {
    /// Whether no address is served, and none will be without more permissions.
    pub fn is_in_vain(self) -> bool {
        self.open == 0 && self.failed > 0 && self.forbidden == self.failed
    }
}

impl Problems {
    /// Notes that a listen address of `kind` could not be opened. `remedy` is for an address in
    /// use.
    pub fn note(&mut self, key: ServiceKey, kind: &str, error: &io::Error, remedy: Option<String>) {
        let address = listen_address(&key);
        let is_forbidden = error.kind() == io::ErrorKind::PermissionDenied;
        let remedy = match remedy {
            _ if is_forbidden => "run lb-agent as root or with CAP_NET_BIND_SERVICE, or choose a \
                                  port from net.ipv4.ip_unprivileged_port_start on"
                .to_owned(),
            Some(remedy) if error.kind() == io::ErrorKind::AddrInUse => remedy,
            _ => format!("see who is there: ss -lpn 'sport = :{}'", key.port),
        };
        let text = format!("listen on {address} ({kind}): {error} ({remedy})");
        if self.0.get(&key).is_none_or(|known| known.text != text) {
            tracing::warn!("{text}");
        }
        self.0.insert(key, Problem { text, is_forbidden });
    }

    /// Notes that the address is open. True if it was not open before.
    pub fn over(&mut self, key: &ServiceKey) -> bool {
        self.0.remove(key).is_some()
    }

    /// Forgets the problems of all addresses but these.
    pub fn keep_only(&mut self, wanted: &HashSet<ServiceKey>) {
        self.0.retain(|key, _| wanted.contains(key));
    }

    /// The addresses that cannot be opened.
    pub fn keys(&self) -> Vec<ServiceKey> {
        self.0.keys().copied().collect()
    }

    /// The reasons, one for each address.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        self.0.values().map(|problem| problem.text.clone())
    }

    /// The counts, given the number of open addresses.
    pub fn beside(&self, open: usize) -> Listening {
        let forbidden = self.0.values().filter(|problem| problem.is_forbidden);
        Listening {
            open,
            failed: self.0.len(),
            forbidden: forbidden.count(),
        }
    }
}

/// The address that a key stands for.
pub fn listen_address(key: &ServiceKey) -> SocketAddr {
    SocketAddr::new(addr::to_ip(&key.addr), key.port)
}

/// A TCP socket that listens on `address`.
///
/// SO_REUSEADDR lets an agent take an address again at once; another listener still keeps it away.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    bind(&socket, address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// TCP sockets that share `address` (SO_REUSEPORT): the kernel spreads connections over them. With
/// port 0 all have the port that the first was given.
pub fn tcp_group(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let mut group = Vec::with_capacity(count);
    tcp_members(address, count, &mut group)?;
    Ok(group)
}

/// Adds sockets until the group has at least `count`. `address` is for an empty group.
pub fn tcp_members(
    address: SocketAddr,
    count: usize,
    group: &mut Vec<TcpListener>,
) -> io::Result<()> {
    let mut address = match group.first() {
        Some(first) => first.local_addr()?,
        None => address,
    };
    while group.len() < count {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        bind(&socket, address)?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        group.push(listener);
    }
    Ok(())
}

/// A UDP socket bound to `address`.
pub fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    bind(&socket, address)?;
    Ok(socket.into())
}

/// `[::]` is IPv6 only, as everywhere in the configuration.
fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_may_open_nothing_is_in_vain_and_one_that_has_to_wait_is_not() {
        let key = |port| ServiceKey::new(addr::ANY_V6, port, 6);
        let mut problems = Problems::default();
        assert!(!problems.beside(0).is_in_vain(), "nothing is wanted");
        problems.note(
            key(80),
            "TCP",
            &io::ErrorKind::PermissionDenied.into(),
            None,
        );
        assert!(problems.beside(0).is_in_vain());
        assert!(!problems.beside(1).is_in_vain());
        problems.note(key(81), "TCP", &io::ErrorKind::AddrInUse.into(), None);
        assert!(!problems.beside(0).is_in_vain());
        assert!(
            problems
                .texts()
                .any(|text| text.contains("CAP_NET_BIND_SERVICE"))
        );
        assert!(problems.over(&key(81)) && !problems.over(&key(81)));
        assert_eq!(problems.beside(2).failed, 1);
    }

    #[test]
    fn the_two_wildcards_do_not_get_in_each_others_way() {
        let v4 = tcp("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = v4.local_addr().unwrap().port();
        tcp(SocketAddr::new("::".parse().unwrap(), port)).unwrap();
        let taken = tcp(SocketAddr::new("0.0.0.0".parse().unwrap(), port)).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
