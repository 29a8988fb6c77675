//! Affinity: how long a client is remembered, by which part of its address, and how it is served
//! without an entry. Two balancers with one `hash_seed` choose alike.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::stub_server::StubServer;
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, wait};
use serde_json::Value;

fn service(affinity: &str) -> String {
    format!(
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\naffinity = {{ {affinity} }}\n\
         backends = ['127.0.0.1:5000']\n"
    )
}

fn stand_ins(host: &Host, ports: &[u16]) -> Vec<StubServer> {
    let stand_in = |port: &u16| StubServer::new(host, &format!("127.0.0.1:{port}"), *port);
    ports.iter().map(stand_in).collect()
}

/// The port that `from` gets.
fn get(hosts: &Hosts, from: IpAddr) -> u16 {
    hosts
        .clients
        .run(|| http::get(from, SERVICE_V4))
        .unwrap()
        .port
}

/// Clients whose slot belongs to the backend on `port`.
fn owned_by(agent: &Agent<'_>, port: u16) -> impl Iterator<Item = IpAddr> {
    let first = Value::from(format!("127.0.0.1:{port}"));
    let owned = move |client: &IpAddr| agent.lookup(*client)["order"][0] == first;
    (1..=60).map(client_v4).filter(owned)
}

/// Affinity timeout of the tests with a short one.
const TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn a_client_is_remembered_for_the_timeout_after_its_last_connection() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &service("timeout = '2s'"));
    let _apps = stand_ins(&hosts.balancer, &[5000, 5001]);
    agent.ok(&["add-backend", "127.0.0.1:5001"]);
    let client = owned_by(&agent, 5001)
        .next()
        .expect("a client that would move");
    agent.ok(&["remove-backend", "127.0.0.1:5001"]);
    // Before the connection: it is remembered from some moment of that on.
    let first = Instant::now();
    let mut last = first;
    assert_eq!(get(&hosts, client), 5000);
    agent.ok(&["add-backend", "127.0.0.1:5001"]);

    // Renewed by every new connection, for longer than the timeout.
    while first.elapsed() < 3 * TIMEOUT {
        let before = Instant::now();
        let port = get(&hosts, client);
        // A machine that was busy elsewhere for most of the timeout says nothing.
        let age = last.elapsed();
        assert!(
            port == 5000 || age > TIMEOUT / 2,
            "forgotten {age:?} after its last connection"
        );
        if port != 5000 {
            println!("too slow a machine to see the renewal");
            break;
        }
        last = before;
    }

    // Without connections the client's entry expires, and its slot decides again.
    wait::until("the end of the affinity", || {
        (agent.lookup(client)["affinity"] == Value::Null).then_some(())
    });
    let found = agent.lookup(client);
    assert_eq!(
        (&found["reason"], &found["backend"]),
        (&"slot".into(), &"127.0.0.1:5001".into())
    );
    wait::until("it to be remembered at its new backend", || {
        assert_eq!(get(&hosts, client), 5001);
        (agent.lookup(client)["affinity"]["backend"] == "127.0.0.1:5001").then_some(())
    });
}

#[test]
fn without_affinity_the_slot_decides_alone() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &service("timeout = '0s'"));
    let _apps = stand_ins(&hosts.balancer, &[5000, 5001]);
    let everybody: Vec<IpAddr> = (1..=60).map(client_v4).collect();
    assert!(everybody.iter().all(|client| get(&hosts, *client) == 5000));
    agent.ok(&["add-backend", "127.0.0.1:5001"]);
    let moving: Vec<IpAddr> = owned_by(&agent, 5001).collect();
    for client in everybody {
        let expected = if moving.contains(&client) { 5001 } else { 5000 };
        assert_eq!(get(&hosts, client), expected, "{client}");
        assert_eq!(agent.lookup(client)["affinity"], Value::Null, "{client}");
    }
}

#[test]
fn clients_of_one_prefix_go_together() {
    let hosts = Hosts::new();
    let services = service("ipv4_prefix = 24").replace("5000'", "5000', '127.0.0.1:5001'");
    let agent = Agent::start(&hosts.balancer, &services);
    let _apps = stand_ins(&hosts.balancer, &[5000, 5001]);
    let home = agent.looked_up_port(client_v4(1));
    assert_eq!(agent.lookup(client_v4(1))["prefix"], "10.99.1.0/24");
    for n in 1..=60 {
        assert_eq!(get(&hosts, client_v4(n)), home, "client {n}");
    }
    // Another prefix need not: some of many do not.
    let other = |n: u8| agent.looked_up_port(IpAddr::from([10, n, 0, 1]));
    assert!((1..=60).any(|n| other(n) != home));
}

#[test]
fn two_balancers_with_one_seed_choose_alike_and_with_others_they_do_not() {
    let balancers = ["one", "two", "three"].map(Host::new);
    let seeds = [
        "00112233445566778899aabbccddeeff",
        "00112233445566778899aabbccddeeff",
    ];
    let services = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\nbackends = [";
    let orders = |backends: &str| format!("{services}{backends}]\n");
    let forwards = orders("'127.0.0.1:5000', '127.0.0.1:5001', '127.0.0.1:5002'");
    // The order in the file does not count.
    let backwards = orders("'127.0.0.1:5002', '127.0.0.1:5001', '127.0.0.1:5000'");
    let seeded = |seed: &str, services: &str| format!("hash_seed = '{seed}'\n{services}");
    let agents = [
        Agent::start(&balancers[0], &seeded(seeds[0], &forwards)),
        Agent::start(&balancers[1], &seeded(seeds[1], &backwards)),
        // A secret of its own.
        Agent::start(&balancers[2], &forwards),
    ];
    let choices = |agent: &Agent<'_>| -> Vec<(Value, Value)> {
        let found = (1..=40).map(|n| agent.lookup(client_v4(n)));
        found
            .map(|found| (found["slot"].clone(), found["order"][0].clone()))
            .collect()
    };
    let [one, two, three] = agents.each_ref().map(choices);
    assert_eq!(one, two);
    assert_ne!(one, three);
}
