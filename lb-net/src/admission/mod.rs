//! Admission of clients with connections through the agent, TCP and HTTP alike. It limits their
//! number, and cuts off idle clients when no room is left.
//!
//! | file | owns |
//! | --- | --- |
//! | [`listener`] | the only place that accepts clients; a connection with its seat |
//! | `rules` | bans, and the lists of services |
//! | `seats` | open connections by service, and in the order of their last use |
//!
//! The kernel gives a new descriptor the lowest free number. So a number past a mark means that as
//! many descriptors of any kind are open. Beyond the mark lies a reserve for the control socket,
//! health checks and the state.
//!
//! At the mark, or at `max_connections` clients, the client that has been idle for longest is cut
//! off. If no client is idle, the new one is refused. The kernel knows how long a connection has
//! been idle, so nothing is noted per packet.

pub mod listener;
mod rules;
mod seats;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lb_common::abi::ServiceId;
use lb_common::access::Set;
use nix::libc;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpSocket, TcpStream};

use crate::seldom::Seldom;
pub use seats::Refused;
use seats::{Scarce, Seats};

/// Part of a limit, in percent, from which on a warning is logged.
const NEAR: usize = 80;
/// Time for which `status` shows that descriptors were scarce.
const LATELY: Duration = Duration::from_secs(60);

/// The limit on the agent's open descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    limit: usize,
}

impl Descriptors {
    /// Raises the soft limit on open files to the hard limit.
    pub fn raise() -> Self {
        let mut limits = getrlimit(Resource::Nofile);
        if limits.current != limits.maximum {
            limits.current = limits.maximum;
            if let Err(error) = setrlimit(Resource::Nofile, limits) {
                tracing::warn!(%error, "the limit on open files stays as it is");
            }
        }
        let limit = getrlimit(Resource::Nofile).current;
        Self::new(limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        }))
    }

    /// A limit on all descriptors of the process.
    pub const fn new(limit: usize) -> Self {
        Self { limit }
    }

    /// Descriptors that are kept from clients.
    pub fn reserve(self) -> usize {
        (self.limit / 8).clamp(32, 2048).min(self.limit / 2)
    }

    /// Connections of the control socket within the reserve.
    pub fn for_control(self) -> usize {
        (self.reserve() / 2).clamp(8, 1024)
    }

    /// Connections of the metrics socket within the reserve.
    pub fn for_metrics(self) -> usize {
        (self.reserve() / 4).clamp(4, 256)
    }

    /// The lowest descriptor number that clients may not have.
    fn mark(self) -> RawFd {
        RawFd::try_from(self.limit - self.reserve()).unwrap_or(RawFd::MAX)
    }
}

/// Decides on each new client. Clones share one state.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    descriptors: Descriptors,
    most: usize,
    seats: Mutex<Seats>,
    /// Bans, and the lists of services.
    rules: RwLock<Arc<Set>>,
    /// The last time that descriptors were scarce.
    scarce: Mutex<Option<Instant>>,
    scarcity: Seldom,
    /// The last time that no port was left towards a backend, and the backend's address.
    portless: Mutex<Option<(Instant, SocketAddr)>>,
    portlessness: Seldom,
    nearness: Seldom,
}

impl Default for Admission {
    /// No limit on descriptors or clients.
    fn default() -> Self {
        Self::new(Descriptors::new(usize::MAX), None)
    }
}

impl Admission {
    /// An admission for a process with these descriptors, and at most `most` clients.
    pub fn new(descriptors: Descriptors, most: Option<u32>) -> Self {
        Self(Arc::new(Inner {
            descriptors,
            most: most.map_or(usize::MAX, |most| most as usize),
            seats: Mutex::default(),
            rules: RwLock::default(),
            scarce: Mutex::new(None),
            scarcity: Seldom::new(),
            portless: Mutex::default(),
            portlessness: Seldom::new(),
            nearness: Seldom::new(),
        }))
    }

    /// Whether a descriptor that was just opened, for a client or towards a backend, leaves the
    /// reserve alone. Otherwise an idle client has to make room.
    ///
    /// # Errors
    /// EMFILE: no client is idle, and the caller has to close the descriptor again.
    pub fn keeps(&self, descriptor: &impl AsFd) -> io::Result<()> {
        if !self.is_past(descriptor) {
            return Ok(());
        }
        if self.make_room() {
            Ok(())
        } else {
            self.seats().refuse(None, Scarce::Descriptors);
            Err(io::Error::from_raw_os_error(libc::EMFILE))
        }
    }

    /// Whether a descriptor that was just opened has a number beyond those for clients.
    pub fn is_past(&self, descriptor: &impl AsFd) -> bool {
        descriptor.as_fd().as_raw_fd() >= self.0.descriptors.mark()
    }

