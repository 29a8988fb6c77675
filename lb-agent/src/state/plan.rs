//! The steps from the observed to the desired state, in an order without a gap for any connection.
//!
//! A backend's entry is written before a table names it. A table is written before an address leads
//! to it. Removals go in the reverse order.

use std::collections::{BTreeSet, HashMap, HashSet};

use lb_common::abi::packet::{Vip, VipKey};
use lb_common::abi::{
    self, BackendId, MAX_BACKENDS, MAX_LISTEN, MAX_MEMBERS, MAX_SERVICES, ServiceId, ServiceKey,
    path, state,
};
use lb_common::addr::{self, Addr};
use lb_common::maglev::Member;

use super::action::Action;
use super::desired::{Backend, Desired, Service};
use super::observed::Observed;
use super::{targets, vips};
use lb_common::table::{Built, TableSpec};

/// The reasons why no plan leads to the desired state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The configuration has more of something than the tables hold.
    #[error("{count} {what}, but there is room for {limit}")]
    TooMany {
        /// The kind of entries, such as "services".
        what: &'static str,
        /// The number of entries that are wanted.
        count: usize,
        /// The number of entries that fit.
        limit: usize,
    },
    /// The new services do not fit beside those that are still in force.
    #[error("no service id is free: take services out first, then put others in")]
    NoFreeService,
    /// Every backend id is in use or still has open connections from its last owner.
    #[error("no backend id is free: the connections of removed backends still hold them")]
    NoFreeId,
}

/// The steps from `observed` to `desired`. `busy` tells whether connections of a removed backend
/// are still open at an index of the `BACKENDS` map. Such an index is not given out again before
/// they end.
///
/// There may be too few ids for the old backends and the new ones at the same time. The plan then
/// has several rounds, in which some of the old make room for some of the new.
///
/// # Errors
/// [`PlanError`] if the desired state exceeds the tables, or if no id is free for a part of it.
pub fn plan(
    desired: &Desired,
    observed: &Observed,
    busy: &dyn Fn(u32) -> bool,
) -> Result<Vec<Action>, PlanError> {
    let Round { mut actions, whole } = round(desired, observed, busy)?;
    if whole {
        return Ok(actions);
    }
    let mut after = observed.clone();
    let mut noted = 0;
    loop {
        for action in &actions[noted..] {
            after.note(action);
        }
        noted = actions.len();
        let next = round(desired, &after, busy)?;
        actions.extend(next.actions);
        if next.whole {
            return Ok(actions);
        }
    }
}

/// The steps of one round. They lead as far as the free ids allow, and free other ids.
struct Round {
    actions: Vec<Action>,
    /// Whether these steps lead to the whole desired state.
    whole: bool,
}

fn round(
    desired: &Desired,
    observed: &Observed,
    busy: &dyn Fn(u32) -> bool,
) -> Result<Round, PlanError> {
    limits(desired)?;
    let mut planner = Planner {
        observed,
        busy,
        names: desired.services.iter().map(|s| s.name.as_str()).collect(),
        services: observed
            .names
            .iter()
            .map(|(id, name)| (name.as_str(), *id))
            .collect(),
        taken_services: observed.names.keys().copied().collect(),
        entries: entries(observed),
        free: None,
        kept: HashSet::new(),
        short_of: None,
    };
    let mut steps = Steps::default();
    let mut ids = HashMap::new();
    let mut listen: HashMap<ServiceKey, ServiceId> = HashMap::new();
    let mut services = HashSet::new();
    for service in &desired.services {
        let Some(id) = planner.service_id(service, &mut steps.names) else {
            // The present holders of its listen addresses keep them.
            let held = keys(service).filter_map(|key| Some((key, *observed.listen.get(&key)?)));
            for (key, holder) in held {
                listen.insert(key, holder);
                services.insert(holder);
                planner.keep_all(holder);
            }
            continue;
        };
        services.insert(id);
        ids.insert(service.name.as_str(), id);
        if let Some(spec) = planner.members(service, id, &mut steps) {
            let same = |built: &Built| *built.spec() == spec;
            if !observed.tables.get(&id).is_some_and(same) {
                steps.tables.push(Action::PutTable(id, Built::new(spec)));
            }
        }
        listen.extend(keys(service).map(|key| (key, id)));
    }
    steps.addresses(observed, &listen);
    let whole = planner.short_of.is_none();
    let forgets = |vip: &Vip| whole || !services.contains(&vip.service);
    steps.vips(observed, &vips::vips(desired, &ids), forgets);
    steps.removals(observed, &planner.kept, &services);
    let actions = steps.in_order();
    match planner.short_of {
        Some(error) if actions.is_empty() => Err(error),
        _ => Ok(Round { actions, whole }),
    }
}

