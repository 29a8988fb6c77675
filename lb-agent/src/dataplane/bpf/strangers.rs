//! Finds applications that listen on the address of a service without being its backends. The service takes
//! over their port without their knowledge.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::holders::{Holder, one_each, sockets};
use super::inet_diag::{self, Listener, covers};

/// A foreign socket that waits on the address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Bound address and port.
    pub bound: SocketAddr,
    /// Name and id of the process, as "nginx (pid 12)", or a note that the process is hidden.
    pub whose: String,
}

/// Foreign sockets at the addresses `listen` of a service, without those at `backends` and those of this
/// process.
///
/// # Errors
/// The kernel does not list its sockets.
pub fn strangers(
    protocol: u8,
    listen: &[SocketAddr],
    backends: &[SocketAddr],
) -> io::Result<Vec<Stranger>> {
    let mut found = inet_diag::listeners(protocol)?;
    found.retain(|listener| {
        let at = |address: &SocketAddr| meet(listener.bound, *address);
        listen.iter().any(at) && !backends.iter().any(at)
    });
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let own: HashSet<u32> = sockets(Path::new("/proc/self"))
        .map(|(inode, _)| inode)
        .collect();
    found.retain(|listener| !own.contains(&listener.inode));
    let inodes = found.iter().map(|listener| listener.inode).collect();
    let holders = one_each(&inodes)?;
    let whose = |listener: &Listener| {
        let unseen = || "a process that lb-agent cannot see".to_owned();
        holders
            .get(&listener.inode)
            .map_or_else(unseen, Holder::name)
    };
    let stranger = |listener: &Listener| Stranger {
        bound: listener.bound,
        whose: whose(listener),
    };
    Ok(found.iter().map(stranger).collect())
}

/// Whether some address matches both the socket and the service.
fn meet(bound: SocketAddr, address: SocketAddr) -> bool {
    covers(bound, address) || covers(address, bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_meet_addresses_of_their_families() {
        let cases = [
            ("0.0.0.0:80", "192.0.2.1:80", true),
            ("[::]:80", "192.0.2.1:80", true),
            ("192.0.2.1:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[2001:db8::1]:80", false),
            ("192.0.2.2:80", "192.0.2.1:80", false),
            ("0.0.0.0:81", "192.0.2.1:80", false),
        ];
        for (bound, address, expected) in cases {
            let found = meet(bound.parse().unwrap(), address.parse().unwrap());
            assert_eq!(found, expected, "{bound} {address}");
        }
    }

    #[test]
    fn own_socket_is_no_stranger() {
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = own.local_addr().unwrap();
        let tcp = lb_common::abi::protocol::TCP;
        assert_eq!(strangers(tcp, &[at], &[]).unwrap(), []);
    }
}
