//! Every client stays with one backend, backends get clients by weight, and `lookup` knows which
//! before the client comes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{Hosts, all_clients, client_v4, client_v6, service_for};
use lb_tests::{http, node};

const CONNECTIONS: usize = 20;

fn sticky(weights: &[u16]) {
    let hosts = Hosts::new();
    let ports: Vec<u16> = (5000..).take(weights.len()).collect();
    let backends: String = ports
        .iter()
        .zip(weights)
        .map(|(port, weight)| format!("{{ address = '127.0.0.1:{port}', weight = {weight} }}, "))
        .collect();
    let services = format!(
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\nbackends = [{backends}]\n"
    );
    let agent = Agent::start(&hosts.balancer, &services);
    let _apps: Vec<_> = ports
        .iter()
        .map(|port| {
            let listen = ([127, 0, 0, 1], *port).into();
            node::serve(&hosts.balancer, "server.js", listen, agent.dir())
        })
        .collect();
    let expected: BTreeMap<IpAddr, u16> = all_clients()
        .into_iter()
        .map(|client| (client, agent.looked_up_port(client)))
        .collect();
    let seen: BTreeMap<IpAddr, u16> = hosts.clients.run(|| {
        let clients: Vec<IpAddr> = all_clients();
        let halves = clients.chunks(clients.len() / 2);
        std::thread::scope(|scope| {
            let threads: Vec<_> = halves
                .map(|half| scope.spawn(|| half.iter().map(visit).collect()))
                .collect();
            threads
                .into_iter()
                .flat_map(|thread: std::thread::ScopedJoinHandle<'_, Vec<_>>| {
                    thread.join().unwrap()
                })
                .collect()
        })
    });
    assert_eq!(seen, expected);
    shares(&seen, &ports, weights);
}

/// Makes all connections of one client. They must reach one copy, which sees the client's own address
/// if no proxy is in between.
fn visit(client: &IpAddr) -> (IpAddr, u16) {
    let answers: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            http::get(*client, service_for(*client))
                .unwrap_or_else(|error| panic!("connection {n} of {client}: {error}"))
        })
        .collect();
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{client}: {answers:?}"
    );
    if client.is_ipv4() {
        assert_eq!(answers[0].remote, client.to_string());
    }
    (*client, answers[0].port)
}

/// Each share within five standard deviations of a binomial draw: one false alarm in a million.
fn shares(seen: &BTreeMap<IpAddr, u16>, ports: &[u16], weights: &[u16]) {
    let total: u16 = weights.iter().sum();
    for (port, weight) in ports.iter().zip(weights) {
        let clients = seen.values().filter(|seen| *seen == port).count() as f64;
        let share = f64::from(*weight) / f64::from(total);
        let mean = seen.len() as f64 * share;
        let deviation = (mean * (1.0 - share)).sqrt();
        println!("{port}: {clients} clients, {mean:.0} expected");
        assert!(
            (clients - mean).abs() < 5.0 * deviation,
            "{port}: {clients} clients, not {mean}"
        );
    }
}

#[test]
fn four_hundred_clients_stay_with_one_of_two_backends() {
    sticky(&[1, 1]);
}

#[test]
fn four_hundred_clients_stay_with_one_of_five_backends_by_weight() {
    sticky(&[1, 2, 3, 1, 1]);
}

#[test]
fn ipv6_clients_of_one_64_share_a_backend_and_those_of_another_need_not() {
    let hosts = Hosts::new();
    let services = "[[service]]\nname = 'web'\nlisten = ['[::]:80']\nbackends = ['[::1]:5000', '[::1]:5001']\n";
    let agent = Agent::start(&hosts.balancer, services);
    let near = |n: u128| match client_v6(1) {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + n).into()),
        IpAddr::V4(_) => client_v4(1),
    };
    let slots: Vec<u64> = (0..20)
        .map(|n| agent.lookup(near(n))["slot"].as_u64().unwrap())
        .collect();
    assert!(slots.iter().all(|slot| *slot == slots[0]), "{slots:?}");
    let others: Vec<u64> = (2..22)
        .map(|n| agent.lookup(client_v6(n))["slot"].as_u64().unwrap())
        .collect();
    assert!(others.iter().any(|slot| *slot != slots[0]), "{others:?}");
}
