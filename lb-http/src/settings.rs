//! The settings of a worker: the services, the tables in force, the memory of clients. Every worker has a
//! copy of its own, which is swapped whole.

use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _, HashSet};
use lb_common::abi::{
    Affinity, AffinityKey, Backend, BackendId, ServiceHead, ServiceId, ServiceKey, ServiceTable,
    protocol, state,
};
use lb_common::addr;
use lb_common::select::{self, Choice, Reason, Tables};

use super::affinity_cache;
use super::cache::Store;
use super::compiled::{CompiledService, Compiler};
use super::counts::Counts;
use super::listener_config::{ListenerConfig, ListenerConfigs};
use super::metrics::Registry;
use super::presence::Presences;
use super::request::Backends;
use super::sticky::Key;
use super::sticky::sessions::Sessions;
use super::sticky::spread::Spread;
use super::tables::{PassiveHealth, ServiceTables};
use super::tls::ServerConfigs;
use super::trace::SpanQueue;
use lb_config::BackendAddress;
use lb_config::http::HttpService;
use lb_net::Clients;
use lb_net::admission::Admission;
use lb_net::clock::boot_ns;

/// One state of everything, shared by the workers.
pub(super) struct Snapshot {
    /// Grows with every snapshot.
    pub(super) generation: u64,
    /// The services with `mode = "http"` by their listen addresses.
    pub(super) services: HashMap<ServiceKey, Arc<Service>>,
    /// The tables in force.
    pub(super) tables: Arc<dyn ServiceTables>,
    /// The affinities of clients.
    pub(super) clients: Arc<dyn Clients>,
    /// The counters of the workers.
    pub(super) counts: Arc<Counts>,
    /// The figures of requests.
    pub(super) metrics: Arc<Registry>,
    /// The stored answers, if a service stores some.
    pub(super) store: Option<Arc<Store>>,
    /// The queue of spans, if they are exported.
    pub(super) spans: Option<Arc<SpanQueue>>,
    /// The backends of Socket.IO sessions.
    pub(super) sessions: Arc<Sessions>,
    /// Whether the applications of the backends listen.
    pub(super) presences: Presences,
    /// The receiver of reports of backends that cannot be used.
    pub(super) health: Option<Arc<dyn PassiveHealth>>,
    /// The admission of clients.
    pub(super) admission: Admission,
}

/// One service.
pub(super) struct Service {
    /// The configuration.
    pub(super) http: Arc<HttpService>,
    /// The compiled settings for its connections.
    pub(super) listener: ListenerConfig,
    /// The compiled settings for its requests.
    pub(super) compiled: CompiledService,
}

/// The services by their listen addresses.
pub(super) fn services(
    configured: &[Arc<HttpService>],
    tables: &dyn ServiceTables,
    listeners: &mut ListenerConfigs,
    compiler: &mut Compiler,
) -> HashMap<ServiceKey, Arc<Service>> {
    listeners.begin();
    let mut services = HashMap::new();
    for http in configured {
        let listener = listeners.of(http);
        let client = listener.tls.as_ref().and_then(ServerConfigs::client);
        let live = Arc::new(Service {
            http: Arc::clone(http),
            compiled: compiler.compile(http, tables, client),
            listener,
        });
        for listen in http.all_listen() {
            let key = ServiceKey::new(addr::from_ip(listen.ip()), listen.port(), protocol::TCP);
            services.insert(key, Arc::clone(&live));
        }
    }
    listeners.keep_only(configured.iter().map(|http| &**http));
    compiler.keep_only(configured);
    services
}

impl Snapshot {
    /// Tells that a backend could not be used.
    pub(super) fn suspect(&self, id: BackendId, error: &str) {
        self.counts.failed(id);
        let Some(health) = &self.health else {
            return;
        };
        let entry = self.tables.entry(id);
        if let Some(entry) = entry.filter(|entry| entry.id == id)
            && let Some(service) = self.tables.name(entry.service)
        {
            health.failed(service, &self.tables.address(entry), error);
        }
    }

    /// The service at `local` in the tables, and how many clients it may have.
    pub(super) fn limit(&self, local: SocketAddr) -> Option<(ServiceId, Option<u32>)> {
        let key = ServiceKey::new(addr::from_ip(local.ip()), local.port(), protocol::TCP);
        self.tables.limit(&key)
    }

    /// The names of the services.
    pub(super) fn names(&self) -> HashSet<&str> {
        let services = self.services.values();
        services.map(|it| it.http.name.as_str()).collect()
    }

    /// The service that listens on `local`.
    pub(super) fn service_at(&self, local: SocketAddr) -> Option<&Arc<Service>> {
        let key = ServiceKey::new(addr::from_ip(local.ip()), local.port(), protocol::TCP);
        self.services
            .get(&key)
            .or_else(|| self.services.get(&key.wildcard()))
    }

    /// Whether `local` is one of the service's addresses for TLS.
    pub(super) fn is_tls(service: &Service, local: SocketAddr) -> bool {
        let matches = |listen: &SocketAddr| {
            let wildcard = listen.ip().is_unspecified() && listen.is_ipv4() == local.is_ipv4();
            listen.port() == local.port() && (wildcard || listen.ip() == local.ip())
        };
        let plain = |listen: &SocketAddr| *listen == local;
        let tls = service.http.tls.as_ref();
        tls.is_some_and(|tls| tls.listen.iter().any(matches))
            && !service.http.listen.iter().any(plain)
    }

