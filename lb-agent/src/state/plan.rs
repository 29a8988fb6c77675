//! From what is to what should be: the steps, in an order in which no connection meets a gap.
//!
//! A backend's entry is written before a table names it, a table before an address leads to it;
//! what goes is taken out the other way round.

use std::collections::{BTreeSet, HashMap, HashSet};

use lb_common::abi::packet::{Vip, VipKey};
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
///
/// Where there are not ids enough for the old and the new beside each other, some of the old make room
/// for some of the new, and so on.
///
/// # Errors
/// When there is more than the tables hold, or no id for it.
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

/// Steps that lead as far as ids go, and free others.
struct Round {
    actions: Vec<Action>,
    /// Whether they lead all the way.
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
        taken_services: observed.names.keys().copied().collect(),
        taken_backends: HashSet::new(),
        kept: HashSet::new(),
        short_of: None,
    };
    let mut steps = Steps::default();
    let mut ids = HashMap::new();
    let mut listen: HashMap<ServiceKey, ServiceId> = HashMap::new();
    let mut services = HashSet::new();
    for service in &desired.services {
        let Some(id) = planner.service_id(&service.name, &mut steps.names) else {
            // Whoever has its addresses until now keeps them.
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
    steps.vips(observed, &packets::vips(desired, &ids), forgets);
    steps.removals(observed, &planner.kept, &services);
    let actions = steps.in_order();
    match planner.short_of {
        Some(error) if actions.is_empty() => Err(error),
        _ => Ok(Round { actions, whole }),
    }
}

/// Steps of each kind.
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
    /// Has the addresses lead to the services of `listen`, and no others.
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

    /// The addresses that the packet paths come to know, and those that they forget if they may.
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

    /// Takes out backends and services that are not among those.
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
    /// Of what there are not ids enough.
    short_of: Option<PlanError>,
}

impl Planner<'_> {
    /// The id of a service; `None` when none is free.
    fn service_id(&mut self, name: &str, names: &mut Vec<Action>) -> Option<ServiceId> {
        if let Some(id) = self.observed.service(name) {
            return Some(id);
        }
        let mut ids = (0..MAX_SERVICES as u32).map(ServiceId);
        let Some(id) = ids.find(|id| !self.taken_services.contains(id)) else {
            self.short_of = Some(PlanError::NoFreeService);
            return None;
        };
        self.taken_services.insert(id);
        names.push(Action::NameService(id, name.to_owned()));
        Some(id)
    }

    /// Leaves the backends of a service as they are.
    fn keep_all(&mut self, service: ServiceId) {
        let there = self.observed.backends_of(service);
        self.kept.extend(there.map(|entry| entry.id));
    }

    /// Entries for the backends of a service, and the spec of its table, which has those for which there
    /// are ids. `None` when that would be none, and those of before stay.
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
            service.settings.head(id, &service.name),
            members,
        ))
    }

    /// Half of the backends that a service has: the others make room for new ones. `None`, and all are
    /// kept, when there is but one.
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
        let same = |entry: &&abi::Backend| {
            (entry.addr, entry.port, entry.protocol) == (wanted.addr, wanted.port, wanted.protocol)
        };
        let present = self.observed.backends_of(id).find(same);
        let id = match present.or_else(|| self.left(&wanted)) {
            Some(entry) => entry.id,
            None => self.free_id()?,
        };
        Some(abi::Backend { id, ..wanted })
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
    /// that has been given out the least. `None` when no index is free.
    fn free_id(&mut self) -> Option<BackendId> {
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
        let Some(index) = (1..MAX_BACKENDS as u32).filter(free).min_by_key(generation) else {
            self.short_of = Some(PlanError::NoFreeId);
            return None;
        };
        self.taken_backends.insert(index);
        let next = generation(&index).map_or(0, |last| last.wrapping_add(1));
        Some(BackendId::new(index as u16, next))
    }
}

/// What stands for a backend in a table.
fn member(entry: &abi::Backend) -> (Member, BackendId) {
    let member = Member {
        addr: entry.addr,
        port: entry.port,
        weight: entry.weight,
    };
    (member, entry.id)
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

    /// Carries out a plan. No table that was there is ever empty, and no address leads nowhere.
    fn carry_out(observed: &mut Observed, text: &str) {
        let addresses = observed.listen.len();
        for action in plan(&desired(text), observed, &|_| false).unwrap() {
            if let Action::PutBackend(entry) = &action {
                let there = &observed.backends[entry.id.index() as usize];
                assert_eq!(
                    there.state,
                    state::REMOVED,
                    "{entry:?} in the place of {there:?}"
                );
            }
            observed.note(&action);
            if let Action::PutTable(_, built) = &action {
                assert!(built.spec().head.members > 0);
            }
            assert!(observed.listen.len() >= addresses);
            let named = |id: &ServiceId| observed.names.contains_key(id);
            assert!(observed.listen.values().all(named), "{action:?}");
        }
    }

    /// Services with so many backends each, on ports from `first` on.
    fn full(first: u16, sizes: &[u16]) -> String {
        let mut text = String::new();
        let mut port = first;
        for (n, size) in sizes.iter().enumerate() {
            let backends: Vec<String> = (port..port + size)
                .map(|port| format!("'127.0.0.1:{port}'"))
                .collect();
            port += size;
            text += &format!(
                "[[service]]\nname = 's{n}'\nlisten = ['0.0.0.0:{}']\nbackends = [{}]\n",
                80 + n,
                backends.join(", ")
            );
        }
        text
    }

    #[test]
    fn all_backends_are_replaced_although_there_are_not_ids_for_twice_as_many() {
        for sizes in [&[700, 700, 700][..], &[1023, 1024, 1024, 1024]] {
            let mut observed = Observed::default();
            carry_out(&mut observed, &full(10_000, sizes));
            carry_out(&mut observed, &full(20_000, sizes));
            let ports: HashSet<u16> = (0..sizes.len() as u32)
                .flat_map(|id| observed.backends_of(ServiceId(id)))
                .map(|entry| entry.port)
                .collect();
            assert_eq!(
                ports.len(),
                sizes.iter().map(|s| usize::from(*s)).sum::<usize>()
            );
            assert!(ports.iter().all(|port| *port >= 20_000));
        }
    }

    #[test]
    fn most_services_are_renamed_in_one_go() {
        let named = |prefix: &str| -> String {
            let service = |n: u32| {
                format!(
                    "[[service]]\nname = '{prefix}{n}'\nlisten = ['0.0.0.0:{}']\n\
                     backends = ['127.0.0.1:{}']\n",
                    1000 + n,
                    5000 + n
                )
            };
            (0..140).map(service).collect()
        };
        let mut observed = Observed::default();
        carry_out(&mut observed, &named("old"));
        carry_out(&mut observed, &named("new"));
        assert_eq!(observed.names.len(), 140);
        assert!(observed.names.values().all(|name| name.starts_with("new")));
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
