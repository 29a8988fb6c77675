//! Answers after their lifetime: asked for, sent meanwhile, or sent because the backend fails.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::super::PATIENCE;
use super::{ON, Origin, get, ok};

/// The answers in their order; the last one again and again.
fn in_turn(answers: Vec<String>) -> Origin {
    let turn = AtomicU64::new(0);
    Origin::new(move |_| {
        let at = turn.fetch_add(1, Relaxed) as usize;
        answers[at.min(answers.len() - 1)].clone()
    })
}

const NOT_MODIFIED: &str =
    "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nCache-Control: max-age=60\r\nX-New: 1\r\n\r\n";

#[test]
fn stale_answer_is_asked_for_and_takes_the_fields_of_the_304() {
    let first = ok(
        "Cache-Control: max-age=0\r\nETag: \"x\"\r\nX-Old: 1\r\n",
        "body",
    );
    let origin = in_turn(vec![first, NOT_MODIFIED.to_owned()]);
    let proxy = origin.proxy(ON);
    assert_eq!(get(&proxy, "/", "").field("x-new"), None);
    let second = get(&proxy, "/", "");
    assert!(
        origin.last().contains("if-none-match: \"x\"\r\n"),
        "{}",
        origin.last()
    );
    assert_eq!(
        (second.status, &*second.body, second.field("x-new")),
        (200, "body", Some("1"))
    );
    assert_eq!(
        second.field("cache-status"),
        Some("lb-agent; fwd=stale; fwd-status=304")
    );
    let third = get(&proxy, "/", "If-None-Match: \"x\"\r\n");
    assert_eq!(
        (third.status, third.field("x-old"), origin.count()),
        (304, Some("1"), 2)
    );
}

#[test]
fn answer_that_changed_takes_the_place_of_the_stored_one() {
    let first = ok("Cache-Control: max-age=0\r\nETag: \"x\"\r\n", "old");
    let second = ok("Cache-Control: max-age=60\r\nETag: \"y\"\r\n", "new");
    let origin = in_turn(vec![first, second]);
    let proxy = origin.proxy(ON);
    let of = || get(&proxy, "/", "").body;
    assert_eq!(
        (of(), of(), of()),
        ("old".into(), "new".into(), "new".into())
    );
    assert_eq!(origin.count(), 2);
}

#[test]
fn stale_answer_is_sent_while_it_is_asked_for() {
    let turn = AtomicU64::new(0);
    let origin = Origin::new(move |_| match turn.fetch_add(1, Relaxed) {
        0 => ok(
            "Cache-Control: max-age=0, stale-while-revalidate=60\r\n",
            "old",
        ),
        _ => {
            std::thread::sleep(Duration::from_millis(200));
            ok("Cache-Control: max-age=60\r\n", "new")
        }
    });
    let proxy = origin.proxy(ON);
    get(&proxy, "/", "");
    let asked = Instant::now();
    for _ in 0..5 {
        assert_eq!(get(&proxy, "/", "").body, "old");
    }
    assert!(
        asked.elapsed() < Duration::from_millis(200),
        "{:?}",
        asked.elapsed()
    );
    while get(&proxy, "/", "").body == "old" {
        assert!(asked.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn stale_answer_is_sent_if_the_backend_fails_and_it_may_be() {
    for (lines, wanted) in [
        (
            "Cache-Control: max-age=0, stale-if-error=60\r\nETag: \"x\"\r\n",
            200,
        ),
        ("Cache-Control: max-age=0\r\nETag: \"x\"\r\n", 503),
        (
            "Cache-Control: max-age=0, stale-if-error=60, must-revalidate\r\nETag: \"x\"\r\n",
            503,
        ),
    ] {
        let error = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned();
        let origin = in_turn(vec![ok(lines, "old"), error]);
        let proxy = origin.proxy(ON);
        get(&proxy, "/", "");
        for _ in 0..3 {
            assert_eq!(get(&proxy, "/", "").status, wanted, "{lines}");
        }
    }
}

#[test]
fn stale_answer_is_sent_if_no_backend_answers() {
    let turn = AtomicU64::new(0);
    let origin = Origin::new(move |_| match turn.fetch_add(1, Relaxed) {
        0 => ok("Cache-Control: max-age=0, stale-if-error=60\r\n", "old"),
        _ => "nonsense\r\n\r\n".to_owned(),
    });
    let proxy = origin.proxy(ON);
    get(&proxy, "/", "");
    assert_eq!(get(&proxy, "/", "").body, "old");
    assert!(origin.count() > 1);
}