    /// Connects to `address`, within the descriptors that are left for clients.
    pub async fn connect(
        &self,
        address: SocketAddr,
        prepare: impl FnOnce(&TcpSocket) -> io::Result<()>,
    ) -> io::Result<TcpStream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        self.keeps(&socket)?;
        prepare(&socket)?;
        let connected = socket.connect(address).await;
        if connected.as_ref().is_err_and(lacks_port) {
            *lock(&self.0.portless) = Some((Instant::now(), address));
            if let Some(times) = self.0.portlessness.cause() {
                tracing::warn!(times, "{}", no_port(address));
            }
        }
        connected
    }

    /// Counts a UDP flow of a service that was closed early to make room for another one.
    pub fn flow_made_room(&self, service: Option<ServiceId>) {
        self.seats().made_room(service);
    }

    /// Descriptors are scarce: cuts off the client that has been idle for longest. False if no
    /// client is idle.
    pub fn make_room(&self) -> bool {
        *lock(&self.0.scarce) = Some(Instant::now());
        let shed = self.seats().shed(None);
        if let Some(times) = self.0.scarcity.cause() {
            let limit = self.0.descriptors.limit;
            tracing::warn!(
                times,
                limit,
                "descriptors are scarce: clients that are idle are cut off, and new ones refused \
                 where none is (raise LimitNOFILE, or set max_connections)"
            );
        }
        shed
    }

    /// Open connections of clients of a service.
    pub fn open(&self, service: ServiceId) -> usize {
        self.seats().open(service)
    }

    /// Open connections of clients of all services.
    pub fn open_in_all(&self) -> usize {
        self.seats().open_in_all()
    }

    /// The limit on open connections of clients, if there is one.
    pub fn most(&self) -> Option<usize> {
        (self.0.most != usize::MAX).then_some(self.0.most)
    }

    /// Clients of a service that were refused or cut off. `None`: those refused before their
    /// service was known.
    pub fn refused(&self, service: Option<ServiceId>) -> Refused {
        self.seats().refused(service)
    }

    /// Limits that are near or were reached lately, a sentence each for `status`.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let (open, most) = (self.open_in_all(), self.0.most);
        if is_near(open, most) {
            problems.push(format!(
                "{open} of {most} connections through the agent are open (raise max_connections \
                 under [agent], or see whose they are)"
            ));
        }
        let scarce = *lock(&self.0.scarce);
        if scarce.is_some_and(|at| at.elapsed() < LATELY) {
            problems.push(format!(
                "descriptors were scarce in the last minute, and clients cut off or refused: the \
                 limit is {} (raise LimitNOFILE, or set max_connections)",
                self.0.descriptors.limit
            ));
        }
        let portless = *lock(&self.0.portless);
        if let Some((_, address)) = portless.filter(|(at, _)| at.elapsed() < LATELY) {
            problems.push(no_port(address));
        }
        problems
    }

    /// Warns of a limit before it is reached.
    fn tell_if_near(&self, open: usize, most: usize, of: &str) {
        if is_near(open, most)
            && let Some(times) = self.0.nearness.cause()
        {
            tracing::warn!(
                times,
                "{open} of {most} connections {of} are open (max_connections)"
            );
        }
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        lock(&self.0.seats)
    }
}

/// Whether a limit is reached, or nearly so.
pub fn is_near(open: usize, most: usize) -> bool {
    most != usize::MAX && open * 100 >= most * NEAR
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a connection failed because all ports of this host towards its address are in use
/// (EADDRNOTAVAIL, ip(7) of `ip_local_port_range`). That is no fault of the backend.
pub fn lacks_port(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
}

/// Whether descriptors or memory are missing, which is no backend's fault.
pub fn is_scarcity(error: &io::Error) -> bool {
    let scarce = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| scarce.contains(&code))
}

fn no_port(address: SocketAddr) -> String {
    format!(
        "no port of this host was left for a connection to {address} (widen net.ipv4.ip_local_port_range, or \
         add backends)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept_from_clients_whatever_the_limit() {
        for limit in [16, 64, 300, 1024, 65_536, 1 << 20] {
            let descriptors = Descriptors::new(limit);
            let reserve = descriptors.reserve();
            assert_eq!(descriptors.mark() as usize + reserve, limit);
            assert!(reserve >= limit.min(64) / 2, "{limit}: {reserve}");
        }
        let most = Descriptors::new(1 << 20);
        assert!(most.for_control() + most.for_metrics() < most.reserve());
        assert_eq!(Descriptors::new(usize::MAX).mark(), RawFd::MAX);
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = Descriptors::raise();
        let limits = getrlimit(Resource::Nofile);
        assert_eq!(limits.current, limits.maximum);
        assert_eq!(
            Some(raised.limit as u64),
            limits.current.or(Some(usize::MAX as u64))
        );
    }

    #[test]
    fn a_limit_is_told_of_before_it_is_reached() {
        assert!(!is_near(79, 100));
        assert!(is_near(80, 100) && is_near(100, 100));
        assert!(!is_near(1 << 40, usize::MAX));
    }
}
