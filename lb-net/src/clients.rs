//! State that the user-space paths share with the data plane: the memory of clients, and open
//! connections.

use lb_common::abi::{Affinity, AffinityKey, BackendId, ServiceId};

/// The remembered clients and the open connections. Every choice made on the host reads them, and
/// the userspace path writes them.
pub trait Clients: Send + Sync {
    /// The backend that a client was sent to last.
    fn affinity(&self, protocol: u8, key: &AffinityKey) -> Option<Affinity>;
    /// Remembers the backend that a client was sent to.
    fn remember(&self, protocol: u8, key: &AffinityKey, affinity: Affinity);
    /// Open connections of a backend.
    fn active(&self, backend: BackendId) -> u64;
    /// Open connections of a service.
    fn active_total(&self, service: ServiceId) -> u64;
}
