//! A draining backend keeps its clients until the drain is over, and gets no others. Its remaining
//! connections are counted down. At the end they are left alone, closed or kept.

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::process::{Command, Stdio};

use lb_tests::agent::{Agent, Outcome, program};
use lb_tests::node::{self, Clients};
use lb_tests::process::Process;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::topology::routed::{BALANCER, Bulk, CONTAINER, Net, bulk_server, client};
use lb_tests::{http, wait};
use serde_json::Value;

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
        (agent.backend("127.0.0.1:5001")["state"] == "drained").then_some(())
    });
    assert!(known.iter().all(|n| get(*n) == 5000), "the drain is over");
    sockets.echo(1000);
    assert_eq!(
        sockets.disconnects(),
        Vec::<IpAddr>::new(),
        "open connections are not cut"
    );
    wait::until("nothing but the WebSockets to be open", || {
        let active = agent.backend("127.0.0.1:5001")["active"].as_u64();
        (active == Some(known.len() as u64)).then_some(())
    });

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
        (agent.backend("127.0.0.1:5001")["state"] == "drained").then_some(())
    });
}

/// Connections from so many clients to the backend on port 5001, open.
fn connections(hosts: &Hosts, count: usize) -> Vec<TcpStream> {
    let open = |n| {
        let stream = http::connect(client_v4(n), SERVICE_V4).unwrap();
        let port = http::ask(&stream).unwrap().port;
        (port == 5001).then_some(stream)
    };
    hosts
        .clients
        .run(|| (1..=200).filter_map(open).take(count).collect())
}

/// `drain-backend 127.0.0.1:5001 --wait …`
fn draining(agent: &Agent<'_>, more: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(["drain-backend", "127.0.0.1:5001", "--wait"])
        .args(more)
        .env("LB_AGENT_CONTROL", agent.control());
    command
}

/// The same, while `meanwhile` happens.
fn drain_and_wait(agent: &Agent<'_>, more: &[&str], meanwhile: impl FnOnce()) -> Outcome {
    let mut command = draining(agent, more);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let waiting = command.spawn().unwrap();
    meanwhile();
    waiting.wait_with_output().unwrap().into()
}

#[test]
fn waiting_counts_down_and_ends_when_the_last_connection_does() {
    for data_plane in ["bpf", "userspace"] {
        let hosts = Hosts::new();
        let agent = Agent::start_on(&hosts.balancer, SERVICES, data_plane);
        let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
        let mut open = connections(&hosts, 3);
        assert_eq!(open.len(), 3);
        let command = draining(&agent, &["--timeout", "1h"]);
        let mut waiting = Process::start(command, &agent.dir().join("waiting.log"));
        waiting.wait_for("connections left");
        assert!(
            open.iter().all(|stream| http::ask(stream).is_ok()),
            "they go on"
        );
        open.clear();
        assert!(waiting.wait().success(), "{}", waiting.printed());
        let printed = waiting.printed();
        let lines: Vec<&str> = printed.lines().collect();
        assert!(
            lines[0].starts_with("draining 127.0.0.1:5001 of web"),
            "{lines:?}"
        );
        assert!(
            lines[1].starts_with(
                "3 connections are open; they stay until their clients close them: --at-end close"
            ),
            "{lines:?}"
        );
        assert!(
            lines[2].starts_with("127.0.0.1:5001: 3 connections left, "),
            "{lines:?}"
        );
        assert_eq!(lines.last(), Some(&"127.0.0.1:5001 is empty"));
        let backend = agent.backend("127.0.0.1:5001");
        assert_eq!(backend["clients"], "none", "it can be stopped: {backend}");
        // A second drain has no connections to wait for.
        let outcome = drain_and_wait(&agent, &["--json"], || ());
        let told: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(told["empty"], true, "{told}");
    }
}