/// The steps of a plan, grouped by kind.
#[derive(Default)]
struct Steps {
    names: Vec<Action>,
    backends: Vec<Action>,
    targets: Vec<Action>,
    tables: Vec<Action>,
    addresses: Vec<Action>,
    removals: Vec<Action>,
}

impl Steps {
    /// Makes the addresses lead to the services of `listen`, and removes all other addresses.
    fn addresses(&mut self, observed: &Observed, listen: &HashMap<ServiceKey, ServiceId>) {
        let new = listen
            .iter()
            .filter(|(key, id)| observed.listen.get(*key) != Some(*id))
            .map(|(key, id)| Action::Listen(*key, *id));
        self.addresses.extend(new);
        let gone = observed
            .listen
            .keys()
            .filter(|key| !listen.contains_key(*key));
        self.removals.extend(gone.copied().map(Action::Unlisten));
    }

    /// Enters the wanted addresses in the packet paths' table. Removes the others for which
    /// `may_forget` holds.
    fn vips(
        &mut self,
        observed: &Observed,
        wanted: &HashMap<VipKey, Vip>,
        may_forget: impl Fn(&Vip) -> bool,
    ) {
        let known = wanted
            .iter()
            .filter(|(key, vip)| observed.vips.get(*key) != Some(*vip))
            .map(|(key, vip)| Action::PutVip(*key, *vip));
        self.addresses.extend(known);
        let forgotten = observed
            .vips
            .iter()
            .filter(|(key, vip)| !wanted.contains_key(*key) && may_forget(vip))
            .map(|(key, _)| Action::DropVip(*key));
        self.removals.extend(forgotten);
    }

    /// Removes the backends and services that are not in these sets.
    fn removals(
        &mut self,
        observed: &Observed,
        backends: &HashSet<BackendId>,
        services: &HashSet<ServiceId>,
    ) {
        let removed = observed
            .backends
            .iter()
            .filter(|entry| entry.state != state::REMOVED && !backends.contains(&entry.id))
            .map(|entry| Action::RemoveBackend(entry.id));
        self.removals.extend(removed);
        let dropped = observed.names.keys().filter(|id| !services.contains(*id));
        self.removals
            .extend(dropped.copied().map(Action::DropService));
    }

    fn in_order(self) -> Vec<Action> {
        [
            self.names,
            self.backends,
            self.targets,
            self.tables,
            self.addresses,
            self.removals,
        ]
        .concat()
    }
}

fn limits(desired: &Desired) -> Result<(), PlanError> {
    let check = |what, count, limit| {
        if count > limit {
            Err(PlanError::TooMany { what, count, limit })
        } else {
            Ok(())
        }
    };
    let services = &desired.services;
    check("services", services.len(), MAX_SERVICES)?;
    check(
        "listen addresses",
        services.iter().map(|s| s.listen.len()).sum(),
        MAX_LISTEN,
    )?;
    // Index 0 is never given out.
    check(
        "backends",
        services.iter().map(|s| s.backends.len()).sum(),
        MAX_BACKENDS - 1,
    )?;
    for service in services {
        check(
            "backends in one service",
            service.backends.len(),
            MAX_MEMBERS,
        )?;
    }
    Ok(())
}

