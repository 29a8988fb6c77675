//! Listening sockets that systemd keeps in its file descriptor store while one agent ends and the
//! next begins. New connections and datagrams wait in their queues, and are served instead of
//! refused.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sd_notify::NotifyState;
use socket2::{Domain, SockRef, Socket, Type};

/// What happens to new clients while an agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptPolicy {
    /// New clients are served as long as others are. Then they wait in the queues of the sockets,
    /// which are handed to the next agent.
    Wait,
    /// New clients are served as long as others are, as another agent may be started.
    Served,
    /// New clients are refused.
    Refused,
}

impl AcceptPolicy {
    /// The policy of an agent that may be followed by another.
    pub fn of_the_next() -> Self {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(_) => Self::Wait,
            None => Self::Served,
        }
    }
}

/// Sockets that an earlier agent has left with systemd. New ones are left in the same store.
#[derive(Clone, Default)]
pub struct FdStore(Arc<Mutex<Vec<(String, Socket)>>>);

impl FdStore {
    /// Takes the descriptors that systemd has passed to this process. To be called once, before
    /// anything else is opened that could get the same numbers.
    pub fn take() -> Self {
        let Ok(passed) = sd_notify::listen_fds_with_names() else {
            return Self::default();
        };
        let kept = passed.filter_map(|(fd, name)| {
            // SAFETY: systemd has opened it for this process, and no other code has taken it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            Some((name, usable(fd.into())?))
        });
        Self(Arc::new(Mutex::new(kept.collect())))
    }

    /// The listeners called `name`, all of one address.
    pub fn called(&self, name: &str) -> Vec<TcpListener> {
        let mut found = self.remove(|known, socket| known == name && is(socket, Type::STREAM));
        let address = found.first().and_then(|(_, socket)| address(socket));
        found.retain(|(_, socket)| address.is_some() && self::address(socket) == address);
        found.into_iter().map(|(_, socket)| socket.into()).collect()
    }

    /// The UDP socket called `name`.
    pub fn datagrams(&self, name: &str) -> Option<UdpSocket> {
        let mut found = self.remove(|known, socket| known == name && is(socket, Type::DGRAM));
        Some(found.pop()?.1.into())
    }

    /// Opens a socket on `address` by `open`. A socket that an earlier agent has left there under
    /// another name is closed first.
    pub fn make_way<S>(
        &self,
        address: SocketAddr,
        kind: Type,
        open: impl Fn() -> io::Result<S>,
    ) -> io::Result<S> {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let in_the_way =
                    self.remove(|_, socket| is(socket, kind) && overlaps(socket, address));
                if in_the_way.is_empty() {
                    return Err(error);
                }
                for (name, _) in &in_the_way {
                    forget(name);
                }
                drop(in_the_way);
                open()
            }
            result => result,
        }
    }

    /// Removes the sockets that no listener has asked for from the store.
    pub fn forget_others(&self) {
        for (name, _) in self.remove(|_, _| true) {
            forget(&name);
        }
    }

    fn remove(&self, which: impl Fn(&str, &Socket) -> bool) -> Vec<(String, Socket)> {
        let mut left = self.left();
        let (found, others) = left
            .drain(..)
            .partition(|(name, socket)| which(name, socket));
        *left = others;
        found
    }

    fn left(&self) -> MutexGuard<'_, Vec<(String, Socket)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of the sockets of a listen address. A name has no colon in it (sd_notify(3)).
pub fn name_of(kind: &str, address: SocketAddr) -> String {
    let ip = address.ip().to_string().replace(':', "_");
    format!("{kind}-{ip}-{}", address.port())
}

/// Has systemd, if it runs the agent, keep these sockets for the next agent.
pub fn keep<S: AsFd>(name: &str, sockets: impl IntoIterator<Item = S>) {
    for socket in sockets {
        let states = [NotifyState::FdStore, NotifyState::FdName(name)];
        if let Err(error) = sd_notify::notify_with_fds(&states, &[socket.as_fd()]) {
            tracing::debug!(%error, name, "systemd does not keep a socket");
            return;
        }
    }
}

