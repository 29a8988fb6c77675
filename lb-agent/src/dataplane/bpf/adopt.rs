//! Adopts listening sockets that `lb_listen` has not seen: those opened before it was attached, and UDP
//! sockets.
//!
//! The agent borrows a socket from its process (pidfd_getfd(2), which takes CAP_SYS_PTRACE) just long
//! enough to enter it into the map.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use aya::maps::MapError;
use lb_common::abi::{
    Backend, BackendId, ListenKey, MAX_GROUP, SocketOwner, path, protocol, state,
};
use lb_common::addr::{self, Addr};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::holders::{self, Holder};
use super::inet_diag::{self, Listener};
use super::maps::Maps;
use super::mptcp::MptcpListeners;
use super::pod;
use crate::dataplane::Error;

/// Flag of `bpf_map_update_elem`: fail if the key exists.
const BPF_NOEXIST: u64 = 1;

/// The addresses that a socket of `backend` may be bound to, most specific first.
pub(super) fn bound_addresses(backend: &Backend) -> [Addr; 3] {
    [backend.addr, addr::wildcard_of(&backend.addr), addr::ANY_V6]
}

/// Enters the listening sockets of `backends` that are not entered yet. Returns the reasons of failures.
pub(super) fn adopt(maps: &mut Maps, backends: &[Backend]) -> Vec<String> {
    let steered: Vec<&Backend> = backends
        .iter()
        .filter(|b| b.state != state::REMOVED && b.path == path::SOCKET)
        .collect();
    let mut problems = Vec::new();
    for protocol in [protocol::TCP, protocol::UDP] {
        let wanted = Wanted::of(steered.iter().filter(|b| b.protocol == protocol));
        if wanted.bound.is_empty() {
            continue;
        }
        if let Err(error) = adopt_protocol(maps, protocol, &wanted, &mut problems) {
            problems.push(format!("list the listening sockets: {error}"));
        }
    }
    problems
}

/// The sockets that belong to backends, by address and port.
struct Wanted {
    /// Bound addresses and ports of the backends' sockets.
    bound: HashSet<(Addr, u16)>,
    /// Ports of backends with an IPv6 address.
    ports_v6: HashSet<u16>,
}

impl Wanted {
    fn of<'a>(backends: impl Iterator<Item = &'a &'a Backend> + Clone) -> Self {
        let v6 = backends.clone().filter(|b| !addr::is_v4(&b.addr));
        Self {
            ports_v6: v6.map(|backend| backend.port).collect(),
            bound: backends
                .flat_map(|backend| bound_addresses(backend).map(|addr| (addr, backend.port)))
                .collect(),
        }
    }

    /// Whether a listener for IPv6 alone uses the port of IPv4 backends. It belongs to none of them, and
    /// must not get their IPv6 clients.
    fn is_strange(&self, listener: &Listener) -> bool {
        listener.is_any_v6_only() && !self.ports_v6.contains(&listener.bound.port())
    }
}

fn adopt_protocol(
    maps: &mut Maps,
    protocol: u8,
    wanted: &Wanted,
    problems: &mut Vec<String>,
) -> io::Result<()> {
    let mut noted = noted(maps).map_err(io::Error::other)?;
    let mut groups: BTreeMap<(Addr, u16), Vec<Listener>> = BTreeMap::new();
    let mut listeners = inet_diag::listeners(protocol)?;
    listeners.retain(|listener| wanted.bound.contains(&listener.key()));
    let strange = take_out_strange(&mut listeners, wanted);
    noted.retain(|key| {
        let is_strange = key.protocol == protocol && strange.contains(&(key.addr, key.port));
        if is_strange {
            // An error is ignored: a closed socket has already left the map.
            let _ = maps.listeners.remove(&pod::ListenKey(*key));
        }
        !is_strange
    });
    for listener in listeners {
        let key = listener.key();
        if listener.mptcp {
            problems.push(format!(
                "the listener on {} is MPTCP, which the kernel does not hand over (have the application \
                 listen by plain TCP, as with GODEBUG=multipathtcp=0, or set path = \"proxy\")",
                listener.bound
            ));
        } else if listener.interface != 0 {
            problems.push(format!(
                "the socket on {} is bound to an interface (SO_BINDTODEVICE), and gets no clients of others: it \
                 is handed none (have the application bind to an address instead)",
                listener.bound
            ));
        } else {
            groups.entry(key).or_default().push(listener);
        }
    }
    let members = |addr: Addr, port: u16| {
        let same = |key: &&ListenKey| (key.addr, key.port, key.protocol) == (addr, port, protocol);
        noted.iter().filter(same).count()
    };
    groups.retain(|(addr, port), group| {
        members(*addr, *port) < group.len().min(usize::from(MAX_GROUP))
    });
    if groups.is_empty() {
        return Ok(());
    }
    let missing: HashSet<u32> = groups
        .values()
        .flatten()
        .map(|listener| listener.inode)
        .collect();
    let holders = holders::one_each(&missing)?;
    let mut out_of_sight = Vec::new();
    for ((addr, port), group) in groups {
        let entered = members(addr, port) > 0;
        for listener in group {
            let Some(holder) = holders.get(&listener.inode) else {
                out_of_sight.push(listener);
                continue;
            };
            if let Err(error) = enter(maps, holder, (addr, port, protocol), entered) {
                problems.push(format!(
                    "the listener on {} of process {} cannot be adopted: {error} (restart that \
                     process, or give lb-agent CAP_SYS_PTRACE)",
                    SocketAddr::new(addr::to_ip(&addr), port),
                    holder.pid.as_raw_pid(),
                ));
            }
        }
    }
    tell_of_hidden(&out_of_sight, protocol, problems)
}

