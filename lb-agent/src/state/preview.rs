//! Predicts the effect of a change: services, addresses, backends, and the clients that would move.
//! The module is pure. It compares the state in force with a state that is not in force yet.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use lb_common::abi::{
    Affinity, AffinityKey, Backend as Entry, BackendId, ServiceId, ServiceTable, path, state,
};
use lb_common::select::Client;
use serde::{Deserialize, Serialize};

use super::desired::{Backend, Desired, Service};
use super::observed::{Observed, address_of};
use super::rename::{former, notes};
use lb_config::BackendAddress;

/// The effect of a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// The services that would change, in the order of the new configuration. Removed services come
    /// last.
    pub services: Vec<ServicePreview>,
    /// The greatest part (0 to 1) of its known clients or open connections that a service would
    /// lose. For a service without affinity, the part of its moved slots counts too.
    pub moved: f64,
    /// Notes about services that are removed or renamed, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Whether settings under `[agent]` have changed. Those take effect with a restart only.
    pub restart: bool,
}

/// The effect of a change on one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServicePreview {
    /// Name of the service after the change.
    pub name: String,
    /// The present name, if the service would be renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Whether the service is added, removed or changed.
    pub change: Change,
    /// Addresses that would be listened on.
    pub listen_added: Vec<SocketAddr>,
    /// Addresses that would be given up.
    pub listen_removed: Vec<SocketAddr>,
    /// Changed settings, as in "affinity: 3h -> 1h".
    pub settings: Vec<String>,
    /// Backends with a changed setting or a changed share.
    pub backends: Vec<BackendPreview>,
    /// The part of the slots that would change their owner, 0 to 1. It is also the part of the
    /// clients still unknown that would go to another backend.
    pub slots_moved: f64,
    /// Known clients that would move to another backend with their next connection.
    pub clients: Moved,
    /// Open connections of backends that would get no clients any more, or that would leave the
    /// packet paths. On the packet paths these connections end. On the other paths they go on.
    pub connections: Moved,
}

/// The kind of change of a service or a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new in the configuration.
    Added,
    /// It is no longer in the configuration.
    Removed,
    /// It stays, with a difference.
    Changed,
}

/// The effect of a change on one backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendPreview {
    /// Address or unix socket of the backend.
    pub address: BackendAddress,
    /// Whether the backend is added, removed or changed.
    pub change: Change,
    /// Changed settings, as in "weight 1 -> 2".
    pub settings: Vec<String>,
    /// Part of the slots that the backend owns before the change, 0 to 1.
    pub share_before: f64,
    /// Part of the slots that the backend owns after the change, 0 to 1.
    pub share_after: f64,
    /// Open connections of the backend before the change.
    pub connections: u64,
}

/// A number of moved clients or connections, out of a total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The number that would move.
    pub moved: u64,
    /// The total number, moved ones included.
    pub of: u64,
}

impl Moved {
    fn part(self) -> f64 {
        if self.of == 0 {
            return 0.0;
        }
        self.moved as f64 / self.of as f64
    }
}

/// One of the two states that are compared.
#[derive(Clone, Copy)]
pub struct Picture<'a> {
    /// The desired state of all services.
    pub desired: &'a Desired,
    /// The tables that follow from the desired state.
    pub observed: &'a Observed,
}

/// An affinity entry: the key of a client, its backend, and the time when it was last seen.
pub type Known = (AffinityKey, Affinity);

/// The clients and connections that a change could move.
pub struct Present {
    /// The remembered clients, sorted by service id.
    known: Vec<Known>,
    /// Open connections by backend, over all paths.
    open: HashMap<BackendId, u64>,
    /// The present time by CLOCK_BOOTTIME, in nanoseconds.
    now_ns: u64,
}

impl Present {
    /// Takes the remembered clients, in any order, and the open connections by backend.
    pub fn new(mut known: Vec<Known>, open: HashMap<BackendId, u64>, now_ns: u64) -> Self {
        known.sort_unstable_by_key(|(key, _)| key.service);
        Self {
            known,
            open,
            now_ns,
        }
    }

