//! Locks, and entries left by a CPU or an agent that did not finish.

use super::*;

#[test]
fn a_locked_flow_is_neither_given_away_nor_removed() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(9).collect();
    let places = table.fill(&numbers[..8], 0);
    let locked = places[0];
    assert!(lock(table.set(&locked), &locked));
    assert!(!lock(table.set(&locked), &locked), "twice");
    assert!(!table.remove(&locked));
    let entered = table.enter(numbers[8], START_S + 9).unwrap();
    assert_eq!(entered.at.way, places[1].way, "the next one is pushed out");
    table.mark(&locked, state::GIVEN_UP);
    assert!(table.is_there(numbers[0]) && table.has(&locked, state::GIVEN_UP));
    unlock(table.set(&locked), &locked);
    assert!(!table.has(&locked, state::LOCKED) && table.has(&locked, state::WAY_BACK));
    assert!(table.remove(&locked));
}

#[test]
fn with_every_place_locked_there_is_no_room() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(9).collect();
    for at in table.fill(&numbers[..8], 0) {
        assert!(lock(table.set(&at), &at));
    }
    assert_eq!(table.enter(numbers[8], START_S), Err(Refused::NoRoom));
}

#[test]
fn an_entry_that_was_left_half_removed_is_free_again_and_counts_are_right() {
    let mut table = Table::<3>::new(1);
    let numbers: Vec<u32> = table.of_half(0).take(10).collect();
    table.fill(&numbers[..8], 3);
    let mut new = flow_given::<3>(numbers[8], 64);
    let at = table.enter_new(&mut new, START_S).unwrap().at;
    table.establish(&at);
    assert_eq!(
        (table.counts(0, 0), table.counts(0, HALF)),
        ((3, 1), (1, 0))
    );
    // So far does an agent come that is killed: port and counts are those of a flow.
    let version = (table.state(&at) & state::VERSION) + state::NEXT_VERSION;
    let state = version | state::BUSY;
    table.sets[0].entries[at.way()].state = state;
    assert_eq!(table.ports_taken(), 1);
    table.unstick(&At { state, ..at });
    assert_eq!(table.state(&at), state & state::VERSION);
    assert_eq!(
        (table.counts(0, 0), table.counts(0, HALF)),
        ((3, 0), (0, 0))
    );
    assert_eq!(table.ports_taken(), 0);
    assert!(!table.is_there(numbers[8]));
    assert!(numbers[..8].iter().all(|number| table.is_there(*number)));
}
