//! The agent's own listeners and what they need to know: the tables in force, and what they count.
//!
//! Beside the kernel's data plane there is one TCP listener per address family, to which the
//! kernel hands what it cannot join itself; without it, the agent listens on the service addresses
//! themselves. UDP sockets are bound to the service addresses in both cases.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use lb_common::abi::{
    Affinity, AffinityKey, Backend, BackendId, Counter, ServiceId, ServiceKey, arrival, path,
    protocol,
};
use lb_common::addr;
use lb_common::select::{Client, Reason};
use socket2::Type;
use tokio::sync::watch;
use tokio::time::Instant;

use super::tcp::TcpProxy;
use super::udp::UdpProxy;
use super::{Candidate, Chooser, Ending, Farewell, Traffic};
use crate::dataplane::{BackendCounts, ServiceCounts};
use crate::health::FailureReports;
use crate::host::HostTables;
use crate::state::observed::{Observed, address_of};
use lb_common::table::Built;
use lb_net::Clients;
use lb_net::admission::Admission;
use lb_net::admission::listener::Listener;
use lb_net::bind::{self, Listening, Problems, listen_address};
use lb_net::clock::boot_ns;
use lb_net::handover::{self, AcceptPolicy, FdStore};
use lb_net::seldom::Seldom;

/// Tells a listener to stop.
type Stop = watch::Sender<Option<Farewell>>;

/// Time for which connections may go on when their listen address is given up: for good.
const FOR_GOOD: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The agent's listeners.
pub struct ListenerSet {
    tables: Arc<Proxied>,
    serving: HashMap<ServiceKey, Stop>,
    problems: Problems,
    /// Sockets to which the kernel hands connections, before there are tables.
    handed_over: Vec<TcpListener>,
    own: Vec<Stop>,
    kept: FdStore,
    admission: Admission,
}

impl ListenerSet {
    /// A set without listeners yet. `clients` is the memory that is shared with the data plane; `steers`
    /// says that the kernel hands TCP connections over by itself. Sockets are taken from `kept` if they are
    /// there, and all are kept for the next agent. `admission` lets clients in.
    pub fn new(
        clients: Arc<dyn Clients>,
        steers: bool,
        kept: FdStore,
        admission: Admission,
    ) -> Self {
        let tables = Proxied {
            steers,
            observed: ArcSwap::from_pointee(Observed::default()),
            clients,
            counts: Mutex::new(Counts::default()),
            failure_reports: OnceLock::new(),
            ending: watch::Sender::default(),
        };
        Self {
            tables: Arc::new(tables),
            serving: HashMap::new(),
            problems: Problems::default(),
            handed_over: Vec::new(),
            own: Vec::new(),
            kept,
            admission,
        }
    }

    /// Ends the connections to these backends, and new ones as well, until it is told otherwise.
    pub fn end(&self, backends: &HashSet<BackendId>) {
        self.tables.ending.send_if_modified(|ending| {
            let other = ending != backends;
            ending.clone_from(backends);
            other
        });
    }

    /// Tells of backends that could not be reached.
    pub fn tell_failures_to(&self, failure_reports: FailureReports) {
        // The first one stays: there is one owner of all health.
        let _ = self.tables.failure_reports.set(failure_reports);
    }

    /// Opens a socket on `address`, called `name`, for connections that the kernel hands over. It is served
    /// once there are tables: earlier, waiting clients would find none.
    pub fn listen_handed_over(
        &mut self,
        address: SocketAddr,
        name: &str,
    ) -> io::Result<TcpListener> {
        let listener = self.listener(address, name)?;
        let offered = listener.try_clone()?;
        self.handed_over.push(listener);
        Ok(offered)
    }

    /// Lets the listeners know of the tables in force, and opens and closes those that depend on
    /// them.
    pub fn publish(&mut self, observed: &Arc<Observed>) {
        let steers = self.tables.steers;
        self.tables.observed.store(Arc::clone(observed));
        for listener in std::mem::take(&mut self.handed_over) {
            match self.serve_tcp(listener) {
                Ok(stop) => self.own.push(stop),
                Err(error) => tracing::error!(%error, "a listener of the proxy path is lost"),
            }
        }
        let wanted: HashSet<ServiceKey> = observed
            .listen
            .iter()
            .filter(|(key, id)| needs_socket(observed, key, **id, steers))
            .map(|(key, _)| *key)
            .collect();
        self.serving.retain(|key, stop| {
            let stays = wanted.contains(key);
            if !stays {
                // Open connections go on; no task is left to take the message back.
                stop.send_replace(Some(Farewell::to_newcomers(Instant::now() + FOR_GOOD)));
                self.kept.forget(&name_of(key));
            }
            stays
        });
        self.problems.keep_only(&wanted);
        for key in wanted {
            if !self.serving.contains_key(&key) {
                self.begin(key);
            }
        }
    }

