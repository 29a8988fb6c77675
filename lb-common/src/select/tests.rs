//! The choice, over tables in memory that are built as the agent builds them.

use super::*;
use crate::abi::{ServiceId, path, protocol};
use crate::hash::ClientHash;
use crate::maglev::{self, Member};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::vec;
use std::vec::Vec;

const SECOND: u64 = 1_000_000_000;
const WEB: ServiceId = ServiceId(3);
const KEY: [u64; 2] = [11, 22];

/// One service in memory, set up as the agent does it.
#[derive(Clone)]
struct Memory {
    head: ServiceHead,
    members: Vec<BackendId>,
    slots: Vec<BackendId>,
    backends: HashMap<u32, Backend>,
    affinity: HashMap<AffinityKey, Affinity>,
    now_ns: u64,
    active: HashMap<BackendId, u64>,
    /// Backends that do not listen.
    deaf: BTreeSet<BackendId>,
    /// Backends that were asked to take the connection, and how often.
    asked: Vec<BackendId>,
}

impl Tables for Memory {
    fn head(&self) -> &ServiceHead {
        &self.head
    }
    fn slot(&self, slot: u32) -> BackendId {
        self.slots[slot as usize]
    }
    fn member(&self, member: u32) -> BackendId {
        self.members
            .get(member as usize)
            .copied()
            .unwrap_or_default()
    }
    fn backend(&self, id: BackendId) -> Option<Backend> {
        self.backends.get(&id.index()).copied()
    }
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinity.get(key).copied()
    }
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
    fn active(&self, id: BackendId) -> u64 {
        self.active.get(&id).copied().unwrap_or_default()
    }
    fn active_total(&self) -> u64 {
        self.active.values().sum()
    }
    fn hand_over(&mut self, backend: &Backend) -> bool {
        self.asked.push(backend.id);
        !self.deaf.contains(&backend.id)
    }
}

impl Memory {
    /// A service of members with these weights, ids 1, 2, 3 and so on of generation 1.
    fn new(weights: &[u16]) -> Self {
        let (mut members, mut ids, mut backends) = (vec![], vec![], HashMap::new());
        for (nth, &weight) in (1u16..).zip(weights) {
            let id = BackendId::new(nth, 1);
            let addr = addr::from_v4((0x0a00_0000 + u32::from(nth)).to_be_bytes());
            members.push(Member {
                addr,
                port: 80,
                weight,
            });
            ids.push(id);
            let backend = Backend {
                addr,
                port: 80,
                protocol: protocol::TCP,
                state: state::UP,
                id,
                service: WEB,
                weight,
                path: path::SOCKET,
                pad: 0,
            };
            backends.insert(id.index(), backend);
        }
        let mut owners = vec![0; TABLE_SLOTS];
        maglev::fill(&members, &mut owners).unwrap();
        let id_of = |owner: &u32| ids.get(*owner as usize).copied().unwrap_or_default();
        Self {
            head: ServiceHead {
                clients: ClientHash::new(KEY, hash::salt("web")),
                hash_key: KEY,
                affinity_ns: 100 * SECOND,
                total_weight: weights.iter().map(|weight| u64::from(*weight)).sum(),
                id: WEB,
                members: weights.len() as u32,
                max_load_permille: 0,
                ipv4_prefix: 32,
                ipv6_prefix: 64,
                flags: 0,
            },
            slots: owners.iter().map(id_of).collect(),
            members: ids,
            backends,
            affinity: HashMap::new(),
            now_ns: 1000 * SECOND,
            active: HashMap::new(),
            deaf: BTreeSet::new(),
            asked: vec![],
        }
    }

    fn client(&self, nth: u32) -> Client {
        Client::new(&self.head, &addr::from_v4(nth.to_be_bytes()))
    }

    fn choose(&mut self, nth: u32) -> Option<Choice> {
        let client = self.client(nth);
        self.asked.clear();
        select(self, &client)
    }

    /// Lets the client be known to have been at `backend` `ago_ns` ago.
    fn remember(&mut self, nth: u32, backend: BackendId, ago_ns: u64) {
        let affinity = Affinity {
            seen_ns: self.now_ns - ago_ns,
            backend,
            pad: 0,
        };
        self.affinity.insert(self.client(nth).key, affinity);
    }

