//! From what is to what should be: the steps, in an order in which no connection meets a gap.
//!
//! A backend's entry is written before a table names it, a table before an address leads to it;
//! what goes is taken out the other way round.

use std::collections::{BTreeSet, HashMap, HashSet};

use lb_common::abi::{
    self, BackendId, MAX_BACKENDS, MAX_LISTEN, MAX_MEMBERS, MAX_SERVICES, ServiceId, ServiceKey,
    path, state,
};
use lb_common::addr;
use lb_common::maglev::Member;

use super::desired::{Backend, Desired, Service};
use super::observed::{Built, Observed, TableSpec};
use super::packets;
use crate::dataplane::Action;

/// Why there is no way to what should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More of something than the tables hold.
    #[error("{count} {what}, but there is room for {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are wanted.
        count: usize,
        /// How many fit.
        limit: usize,
    },
    /// The services that come and those that go do not fit in together.
    #[error("no service id is free: take services out first, then put others in")]
    NoFreeService,
    /// Every backend id is in use or still has open connections from its last owner.
    #[error("no backend id is free: the connections of removed backends still hold them")]
    NoFreeId,
}

/// The steps from `observed` to `desired`. `busy` tells whether connections of a removed backend
/// are still open at an index of the `BACKENDS` map: it is not given out again before they are
/// over.
pub fn plan(
    desired: &Desired,
    observed: &Observed,
    busy: &dyn Fn(u32) -> bool,
) -> Result<Vec<Action>, PlanError> {
    limits(desired)?;
    let mut planner = Planner {
        observed,
        busy,
        taken_services: observed.names.keys().copied().collect(),
        taken_backends: HashSet::new(),
        kept: HashSet::new(),
    };
    let mut names = Vec::new();
    let mut backends = Vec::new();
    let mut tables = Vec::new();
    let mut targets = Vec::new();
    let mut ids = HashMap::new();
    let mut listen: HashMap<ServiceKey, ServiceId> = HashMap::new();
    let mut services = HashSet::new();
    for service in &desired.services {
        let id = planner.service_id(&service.name, &mut names)?;
        services.insert(id);
        ids.insert(service.name.as_str(), id);
        let spec = planner.members(service, id, &mut backends, &mut targets)?;
        if observed
            .tables
            .get(&id)
            .is_none_or(|built| *built.spec() != spec)
        {
            tables.push(Action::PutTable(id, Built::new(spec)));
        }
        listen.extend(keys(service).map(|key| (key, id)));
    }
    let listened = listen
        .iter()
        .filter(|(key, id)| observed.listen.get(*key) != Some(*id))
        .map(|(key, id)| Action::Listen(*key, *id));
    let unlistened = observed
        .listen
        .keys()
        .filter(|key| !listen.contains_key(*key))
        .copied()
        .map(Action::Unlisten);
    let removed = observed
        .backends
        .iter()
        .filter(|entry| entry.state != state::REMOVED && !planner.kept.contains(&entry.id))
        .map(|entry| Action::RemoveBackend(entry.id));
    let dropped = observed
        .names
        .keys()
        .filter(|id| !services.contains(*id))
        .copied()
        .map(Action::DropService);
    let (known, forgotten) = vips(desired, observed, &ids);
    let tail: Vec<Action> = listened
        .chain(known)
        .chain(unlistened)
        .chain(forgotten)
        .chain(removed)
        .chain(dropped)
        .collect();
    Ok(names
        .into_iter()
        .chain(backends)
        .chain(targets)
        .chain(tables)
        .chain(tail)
        .collect())
}

/// The addresses that the packet paths come to know, and those that they forget.
fn vips(
    desired: &Desired,
    observed: &Observed,
    ids: &HashMap<&str, ServiceId>,
) -> (Vec<Action>, Vec<Action>) {
    let wanted = packets::vips(desired, ids);
    let known = wanted
        .iter()
        .filter(|(key, vip)| observed.vips.get(*key) != Some(*vip))
        .map(|(key, vip)| Action::PutVip(*key, *vip));
    let forgotten = observed
        .vips
        .keys()
        .filter(|key| !wanted.contains_key(*key))
        .map(|key| Action::DropVip(*key));
    (known.collect(), forgotten.collect())
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

/// The keys that lead to a service.
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
    taken_services: BTreeSet<ServiceId>,
    taken_backends: HashSet<u32>,
    kept: HashSet<BackendId>,
}

