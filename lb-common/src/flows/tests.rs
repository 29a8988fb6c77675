//! One set and many, one caller at a time. Concurrent callers are tested in the agent, with tables in
//! shared memory.

use std::vec;
use std::vec::Vec;

use super::enter::KEPT;
use super::find::find;
use super::*;
use crate::abi::packet::{Ip, PacketSettings};
use crate::abi::protocol;
use crate::decide::simulation::Flows;

mod leftovers;
mod load;
mod model;
mod places;

/// A TCP connection that was reset by its client.
const RESET: u32 = state::RST;
/// One that both sides have closed.
const CLOSED: u32 = state::FIN | state::FIN << state::BACKEND;
/// When most of the tests begin.
const START_S: u32 = 1000;

/// `FLOWS4` or `FLOWS6`, and `NAT_PORTS`.
struct Table<const N: usize> {
    sets: Vec<FlowSet<N>>,
    ports: Vec<u32>,
    settings: PacketSettings,
}

impl<const N: usize> Table<N> {
    fn new(sets: u32) -> Self {
        let mut settings = PacketSettings {
            syn_s: 30,
            ..PacketSettings::default()
        };
        let tables = Flows::sized(sets, 1024);
        tables.describe(&mut settings);
        Self {
            sets: vec![FlowSet::EMPTY; sets as usize],
            ports: tables.ports,
            settings,
        }
    }

    fn home(&self, number: u32) -> Home {
        home::<N>(&self.settings, number)
    }

    /// Numbers of flows with a home in one half of set 0.
    fn of_half(&self, half: usize) -> impl Iterator<Item = u32> + use<N> {
        let settings = self.settings;
        (0..).filter(move |number| {
            let home = home::<N>(&settings, *number);
            home.set == 0 && home.half() == half
        })
    }

    fn enter_new(&mut self, new: &mut NewFlow, now_s: u32) -> Result<Entered, Refused> {
        let wanted = Wanted::new(&self.settings, new, now_s);
        let set = &mut self.sets[wanted.set() as usize];
        enter(set, &mut self.ports, &self.settings, &wanted, new)
    }

    fn enter(&mut self, number: u32, now_s: u32) -> Result<Entered, Refused> {
        self.enter_new(&mut flow::<N>(number), now_s)
    }

    /// Enters flows, one a second, and establishes the first of them.
    fn fill(&mut self, numbers: &[u32], established: usize) -> Vec<At> {
        let mut places = vec![];
        for (i, number) in numbers.iter().enumerate() {
            let entered = self.enter(*number, START_S + i as u32).unwrap();
            assert!(!entered.evicted, "flow {i} has pushed one out");
            if i < established {
                self.establish(&entered.at);
            }
            places.push(entered.at);
        }
        places
    }

    /// The flow of packets from `end`, if the client's port was kept.
    fn find(&self, number: u32, end: End) -> Option<At> {
        let new = flow::<N>(number);
        let protocol = new.key.protocol as u8;
        let words: [u32; N] = match end {
            End::Client => new.key.words(),
            End::Backend => new.out.reversed().words(),
        };
        let home = Home::of(&self.settings, &words, end, protocol);
        let set = &self.sets[home.set as usize];
        let (way, state) = find(set, &home, end, &words, protocol)?;
        let at = At::new::<N>(home.set, way, end, state);
        assert!(self.is_flow(&at, &new), "{number} has found another flow");
        Some(at)
    }

    /// The flow of packets from its backend, if its source port was given out.
    fn find_port(&self, new: &NewFlow) -> Option<At> {
        let (words, protocol) = (new.out.reversed().words::<N>(), new.out.protocol as u8);
        let owner = |place| self.ports.get(place as usize).copied();
        let set = |number| self.sets.get(number as usize);
        let (by, packet) = (By::Port, (&words, protocol));
        let found = locate::<N, FlowSet<N>, _>(&self.settings, by, packet, false, owner, set)?;
        Some(found.1)
    }

    fn is_there(&self, number: u32) -> bool {
        let client = self.find(number, End::Client);
        let backend = self.find(number, End::Backend);
        let place = |at: &At| (at.set, at.way, at.state);
        assert_eq!(client.as_ref().map(place), backend.as_ref().map(place));
        client.is_some()
    }

