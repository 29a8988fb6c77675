//! The answer to `lookup`: the backend of a client or a request, by the functions that the kernel and the HTTP engine
//! use.

use std::collections::HashSet;
use std::net::IpAddr;

use lb_common::abi::{self, BackendId, path, state};
use lb_common::addr;
use lb_common::select::{Client, Reason};

use super::{Listens, settings};
use crate::control::facts::{NEW_SESSION, RequestFacts};
use crate::control::message::{AffinityFound, Lookup};
use crate::control::status::StickinessStatus;
use crate::host::HostTables;
use crate::state::desired::Service;
use crate::state::observed::Observed;
use lb_config::Mode;
use lb_http::{Decision, Engine, Sample};
use lb_net::Clients;
use lb_net::clock::boot_ns;

/// The state that answers are taken from.
pub struct Tables<'a> {
    /// The state in force.
    pub observed: &'a Observed,
    /// The HTTP engine.
    pub l7: &'a Engine,
    /// The backends with a listening socket on this host; `None` if that is unknown.
    pub listening: Option<&'a HashSet<BackendId>>,
}

/// Everything `lookup` tells of a request by the client `ip`; `None` while the service has no table.
pub fn lookup(
    service: &Service,
    tables: &Tables<'_>,
    ip: IpAddr,
    request: &RequestFacts,
) -> Option<Lookup> {
    let passed = passed(service, tables);
    let decide = |query: Option<&str>| {
        let sample = Sample {
            service: &service.name,
            client: ip,
            headers: &request.headers(),
            query,
        };
        tables.l7.decide(&sample, &passed)
    };
    let decision = decide(request.full_query().as_deref()).unwrap_or(Decision::Address);
    let stickiness = tables.l7.stickiness(&service.name);
    let found = Lookup {
        client: ip,
        service: service.name.clone(),
        stickiness: stickiness.map_or_else(StickinessStatus::default, settings::stickiness),
        decided_by: None,
        backend: None,
        reason: None,
        prefix: None,
        slot: None,
        order: Vec::new(),
        affinity: None,
        candidates: Vec::new(),
    };
    let address = |id: BackendId| {
        let entry = tables.observed.backends.get(id.index() as usize)?;
        Some(tables.observed.address(entry))
    };
    let all = |ids: Vec<BackendId>| ids.into_iter().filter_map(address).collect();
    let kept = |by: &str, id| Lookup {
        decided_by: Some(by.to_owned()),
        backend: address(id),
        reason: Some(word(Reason::Affinity)),
        ..found.clone()
    };
    Some(match decision {
        Decision::Address => {
            let candidates = match decide(Some(NEW_SESSION)) {
                Some(Decision::Any(candidates)) => all(candidates),
                _ => Vec::new(),
            };
            let found = Lookup {
                decided_by: Some("address".to_owned()),
                prefix: Some(prefix(service, tables, ip)?),
                candidates,
                ..found
            };
            let host = |host: &HostTables<'_>| host.client(ip);
            by_tables(found, service, tables, &passed, &host)?
        }
        Decision::Token(prefix) => {
            let found = Lookup {
                decided_by: Some(found.stickiness.by.clone()),
                ..found
            };
            let host = |host: &HostTables<'_>| host.client_with_prefix(prefix);
            by_tables(found, service, tables, &passed, &host)?
        }
        Decision::Cookie(id) => kept("cookie", id),
        Decision::Session(id) => kept("session", id),
        Decision::SessionOver => Lookup {
            decided_by: Some("session".to_owned()),
            ..found
        },
        Decision::Any(candidates) => Lookup {
            candidates: all(candidates),
            ..found
        },
    })
}

/// The backends of an HTTP service on which nothing listens: requests find no connection there.
fn passed(service: &Service, tables: &Tables<'_>) -> Vec<BackendId> {
    if service.mode != Mode::Http {
        return Vec::new();
    }
    let listens = Listens::new(service, tables.observed, tables.listening);
    listens.dead.into_iter().collect()
}

/// The choice by the tables of the service.
fn by_tables(
    found: Lookup,
    service: &Service,
    tables: &Tables<'_>,
    passed: &[BackendId],
    client: &dyn Fn(&HostTables<'_>) -> Client,
) -> Option<Lookup> {
    let observed = tables.observed;
    let clients = tables.l7.clients();
    let id = observed.service(&service.name)?;
    // On the socket path a backend can be used while it listens.
    let usable = |backend: &abi::Backend| {
        !passed.contains(&backend.id)
            && (backend.path != path::SOCKET
                || tables
                    .listening
                    .is_none_or(|listening| listening.contains(&backend.id)))
    };
    let mut host = HostTables::new(id, service.protocol, observed, clients.as_ref(), &usable)?;
    let client = client(&host);
    let order = host.order(&client);
    let first = host.preferences(&client).into_iter().next();
    Some(Lookup {
        backend: first.map(|(backend, _)| observed.address(&backend)),
        reason: first.map(|(_, reason)| word(reason)),
        slot: Some(client.slot()),
        order: order
            .iter()
            .map(|backend| observed.address(backend))
            .collect(),
        affinity: remembered(service, observed, clients.as_ref(), &client),
        ..found
    })
}

/// The affinity entry of a client that is in force.
fn remembered(
    service: &Service,
    observed: &Observed,
    clients: &dyn Clients,
    client: &Client,
) -> Option<AffinityFound> {
    let known = clients.affinity(service.protocol, &client.key)?;
    let timeout_ns = service.settings.affinity_ns;
    let age_ns = boot_ns().saturating_sub(known.seen_ns);
    let entry = observed.backends.get(known.backend.index() as usize)?;
    let valid = entry.id == known.backend && entry.state != state::REMOVED;
    (valid && age_ns < timeout_ns).then(|| AffinityFound {
        backend: observed.address(entry),
        age_seconds: age_ns / 1_000_000_000,
        expires_in_seconds: (timeout_ns - age_ns) / 1_000_000_000,
    })
}

/// The part of an address that counts, as in `203.0.113.0/24`.
fn prefix(service: &Service, tables: &Tables<'_>, ip: IpAddr) -> Option<String> {
    let id = tables.observed.service(&service.name)?;
    let head = &tables.observed.tables.get(&id)?.table().head;
    let client = Client::new(head, &addr::from_ip(ip));
    let bits = if ip.to_canonical().is_ipv4() {
        service.settings.ipv4_prefix
    } else {
        service.settings.ipv6_prefix
    };
    Some(format!("{}/{bits}", addr::to_ip(&client.key.prefix)))
}

fn word(reason: Reason) -> String {
    match reason {
        Reason::Affinity => "affinity",
        Reason::Slot => "slot",
        Reason::Next => "next",
    }
    .to_owned()
}
