//! Rules between values: what clashes, what is there twice, and how much there may be.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::SocketAddr;

use lb_common::abi::{MAX_BACKENDS, MAX_LISTEN, MAX_MEMBERS, MAX_SERVICES};

use super::error::{Place, Problems};
use super::raw::{Raw, RawBackend, RawService};
use super::value::BadValue;
use super::{Backend, Config, Service};

/// Backends that all services can have together: index 0 of the kernel's table is never given out.
const TOTAL_BACKENDS: usize = MAX_BACKENDS - 1;

/// Checks what was written as a whole. The result is good only if no problem was noted.
pub(super) fn checked(raw: Raw, problems: &mut Problems) -> Config {
    check_limits(&raw.services, problems);
    check_names(&raw.services, problems);
    check_listen_addresses(&raw.services, problems);
    for service in &raw.services {
        check_backends(service, problems);
    }
    Config {
        agent: raw.agent,
        services: raw.services.into_iter().map(service).collect(),
        source: None,
    }
}

/// Whether `address` can be a backend of a service that listens on `listen`: a service that is its
/// own backend would send connections to itself for ever.
pub fn check_backend(listen: &[SocketAddr], address: SocketAddr) -> Result<(), BadValue> {
    let itself = listen
        .iter()
        .find(|listen| **listen == address || is_wildcard_of(listen, &address));
    match itself {
        None => Ok(()),
        Some(listen) => Err(BadValue {
            problem: format!("{address} is this service itself, which listens on {listen}"),
            remedy: "let the application listen on another port".to_owned(),
        }),
    }
}

/// Whether `listen` is every address of this host, `address` among them. Of other addresses than
/// the loopback ones, nobody can tell here whose they are.
fn is_wildcard_of(listen: &SocketAddr, address: &SocketAddr) -> bool {
    listen.ip().is_unspecified()
        && listen.is_ipv4() == address.is_ipv4()
        && listen.port() == address.port()
        && address.ip().is_loopback()
}

fn service(raw: RawService) -> Service {
    let backend = |raw: RawBackend| Backend {
        address: raw.address.value,
        weight: raw.weight,
        path: raw.path,
    };
    Service {
        name: raw.name.map(|name| name.value).unwrap_or_default(),
        listen: raw.listen.into_iter().map(|listen| listen.value).collect(),
        mode: raw.mode,
        affinity: raw.affinity,
        max_load_permille: raw.max_load_permille,
        backends: raw.backends.into_iter().map(backend).collect(),
    }
}

fn check_limits(services: &[RawService], problems: &mut Problems) {
    let file = &Place::FILE;
    let listen = services.iter().map(|service| service.listen.len()).sum();
    let backends = services.iter().map(|service| service.backends.len()).sum();
    at_most(MAX_SERVICES, services.len(), "services", file, problems);
    at_most(MAX_LISTEN, listen, "listen addresses", file, problems);
    at_most(TOTAL_BACKENDS, backends, "backends", file, problems);
    for service in services {
        let members = service.backends.len();
        at_most(MAX_MEMBERS, members, "backends", &service.place, problems);
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

fn check_names(services: &[RawService], problems: &mut Problems) {
    let mut seen = Seen::default();
    for name in services.iter().filter_map(|service| service.name.as_ref()) {
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

fn check_listen_addresses(services: &[RawService], problems: &mut Problems) {
    let mut seen = Seen::default();
    for service in services {
        for listen in &service.listen {
            let key = (service.mode as u8, listen.value);
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

fn check_backends(service: &RawService, problems: &mut Problems) {
    let listen: Vec<SocketAddr> = service.listen.iter().map(|listen| listen.value).collect();
    let mut seen = Seen::default();
    for RawBackend { address, .. } in &service.backends {
        if let Some(before) = seen.before(address.value, &address.place) {
            let line = before.offset.map_or(0, |offset| problems.line(offset));
            let message = format!(
                "{} is listed twice, first in line {line} (leave one out; a weight makes its share larger)",
                address.value
            );
            problems.add(&address.place, message);
        }
        problems.keep(&address.place, check_backend(&listen, address.value));
    }
}

/// The service that `place` is in, with its line: "service[0] (line 3)".
fn owner(place: &Place, problems: &Problems) -> String {
    let service = place.path.split('.').next().unwrap_or_default();
    let line = place.offset.map_or(0, |offset| problems.line(offset));
    format!("{service} (line {line})")
}

/// Where each thing was seen first.
struct Seen<'a, K>(HashMap<K, &'a Place>);

impl<K> Default for Seen<'_, K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<'a, K: Eq + Hash> Seen<'a, K> {
    /// Where `key` was seen before `place`, if it was.
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