    /// Whether the entry at a place is this flow, as it was entered.
    fn is_flow(&self, at: &At, new: &NewFlow) -> bool {
        let entry = &self.sets[at.set as usize].entries[at.way()];
        let ends = [new.key.words(), new.out.reversed().words()];
        entry.ends == ends
            && entry.backend == new.backend
            && u32::from(entry.service) == new.service.0
            && u32::from(entry.protocol) == new.key.protocol
    }

    fn state(&self, at: &At) -> u32 {
        self.sets[at.set as usize].state(at.way())
    }

    /// Whether a bit of a state is set now.
    fn has(&self, at: &At, bit: u32) -> bool {
        self.state(at) & bit != 0
    }

    fn set(&mut self, at: &At) -> &mut FlowSet<N> {
        &mut self.sets[at.set as usize]
    }

    fn establish(&mut self, at: &At) -> Option<bool> {
        establish(self.set(at), at)
    }

    fn mark(&mut self, at: &At, bits: u32) {
        let set = &mut self.sets[at.set as usize];
        mark(set, &mut self.ports, at, bits, 0);
    }

    fn remove(&mut self, at: &At) -> bool {
        let set = &mut self.sets[at.set as usize];
        remove(set, &mut self.ports, &self.settings, at)
    }

    fn unstick(&mut self, at: &At) {
        let set = &mut self.sets[at.set as usize];
        unstick(set, &mut self.ports, &self.settings, at);
    }

    /// Flows of a half that are pinned, and those that would like to be in it and are not, as its
    /// counts have them. Those of all sets have to be right.
    fn counts(&self, set: usize, half: usize) -> (u32, u32) {
        for set in &self.sets {
            for half in [0, HALF] {
                let of = |half: usize, bit: u32| {
                    let ways = half..half + HALF;
                    ways.filter(|way| set.state(*way) & bit != 0).count() as u32
                };
                let pinned = of(half, state::PINNED);
                let right = pinned * ONE_PINNED + of(half ^ HALF, state::DISPLACED) * ONE_DISPLACED;
                assert_eq!(set.counts(half), right);
                assert!(pinned <= MOST_PINNED);
            }
        }
        let counts = self.sets[set].counts(half);
        (counts & 0xffff, counts >> 16)
    }

    /// Source ports that have an owner.
    fn ports_taken(&self) -> usize {
        self.ports.iter().filter(|place| **place != 0).count()
    }
}

/// A flow with its number in all of its fields.
fn flow<const N: usize>(number: u32) -> NewFlow {
    let client = number.wrapping_mul(0x9e37_79b1).to_be();
    let address = |word: u32| match N {
        3 => Ip::v4(word),
        _ => Ip([0x2001_0db8_u32.to_be(), 7, 0, word]),
    };
    let key = FlowKey {
        src: address(client),
        dst: address(0xc000_0201_u32.to_be()),
        sport_be: (1024 + number as u16 % 60_000).to_be(),
        dport_be: 80_u16.to_be(),
        protocol: u32::from(protocol::TCP),
    };
    NewFlow {
        key,
        out: FlowKey {
            dst: address(0x0a00_0001_u32.to_be()),
            dport_be: 8080_u16.to_be(),
            ..key
        },
        backend: BackendId(number),
        service: ServiceId(number & 0xffff),
        state: state::SEEN,
        next_seq: number,
        ports: PortRange::default(),
    }
}

/// The same, and it gets one of `span` source ports.
fn flow_given<const N: usize>(number: u32, span: u32) -> NewFlow {
    let mut new = flow::<N>(number);
    let base = 32_768;
    new.ports = PortRange {
        base,
        span,
        start: number % span,
    };
    new.out.src = new.key.dst;
    new
}

/// The home of a flow of [`flow`].
fn home<const N: usize>(settings: &PacketSettings, number: u32) -> Home {
    let key = flow::<N>(number).key;
    Home::of(settings, &key.words::<N>(), End::Client, protocol::TCP)
}

/// The entry found by a packet, as seen from the end that sent it.
fn read<const N: usize>(table: &Table<N>, at: &At) -> Flow {
    let set = &table.sets[at.set as usize];
    let mut flow = Flow::default();
    flow.read(*at, &set.entries[at.way()], &set.hops[at.way()]);
    flow
}