    /// Tries again to open the listeners that could not be opened so far.
    pub fn try_again(&mut self) {
        for key in self.problems.keys() {
            self.begin(key);
        }
    }

    fn begin(&mut self, key: ServiceKey) {
        match self.open(key) {
            Ok(stop) => {
                if self.problems.over(&key) {
                    tracing::info!(address = %listen_address(&key), "listens after all");
                }
                self.serving.insert(key, stop);
            }
            Err(error) => self.cannot_listen(key, &error),
        }
    }

    /// Number of open listen addresses. The listener for handed-over connections counts as one.
    pub fn listening(&self) -> Listening {
        self.problems.beside(self.serving.len() + self.own.len())
    }

    /// Faults that keep listeners from opening, for `status`.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.problems.texts()
    }

    /// The memory of clients and the open connections, those on the userspace path included.
    pub fn clients(&self) -> Arc<dyn Clients> {
        Arc::clone(&self.tables) as Arc<dyn Clients>
    }

    /// Counters of the userspace path for a backend.
    pub fn backend_counts(&self, id: BackendId) -> BackendCounts {
        with_traffic(&self.tables.counts(), id)
    }

    /// Counters of the userspace path for a service.
    pub fn service_counts(&self, id: ServiceId) -> ServiceCounts {
        self.tables
            .counts()
            .services
            .get(&id)
            .copied()
            .unwrap_or_default()
    }

    /// Limits on new clients, here and on the L7 path.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// How many connections and datagrams of a service have come back too often.
    pub fn loops(&self, id: ServiceId) -> u64 {
        self.tables.counts().loops.get(&id).copied().unwrap_or(0)
    }

    fn cannot_listen(&mut self, key: ServiceKey, error: &io::Error) {
        let kind = match key.protocol {
            protocol::UDP => "UDP",
            _ => "TCP",
        };
        let remedy = self.on_the_same_port(&key).map(|backend| {
            format!(
                "the application at {backend} has taken that, too: let it listen on {} alone, or on \
                 another port",
                backend.ip()
            )
        });
        self.problems.note(key, kind, error, remedy);
    }

    /// A backend of the service at `key` that has its port, at another address of this host.
    fn on_the_same_port(&self, key: &ServiceKey) -> Option<SocketAddr> {
        let observed = self.tables.observed.load();
        let id = observed.service_at(key)?;
        let mut addresses = observed.backends_of(id).map(address_of);
        addresses
            .find(|address| address.port() == key.port && crate::dataplane::is_local(address.ip()))
    }

    fn open(&self, key: ServiceKey) -> io::Result<Stop> {
        let address = listen_address(&key);
        let name = name_of(&key);
        if key.protocol == protocol::TCP {
            return self.serve_tcp(self.listener(address, &name)?);
        }
        let socket = match self.kept.datagrams(&name) {
            Some(socket) => socket,
            None => {
                let open = || bind::udp(address);
                let socket = self.kept.make_way(address, Type::DGRAM, open)?;
                self.kept.keep(&name, &[&socket]);
                socket
            }
        };
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let (stop, stopped) = watch::channel(None);
        let chooser = Arc::clone(&self.tables) as Arc<dyn Chooser>;
        let proxy = UdpProxy {
            admission: self.admission.clone(),
            ..UdpProxy::default()
        };
        tokio::spawn(async move {
            if let Err(error) = proxy.serve(socket, chooser, stopped).await {
                tracing::error!(%error, %address, "the UDP listener has failed");
            }
        });
        Ok(stop)
    }

    fn listener(&self, address: SocketAddr, name: &str) -> io::Result<TcpListener> {
        if let Some(listener) = self.kept.called(name).pop() {
            return Ok(listener);
        }
        let open = || bind::tcp(address);
        let listener = self.kept.make_way(address, Type::STREAM, open)?;
        self.kept.keep(name, &[&listener]);
        Ok(listener)
    }

    fn serve_tcp(&self, listener: TcpListener) -> io::Result<Stop> {
        let listener = Listener::new(listener, self.admission.clone())?;
        let (stop, stopped) = watch::channel(None);
        let chooser = Arc::clone(&self.tables) as Arc<dyn Chooser>;
        tokio::spawn(TcpProxy::default().serve(listener, chooser, stopped));
        Ok(stop)
    }

    /// Stops listening. Open connections may go on for `grace`; returns when it is over.
    pub async fn wind_down(self, grace: Duration, accept_policy: AcceptPolicy) {
        let farewell = Farewell {
            deadline: Instant::now() + grace,
            accept_policy,
        };
        let listeners = self.serving.into_values().chain(self.own);
        let stopping: Vec<Stop> = listeners
            .inspect(|stop| {
                stop.send_replace(Some(farewell));
            })
            .collect();
        for stop in stopping {
            stop.closed().await;
        }
    }
}

