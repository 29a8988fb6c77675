//! The answers to `status` and `lookup`, put together from the desired and the observed state.

pub mod applications;
pub mod figures;
mod guards;
mod lookup;
mod requests;
mod settings;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lb_common::abi::{self, BackendId, Counter, path, protocol, state};

use crate::control::status::{
    AffinityStatus, AgentStatus, BackendStatus, CertificateStatus, ClientCertificatesStatus,
    CounterStatus, HealthStatus, RevocationListStatus, ServiceStatus, Status, StickinessStatus,
    TlsStatus,
};
use crate::dataplane::{BackendCounts, Counts, Error, Listeners};
use crate::health::{About as Known, Health, State};
use crate::proxy::listener_set::ListenerSet;
use crate::state::desired::{Backend, Desired, Service, Source};
use crate::state::observed::{Observed, address_of};
use crate::state::overlay::{self, Target};
use lb_config::health::AllDown;
use lb_config::http::{ClientCertificates, ClientPolicy};
use lb_config::{BackendAddress, Config, Mode};
use lb_http::Engine;

pub use lookup::{Tables, lookup};

/// Facts about the agent that hold as long as it lives.
pub struct About {
    started: Instant,
    data_plane: &'static str,
    config: Option<PathBuf>,
    notes: Vec<String>,
}

impl About {
    /// Facts of an agent that starts now. `notes` are for its operator.
    pub fn new(config: &Config, data_plane: &'static str, notes: Vec<String>) -> Self {
        Self {
            started: Instant::now(),
            data_plane,
            config: config.source.as_deref().map(absolute),
            notes,
        }
    }
}

/// `path` without relation to the directory that the agent was started in.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Inputs of the `status` report.
pub struct Sources<'a> {
    /// The desired state.
    pub desired: &'a Desired,
    /// The state in force.
    pub observed: &'a Observed,
    /// Counts of the data plane.
    pub counts: &'a dyn Counts,
    /// Listening sockets of this host.
    pub listeners: &'a dyn Listeners,
    /// The listeners of the proxy path.
    pub front: &'a ListenerSet,
    /// Results of the health checks.
    pub health: &'a Health,
    /// The engine of the L7 path.
    pub l7: &'a Engine,
}

/// Builds the complete answer to `status`.
pub fn status(about: &About, sources: &Sources, problems: Vec<String>) -> Result<Status, Error> {
    let listening = sources.listeners.listening()?;
    let services = sources
        .desired
        .services
        .iter()
        .map(|service| {
            let mut status = sources.service(service, listening.as_ref())?;
            add_health(&mut status, service, sources.health);
            Ok(status)
        })
        .collect::<Result<_, _>>()?;
    Ok(Status {
        agent: AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: about.started.elapsed().as_secs(),
            data_plane: about.data_plane.to_owned(),
            degraded: false,
            notes: about.notes.iter().cloned().chain(problems).collect(),
            config: about.config.as_ref().map(|path| path.display().to_string()),
            cache: guards::cache_size(sources.l7),
            packets: None,
        },
        services,
    })
}

