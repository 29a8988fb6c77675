//! Rules between values: clashes, duplicates and upper limits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_common::abi::{MAX_BACKENDS, MAX_LISTEN, MAX_MEMBERS, MAX_SERVICES};

use super::error::{Place, Problems};
use super::http::{self, HttpService, RawHttp};
use super::lists::RawBackend;
use super::loops::{self, Hop, Terms};
use super::packet::Reach;
use super::raw::{Raw, RawService};
use super::value::BadValue;
use super::{Backend, BackendAddress, Config, DataPlane, Mode, Path, Service, ServicePaths};

/// Backends of all services together at most: index 0 of the kernel's table is never given out.
const TOTAL_BACKENDS: usize = MAX_BACKENDS - 1;

/// Checks the written values as a whole. The result is good only if no problem was noted.
pub(super) fn checked(raw: Raw, problems: &mut Problems) -> Config {
    let mut services = Vec::new();
    let is_built_in = raw.services.iter().all(RawService::is_built_in);
    for service in raw.services {
        services.extend(expand(service, problems));
    }
    check_limits(&services, problems);
    check_names(&services, problems);
    check_former_names(&services, problems);
    check_listen_addresses(&services, problems);
    for service in &services {
        check_backends(service, problems);
    }
    check_caps(&services, raw.agent.data_plane, problems);
    check_loops(&services, loops::may_steer(raw.agent.data_plane), problems);
    Config {
        agent: raw.agent,
        services: services.into_iter().map(service).collect(),
        is_built_in,
        source: None,
    }
}

/// Connections of a client are counted by programs of the kernel.
fn check_caps(services: &[Written], data_plane: DataPlane, problems: &mut Problems) {
    let capped = services
        .iter()
        .filter(|it| it.raw.client_connections.is_some());
    for service in capped.filter(|_| data_plane == DataPlane::Userspace) {
        let message = "client_connections is counted by the kernel, which data_plane = \"userspace\" does without \
                       (leave one of them out)";
        problems.add(&service.raw.place, message);
    }
}

/// A service as it was written, or one that holds the backends of a route.
struct Written {
    raw: RawService,
    http: Option<Arc<HttpService>>,
    /// Its listen addresses, or those of the service that it is inside of.
    reached_at: Vec<SocketAddr>,
}

/// The service, and after it those inside it.
fn expand(mut raw: RawService, problems: &mut Problems) -> Vec<Written> {
    let plain: Vec<SocketAddr> = raw.listen.iter().map(|listen| listen.value).collect();
    if raw.mode != Mode::Http {
        return vec![Written {
            raw,
            http: None,
            reached_at: plain,
        }];
    }
    let mut written = RawHttp {
        settings: std::mem::take(&mut raw.http),
        tls: raw.tls.take(),
        request_limits: std::mem::take(&mut raw.request_limits),
        routes: std::mem::take(&mut raw.routes),
    };
    if let Some(tls) = &mut written.tls {
        raw.listen.extend(tls.listen.iter().cloned());
    }
    let name = raw.name.as_ref().map_or("", |name| name.value.as_str());
    let (http, inner) = http::check(name, plain, written, problems);
    let reached_at: Vec<SocketAddr> = http.all_listen().collect();
    let inside: Vec<Written> = inner
        .into_iter()
        .map(|inner| Written {
            raw: raw.inside(inner),
            http: None,
            reached_at: reached_at.clone(),
        })
        .collect();
    let protocol = http.settings.protocol;
    raw.health = raw.health.map(|health| health.over(protocol));
    let outer = Written {
        raw,
        http: Some(Arc::new(http)),
        reached_at,
    };
    std::iter::once(outer).chain(inside).collect()
}

/// Whether `address` can be a backend of a service with this mode: only HTTP goes to unix sockets.
pub fn check_backend(mode: Mode, address: &BackendAddress) -> Result<(), BadValue> {
    if mode == Mode::Http || address.ip().is_some() {
        return Ok(());
    }
    Err(BadValue {
        problem: format!("{address} is a unix socket, which is for HTTP"),
        remedy: "write mode = \"http\", or an address with a port".to_owned(),
    })
}