    fn backend_mut(&mut self, id: BackendId) -> &mut Backend {
        self.backends.get_mut(&id.index()).unwrap()
    }

    fn own(&self, nth: u32) -> BackendId {
        self.slot(self.client(nth).slot())
    }

    /// A member that does not own the slot of the client.
    fn other(&self, nth: u32) -> BackendId {
        let own = self.own(nth);
        self.members.iter().copied().find(|id| *id != own).unwrap()
    }
}

fn choice(backend: BackendId, reason: Reason) -> Option<Choice> {
    Some(Choice { backend, reason })
}

#[test]
fn an_unknown_client_goes_to_the_owner_of_its_slot() {
    let mut web = Memory::new(&[1, 2, 3]);
    for nth in 0..100 {
        assert_eq!(web.choose(nth), choice(web.own(nth), Reason::Slot));
    }
}

#[test]
fn affinity_outranks_the_slot() {
    let mut web = Memory::new(&[1, 1, 1]);
    for nth in 0..100 {
        let other = web.other(nth);
        web.remember(nth, other, 99 * SECOND);
        assert_eq!(web.choose(nth), choice(other, Reason::Affinity));
    }
}

#[test]
fn affinity_ends_with_its_timeout_and_is_off_with_none() {
    let mut web = Memory::new(&[1, 1, 1]);
    let (own, other) = (web.own(7), web.other(7));
    web.remember(7, other, 100 * SECOND - 1);
    assert_eq!(web.choose(7), choice(other, Reason::Affinity));
    web.remember(7, other, 100 * SECOND);
    assert_eq!(web.choose(7), choice(own, Reason::Slot));
    web.remember(7, other, 0);
    web.head.affinity_ns = 0;
    assert_eq!(web.choose(7), choice(own, Reason::Slot));
}

#[test]
fn an_affinity_from_the_future_counts_as_from_now() {
    let mut web = Memory::new(&[1, 1, 1]);
    let other = web.other(7);
    web.remember(7, other, 0);
    web.now_ns -= 5 * SECOND;
    assert_eq!(web.choose(7), choice(other, Reason::Affinity));
}

#[test]
fn affinity_to_a_backend_that_is_not_there_any_more_is_void() {
    let voids: [fn(&mut Backend); 5] = [
        |backend| backend.state = state::REMOVED,
        |backend| backend.state = state::DOWN,
        |backend| backend.state = 99,
        |backend| backend.id = BackendId::new(backend.id.index() as u16, 2),
        |backend| backend.service = ServiceId(4),
    ];
    for void in voids {
        let mut web = Memory::new(&[1, 1, 1]);
        let (own, other) = (web.own(7), web.other(7));
        web.remember(7, other, 0);
        void(web.backend_mut(other));
        assert_eq!(web.choose(7), choice(own, Reason::Slot));
    }
    let mut web = Memory::new(&[1, 1, 1]);
    let own = web.own(7);
    for nobody in [BackendId::NONE, BackendId::new(900, 1)] {
        web.remember(7, nobody, 0);
        assert_eq!(web.choose(7), choice(own, Reason::Slot));
    }
}

#[test]
fn an_empty_entry_with_id_0_is_no_backend() {
    let mut web = Memory::new(&[1]);
    let mut empty = *web.backend_mut(BackendId::new(1, 1));
    empty.id = BackendId::NONE;
    web.backends.insert(0, empty);
    web.remember(7, BackendId::NONE, 0);
    web.slots.fill(BackendId::NONE);
    web.members[0] = BackendId::NONE;
    assert_eq!(web.choose(7), None);
}

#[test]
fn a_draining_backend_keeps_its_clients_and_gets_no_new_ones() {
    let mut web = Memory::new(&[1, 1, 1]);
    let own = web.own(7);
    web.backend_mut(own).state = state::DRAINING;
    let next = web.choose(7).unwrap();
    assert_eq!(next.reason, Reason::Next);
    assert_ne!(next.backend, own);
    web.remember(7, own, 0);
    assert_eq!(web.choose(7), choice(own, Reason::Affinity));
}

#[test]
fn a_known_client_whose_backend_does_not_listen_goes_to_its_slot() {
    let mut web = Memory::new(&[1, 1, 1]);
    let (own, other) = (web.own(7), web.other(7));
    web.remember(7, other, 0);
    web.deaf.insert(other);
    assert_eq!(web.choose(7), choice(own, Reason::Slot));
}