    /// The remembered clients of one service.
    fn known(&self, service: ServiceId) -> &[Known] {
        let from = self.known.partition_point(|(key, _)| key.service < service);
        let rest = &self.known[from..];
        &rest[..rest.partition_point(|(key, _)| key.service == service)]
    }

    fn active(&self, entry: &Entry) -> u64 {
        self.open.get(&entry.id).copied().unwrap_or(0)
    }
}

/// Predicts the effect of the step from `before` to `after`.
pub fn preview(before: Picture<'_>, after: Picture<'_>, present: &Present) -> Preview {
    let mut all: Vec<Names> = after
        .desired
        .services
        .iter()
        .map(|service| Names {
            was: former(service, before.desired, after.desired).map(|old| old.name.clone()),
            name: service.name.clone(),
        })
        .collect();
    let gone = before.desired.services.iter().filter(|service| {
        after.desired.service(&service.name).is_none()
            && !all
                .iter()
                .any(|names| names.was.as_ref() == Some(&service.name))
    });
    let gone: Vec<Names> = gone
        .map(|service| Names {
            was: None,
            name: service.name.clone(),
        })
        .collect();
    all.extend(gone);
    let services: Vec<ServicePreview> = all
        .iter()
        .map(|names| of_service(names, before, after, present))
        .collect();
    let part = |service: &ServicePreview| {
        let remembers = |picture: Picture<'_>, name| {
            let service = picture.desired.service(name);
            service.is_none_or(|service| service.settings.affinity_ns != 0)
        };
        let old = service.was.as_ref().unwrap_or(&service.name);
        let slots = match remembers(before, old) && remembers(after, &service.name) {
            true => 0.0,
            false => service.slots_moved,
        };
        service
            .clients
            .part()
            .max(service.connections.part())
            .max(slots)
    };
    Preview {
        moved: services.iter().map(part).fold(0.0, f64::max),
        services: services
            .into_iter()
            .filter(ServicePreview::is_any)
            .collect(),
        notes: notes(before.desired, after.desired),
        restart: false,
    }
}

impl ServicePreview {
    /// Whether anything of the service would change.
    fn is_any(&self) -> bool {
        self.change != Change::Changed
            || self.was.is_some()
            || !self.listen_added.is_empty()
            || !self.listen_removed.is_empty()
            || !self.settings.is_empty()
            || !self.backends.is_empty()
            || self.slots_moved > 0.0
    }
}

/// A service in one of the two states.
#[derive(Clone, Copy)]
struct There<'a> {
    service: &'a Service,
    observed: &'a Observed,
    id: ServiceId,
    table: &'a ServiceTable,
}

impl<'a> There<'a> {
    fn find(name: &str, picture: Picture<'a>) -> Option<Self> {
        let observed = picture.observed;
        let id = observed.service(name)?;
        Some(Self {
            service: picture.desired.service(name)?,
            observed,
            id,
            table: observed.tables.get(&id)?.table(),
        })
    }

    fn entry(&self, backend: &Backend) -> Option<&'a Entry> {
        let key = backend.address.key();
        self.observed
            .backends_of(self.id)
            .find(|entry| address_of(entry) == key)
    }

    fn share(&self, backend: &Backend) -> f64 {
        let built = self.observed.tables.get(&self.id);
        let share = built
            .zip(self.entry(backend))
            .map(|(built, entry)| built.share(entry.id));
        share.unwrap_or(0.0)
    }

    /// Whether known clients of the backend still go to it.
    fn keeps(&self, id: BackendId) -> bool {
        let entry = self.observed.backends.get(id.index() as usize);
        entry.is_some_and(|entry| {
            entry.id == id
                && entry.service == self.id
                && matches!(entry.state, state::UP | state::DRAINING)
        })
    }
}

