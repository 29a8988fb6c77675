//! Faults of the state directory: a power cut in the middle of writing, a full disk, a read-only one. A
//! change that cannot be stored is refused and not in force. Clients are not affected.

use std::fs;
use std::net::IpAddr;

use lb_tests::agent::{Agent, Outcome};
use lb_tests::disk::Disk;
use lb_tests::flaky_backend::FlakyBackend;
use lb_tests::http;
use lb_tests::load::Load;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000']\n";

#[test]
fn a_power_cut_at_any_byte_of_a_state_file_loses_no_change_that_was_answered() {
    let hosts = Hosts::new();
    // No eBPF: it takes hundreds of starts.
    let mut agent = Agent::start_on(&hosts.balancer, SERVICES, "userspace");
    power_cuts(&mut agent, 1);
}

#[test]
fn whom_the_kernel_serves_does_not_notice_agents_that_find_half_a_state_file() {
    let hosts = Hosts::new();
    let _apps = [5000, 5001].map(|port| {
        let address = format!("127.0.0.1:{port}");
        FlakyBackend::new(&hosts.balancer, &address)
    });
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let clients: Vec<IpAddr> = (1..=40).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 100);
    load.more(50);
    power_cuts(&mut agent, 23);
    let visits = load.finish();
    let failed = visits.iter().filter(|visit| visit.answer.is_err()).count();
    println!("power cuts: {failed} of {} connections lost", visits.len());
    assert_eq!(failed, 0, "of {}", visits.len());
}

/// Cuts the state file, and the one that takes its place, after every `step` bytes, and starts an
/// agent there.
fn power_cuts(agent: &mut Agent<'_>, step: usize) {
    let state = agent.dir().join("state/state.json");
    let half = agent.dir().join("state/state.new");
    agent.ok(&["add-backend", "127.0.0.1:5001"]);
    let answered = fs::read(&state).unwrap();
    agent.ok(&["add-backend", "127.0.0.1:5002", "--weight", "7"]);
    let next = fs::read(&state).unwrap();
    agent.kill();
    for length in (0..=next.len()).step_by(step) {
        // As the power cut leaves it: the old file whole, the new one not yet renamed.
        fs::write(&state, &answered).unwrap();
        fs::write(&half, &next[..length]).unwrap();
        agent.start_again();
        let found = agent.backend("127.0.0.1:5001");
        assert_eq!(found["source"], "runtime", "{length} bytes");
        let status = agent.status();
        let backends = status["services"][0]["backends"].as_array().unwrap();
        assert_eq!(backends.len(), 2, "{length} bytes");
        agent.kill();
        assert_eq!(fs::read(&state).unwrap(), answered, "{length} bytes");
    }
    // The file of a file system that breaks its promises: it is named, and left alone.
    for length in (0..answered.len()).step_by(step) {
        fs::write(&state, &answered[..length]).unwrap();
        let outcome = Outcome::from(agent.run_command().output().unwrap());
        assert_eq!(outcome.code, 1, "{length} bytes: {outcome:?}");
        assert!(
            outcome.stderr.contains("state.json"),
            "{length} bytes: {outcome:?}"
        );
        assert_eq!(fs::read(&state).unwrap(), &answered[..length]);
    }
}

/// Changes are refused with `error`, and nothing else happens; `mend` makes them possible again.
fn changes_are_refused(spoil: impl Fn(&Disk), error: &str, mend: impl Fn(&Disk)) {
    let hosts = Hosts::new();
    let _apps = [5000, 5001].map(|port| {
        let address = format!("127.0.0.1:{port}");
        FlakyBackend::new(&hosts.balancer, &address)
    });
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    agent.kill();
    fs::remove_dir_all(agent.dir().join("state")).unwrap();
    let disk = Disk::mount(&agent.dir().join("state"));
    agent.start_again();
    let clients: Vec<IpAddr> = (1..=40).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 100);
    load.more(50);
    spoil(&disk);
    let before = agent.status()["services"][0]["backends"].clone();
    let count = |backends: &serde_json::Value| backends.as_array().unwrap().len();
    for command in ["add-backend", "drain-backend"] {
        let address = if command == "add-backend" {
            "127.0.0.1:5001"
        } else {
            "127.0.0.1:5000"
        };
        let outcome = agent.run(&[command, address]);
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert!(outcome.stderr.contains(error), "{outcome:?}");
        assert!(
            outcome.stderr.contains("nothing was changed"),
            "{outcome:?}"
        );
    }
    let after = agent.status()["services"][0]["backends"].clone();
    assert_eq!(count(&after), count(&before), "{after:#}");
    assert_eq!(after[0]["state"], "up");
    // A new agent may or may not start there; the kernel goes on either way.
    agent.kill();
    load.more(50);
    mend(&disk);
    agent.start_again();
    agent.ok(&["add-backend", "127.0.0.1:5001"]);
    load.more(50);
    let visits = load.finish();
    let failed = visits.iter().filter(|visit| visit.answer.is_err()).count();
    println!("{error}: {failed} of {} connections lost", visits.len());
    assert_eq!(failed, 0, "of {}", visits.len());
    let served = hosts.clients.run(|| http::get(client_v4(1), SERVICE_V4));
    assert_eq!(served.unwrap().port, 5000, "known clients stay");
    agent.kill();
    drop(disk);
}

#[test]
fn on_a_full_disk_changes_are_refused_and_nobody_notices() {
    changes_are_refused(Disk::fill, "No space left on device", Disk::free);
}

#[test]
fn in_a_read_only_state_directory_changes_are_refused_and_nobody_notices() {
    changes_are_refused(Disk::forbid, "Read-only file system", Disk::allow);
}
