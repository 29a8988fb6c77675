//! A backend that is drained keeps the clients it has until the drain is over, and gets no others.

use std::net::IpAddr;

use lb_tests::agent::Agent;
use lb_tests::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::node::{self, Clients};
use lb_tests::{http, wait};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

#[test]
fn known_clients_stay_until_the_drain_is_over_and_new_ones_go_elsewhere() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let get = |n: u16| {
        hosts
            .clients
            .run(|| http::get(client_v4(n), SERVICE_V4))
            .unwrap()
            .port
    };
    let known: Vec<u16> = (1..=50).filter(|n| get(*n) == 5001).collect();
    assert!(!known.is_empty());
    let mut sockets = Clients::new(&hosts.clients, agent.dir(), "ws");
    sockets.open(
        "ws",
        SERVICE_V4,
        &known.iter().map(|n| client_v4(*n)).collect::<Vec<_>>(),
    );

    agent.ok(&["drain-backend", "127.0.0.1:5001", "--timeout", "1h"]);
    assert_eq!(agent.backend("127.0.0.1:5001")["state"], "draining");
    assert!(agent.backend("127.0.0.1:5001")["drain_seconds_left"].as_u64() > Some(3500));
    assert!(known.iter().all(|n| get(*n) == 5001), "known clients stay");
    assert!((51..=100).all(|n| get(n) == 5000), "new ones go elsewhere");

    // Another drain takes the place of the first.
    agent.ok(&["drain-backend", "127.0.0.1:5001", "--timeout", "0s"]);
    wait::until("the end of the drain", || {
        (agent.backend("127.0.0.1:5001")["state"] == "down").then_some(())
    });
    assert!(known.iter().all(|n| get(*n) == 5000), "the drain is over");
    sockets.echo(1000);
    assert_eq!(
        sockets.disconnects(),
        Vec::<IpAddr>::new(),
        "open connections are not cut"
    );
    assert_eq!(
        agent.backend("127.0.0.1:5001")["active"].as_u64(),
        Some(known.len() as u64)
    );

    agent.ok(&["add-backend", "127.0.0.1:5001"]);
    assert_eq!(agent.backend("127.0.0.1:5001")["state"], "up");
    assert!(
        (101..=200).any(|n| get(n) == 5001),
        "it gets new clients again"
    );
    assert!(
        known.iter().all(|n| get(*n) == 5000),
        "who had to move stays where it went"
    );
}

#[test]
fn a_drain_ends_by_itself_at_its_time() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    agent.ok(&["drain-backend", "127.0.0.1:5001", "--timeout", "1s"]);
    wait::until("the end of the drain", || {
        (agent.backend("127.0.0.1:5001")["state"] == "down").then_some(())
    });
}