    /// Chooses a backend of `service` for a request that is known by `key`, other than those in
    /// `passed`: by the function that the kernel uses, if the key is as good as an address.
    pub(super) fn choose(
        &self,
        spread: &Spread,
        service: ServiceId,
        key: Key,
        passed: &[BackendId],
    ) -> Option<Choice> {
        let table = self.tables.table(service)?;
        let Some(client) = key.client(&table.head) else {
            return self.choose_freely(spread, table, key, passed);
        };
        let mut choosing = Choosing {
            snapshot: self,
            table,
            passed,
        };
        select::select(&mut choosing, &client)
    }

    /// The backend that the request names, if it still keeps its clients, else one by weight. No other
    /// backend has its session.
    fn choose_freely(
        &self,
        spread: &Spread,
        table: &ServiceTable,
        key: Key,
        passed: &[BackendId],
    ) -> Option<Choice> {
        let service = table.head.id;
        if let Some(backend) = self.kept(service, key, passed) {
            return Some(Choice {
                backend,
                reason: Reason::Affinity,
            });
        }
        if matches!(key, Key::Session(_)) {
            return None;
        }
        let backend = spread.next(service, self.candidates(table, passed))?;
        let reason = if matches!(key, Key::New) {
            Reason::Slot
        } else {
            Reason::Next
        };
        Some(Choice { backend, reason })
    }

    /// The backend of `service` that the request names, if it still keeps its clients.
    pub(super) fn kept(
        &self,
        service: ServiceId,
        key: Key,
        passed: &[BackendId],
    ) -> Option<BackendId> {
        let (Key::Backend(id) | Key::Session(id)) = key else {
            return None;
        };
        let backend = self.backend(id)?;
        let keeps = backend.service == service
            && matches!(backend.state, state::UP | state::DRAINING)
            && !passed.contains(&id);
        keeps.then_some(id)
    }

    /// The backends that get new sessions, with their weights.
    pub(super) fn candidates<'a>(
        &'a self,
        table: &'a ServiceTable,
        passed: &'a [BackendId],
    ) -> impl Iterator<Item = (BackendId, u16)> + Clone + 'a {
        let members = &table.members[..table.head.members as usize];
        members
            .iter()
            .filter_map(|id| self.backend(*id))
            .filter(|backend| backend.state == state::UP && !passed.contains(&backend.id))
            .map(|backend| (backend.id, backend.weight))
    }

    /// Writes a client's affinity, if its key can be remembered.
    pub(super) fn remember(&self, service: ServiceId, key: Key, backend: BackendId) {
        let Some(table) = self.tables.table(service) else {
            return;
        };
        let head = &table.head;
        if head.affinity_ns != 0 {
            let Some(client) = key.client(head) else {
                return;
            };
            let affinity = Affinity {
                seen_ns: boot_ns(),
                backend,
                pad: 0,
            };
            affinity_cache::remember(&client.key, self.generation, affinity, || {
                self.clients.remember(protocol::TCP, &client.key, affinity);
            });
        }
    }

    /// The entry of a backend, if it still is one.
    pub(super) fn backend(&self, id: BackendId) -> Option<&Backend> {
        let entry = self.tables.entry(id)?;
        (entry.id == id && entry.state != state::REMOVED).then_some(entry)
    }
}

impl Backends for Snapshot {
    fn address(&self, id: BackendId) -> Option<BackendAddress> {
        self.backend(id).map(|backend| self.tables.address(backend))
    }

    fn table(&self, service: ServiceId) -> Option<&ServiceHead> {
        Some(&self.tables.table(service)?.head)
    }

    fn sessions(&self) -> &Sessions {
        &self.sessions
    }
}

/// The tables of one service as `lb_common::select` wants them.
struct Choosing<'a> {
    snapshot: &'a Snapshot,
    table: &'a ServiceTable,
    passed: &'a [BackendId],
}

impl Tables for Choosing<'_> {
    fn head(&self) -> &ServiceHead {
        &self.table.head
    }

    fn slot(&self, slot: u32) -> BackendId {
        self.table.slots[slot as usize]
    }

    fn member(&self, member: u32) -> BackendId {
        self.table.members[member as usize]
    }

    fn backend(&self, id: BackendId) -> Option<Backend> {
        self.snapshot.tables.entry(id).copied()
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        affinity_cache::affinity(key, self.snapshot.generation, || {
            self.snapshot.clients.affinity(protocol::TCP, key)
        })
    }

    fn now_ns(&self) -> u64 {
        boot_ns()
    }

    fn active(&self, id: BackendId) -> u64 {
        self.snapshot.counts.active(id) + self.snapshot.clients.active(id)
    }

    fn active_total(&self) -> u64 {
        let id = self.table.head.id;
        self.snapshot.counts.active_total(id) + self.snapshot.clients.active_total(id)
    }

    fn hand_over(&mut self, backend: &Backend) -> bool {
        !self.passed.contains(&backend.id)
    }
}