#[test]
fn both_ends_of_a_flow_that_keeps_its_port_find_the_one_entry() {
    fn found<const N: usize>() {
        let mut table = Table::<N>::new(4);
        let entered: Vec<_> = (0..8).map(|number| table.enter(number, START_S)).collect();
        for (number, entered) in (0..).zip(entered) {
            let (at, new) = (entered.unwrap().at, flow::<N>(number));
            for end in [End::Client, End::Backend] {
                let found = table.find(number, end).unwrap();
                assert_eq!((found.set, found.way, found.end()), (at.set, at.way, end));
                assert_eq!(usize::from(found.v6), usize::from(N == 9));
                let flow = read(&table, &found);
                let out = [new.out, new.key.reversed()];
                assert_eq!(flow.out, out[end as usize]);
                assert_eq!((flow.backend, flow.service), (new.backend, new.service));
            }
        }
        assert!(!table.is_there(8));
    }
    found::<3>();
    found::<9>();
}

#[test]
fn a_backend_finds_a_flow_by_the_source_port_that_was_given_out() {
    fn found<const N: usize>() {
        let mut table = Table::<N>::new(4);
        for number in 0..8 {
            let mut new = flow_given::<N>(number, 64);
            let at = table.enter_new(&mut new, START_S).unwrap().at;
            let port = u32::from(u16::from_be(new.out.sport_be));
            assert!((32_768..32_768 + 64).contains(&port), "port {port}");
            let found = table.find_port(&new).unwrap();
            assert_eq!((found.set, found.way), (at.set, at.way));
            assert_eq!(found.end(), End::Backend);
            assert!(table.is_flow(&found, &new) && found.state & state::GIVEN_OUT != 0);
            assert_eq!(read(&table, &found).out, new.key.reversed());
            assert_eq!(read(&table, &at).out, new.out);
        }
        assert_eq!(table.ports_taken(), 8);
    }
    found::<3>();
    found::<9>();
}

#[test]
fn flows_of_two_protocols_are_two() {
    let mut table = Table::<3>::new(1);
    let mut udp = flow::<3>(1);
    udp.key.protocol = u32::from(protocol::UDP);
    udp.out.protocol = udp.key.protocol;
    table.enter_new(&mut udp, START_S).unwrap();
    assert!(!table.is_there(1));
    table.enter(1, START_S).unwrap();
    assert!(table.is_there(1));
}

#[test]
fn a_flow_that_is_there_is_not_entered_again() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(9).collect();
    table.fill(&numbers[..8], 3);
    assert!(table.enter(numbers[8], START_S).unwrap().at.state & state::DISPLACED != 0);
    let before = table.sets.clone();
    for number in &numbers {
        assert_eq!(table.enter(*number, START_S), Err(Refused::There));
    }
    assert_eq!(table.sets, before);
}

#[test]
fn a_full_half_pushes_out_its_oldest_flow_that_is_not_pinned() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(HALF).take(14).collect();
    let places = table.fill(&numbers[..8], 2);
    for (i, number) in numbers[8..].iter().enumerate() {
        let entered = table.enter(*number, START_S + 20).unwrap();
        assert!(entered.evicted);
        assert_eq!(entered.at.way, places[2 + i].way, "the place of the oldest");
        assert!(!table.is_there(numbers[2 + i]) && table.is_there(*number));
        let stay = numbers[..2].iter().chain(&numbers[3 + i..8]);
        assert!(stay.into_iter().all(|number| table.is_there(*number)));
        assert_eq!(table.counts(0, HALF), (2, 0));
    }
}

#[test]
fn the_age_of_a_flow_is_that_of_its_clients_last_packet() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(9).collect();
    let places = table.fill(&numbers[..8], 0);
    table.sets[0].entries[places[0].way()].seen_s = [START_S + 9, 0];
    table.sets[0].entries[places[1].way()].seen_s[1] = START_S + 9;
    table.enter(numbers[8], START_S + 10).unwrap();
    assert!(table.is_there(numbers[0]) && !table.is_there(numbers[1]));
}