#[test]
fn what_is_left_at_the_end_is_left_closed_or_kept_by_choice() {
    for data_plane in ["bpf", "userspace"] {
        let hosts = Hosts::new();
        let agent = Agent::start_on(&hosts.balancer, SERVICES, data_plane);
        let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
        let open = connections(&hosts, 2);
        let client = open[0].local_addr().unwrap().ip();
        let get = || {
            hosts
                .clients
                .run(|| http::get(client, SERVICE_V4))
                .unwrap()
                .port
        };

        let more = ["--timeout", "1s", "--at-end", "keep"];
        let outcome = drain_and_wait(&agent, &more, || ());
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert!(
            outcome.stderr.contains("still has 2 connections left"),
            "{outcome:?}"
        );
        assert_eq!(get(), 5001, "kept");
        assert!(open.iter().all(|stream| http::ask(stream).is_ok()));

        let outcome = drain_and_wait(&agent, &["--timeout", "1s"], || ());
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert_eq!(get(), 5000, "left");
        assert!(open.iter().all(|stream| http::ask(stream).is_ok()));

        let more = ["--timeout", "1s", "--at-end", "close"];
        let outcome = drain_and_wait(&agent, &more, || ());
        assert_eq!(
            outcome.code,
            0,
            "{data_plane}: {outcome:?}\n{}",
            agent.log()
        );
        assert!(
            open.iter().all(|stream| http::ask(stream).is_err()),
            "closed"
        );
        assert_eq!(agent.backend("127.0.0.1:5001")["active"], 0);
        let others = hosts
            .clients
            .run(|| http::connect(client_v4(1), SERVICE_V4));
        assert!(http::ask(&others.unwrap()).is_ok(), "nobody else's is");
    }
}

#[test]
fn websockets_through_the_agent_are_closed_at_the_end() {
    let hosts = Hosts::new();
    let services = SERVICES.replace("listen", "mode = 'http'\nlisten");
    let agent = Agent::start(&hosts.balancer, &services);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let clients: Vec<IpAddr> = (1..=30).map(client_v4).collect();
    let mut sockets = Clients::new(&hosts.clients, agent.dir(), "ws");
    sockets.open("ws", SERVICE_V4, &clients);
    let open = |address: &str| agent.backend(address)["active"].as_u64().unwrap();
    let (others, own) = (open("127.0.0.1:5000"), open("127.0.0.1:5001"));
    assert!(own > 0 && others > 0 && own + others == 30);
    assert_eq!(agent.backend("127.0.0.1:5001")["websockets"], own);
    let outcome = drain_and_wait(&agent, &["--timeout", "1s"], || ());
    assert_eq!(outcome.code, 1, "{outcome:?}");
    let told = format!("{own} WebSockets are open; they stay until their clients close them");
    assert!(outcome.stdout.contains(&told), "{outcome:?}");
    assert_eq!(agent.backend("127.0.0.1:5001")["state"], "drained");
    let more = ["--timeout", "1s", "--at-end", "close"];
    let outcome = drain_and_wait(&agent, &more, || ());
    assert_eq!(outcome.code, 0, "{outcome:?}\n{}", agent.log());
    wait::until("clients to notice", || {
        (sockets.disconnects().len() as u64 == own).then_some(())
    });
    assert_eq!(open("127.0.0.1:5000"), others, "nobody else's is closed");
}

