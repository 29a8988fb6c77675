//! The board by itself, with time and randomness given.

use super::*;
use lb_config::Mode;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn target(n: u16) -> Target {
    Target {
        service: "web".to_owned(),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], n)).into(),
    }
}

fn check() -> Check {
    Check {
        interval: at(1000),
        jitter_permille: 0,
        rise: 2,
        fall: 3,
        slow_start: at(16_000),
        ..Check::default()
    }
}

fn watched(n: u16, check: Check, up: bool) -> Watched {
    Watched {
        target: target(n),
        check: Arc::new(check),
        up,
    }
}

fn board(wanted: Vec<Watched>) -> Board {
    let mut board = Board::new(Random::new(1));
    board.watch(wanted, at(0));
    board
}

/// Carries out the next probe, at its time; returns whether a verdict has changed, and when.
fn probe(board: &mut Board, good: bool) -> (bool, Duration) {
    let now = board.next_probe().unwrap();
    let job = board.due(now).unwrap();
    let outcome = if good {
        Ok(at(3))
    } else {
        Err("no".to_owned())
    };
    (board.report(&job, outcome, now), now)
}

#[test]
fn nobody_who_is_not_watched_is_judged() {
    let board = board(Vec::new());
    assert_eq!(board.verdict(&target(1), at(0)), None);
    assert_eq!(board.about(&target(1), at(0)), None);
    assert_eq!(board.next_probe(), None);
}

#[test]
fn a_backend_stays_as_it_was_until_its_first_probe() {
    let board = board(vec![watched(1, check(), true), watched(2, check(), false)]);
    assert!(board.verdict(&target(1), at(0)).unwrap().fit);
    assert!(!board.verdict(&target(2), at(0)).unwrap().fit);
}

#[test]
fn a_failure_is_certain_soon_and_the_last_error_is_told() {
    let mut board = board(vec![watched(1, check(), true)]);
    let (_, first) = probe(&mut board, true);
    let outcomes: Vec<(bool, Duration)> = (0..3).map(|_| probe(&mut board, false)).collect();
    let changed: Vec<bool> = outcomes.iter().map(|(changed, _)| *changed).collect();
    assert_eq!(changed, [false, false, true]);
    let (_, down) = outcomes[2];
    assert_eq!(down - first, at(1000 + 250 + 250));
    let about = board.about(&target(1), down + at(5)).unwrap();
    assert_eq!((about.state, about.since), (State::Down, at(5)));
    assert_eq!(about.last_error, Some(("no".to_owned(), at(5))));
    assert_eq!((about.took, about.check.as_str()), (Some(at(3)), "tcp"));
}

#[test]
fn the_weight_of_a_backend_that_is_back_grows_step_by_step() {
    let mut board = board(vec![watched(1, check(), true)]);
    assert!(probe(&mut board, false).0);
    let (_, back) = (0..2).map(|_| probe(&mut board, true)).last().unwrap();
    let mut now = back;
    let mut ramps = vec![board.verdict(&target(1), now).unwrap().ramp];
    while let Some(step) = board.next_step(now) {
        assert!(step > now);
        now = step;
        ramps.push(board.verdict(&target(1), now).unwrap().ramp);
    }
    let expected: Vec<u16> = (1..=FULL_RAMP).collect();
    assert_eq!(ramps, expected);
    assert!(now - back <= at(16_000), "{:?}", now - back);
}

#[test]
fn failures_of_those_who_serve_count_and_call_for_a_probe() {
    let mut board = board(vec![watched(1, check(), true)]);
    let (_, now) = probe(&mut board, true);
    assert!(!board.suspect(&target(1), "connection refused", now));
    assert_eq!(board.next_probe(), Some(now), "at once");
    assert!(!board.suspect(&target(1), "connection refused", now));
    assert!(board.suspect(&target(1), "connection refused", now));
    assert!(!board.verdict(&target(1), now).unwrap().fit);
    assert!(!board.suspect(&target(2), "nobody's", now), "not watched");
}

