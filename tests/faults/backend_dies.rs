//! The very next connection skips a killed backend, and it is used again as soon as it listens again.
//! Connections to the others are not affected.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::node::{self, Clients};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, wait};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001', '127.0.0.1:5002']\n";

#[test]
fn no_new_connection_fails_once_the_process_is_gone() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let serve = |port: u16| {
        node::serve(
            &hosts.balancer,
            "server.js",
            ([127, 0, 0, 1], port).into(),
            agent.dir(),
        )
    };
    let mut apps = [5000, 5001, 5002].map(serve);
    // Open sessions of some clients, new connections of others.
    let mut sessions = Clients::new(&hosts.clients, agent.dir(), "sessions");
    let from: Vec<IpAddr> = (101..=160).map(client_v4).collect();
    sessions.open("websocket", SERVICE_V4, &from);
    let before = sessions.ports();

    let (stop, gone) = (AtomicBool::new(false), AtomicBool::new(false));
    let (made, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let load = || {
        for n in (1..=100).cycle() {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            // Only requests that begin once the process is gone must succeed.
            let after = gone.load(Ordering::SeqCst);
            let answer = http::get(client_v4(n), SERVICE_V4);
            made.fetch_add(usize::from(after), Ordering::SeqCst);
            if after && answer.is_err() {
                failed.fetch_add(1, Ordering::SeqCst);
                eprintln!("client {n}: {answer:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let at_least = |count: usize| {
        let start = made.load(Ordering::SeqCst);
        wait::until("connections", || {
            (made.load(Ordering::SeqCst) >= start + count).then_some(())
        });
    };
    std::thread::scope(|scope| {
        let _stop = wait::Stop(&stop);
        scope.spawn(|| hosts.clients.run(load));
        apps[1].kill();
        gone.store(true, Ordering::SeqCst);
        at_least(400);
        // It comes back without a command.
        apps[1] = serve(5001);
        at_least(400);
    });
    assert_eq!(failed.load(Ordering::SeqCst), 0, "of {made:?}");

    let killed: Vec<IpAddr> = before
        .iter()
        .filter(|(_, port)| **port == 5001)
        .map(|(from, _)| *from)
        .collect();
    let mut lost = wait::until("the sessions to be over", || {
        let lost = sessions.disconnects();
        (lost.len() >= killed.len()).then_some(lost)
    });
    lost.sort();
    assert_eq!(lost, killed, "open connections to the others are untouched");
    // New clients use it again. (Clients that had to leave stay with their new session.)
    let new: Vec<u16> = hosts.clients.run(|| {
        (161..=200)
            .map(|n| http::get(client_v4(n), SERVICE_V4).unwrap().port)
            .collect()
    });
    assert!(new.contains(&5001), "{new:?}");
}

#[test]
fn when_all_are_gone_clients_are_refused_at_once_and_served_again_later() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let get = || hosts.clients.run(|| http::get(client_v4(1), SERVICE_V4));
    assert_eq!(
        get().unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    assert_eq!(agent.status()["services"][0]["counters"]["refused"], 1);
    let [_app] = node::copies(&hosts.balancer, [5002], agent.dir());
    assert_eq!(get().unwrap().port, 5002);
}
