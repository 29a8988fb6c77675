//! Claims on listen addresses. Two agents with separate pins would both choose a socket for the same
//! connection, and the later choice would win. A claim is a listening unix socket with an abstract name
//! (unix(7)). That name belongs to the network namespace, and the claim ends with its process, however that
//! ends.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use lb_common::abi::{ServiceKey, protocol};
use lb_common::addr;
use lb_net::handover::FdStore;
use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Socket, Type};

/// The claims of this agent, each with its socket.
pub(super) struct AddressClaims {
    claims: HashMap<ServiceKey, Option<Socket>>,
    /// Has the claims of an earlier agent, and keeps these for the next one.
    kept: FdStore,
}

/// Another agent holds the claim to a listen address.
#[derive(Debug, thiserror::Error)]
#[error(
    "{protocol} {address} is steered by another lb-agent, process {pid} (stop that one, or give one of the \
     two another address)"
)]
pub struct Claimed {
    protocol: &'static str,
    address: SocketAddr,
    pid: i32,
}

impl AddressClaims {
    /// No claims yet.
    pub(super) fn new(kept: FdStore) -> Self {
        Self {
            claims: HashMap::new(),
            kept,
        }
    }

    /// Claims an address, unless this agent has claimed it. If the claim fails for another reason than a
    /// living agent, the address is used without one, because any user may take such a name.
    ///
    /// # Errors
    /// Another living agent has claimed the address.
    pub(super) fn take(&mut self, key: &ServiceKey) -> Result<(), Claimed> {
        if self.claims.contains_key(key) {
            return Ok(());
        }
        let (protocol, address) = described(key);
        let name = name_of(key);
        let inherited = self.kept.other(&name).map(Socket::from);
        let claim = match inherited.map_or_else(|| listen(&name), Ok) {
            Ok(claim) => Some(claim),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => match holder(&name) {
                Some(pid) => {
                    return Err(Claimed {
                        protocol,
                        address,
                        pid,
                    });
                }
                None => None,
            },
            Err(_) => None,
        };
        self.kept.hold(&name, &claim);
        if claim.is_none() {
            tracing::warn!(%address, protocol, "another agent would not be told that this one steers here");
        }
        self.claims.insert(*key, claim);
        Ok(())
    }

    /// Claims all addresses of `keys`.
    ///
    /// # Errors
    /// As [`AddressClaims::take`].
    pub(super) fn take_all<'a>(
        &mut self,
        mut keys: impl Iterator<Item = &'a ServiceKey>,
    ) -> Result<(), Claimed> {
        keys.try_for_each(|key| self.take(key))
    }

    /// Releases the claim on an address.
    pub(super) fn give_up(&mut self, key: &ServiceKey) {
        if self.claims.remove(key).is_some() {
            self.kept.release(&name_of(key));
        }
    }
}

fn described(key: &ServiceKey) -> (&'static str, SocketAddr) {
    let protocol = match key.protocol {
        protocol::UDP => "UDP",
        _ => "TCP",
    };
    let address = SocketAddr::new(addr::to_ip(&key.addr), key.port);
    (protocol, address)
}

/// The abstract name that stands for an address.
fn name_of(key: &ServiceKey) -> String {
    let (protocol, address) = described(key);
    format!("\0lb-agent/{protocol}/{address}")
}

fn listen(name: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(name)?)?;
    socket.listen(1)?;
    Ok(socket)
}

/// The process that listens at a name, if it belongs to root or to this agent's own user.
fn holder(name: &str) -> Option<i32> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
    // The owner of the name may be a foreign process that lets a connect(2) block.
    socket.set_nonblocking(true).ok()?;
    socket.connect(&SockAddr::unix(name).ok()?).ok()?;
    let peer = socket_peercred(&socket).ok()?;
    let own = rustix::process::geteuid();
    let trusted = peer.uid.is_root() || peer.uid == own;
    trusted.then(|| peer.pid.as_raw_pid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16, protocol: u8) -> ServiceKey {
        ServiceKey::new(addr::from_ip([192, 0, 2, 77].into()), port, protocol)
    }

    #[test]
    fn address_of_another_agent_cannot_be_had_until_that_gives_it_up() {
        let kept = FdStore::default();
        let mut one = AddressClaims::new(kept.clone());
        let mut other = AddressClaims::new(FdStore::default());
        let web = key(80, protocol::TCP);
        one.take(&web).unwrap();
        one.take(&web).unwrap();
        let refused = other.take(&web).unwrap_err().to_string();
        let pid = std::process::id();
        let expected = format!("TCP 192.0.2.77:80 is steered by another lb-agent, process {pid} ");
        assert!(refused.starts_with(&expected), "{refused}");
        other.take(&key(80, protocol::UDP)).unwrap();
        other.take(&key(81, protocol::TCP)).unwrap();
        one.give_up(&web);
        other.take(&web).unwrap();
        let mut next = AddressClaims::new(FdStore::of(kept.held().unwrap()));
        assert!(next.take(&web).is_err(), "it was given up");
        drop(other);
        one.take(&web).unwrap();
        let mut next = AddressClaims::new(FdStore::of(kept.held().unwrap()));
        next.take(&web).unwrap();
    }
}
