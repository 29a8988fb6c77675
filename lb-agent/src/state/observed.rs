//! The state that a data plane has in force, as far as the agent knows it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use foldhash::HashMap as FastMap;
use lb_common::abi::packet::{Target, Vip, VipKey};
use lb_common::abi::{Backend, BackendId, MAX_BACKENDS, ServiceId, ServiceKey, state};
use lb_common::addr;

use super::action::Action;
use super::desired::Desired;
use lb_common::table::Built;
use lb_config::BackendAddress;
use lb_config::http::ProxyVersion;

/// The state in force. A clone is cheap because tables are shared.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Names of the services in use.
    pub names: BTreeMap<ServiceId, String>,
    /// The service of each listen address.
    pub listen: FastMap<ServiceKey, ServiceId>,
    /// The entries of the `BACKENDS` map, including those of removed backends. The latter record
    /// the ids that have been given out.
    pub backends: Vec<Backend>,
    /// The unix sockets among the backends, by their placeholder address in `backends`.
    pub unix_sockets: HashMap<SocketAddr, Arc<Path>>,
    /// The PROXY header that a service's connections to its backends begin with.
    pub proxy_protocol: HashMap<ServiceId, ProxyVersion>,
    /// Limit on the clients of a service that go through the agent; absent if there is no limit.
    pub max_connections: FastMap<ServiceId, u32>,
    /// The names that clients are hashed by, for services that have been renamed.
    pub hash_names: HashMap<ServiceId, String>,
    /// The way by which packets reach each backend.
    pub targets: HashMap<BackendId, Target>,
    /// The destination table of the packet paths.
    pub vips: HashMap<VipKey, Vip>,
    /// The tables that this agent has put in force itself.
    pub tables: FastMap<ServiceId, Built>,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            listen: FastMap::default(),
            backends: vec![FREE; MAX_BACKENDS],
            unix_sockets: HashMap::new(),
            proxy_protocol: HashMap::new(),
            max_connections: FastMap::default(),
            hash_names: HashMap::new(),
            targets: HashMap::new(),
            vips: HashMap::new(),
            tables: FastMap::default(),
        }
    }
}

/// The entry of an index that has never been given out.
pub const FREE: Backend = Backend {
    addr: addr::ANY_V6,
    port: 0,
    protocol: 0,
    state: state::REMOVED,
    id: BackendId::NONE,
    service: ServiceId(0),
    weight: 0,
    path: 0,
    pad: 0,
};

impl Observed {
    /// Records that `action` is in force.
    pub fn note(&mut self, action: &Action) {
        match action {
            Action::NameService(id, name) => {
                self.names.insert(*id, name.clone());
            }
            Action::PutBackend(backend) => self.backends[backend.id.index() as usize] = *backend,
            Action::PutTable(id, built) => {
                self.tables.insert(*id, built.clone());
            }
            Action::Listen(key, id) => {
                self.listen.insert(*key, *id);
            }
            Action::Unlisten(key) => {
                self.listen.remove(key);
            }
            Action::RemoveBackend(id) => {
                self.backends[id.index() as usize].state = state::REMOVED;
                self.targets.remove(id);
            }
            Action::PutTarget(target) => {
                self.targets.insert(target.id, *target);
            }
            Action::DropTarget(id) => {
                self.targets.remove(id);
            }
            Action::PutVip(key, vip) => {
                self.vips.insert(*key, *vip);
            }
            Action::DropVip(key) => {
                self.vips.remove(key);
            }
            Action::DropService(id) => {
                self.names.remove(id);
                self.tables.remove(id);
            }
        }
    }

