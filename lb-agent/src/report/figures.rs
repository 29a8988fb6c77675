//! Every figure at one moment, for `stats` and the metrics.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use lb_common::abi::{Counter, path, protocol};

use super::requests;
use crate::control::stats::http::{HttpBackendStats, HttpStats};
use crate::control::stats::{ClientStats, DropStats, Family, Stats, TableStats, TrafficStats};
use crate::control::status::Status;
use crate::dataplane::packets::PacketFigures;
use crate::dataplane::{BackendCounts, Counts, Error, ServiceCounts};
use crate::metrics::{Sources, cache, events, process, spans};
use crate::proxy::listener_set::ListenerSet;
use crate::state::desired::{Backend, Desired, Service};
use crate::state::observed::Observed;
use crate::state::overlay;
use lb_config::Mode;
use lb_http::Engine;
use lb_http::metrics::BackendFigures;
use lb_net::admission::Refused;

/// Sources of the figures.
pub struct Figures<'a> {
    /// The services that should be.
    pub desired: &'a Desired,
    /// The state in force.
    pub observed: &'a Observed,
    /// Counts of the data plane.
    pub counts: &'a dyn Counts,
    /// Whether the data plane hands connections to sockets of applications.
    pub steers: bool,
    /// Those of the userspace path.
    pub front: &'a ListenerSet,
    /// Those of the L7 path.
    pub l7: &'a Engine,
    /// Sources of the other parts.
    pub sources: &'a Sources,
    /// Memory of evictions.
    pub evicted: &'a Evicted,
}

impl Figures<'_> {
    /// All of them, beside `status`.
    pub fn stats(&self, status: Status) -> Result<Stats, Error> {
        let mut clients = Vec::new();
        let mut drops = Vec::new();
        let mut traffic = Vec::new();
        let mut arrived: HashMap<u8, u64> = HashMap::new();
        for service in &self.desired.services {
            let counts = self.service_counts(service)?;
            let new = counts[Counter::New as usize];
            *arrived.entry(service.protocol).or_default() += new;
            clients.push(ClientStats {
                service: service.name.clone(),
                new,
                moved: counts[Counter::Moved as usize],
            });
            drops.push(DropStats {
                service: service.name.clone(),
                reason: "no_backend".to_owned(),
                count: counts[Counter::Refused as usize],
            });
            drops.push(DropStats {
                service: service.name.clone(),
                reason: "denied".to_owned(),
                count: counts[Counter::Denied as usize],
            });
            drops.push(DropStats {
                service: service.name.clone(),
                reason: "client_connections".to_owned(),
                count: counts[Counter::Capped as usize],
            });
            drops.extend(self.by_the_agent(service));
            for backend in &service.backends {
                traffic.extend(self.traffic(service, backend)?);
            }
        }
        let refused = self.front.admission().refused(None);
        drops.extend(not_let_in("", refused));
        drops.push(drop_of("", "descriptors", refused.no_descriptors));
        let packets = status.agent.packets.as_ref();
        drops.extend(
            packets
                .into_iter()
                .flat_map(|packets| dropped(&packets.figures)),
        );
        let evicted_flows = packets.map(|packets| packets.figures.evicted);
        Ok(Stats {
            at_unix_ms: overlay::unix_ms(),
            status,
            process: process::read(),
            clients,
            traffic,
            drops,
            http: self.http(),
            http_backends: self.http_backends(),
            tables: self.tables(&arrived, evicted_flows)?,
            events: events::last(),
            families: self.families(),
        })
    }

    fn families(&self) -> Vec<Family> {
        let mut families = self.sources.families();
        families.extend(self.l7.cache().iter().flat_map(cache::families));
        families.extend(self.l7.spans().iter().map(spans::family));
        families
    }

    /// The services that clients ask; those inside others have backends alone.
    fn http(&self) -> Vec<HttpStats> {
        let services = self.desired.services.iter();
        let http = services.filter_map(|service| service.http.as_ref());
        http.map(|http| {
            let figures = self.l7.service_figures(&http.name);
            HttpStats {
                limits: requests::limits(self.l7.limit_figures(http)),
                ..requests::service(&http.name, &figures, requests::Parts::of(http))
            }
        })
        .collect()
    }

    fn http_backends(&self) -> Vec<HttpBackendStats> {
        let services = self.desired.services.iter();
        let all = services
            .filter(|service| service.mode == Mode::Http)
            .flat_map(|service| {
                service
                    .backends
                    .iter()
                    .map(move |backend| (service, backend))
            });
        all.filter_map(|(service, backend)| {
            let entry = super::entry(service, backend.address.key(), self.observed)?;
            let figures = self.l7.backend_figures(entry.id);
            let row = || requests::backend(&service.name, backend.address.to_string(), &figures);
            (figures != BackendFigures::default()).then(row)
        })
        .collect()
    }

    fn service_counts(&self, service: &Service) -> Result<ServiceCounts, Error> {
        let mut counts = ServiceCounts::default();
        if let Some(id) = self.observed.service(&service.name) {
            counts = self.counts.service_counts(id)?;
            for more in [self.front.service_counts(id), self.l7.choices(id)] {
                counts.iter_mut().zip(more).for_each(|(sum, n)| *sum += n);
            }
            counts[Counter::Denied as usize] += self.front.admission().refused(Some(id)).denied;
        }
        Ok(counts)
    }

    /// Traffic that the agent did not pass on.
    fn by_the_agent(&self, service: &Service) -> Vec<DropStats> {
        let id = self.observed.service(&service.name);
        let refused = self.front.admission().refused(id);
        let refused = if id.is_some() {
            refused
        } else {
            Refused::default()
        };
        let loops = id.map_or(0, |id| self.front.loops(id));
        let mut drops = vec![drop_of(&service.name, "loop", loops)];
        drops.extend(not_let_in(&service.name, refused));
        drops
    }

    /// The kernel's row, if the backend is one of the kernel's, and the agent's, if it has passed anything
    /// on. On the `dsr` path the start of a connection cannot be observed.
    fn traffic(&self, service: &Service, backend: &Backend) -> Result<Vec<TrafficStats>, Error> {
        let Some(entry) = super::entry(service, backend.address.key(), self.observed) else {
            return Ok(Vec::new());
        };
        let row = |path| TrafficStats::new(&service.name, &backend.address, path);
        let mut rows = Vec::new();
        if self.steers && entry.path == path::SOCKET {
            let BackendCounts { active, total, .. } = self.counts.backend_counts(entry)?;
            rows.push(TrafficStats {
                active,
                connections: total,
                ..row("socket")
            });
        }
        if matches!(entry.path, path::NAT | path::DSR) {
            rows.push(by_packets(
                &self.counts.backend_counts(entry)?,
                entry.path,
                row,
            ));
        }
        if service.mode == Mode::Http {
            let requests = self.l7.backend_counts(entry.id);
            let figures = self.l7.backend_figures(entry.id);
            rows.push(TrafficStats {
                active: requests.active,
                connections: requests.total,
                failures: Some(requests.failures),
                bytes_in: Some(figures.received),
                bytes_out: Some(figures.sent),
                ..row("proxy")
            });
            return Ok(rows);
        }
        let proxied = self.front.backend_counts(entry.id);
        if proxied != BackendCounts::default() || entry.path == path::PROXY {
            let tcp = service.protocol == protocol::TCP;
            rows.push(TrafficStats {
                active: proxied.active,
                connections: proxied.total,
                failures: Some(proxied.failures),
                bytes_in: tcp.then_some(proxied.bytes_in),
                bytes_out: tcp.then_some(proxied.bytes_out),
                ..row("proxy")
            });
        }
        Ok(rows)
    }

    fn tables(
        &self,
        arrived: &HashMap<u8, u64>,
        evicted_flows: Option<u64>,
    ) -> Result<Vec<TableStats>, Error> {
        let of = |protocol: u8| arrived.get(&protocol).copied().unwrap_or(0);
        let counts = self.counts.tables()?;
        let of_kernel = counts.into_iter().map(|counts| {
            let arrived = match counts.table {
                "affinity" if !self.steers => Some(of(protocol::TCP) + of(protocol::UDP)),
                "affinity" => Some(of(protocol::TCP)),
                "affinity_udp" => Some(of(protocol::UDP)),
                _ => None,
            };
            let missing = match counts.table {
                "flows_new" => evicted_flows,
                _ => arrived.map(|arrived| arrived.saturating_sub(counts.entries)),
            };
            TableStats {
                table: counts.table.to_owned(),
                entries: counts.entries,
                capacity: counts.capacity,
                evictions: missing.map(|missing| self.evicted.at_least(counts.table, missing)),
            }
        });
        Ok(of_kernel
            .chain(self.sessions())
            .chain(self.limits())
            .collect())
    }
}