#[test]
fn connections_on_the_nat_path_are_closed_at_the_end_and_only_those() {
    let net = Net::new();
    let [address, _] = CONTAINER;
    for port in [5000, 5001] {
        bulk_server(&net.container, (address, port).into());
    }
    let services = format!(
        "interfaces = [{{ name = 'eth0', attach = 'tc' }}]\n\
         hash_seed = '000102030405060708090a0b0c0d0e0f'\n[[service]]\nname = 'web'\n\
         listen = ['{}:80']\nbackends = ['{address}:5000', '{address}:5001']\n",
        BALANCER[0]
    );
    let agent = Agent::start(&net.balancer, &services);
    let connect = |n: u16| {
        let [from, _] = client(n);
        let to = (BALANCER[0], 80).into();
        let mut bulk = net.clients.run(|| Bulk::connect(from, to).unwrap());
        bulk.transfer(10, 10).unwrap();
        (agent.looked_up_port(from), bulk)
    };
    let open: Vec<(u16, Bulk)> = (1..=12).map(connect).collect();
    let (drained, others): (Vec<_>, Vec<_>) = open.into_iter().partition(|(port, _)| *port == 5001);
    assert!(!drained.is_empty() && !others.is_empty());
    let target = format!("{address}:5001");
    agent.ok(&[
        "drain-backend",
        &target,
        "--timeout",
        "1s",
        "--at-end",
        "close",
        "--wait",
    ]);
    for (_, mut bulk) in drained {
        let error = bulk.end();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    for (_, mut bulk) in others {
        bulk.transfer(1000, 1000).unwrap();
    }
    // Back in service it keeps new connections, although it has just been closed.
    agent.ok(&["add-backend", &target]);
    let back = (13..=20).map(connect).find(|(port, _)| *port == 5001);
    let (_, mut bulk) = back.expect("a client of the backend");
    wait::until("two looks at the flows", || {
        (agent.backend(&target)["active"] == 1).then_some(())
    });
    bulk.transfer(1000, 1000).unwrap();
}

#[test]
fn known_clients_move_at_once_with_now_and_their_open_connections_go_on() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let open = connections(&hosts, 1);
    let client = open[0].local_addr().unwrap().ip();
    agent.ok(&[
        "drain-backend",
        "127.0.0.1:5001",
        "--now",
        "--timeout",
        "1h",
    ]);
    let backend = agent.backend("127.0.0.1:5001");
    assert_eq!(
        (&backend["state"], &backend["clients"]),
        (&"draining".into(), &"none".into())
    );
    assert_eq!(
        hosts
            .clients
            .run(|| http::get(client, SERVICE_V4))
            .unwrap()
            .port,
        5000
    );
    assert!(http::ask(&open[0]).is_ok());
    agent.ok(&["add-backend", "127.0.0.1:5001"]);
    assert_eq!(agent.backend("127.0.0.1:5001")["state"], "up");
    let again = agent.ok(&["add-backend", "127.0.0.1:5001", "--ensure"]);
    assert!(again.contains("already a backend"), "{again}");
}

#[test]
fn an_agent_that_is_started_again_closes_what_was_to_be_closed() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let open = connections(&hosts, 1);
    agent.ok(&[
        "drain-backend",
        "127.0.0.1:5001",
        // For longer than it takes to kill an agent.
        "--timeout",
        "5s",
        "--at-end",
        "close",
    ]);
    agent.kill();
    assert!(http::ask(&open[0]).is_ok(), "nobody is there to close it");
    agent.start_again();
    wait::until("the end of the connection", || http::ask(&open[0]).err());
}

#[test]
fn an_agent_that_comes_long_after_the_end_closes_what_was_to_be_closed() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let open = connections(&hosts, 1);
    let drain = ["drain-backend", "127.0.0.1:5001", "--timeout", "10s"];
    agent.ok(&[&drain[..], &["--at-end", "close"]].concat());
    agent.kill();
    assert!(http::ask(&open[0]).is_ok(), "nobody is there to close it");
    // As if a minute had passed.
    let state = agent.dir().join("state/state.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    let until = kept["drained"][0]["until_unix_ms"].as_u64().unwrap();
    kept["drained"][0]["until_unix_ms"] = (until - 60_000).into();
    fs::write(&state, kept.to_string()).unwrap();
    agent.start_again();
    wait::until("the end of the connection", || http::ask(&open[0]).err());
}

#[test]
fn a_backend_that_was_removed_and_added_drains_what_it_had_before_too() {
    for mode in ["tcp", "http"] {
        let hosts = Hosts::new();
        let services = SERVICES.replace("listen", &format!("mode = '{mode}'\nlisten"));
        let agent = Agent::start(&hosts.balancer, &services);
        let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
        let mut sockets = Clients::new(&hosts.clients, agent.dir(), "ws");
        let from: Vec<IpAddr> = (1..=20).map(client_v4).collect();
        sockets.open("ws", SERVICE_V4, &from);
        let its = sockets.per_port()[&5001];
        let address = "127.0.0.1:5001";
        agent.ok(&["remove-backend", address]);
        agent.ok(&["add-backend", address]);
        sockets.echo(1000);
        assert_eq!(agent.backend(address)["active"], its, "{mode}");
        let drain = ["--timeout", "100ms", "--at-end", "close", "--wait"];
        agent.ok(&[&["drain-backend", address], &drain[..]].concat());
        wait::until("its WebSockets to end", || {
            (sockets.disconnects().len() == its).then_some(())
        });
    }
}
