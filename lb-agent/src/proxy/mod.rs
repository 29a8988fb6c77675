//! The `proxy` path: connections and datagrams copied in user space, for backends that the kernel
//! cannot hand a connection to.
//!
//! This module owns the copying. The data plane provides the listening sockets, and the choice of a
//! backend, through [`Chooser`].

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lb_common::abi::{BackendId, ServiceId};
use tokio::sync::watch;
use tokio::time::Instant;

use lb_config::http::ProxyVersion;
use lb_net::handover::AcceptPolicy;

mod datagram;
mod hops;
pub mod listener_set;
pub mod tcp;
pub mod udp;

/// One place a client may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The backend.
    pub backend: BackendId,
    /// Address on which the backend listens.
    pub address: SocketAddr,
    /// The PROXY header that connections to it begin with.
    pub proxy_protocol: Option<ProxyVersion>,
}

/// The choice of a backend.
///
/// The calls come from the tasks that copy, and must not block. `local` and `client` are never
/// IPv4-mapped IPv6 addresses; `protocol` is one of [`lb_common::abi::protocol`].
pub trait Chooser: Send + Sync + 'static {
    /// Backends for a connection that came to the service address `local` from `client`, best
    /// first; empty when the service is unknown or has no usable backend.
    fn candidates(&self, local: SocketAddr, client: IpAddr, protocol: u8) -> Vec<Candidate>;
    /// The connection (for UDP the flow) is open on this backend.
    fn opened(&self, local: SocketAddr, client: IpAddr, protocol: u8, backend: BackendId);
    /// It is over. Called once for each [`Self::opened`].
    fn closed(&self, backend: BackendId);
    /// Connecting failed, or the backend refused a datagram.
    fn failed(&self, backend: BackendId);
    /// The service at `local`, and how many clients it may have by this path.
    fn service(&self, local: SocketAddr, protocol: u8) -> Option<(ServiceId, Option<u32>)> {
        let _ = (local, protocol);
        None
    }
    /// A connection to `local` is not passed on, as it has come back to the agent again and again.
    fn came_back(&self, local: SocketAddr, protocol: u8) {
        let _ = (local, protocol);
    }
    /// Counters for the bytes of a backend's connections.
    fn traffic(&self, backend: BackendId) -> Arc<Traffic> {
        let _ = backend;
        Arc::default()
    }
    /// The backends with connections that are to end now.
    fn ending(&self) -> Ending;
}

/// Bytes that were passed on for one backend.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes from clients.
    pub bytes_in: AtomicU64,
    /// Bytes to clients.
    pub bytes_out: AtomicU64,
}

/// The backends with connections that are to end: most of the time none.
pub type Ending = watch::Receiver<HashSet<BackendId>>;

/// Waits until the connections of `backend` are to end.
async fn asked_to_end(ending: &mut Ending, backend: BackendId) {
    if ending
        .wait_for(|ending| ending.contains(&backend))
        .await
        .is_err()
    {
        // No task is left to ask for it.
        std::future::pending().await
    }
}

/// How a proxy is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Time up to which open connections may go on.
    pub deadline: Instant,
    /// Treatment of connections that arrive meanwhile.
    pub accept_policy: AcceptPolicy,
}

impl Farewell {
    /// Open connections may go on, new ones are not served.
    pub const fn to_newcomers(deadline: Instant) -> Self {
        Self {
            deadline,
            accept_policy: AcceptPolicy::Refused,
        }
    }
}

/// Tells a proxy when to stop: `None` while it should serve. A sender that is dropped stops the
/// proxy at once.
pub type Shutdown = watch::Receiver<Option<Farewell>>;

/// Waits for the shutdown.
async fn asked_to_stop(shutdown: &mut Shutdown) -> Farewell {
    let at_once = || Farewell::to_newcomers(Instant::now());
    match shutdown.wait_for(Option::is_some).await {
        Ok(farewell) => farewell.unwrap_or_else(at_once),
        Err(_) => at_once(),
    }
}

/// A client and the service address it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Visit {
    local: SocketAddr,
    client: SocketAddr,
    protocol: u8,
}

impl Visit {
    fn new(local: SocketAddr, client: SocketAddr, protocol: u8) -> Self {
        Self {
            local: canonical(local),
            client: canonical(client),
            protocol,
        }
    }

    fn candidates(&self, chooser: &dyn Chooser) -> Vec<Candidate> {
        chooser.candidates(self.local, self.client.ip(), self.protocol)
    }
}

/// Counts a connection as open for as long as it exists.
struct Open {
    chooser: Arc<dyn Chooser>,
    backend: BackendId,
}

impl Open {
    fn new(chooser: Arc<dyn Chooser>, visit: &Visit, backend: BackendId) -> Self {
        chooser.opened(visit.local, visit.client.ip(), visit.protocol, backend);
        Self { chooser, backend }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.chooser.closed(self.backend);
    }
}

/// The IPv4 address that an IPv4-mapped IPv6 address stands for; others as they are, scope and
/// all.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod testing;
