//! The status of the packet paths, as the agent reports it.

use serde::{Deserialize, Serialize};

/// The status of the packet paths, if they are in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketStatus {
    /// The interfaces that have the programs.
    pub interfaces: Vec<InterfaceState>,
    /// Fill of the flow tables and counts of packets.
    pub figures: PacketFigures,
}

/// The attachment of the programs to an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceState {
    /// The name of the interface.
    pub name: String,
    /// `xdp` (at the driver), `tcx`, `tc` (behind it) or `none`.
    pub mode: String,
    /// The reason if the programs are not at the driver.
    pub why: Option<String>,
}

/// Fill of the flow tables, and counts of packets by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketFigures {
    /// Established flows (handshake complete), as of the last sweep.
    pub established: u64,
    /// The most established flows that the tables can hold.
    pub capacity: u64,
    /// Opening flows (handshake not complete), as of the last sweep.
    pub opening: u64,
    /// Flows of the `dsr` path that are remembered because their slot changed hands.
    pub tracked: u64,
    /// Flows that were given up since the tables were made because no packet came any more.
    pub expired: u64,
    /// Flows that ended because their backend is gone.
    pub orphaned: u64,
    /// Flows that were pushed out, or could not be kept for good, for want of room.
    pub evicted: u64,
    /// Walks over the flow tables since the agent's start: figures above are of the last one.
    #[serde(default)]
    pub walks: u64,
    /// Counts of packets by the name of their outcome.
    pub packets: Vec<(String, u64)>,
}