impl There<'_> {
    /// Whether packets of connections that were open before the change still reach the backend.
    fn carries(&self, before: &Entry) -> bool {
        let by_packets = |path| matches!(path, path::NAT | path::DSR);
        let after = &self.observed.backends[before.id.index() as usize];
        !by_packets(before.path) || by_packets(after.path)
    }
}

/// The names of a service before and after.
struct Names {
    /// The former name, if the service is renamed.
    was: Option<String>,
    name: String,
}

fn of_service(
    names: &Names,
    before: Picture<'_>,
    after: Picture<'_>,
    present: &Present,
) -> ServicePreview {
    let Names { was, name } = names;
    let old = was.as_ref().unwrap_or(name);
    let (was, will) = (There::find(old, before), There::find(name, after));
    let listen = |there: Option<There<'_>>| -> Vec<SocketAddr> {
        there
            .map(|there| there.service.listen.clone())
            .unwrap_or_default()
    };
    let (old, new) = (listen(was), listen(will));
    let without = |these: &[SocketAddr], those: &[SocketAddr]| {
        these
            .iter()
            .filter(|address| !those.contains(address))
            .copied()
            .collect()
    };
    ServicePreview {
        name: name.clone(),
        was: names.was.clone(),
        change: match (was, will) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            _ => Change::Changed,
        },
        listen_added: without(&new, &old),
        listen_removed: without(&old, &new),
        settings: was
            .zip(will)
            .map(|(was, will)| settings(was.service, will.service))
            .unwrap_or_default(),
        backends: backends(was, will, present),
        slots_moved: was
            .zip(will)
            .map_or(0.0, |(was, will)| slots_moved(was.table, will.table)),
        clients: was
            .map(|was| clients(was, will, present))
            .unwrap_or_default(),
        connections: was
            .map(|was| connections(was, will, present))
            .unwrap_or_default(),
    }
}

/// The part of the slots, 0 to 1, that have an owner before and after, but not the same one.
fn slots_moved(before: &ServiceTable, after: &ServiceTable) -> f64 {
    let both = before.slots.iter().zip(&after.slots);
    let owned = |id: BackendId| id != BackendId::NONE;
    let moved = both
        .filter(|(was, will)| owned(**was) && owned(**will) && was != will)
        .count();
    moved as f64 / before.slots.len() as f64
}

fn settings(was: &Service, will: &Service) -> Vec<String> {
    let (old, new) = (&was.settings, &will.settings);
    let span = |ns| humantime::format_duration(Duration::from_nanos(ns)).to_string();
    let load = |permille| match permille {
        0 => "none".to_owned(),
        _ => (f64::from(permille) / 1000.0).to_string(),
    };
    let checks = |service: &Service| {
        let health = service.health.as_ref().filter(|health| !health.passive);
        health.map_or_else(|| "none".to_owned(), |health| health.probe.to_string())
    };
    let pairs = [
        (
            "mode",
            format!("{:?}", was.mode).to_lowercase(),
            format!("{:?}", will.mode).to_lowercase(),
        ),
        ("affinity", span(old.affinity_ns), span(new.affinity_ns)),
        (
            "ipv4_prefix",
            old.ipv4_prefix.to_string(),
            new.ipv4_prefix.to_string(),
        ),
        (
            "ipv6_prefix",
            old.ipv6_prefix.to_string(),
            new.ipv6_prefix.to_string(),
        ),
        (
            "max_load",
            load(old.max_load_permille),
            load(new.max_load_permille),
        ),
        ("health", checks(was), checks(will)),
    ];
    let mut found: Vec<String> = pairs
        .into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(what, old, new)| format!("{what}: {old} -> {new}"))
        .collect();
    // Each of these stands for many keys. The configuration files show the changed one better.
    if was.health != will.health && checks(was) == checks(will) {
        found.push("health: other settings".to_owned());
    }
    if was.http != will.http {
        found.push("http: other settings".to_owned());
    }
    found
}