/// Removes the listeners that belong to no backend. Returns the addresses that only they are bound to.
fn take_out_strange(listeners: &mut Vec<Listener>, wanted: &Wanted) -> HashSet<(Addr, u16)> {
    let strange = listeners.iter().filter(|l| wanted.is_strange(l));
    let mut bound: HashSet<_> = strange.map(Listener::key).collect();
    listeners.retain(|listener| !wanted.is_strange(listener));
    for listener in listeners {
        bound.remove(&listener.key());
    }
    bound
}

/// Reports sockets without a visible process. Sockets that were closed since the kernel's list are left
/// out.
fn tell_of_hidden(
    out_of_sight: &[Listener],
    protocol: u8,
    problems: &mut Vec<String>,
) -> io::Result<()> {
    if out_of_sight.is_empty() {
        return Ok(());
    }
    let now = inet_diag::listeners(protocol)?;
    let hidden = out_of_sight
        .iter()
        .filter(|listener| now.contains(listener));
    let bound: BTreeSet<SocketAddr> = hidden.map(|listener| listener.bound).collect();
    problems.extend(
        bound
            .into_iter()
            .map(|bound| hidden_problem(bound, protocol)),
    );
    Ok(())
}

fn hidden_problem(bound: SocketAddr, protocol: u8) -> String {
    let mend = "give lb-agent CAP_SYS_PTRACE and run it in the PID namespace of the host";
    if protocol == protocol::UDP {
        format!(
            "the UDP socket on {bound} cannot be adopted: lb-agent may not look into the process that \
             holds it ({mend}, or set path = \"proxy\")"
        )
    } else {
        format!(
            "the listener on {bound} cannot be adopted: lb-agent may not look into the process that \
             holds it (restart that process, or {mend})"
        )
    }
}

/// The backends with a socket that waits for clients.
///
/// # Errors
/// The kernel does not list its sockets.
pub(super) fn listening(
    maps: &Maps,
    backends: &[Backend],
    mptcp: &MptcpListeners,
) -> Result<HashSet<BackendId>, Error> {
    let noted = noted(maps).map_err(|error| Error::table("list the listening sockets", error))?;
    let unlisted = |error| Error::table("list the sockets of the host", error);
    // The map has only sockets that receive connections or datagrams from the programs; the kernel lists
    // all sockets.
    let is_asked = |backend: &Backend| backend.protocol == protocol::UDP || !is_handed(backend);
    let of_kernel = |protocol| {
        let of_protocol = |backend: &&Backend| is_present(backend) && backend.protocol == protocol;
        match backends.iter().filter(of_protocol).any(is_asked) {
            true => inet_diag::listeners(protocol).map_err(unlisted),
            false => Ok(Vec::new()),
        }
    };
    let tcp = Heard::of(&of_kernel(protocol::TCP)?);
    let udp = Heard::of(&of_kernel(protocol::UDP)?);
    let mptcp = mptcp.listening().iter();
    let handed: HashSet<_> = noted
        .iter()
        .map(|key| (key.addr, key.port, key.protocol))
        .chain(mptcp.map(|(addr, port)| (*addr, *port, protocol::TCP)))
        .collect();
    let is_bound = |backend: &&Backend| {
        let is_entered = |addr: &Addr| handed.contains(&(*addr, backend.port, backend.protocol));
        match backend.protocol {
            protocol::UDP => udp.reaches(backend),
            _ if is_handed(backend) => bound_addresses(backend).iter().any(is_entered),
            _ => tcp.reaches(backend),
        }
    };
    let present = backends.iter().filter(is_present);
    Ok(present.filter(is_bound).map(|b| b.id).collect())
}