/// Name of a listen address's socket in systemd.
fn name_of(key: &ServiceKey) -> String {
    let kind = match key.protocol {
        protocol::UDP => "udp",
        _ => "tcp",
    };
    handover::name_of(kind, listen_address(key))
}

/// Whether the agent must have a socket of its own on a listen address.
fn needs_socket(observed: &Observed, key: &ServiceKey, id: ServiceId, steers: bool) -> bool {
    let proxied = |backend: &Backend| backend.path == path::PROXY;
    if key.protocol == protocol::TCP {
        let http = observed.tables.get(&id).is_some_and(Built::is_http);
        return !steers && !http && observed.backends_of(id).next().is_some();
    }
    // A UDP datagram of an IPv6 client for an IPv4 socket comes this way too. An application on the
    // service's own port takes both families by itself, with a socket that ours would keep away.
    let other_family = |backend: &Backend| addr::is_v4(&backend.addr) != addr::is_v4(&key.addr);
    let own_port = |backend: &Backend| backend.path == path::SOCKET && backend.port == key.port;
    observed
        .backends_of(id)
        .any(|backend| proxied(backend) || other_family(backend) && !own_port(backend))
}

/// The tables as the userspace path sees them, and its counts.
struct Proxied {
    /// The kernel has chosen before, and counted that.
    steers: bool,
    observed: ArcSwap<Observed>,
    clients: Arc<dyn Clients>,
    counts: Mutex<Counts>,
    failure_reports: OnceLock<FailureReports>,
    ending: watch::Sender<HashSet<BackendId>>,
}

#[derive(Default)]
struct Counts {
    backends: HashMap<BackendId, BackendCounts>,
    services: HashMap<ServiceId, ServiceCounts>,
    /// Connections and datagrams that have come back too often.
    loops: HashMap<ServiceId, u64>,
    /// Open connections.
    active: HashMap<ServiceId, u64>,
    traffic: HashMap<BackendId, Arc<Traffic>>,
    /// When a backend last could not be reached.
    failed: HashMap<BackendId, Instant>,
}

/// For how long new UDP clients pass by a backend that has refused a datagram. TCP needs none of
/// this: a connection that is refused goes to the next backend at once, a datagram is lost.
const SHUNNED: Duration = Duration::from_secs(10);

impl Proxied {
    fn count_choice(&self, service: ServiceId, reason: Option<Reason>) {
        let counter = match reason {
            Some(Reason::Affinity) => Counter::Affinity,
            Some(Reason::Slot) => Counter::Slot,
            Some(Reason::Next) => Counter::Next,
            None => Counter::Refused,
        };
        self.counts().services.entry(service).or_default()[counter as usize] += 1;
    }