#[test]
fn when_the_owner_of_the_slot_is_away_the_next_is_the_same_each_time() {
    for away in [state::DOWN, state::REMOVED, state::DRAINING] {
        let mut web = Memory::new(&[3, 1, 2, 1]);
        for nth in 0..50 {
            let own = web.own(nth);
            let before = *web.backend_mut(own);
            web.backend_mut(own).state = away;
            let next = web.choose(nth);
            assert_eq!(next.unwrap().reason, Reason::Next);
            assert_eq!(web.choose(nth), next);
            *web.backend_mut(own) = before;
            // One that does not listen is passed by alike.
            web.deaf.insert(own);
            assert_eq!(web.choose(nth), next);
            assert_eq!(web.asked.iter().filter(|id| **id == own).count(), 1);
            web.deaf.clear();
        }
    }
}

#[test]
fn the_clients_of_a_backend_that_is_away_are_spread_by_weight() {
    let mut web = Memory::new(&[3, 1, 2, 3]);
    let away = web.members[0];
    web.backend_mut(away).state = state::DOWN;
    let mut next: HashMap<BackendId, u32> = HashMap::new();
    let mut clients = 0;
    for nth in (0..60_000)
        .filter(|nth| Memory::own(&web, *nth) == away)
        .collect::<Vec<_>>()
    {
        *next.entry(web.choose(nth).unwrap().backend).or_default() += 1;
        clients += 1;
    }
    for (member, weight) in [(1, 1.0), (2, 2.0), (3, 3.0)] {
        let share = f64::from(next[&web.members[member]]) / f64::from(clients) * 6.0 / weight;
        assert!((share - 1.0).abs() < 0.1, "member {member}: {share}");
    }
}

#[test]
fn the_only_usable_one_of_64_members_is_found_by_every_client() {
    let mut web = Memory::new(&[1; WALK as usize]);
    for usable in web.members.clone() {
        web.deaf = web
            .members
            .iter()
            .copied()
            .filter(|id| *id != usable)
            .collect();
        for nth in 0..20 {
            assert_eq!(web.choose(nth).unwrap().backend, usable);
        }
    }
}

/// Beyond [`WALK`] members a client may be refused though one is usable: the price of a bound
/// on the code that the kernel has to run and verify.
#[test]
fn among_more_members_at_most_the_probes_and_the_walk_are_asked() {
    let mut web = Memory::new(&[1; 1000]);
    web.deaf = web.members.iter().copied().collect();
    for nth in 0..20 {
        assert_eq!(web.choose(nth), None);
        assert!(web.asked.len() <= (1 + PROBES + WALK) as usize);
        assert!(web.asked.len() > WALK as usize);
    }
}

#[test]
fn nobody_is_chosen_where_nobody_is() {
    assert_eq!(Memory::new(&[]).choose(7), None);
    let mut web = Memory::new(&[1, 1]);
    for id in web.members.clone() {
        web.backend_mut(id).state = state::DOWN;
    }
    assert_eq!(web.choose(7), None);
    assert!(web.asked.is_empty());
}

#[test]
fn a_full_backend_passes_new_clients_on_and_keeps_known_ones() {
    let mut web = Memory::new(&[1, 1, 1, 1]);
    web.head.max_load_permille = 1250;
    let own = web.own(7);
    for id in web.members.clone() {
        web.active.insert(id, 10);
    }
    // 1.25 * (total + 1) / 4 with the new connection: 10 + 10 + 10 + 13 gives 13.75.
    web.active.insert(own, 13);
    assert_eq!(web.choose(7), choice(own, Reason::Slot));
    // And 14 gives 14.06, of which 15 is over; 14 is not yet.
    web.active.insert(own, 14);
    assert_eq!(web.choose(7), choice(own, Reason::Slot));
    web.active.insert(own, 15);
    let next = web.choose(7).unwrap();
    assert_eq!(next.reason, Reason::Next);
    assert_ne!(next.backend, own);
    web.remember(7, own, 0);
    assert_eq!(web.choose(7), choice(own, Reason::Affinity));
}