#[test]
fn a_late_answer_counts_for_nothing() {
    let mut board = board(vec![watched(1, check(), true)]);
    let now = board.next_probe().unwrap();
    let job = board.due(now).unwrap();
    board.watch(Vec::new(), now);
    assert!(!board.report(&job, Err("no".to_owned()), now));
    assert_eq!(board.next_probe(), None, "removed while it was probed");
    // It was added again meanwhile: the answer is about the backend of before.
    board.watch(vec![watched(1, check(), true)], now);
    assert!(!board.report(&job, Err("no".to_owned()), now));
    assert!(board.verdict(&target(1), now).unwrap().fit);
}

#[test]
fn another_check_comes_into_force_and_forgets_nothing() {
    let mut board = board(vec![watched(1, check(), true)]);
    let (_, now) = probe(&mut board, false);
    let other = Check {
        interval: at(5000),
        rise: 1,
        ..check()
    };
    board.watch(vec![watched(1, other, true)], now);
    assert!(
        !board.verdict(&target(1), now).unwrap().fit,
        "it is down all the same"
    );
    assert_eq!(board.next_probe(), Some(now), "asked anew at once");
    assert!(probe(&mut board, true).0);
    assert_eq!(board.next_probe(), Some(now + at(5000)));
}

#[test]
fn one_probe_of_a_backend_is_under_way_at_a_time() {
    let mut board = board(vec![watched(1, check(), true)]);
    let now = board.next_probe().unwrap();
    let job = board.due(now).unwrap();
    board.suspect(&target(1), "reset", now);
    board.watch(vec![watched(1, Check { rise: 9, ..check() }, true)], now);
    assert_eq!(board.next_probe(), None);
    board.report(&job, Ok(at(1)), now);
    assert!(board.next_probe().is_some());
}

fn passive(mode: Mode) -> Check {
    Check {
        jitter_permille: 0,
        ..Check::passive(mode).unwrap()
    }
}

#[test]
fn passive_check_asks_nobody_who_serves() {
    let mut board = board(vec![watched(1, passive(Mode::Tcp), true)]);
    assert_eq!(board.next_probe(), None);
    assert_eq!(board.about(&target(1), at(70)), None);
    assert!(!board.suspect(&target(1), "refused", at(70)));
    assert!(board.about(&target(1), at(70)).is_some());
    assert!(
        board.verdict(&target(1), at(70)).unwrap().fit,
        "one failure may be the network's"
    );
    assert_eq!(probe(&mut board, true), (false, at(70)));
    assert_eq!(board.next_probe(), None);
}

#[test]
fn passive_check_asks_a_backend_that_failed_until_it_answers() {
    let mut board = board(vec![watched(1, passive(Mode::Tcp), true)]);
    board.suspect(&target(1), "refused", at(70));
    assert_eq!(probe(&mut board, false), (true, at(70)));
    assert!(!board.verdict(&target(1), at(71)).unwrap().fit);
    assert_eq!(probe(&mut board, false), (false, at(1070)));
    assert_eq!(probe(&mut board, true), (true, at(2070)));
    assert_eq!(board.next_probe(), None);
}

#[test]
fn backend_of_udp_that_refuses_is_tried_again_after_a_while() {
    let mut board = board(vec![watched(1, passive(Mode::Udp), true)]);
    assert!(board.suspect(&target(1), "refused", at(70)));
    assert!(!board.suspect(&target(1), "refused", at(80)));
    assert_eq!(probe(&mut board, true), (true, at(5070)));
    assert!(board.verdict(&target(1), at(5070)).unwrap().fit);
    assert_eq!(board.next_probe(), None);
}

#[test]
fn passive_check_finds_out_about_a_backend_that_is_down_at_the_start() {
    let mut board = board(vec![watched(1, passive(Mode::Tcp), false)]);
    assert!(probe(&mut board, true).0);
}

#[test]
fn check_that_is_configured_no_more_leaves_nobody_down() {
    let mut board = board(vec![watched(1, check(), false)]);
    assert!(!probe(&mut board, false).0);
    board.watch(vec![watched(1, passive(Mode::Tcp), false)], at(10));
    assert_eq!(probe(&mut board, true), (true, at(10)));
}