impl Planner<'_> {
    fn service_id(&mut self, name: &str, names: &mut Vec<Action>) -> Result<ServiceId, PlanError> {
        if let Some(id) = self.observed.service(name) {
            return Ok(id);
        }
        let mut ids = (0..MAX_SERVICES as u32).map(ServiceId);
        let id = ids
            .find(|id| !self.taken_services.contains(id))
            .ok_or(PlanError::NoFreeService)?;
        self.taken_services.insert(id);
        names.push(Action::NameService(id, name.to_owned()));
        Ok(id)
    }

    /// Entries for the backends of a service, and the spec of its table.
    fn members(
        &mut self,
        service: &Service,
        id: ServiceId,
        actions: &mut Vec<Action>,
        targets: &mut Vec<Action>,
    ) -> Result<TableSpec, PlanError> {
        let mut members = Vec::with_capacity(service.backends.len());
        for backend in &service.backends {
            let entry = self.entry(service, id, backend)?;
            self.kept.insert(entry.id);
            if self.observed.backends[entry.id.index() as usize] != entry {
                actions.push(Action::PutBackend(entry));
            }
            targets.extend(self.target(backend, entry.id));
            let member = Member {
                addr: entry.addr,
                port: entry.port,
                weight: entry.weight,
            };
            members.push((member, entry.id));
        }
        Ok(TableSpec::new(
            service.settings.head(id, &service.name),
            members,
        ))
    }

    /// What has to be done so that packets get to a backend as they should.
    fn target(&self, backend: &Backend, id: BackendId) -> Option<Action> {
        let known = self.observed.targets.get(&id);
        match &backend.packets {
            Some(packets) => {
                let target = packets::with_id(packets.target, id);
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
    ) -> Result<abi::Backend, PlanError> {
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
        let same = |entry: &&abi::Backend| {
            (entry.addr, entry.port, entry.protocol) == (wanted.addr, wanted.port, wanted.protocol)
        };
        let present = self.observed.backends_of(id).find(same);
        let id = match present.or_else(|| self.left(&wanted)) {
            Some(entry) => entry.id,
            None => self.free_id()?,
        };
        Ok(abi::Backend { id, ..wanted })
    }

    /// What was this backend before it was removed, if connections of then are still open: they are
    /// its own, to be counted and to be closed when it drains. (On the packet paths they have been
    /// told to end.)
    fn left(&self, wanted: &abi::Backend) -> Option<&abi::Backend> {
        let whole = |path| matches!(path, path::SOCKET | path::PROXY);
        self.observed.backends.iter().find(|entry| {
            entry.state == state::REMOVED
                && entry.id != BackendId::NONE
                && entry.service == wanted.service
                && (entry.addr, entry.port) == (wanted.addr, wanted.port)
                && entry.protocol == wanted.protocol
                && whole(entry.path)
                && whole(wanted.path)
                && (self.busy)(entry.id.index())
        })
    }

    /// An id that has never been given out: of a new index while there is one, else of the index
    /// that has been given out the least.
    fn free_id(&mut self) -> Result<BackendId, PlanError> {
        let free = |index: &u32| {
            let entry = &self.observed.backends[*index as usize];
            entry.state == state::REMOVED
                && !self.taken_backends.contains(index)
                && (entry.id == BackendId::NONE || !(self.busy)(*index))
        };
        let generation = |index: &u32| {
            let entry = &self.observed.backends[*index as usize];
            (entry.id != BackendId::NONE).then(|| entry.id.generation())
        };
        let index = (1..MAX_BACKENDS as u32)
            .filter(free)
            .min_by_key(generation)
            .ok_or(PlanError::NoFreeId)?;
        self.taken_backends.insert(index);
        let next = generation(&index).map_or(0, |last| last.wrapping_add(1));
        Ok(BackendId::new(index as u16, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::desired::tests::{Loopback, config};
    use crate::state::overlay::Overlay;

    const BASE: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n";

    fn desired(text: &str) -> Desired {
        let surroundings = Loopback { can_steer: true };
        Desired::new(&config(text), &Overlay::default(), [1, 2], 0, &surroundings)
    }

    /// Plans and notes all steps; returns them with what is then in force.
    fn step(observed: &Observed, text: &str) -> (Vec<Action>, Observed) {
        let actions = plan(&desired(text), observed, &|_| false).unwrap();
        let mut after = observed.clone();
        actions.iter().for_each(|action| after.note(action));
        (actions, after)
    }

    fn with(backends: &str) -> String {
        format!("{BASE}backends = [{backends}]")
    }

    fn kinds(actions: &[Action]) -> Vec<&'static str> {
        actions
            .iter()
            .map(|action| match action {
                Action::NameService(..) => "name",
                Action::PutBackend(_) => "backend",
                Action::PutTable(..) => "table",
                Action::Listen(..) => "listen",
                Action::Unlisten(_) => "unlisten",
                Action::RemoveBackend(_) => "remove",
                Action::PutTarget(_) => "target",
                Action::DropTarget(_) => "untarget",
                Action::PutVip(..) => "vip",
                Action::DropVip(_) => "unvip",
                Action::DropService(_) => "drop",
            })
            .collect()
    }

    #[test]
    fn entries_come_before_tables_and_tables_before_addresses() {
        let (actions, _) = step(
            &Observed::default(),
            &with("'127.0.0.1:5000', '127.0.0.1:5001'"),
        );
        assert_eq!(
            kinds(&actions),
            ["name", "backend", "backend", "table", "listen", "listen"]
        );
    }

    #[test]
    fn nothing_changes_nothing() {
        let (_, observed) = step(&Observed::default(), &with("'127.0.0.1:5000'"));
        let (actions, _) = step(&observed, &with("'127.0.0.1:5000'"));
        assert!(actions.is_empty(), "{actions:?}");
    }

    #[test]
    fn a_backend_leaves_the_table_before_its_entry_is_voided() {
        let (_, observed) = step(
            &Observed::default(),
            &with("'127.0.0.1:5000', '127.0.0.1:5001'"),
        );
        let (actions, after) = step(&observed, &with("'127.0.0.1:5001'"));
        assert_eq!(kinds(&actions), ["table", "remove"]);
        assert_eq!(after.backends_of(ServiceId(0)).count(), 1);
    }

    #[test]
    fn an_id_is_never_given_out_twice() {
        let mut observed = Observed::default();
        let mut seen = HashSet::new();
        for round in 0..5 {
            let (_, after) = step(&observed, &with("'127.0.0.1:5000'"));
            let id = after.backends_of(ServiceId(0)).next().unwrap().id;
            assert!(seen.insert(id), "round {round}: {id:?} again");
            observed = step(&after, &with("")).1;
        }
    }

    #[test]
    fn a_backend_that_is_back_is_itself_while_its_connections_are_open() {
        let (_, observed) = step(&Observed::default(), &with("'127.0.0.1:5000'"));
        let id = |observed: &Observed| observed.backends_of(ServiceId(0)).next().unwrap().id;
        let before = id(&observed);
        let (_, removed) = step(&observed, &with(""));
        let two = with("'127.0.0.1:4000', '127.0.0.1:5000'");
        let actions = plan(&desired(&two), &removed, &|index| index == before.index());
        let mut back = removed.clone();
        let actions = actions.unwrap();
        actions.iter().for_each(|action| back.note(action));
        let ids: Vec<_> = back
            .backends_of(ServiceId(0))
            .map(|b| (b.port, b.id))
            .collect();
        assert!(ids.contains(&(5000, before)), "{ids:?}");
        assert!(!ids.contains(&(4000, before)), "{ids:?}");
        // Nobody else gets there by that.
        let (_, other) = step(&removed, &with("'127.0.0.1:4000'"));
        assert_ne!(id(&other), before);
    }

    #[test]
    fn an_index_with_open_connections_is_not_given_out() {
        // All indices have been used once; only index 7 has no connection left.
        let mut observed = Observed::default();
        for index in 1..MAX_BACKENDS {
            observed.backends[index].id = BackendId::new(index as u16, 3);
        }
        let actions = plan(&desired(&with("'127.0.0.1:5000'")), &observed, &|index| {
            index != 7
        })
        .unwrap();
        let put = actions.iter().find_map(|action| match action {
            Action::PutBackend(backend) => Some(backend.id),
            _ => None,
        });
        assert_eq!(put, Some(BackendId::new(7, 4)));
        let error = plan(&desired(&with("'127.0.0.1:5000'")), &observed, &|_| true).unwrap_err();
        assert_eq!(error, PlanError::NoFreeId);
    }

    #[test]
    fn a_service_that_goes_takes_everything_with_it() {
        let (_, observed) = step(&Observed::default(), &with("'127.0.0.1:5000'"));
        let other =
            "[[service]]\nname = 'api'\nlisten = ['0.0.0.0:81']\nbackends = ['127.0.0.1:6000']";
        let (actions, after) = step(&observed, other);
        assert_eq!(
            kinds(&actions),
            [
                "name", "backend", "table", "listen", "unlisten", "unlisten", "remove", "drop"
            ]
        );
        assert_eq!(after.service("web"), None);
        assert_eq!(after.listen.len(), 1);
    }

    #[test]
    fn an_address_moves_to_another_service_in_one_step() {
        let (_, observed) = step(&Observed::default(), &with("'127.0.0.1:5000'"));
        let other = with("'127.0.0.1:5000'").replace("'web'", "'new'");
        let (actions, _) = step(&observed, &other);
        assert!(!kinds(&actions).contains(&"unlisten"), "{actions:?}");
    }

    #[test]
    fn another_weight_keeps_the_id() {
        let (_, observed) = step(&Observed::default(), &with("'127.0.0.1:5000'"));
        let heavier = with("{ address = '127.0.0.1:5000', weight = 5 }");
        let (actions, after) = step(&observed, &heavier);
        assert_eq!(kinds(&actions), ["backend", "table"]);
        let id = |observed: &Observed| observed.backends_of(ServiceId(0)).next().unwrap().id;
        assert_eq!(id(&observed), id(&after));
    }
}