impl Sources<'_> {
    fn service(
        &self,
        service: &Service,
        listening: Option<&HashSet<BackendId>>,
    ) -> Result<ServiceStatus, Error> {
        let settings = &service.settings;
        let id = self.observed.service(&service.name);
        let mut counts = [0; Counter::COUNT];
        if let Some(id) = id {
            counts = self.counts.service_counts(id)?;
            counts
                .iter_mut()
                .zip(self.front.service_counts(id))
                .zip(self.l7.choices(id))
                .for_each(|((sum, proxied), requests)| *sum += proxied + requests);
            counts[Counter::Denied as usize] += self.front.admission().refused(Some(id)).denied;
        }
        let listens = Listens::new(service, self.observed, listening);
        let backends = service
            .backends
            .iter()
            .map(|backend| self.backend(service, backend, &listens))
            .collect::<Result<_, _>>()?;
        Ok(ServiceStatus {
            name: service.name.clone(),
            mode: match service.mode {
                Mode::Tcp => "tcp",
                Mode::Udp => "udp",
                Mode::Http => "http",
            }
            .to_owned(),
            listen: service.listen.clone(),
            tls: self.tls(service),
            routes: service
                .http
                .as_deref()
                .map_or_else(Vec::new, settings::routes),
            stickiness: self.stickiness(service),
            affinity: AffinityStatus {
                timeout_seconds: Duration::from_nanos(settings.affinity_ns).as_secs(),
                ipv4_prefix: settings.ipv4_prefix,
                ipv6_prefix: settings.ipv6_prefix,
            },
            max_load: (settings.max_load_permille != 0)
                .then(|| f64::from(settings.max_load_permille) / 1000.0),
            all_down: service.all_down().map(|all_down| {
                match all_down {
                    AllDown::Serve => "serve",
                    AllDown::Refuse => "refuse",
                }
                .to_owned()
            }),
            counters: CounterStatus {
                affinity: counts[Counter::Affinity as usize],
                slot: counts[Counter::Slot as usize],
                next: counts[Counter::Next as usize],
                refused: counts[Counter::Refused as usize],
                denied: counts[Counter::Denied as usize],
                capped: counts[Counter::Capped as usize],
            },
            guards: guards::of(service, self.desired, self.l7),
            backends,
        })
    }

    /// The stickiness of a service, which for the backends of a route is that of their service.
    fn stickiness(&self, service: &Service) -> StickinessStatus {
        let own = service.http.as_ref().map(|http| &http.settings.stickiness);
        own.or_else(|| self.l7.stickiness(&service.name))
            .map_or_else(StickinessStatus::default, settings::stickiness)
    }

    fn tls(&self, service: &Service) -> Option<TlsStatus> {
        let tls = service.http.as_ref()?.tls.as_ref()?;
        let certificates = self.l7.certificates(&tls.certificates);
        Some(TlsStatus {
            listen: tls.listen.clone(),
            certificates: certificates.into_iter().map(certificate).collect(),
            clients: tls.client.as_ref().and_then(|settings| {
                let status = self.l7.client_auth(&service.name)?;
                Some(client_certificates(settings, status))
            }),
        })
    }

    fn backend(
        &self,
        service: &Service,
        backend: &Backend,
        listens: &Listens,
    ) -> Result<BackendStatus, Error> {
        let entry = entry(service, backend.address.key(), self.observed);
        let mut counts = match entry {
            Some(entry) => self.counts.backend_counts(entry)?,
            None => Default::default(),
        };
        let mut websockets = service.http.as_ref().map(|_| 0);
        if let Some(entry) = entry {
            let kernel = self.listeners.steers().then_some(entry);
            counts += beside(kernel, self.front.backend_counts(entry.id));
            let requests = self.l7.backend_counts(entry.id);
            websockets = websockets.map(|_| requests.tunnels);
            counts += requests.into();
        }
        let listening = listens.of(backend, entry);
        let state = state_of(backend, listening);
        Ok(BackendStatus {
            address: backend.address.clone(),
            state: state.to_owned(),
            listening,
            processes: Vec::new(),
            through_the_agent: None,
            path: backend.route.name().to_owned(),
            class: backend
                .packets
                .as_ref()
                .map(|packets| packets.way.class.name().to_owned()),
            why: backend.route.why.to_owned(),
            weight: backend.weight,
            share: entry.map_or(0.0, |entry| listens.share(entry.id)),
            source: match backend.source {
                Source::File => "file",
                Source::Runtime => "runtime",
            }
            .to_owned(),
            active: counts.active,
            websockets,
            connections: counts.total,
            drain_seconds_left: backend
                .drain
                .filter(|drain| state == "draining" && !drain.over)
                .map(|drain| drain.until_unix_ms.saturating_sub(overlay::steady_ms()))
                .map(|left_ms| left_ms.div_ceil(1000)),
            down_because: matches!(state, "down" | "drained").then(|| {
                match (&backend.comes_back, backend.fit) {
                    (Some(_), _) => "loop",
                    (None, true) => "drained",
                    (None, false) => "unhealthy",
                }
                .to_owned()
            }),
            clients: match backend.state {
                state::UP => "all",
                state::DRAINING => "known",
                _ => "none",
            }
            .to_owned(),
            health: None,
        })
    }
}

fn seconds(end: SystemTime) -> u64 {
    end.duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

fn client_certificates(
    settings: &ClientCertificates,
    status: lb_http::ClientAuthStatus,
) -> ClientCertificatesStatus {
    let lists = status.revocation_lists.into_iter();
    ClientCertificatesStatus {
        policy: match settings.policy {
            ClientPolicy::Require => "require",
            ClientPolicy::Optional => "optional",
        }
        .to_owned(),
        hosts: settings.hosts.iter().map(ToString::to_string).collect(),
        authorities: status.authorities,
        revocation_lists: lists
            .map(|(file, end)| RevocationListStatus {
                file,
                next_update_unix_seconds: end.map(seconds),
            })
            .collect(),
        problems: status.problems,
    }
}

fn certificate(status: lb_http::CertificateStatus) -> CertificateStatus {
    CertificateStatus {
        file: status.certificate,
        names: status.names,
        not_after_unix_seconds: status.not_after.map(seconds),
        problem: status.problem,
    }
}

/// Whether the applications of a service's backends listen.
struct Listens<'a> {
    /// The backends with a listening socket on this host; `None` if that is unknown.
    listening: Option<&'a HashSet<BackendId>>,
    /// The entries whose applications are known not to listen.
    dead: HashSet<BackendId>,
    /// The parts of the new clients that the others get.
    shares: HashMap<BackendId, f64>,
}

