//! Tables in the agent's own memory, for hosts without usable BPF. Tests use them too, with injected
//! failures.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lb_common::abi::{
    Affinity, AffinityKey, Backend, BackendId, Counter, MAX_BACKENDS, MAX_LISTEN, MAX_SERVICES,
    ServiceId, state,
};
use lru::LruCache;

use super::bpf::{close_clients, listening_by_list};
use super::{
    BackendCounts, Connections, Counts, Describe, Error, Listeners, PacketPaths, Pick, Reader,
    ServiceCounts, TableCounts, Tables,
};
use crate::state::action::Action;
use crate::state::observed::Observed;
use crate::state::preview::Known;
use lb_net::Clients;

/// Tables in the agent's memory, which end with it.
pub struct Memory {
    observed: Observed,
    clients: Arc<RememberedClients>,
    /// Number of changes that still succeed, for tests; `None` for no limit.
    pub fail_after: Option<usize>,
}

impl Memory {
    /// Empty tables that remember up to `max_clients` clients per protocol.
    pub fn new(max_clients: u32) -> Self {
        Self {
            observed: Observed::default(),
            clients: Arc::new(RememberedClients::new(max_clients)),
            fail_after: None,
        }
    }
}

impl Describe for Memory {
    fn name(&self) -> &'static str {
        "userspace"
    }
}

impl Tables for Memory {
    fn observe(&self) -> Result<Observed, Error> {
        Ok(self.observed.clone())
    }

    fn apply(&mut self, action: &Action) -> Result<(), Error> {
        match &mut self.fail_after {
            Some(0) => return Err(Error::Injected("apply")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.observed.note(action);
        Ok(())
    }

    fn purge(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.clients) as Arc<dyn Reader>
    }
}

impl Connections for Memory {
    fn clients(&self) -> Arc<dyn Clients> {
        Arc::clone(&self.clients) as Arc<dyn Clients>
    }

    fn busy(&self, _index: u32) -> bool {
        false
    }

    fn close_connections(&self, _backend: &Backend) -> Result<usize, Error> {
        Ok(0)
    }

    fn close_clients(&self, pick: Pick<'_>) -> Result<usize, Error> {
        // Some sandboxes have no sock_diag(7).
        Ok(close_clients(pick).unwrap_or(0))
    }
}

impl Listeners for Memory {
    fn steers(&self) -> bool {
        false
    }

    fn adopt_listeners(&mut self, _observed: &Observed) -> Vec<String> {
        Vec::new()
    }

    fn listening(&self) -> Result<Option<HashSet<BackendId>>, Error> {
        // Some sandboxes have no sock_diag(7).
        Ok(listening_by_list(&self.observed.backends).ok())
    }
}

impl Counts for Memory {
    fn backend_counts(&self, _backend: &Backend) -> Result<BackendCounts, Error> {
        Ok(BackendCounts::default())
    }

    fn service_counts(&self, _service: ServiceId) -> Result<ServiceCounts, Error> {
        Ok([0; Counter::COUNT])
    }

    fn tables(&self) -> Result<Vec<TableCounts>, Error> {
        let used = self
            .observed
            .backends
            .iter()
            .filter(|backend| backend.state != state::REMOVED);
        let table = |table, entries: usize, capacity: usize| TableCounts {
            table,
            entries: entries as u64,
            capacity: capacity as u64,
        };
        let (remembered, most) = self.clients.size();
        Ok(vec![
            table("services", self.observed.names.len(), MAX_SERVICES),
            table("listen", self.observed.listen.len(), MAX_LISTEN),
            table("backends", used.count(), MAX_BACKENDS),
            table("affinity", remembered, most),
        ])
    }
}

impl PacketPaths for Memory {}

type Cache = Mutex<LruCache<(u8, AffinityKey), Affinity>>;

/// The last backend of each client. The client that has been unseen for longest is evicted first.
struct RememberedClients {
    cache: Cache,
}

impl RememberedClients {
    fn new(max_clients: u32) -> Self {
        let limit = NonZeroUsize::new(max_clients as usize).unwrap_or(NonZeroUsize::MIN);
        Self {
            cache: Mutex::new(LruCache::new(limit)),
        }
    }
}

impl RememberedClients {
    /// Current number of clients, and the most that fit.
    fn size(&self) -> (usize, usize) {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        (cache.len(), cache.cap().get())
    }
}

impl Reader for RememberedClients {
    fn known_clients(&self) -> Result<Vec<Known>, Error> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(cache
            .iter()
            .map(|((_, key), affinity)| (*key, *affinity))
            .collect())
    }
}

impl Clients for RememberedClients {
    fn affinity(&self, protocol: u8, key: &AffinityKey) -> Option<Affinity> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(&(protocol, *key)).copied()
    }

    fn remember(&self, protocol: u8, key: &AffinityKey, affinity: Affinity) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.put((protocol, *key), affinity);
    }

    // Connections on the userspace path are counted by the code that opens them.
    fn active(&self, _backend: BackendId) -> u64 {
        0
    }

    fn active_total(&self, _service: ServiceId) -> u64 {
        0
    }
}