/// Finds connections that would come back to their own service for ever. Only loopback and listen
/// addresses are known to be local here.
fn check_loops(services: &[Written], steers: bool, problems: &mut Problems) {
    let is_local = |ip: IpAddr| {
        let mut listening = services.iter().flat_map(|service| &service.reached_at);
        ip.is_loopback() || listening.any(|listen| listen.ip() == ip)
    };
    let backends = |service: &Written| {
        let terms = Terms {
            mode: service.raw.mode,
            listen: &service.reached_at,
            introduces: service.raw.send_proxy_protocol.is_some(),
            steers,
        };
        let carried = |backend: &RawBackend| {
            let address = backend.address.value.clone();
            let path = backend.path(service.raw.paths.path);
            let carrier = terms.carrier(path, &address, &is_local);
            (address, carrier)
        };
        service.raw.backends.iter().map(carried).collect()
    };
    let hops = services.iter().map(|service| Hop {
        name: service.raw.name.as_ref().map_or("", |name| &name.value),
        udp: service.raw.mode == Mode::Udp,
        listen: &service.reached_at,
        backends: backends(service),
    });
    let hops: Vec<Hop<'_>> = hops.collect();
    for (hop, service) in hops.iter().zip(services) {
        if let Some((backend, value)) = loops::port_taken_twice(hop) {
            let place = &service.raw.backends[backend].address.place;
            problems.add(place, value.to_string());
        }
    }
    for service in services {
        if let Some(http) = &service.http {
            for value in loops::asks_itself(http, &is_local) {
                problems.add(&service.raw.place, value.to_string());
            }
        }
    }
    for found in loops::find(&hops, &is_local) {
        let backend = &services[found.hop].raw.backends[found.backend];
        problems.add(&backend.address.place, found.value.to_string());
    }
}

/// The checked service. All keys are named, so that none can be read and forgotten.
fn service(Written { raw, http, .. }: Written) -> Service {
    let path = common_path(&raw);
    let RawService {
        place: _,
        name,
        was,
        mode,
        // These four are taken by `expand`.
        tls: _,
        http: _,
        request_limits: _,
        routes: _,
        listen,
        affinity,
        allow,
        deny,
        client_connections,
        max_load_permille,
        max_connections,
        health,
        paths,
        backends,
        send_proxy_protocol,
    } = raw;
    let backend = |raw: RawBackend| Backend {
        path: raw.path(paths.path),
        address: raw.address.value,
        weight: raw.weight,
    };
    Service {
        name: name.map(|name| name.value).unwrap_or_default(),
        was: was.into_iter().map(|name| name.value).collect(),
        listen: listen.into_iter().map(|listen| listen.value).collect(),
        mode,
        affinity,
        allow,
        deny,
        client_connections,
        max_load_permille,
        max_connections,
        health,
        backends: backends.into_iter().map(backend).collect(),
        send_proxy_protocol,
        paths: ServicePaths { path, ..paths },
        http,
    }
}

/// The path of backends added later. A service has `dsr` for all backends or for none.
fn common_path(raw: &RawService) -> Path {
    let dsr = |backend: &RawBackend| backend.path(raw.paths.path) == Path::Dsr;
    if raw.backends.iter().any(dsr) {
        Path::Dsr
    } else {
        raw.paths.path
    }
}

/// Whether the path that a service has for backends added at run time can lead to `address`.
pub fn check_path(service: &Service, address: &BackendAddress) -> Result<(), BadValue> {
    let reach = Reach {
        mode: service.mode,
        listen: &service.listen,
        encapsulation: service.paths.encapsulation,
    };
    reach.check(service.paths.path, address)
}

fn check_limits(services: &[Written], problems: &mut Problems) {
    let file = &Place::FILE;
    let listen = services
        .iter()
        .map(|service| service.raw.listen.len())
        .sum();
    let backends = services
        .iter()
        .map(|service| service.raw.backends.len())
        .sum();
    at_most(MAX_SERVICES, services.len(), "services", file, problems);
    at_most(MAX_LISTEN, listen, "listen addresses", file, problems);
    at_most(TOTAL_BACKENDS, backends, "backends", file, problems);
    for service in services {
        let members = service.raw.backends.len();
        let place = &service.raw.place;
        at_most(MAX_MEMBERS, members, "backends", place, problems);
    }
}

fn at_most(most: usize, count: usize, what: &str, place: &Place, problems: &mut Problems) {
    if count > most {
        let scope = if place.path.is_empty() {
            "all services together"
        } else {
            "a service"
        };
        let message = format!("{count} {what} are too many ({scope} can have {most})");
        problems.add(place, message);
    }
}

fn check_names(services: &[Written], problems: &mut Problems) {
    let mut seen = Seen::default();
    let names = services
        .iter()
        .filter_map(|service| service.raw.name.as_ref());
    for name in names {
        if let Some(before) = seen.before(name.value.as_str(), &name.place) {
            let message = format!(
                "\"{}\" is the name of {} too (give each service a name of its own)",
                name.value,
                owner(before, problems)
            );
            problems.add(&name.place, message);
        }
    }
}

