//! Remembered clients and open connections, for choices that the agent makes itself.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lb_common::abi::{self, BackendId, ServiceId};

use super::maps::{ClientMaps, Remembered};
use super::pod;
use lb_net::Clients;

/// The kernel's maps of remembered clients, for choices that the agent makes itself.
pub(super) struct KernelClients(Mutex<ClientMaps>);

impl KernelClients {
    pub(super) fn new(maps: ClientMaps) -> Self {
        Self(Mutex::new(maps))
    }

    /// Adds the map of UDP clients, once it exists.
    pub(super) fn remember_udp(&self, clients: Remembered) {
        self.lock().udp = Some(clients);
    }

    fn lock(&self) -> MutexGuard<'_, ClientMaps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientMaps {
    /// The remembered clients of a protocol; `None` for UDP as long as there is no UDP service.
    fn of(&mut self, protocol: u8) -> Option<&mut Remembered> {
        if protocol == abi::protocol::UDP {
            self.udp.as_mut()
        } else {
            Some(&mut self.tcp)
        }
    }
}

impl Clients for KernelClients {
    fn affinity(&self, protocol: u8, key: &abi::AffinityKey) -> Option<abi::Affinity> {
        let mut maps = self.lock();
        let known = maps.of(protocol)?.get(&pod::AffinityKey(*key), 0);
        known.ok().map(|affinity| affinity.0)
    }

    fn remember(&self, protocol: u8, key: &abi::AffinityKey, affinity: abi::Affinity) {
        let mut maps = self.lock();
        let Some(map) = maps.of(protocol) else { return };
        if let Err(error) = map.insert(pod::AffinityKey(*key), pod::Affinity(affinity), 0) {
            tracing::warn!(%error, "a client could not be remembered");
        }
    }

    fn active(&self, backend: BackendId) -> u64 {
        self.lock().active.get(&backend.index(), 0).unwrap_or(0)
    }

    fn active_total(&self, service: ServiceId) -> u64 {
        self.lock().service_active.get(&service.0, 0).unwrap_or(0)
    }
}
