//! The store of descriptors.

use std::fs::{File, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sd_notify::NotifyState;
use socket2::{Domain, SockRef, Socket, Type};

/// Descriptors that an earlier agent has left, and those that this one leaves. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct FdStore(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// Sockets for clients that an earlier agent has left, with systemd or with this agent itself.
    left: Vec<(String, Socket)>,
    /// Other descriptors that were taken over.
    others: Vec<(String, OwnedFd)>,
    /// Copies for an agent that takes over from this one.
    held: Vec<(String, OwnedFd)>,
}

impl FdStore {
    /// Takes the descriptors that systemd has passed to this process. To be called once, before
    /// anything else is opened that could get the same numbers.
    pub fn take() -> Self {
        let Ok(passed) = sd_notify::listen_fds_with_names() else {
            return Self::default();
        };
        // SAFETY: systemd has opened it for this process, and no other code has taken it.
        let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
        Self::of(passed.map(|(fd, name)| (name, own(fd))))
    }

    /// A store of these descriptors, which an earlier agent has left under these names.
    pub fn of(left: impl IntoIterator<Item = (String, OwnedFd)>) -> Self {
        let mut kept = Kept::default();
        for (name, descriptor) in left {
            let socket = Socket::from(descriptor);
            match is_for_clients(&socket) {
                true => kept.left.push((name, socket)),
                false => kept.others.push((name, socket.into())),
            }
        }
        Self(Arc::new(Mutex::new(kept)))
    }

    /// The listeners called `name`, all of one address.
    pub fn called(&self, name: &str) -> Vec<TcpListener> {
        let mut found = self.remove(|known, socket| known == name && is(socket, Type::STREAM));
        let address = found.first().and_then(|(_, socket)| address(socket));
        found.retain(|(_, socket)| address.is_some() && self::address(socket) == address);
        self.hold(name, found.iter().map(|(_, socket)| socket));
        found.into_iter().map(|(_, socket)| socket.into()).collect()
    }

