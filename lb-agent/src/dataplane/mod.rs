//! Data planes move connections: `bpf` (the only user of aya) and `memory` (tables on the host
//! alone, for the userspace path and for tests).
//!
//! A data plane implements a trait for each purpose. Users take the smallest that they need; only
//! the reconciler has their sum, [`DataPlane`].

pub mod bpf;
mod counts;
pub mod memory;
pub mod packets;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_common::abi::{Backend, BackendId};

pub use counts::{BackendCounts, Counts, ServiceCounts, TableCounts};
pub use packets::PacketPaths;

use crate::state::action::Action;
use crate::state::observed::Observed;
use crate::state::preview::Known;
use lb_net::Clients;

/// Why a data plane refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A map could not be read or written.
    #[error("{what}")]
    Table {
        /// What was tried on which map.
        what: String,
        /// The kernel's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A data plane for tests was told to fail.
    #[error("told to fail at {0}")]
    Injected(&'static str),
}

impl Error {
    /// An error of `what` ("write map ACTIVE") with its cause.
    pub fn table(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Table {
            what: what.into(),
            source: source.into(),
        }
    }
}

/// What is in the tables, for those who only look: it is read while the owner of the tables goes on.
pub trait Reader: Send + Sync {
    /// Whether the application at an address of this host listens by MPTCP, which cannot be handed over.
    fn is_mptcp(&self, _: SocketAddr) -> bool {
        false
    }
    /// Whether packets can be forwarded, as far as that is known without trying; else why not, in a few
    /// words.
    fn packets(&self) -> Result<(), &'static str> {
        Err(NO_PACKETS)
    }
    /// The clients that are remembered.
    fn known_clients(&self) -> Result<Vec<Known>, Error>;
    /// Open flows of a backend on the packet paths, which [`Clients::active`] does not count.
    fn open_flows(&self, _: &Backend) -> Result<u64, Error> {
        Ok(0)
    }
}

const NO_PACKETS: &str = "no packets without BPF";

/// The tables: changed by the reconciler alone, through actions.
pub trait Tables {
    /// What is in force, as far as it can be read back: the tables of services are not.
    fn observe(&self) -> Result<Observed, Error>;
    /// Puts one change in force; it is when this returns.
    fn apply(&mut self, action: &Action) -> Result<(), Error>;
    /// Puts changes in force in their order. `done` is told of each that is.
    fn apply_all(
        &mut self,
        actions: &[Action],
        done: &mut dyn FnMut(&Action),
    ) -> Result<(), Error> {
        actions.iter().try_for_each(|action| {
            self.apply(action)?;
            done(action);
            Ok(())
        })
    }
    /// Takes everything out of the kernel that would outlive the agent.
    fn purge(&mut self) -> Result<(), Error>;
    /// A reader of the tables as they are now.
    fn reader(&self) -> Arc<dyn Reader>;
}

/// Connections that are open, and the clients that had some.
pub trait Connections {
    /// The remembered clients and open connections.
    fn clients(&self) -> Arc<dyn Clients>;
    /// Whether connections of a removed backend are still open at an index of the backends.
    fn busy(&self, index: u32) -> bool;
    /// Closes the open connections that were handed to a backend; returns how many there were.
    fn close_connections(&self, backend: &Backend) -> Result<usize, Error>;
}

/// Listening sockets of applications on this host.
pub trait Listeners {
    /// Whether connections can be handed to listening sockets, or the agent must take them all.
    fn steers(&self) -> bool;
    /// Enters listening sockets that the kernel side cannot see by itself: those of before its
    /// time, and UDP sockets. Returns what stood in the way, for `status`.
    fn adopt_listeners(&mut self, observed: &Observed) -> Vec<String>;
    /// Asks anew which kinds of sockets listen on this host. Returns whether the path of a backend may have
    /// to change.
    fn look_for_listeners(&mut self) -> bool {
        false
    }
    /// Which backends have a listening socket on this host; `None` where that is not known.
    fn listening(&self) -> Result<Option<HashSet<BackendId>>, Error>;
}

/// The name of a data plane and the faults of its programs, for `status`.
pub trait Describe {
    /// `bpf` or `userspace`.
    fn name(&self) -> &'static str;
    /// Programs that were needed and that the kernel refused, each with its reason.
    fn refusals(&self) -> Vec<String> {
        Vec::new()
    }
}

/// All of a data plane, for the reconciler, which owns it.
pub trait DataPlane:
    Describe + Tables + Connections + Listeners + Counts + PacketPaths + Send
{
}

impl<T> DataPlane for T where
    T: Describe + Tables + Connections + Listeners + Counts + PacketPaths + Send
{
}

/// Whether `ip` belongs to this host, in this network namespace.
pub fn is_local(ip: IpAddr) -> bool {
    // The kernel binds a socket to its own addresses only.
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}
