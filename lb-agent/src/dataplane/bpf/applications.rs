//! The applications at the backends of this host: their processes, and the address families that their sockets take.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;

use lb_common::abi::{Backend, BackendId, protocol};
use lb_common::addr::{self, Addr};

use super::adopt::bound_addresses;
use super::holders::{Holder, holders, is_held};
use super::inet_diag::{self, Listener};

/// The application at a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Application {
    /// Its processes, as pairs of id and name. Hidden ones are left out.
    pub processes: Vec<(u32, String)>,
    /// Whether its sockets take IPv4 clients.
    pub ipv4: bool,
    /// Whether its sockets take IPv6 clients.
    pub ipv6: bool,
}

/// Finds applications. It remembers the processes of sockets, as a search through `/proc` takes milliseconds.
#[derive(Default)]
pub struct Applications {
    /// The holders by the inode of their socket; none if the agent may not inspect them.
    known: HashMap<u32, Vec<Holder>>,
}

impl Applications {
    /// The applications at those `backends` where a socket listens.
    ///
    /// # Errors
    /// The kernel does not list its sockets, or `/proc` cannot be read.
    pub fn find(&mut self, backends: &[&Backend]) -> io::Result<HashMap<BackendId, Application>> {
        let mut sockets: HashMap<BackendId, Vec<Listener>> = HashMap::new();
        for protocol in [protocol::TCP, protocol::UDP] {
            let of_protocol = |backend: &&&Backend| backend.protocol == protocol;
            let mut asked = backends.iter().filter(of_protocol).peekable();
            if asked.peek().is_none() {
                continue;
            }
            let by_key = by_key(inet_diag::listeners(protocol)?);
            sockets.extend(asked.map(|backend| (backend.id, sockets_of(backend, &by_key))));
        }
        let inodes = sockets.values().flatten().map(|socket| socket.inode);
        self.learn(&inodes.collect())?;
        sockets.retain(|_, sockets| !sockets.is_empty());
        let found = sockets.into_iter();
        Ok(found
            .map(|(id, sockets)| (id, self.application(&sockets)))
            .collect())
    }

    /// Looks for the holders of sockets that are new, and of those that their holders have closed.
    fn learn(&mut self, inodes: &HashSet<u32>) -> io::Result<()> {
        self.known.retain(|inode, holders| {
            inodes.contains(inode) && holders.iter().all(|holder| is_held(*inode, holder))
        });
        let is_new = |inode: &&u32| !self.known.contains_key(inode);
        let new: HashSet<u32> = inodes.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut found = holders(&new)?;
        let new = new.into_iter();
        self.known
            .extend(new.map(|inode| (inode, found.remove(&inode).unwrap_or_default())));
        Ok(())
    }

    fn application(&self, sockets: &[Listener]) -> Application {
        let holders = sockets
            .iter()
            .filter_map(|socket| self.known.get(&socket.inode));
        let processes: BTreeSet<(u32, String)> = holders
            .flatten()
            .map(|holder| (holder.id(), holder.program()))
            .collect();
        Application {
            processes: processes.into_iter().collect(),
            ipv4: sockets.iter().any(|socket| !takes_v6_alone(socket)),
            ipv6: sockets.iter().any(|socket| socket.bound.is_ipv6()),
        }
    }
}

/// Whether IPv4 clients cannot reach a socket.
fn takes_v6_alone(socket: &Listener) -> bool {
    socket.bound.is_ipv6() && (socket.only_v6 || !socket.bound.ip().is_unspecified())
}

type ByKey = HashMap<(Addr, u16), Vec<Listener>>;

fn by_key(listeners: Vec<Listener>) -> ByKey {
    let mut by_key = ByKey::new();
    for listener in listeners {
        by_key.entry(listener.key()).or_default().push(listener);
    }
    by_key
}

/// The sockets that get the clients of a backend: those at its most specific address.
fn sockets_of(backend: &Backend, by_key: &ByKey) -> Vec<Listener> {
    let is_v4 = addr::is_v4(&backend.addr);
    let at = |addr: &Addr| {
        let listeners = by_key.get(&(*addr, backend.port)).into_iter().flatten();
        let serving = listeners.filter(|listener| !(is_v4 && listener.is_any_v6_only()));
        serving.copied().collect::<Vec<_>>()
    };
    let mut places = bound_addresses(backend)
        .iter()
        .map(at)
        .collect::<Vec<_>>()
        .into_iter();
    places
        .find(|sockets| !sockets.is_empty())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr, TcpListener};

    use super::*;
    use crate::state::observed::FREE;
    use lb_common::abi::path;

    fn backend(address: SocketAddr) -> Backend {
        Backend {
            addr: addr::from_ip(address.ip()),
            port: address.port(),
            protocol: protocol::TCP,
            path: path::SOCKET,
            id: BackendId::new(1, 0),
            ..FREE
        }
    }

    #[test]
    fn application_has_its_process_and_the_families_of_its_socket() {
        let mut applications = Applications::default();
        let cases = [
            ("127.0.0.1:0", "127.0.0.1", true, false),
            ("0.0.0.0:0", "127.0.0.1", true, false),
            ("[::]:0", "127.0.0.1", true, true),
            ("[::1]:0", "::1", false, true),
        ];
        for (bound, address, ipv4, ipv6) in cases {
            let listener = TcpListener::bind(bound).unwrap();
            let port = listener.local_addr().unwrap().port();
            let backend = backend(SocketAddr::new(address.parse::<IpAddr>().unwrap(), port));
            for _ in 0..2 {
                let found = applications
                    .find(&[&backend])
                    .unwrap()
                    .remove(&backend.id)
                    .unwrap();
                let ids: Vec<u32> = found.processes.iter().map(|(id, _)| *id).collect();
                assert_eq!(ids, [std::process::id()], "{bound}");
                assert!(!found.processes[0].1.is_empty());
                assert_eq!((found.ipv4, found.ipv6), (ipv4, ipv6), "{bound}");
            }
            drop(listener);
            assert!(
                applications.find(&[&backend]).unwrap().is_empty(),
                "{bound}"
            );
            assert!(
                applications.known.is_empty(),
                "closed sockets are forgotten"
            );
        }
    }
}
