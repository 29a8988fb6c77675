//! The agent is killed at fifty random moments of a reload, and reloads two hundred times under five
//! hundred open WebSockets. No connection fails, and clients move only for a reason.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use lb_tests::agent::{Agent, program};
use lb_tests::load::Load;
use lb_tests::node::{self, Clients};
use lb_tests::random::Random;
use lb_tests::stub_server::StubServer;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6, service_for};
use lb_tests::{http, wait};

/// With two backends or three.
fn services(three: bool) -> String {
    services_of("tcp", three)
}

fn services_of(mode: &str, three: bool) -> String {
    let third = if three { ", '127.0.0.1:5002'" } else { "" };
    format!(
        "[[service]]\nname = 'web'\nmode = '{mode}'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
         backends = ['127.0.0.1:5000', '127.0.0.1:5001'{third}]\n"
    )
}

fn backends(agent: &Agent<'_>) -> usize {
    agent.status()["services"][0]["backends"]
        .as_array()
        .unwrap()
        .len()
}

#[test]
fn an_agent_killed_at_any_moment_of_a_reload_leaves_a_whole_picture() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, &services(false));
    let _apps: Vec<StubServer> = (5000..5003)
        .map(|port| StubServer::new(&hosts.balancer, &format!("[::]:{port}"), port))
        .collect();
    let known: Vec<IpAddr> = (1..=50).map(client_v4).collect();
    let home = |client: &IpAddr| (*client, http::get(*client, SERVICE_V4).unwrap().port);
    let homes: BTreeMap<IpAddr, u16> = hosts.clients.run(|| known.iter().map(home).collect());
    let mut random = Random::new();
    let load = Load::start(&hosts.clients, &known, 100);
    for round in 0..50 {
        let three = round % 2 == 0;
        agent.configure(&services(three));
        let mut reload = hosts.balancer.command(program());
        reload
            .arg("reload")
            .env("LB_AGENT_CONTROL", agent.control())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut asked = reload.spawn().unwrap();
        // Not a wait for a condition: each round hits another moment.
        std::thread::sleep(Duration::from_micros(random.below(40_000)));
        agent.kill();
        let answered = asked.wait().unwrap().success();
        // Without an agent, the kernel serves by either the old or the new state.
        let new = [client_v4(51 + round), client_v6(51 + round)];
        for client in new {
            let answer = hosts.clients.run(|| http::get(client, service_for(client)));
            assert!(
                answer.is_ok(),
                "round {round}, answered {answered}: {answer:?}"
            );
        }
        agent.start_again();
        assert_eq!(backends(&agent), 2 + usize::from(three), "round {round}");
        let new = client_v6(101 + round);
        let expected = agent.looked_up_port(new);
        let answer = hosts.clients.run(|| http::get(new, SERVICE_V6)).unwrap();
        assert_eq!(answer.port, expected, "round {round}: it does what it says");
    }
    load.more(50);
    let visits = load.finish();
    println!("{} connections of known clients, none lost", visits.len());
    for visit in visits {
        let answer = visit
            .answer
            .unwrap_or_else(|error| panic!("{}: {error}", visit.client));
        // A client from before the third backend never has a reason to go there.
        assert_eq!(answer.port, homes[&visit.client], "{} moved", visit.client);
    }
}

#[test]
fn five_hundred_websockets_live_through_two_hundred_reloads() {
    websockets_live_through_reloads("tcp");
}

#[test]
fn five_hundred_websockets_through_the_agent_live_through_two_hundred_reloads() {
    websockets_live_through_reloads("http");
}

fn websockets_live_through_reloads(mode: &str) {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &services_of(mode, false));
    let _apps = [5000, 5001, 5002].map(|port| {
        let address = ([0; 16], port).into();
        node::serve(&hosts.balancer, "server.js", address, agent.dir())
    });
    let mut sockets = Clients::new(&hosts.clients, agent.dir(), "ws");
    let v4: Vec<IpAddr> = (1..=150).map(client_v4).collect();
    let v6: Vec<IpAddr> = (1..=100).map(client_v6).collect();
    for _ in 0..2 {
        sockets.open("ws", SERVICE_V4, &v4);
        sockets.open("ws", SERVICE_V6, &v6);
    }
    let known: Vec<IpAddr> = v4.iter().chain(&v6).copied().collect();
    let load = Load::start(&hosts.clients, &known, 50);
    for round in 0..200 {
        agent.configure(&services_of(mode, round % 2 == 0));
        agent.ok(&["reload"]);
    }
    sockets.echo(1000);
    assert_eq!(sockets.disconnects(), Vec::<IpAddr>::new());
    load.more(10);
    let visits = load.finish();
    let failed = visits.iter().filter(|visit| visit.answer.is_err()).count();
    assert_eq!(failed, 0, "of {}", visits.len());
    sockets.close();
    wait::until("no open connection", || {
        let status = agent.status();
        let backends = status["services"][0]["backends"]
            .as_array()
            .unwrap()
            .clone();
        let open: u64 = backends.iter().map(|b| b["active"].as_u64().unwrap()).sum();
        (open == 0).then_some(())
    });
}