impl<'a> Listens<'a> {
    fn new(
        service: &Service,
        observed: &Observed,
        listening: Option<&'a HashSet<BackendId>>,
    ) -> Self {
        let here = service.backends.iter().filter(|backend| is_here(backend));
        let here: HashSet<SocketAddr> = here.map(|backend| backend.address.key()).collect();
        let id = observed.service(&service.name);
        let entries = id.into_iter().flat_map(|id| observed.backends_of(id));
        let is_dead = |entry: &&abi::Backend| {
            listening.is_some_and(|listening| !listening.contains(&entry.id))
                && here.contains(&address_of(entry))
        };
        let dead: HashSet<BackendId> = entries.filter(is_dead).map(|entry| entry.id).collect();
        let is_alive = |entry: &abi::Backend| !dead.contains(&entry.id);
        Self {
            listening,
            shares: id.map_or_else(HashMap::new, |id| observed.shares(id, &is_alive)),
            dead,
        }
    }

    fn share(&self, id: BackendId) -> f64 {
        self.shares.get(&id).copied().unwrap_or(0.0)
    }

    /// Whether the application of a backend listens; `None` if that is unknown, as for other hosts.
    fn of(&self, backend: &Backend, entry: Option<&abi::Backend>) -> Option<bool> {
        self.listening.filter(|_| is_here(backend))?;
        Some(!self.dead.contains(&entry?.id))
    }
}

/// Whether nothing listens at the address of a service's backend on this host. `listening` has the backends with a
/// listening socket.
pub fn has_no_listener(
    service: &Service,
    observed: &Observed,
    listening: Option<&HashSet<BackendId>>,
    address: &BackendAddress,
) -> bool {
    let listens = Listens::new(service, observed, listening);
    let entry = entry(service, address.key(), observed);
    entry.is_some_and(|entry| listens.dead.contains(&entry.id))
}

/// Whether the kernel of this host knows the backend's socket.
fn is_here(backend: &Backend) -> bool {
    !backend.elsewhere && backend.address.ip().is_some()
}

/// The counters of the userspace path, combined with the kernel's of the same backend, if it is one of the
/// kernel's. The kernel then has chosen the backend of each datagram, and counted it, before the agent got
/// it.
fn beside(kernel: Option<&abi::Backend>, proxied: BackendCounts) -> BackendCounts {
    let counts_datagrams = |entry: &&abi::Backend| {
        entry.protocol == protocol::UDP && matches!(entry.path, path::SOCKET | path::PROXY)
    };
    BackendCounts {
        total: match kernel.filter(counts_datagrams) {
            Some(_) => 0,
            None => proxied.total,
        },
        ..proxied
    }
}

/// The state of a backend as its operator thinks of it. A drain lasts until its time is over, even if its
/// clients have been moved at once.
fn state_of(backend: &Backend, listening: Option<bool>) -> &'static str {
    match (backend.state, backend.drain) {
        (state::UP, _) if listening == Some(false) => "no listener",
        (state::UP, _) => "up",
        (state::DRAINING, _) => "draining",
        _ if backend.comes_back.is_some() => "down",
        (_, Some(drain)) if backend.fit && !drain.over => "draining",
        (_, Some(_)) if backend.fit => "drained",
        _ => "down",
    }
}

fn add_health(status: &mut ServiceStatus, service: &Service, health: &Health) {
    for backend in &mut status.backends {
        let target = Target {
            service: service.name.clone(),
            address: backend.address.clone(),
        };
        backend.health = health.about(&target).map(health_status);
    }
}

fn health_status(known: Known) -> HealthStatus {
    let (last_error, ago) = known.last_error.unzip();
    HealthStatus {
        state: match known.state {
            State::Unproven { .. } => "unknown",
            State::Up => "up",
            State::Down => "down",
        }
        .to_owned(),
        since_seconds: known.since.as_secs(),
        against: known.against,
        check: known.check,
        last_error,
        last_error_seconds_ago: ago.map(|ago| ago.as_secs()),
        took_ms: known.took.map(|took| took.as_secs_f64() * 1000.0),
    }
}

/// The entry in force of a backend.
fn entry<'a>(
    service: &Service,
    address: SocketAddr,
    observed: &'a Observed,
) -> Option<&'a abi::Backend> {
    let id = observed.service(&service.name)?;
    observed
        .backends_of(id)
        .find(|entry| address_of(entry) == address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::observed::FREE;

    #[test]
    fn a_datagram_that_the_agent_passes_on_is_counted_once() {
        let proxied = BackendCounts {
            active: 3,
            total: 7,
            ..BackendCounts::default()
        };
        let total = |protocol, path| {
            let entry = abi::Backend {
                protocol,
                path,
                ..FREE
            };
            let counts = beside(Some(&entry), proxied);
            assert_eq!(counts.active, 3);
            counts.total
        };
        assert_eq!(total(protocol::UDP, path::PROXY), 0);
        assert_eq!(total(protocol::UDP, path::SOCKET), 0);
        assert_eq!(total(protocol::UDP, path::NAT), 7);
        assert_eq!(total(protocol::TCP, path::PROXY), 7);
        assert_eq!(beside(None, proxied), proxied);
    }
}