    fn failed_lately(&self, backend: BackendId) -> bool {
        self.counts()
            .failed
            .get(&backend)
            .is_some_and(|since| since.elapsed() < SHUNNED)
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chooser for Proxied {
    fn candidates(&self, local: SocketAddr, client: IpAddr, protocol: u8) -> Vec<Candidate> {
        let observed = self.observed.load();
        let key = ServiceKey::new(addr::from_ip(local.ip()), local.port(), protocol);
        let Some(id) = observed.service_at(&key) else {
            return Vec::new();
        };
        // Whether a backend listens shows when it is connected to.
        let usable = |_: &Backend| true;
        let Some(mut tables) = HostTables::new(id, protocol, &observed, self, &usable) else {
            return Vec::new();
        };
        let client = tables.client(client);
        let preferences = tables.preferences(&client);
        if !self.steers {
            self.count_choice(id, preferences.first().map(|(_, reason)| *reason));
        }
        let candidate = |(backend, _): (Backend, Reason)| Candidate {
            backend: backend.id,
            address: address_of(&backend),
            proxy_protocol: observed.proxy_protocol.get(&id).copied(),
        };
        let mut candidates: Vec<Candidate> = preferences.into_iter().map(candidate).collect();
        if protocol == protocol::UDP {
            candidates.sort_by_key(|candidate| self.failed_lately(candidate.backend));
        }
        candidates
    }

    fn opened(&self, local: SocketAddr, client: IpAddr, protocol: u8, backend: BackendId) {
        let observed = self.observed.load();
        let key = ServiceKey::new(addr::from_ip(local.ip()), local.port(), protocol);
        let built = observed
            .service_at(&key)
            .and_then(|id| observed.tables.get(&id));
        if let Some(built) = built {
            let head = &built.table().head;
            if head.affinity_ns != 0 {
                let client = Client::new(head, &addr::from_ip(client));
                let affinity = Affinity {
                    seen_ns: boot_ns(),
                    backend,
                    pad: 0,
                };
                let known = self.clients.affinity(protocol, &client.key);
                if let Some(counter) = arrival(known.as_ref(), &affinity, head.affinity_ns) {
                    self.counts().services.entry(head.id).or_default()[counter as usize] += 1;
                }
                self.clients.remember(protocol, &client.key, affinity);
            }
        }
        let service = observed.backends[backend.index() as usize].service;
        let mut counts = self.counts();
        let of_backend = counts.backends.entry(backend).or_default();
        of_backend.active += 1;
        of_backend.total += 1;
        *counts.active.entry(service).or_default() += 1;
    }

    fn closed(&self, backend: BackendId) {
        let service = self.observed.load().backends[backend.index() as usize].service;
        let mut counts = self.counts();
        if let Some(of_backend) = counts.backends.get_mut(&backend) {
            of_backend.active -= 1;
        }
        if let Some(active) = counts.active.get_mut(&service) {
            *active = active.saturating_sub(1);
        }
    }

    fn service(&self, local: SocketAddr, protocol: u8) -> Option<(ServiceId, Option<u32>)> {
        let key = ServiceKey::new(addr::from_ip(local.ip()), local.port(), protocol);
        self.observed.load().limit(&key)
    }

    fn came_back(&self, local: SocketAddr, protocol: u8) {
        let observed = self.observed.load();
        let key = ServiceKey::new(addr::from_ip(local.ip()), local.port(), protocol);
        let Some(id) = observed.service_at(&key) else {
            return;
        };
        *self.counts().loops.entry(id).or_default() += 1;
        static LINE: Seldom = Seldom::new();
        if let Some(times) = LINE.cause() {
            let service = observed.names.get(&id).map_or("", String::as_str);
            tracing::warn!(
                service, %local, times,
                "connections come back to lb-agent again and again, and are refused: a backend leads \
                 to this service (see lb-agent status)"
            );
        }
    }

    fn traffic(&self, backend: BackendId) -> Arc<Traffic> {
        Arc::clone(self.counts().traffic.entry(backend).or_default())
    }

    fn ending(&self) -> Ending {
        self.ending.subscribe()
    }

    fn failed(&self, backend: BackendId) {
        let mut counts = self.counts();
        counts.failed.insert(backend, Instant::now());
        counts.backends.entry(backend).or_default().failures += 1;
        drop(counts);
        let observed = self.observed.load();
        let entry = &observed.backends[backend.index() as usize];
        tracing::debug!(backend = %address_of(entry), "cannot be connected to");
        if let (Some(failure_reports), Some(service)) = (
            self.failure_reports.get(),
            observed.names.get(&entry.service),
        ) {
            let error = "a client could not be connected to it";
            failure_reports.failed(service, &observed.address(entry), error);
        }
    }
}

/// Counters of the userspace path for a backend.
fn with_traffic(counts: &Counts, id: BackendId) -> BackendCounts {
    let mut of_backend = counts.backends.get(&id).copied().unwrap_or_default();
    if let Some(traffic) = counts.traffic.get(&id) {
        of_backend.bytes_in = traffic.bytes_in.load(Ordering::Relaxed);
        of_backend.bytes_out = traffic.bytes_out.load(Ordering::Relaxed);
    }
    of_backend
}

impl Clients for Proxied {
    fn affinity(&self, protocol: u8, key: &AffinityKey) -> Option<Affinity> {
        self.clients.affinity(protocol, key)
    }

    fn remember(&self, protocol: u8, key: &AffinityKey, affinity: Affinity) {
        self.clients.remember(protocol, key, affinity);
    }

    fn active(&self, backend: BackendId) -> u64 {
        let here = self
            .counts()
            .backends
            .get(&backend)
            .map_or(0, |counts| counts.active);
        here + self.clients.active(backend)
    }

    fn active_total(&self, service: ServiceId) -> u64 {
        let here = self.counts().active.get(&service).copied().unwrap_or(0);
        here + self.clients.active_total(service)
    }
}