#[test]
fn one_place_of_a_half_is_never_pinned_so_that_a_new_flow_always_finds_one() {
    let mut table = Table::<9>::new(1);
    let mut pinned = vec![];
    for number in 0..400 {
        let at = table.enter(number, START_S + number).unwrap().at;
        if table.establish(&at).unwrap() {
            pinned.push(number);
        }
        let (here, there) = (table.counts(0, 0).0, table.counts(0, HALF).0);
        assert_eq!((here + there) as usize, pinned.len());
        assert!(table.is_there(number));
    }
    assert_eq!(pinned.len(), 14);
    assert!(pinned.iter().all(|number| table.is_there(*number)));
}

#[test]
fn what_finds_no_place_in_a_half_that_is_near_full_goes_to_the_other_and_is_found_there() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(10).collect();
    table.fill(&numbers[..8], 3);
    assert_eq!(table.counts(0, 0), (3, 0));
    let entered = [8, 9].map(|i| table.enter(numbers[i], START_S + 9).unwrap());
    for (i, entered) in entered.iter().enumerate() {
        assert!(!entered.evicted);
        assert!(entered.at.way() >= HALF && table.has(&entered.at, state::DISPLACED));
        assert!(table.is_there(numbers[8 + i]));
    }
    assert!(numbers.iter().all(|number| table.is_there(*number)));
    assert_eq!(table.counts(0, 0), (3, 2));
    assert_eq!(table.establish(&entered[0].at), Some(true));
    assert_eq!(table.counts(0, HALF), (1, 0));
    assert!(table.remove(&entered[0].at));
    assert_eq!(table.counts(0, 0), (3, 1));
    assert!(!table.is_there(numbers[8]) && table.is_there(numbers[9]));
    assert!(table.remove(&entered[1].at));
    assert_eq!(table.counts(0, 0), (3, 0));
    assert_eq!(table.counts(0, HALF), (0, 0));
}

#[test]
fn a_displaced_flow_that_is_pushed_out_is_not_looked_for_any_more() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(9).collect();
    table.fill(&numbers[..8], 3);
    table.enter(numbers[8], START_S - 1).unwrap();
    assert_eq!(table.counts(0, 0), (3, 1));
    let others: Vec<u32> = table.of_half(HALF).take(8).collect();
    table.fill(&others[..7], 0);
    assert!(table.enter(others[7], START_S + 9).unwrap().evicted);
    assert!(!table.is_there(numbers[8]));
    assert_eq!(table.counts(0, 0), (3, 0));
}

#[test]
fn the_place_of_a_flow_that_is_over_is_had_without_pushing_one_out() {
    for ends in [RESET, RESET << state::BACKEND, CLOSED] {
        let mut table = Table::<3>::new(1);
        let numbers: Vec<u32> = table.of_half(0).take(9).collect();
        let places = table.fill(&numbers[..8], 6);
        table.mark(&places[0], ends);
        let entered = table.enter(numbers[8], START_S + 9).unwrap();
        assert_eq!((entered.at.way, entered.evicted), (places[0].way, false));
        assert_eq!(table.counts(0, 0), (5, 0));
    }
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(10).collect();
    let places = table.fill(&numbers[..8], 0);
    let syn_s = table.settings.syn_s;
    let entered = table.enter(numbers[8], START_S + syn_s).unwrap();
    assert_eq!((entered.at.way, entered.evicted), (places[0].way, false));
    let entered = table.enter(numbers[9], START_S + syn_s).unwrap();
    assert_eq!((entered.at.way, entered.evicted), (places[1].way, true));
}

#[test]
fn a_source_port_is_one_flows_alone_until_that_is_removed() {
    let mut table = Table::<9>::new(16);
    let mut entered = vec![];
    let mut refused = 0;
    for number in 0..64 {
        let mut new = flow_given::<9>(number, 16);
        match table.enter_new(&mut new, START_S) {
            Ok(found) => entered.push((found.at, new)),
            Err(why) => {
                assert_eq!(why, Refused::NoPort);
                refused += 1;
            }
        }
        assert_eq!(table.ports_taken(), entered.len());
        for (at, new) in &entered {
            let found = table.find_port(new).unwrap();
            assert_eq!((found.set, found.way), (at.set, at.way));
        }
    }
    assert!(refused >= 48 && entered.len() >= 8, "{refused} refused");
    let last = entered.len();
    for (i, (at, _)) in entered.iter().enumerate() {
        assert!(table.remove(at) && !table.remove(at));
        assert_eq!(table.ports_taken(), last - 1 - i);
    }
    table.enter_new(&mut entered[0].1, START_S).unwrap();
}

