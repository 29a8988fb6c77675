//! What a data plane has in force, as the agent knows it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use lb_common::abi::packet::{Target, Vip, VipKey};
use lb_common::abi::{
    Backend, BackendId, MAX_BACKENDS, MAX_MEMBERS, ServiceHead, ServiceId, ServiceKey,
    ServiceTable, TABLE_SLOTS, state,
};
use lb_common::addr;
use lb_common::hash::{self, ClientHash};
use lb_common::maglev::{self, Member};

use crate::config::BackendAddress;
use crate::config::http::ProxyVersion;
use crate::dataplane::Action;
use crate::state::desired::Desired;

/// Everything in force. Cheap to clone: tables are shared.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Names of the services in use.
    pub names: BTreeMap<ServiceId, String>,
    /// Which service a listen address belongs to.
    pub listen: HashMap<ServiceKey, ServiceId>,
    /// The entries of the `BACKENDS` map, those of removed backends too: they tell which ids have
    /// been given out.
    pub backends: Vec<Backend>,
    /// The unix sockets among the backends, by what stands for each in `backends`.
    pub unix_sockets: HashMap<SocketAddr, Arc<Path>>,
    /// The PROXY header that a service's connections to its backends begin with.
    pub proxy_protocol: HashMap<ServiceId, ProxyVersion>,
    /// How many clients a service may have that go through the agent, where that is limited.
    pub max_connections: HashMap<ServiceId, u32>,
    /// The names that the clients of services are hashed by, of those that have had another name.
    pub hash_names: HashMap<ServiceId, String>,
    /// How packets get to backends.
    pub targets: HashMap<BackendId, Target>,
    /// Where the packet paths look up destinations.
    pub vips: HashMap<VipKey, Vip>,
    /// Tables, as far as this agent has put them in force itself.
    pub tables: HashMap<ServiceId, Built>,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            listen: HashMap::new(),
            backends: vec![FREE; MAX_BACKENDS],
            unix_sockets: HashMap::new(),
            proxy_protocol: HashMap::new(),
            max_connections: HashMap::new(),
            hash_names: HashMap::new(),
            targets: HashMap::new(),
            vips: HashMap::new(),
            tables: HashMap::new(),
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
    /// Notes that `action` is in force.
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

    /// Takes over from `desired` what the tables themselves have no place for.
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

    /// Where the application of a backend is, a unix socket by its path.
    pub fn address(&self, backend: &Backend) -> BackendAddress {
        let key = address_of(backend);
        match self.unix_sockets.get(&key) {
            Some(path) => BackendAddress::Unix(Arc::clone(path)),
            None => BackendAddress::Ip(key),
        }
    }

    /// The part of a service's new clients that a backend gets, 0 to 1: those of a backend that gets
    /// none are taken by the others, by their weights.
    pub fn share(&self, entry: &Backend) -> f64 {
        let Some(built) = self.tables.get(&entry.service) else {
            return 0.0;
        };
        if entry.state != state::UP {
            return 0.0;
        }
        let in_service = self.backends_of(entry.service);
        let taken: f64 = in_service
            .filter(|backend| backend.state == state::UP)
            .map(|backend| built.share(backend.id))
            .sum();
        if taken > 0.0 {
            built.share(entry.id) / taken
        } else {
            0.0
        }
    }

    /// The service that listens on an address, and how many clients it may have that go through the
    /// agent.
    pub fn limit(&self, key: &ServiceKey) -> Option<(ServiceId, Option<u32>)> {
        let id = self.service_at(key)?;
        Some((id, self.max_connections.get(&id).copied()))
    }

    /// The service that listens on an address: as such, else on the wildcard of its family.
    pub fn service_at(&self, key: &ServiceKey) -> Option<ServiceId> {
        self.listen
            .get(key)
            .or_else(|| self.listen.get(&key.wildcard()))
            .copied()
    }
}

/// What stands for the application of a backend in the tables: its address, unless it is a unix
/// socket; see [`Observed::address`].
pub fn address_of(backend: &Backend) -> SocketAddr {
    SocketAddr::new(addr::to_ip(&backend.addr), backend.port)
}

