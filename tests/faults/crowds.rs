//! More clients than the agent has room for: those that are idle make room, commands are answered,
//! and the log stays short.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, wait};
use serde_json::Value;

fn service(mode: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = 'web'\nmode = '{mode}'\nlisten = ['0.0.0.0:80']\n\
         backends = ['127.0.0.1:5000']\n{more}\n"
    )
}

/// Connections that send nothing.
fn silent(hosts: &Hosts, count: usize) -> Vec<TcpStream> {
    hosts.clients.run(|| {
        let connect = |_| TcpStream::connect_timeout(&SERVICE_V4, Duration::from_secs(20)).ok();
        (0..count).filter_map(connect).collect()
    })
}

/// Whether a client is served at once.
fn served(hosts: &Hosts) -> Option<()> {
    let answer = hosts.clients.run(|| http::get(client_v4(9), SERVICE_V4));
    (answer.ok()?.port == 5000).then_some(())
}

/// How often `reason` was counted, over all services.
fn drops(agent: &Agent, reason: &str) -> u64 {
    let stats: Value = serde_json::from_str(&agent.ok(&["stats", "--json"])).unwrap();
    let drops = stats["drops"].as_array().unwrap().iter();
    let of_reason = drops.filter(|drop| drop["reason"] == reason);
    of_reason.map(|drop| drop["count"].as_u64().unwrap()).sum()
}

fn starts_with_few_descriptors(mode: &str) {
    let hosts = Hosts::new();
    let services = service(mode, "");
    let mut agent = Agent::start_on(&hosts.balancer, &services, "userspace");
    agent.kill();
    let run = agent.run_command();
    let mut command = hosts.balancer.command("prlimit");
    command.arg("--nofile=100:300").arg(run.get_program());
    command.args(run.get_args()).env_remove("NOTIFY_SOCKET");
    agent.start_as(command);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    assert_eq!(files.unwrap().split_whitespace().nth(3), Some("300"));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let _silent = silent(&hosts, 600);
    let begun = Instant::now();
    wait::until("a client to be served", || served(&hosts));
    agent.status();
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    // Connections whose backend found no descriptor have left, and others take their seats. In the end
    // only connections that were silent for long enough are left.
    let mut more = Vec::new();
    wait::until("room to be made", || {
        more.extend(silent(&hosts, 20));
        (drops(&agent, "made_room") >= 1).then_some(())
    });
    let notes = agent.status()["agent"]["notes"].to_string();
    assert!(notes.contains("descriptors were scarce"), "{notes}");
    let lines = agent.log().lines().count();
    assert!(lines < 30, "{lines} lines:\n{}", agent.log());
    let open = std::fs::read_dir(format!("/proc/{}/fd", agent.pid()));
    let open = open.unwrap().count();
    assert!(open < 300, "{open}");
}

#[test]
fn six_hundred_silent_tcp_clients_of_an_agent_with_three_hundred_descriptors() {
    starts_with_few_descriptors("tcp");
}

#[test]
fn six_hundred_silent_http_clients_of_an_agent_with_three_hundred_descriptors() {
    starts_with_few_descriptors("http");
}

#[test]
fn a_service_has_as_many_connections_as_it_may_and_says_so_before() {
    for mode in ["tcp", "http"] {
        let hosts = Hosts::new();
        let services = service(mode, "max_connections = 10");
        let agent = Agent::start_on(&hosts.balancer, &services, "userspace");
        let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
        let first = silent(&hosts, 8);
        wait::until("a note", || {
            let notes = agent.status()["agent"]["notes"].to_string();
            notes.contains("8 of 10 connections of web").then_some(())
        });
        let others = silent(&hosts, 12);
        wait::until("some to be refused", || {
            (drops(&agent, "max_connections") >= 1).then_some(())
        });
        wait::until("somebody idle to make room", || served(&hosts));
        assert!(drops(&agent, "made_room") >= 1);
        let log = agent.log();
        assert!(log.contains("(max_connections)"), "{log}");
        drop((first, others));
        wait::until("nobody to be left", || {
            let stats: Value = serde_json::from_str(&agent.ok(&["stats", "--json"])).unwrap();
            let mut families = stats["families"].as_array().unwrap().iter();
            let open = families.find(|family| family["name"] == "lb_agent_client_connections");
            (open.unwrap()["samples"][0]["value"] == 0.0).then_some(())
        });
    }
}

#[test]
fn host_without_a_port_left_towards_one_backend_takes_the_next_and_says_so() {
    let hosts = Hosts::new();
    let range = "net/ipv4/ip_local_port_range";
    hosts.balancer.set(range, "50000 50009");
    let both = "['127.0.0.1:5000', '127.0.0.1:5001']";
    let services = service("tcp", "").replace("['127.0.0.1:5000']", both);
    let agent = Agent::start_on(&hosts.balancer, &services, "userspace");
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    // All from one address, so one backend's.
    let _open = silent(&hosts, 15);
    let active = |backend: &str| agent.backend(backend)["active"].as_u64();
    wait::until("a connection to the other backend", || {
        let open = [active("127.0.0.1:5000")?, active("127.0.0.1:5001")?];
        (open.iter().sum::<u64>() == 15 && open.contains(&10)).then_some(())
    });
    let notes = agent.status()["agent"]["notes"].to_string();
    assert!(
        notes.contains("no port of this host was left for a connection to 127.0.0.1:500"),
        "{notes}"
    );
    assert!(notes.contains("ip_local_port_range"), "{notes}");
}
