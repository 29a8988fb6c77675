//! Bans: what the commands keep, and what they tell.

use std::time::Duration;

use super::*;
use crate::control::message::{BanRequest, Bans};

fn ban(prefix: &str, length: Option<Duration>) -> Command {
    Command::Ban(BanRequest {
        prefix: prefix.parse().unwrap(),
        service: None,
        length,
        reason: Some("a test".to_owned()),
        force: false,
    })
}

fn bans(agent: &mut Reconciler) -> Bans {
    match agent.handle(Command::Bans).unwrap() {
        Reply::Bans(bans) => bans,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ban_comes_back_after_a_restart_and_one_that_has_ended_does_not() {
    let bench = Bench::new("'127.0.0.1:5000'");
    let mut agent = bench.agent();
    agent.handle(ban("203.0.113.0/24", None)).unwrap();
    agent
        .handle(ban("2001:db8::/32", Some(Duration::from_millis(20))))
        .unwrap();
    std::thread::sleep(Duration::from_millis(30));
    drop(agent);
    let mut agent = bench.agent();
    let left = bans(&mut agent).bans;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].prefix.to_string(), "203.0.113.0/24");
    assert_eq!(left[0].reason.as_deref(), Some("a test"));
}

#[test]
fn second_ban_of_a_prefix_replaces_the_first() {
    let bench = Bench::new("'127.0.0.1:5000'");
    let mut agent = bench.agent();
    agent.handle(ban("203.0.113.9", None)).unwrap();
    let hour = Duration::from_secs(3600);
    agent.handle(ban("203.0.113.9", Some(hour))).unwrap();
    let left = bans(&mut agent).bans;
    assert_eq!(left.len(), 1);
    assert!(left[0].left_seconds.is_some_and(|left| left <= 3600));
}
