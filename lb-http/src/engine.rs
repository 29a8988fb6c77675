//! The workers: started with the first service, told of new settings, and ended.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lb_common::abi::{Affinity, AffinityKey, BackendId, Counter, ServiceId, ServiceKey, state};
use lb_config::OtlpUrl;
use lb_config::http::{CertificateFiles, HttpService};
use socket2::Type;

use crate::cache::{CacheFigures, Purge, Store, StoredObject};
use crate::compiled::Compiler;
use crate::counts::{Counts, RequestCounts};
use crate::limits::{LimitFigures, LimitTableFigures, Offender};
use crate::listener_config::ListenerConfigs;
use crate::metrics::{BackendFigures, Registry, ServiceFigures, SessionFigures};
use crate::presence::Presences;
use crate::settings::{self, Snapshot};
use crate::sticky::sessions::Sessions;
use crate::tables::{Confine, PassiveHealth, ServiceTables};
use crate::thread::{Handle, Message};
use crate::tls::{CertificateStatus, ClientAuthStatus};
use crate::trace::{Exporter, SpanFigures, SpanQueue};
use lb_net::Clients;
use lb_net::admission::Admission;
use lb_net::bind::{self, Listening, Problems, listen_address};
use lb_net::handover::{self, AcceptPolicy, FdStore};

/// How long the workers may take to put new settings in force.
const PUBLISHED: Duration = Duration::from_secs(2);

/// How long the last spans may take when the agent ends.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Socket.IO sessions that are remembered; the one unseen for longest goes first.
const MOST_SESSIONS: usize = 1 << 18;

/// The workers.
pub struct Engine {
    workers: Vec<Handle>,
    wanted: usize,
    /// Sockets to which the kernel hands connections, waiting for workers.
    handed_over: Vec<TcpListener>,
    steers: bool,
    clients: Arc<dyn Clients>,
    counts: Arc<Counts>,
    metrics: Arc<Registry>,
    listener_configs: ListenerConfigs,
    sessions: Arc<Sessions>,
    /// Bytes of all stored answers, and of the body of one.
    cache: (u64, u64),
    /// Made for the first service that stores answers.
    store: Option<Arc<Store>>,
    /// The collector of spans, and their exporter from the first service with traces on.
    collector: Option<OtlpUrl>,
    exporter: Option<Exporter>,
    presences: Presences,
    health: Option<Arc<dyn PassiveHealth>>,
    compiler: Compiler,
    generation: u64,
    /// The newest settings, for questions about them.
    published: Option<Arc<Snapshot>>,
    serving: HashSet<ServiceKey>,
    problems: Problems,
    kept: FdStore,
    admission: Admission,
    confine: Confine,
}