/// A former name belongs to one service, and is the name of no other.
fn check_former_names(services: &[Written], problems: &mut Problems) {
    let named = |name: &str| {
        let mut names = services
            .iter()
            .filter_map(|service| service.raw.name.as_ref());
        names.find(|other| other.value == name)
    };
    let mut seen = Seen::default();
    for former in services.iter().flat_map(|service| &service.raw.was) {
        let name = &former.value;
        let message = if let Some(there) = named(name) {
            format!(
                "there is a service \"{name}\", {} (leave was out: what was carried over stays)",
                owner(&there.place, problems)
            )
        } else if let Some(before) = seen.before(name.as_str(), &former.place) {
            format!(
                "\"{name}\" was {} already (let each name have one successor)",
                owner(before, problems)
            )
        } else {
            continue;
        };
        problems.add(&former.place, message);
    }
}

fn check_listen_addresses(services: &[Written], problems: &mut Problems) {
    let mut seen = Seen::default();
    for Written { raw: service, .. } in services {
        for listen in &service.listen {
            let key = (service.mode == Mode::Udp, listen.value);
            if let Some(before) = seen.before(key, &listen.place) {
                let before = owner(before, problems);
                let own = before.starts_with(&format!("{} ", service.place.path));
                let message = if own {
                    format!("{} is listed twice (leave one out)", listen.value)
                } else {
                    format!(
                        "{} belongs to {before} (let each address lead to one service)",
                        listen.value
                    )
                };
                problems.add(&listen.place, message);
            }
        }
    }
}

fn check_backends(service: &Written, problems: &mut Problems) {
    let mut seen = Seen::default();
    let listen: Vec<SocketAddr> = service
        .raw
        .listen
        .iter()
        .map(|listen| listen.value)
        .collect();
    let reach = Reach {
        mode: service.raw.mode,
        listen: &listen,
        encapsulation: service.raw.paths.encapsulation,
    };
    let dsr = common_path(&service.raw) == Path::Dsr;
    if dsr && service.raw.client_connections.is_some() {
        let message = "client_connections cannot be counted with path = \"dsr\", where replies do not come by \
                       here (leave one of them out)";
        problems.add(&service.raw.place, message);
    }
    for backend in &service.raw.backends {
        let RawBackend { address, .. } = backend;
        let path = backend.path(service.raw.paths.path);
        if service.raw.mode == Mode::Http && path == Path::Socket {
            let message = "HTTP always goes through the agent (leave path out)";
            problems.add(&address.place, message);
        }
        problems.keep(&address.place, reach.check(path, &address.value));
        if dsr && path != Path::Dsr {
            let message = "dsr is the path of all backends of a service or of none (write path = \
                           \"dsr\" in the service)";
            problems.add(&address.place, message);
        }
        if service.raw.send_proxy_protocol.is_some()
            && matches!(path, Path::Socket | Path::Nat | Path::Dsr)
        {
            let message = "a PROXY header is sent by the agent alone, and the application sees the \
                           client's address without one (leave path or send_proxy_protocol out)";
            problems.add(&address.place, message);
        }
        if let Some(before) = seen.before(address.value.key(), &address.place) {
            let line = before.offset.map_or(0, |offset| problems.line(offset));
            let message = format!(
                "{} is listed twice, first in line {line} (leave one out; a weight makes its share larger)",
                address.value
            );
            problems.add(&address.place, message);
        }
        problems.keep(
            &address.place,
            check_backend(service.raw.mode, &address.value),
        );
    }
}

/// The service that `place` is in, with its line: "service[0] (line 3)".
fn owner(place: &Place, problems: &Problems) -> String {
    let service = place.path.split('.').next().unwrap_or_default();
    let line = place.offset.map_or(0, |offset| problems.line(offset));
    format!("{service} (line {line})")
}

/// The place of the first use of each key.
struct Seen<'a, K>(HashMap<K, &'a Place>);

impl<K> Default for Seen<'_, K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<'a, K: Eq + Hash> Seen<'a, K> {
    /// The place of an earlier use of `key` before `place`, if there is one.
    fn before(&mut self, key: K, place: &'a Place) -> Option<&'a Place> {
        match self.0.entry(key) {
            Entry::Occupied(first) => Some(first.get()),
            Entry::Vacant(free) => {
                free.insert(place);
                None
            }
        }
    }
}