impl Figures<'_> {
    /// The memory of Socket.IO sessions, if there is a service with `mode = "http"`.
    fn sessions(&self) -> Option<TableStats> {
        let mut services = self.desired.services.iter();
        let is_used = services.any(|service| service.http.is_some());
        let sessions = self.l7.sessions();
        is_used.then(|| TableStats {
            table: "http_sessions".to_owned(),
            entries: sessions.remembered,
            capacity: sessions.capacity,
            evictions: Some(sessions.evicted),
        })
    }

    /// The table of rates, if there has been a limit with one.
    fn limits(&self) -> Option<TableStats> {
        self.l7.limit_table().map(|limits| TableStats {
            table: "http_limits".to_owned(),
            entries: limits.keys,
            capacity: limits.capacity,
            evictions: Some(limits.evicted),
        })
    }
}

fn drop_of(service: &str, reason: &str, count: u64) -> DropStats {
    DropStats {
        service: service.to_owned(),
        reason: reason.to_owned(),
        count,
    }
}

/// Clients refused for lack of room.
fn not_let_in(service: &str, refused: Refused) -> [DropStats; 2] {
    [
        drop_of(service, "max_connections", refused.max_connections),
        drop_of(service, "made_room", refused.shed),
    ]
}

/// Counters of a backend that is reached packet by packet.
fn by_packets(
    counts: &BackendCounts,
    by: u8,
    row: impl Fn(&'static str) -> TrafficStats,
) -> TrafficStats {
    let tracked = by == path::NAT;
    TrafficStats {
        active: counts.active,
        connections: counts.total,
        failures: tracked.then_some(counts.failures),
        bytes_in: Some(counts.bytes_in),
        packets_in: Some(counts.packets_in),
        ..row(if tracked { "nat" } else { "dsr" })
    }
}

/// Dropped packets, by reason. A packet dropped before its service was found has no service.
fn dropped(figures: &PacketFigures) -> impl Iterator<Item = DropStats> + '_ {
    let drops = figures.packets.iter();
    drops.filter_map(|(name, count)| {
        Some(DropStats {
            service: String::new(),
            reason: format!("packet_{}", name.strip_prefix("drop_")?),
            count: *count,
        })
    })
}

/// How many clients had to make room for others. The kernel does not say: they are those that came
/// and are not there any more. That a service is gone, and its count with it, takes nothing back.
#[derive(Default)]
pub struct Evicted(Mutex<HashMap<&'static str, u64>>);

impl Evicted {
    fn at_least(&self, table: &'static str, missing: u64) -> u64 {
        let mut most = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = most.entry(table).or_default();
        *count = missing.max(*count);
        *count
    }
}