    /// The UDP socket called `name`.
    pub fn datagrams(&self, name: &str) -> Option<UdpSocket> {
        let mut found = self.remove(|known, socket| known == name && is(socket, Type::DGRAM));
        let (_, socket) = found.pop()?;
        self.hold(name, [&socket]);
        Some(socket.into())
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
                    self.forget(name);
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
            self.forget(&name);
        }
        self.kept().others.clear();
    }

    /// The descriptor called `name` that was taken over and is no socket for clients.
    pub fn other(&self, name: &str) -> Option<OwnedFd> {
        let mut kept = self.kept();
        let place = kept.others.iter().position(|(known, _)| known == name)?;
        Some(kept.others.swap_remove(place).1)
    }

    /// The listening unix socket called `name` that was taken over, if it is at `path`.
    pub fn unix_listener(&self, name: &str, path: &Path) -> Option<UnixListener> {
        let listener = UnixListener::from(self.other(name)?);
        let address = listener.local_addr().ok()?;
        (address.as_pathname() == Some(path)).then_some(())?;
        listener.set_nonblocking(true).ok()?;
        Some(listener)
    }

    /// Locks `file` (flock(2)) and holds the lock, called `name`. An agent that takes over has the lock of the earlier
    /// one, of which both have a part. It lasts until neither has the file open.
    ///
    /// # Errors
    /// Another process has the lock.
    pub fn lock(&self, name: &str, file: File) -> Result<File, TryLockError> {
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let inherited = self.other(name).map(File::from);
                let same = |lock: &File| is_same(lock, &file).unwrap_or(false);
                inherited.filter(same).ok_or(TryLockError::WouldBlock)?
            }
            outcome => outcome.map(|()| file)?,
        };
        self.hold(name, [&locked]);
        Ok(locked)
    }

    /// Keeps these sockets for the next agent. systemd, if it runs this one, keeps them too.
    pub fn keep<S: AsFd>(&self, name: &str, sockets: &[S]) {
        self.hold(name, sockets);
        for socket in sockets {
            let states = [NotifyState::FdStore, NotifyState::FdName(name)];
            if let Err(error) = sd_notify::notify_with_fds(&states, &[socket.as_fd()]) {
                tracing::debug!(%error, name, "systemd does not keep a socket");
                return;
            }
        }
    }

    /// Closes the sockets called `name` here, and has systemd close its own.
    pub fn forget(&self, name: &str) {
        self.release(name);
        let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }

    /// Holds copies of these descriptors, for an agent that takes over from this one.
    pub fn hold<S: AsFd>(&self, name: &str, descriptors: impl IntoIterator<Item = S>) {
        for descriptor in descriptors {
            match descriptor.as_fd().try_clone_to_owned() {
                Ok(copy) => self.kept().held.push((name.to_owned(), copy)),
                Err(error) => {
                    tracing::warn!(%error, name, "a descriptor is not kept for the next agent");
                }
            }
        }
    }

    /// Closes the copies called `name`.
    pub fn release(&self, name: &str) {
        self.kept().held.retain(|(known, _)| known != name);
    }

    /// Closes all copies: this agent ends, and its sockets with it.
    pub fn release_all(&self) {
        self.kept().held.clear();
    }

    /// Copies of everything that is held, with its names.
    ///
    /// # Errors
    /// Too many open files.
    pub fn held(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let kept = self.kept();
        let copies = kept.held.iter();
        copies
            .map(|(name, descriptor)| Ok((name.clone(), descriptor.try_clone()?)))
            .collect()
    }

    fn remove(&self, which: impl Fn(&str, &Socket) -> bool) -> Vec<(String, Socket)> {
        let mut kept = self.kept();
        let (found, others) = kept
            .left
            .drain(..)
            .partition(|(name, socket)| which(name, socket));
        kept.left = others;
        found
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is a listening TCP socket or a bound UDP socket. It is ready to be polled then.
fn is_for_clients(socket: &Socket) -> bool {
    let is_ip = socket
        .domain()
        .is_ok_and(|domain| [Domain::IPV4, Domain::IPV6].contains(&domain));
    let listens = || is(socket, Type::STREAM) && socket.is_listener().unwrap_or(false);
    let bound = || is(socket, Type::DGRAM) && address(socket).is_some_and(|a| a.port() != 0);
    is_ip && (listens() || bound()) && socket.set_nonblocking(true).is_ok()
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
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
    use crate::handover::name_of;

    fn bound(address: &str) -> TcpListener {
        TcpListener::bind(address).unwrap()
    }

    fn kept<const N: usize>(left: [(&str, Socket); N]) -> FdStore {
        FdStore::of(left.map(|(name, socket)| (name.to_owned(), socket.into())))
    }

    fn names(store: &FdStore) -> Vec<String> {
        let held = store.held().unwrap().into_iter();
        held.map(|(name, _)| name).collect()
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
        assert_eq!(kept.kept().left.len(), 1);
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
        assert_eq!(
            kept.kept().left.len(),
            1,
            "only what was in the way is gone"
        );
        assert!(kept.make_way(wanted, Type::STREAM, open).is_err());
        drop(first);
    }

    #[test]
    fn only_what_listens_or_is_bound_is_for_clients() {
        let is = |socket: Socket| is_for_clients(&socket);
        assert!(is(bound("127.0.0.1:0").into()));
        assert!(is(UdpSocket::bind("[::1]:0").unwrap().into()));
        assert!(!is(Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()));
        assert!(!is(Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap()));
        assert!(!is(Socket::new(Domain::UNIX, Type::STREAM, None).unwrap()));
    }

    #[test]
    fn next_agent_gets_what_is_in_use_and_nothing_that_was_forgotten() {
        let (http, tcp) = (bound("127.0.0.1:0"), bound("127.0.0.1:0"));
        let lock = tempfile::tempfile().unwrap();
        let store = kept([("tcp", tcp.into()), ("unused", bound("127.0.0.1:0").into())]);
        store.keep("http", &[http]);
        store.hold("lock", [&lock]);
        assert_eq!(store.called("tcp").len(), 1);
        assert_eq!(names(&store), ["http", "lock", "tcp"]);
        let next = FdStore::of(store.held().unwrap());
        assert!(next.other("http").is_none(), "it is for clients");
        assert!(next.other("lock").is_some());
        assert!(next.other("lock").is_none(), "it is taken");
        assert_eq!(next.called("http").len(), 1);
        store.forget("http");
        store.release("lock");
        assert_eq!(names(&store), ["tcp"]);
        store.release_all();
        assert!(names(&store).is_empty());
    }

    #[test]
    fn lock_goes_over_to_the_next_agent_and_to_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name| File::create(dir.path().join(name)).unwrap();
        let store = FdStore::default();
        let lock = store.lock("lock", open("a")).unwrap();
        assert!(FdStore::default().lock("lock", open("a")).is_err());
        let next = FdStore::of(store.held().unwrap());
        assert!(next.lock("lock", open("b")).is_ok(), "another file is free");
        let own = next.lock("lock", open("a")).unwrap();
        drop(lock);
        store.release_all();
        assert!(
            FdStore::default().lock("lock", open("a")).is_err(),
            "the next agent has it"
        );
        drop((own, next));
        assert!(FdStore::default().lock("lock", open("a")).is_ok());
    }

    #[test]
    fn unix_socket_goes_over_if_it_is_at_the_same_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let store = FdStore::default();
        store.hold("control", [UnixListener::bind(&path).unwrap()]);
        let next = FdStore::of(store.held().unwrap());
        assert!(next.unix_listener("control", &path).is_some());
        let next = FdStore::of(store.held().unwrap());
        let elsewhere = dir.path().join("other.sock");
        assert!(next.unix_listener("control", &elsewhere).is_none());
    }

    #[test]
    fn copies_do_not_keep_an_address_that_was_forgotten() {
        let store = FdStore::default();
        let listener = bound("127.0.0.1:0");
        let address = listener.local_addr().unwrap();
        store.keep("http", &[listener]);
        assert!(TcpListener::bind(address).is_err());
        store.forget("http");
        assert!(TcpListener::bind(address).is_ok());
    }
}
