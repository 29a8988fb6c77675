//! Faults of backends under load: one is killed, slow, broken, resetting or flapping, or all are gone.
//! The tests report the lost requests, and that they belong to clients of that backend.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::flaky_backend::{FlakyBackend, Mood};
use lb_tests::load::{Load, Visit};
use lb_tests::process::Process;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, wait};

/// A backend that is well is never down: three probes in a row would have to take two seconds each.
const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n\
                        [service.health]\npath = '/id'\ninterval = '100ms'\ntimeout = '2s'\n";
const BAD: &str = "127.0.0.1:5001";

fn two(hosts: &Hosts) -> [FlakyBackend; 2] {
    [5000, 5001].map(|port| FlakyBackend::new(&hosts.balancer, &format!("127.0.0.1:{port}")))
}

fn wait_for(agent: &Agent<'_>, state: &str) {
    wait::until(&format!("{BAD} {state}"), || {
        let backend = agent.backend(BAD);
        let proven = backend["health"]["state"] != "unknown";
        (proven && backend["state"] == state).then_some(())
    });
}

/// Sixty clients, and the home backend of each.
fn homes(hosts: &Hosts) -> BTreeMap<IpAddr, u16> {
    let home = |n| {
        (
            client_v4(n),
            http::get(client_v4(n), SERVICE_V4).unwrap().port,
        )
    };
    hosts.clients.run(|| (1..=60).map(home).collect())
}

fn load(hosts: &Hosts, homes: &BTreeMap<IpAddr, u16>) -> Load {
    let clients: Vec<IpAddr> = homes.keys().copied().collect();
    Load::start(&hosts.clients, &clients, 100)
}

/// Checks that no client of a healthy backend was lost, and no client at all while the other backend
/// was known to be down. A client that has left that backend does not come back.
fn check(what: &str, visits: &[Visit], homes: &BTreeMap<IpAddr, u16>, down: Range<Instant>) {
    let mut lost = 0;
    let mut left = BTreeSet::new();
    for visit in visits {
        let (client, home) = (visit.client, homes[&visit.client]);
        match &visit.answer {
            Ok(answer) if answer.port == 5000 => {
                left.insert(client);
            }
            Ok(_) => {
                assert_eq!(home, 5001, "{what}: {client} moved");
                assert!(!left.contains(&client), "{what}: {client} came back");
                assert!(!down.contains(&visit.begun), "{what}: {client} while down");
            }
            Err(error) => {
                assert_eq!(home, 5001, "{what}: {client}: {error}");
                assert!(visit.begun <= down.start, "{what}: {client}: {error}");
                lost += 1;
            }
        }
    }
    println!("{what}: {lost} of {} connections lost", visits.len());
}

#[test]
fn a_broken_a_resetting_and_a_slow_backend_are_left_as_soon_as_a_check_finds_out() {
    let moods = [
        Mood::Status(500),
        Mood::Resetting,
        Mood::Slow(Duration::from_secs(4)),
    ];
    for mood in moods {
        let hosts = Hosts::new();
        let apps = two(&hosts);
        let agent = Agent::start(&hosts.balancer, SERVICES);
        let homes = homes(&hosts);
        let load = load(&hosts, &homes);
        load.more(50);
        apps[1].feel(mood);
        wait_for(&agent, "down");
        let down = Instant::now();
        load.more(100);
        let mended = Instant::now();
        apps[1].feel(Mood::Well);
        wait_for(&agent, "up");
        load.more(50);
        check(&format!("{mood:?}"), &load.finish(), &homes, down..mended);
    }
}

#[test]
fn of_a_killed_backend_only_what_it_had_open_is_lost() {
    let hosts = Hosts::new();
    let [_well, bad] = two(&hosts);
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let homes = homes(&hosts);
    let load = load(&hosts, &homes);
    load.more(50);
    drop(bad);
    // The socket is closed: that is in force without any check.
    let gone = Instant::now();
    load.more(100);
    check("killed", &load.finish(), &homes, gone..Instant::now());
    wait_for(&agent, "down");
}

fn signal(process: &Process, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(process.pid() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn requests_to_a_frozen_backend_wait_for_it_and_nobody_else_does() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    wait::until("both to be healthy", || {
        let healthy = |port| agent.backend(&format!("127.0.0.1:{port}"))["health"]["state"] == "up";
        (healthy(5000) && healthy(5001)).then_some(())
    });
    let homes = homes(&hosts);
    let well: Vec<IpAddr> = homes
        .iter()
        .filter(|(_, home)| **home == 5000)
        .map(|(c, _)| *c)
        .collect();
    let frozen = *homes.iter().find(|(_, home)| **home == 5001).unwrap().0;
    let load = Load::start(&hosts.clients, &well, 100);
    signal(&apps[1], rustix::process::Signal::STOP);
    // One that comes before a check has found out: the kernel takes the connection.
    let early = hosts
        .clients
        .run(|| http::connect(frozen, SERVICE_V4))
        .unwrap();
    wait_for(&agent, "down");
    let answer = hosts.clients.run(|| http::get(frozen, SERVICE_V4)).unwrap();
    assert_eq!(answer.port, 5000, "its clients leave it");
    load.more(50);
    signal(&apps[1], rustix::process::Signal::CONT);
    assert_eq!(http::ask(&early).unwrap().port, 5001, "nothing is lost");
    let visits = load.finish();
    assert!(
        visits.iter().all(|visit| visit.answer.is_ok()),
        "{visits:?}"
    );
}

#[test]
fn a_flapping_backend_costs_nobody_a_connection_and_no_other_client_its_place() {
    let hosts = Hosts::new();
    let apps = two(&hosts);
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let homes = homes(&hosts);
    let load = load(&hosts, &homes);
    for _ in 0..5 {
        apps[1].feel(Mood::Status(500));
        wait_for(&agent, "down");
        apps[1].feel(Mood::Well);
        wait_for(&agent, "up");
    }
    load.more(50);
    let visits = load.finish();
    for visit in &visits {
        let answer = visit
            .answer
            .as_ref()
            .unwrap_or_else(|error| panic!("{}: {error}", visit.client));
        let home = homes[&visit.client];
        assert!(
            answer.port == home || home == 5001,
            "{} moved",
            visit.client
        );
    }
    println!("flapping: 0 of {} connections lost", visits.len());
}

#[test]
fn when_all_backends_go_and_come_back_everybody_is_served_again_without_a_command() {
    let hosts = Hosts::new();
    let apps = two(&hosts);
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let homes = homes(&hosts);
    let load = load(&hosts, &homes);
    load.more(50);
    let gone = Instant::now();
    drop(apps);
    wait::until("nobody served", || {
        hosts
            .clients
            .run(|| http::get(client_v4(61), SERVICE_V4))
            .err()
    });
    load.more(50);
    let _apps = two(&hosts);
    let back = Instant::now();
    load.more(100);
    let visits = load.finish();
    let (mut refused, mut served) = (0, 0);
    for visit in &visits {
        match &visit.answer {
            Ok(answer) => {
                served += usize::from(visit.begun > back);
                // No client has moved: there was no other backend. (The first to be back gets some.)
                assert!([5000, 5001].contains(&answer.port));
            }
            Err(error) => {
                assert!(visit.ended >= gone, "{}: {error}", visit.client);
                assert!(
                    visit.begun <= back,
                    "{}: {error} after they were back",
                    visit.client
                );
                refused += 1;
            }
        }
    }
    println!(
        "all gone: {refused} of {} refused, {served} served after",
        visits.len()
    );
    assert!(refused > 0 && served > 0);
    wait_for(&agent, "up");
}