/// Has systemd close the sockets called `name` in its store.
pub fn forget(name: &str) {
    let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// The socket, ready to be polled, if it is a listening TCP socket or a bound UDP socket.
fn usable(socket: Socket) -> Option<Socket> {
    let is_ip = [Domain::IPV4, Domain::IPV6].contains(&socket.domain().ok()?);
    let listens = is(&socket, Type::STREAM) && socket.is_listener().ok()?;
    let bound = is(&socket, Type::DGRAM) && address(&socket).is_some_and(|a| a.port() != 0);
    if !(is_ip && (listens || bound)) {
        return None;
    }
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

fn is(socket: &Socket, kind: Type) -> bool {
    socket.r#type().is_ok_and(|known| known == kind)
}

/// Whether a socket is bound to an address that overlaps with `wanted`.
fn overlaps(socket: &Socket, wanted: SocketAddr) -> bool {
    address(socket).is_some_and(|bound| {
        bound.port() == wanted.port()
            && bound.is_ipv4() == wanted.is_ipv4()
            && (bound.ip() == wanted.ip()
                || bound.ip().is_unspecified()
                || wanted.ip().is_unspecified())
    })
}

fn address(socket: &Socket) -> Option<SocketAddr> {
    SockRef::from(socket).local_addr().ok()?.as_socket()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bind;

    fn bound(address: &str) -> TcpListener {
        TcpListener::bind(address).unwrap()
    }

    fn kept<const N: usize>(left: [(&str, Socket); N]) -> FdStore {
        let left = left.map(|(name, socket)| (name.to_owned(), socket));
        FdStore(Arc::new(Mutex::new(left.into())))
    }

    #[test]
    fn sockets_of_a_name_and_one_address_are_taken_up() {
        let own = bound("127.0.0.1:0");
        let same = own.try_clone().unwrap();
        let kept = kept([
            ("l7-v4", own.into()),
            ("other", bound("127.0.0.1:0").into()),
            ("l7-v4", same.into()),
            ("l7-v4", bound("127.0.0.1:0").into()),
        ]);
        assert_eq!(
            kept.called("l7-v4").len(),
            2,
            "not the one of another address"
        );
        assert_eq!(kept.called("l7-v4").len(), 0, "they are taken");
        assert_eq!(kept.left().len(), 1);
    }

    #[test]
    fn a_name_is_that_of_listeners_or_of_datagrams() {
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = datagrams.local_addr().unwrap();
        let name = name_of("udp", address);
        let kept = kept([(name.as_str(), datagrams.into())]);
        assert!(kept.called(&name).is_empty());
        let taken = kept.datagrams(&name).unwrap();
        assert_eq!(taken.local_addr().unwrap(), address);
        assert!(kept.datagrams(&name).is_none());
        let v6 = name_of("tcp", "[2001:db8::1]:80".parse().unwrap());
        assert_eq!(v6, "tcp-2001_db8__1-80");
    }

    #[test]
    fn what_was_left_gives_way_to_what_is_wanted() {
        let old = bind::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = old.local_addr().unwrap();
        let other = bind::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let kept = kept([("http", old.into()), ("other", other.into())]);
        let wanted = SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
        let open = || bind::tcp(wanted);
        assert!(kept.make_way(wanted, Type::DGRAM, open).is_err());
        let first = kept.make_way(wanted, Type::STREAM, open).unwrap();
        assert_eq!(kept.left().len(), 1, "only what was in the way is gone");
        assert!(kept.make_way(wanted, Type::STREAM, open).is_err());
        drop(first);
    }

    #[test]
    fn only_what_listens_or_is_bound_is_of_use() {
        assert!(usable(bound("127.0.0.1:0").into()).is_some());
        assert!(usable(UdpSocket::bind("[::1]:0").unwrap().into()).is_some());
        let idle = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(usable(idle).is_none());
        let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        assert!(usable(unbound).is_none());
        let unix = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        assert!(usable(unix).is_none());
    }
}