#[test]
fn the_source_port_of_a_flow_that_is_pushed_out_is_given_back() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(9).collect();
    let mut news: Vec<NewFlow> = vec![];
    for (i, number) in numbers.iter().enumerate() {
        let mut new = flow_given::<3>(*number, 512);
        let entered = table.enter_new(&mut new, START_S + i as u32).unwrap();
        assert_eq!(entered.evicted, i == 8);
        news.push(new);
    }
    assert_eq!(table.ports_taken(), 8);
    assert!(table.find_port(&news[0]).is_none());
    assert!(news[1..].iter().all(|new| table.find_port(new).is_some()));
}

#[test]
fn a_flow_for_which_no_source_port_is_free_leaves_its_place_free() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(3).collect();
    let mut first = flow_given::<3>(numbers[0], 1);
    let at = table.enter_new(&mut first, START_S).unwrap().at;
    let mut second = flow_given::<3>(numbers[1], 1);
    let refused = table.enter_new(&mut second, START_S);
    assert_eq!(refused, Err(Refused::NoPort));
    let in_use = |table: &Table<3>| {
        let all = table.sets[0].entries.iter();
        all.filter(|entry| entry.state & !state::VERSION != 0)
            .count()
    };
    assert_eq!(in_use(&table), 1);
    assert_eq!(table.counts(0, 0), (0, 0));
    table.enter(numbers[2], START_S).unwrap();
    assert_eq!(in_use(&table), 2);
    assert!(table.remove(&at));
    table.enter_new(&mut second, START_S).unwrap();
    assert_eq!(table.find_port(&second).map(|at| at.set), Some(0));
}

#[test]
fn what_was_found_before_another_flow_got_the_place_is_nothing_any_more() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(9).collect();
    let places = table.fill(&numbers[..8], 0);
    let (removed, pushed_out) = (places[7], places[0]);
    assert!(table.remove(&removed));
    stays(&mut table, &removed);
    let at = table.enter(numbers[7], START_S + 9).unwrap().at;
    assert_eq!((at.set, at.way), (removed.set, removed.way));
    stays(&mut table, &removed);
    let at = table.enter(numbers[8], START_S + 9).unwrap().at;
    assert_eq!((at.set, at.way), (pushed_out.set, pushed_out.way));
    stays(&mut table, &pushed_out);
}

/// A stale find of a flow that has gone changes nothing.
fn stays<const N: usize>(table: &mut Table<N>, stale: &At) {
    let (sets, ports) = (table.sets.clone(), table.ports.clone());
    table.mark(stale, state::GIVEN_UP | RESET);
    assert_eq!(table.establish(stale), None);
    assert!(!lock(table.set(stale), stale));
    assert!(!table.remove(stale));
    assert!(table.sets == sets && table.ports == ports);
}

#[test]
fn a_flow_is_established_once() {
    let mut table = Table::<3>::new(1);
    let at = table.enter(1, START_S).unwrap().at;
    assert_eq!(table.establish(&at), Some(true));
    assert_eq!(table.establish(&at), None);
    assert!(table.has(&at, state::ESTABLISHED) && table.has(&at, state::PINNED));
    assert_eq!(table.counts(0, at.way() & HALF), (1, 0));
}

#[test]
fn a_connection_that_has_ended_is_not_pinned_any_more() {
    for ends in [RESET, RESET << state::BACKEND, CLOSED] {
        let mut table = Table::<3>::new(1);
        let at = table.enter(1, START_S).unwrap().at;
        table.establish(&at);
        table.mark(&at, state::FIN);
        assert!(table.has(&at, state::PINNED), "closed by one side only");
        for _ in 0..2 {
            table.mark(&at, ends);
            assert!(!table.has(&at, state::PINNED) && table.is_there(1));
            assert_eq!(table.counts(0, at.way() & HALF), (0, 0));
        }
        assert!(table.remove(&at));
        assert_eq!(table.counts(0, at.way() & HALF), (0, 0));
    }
}