fn backends(
    was: Option<There<'_>>,
    will: Option<There<'_>>,
    present: &Present,
) -> Vec<BackendPreview> {
    fn all<'a>(there: Option<There<'a>>) -> &'a [Backend] {
        there.map_or(&[], |there| &there.service.backends)
    }
    let of = |backend: &Backend, change, settings| BackendPreview {
        address: backend.address.clone(),
        change,
        settings,
        share_before: was.map_or(0.0, |was| was.share(backend)),
        share_after: will.map_or(0.0, |will| will.share(backend)),
        connections: was
            .and_then(|was| was.entry(backend))
            .map_or(0, |entry| present.active(entry)),
    };
    let mut found = Vec::new();
    for backend in all(will) {
        let before = was.and_then(|was| was.service.backend(&backend.address));
        let preview = match before {
            None => of(backend, Change::Added, Vec::new()),
            Some(before) => of(backend, Change::Changed, differences(before, backend)),
        };
        let shares_differ = (preview.share_before - preview.share_after).abs() > 1e-9;
        if preview.change == Change::Added || !preview.settings.is_empty() || shares_differ {
            found.push(preview);
        }
    }
    let gone = |backend: &&Backend| {
        will.is_none_or(|will| will.service.backend(&backend.address).is_none())
    };
    let removed = all(was).iter().filter(gone);
    found.extend(removed.map(|backend| of(backend, Change::Removed, Vec::new())));
    found
}

fn differences(old: &Backend, new: &Backend) -> Vec<String> {
    let state = |state| match state {
        state::UP => "up",
        state::DRAINING => "draining",
        _ => "down",
    };
    let path = |backend: &Backend| backend.route.name().to_owned();
    let pairs = [
        ("weight", old.weight.to_string(), new.weight.to_string()),
        (
            "state",
            state(old.state).to_owned(),
            state(new.state).to_owned(),
        ),
        ("path", path(old), path(new)),
    ];
    pairs
        .into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(what, old, new)| format!("{what} {old} -> {new}"))
        .collect()
}

/// Known clients: the total, and those that would go to another backend.
fn clients(was: There<'_>, will: Option<There<'_>>, present: &Present) -> Moved {
    let mut clients = Moved::default();
    for (key, affinity) in present.known(was.id) {
        let age_ns = present.now_ns.saturating_sub(affinity.seen_ns);
        let valid = age_ns < was.service.settings.affinity_ns && was.keeps(affinity.backend);
        if valid {
            clients.of += 1;
            let stays = will.is_some_and(|will| stays(was, will, key, affinity, age_ns));
            clients.moved += u64::from(!stays);
        }
    }
    clients
}

fn stays(
    was: There<'_>,
    will: There<'_>,
    key: &AffinityKey,
    known: &Affinity,
    age_ns: u64,
) -> bool {
    if !will.keeps(known.backend) {
        return false;
    }
    let (old, new) = (&was.service.settings, &will.service.settings);
    let same_prefix = (old.ipv4_prefix, old.ipv6_prefix) == (new.ipv4_prefix, new.ipv6_prefix);
    if same_prefix && age_ns < new.affinity_ns {
        return true;
    }
    // The affinity entry does not hold with another prefix or after the timeout. The slot decides.
    let client = Client::new(&will.table.head, &key.prefix);
    will.table.slots[client.slot() as usize] == known.backend
}

/// Open connections: the total, and those on backends that would get no connections any more.
fn connections(was: There<'_>, will: Option<There<'_>>, present: &Present) -> Moved {
    let mut connections = Moved::default();
    for entry in was.observed.backends_of(was.id) {
        let active = present.active(entry);
        connections.of += active;
        let stay = will.is_some_and(|will| will.keeps(entry.id) && will.carries(entry));
        if !stay {
            connections.moved += active;
        }
    }
    connections
}

#[cfg(test)]
mod tests;