#[test]
fn the_bound_goes_by_weight() {
    let mut web = Memory::new(&[3, 1]);
    web.head.max_load_permille = 1000;
    let (heavy, light) = (web.members[0], web.members[1]);
    web.active.insert(heavy, 30);
    web.active.insert(light, 11);
    let lights: Vec<u32> = (0..100).filter(|nth| web.own(*nth) == light).collect();
    for nth in lights {
        assert_eq!(web.choose(nth), choice(heavy, Reason::Next));
    }
}

#[test]
fn the_bound_is_waived_when_all_others_are_away_or_full() {
    let mut web = Memory::new(&[1, 1]);
    web.head.max_load_permille = 1000;
    let (own, other) = (web.own(7), web.other(7));
    web.active.insert(own, 50);
    web.deaf.insert(other);
    assert_eq!(web.choose(7), choice(own, Reason::Slot));
}

#[test]
fn two_services_spread_the_same_clients_differently() {
    let web = Memory::new(&[1; 10]);
    let mut api = web.clone();
    api.head.clients = ClientHash::new(KEY, hash::salt("api"));
    assert_independent(&web, &api);
}

/// Without the key, one agent's choices do not reveal the backend that another chooses for a client.
#[test]
fn two_keys_give_choices_that_have_nothing_to_do_with_each_other() {
    let web = Memory::new(&[1; 10]);
    for key in [[11, 23], [10, 22], [22, 11]] {
        let mut other = web.clone();
        other.head.clients = ClientHash::new(key, hash::salt("web"));
        assert_independent(&web, &other);
    }
}

/// Checks by chi-squared that a client's backend in `a` says nothing about `b`.
fn assert_independent(a: &Memory, b: &Memory) {
    let (mut cells, clients) = ([[0u32; 10]; 10], 100_000);
    for nth in 0..clients {
        let place = |web: &Memory| web.own(nth).index() as usize - 1;
        cells[place(a)][place(b)] += 1;
    }
    let total = |of: &dyn Fn(usize) -> u32| (0..10).map(of).sum::<u32>();
    let mut chi_squared = 0.0;
    for (row, column) in (0..100).map(|cell| (cell / 10, cell % 10)) {
        let (in_row, in_column) = (total(&|n| cells[row][n]), total(&|n| cells[n][column]));
        let expected = f64::from(in_row) * f64::from(in_column) / f64::from(clients);
        chi_squared += (f64::from(cells[row][column]) - expected).powi(2) / expected;
    }
    // 81 degrees of freedom: above 140 once in 20,000 times, and the inputs are fixed.
    assert!(chi_squared < 140.0, "{chi_squared}");
}

#[test]
fn clients_of_one_prefix_share_a_choice() {
    let web = Memory::new(&[1; 5]);
    let client = |text: &str| Client::new(&web.head, &addr::from_ip(text.parse().unwrap()));
    assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:0:0:1"));
    assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
    assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_order_has_every_member_once_and_the_slots_owner_first(
        weights in prop::collection::vec(1u16..=9, 1..=100), nth: u32,
    ) {
        let web = Memory::new(&weights);
        let order = order(&web, &web.client(nth));
        prop_assert_eq!(order[0], web.own(nth));
        let distinct: BTreeSet<_> = order.iter().copied().collect();
        prop_assert_eq!(distinct.len(), order.len());
        prop_assert_eq!(distinct, web.members.iter().copied().collect());
    }

    #[test]
    fn connections_go_to_the_first_of_the_order_that_can_take_them(
        weights in prop::collection::vec(1u16..=9, 1..=60), nth: u32, deaf: Vec<prop::sample::Index>,
    ) {
        let mut web = Memory::new(&weights);
        web.deaf = deaf.iter().map(|index| web.members[index.index(weights.len())]).collect();
        let order = order(&web, &web.client(nth));
        let first = order.iter().copied().find(|id| !web.deaf.contains(id));
        prop_assert_eq!(web.choose(nth).map(|choice| choice.backend), first);
    }

    #[test]
    fn the_largest_loads_do_not_overflow(active in 0u64..1 << 28, weight in 1u16..) {
        let mut web = Memory::new(&[weight, 1]);
        web.head.max_load_permille = 100_000;
        web.head.total_weight = 1024 * 65_535;
        web.active.insert(web.members[0], active);
        prop_assert!(web.choose(7).is_some());
    }
}
