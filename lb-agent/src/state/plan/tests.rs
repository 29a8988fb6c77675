//! The order of steps, the choice of ids, and plans with too few ids for all backends at once.

use super::*;
use crate::state::compose::tests::{Loopback, config};
use crate::state::overlay::Overlay;

const BASE: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n";

fn desired(text: &str) -> Desired {
    let surroundings = Loopback { can_steer: true };
    Desired::new(&config(text), &Overlay::default(), [1, 2], 0, &surroundings)
}

/// Plans a step and records all its actions. Returns them with the state that is then in force.
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
fn a_first_table_is_known_ahead_and_a_later_one_is_not() {
    let first = with("'127.0.0.1:5000'");
    let (_, empty) = step(&Observed::default(), BASE);
    for observed in [Observed::default(), empty] {
        let (actions, after) = step(&observed, &first);
        let ahead = observed.with_first_tables(&actions).unwrap();
        assert_eq!(ahead.listen, after.listen);
        assert_eq!(ahead.tables[&ServiceId(0)].spec().members.len(), 1);
        let (actions, _) = step(&after, &with("'127.0.0.1:5001'"));
        assert!(after.with_first_tables(&actions).is_none());
    }
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
    // No other backend gets an old id in this way.
    let (_, other) = step(&removed, &with("'127.0.0.1:4000'"));
    assert_ne!(id(&other), before);
}

#[test]
fn an_index_with_open_connections_is_not_given_out() {
    // All indices have been used once. Only index 7 has no open connection left.
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

/// Carries out a plan. No existing table may become empty, and no address may lead to a missing
/// service.
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

/// Services with these numbers of backends each, on ports from `first` on.
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
    let other = "[[service]]\nname = 'api'\nlisten = ['0.0.0.0:81']\nbackends = ['127.0.0.1:6000']";
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

#[test]
fn renamed_service_keeps_its_id_and_backends_and_nothing_is_taken_out() {
    let (_, observed) = step(&Observed::default(), &with("'127.0.0.1:5000'"));
    let before = observed
        .backends_of(ServiceId(0))
        .copied()
        .collect::<Vec<_>>();
    let renamed = with("'127.0.0.1:5000'").replace("name = 'web'", "name = 'shop'\nwas = 'web'");
    let (actions, after) = step(&observed, &renamed);
    assert_eq!(kinds(&actions), ["name"], "not even the table changes");
    assert_eq!(after.names[&ServiceId(0)], "shop");
    let entries: Vec<_> = after.backends_of(ServiceId(0)).copied().collect();
    assert_eq!(entries, before);
    // If another service has the former name, the renamed one is a new service.
    let both = format!("{renamed}\n[[service]]\nname = 'web'\nlisten = ['0.0.0.0:81']\n");
    let mut wanted = desired(&both.replace("was = 'web'", ""));
    wanted.services[0].was.push("web".to_owned());
    let actions = plan(&wanted, &observed, &|_| false).unwrap();
    let named = |action: &Action| matches!(action, Action::NameService(ServiceId(1), name) if name == "shop");
    assert!(actions.iter().any(named), "{actions:?}");
}
