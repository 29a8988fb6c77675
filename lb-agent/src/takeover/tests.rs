//! Both sides over a pair of sockets.

use std::os::unix::net::UnixStream;

use lb_net::handover::{FdStore, pass};

use super::*;

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

#[test]
fn next_agent_gets_everything_and_the_running_one_is_told_when_it_is_ready() {
    let (running, next) = pair();
    let kept = FdStore::default();
    kept.hold("lock", [tempfile::tempfile().unwrap()]);
    let handing = std::thread::spawn(move || hand_over(&running, &kept));
    let (predecessor, taken) = Predecessor::of(next, "x".to_owned()).unwrap();
    assert_eq!(predecessor.pid, std::process::id());
    assert!(taken.other("lock").is_some());
    assert!(taken.other("stderr").is_none(), "it is not a thing to keep");
    assert!(!handing.is_finished());
    predecessor.replace(false).unwrap();
    handing.join().unwrap().unwrap();
}

#[test]
fn running_agent_goes_on_when_the_next_one_ends_early() {
    let (running, next) = pair();
    let handing = std::thread::spawn(move || hand_over(&running, &FdStore::default()));
    drop(Predecessor::of(next, "x".to_owned()).unwrap());
    assert!(handing.join().unwrap().is_err());
}

#[test]
fn next_agent_ends_when_the_running_one_does_not_say_that_it_ends() {
    let (running, next) = pair();
    let offering = std::thread::spawn(move || {
        let names = Vec::new();
        let offer = Said::Offered {
            version: VERSION,
            agent: "9.9.9".to_owned(),
            pid: 1,
            names,
        };
        let offer = serde_json::to_vec(&offer).unwrap();
        pass::send::<UnixStream>(&running, &offer, &[]).unwrap();
        pass::receive(&running).unwrap();
    });
    let (predecessor, _) = Predecessor::of(next, "x".to_owned()).unwrap();
    assert_eq!(predecessor.version, "9.9.9");
    let error = predecessor.replace(false).unwrap_err().to_string();
    assert!(
        error.starts_with("the running agent at x goes on: "),
        "{error}"
    );
    offering.join().unwrap();
}

#[test]
fn refusals_and_other_versions_are_told() {
    let answer = |said: Said| {
        let (running, next) = pair();
        pass::send::<UnixStream>(&running, &serde_json::to_vec(&said).unwrap(), &[]).unwrap();
        let error = Predecessor::of(next, "x".to_owned()).err().unwrap();
        error.to_string()
    };
    let reason = "not now".to_owned();
    assert_eq!(
        answer(Said::Refused { reason }),
        "the running agent goes on: not now"
    );
    let other = Said::Offered {
        version: VERSION + 1,
        agent: "9.9.9".to_owned(),
        pid: 1,
        names: Vec::new(),
    };
    assert!(answer(other).contains("9.9.9, hands over in another way"));
}
