//! Requests for one answer that is not stored wait for the first of them.

use std::time::{Duration, Instant};

use super::{ON, Origin, get, ok};

const SLOW: Duration = Duration::from_millis(300);

/// What fifty requests at once get, and how long all of them take.
fn fifty(origin: &Origin, settings: &str) -> (Vec<u16>, Duration) {
    let proxy = origin.proxy(settings);
    let begun = Instant::now();
    let statuses = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..50)
            .map(|_| scope.spawn(|| get(&proxy, "/", "").status))
            .collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    (statuses, begun.elapsed())
}

fn slow(lines: &'static str) -> Origin {
    Origin::new(move |_| {
        std::thread::sleep(SLOW);
        ok(lines, "slow")
    })
}

#[test]
fn fifty_requests_for_a_slow_answer_are_one() {
    let origin = slow("Cache-Control: max-age=60\r\n");
    let (statuses, _) = fifty(&origin, ON);
    assert_eq!(statuses, [200; 50]);
    assert_eq!(origin.count(), 1);
}

#[test]
fn answer_that_cannot_be_stored_lets_all_go_at_once() {
    let origin = slow("Cache-Control: no-store\r\n");
    let (statuses, took) = fifty(&origin, ON);
    assert_eq!((statuses, origin.count()), (vec![200; 50], 50));
    assert!(took < SLOW * 10, "{took:?}");
}

#[test]
fn waiting_has_an_end() {
    let origin = slow("Cache-Control: max-age=60\r\n");
    let (statuses, _) = fifty(&origin, &format!("{ON}\nlock = '50ms'"));
    assert_eq!(statuses, [200; 50]);
    assert_eq!(origin.count(), 50);
}

#[test]
fn a_first_client_that_leaves_is_followed_by_another() {
    let origin = slow("Cache-Control: max-age=60\r\n");
    let proxy = origin.proxy(ON);
    let first = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.awaits(1);
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| get(&proxy, "/", "").status))
            .collect();
        std::thread::sleep(SLOW / 3);
        // With a reset: one that only closes its sending side still wants its answer.
        let socket = socket2::SockRef::from(&first.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        drop(first);
        for other in others {
            assert_eq!(other.join().unwrap(), 200);
        }
    });
    assert_eq!(origin.count(), 2);
}
