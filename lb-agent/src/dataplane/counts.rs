//! Figures of a data plane: of its backends, services, tables and packets.

use std::ops;

use lb_common::abi::{Backend, Counter, ServiceId};

use super::Error;
use super::packets::PacketFigures;

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

/// Reads the figures. Nothing is changed.
pub trait Counts {
    /// Counts of one backend.
    fn backend_counts(&self, backend: &Backend) -> Result<BackendCounts, Error>;
    /// Counts of one service.
    fn service_counts(&self, service: ServiceId) -> Result<ServiceCounts, Error>;
    /// How full the tables are. The remembered clients may be those of some seconds ago.
    fn tables(&self) -> Result<Vec<TableCounts>, Error> {
        Ok(Vec::new())
    }
    /// What is counted of packets; `None` where none are forwarded.
    fn packet_figures(&self) -> Result<Option<PacketFigures>, Error> {
        Ok(None)
    }
}
