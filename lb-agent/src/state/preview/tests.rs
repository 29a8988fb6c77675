//! Compares two configurations, and counts the clients that would move between them.

use lb_common::addr;

use super::*;
use crate::state::compose::tests::{Loopback, config};
use crate::state::overlay::Overlay;
use crate::state::plan::plan;

const BASE: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n";
const TWO: &str = "backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

struct World {
    desired: Desired,
    observed: Observed,
}

impl World {
    fn picture(&self) -> Picture<'_> {
        Picture {
            desired: &self.desired,
            observed: &self.observed,
        }
    }
}

fn world(before: Option<&World>, text: &str) -> World {
    let surroundings = Loopback { can_steer: true };
    let desired = Desired::new(&config(text), &Overlay::default(), [1, 2], 0, &surroundings);
    let mut observed = before.map_or_else(Observed::default, |world| world.observed.clone());
    for action in plan(&desired, &observed, &|_| false).unwrap() {
        observed.note(&action);
    }
    World { desired, observed }
}

/// A hundred clients, each on the backend of its slot, seen a second ago.
fn known(world: &World) -> Vec<Known> {
    let id = world.observed.service("web").unwrap();
    let table = world.observed.tables[&id].table();
    let client = |n: u8| {
        let client = Client::new(&table.head, &addr::from_ip([10, 0, 0, n].into()));
        let affinity = Affinity {
            seen_ns: 0,
            backend: table.slots[client.slot() as usize],
            pad: 0,
        };
        (client.key, affinity)
    };
    (1..=100).map(client).collect()
}

/// The preview of the step from one text to the other. Each backend has ten connections.
fn step(before: &str, after: &str) -> Preview {
    let before = world(None, before);
    let after = world(Some(&before), after);
    let backends = before.observed.backends.iter();
    let open = backends.map(|entry| (entry.id, 10)).collect();
    let present = Present::new(known(&before), open, 1_000_000_000);
    preview(before.picture(), after.picture(), &present)
}

#[test]
fn the_same_again_changes_nothing() {
    let text = format!("{BASE}{TWO}");
    let preview = step(&text, &text);
    assert_eq!((preview.services.len(), preview.moved), (0, 0.0));
}

#[test]
fn one_backend_more_moves_slots_but_nobody_who_is_known() {
    let three = "backends = ['127.0.0.1:5000', '127.0.0.1:5001', '127.0.0.1:5002']";
    let preview = step(&format!("{BASE}{TWO}"), &format!("{BASE}{three}"));
    let [web] = &preview.services[..] else {
        panic!("{preview:?}")
    };
    assert!(
        (0.3..0.37).contains(&web.slots_moved),
        "{}",
        web.slots_moved
    );
    assert_eq!(web.clients, Moved { moved: 0, of: 100 });
    assert_eq!(web.connections, Moved { moved: 0, of: 20 });
    assert_eq!(preview.moved, 0.0);
    let changes: Vec<Change> = web.backends.iter().map(|b| b.change).collect();
    assert_eq!(changes, [Change::Changed, Change::Changed, Change::Added]);
    assert!((web.backends[2].share_after - 1.0 / 3.0).abs() < 0.01);
}

#[test]
fn a_backend_that_goes_moves_its_clients_and_connections() {
    let preview = step(
        &format!("{BASE}{TWO}"),
        &format!("{BASE}backends = ['127.0.0.1:5000']"),
    );
    let web = &preview.services[0];
    assert!((30..70).contains(&web.clients.moved), "{:?}", web.clients);
    assert_eq!(web.connections, Moved { moved: 10, of: 20 });
    assert!(preview.moved >= 0.5, "{}", preview.moved);
    let gone = web.backends.last().unwrap();
    assert_eq!((gone.change, gone.connections), (Change::Removed, 10));
}

#[test]
fn without_affinity_the_slots_decide() {
    let none = "affinity = { timeout = '0s' }\n";
    let three = "backends = ['127.0.0.1:5000', '127.0.0.1:5001', '127.0.0.1:5002']";
    let preview = step(
        &format!("{BASE}{none}{TWO}"),
        &format!("{BASE}{none}{three}"),
    );
    assert_eq!(
        preview.services[0].clients,
        Moved::default(),
        "nobody is remembered"
    );
    assert!((0.3..0.37).contains(&preview.moved), "{}", preview.moved);
}

#[test]
fn settings_that_make_clients_forgotten_leave_them_to_their_slots() {
    let heavier = "backends = ['127.0.0.1:5000', { address = '127.0.0.1:5001', weight = 3 }]";
    let short = "affinity = { timeout = '1s' }\n";
    let preview = step(&format!("{BASE}{TWO}"), &format!("{BASE}{short}{heavier}"));
    let web = &preview.services[0];
    assert_eq!(web.settings, ["affinity: 3h -> 1s"]);
    let changed = web
        .backends
        .iter()
        .find(|b| !b.settings.is_empty())
        .unwrap();
    assert_eq!(changed.settings, ["weight 1 -> 3"]);
    // A quarter of the slots has changed hands.
    assert!((10..45).contains(&web.clients.moved), "{:?}", web.clients);
}

#[test]
fn services_and_addresses_that_come_and_go_are_named() {
    let other = "[[service]]\nname = 'api'\nlisten = ['0.0.0.0:81']\nbackends = ['127.0.0.1:6000']";
    let moved = format!("{}{TWO}", BASE.replace(":80", ":82"));
    let preview = step(&format!("{BASE}{TWO}"), &format!("{moved}{other}"));
    let [web, api] = &preview.services[..] else {
        panic!("{preview:?}")
    };
    assert_eq!(web.listen_added, ["0.0.0.0:82".parse().unwrap()]);
    assert_eq!(web.listen_removed, ["0.0.0.0:80".parse().unwrap()]);
    assert_eq!((api.name.as_str(), api.change), ("api", Change::Added));
    let preview = step(&format!("{BASE}{TWO}"), other);
    let web = &preview.services[1];
    assert_eq!(
        (web.change, web.clients),
        (
            Change::Removed,
            Moved {
                moved: 100,
                of: 100
            }
        )
    );
    assert_eq!(preview.moved, 1.0);
}

#[test]
fn rename_moves_nobody_and_is_told() {
    let shop = BASE.replace("name = 'web'", "name = 'shop'\nwas = 'web'");
    let preview = step(&format!("{BASE}{TWO}"), &format!("{shop}{TWO}"));
    let [shop] = &preview.services[..] else {
        panic!("{preview:?}")
    };
    assert_eq!(
        (shop.name.as_str(), shop.was.as_deref()),
        ("shop", Some("web"))
    );
    assert_eq!(shop.clients, Moved { moved: 0, of: 100 });
    assert_eq!(shop.connections, Moved { moved: 0, of: 20 });
    assert_eq!((shop.slots_moved, preview.moved), (0.0, 0.0));
    assert_eq!(preview.notes, ["web is shop from now on"]);
    // Without `was`, all clients begin anew, and the note gives the remedy.
    let shop = BASE.replace("name = 'web'", "name = 'shop'");
    let preview = step(&format!("{BASE}{TWO}"), &format!("{shop}{TWO}"));
    assert_eq!(preview.moved, 1.0);
    assert!(
        preview.notes[0].contains("write was = \"web\""),
        "{preview:?}"
    );
}