impl Engine {
    /// No thread yet: they start when there is a service for them. `workers` is how many, 0 for
    /// one a core. `steers` says that the kernel hands connections over by itself. Sockets are taken
    /// from `kept` where they are in there, and all are kept for the next agent. `admission` lets
    /// clients in. Each thread of the engine is confined by `confine`.
    pub fn new(
        clients: Arc<dyn Clients>,
        steers: bool,
        workers: usize,
        kept: FdStore,
        admission: Admission,
        confine: Confine,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            workers: Vec::new(),
            wanted: if workers == 0 { cores } else { workers },
            handed_over: Vec::new(),
            steers,
            clients,
            counts: Arc::default(),
            metrics: Arc::default(),
            listener_configs: ListenerConfigs::new(confine),
            sessions: Arc::new(Sessions::new(MOST_SESSIONS)),
            cache: (128 << 20, 2 << 20),
            store: None,
            collector: None,
            exporter: None,
            presences: Presences::default(),
            health: None,
            compiler: Compiler::new(confine),
            generation: 0,
            published: None,
            serving: HashSet::new(),
            problems: Problems::default(),
            kept,
            admission,
            confine,
        }
    }

    /// The presence of the backends, for reports of the kernel.
    pub fn presences(&self) -> &Presences {
        &self.presences
    }

    /// Bounds the stored answers of all services, and the body of one, in bytes.
    pub fn bound_cache(&mut self, memory: u64, object: u64) {
        self.cache = (memory, object);
    }

    /// Exports the spans of sampled requests, from the next [`Engine::publish`] on.
    pub fn export_spans_to(&mut self, collector: OtlpUrl) {
        self.collector = Some(collector);
    }

    /// Tells of backends that could not be used, from the next [`Engine::publish`] on.
    pub fn tell_failures_to(&mut self, health: Arc<dyn PassiveHealth>) {
        self.health = Some(health);
    }

    /// Opens sockets on `address`, one a worker, for connections that the kernel hands over. The first of
    /// them is returned: it stands for the group, which systemd knows as `name`.
    pub fn listen_handed_over(
        &mut self,
        address: SocketAddr,
        name: &str,
    ) -> io::Result<TcpListener> {
        let group = self.group(address, name)?;
        let first = group[0].try_clone()?;
        self.handed_over.extend(group);
        Ok(first)
    }

    /// Sockets on `address`, at least one a worker.
    fn group(&self, address: SocketAddr, name: &str) -> io::Result<Vec<TcpListener>> {
        let mut group = self.kept.called(name);
        let old = group.len();
        if old == 0 {
            let open = || bind::tcp_group(address, self.wanted);
            group = self.kept.make_way(address, Type::STREAM, open)?;
        }
        bind::tcp_members(address, self.wanted, &mut group)?;
        self.kept.keep(name, &group[old..]);
        Ok(group)
    }

    /// Puts services and tables in force: when this returns, every request sees them.
    pub fn publish(&mut self, services: &[Arc<HttpService>], tables: Arc<dyn ServiceTables>) {
        let services = settings::services(
            services,
            &*tables,
            &mut self.listener_configs,
            &mut self.compiler,
        );
        if services.is_empty() && self.workers.is_empty() {
            return;
        }
        self.presences.keep_only(|id| {
            let entry = tables.entry(id);
            entry.is_some_and(|entry| entry.id == id && entry.state != state::REMOVED)
        });
        if services.values().any(|it| it.http.settings.cache.is_some()) {
            let (memory, object) = self.cache;
            let made = || Arc::new(Store::new(memory, object));
            self.store.get_or_insert_with(made);
        }
        let traces = services
            .values()
            .any(|it| it.http.settings.tracing.is_some());
        let spans = if traces { self.span_queue() } else { None };
        self.generation += 1;
        let wanted: HashSet<ServiceKey> = services.keys().copied().collect();
        let snapshot = Arc::new(Snapshot {
            generation: self.generation,
            services,
            tables,
            clients: Arc::clone(&self.clients),
            counts: Arc::clone(&self.counts),
            metrics: Arc::clone(&self.metrics),
            store: self.store.clone(),
            spans,
            sessions: Arc::clone(&self.sessions),
            presences: self.presences.clone(),
            health: self.health.clone(),
            admission: self.admission.clone(),
        });
        self.metrics.keep_only(&snapshot.names());
        self.published = Some(Arc::clone(&snapshot));
        self.start(&snapshot);
        let (done, confirmed) = mpsc::channel();
        for worker in &self.workers {
            worker.tell(Message::Publish(Arc::clone(&snapshot), done.clone()));
        }
        drop(done);
        for _ in &self.workers {
            if confirmed.recv_timeout(PUBLISHED).is_err() {
                tracing::warn!("a worker of the L7 path is late to take new settings");
                break;
            }
        }
        if !self.steers {
            self.listen(wanted);
        }
    }

    /// The queue of spans; `None` without a collector.
    fn span_queue(&mut self) -> Option<Arc<SpanQueue>> {
        let collector = self.collector.as_ref()?;
        if self.exporter.is_none() {
            self.exporter = Exporter::start(collector, &self.admission, self.confine)
                .inspect_err(|error| tracing::error!(%error, "spans are not exported"))
                .ok();
        }
        self.exporter.as_ref().map(Exporter::queue)
    }

    /// The settings that were published last.
    pub(super) fn published(&self) -> Option<&Snapshot> {
        self.published.as_deref()
    }

    /// Starts the workers, once.
    fn start(&mut self, snapshot: &Arc<Snapshot>) {
        if !self.workers.is_empty() {
            return;
        }
        for index in 0..self.wanted {
            match Handle::start(index, Arc::clone(snapshot), self.confine) {
                Ok(worker) => self.workers.push(worker),
                Err(error) => tracing::error!(%error, "a worker of the L7 path cannot start"),
            }
        }
        if self.workers.is_empty() {
            return;
        }
        let turns = self.workers.iter().cycle();
        for (listener, worker) in self.handed_over.drain(..).zip(turns) {
            worker.tell(Message::Listen(None, listener));
        }
    }

    /// Listens on the service addresses themselves.
    fn listen(&mut self, wanted: HashSet<ServiceKey>) {
        for key in self.serving.difference(&wanted) {
            for worker in &self.workers {
                worker.tell(Message::Unlisten(*key));
            }
            self.kept
                .forget(&handover::name_of("http", listen_address(key)));
        }
        self.serving.retain(|key| wanted.contains(key));
        self.problems.keep_only(&wanted);
        for key in wanted {
            if self.serving.contains(&key) {
                continue;
            }
            let address = listen_address(&key);
            match self.group(address, &handover::name_of("http", address)) {
                Ok(group) => {
                    // More than workers if the agent before had more of those.
                    let turns = self.workers.iter().cycle();
                    for (listener, worker) in group.into_iter().zip(turns) {
                        worker.tell(Message::Listen(Some(key), listener));
                    }
                    self.serving.insert(key);
                    self.problems.over(&key);
                }
                Err(error) => self.problems.note(key, "HTTP", &error, None),
            }
        }
    }

    /// Listens again on the addresses that failed so far.
    pub fn try_again(&mut self) {
        let failed = self.problems.keys();
        if !failed.is_empty() {
            let wanted = self.serving.iter().copied().chain(failed).collect();
            self.listen(wanted);
        }
    }

    /// The number of open listen addresses. The group for handed-over connections counts as one.
    pub fn listening(&self) -> Listening {
        let handed_over = usize::from(self.steers && !self.workers.is_empty());
        self.problems.beside(self.serving.len() + handed_over)
    }

    /// Has certificates read again by the next [`Engine::publish`]; they were found to be good.
    pub fn read_certificates_again(&mut self) {
        self.listener_configs.read_certificates_again();
    }

    /// The certificates in force of a service with these files; none if they cannot be used.
    pub fn certificates(&self, files: &[CertificateFiles]) -> Vec<CertificateStatus> {
        self.listener_configs.certificates_of(files)
    }

    /// The verification of the certificates of clients of a service; `None` if they are not asked for one.
    pub fn client_auth(&self, service: &str) -> Option<ClientAuthStatus> {
        self.listener_configs.client_auth_of(service)
    }

    /// Whether a certificate from these files is in force.
    pub fn has_certificate(&self, pair: &CertificateFiles) -> bool {
        self.listener_configs.has_certificate(pair)
    }

    /// Opens the files of the access logs anew, after they were moved away.
    pub fn reopen_logs(&self) {
        self.listener_configs.reopen_logs();
    }

    /// The problems of listeners, for `status`.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let files = self
            .listener_configs
            .problems()
            .chain(self.compiler.problems());
        self.problems.texts().chain(files)
    }

    /// The counters of a backend.
    pub fn backend_counts(&self, id: BackendId) -> RequestCounts {
        self.counts.of(id)
    }

    /// The figures of the requests to the service called `name`.
    pub fn service_figures(&self, name: &str) -> ServiceFigures {
        self.metrics.of_service(name)
    }

    /// The figures of a backend's answers.
    pub fn backend_figures(&self, id: BackendId) -> BackendFigures {
        self.metrics.of_backend(id)
    }

    /// The figures of each limit of a service, with its name.
    pub fn limit_figures(&self, http: &HttpService) -> Vec<(String, LimitFigures)> {
        self.compiler.limits(http)
    }

    /// Takes the clients that limits want banned. A client that is not banned asks for it again with its next refused
    /// request.
    pub fn take_offenders(&self) -> Vec<Offender> {
        self.compiler.take_offenders()
    }

    /// The figures of the table of rates; `None` before the first rate.
    pub fn limit_table(&self) -> Option<LimitTableFigures> {
        self.compiler.limit_table()
    }

    /// The memory of Socket.IO sessions.
    pub fn sessions(&self) -> SessionFigures {
        SessionFigures {
            remembered: self.sessions.remembered() as u64,
            capacity: MOST_SESSIONS as u64,
            evicted: self.sessions.evicted(),
        }
    }

    /// The size of the cache and what it did; `None` if no service has one.
    pub fn cache(&self) -> Option<CacheFigures> {
        Some(self.store.as_ref()?.figures())
    }

    /// The spans so far; `None` if none are exported.
    pub fn spans(&self) -> Option<SpanFigures> {
        self.exporter.as_ref().map(Exporter::figures)
    }

    /// Stored answers to URLs that begin with `prefix`, those with the most hits first, at most `most`.
    pub fn stored(&self, prefix: &str, most: usize) -> Vec<StoredObject> {
        let store = self.store.as_ref();
        store.map_or_else(Vec::new, |store| store.objects(prefix, most))
    }

    /// Removes stored answers: how many.
    pub fn purge(&self, what: &Purge) -> u64 {
        self.store.as_ref().map_or(0, |store| store.purge(what))
    }

    /// Closes the tunnels to these backends. A request that is under way is answered.
    pub fn end(&self, backends: &HashSet<BackendId>) {
        if self.workers.is_empty() || !self.counts.end(backends) {
            return;
        }
        for worker in &self.workers {
            worker.tell(Message::Wake);
        }
    }

    /// How backends of a service were chosen, by [`Counter`].
    pub fn choices(&self, id: ServiceId) -> [u64; Counter::COUNT] {
        self.counts.choices(id)
    }

    /// The memory of clients and the open connections, those of this path included.
    pub fn clients(&self) -> Arc<dyn Clients> {
        Arc::new(Counted {
            clients: Arc::clone(&self.clients),
            counts: Arc::clone(&self.counts),
        })
    }

    /// Ends the workers. Open requests may go on for `grace`; returns when it is over.
    pub async fn wind_down(mut self, grace: Duration, accept_policy: AcceptPolicy) {
        self.published = None;
        let exporter = self.exporter.take();
        let deadline = Instant::now() + grace;
        for worker in &self.workers {
            worker.tell(Message::Stop(deadline, accept_policy));
        }
        let threads: Vec<_> = self
            .workers
            .into_iter()
            .filter_map(Handle::into_thread)
            .collect();
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
            self.listener_configs.flush_logs();
            if let Some(exporter) = exporter {
                exporter.finish(LAST_SPANS);
            }
        });
        let _ = joined.await;
    }
}

/// Counts the clients of a data plane that this engine has open.
struct Counted {
    clients: Arc<dyn Clients>,
    counts: Arc<Counts>,
}

impl Clients for Counted {
    fn affinity(&self, protocol: u8, key: &AffinityKey) -> Option<Affinity> {
        self.clients.affinity(protocol, key)
    }

    fn remember(&self, protocol: u8, key: &AffinityKey, affinity: Affinity) {
        self.clients.remember(protocol, key, affinity);
    }

    fn active(&self, backend: BackendId) -> u64 {
        self.counts.active(backend) + self.clients.active(backend)
    }

    fn active_total(&self, service: ServiceId) -> u64 {
        self.counts.active_total(service) + self.clients.active_total(service)
    }
}