/// The address that a key stands for.
pub fn listen_address(key: &ServiceKey) -> SocketAddr {
    SocketAddr::new(addr::to_ip(&key.addr), key.port)
}

/// A service's table and what it was built from.
#[derive(Clone, Debug)]
pub struct Built {
    spec: Arc<TableSpec>,
    table: Arc<ServiceTable>,
}

/// What a table is built from; two equal specs give equal tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Settings; `members` and `total_weight` are filled in by [`TableSpec::new`].
    pub head: ServiceHead,
    /// Members in order of their identity.
    pub members: Vec<(Member, BackendId)>,
}

impl TableSpec {
    /// The spec of a service with these settings and members, in any order. There are at most
    /// [`MAX_MEMBERS`] of them.
    pub fn new(mut head: ServiceHead, mut members: Vec<(Member, BackendId)>) -> Self {
        members.sort_unstable_by_key(|(member, _)| (member.addr, member.port));
        head.members = members.len() as u32;
        head.total_weight = members
            .iter()
            .map(|(member, _)| u64::from(member.weight))
            .sum();
        Self { head, members }
    }
}

impl Built {
    /// Builds the table of `spec`.
    pub fn new(spec: TableSpec) -> Self {
        let members: Vec<Member> = spec.members.iter().map(|(member, _)| *member).collect();
        let ids = spec.members.iter().map(|(_, id)| *id);
        let mut table = ServiceTable {
            head: spec.head,
            members: [BackendId::NONE; MAX_MEMBERS],
            slots: [BackendId::NONE; TABLE_SLOTS],
            pad: 0,
        };
        for (place, id) in table.members.iter_mut().zip(ids) {
            *place = id;
        }
        let mut owners = vec![0; TABLE_SLOTS];
        if maglev::fill(&members, &mut owners).is_ok() {
            for (slot, owner) in table.slots.iter_mut().zip(owners) {
                // Without members nobody owns a slot.
                *slot = table
                    .members
                    .get(owner as usize)
                    .copied()
                    .unwrap_or_default();
            }
        }
        Self {
            spec: Arc::new(spec),
            table: Arc::new(table),
        }
    }

    /// What it was built from.
    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// Whether the connections of the service go to the L7 path.
    pub fn is_http(&self) -> bool {
        self.table.head.flags & ServiceHead::HTTP != 0
    }

    /// The table itself.
    pub fn table(&self) -> &ServiceTable {
        &self.table
    }

    /// The part of the slots that a backend owns, 0 to 1.
    pub fn share(&self, id: BackendId) -> f64 {
        let owned = self.table.slots.iter().filter(|slot| **slot == id).count();
        owned as f64 / TABLE_SLOTS as f64
    }
}

/// The settings of a service as its table carries them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadSettings {
    /// Secret of the agent.
    pub hash_key: [u64; 2],
    /// Affinity timeout in nanoseconds; 0 for none.
    pub affinity_ns: u64,
    /// Bound on load, thousandths; 0 for none.
    pub max_load_permille: u32,
    /// Bits of an IPv4 address that count.
    pub ipv4_prefix: u8,
    /// Bits of an IPv6 address that count.
    pub ipv6_prefix: u8,
    /// Whether its connections go to the L7 path.
    pub http: bool,
}

impl HeadSettings {
    /// The head of a service whose clients are hashed by `name`, still without members.
    pub fn head(&self, id: ServiceId, name: &str) -> ServiceHead {
        ServiceHead {
            clients: ClientHash::new(self.hash_key, hash::salt(name)),
            hash_key: self.hash_key,
            affinity_ns: self.affinity_ns,
            total_weight: 0,
            id,
            members: 0,
            max_load_permille: self.max_load_permille,
            ipv4_prefix: self.ipv4_prefix,
            ipv6_prefix: self.ipv6_prefix,
            flags: if self.http { ServiceHead::HTTP } else { 0 },
        }
    }
}