/// The backends with a socket that waits for clients in this network namespace, by the kernel's list alone.
/// That needs no privilege.
///
/// # Errors
/// The kernel does not list its sockets.
pub fn listening_by_list(backends: &[Backend]) -> io::Result<HashSet<BackendId>> {
    let tcp = Heard::of(&inet_diag::listeners(protocol::TCP)?);
    let udp = Heard::of(&inet_diag::listeners(protocol::UDP)?);
    let is_bound = |backend: &&Backend| match backend.protocol {
        protocol::UDP => udp.reaches(backend),
        _ => tcp.reaches(backend),
    };
    let present = backends.iter().filter(is_present);
    Ok(present.filter(is_bound).map(|b| b.id).collect())
}

fn is_present(backend: &&Backend) -> bool {
    backend.state != state::REMOVED
}

/// The listening sockets of one protocol.
struct Heard {
    bound: HashSet<(Addr, u16)>,
    /// Ports with a socket on all addresses that takes IPv6 alone.
    only_v6: HashSet<u16>,
}

impl Heard {
    fn of(listeners: &[Listener]) -> Self {
        let (only_v6, others): (Vec<&Listener>, Vec<&Listener>) = listeners
            .iter()
            .partition(|listener| listener.is_any_v6_only());
        Self {
            bound: others.iter().map(|listener| listener.key()).collect(),
            only_v6: only_v6
                .iter()
                .map(|listener| listener.bound.port())
                .collect(),
        }
    }

    /// Whether one of them takes connections to the address of `backend`.
    fn reaches(&self, backend: &Backend) -> bool {
        let is_bound = |addr: &Addr| self.bound.contains(&(*addr, backend.port));
        bound_addresses(backend).iter().any(is_bound)
            || !addr::is_v4(&backend.addr) && self.only_v6.contains(&backend.port)
    }
}

/// Whether the kernel hands connections to the backend's own sockets (the `socket` path).
fn is_handed(backend: &Backend) -> bool {
    backend.path == path::SOCKET
}

/// The keys of all entered sockets.
pub(super) fn noted(maps: &Maps) -> Result<HashSet<ListenKey>, MapError> {
    maps.listeners
        .keys()
        .map(|key| key.map(|key| key.0))
        .collect()
}

/// Enters one socket as `lb_listen` would, unless it is in the map. It cannot be there if no socket of its
/// group is `entered`.
fn enter(
    maps: &mut Maps,
    holder: &Holder,
    (addr, port, protocol): (Addr, u16, u8),
    entered: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let socket = borrow(holder)?;
    if entered && maps.socket_owner.get(&socket, 0).is_ok() {
        return Ok(());
    }
    for member in 0..MAX_GROUP {
        let key = pod::ListenKey(ListenKey {
            addr,
            port,
            protocol,
            member,
        });
        match maps.listeners.insert(key, socket.as_raw_fd(), BPF_NOEXIST) {
            Ok(()) => {
                let owner = SocketOwner {
                    addr,
                    port,
                    pad: 0,
                    backend: BackendId::NONE,
                };
                return Ok(maps
                    .socket_owner
                    .insert(&socket, pod::SocketOwner(owner), 0)?);
            }
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(super) fn borrow(holder: &Holder) -> io::Result<OwnedFd> {
    let process = pidfd_open(holder.pid, PidfdFlags::empty())?;
    Ok(pidfd_getfd(process, holder.fd, PidfdGetfdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_this_process_is_found_and_borrowed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = listener.local_addr().unwrap();
        let found = inet_diag::listeners(protocol::TCP).unwrap();
        let inode = found.iter().find(|l| l.bound == bound).unwrap().inode;
        let holders = holders::one_each(&HashSet::from([inode])).unwrap();
        let holder = &holders[&inode];
        assert_eq!(holder.pid.as_raw_pid() as u32, std::process::id());
        assert_eq!(holder.fd, listener.as_raw_fd());
        let borrowed = std::net::TcpListener::from(borrow(holder).unwrap());
        assert_eq!(borrowed.local_addr().unwrap(), bound);
    }

    #[test]
    fn socket_that_is_still_open_is_told_of_and_a_closed_one_is_not() {
        let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = open.local_addr().unwrap();
        let ours = [bound, closed.local_addr().unwrap()];
        let mut found = inet_diag::listeners(protocol::TCP).unwrap();
        found.retain(|listener| ours.contains(&listener.bound));
        assert_eq!(found.len(), 2);
        drop(closed);
        let mut problems = Vec::new();
        tell_of_hidden(&found, protocol::TCP, &mut problems).unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(&bound.to_string()) && problems[0].contains("restart"));
    }
}
