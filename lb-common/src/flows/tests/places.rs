//! Which place a flow gets, and for how long.

use super::load::{FLOWS, unlucky};
use super::*;

#[test]
fn a_flow_has_its_home_if_that_is_free() {
    let mut table = Table::<3>::new(64);
    for number in 0..64 {
        let home = table.home(number);
        let free = !is_there(table.sets[home.set as usize].state(home.way));
        let at = table.enter(number, START_S).unwrap().at;
        assert!(!free || at.way() == home.way, "{home:?} is free, {at:?}");
    }
}

#[test]
fn what_is_over_gives_its_place_before_what_is_older_and_is_not_over() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(9).collect();
    let places = table.fill(&numbers[..8], 0);
    table.mark(&places[7], RESET);
    let entered = table.enter(numbers[8], START_S + 9).unwrap();
    assert!(!entered.evicted, "{} pushed out", entered.at.way);
    assert!(table.is_there(numbers[0]) && !table.is_there(numbers[7]));
}

#[test]
fn a_half_open_flow_that_is_over_goes_before_an_established_one_that_is_not_pinned() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(10).collect();
    // Seven are pinned, the first of all is not.
    let places = table.fill(&numbers[..8], 0);
    for at in places[1..].iter().chain(&places[..1]) {
        table.establish(at);
    }
    let others: Vec<u32> = table.of_half(HALF).take(8).collect();
    table.fill(&others, 8);
    assert!(table.remove(&places[7]));
    let half_open = table.enter(numbers[8], START_S + 9).unwrap();
    let now_s = START_S + 9 + table.settings.syn_s;
    let entered = table.enter(numbers[9], now_s).unwrap();
    assert_eq!((entered.at.way, entered.evicted), (half_open.at.way, false));
    assert!(table.is_there(numbers[0]));
}

#[test]
fn a_connection_that_ended_before_it_was_established_is_not_pinned() {
    let mut table = Table::<3>::new(1);
    let at = table.enter(1, START_S).unwrap().at;
    table.mark(&at, CLOSED);
    table.establish(&at);
    assert!(!table.has(&at, state::PINNED));
    assert_eq!(table.counts(0, at.way() & HALF), (0, 0));
}

#[test]
fn an_entry_that_is_a_flows_again_keeps_its_source_port_when_it_is_mended_too_late() {
    let mut table = Table::<3>::new(1);
    let mut new = flow_given::<3>(1, 64);
    let at = table.enter_new(&mut new, START_S).unwrap().at;
    // As it was a moment before that.
    let state = (at.state & state::VERSION) | state::BUSY;
    table.unstick(&At { state, ..at });
    assert!(table.find_port(&new).is_some());
}

#[test]
fn flows_of_one_address_with_ports_in_a_row_find_room_whatever_the_key() {
    let clients = |number| (0x0a00_0001, 1024 + number as u16);
    let lost = (1..=40).map(|key| (key, unlucky::<3>(key, clients)));
    let lost: Vec<_> = lost.filter(|(_, lost)| lost.0 * 50 > FLOWS).collect();
    assert!(
        lost.is_empty(),
        "of {FLOWS}, by key: (not pinned, pushed out): {lost:?}"
    );
}

/// A flow of the same client's port to another address of the service, and to the same backend.
fn twin(number: u32) -> NewFlow {
    let mut new = flow::<3>(number);
    new.key.dst = Ip::v4(0xc000_0202_u32.to_be());
    new
}

#[test]
fn of_two_flows_that_would_be_one_to_the_backend_the_second_waits_for_the_end_of_the_first() {
    for over in [RESET, CLOSED, state::GIVEN_UP] {
        let mut table = Table::<3>::new(1);
        let first = table.enter(1, START_S).unwrap().at;
        table.establish(&first);
        let second = table.enter_new(&mut twin(1), START_S);
        assert_eq!(second, Err(Refused::NoPort));
        assert!(table.is_there(1));
        table.mark(&first, over);
        let second = table.enter_new(&mut twin(1), START_S);
        if over == state::GIVEN_UP {
            // The agent has yet to take it out: its ends are being told.
            assert_eq!(second, Err(Refused::NoRoom));
            assert!(table.remove(&first));
            assert!(table.enter_new(&mut twin(1), START_S).is_ok());
        } else {
            assert_eq!(second.unwrap().at.way, first.way);
        }
        assert_eq!(table.find(1, End::Client), None);
    }
}

#[test]
fn two_flows_of_one_port_whose_source_ports_are_given_out_are_two() {
    let mut table = Table::<3>::new(1);
    let mut first = flow_given::<3>(1, 64);
    let mut second = flow_given::<3>(1, 64);
    second.key.dst = twin(1).key.dst;
    let here = table.enter_new(&mut first, START_S).unwrap().at;
    let there = table.enter_new(&mut second, START_S).unwrap().at;
    assert_ne!(here.way, there.way);
    assert_ne!(first.out.sport_be, second.out.sport_be);
}
