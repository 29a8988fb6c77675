//! Statistics of a data plane: of its backends, services, tables and packets.

use std::ops;

use lb_common::abi::{Backend, Counter, ServiceId};

use super::Error;
use super::packets::PacketFigures;

/// Counters of one backend; unsupported ones stay 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounts {
    /// Number of connections that are open now.
    pub active: u64,
    /// Connections, or UDP datagrams, since the agent's tables were made.
    pub total: u64,
    /// Failed attempts to connect, refused or unanswered, among those that the agent observed.
    pub failures: u64,
    /// Bytes from the backend's clients, if they pass this balancer.
    pub bytes_in: u64,
    /// Bytes to the backend's clients.
    pub bytes_out: u64,
    /// Packets from the backend's clients, on the packet paths.
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

/// Entries and capacity of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableCounts {
    /// Name of the table in `status` and metrics.
    pub table: &'static str,
    /// Number of entries in use.
    pub entries: u64,
    /// Entries that the table can hold.
    pub capacity: u64,
}

/// Counters of one service, by [`Counter`].
pub type ServiceCounts = [u64; Counter::COUNT];

/// Reads the statistics, without changing anything.
pub trait Counts {
    /// The counters of one backend.
    fn backend_counts(&self, backend: &Backend) -> Result<BackendCounts, Error>;
    /// The counters of one service.
    fn service_counts(&self, service: ServiceId) -> Result<ServiceCounts, Error>;
    /// Entries and capacity of the tables. The number of remembered clients may be some seconds old.
    fn tables(&self) -> Result<Vec<TableCounts>, Error> {
        Ok(Vec::new())
    }
    /// Statistics of the packet paths; `None` if the data plane forwards no packets.
    fn packet_figures(&self) -> Result<Option<PacketFigures>, Error> {
        Ok(None)
    }
}