/// The keys of a service's listen addresses.
fn keys(service: &Service) -> impl Iterator<Item = ServiceKey> {
    let protocol = service.protocol;
    service
        .listen
        .iter()
        .map(move |listen| ServiceKey::new(addr::from_ip(listen.ip()), listen.port(), protocol))
}

struct Planner<'a> {
    observed: &'a Observed,
    busy: &'a dyn Fn(u32) -> bool,
    /// The names of all desired services.
    names: HashSet<&'a str>,
    /// The observed services by name.
    services: HashMap<&'a str, ServiceId>,
    taken_services: BTreeSet<ServiceId>,
    /// Entries of the `BACKENDS` map by identity, including those of removed backends.
    entries: HashMap<Identity, Vec<&'a abi::Backend>>,
    /// Indices that can be given out, the last one first. `None` until the first use.
    free: Option<Vec<u32>>,
    kept: HashSet<BackendId>,
    /// The kind of id that has run out, if one has.
    short_of: Option<PlanError>,
}

impl Planner<'_> {
    /// The id of a service, under its name or a former one; `None` when none is free.
    fn service_id(&mut self, service: &Service, names: &mut Vec<Action>) -> Option<ServiceId> {
        let name = &service.name;
        if let Some(id) = self.services.get(name.as_str()) {
            return Some(*id);
        }
        let gone = |name: &&String| !self.names.contains(name.as_str());
        let mut former = service.was.iter().filter(gone);
        if let Some(id) = former.find_map(|name| self.services.get(name.as_str()).copied()) {
            names.push(Action::NameService(id, name.clone()));
            return Some(id);
        }
        let mut ids = (0..MAX_SERVICES as u32).map(ServiceId);
        let Some(id) = ids.find(|id| !self.taken_services.contains(id)) else {
            self.short_of = Some(PlanError::NoFreeService);
            return None;
        };
        self.taken_services.insert(id);
        names.push(Action::NameService(id, name.clone()));
        Some(id)
    }

    /// Leaves the backends of a service as they are.
    fn keep_all(&mut self, service: ServiceId) {
        let there = self.observed.backends_of(service);
        self.kept.extend(there.map(|entry| entry.id));
    }

    /// Writes entries for the backends of a service, and returns the spec of its table. The spec
    /// has only the backends for which there are ids. Without any, it has half of the old backends.
    /// `None` leaves the old table in force.
    fn members(
        &mut self,
        service: &Service,
        id: ServiceId,
        steps: &mut Steps,
    ) -> Option<TableSpec> {
        let mut members = Vec::with_capacity(service.backends.len());
        for backend in &service.backends {
            let Some(entry) = self.entry(service, id, backend) else {
                continue;
            };
            self.kept.insert(entry.id);
            if self.observed.backends[entry.id.index() as usize] != entry {
                steps.backends.push(Action::PutBackend(entry));
            }
            steps.targets.extend(self.target(backend, entry.id));
            members.push(member(&entry));
        }
        if members.is_empty() && !service.backends.is_empty() {
            members = self.half(id)?;
        }
        Some(TableSpec::new(
            service.settings.head(id, &service.hash_name),
            members,
        ))
    }

    /// Keeps half of the backends of a service, so that the others make room for new ones. `None`
    /// if the service has fewer than two: it keeps them.
    fn half(&mut self, service: ServiceId) -> Option<Vec<(Member, BackendId)>> {
        let there: Vec<&abi::Backend> = self.observed.backends_of(service).collect();
        if there.len() < 2 {
            self.keep_all(service);
            return None;
        }
        let stay = &there[there.len() / 2..];
        self.kept.extend(stay.iter().map(|entry| entry.id));
        Some(stay.iter().map(|entry| member(entry)).collect())
    }

    /// The step that brings a backend's packet target up to date, if one is needed.
    fn target(&self, backend: &Backend, id: BackendId) -> Option<Action> {
        let known = self.observed.targets.get(&id);
        match &backend.packets {
            Some(packets) => {
                let target = targets::with_id(packets.target, id);
                (known != Some(&target)).then_some(Action::PutTarget(target))
            }
            None => known.map(|_| Action::DropTarget(id)),
        }
    }

    fn entry(
        &mut self,
        service: &Service,
        id: ServiceId,
        backend: &Backend,
    ) -> Option<abi::Backend> {
        let key = backend.address.key();
        let wanted = abi::Backend {
            addr: addr::from_ip(key.ip()),
            port: key.port(),
            protocol: service.protocol,
            state: backend.state,
            id: BackendId::NONE,
            service: id,
            weight: backend.table_weight,
            path: backend.route.path,
            pad: 0,
        };
        let present = self
            .same(&wanted)
            .find(|entry| entry.state != state::REMOVED);
        let id = match present.or_else(|| self.left(&wanted)) {
            Some(entry) => entry.id,
            None => self.free_id()?,
        };
        Some(abi::Backend { id, ..wanted })
    }

    /// The present and former entries of this backend.
    fn same(&self, wanted: &abi::Backend) -> impl Iterator<Item = &abi::Backend> {
        let same = self.entries.get(&identity(wanted));
        same.into_iter().flatten().copied()
    }

    /// The entry of this backend from before its removal, if connections of that time are still
    /// open. They belong to it: they are counted, and are closed when it drains. Entries of the
    /// packet paths do not count, as their connections have been told to end.
    fn left(&self, wanted: &abi::Backend) -> Option<&abi::Backend> {
        let whole = |path| matches!(path, path::SOCKET | path::PROXY);
        self.same(wanted).find(|entry| {
            entry.state == state::REMOVED
                && whole(entry.path)
                && whole(wanted.path)
                && (self.busy)(entry.id.index())
        })
    }

    /// An id that has never been given out. It has a new index if there is one, or else the index
    /// with the fewest uses. `None` if no index is free.
    fn free_id(&mut self) -> Option<BackendId> {
        let observed = self.observed;
        let generation = |index: &u32| {
            let entry = &observed.backends[*index as usize];
            (entry.id != BackendId::NONE).then(|| entry.id.generation())
        };
        let busy = self.busy;
        let free = self.free.get_or_insert_with(|| {
            let free = |index: &u32| {
                let entry = &observed.backends[*index as usize];
                let given_out = entry.id != BackendId::NONE;
                entry.state == state::REMOVED && !(given_out && busy(*index))
            };
            let mut free: Vec<u32> = (1..MAX_BACKENDS as u32).filter(free).collect();
            free.sort_by_key(generation);
            free.reverse();
            free
        });
        let Some(index) = free.pop() else {
            self.short_of = Some(PlanError::NoFreeId);
            return None;
        };
        let next = generation(&index).map_or(0, |last| last.wrapping_add(1));
        Some(BackendId::new(index as u16, next))
    }
}

/// The identity of a backend: service, address, port and protocol.
type Identity = (ServiceId, Addr, u16, u8);

fn identity(entry: &abi::Backend) -> Identity {
    (entry.service, entry.addr, entry.port, entry.protocol)
}

/// The entries that have been given out, in the order of their indices.
fn entries(observed: &Observed) -> HashMap<Identity, Vec<&abi::Backend>> {
    let mut entries: HashMap<_, Vec<_>> = HashMap::new();
    let given_out = observed.backends.iter();
    for entry in given_out.filter(|entry| entry.id != BackendId::NONE) {
        entries.entry(identity(entry)).or_default().push(entry);
    }
    entries
}

/// The entry of a backend in a table.
fn member(entry: &abi::Backend) -> (Member, BackendId) {
    let member = Member {
        addr: entry.addr,
        port: entry.port,
        weight: entry.weight,
    };
    (member, entry.id)
}

#[cfg(test)]
mod tests;
