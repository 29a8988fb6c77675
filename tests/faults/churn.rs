//! Changes under load: backends are added, removed, drained and reweighted. No connection fails, and
//! only clients of a changed backend move. A confirmed change survives a kill of the agent right after
//! it. An unconfirmed one is done wholly or not at all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use lb_tests::agent::{Agent, program};
use lb_tests::http;
use lb_tests::load::{Load, Visit};
use lb_tests::random::Random;
use lb_tests::stub_server::StubServer;
use lb_tests::topology::hosts::{Hosts, client_v4, client_v6, service_for};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

/// Dual stack, so that clients of both families come directly.
fn stand_ins(hosts: &Hosts, ports: impl Iterator<Item = u16>) -> Vec<StubServer> {
    let stand_in = |port: u16| StubServer::new(&hosts.balancer, &format!("[::]:{port}"), port);
    ports.map(stand_in).collect()
}

fn known_clients() -> Vec<IpAddr> {
    (1..=50)
        .map(client_v4)
        .chain((1..=50).map(client_v6))
        .collect()
}

/// The port of each client's backend.
fn homes(hosts: &Hosts, clients: &[IpAddr]) -> BTreeMap<IpAddr, u16> {
    let home = |client: &IpAddr| {
        let answer = http::get(*client, service_for(*client));
        (
            *client,
            answer
                .unwrap_or_else(|error| panic!("{client}: {error}"))
                .port,
        )
    };
    hosts.clients.run(|| clients.iter().map(home).collect())
}

fn nobody_failed_or_moved(visits: &[Visit], homes: &BTreeMap<IpAddr, u16>) {
    for visit in visits {
        match &visit.answer {
            Ok(answer) => assert_eq!(answer.port, homes[&visit.client], "{} moved", visit.client),
            Err(error) => panic!("{}: {error} (begun at {:?})", visit.client, visit.begun),
        }
    }
}

/// A change to a backend that is not in the file, which makes sense or not.
fn change(random: &mut Random) -> Vec<String> {
    let address = format!("127.0.0.1:{}", 5002 + random.below(3));
    let words: Vec<String> = match random.below(5) {
        0 => ["remove-backend", &address].map(str::to_owned).into(),
        1 => ["drain-backend", &address, "--timeout", "1s"]
            .map(str::to_owned)
            .into(),
        2 => ["reload"].map(str::to_owned).into(),
        _ => {
            let weight = (1 + random.below(5)).to_string();
            ["add-backend", &address, "--weight", &weight]
                .map(str::to_owned)
                .into()
        }
    };
    words
}

#[test]
fn under_constant_change_no_connection_fails_and_no_known_client_moves() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = stand_ins(&hosts, 5000..5005);
    let known = known_clients();
    let homes = homes(&hosts, &known);
    let mut random = Random::new();
    let load = Load::start(&hosts.clients, &known, 200);
    for round in 0..100 {
        let words = change(&mut random);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let outcome = agent.run(&words);
        // 1: a missing backend cannot be removed, an existing one cannot be added.
        assert!([0, 1].contains(&outcome.code), "{words:?}: {outcome:?}");
        // A client without an entry is served, too.
        let new = client_v4(101 + round);
        let answer = hosts.clients.run(|| http::get(new, service_for(new)));
        assert!(answer.is_ok(), "round {round}, after {words:?}: {answer:?}");
    }
    load.more(200);
    nobody_failed_or_moved(&load.finish(), &homes);
}

#[test]
fn an_agent_killed_amid_changes_leaves_a_whole_picture_and_loses_none_that_was_answered() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = stand_ins(&hosts, 5000..5005);
    let known = known_clients();
    let homes = homes(&hosts, &known);
    let mut random = Random::new();
    let load = Load::start(&hosts.clients, &known, 100);
    let mut there = false;
    for round in 0..25 {
        let verb = if there {
            "remove-backend"
        } else {
            "add-backend"
        };
        let mut command = hosts.balancer.command(program());
        command
            .args([verb, "127.0.0.1:5002"])
            .env("LB_AGENT_CONTROL", agent.control());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut asked = command.spawn().unwrap();
        // Not a wait for a condition: each round hits another moment.
        std::thread::sleep(Duration::from_micros(random.below(25_000)));
        agent.kill();
        let answered = asked.wait().unwrap().success();
        agent.start_again();
        let status = agent.status();
        let backends = status["services"][0]["backends"].as_array().unwrap();
        let now = backends
            .iter()
            .any(|backend| backend["address"] == "127.0.0.1:5002");
        println!(
            "round {round}: {verb}, answered {answered}, in force {}",
            now != there
        );
        assert!(
            !answered || now != there,
            "round {round}: {verb} was answered and is lost"
        );
        there = now;
        // The agent's report agrees with the kernel.
        let new = client_v6(101 + round);
        let expected = agent.looked_up_port(new);
        let answer = hosts.clients.run(|| http::get(new, service_for(new)));
        assert_eq!(answer.unwrap().port, expected, "round {round}");
    }
    load.more(50);
    nobody_failed_or_moved(&load.finish(), &homes);
}
