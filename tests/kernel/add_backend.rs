//! Adding a backend moves no client that has one. Removing a backend moves only its own clients. Both
//! are in force when the command returns.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::node::{self, Clients};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, wait};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

#[test]
fn two_hundred_polling_sessions_survive_add_backend_and_only_the_removed_ones_move() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let mut apps: BTreeMap<u16, _> = (5000..5003)
        .map(|port| {
            let listen = ([127, 0, 0, 1], port).into();
            (
                port,
                node::serve(&hosts.balancer, "server.js", listen, agent.dir()),
            )
        })
        .collect();
    let from: Vec<IpAddr> = (1..=200).map(client_v4).collect();
    let mut clients = Clients::new(&hosts.clients, agent.dir(), "polling");
    clients.open("polling", SERVICE_V4, &from);
    let before = clients.ports();

    agent.ok(&["add-backend", "127.0.0.1:5002"]);
    for _ in 0..3 {
        clients.echo(10_000);
    }
    assert_eq!(
        clients.disconnects(),
        Vec::<IpAddr>::new(),
        "nobody notices a new backend"
    );
    assert_eq!(clients.ports(), before);
    // New connections of known clients stay too, although the slots of some have moved.
    let again: BTreeMap<IpAddr, u16> = hosts.clients.run(|| {
        from.iter()
            .map(|from| (*from, http::get(*from, SERVICE_V4).unwrap().port))
            .collect()
    });
    assert_eq!(again, before);

    agent.ok(&["remove-backend", "127.0.0.1:5001"]);
    apps.remove(&5001);
    let moved: Vec<IpAddr> = before
        .iter()
        .filter(|(_, port)| **port == 5001)
        .map(|(from, _)| *from)
        .collect();
    wait::until("the clients of the removed backend are elsewhere", || {
        let ports = clients.ports();
        moved
            .iter()
            .all(|client| ports[client] != 5001)
            .then_some(())
    });
    clients.echo(1000);
    let after = clients.ports();
    for (client, port) in before.iter().filter(|(_, port)| **port != 5001) {
        assert_eq!(after[client], *port, "{client} had no reason to move");
    }
    let mut lost = clients.disconnects();
    lost.sort();
    assert_eq!(lost, moved, "those of the removed backend, and nobody else");
    assert!(
        moved.iter().any(|client| after[client] == 5002),
        "the new backend takes its part"
    );
}

#[test]
fn a_change_is_in_force_when_the_command_returns() {
    let hosts = Hosts::new();
    let services = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n";
    let agent = Agent::start(&hosts.balancer, services);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let get = |n: u16| hosts.clients.run(|| http::get(client_v4(n), SERVICE_V4));
    assert!(get(1).is_err(), "without a backend nobody is there");
    for round in 0..20 {
        let port = 5000 + round % 2;
        let address = format!("127.0.0.1:{port}");
        agent.ok(&["add-backend", &address]);
        assert_eq!(get(1 + round).unwrap().port, port, "round {round}");
        agent.ok(&["remove-backend", &address]);
        assert!(get(1 + round).is_err(), "round {round}");
    }
}

#[test]
fn backend_that_cannot_serve_yet_is_added_with_a_word_about_it() {
    for data_plane in ["bpf", "userspace"] {
        let hosts = Hosts::new();
        let agent = Agent::start_on(&hosts.balancer, SERVICES, data_plane);
        let local = "(nothing listens there yet)";
        let dead = agent.ok(&["add-backend", "127.0.0.1:5002"]);
        assert!(dead.trim_end().ends_with(local), "{dead}");
        let _apps = node::copies(&hosts.balancer, [5003], agent.dir());
        let alive = agent.ok(&["add-backend", "127.0.0.1:5003"]);
        assert!(alive.trim_end().ends_with("backends)"), "{alive}");
        // The first backend on a packet path waits for the programs to be loaded.
        agent.ok(&["add-backend", "10.99.77.76:80"]);
        let begun = Instant::now();
        let remote = agent.ok(&["add-backend", "10.99.77.77:80"]);
        let silent = "(it does not answer yet)";
        assert!(remote.trim_end().ends_with(silent), "{remote}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}
