//! Data planes forward connections. `bpf` is the only user of aya. `memory` holds tables in the agent
//! alone, for the userspace path and for tests.
//!
//! A data plane implements one trait for each purpose. A user takes the smallest trait that it needs; only
//! the reconciler has their sum, [`DataPlane`].

pub mod bpf;
mod counts;
pub mod memory;
pub mod packets;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_common::abi::{Backend, BackendId};
use lb_common::access::Rules;

pub use counts::{BackendCounts, Counts, ServiceCounts, TableCounts};
pub use packets::PacketPaths;

use crate::state::action::Action;
use crate::state::observed::Observed;
use crate::state::preview::Known;
use lb_net::Clients;

/// The reason for which a data plane refused an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A map could not be read or written.
    #[error("{what}")]
    Table {
        /// The failed action and the name of the map.
        what: String,
        /// The kernel's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A test made the data plane fail.
    #[error("told to fail at {0}")]
    Injected(&'static str),
}

impl Error {
    /// An error with the failed action `what` ("write map ACTIVE") and its cause.
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

/// Reads the contents of the tables for other tasks than the owner, which is not blocked meanwhile.
pub trait Reader: Send + Sync {
    /// Whether the application at an address of this host listens by MPTCP. The kernel cannot hand
    /// connections to such a socket.
    fn is_mptcp(&self, _: SocketAddr) -> bool {
        false
    }
    /// Whether packets can be forwarded, as far as that is known without trying.
    ///
    /// # Errors
    /// The reason, in a few words.
    fn packets(&self) -> Result<(), &'static str> {
        Err(NO_PACKETS)
    }
    /// The remembered clients with their backends.
    fn known_clients(&self) -> Result<Vec<Known>, Error>;
    /// Open flows of a backend on the packet paths, which [`Clients::active`] does not count.
    fn open_flows(&self, _: &Backend) -> Result<u64, Error> {
        Ok(0)
    }
}

/// Picks connections by the service address that they came to, and by their client.
pub type Pick<'a> = &'a dyn Fn(SocketAddr, SocketAddr) -> bool;

const NO_PACKETS: &str = "no packets without BPF";

/// The tables, which only the reconciler changes, through actions.
pub trait Tables {
    /// Reads back the state in force, except for the tables of services.
    fn observe(&self) -> Result<Observed, Error>;
    /// Applies one change, which is in force when this returns.
    fn apply(&mut self, action: &Action) -> Result<(), Error>;
    /// Applies changes in their order. `done` is called after each one that is in force.
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
    /// Puts bans and the lists of services in force, beside those that are.
    fn add_rules(&mut self, _: &Rules) -> Result<(), Error> {
        Ok(())
    }
    /// Ends all other bans and lists.
    fn keep_rules(&mut self, _: &Rules) -> Result<(), Error> {
        Ok(())
    }
    /// Takes the tables and programs back after another agent had them.
    fn reclaim(&mut self) -> Result<(), Error> {
        Ok(())
    }
    /// Removes everything from the kernel that would outlive the agent.
    fn purge(&mut self) -> Result<(), Error>;
    /// A reader of the tables in their current state.
    fn reader(&self) -> Arc<dyn Reader>;
}

/// Open connections and remembered clients.
pub trait Connections {
    /// A handle of the remembered clients and open connections.
    fn clients(&self) -> Arc<dyn Clients>;
    /// Whether connections of a removed backend are still open at this index of the table of backends.
    fn busy(&self, index: u32) -> bool;
    /// Closes the open connections that were handed to a backend; returns their number.
    fn close_connections(&self, backend: &Backend) -> Result<usize, Error>;
    /// Closes the open connections of clients that `pick` names, on all paths that know of connections;
    /// returns their number.
    fn close_clients(&self, pick: Pick<'_>) -> Result<usize, Error>;
}

/// Listening sockets of applications on this host.
pub trait Listeners {
    /// Whether the kernel hands connections to listening sockets. Otherwise the agent must accept all of
    /// them.
    fn steers(&self) -> bool;
    /// Enters listening sockets that the programs cannot observe: those opened before the programs were
    /// attached, and UDP sockets. Returns the reasons of failures, for `status`.
    fn adopt_listeners(&mut self, observed: &Observed) -> Vec<String>;
    /// Lists the kinds of listening sockets on this host again. Returns whether the path of a backend may
    /// have to change.
    fn look_for_listeners(&mut self) -> bool {
        false
    }
    /// The backends with a listening socket on this host; `None` if that is unknown.
    fn listening(&self) -> Result<Option<HashSet<BackendId>>, Error>;
}

/// Name of a data plane and faults of its programs, for `status`.
pub trait Describe {
    /// Name of the data plane: `bpf` or `userspace`.
    fn name(&self) -> &'static str;
    /// Programs that were needed and that the kernel refused, each with its reason.
    fn refusals(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The whole data plane, which the reconciler owns.
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
