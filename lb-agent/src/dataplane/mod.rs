//! What moves connections, behind one trait: `bpf` (the only user of aya), `memory` (tables on
//! the host alone, for the userspace path and for tests).

pub mod bpf;
pub mod memory;
pub mod packets;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops;
use std::sync::Arc;

use lb_common::abi::{Affinity, AffinityKey, Backend, BackendId, Counter, ServiceId};

use packets::{InterfaceState, PacketFigures, Wanted};

use crate::state::action::Action;
use crate::state::observed::Observed;
use crate::state::preview::Known;

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

/// What is counted for one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounts {
    /// Open connections.
    pub active: u64,
    /// Connections, or UDP datagrams, since the agent's tables were made.
    pub total: u64,
    /// Attempts that it refused or did not answer, as far as the agent made them.
    pub failures: u64,
    /// Bytes from its clients, as far as they passed by.
    pub bytes_in: u64,
    /// Bytes to its clients.
    pub bytes_out: u64,
    /// Packets from its clients, on the packet paths.
    pub packets_in: u64,
}

impl ops::AddAssign for BackendCounts {
    fn add_assign(&mut self, other: Self) {
        self.active += other.active;
        self.total += other.total;
        self.failures += other.failures;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.packets_in += other.packets_in;
    }
}

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableCounts {
    /// Its name.
    pub table: &'static str,
    /// Entries it has.
    pub entries: u64,
    /// Entries it can have.
    pub capacity: u64,
}

/// Counters of one service, by [`Counter`].
pub type ServiceCounts = [u64; Counter::COUNT];

/// The clients that are remembered and the connections that are open: read for every choice made
/// on the host, written by the userspace path.
pub trait Clients: Send + Sync {
    /// Where a client was sent last.
    fn affinity(&self, protocol: u8, key: &AffinityKey) -> Option<Affinity>;
    /// Remembers where a client was sent.
    fn remember(&self, protocol: u8, key: &AffinityKey, affinity: Affinity);
    /// Open connections of a backend.
    fn active(&self, backend: BackendId) -> u64;
    /// Open connections of a service.
    fn active_total(&self, service: ServiceId) -> u64;
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

/// Tables that can be changed and read.
pub trait DataPlane: Send {
    /// `bpf` or `userspace`, for `status`.
    fn name(&self) -> &'static str;
    /// Whether connections can be handed to listening sockets, or the agent must take them all.
    fn steers(&self) -> bool;
    /// What is in force, as far as it can be read back: the tables of services are not.
    fn observe(&self) -> Result<Observed, Error>;
    /// Whether connections of a removed backend are still open at an index of the backends.
    fn busy(&self, index: u32) -> bool;
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
    /// The remembered clients and open connections.
    fn clients(&self) -> Arc<dyn Clients>;
    /// Enters listening sockets that the kernel side cannot see by itself: those of before its
    /// time, and UDP sockets. Returns what stood in the way, for `status`.
    fn adopt_listeners(&mut self, observed: &Observed) -> Vec<String>;
    /// Asks anew which kinds of sockets listen on this host. Returns whether the path of a backend may have
    /// to change.
    fn look_for_listeners(&mut self) -> bool {
        false
    }
    /// A reader of the tables as they are now.
    fn reader(&self) -> Arc<dyn Reader>;
    /// Which backends have a listening socket on this host; `None` where that is not known.
    fn listening(&self) -> Result<Option<HashSet<BackendId>>, Error>;
    /// Closes the open connections that were handed to a backend; returns how many there were.
    fn close_connections(&self, backend: &Backend) -> Result<usize, Error>;
    /// Counts of one backend.
    fn backend_counts(&self, backend: &Backend) -> Result<BackendCounts, Error>;
    /// Counts of one service.
    fn service_counts(&self, service: ServiceId) -> Result<ServiceCounts, Error>;
    /// How full the tables are. The remembered clients may be those of some seconds ago.
    fn tables(&self) -> Result<Vec<TableCounts>, Error> {
        Ok(Vec::new())
    }
    /// Whether packets can be forwarded; else why not, in a few words.
    fn packets(&self) -> Result<(), &'static str> {
        Err(NO_PACKETS)
    }
    /// Programs that were needed and that the kernel refused, each with its reason, for `status`.
    fn refusals(&self) -> Vec<String> {
        Vec::new()
    }
    /// Has the packet programs on these interfaces, and on no others.
    fn follow(&mut self, _wanted: &[Wanted], _has_rules: bool) -> Vec<InterfaceState> {
        Vec::new()
    }
    /// Where the packet programs are, which stay there as long as flows are left: their ends are to
    /// be told that they are over. Empty when there are none.
    fn linger(&mut self) -> Vec<InterfaceState> {
        Vec::new()
    }
    /// Routes or neighbours have changed: what the packet programs found of them is not trusted.
    fn distrust_routes(&mut self) -> Result<(), Error> {
        Ok(())
    }
    /// What is counted of packets; `None` where none are forwarded.
    fn packet_figures(&self) -> Result<Option<PacketFigures>, Error> {
        Ok(None)
    }
    /// Lets slots of the `dsr` path go whose former owners have nothing left.
    fn clean_slots(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Whether `ip` belongs to this host, in this network namespace.
pub fn is_local(ip: IpAddr) -> bool {
    // The kernel binds a socket to its own addresses only.
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}