    /// The state in which services without a backend so far have their first table of `actions`; `None` if there is no
    /// such service. Nothing is removed in it.
    pub fn with_first_tables(&self, actions: &[Action]) -> Option<Self> {
        let is_first = |id: &ServiceId| {
            let table = self.tables.get(id);
            table.is_none_or(|built| built.spec().members.is_empty())
        };
        let adds = |action: &&Action| match action {
            Action::NameService(..) | Action::PutBackend(_) | Action::PutTarget(_) => true,
            Action::PutTable(id, _) | Action::Listen(_, id) => is_first(id),
            _ => false,
        };
        let is_table = |action: &&Action| matches!(action, Action::PutTable(..));
        // A later round reuses the ids of removed backends.
        let ends =
            |action: &&Action| matches!(action, Action::RemoveBackend(_) | Action::Unlisten(_));
        let end = actions.iter().take_while(|action| !ends(action)).count();
        let actions = &actions[..end];
        actions.iter().filter(adds).find(is_table)?;
        let mut ahead = self.clone();
        actions
            .iter()
            .filter(adds)
            .for_each(|action| ahead.note(action));
        Some(ahead)
    }

    /// Takes those settings from `desired` that the data plane's tables cannot hold.
    pub fn complete(&mut self, desired: &Desired) {
        self.unix_sockets = desired.unix_sockets();
        let versions = desired.services.iter().filter_map(|service| {
            let version = service.send_proxy_protocol?;
            Some((self.service(&service.name)?, version))
        });
        self.proxy_protocol = versions.collect();
        let limits = desired.services.iter().filter_map(|service| {
            let most = service.max_connections?;
            Some((self.service(&service.name)?, most))
        });
        self.max_connections = limits.collect();
        let renamed = desired.services.iter();
        let renamed = renamed.filter(|service| service.hash_name != service.name);
        let names = renamed
            .filter_map(|service| Some((self.service(&service.name)?, service.hash_name.clone())));
        self.hash_names = names.collect();
    }

    /// The id of the service called `name`.
    pub fn service(&self, name: &str) -> Option<ServiceId> {
        self.names
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(id, _)| *id)
    }

    /// The backends of a service that have not been removed.
    pub fn backends_of(&self, service: ServiceId) -> impl Iterator<Item = &Backend> {
        self.backends
            .iter()
            .filter(move |b| b.service == service && b.state != state::REMOVED)
    }

    /// Address of the application of a backend. A unix socket is given by its path.
    pub fn address(&self, backend: &Backend) -> BackendAddress {
        let key = address_of(backend);
        match self.unix_sockets.get(&key) {
            Some(path) => BackendAddress::Unix(Arc::clone(path)),
            None => BackendAddress::Ip(key),
        }
    }

    /// The part of a service's new clients that each backend gets, 0 to 1, without those that get none. Their
    /// parts go to the others by their weights. `can_serve` tells whether a backend's application may take
    /// clients.
    pub fn shares(
        &self,
        service: ServiceId,
        can_serve: &dyn Fn(&Backend) -> bool,
    ) -> HashMap<BackendId, f64> {
        let Some(built) = self.tables.get(&service) else {
            return HashMap::new();
        };
        let in_service = self.backends_of(service);
        let mut owned: HashMap<BackendId, u32> = in_service
            .filter(|backend| backend.state == state::UP && can_serve(backend))
            .map(|backend| (backend.id, 0))
            .collect();
        for slot in &built.table().slots {
            if let Some(slots) = owned.get_mut(slot) {
                *slots += 1;
            }
        }
        let taken: u32 = owned.values().sum();
        let part = |slots: u32| f64::from(slots) / f64::from(taken.max(1));
        let owned = owned.into_iter();
        owned.map(|(id, slots)| (id, part(slots))).collect()
    }

    /// The service that listens on an address, and its limit on clients that go through the agent.
    pub fn limit(&self, key: &ServiceKey) -> Option<(ServiceId, Option<u32>)> {
        let id = self.service_at(key)?;
        Some((id, self.max_connections.get(&id).copied()))
    }

    /// The service that listens on an address, or else on the wildcard address of its family.
    pub fn service_at(&self, key: &ServiceKey) -> Option<ServiceId> {
        self.listen
            .get(key)
            .or_else(|| self.listen.get(&key.wildcard()))
            .copied()
    }
}

/// The address of a backend in the tables. A unix socket has a placeholder address; see
/// [`Observed::address`].
pub fn address_of(backend: &Backend) -> SocketAddr {
    SocketAddr::new(addr::to_ip(&backend.addr), backend.port)
}
