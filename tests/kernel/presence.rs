//! Whether the applications listen: told by `status` on every path, also of those that were there before the agent,
//! and by the log when it changes.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, wait};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Listens on `host`; on `[::]` also for IPv4.
fn bind(host: &Host, kind: Type, address: &str) -> OwnedFd {
    let address: SocketAddr = address.parse().unwrap();
    host.run(|| {
        let socket = Socket::new(Domain::for_address(address), kind, None).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(false).unwrap();
        }
        socket.set_reuse_address(true).unwrap();
        wait::until("the port", || socket.bind(&address.into()).ok());
        match kind {
            Type::STREAM => {
                socket.listen(16).unwrap();
                TcpListener::from(socket).into()
            }
            _ => UdpSocket::from(socket).into(),
        }
    })
}

/// Every way to listen: the bound address and that of the backend, without the port.
const WAYS: [(&str, &str); 5] = [
    ("127.0.0.1", "127.0.0.1"),
    ("0.0.0.0", "127.0.0.1"),
    ("[::]", "127.0.0.1"),
    ("[::1]", "[::1]"),
    ("[::]", "[::1]"),
];

/// The kinds of services, which take different paths: names, settings, and first ports of their backends.
const KINDS: [(&str, &str, Type, u16); 5] = [
    ("socket", "", Type::STREAM, 5000),
    ("proxy", "path = 'proxy'", Type::STREAM, 5100),
    ("http", "mode = 'http'", Type::STREAM, 5200),
    ("udp", "mode = 'udp'", Type::DGRAM, 5300),
    (
        "udp-proxy",
        "mode = 'udp'\npath = 'proxy'",
        Type::DGRAM,
        5400,
    ),
];

/// The port of each kind on which nothing listens.
const DEAD: u16 = 50;

#[test]
fn application_that_was_there_before_the_agent_listens_on_every_path() {
    let hosts = Hosts::new();
    let mut open = Vec::new();
    let mut services = String::new();
    for (n, (name, settings, kind, first)) in (80..).zip(KINDS) {
        let mut backends = vec![format!("'127.0.0.1:{}'", first + DEAD)];
        for (port, (bound, backend)) in (first..).zip(WAYS) {
            open.push(bind(&hosts.balancer, kind, &format!("{bound}:{port}")));
            backends.push(format!("'{backend}:{port}'"));
        }
        services += &format!(
            "[[service]]\nname = '{name}'\n{settings}\nlisten = ['0.0.0.0:{n}', '[::]:{n}']\n\
             backends = [{}]\n",
            backends.join(", ")
        );
    }
    for data_plane in ["bpf", "userspace"] {
        let agent = Agent::start_on(&hosts.balancer, &services, data_plane);
        let status = agent.status();
        for (service, (name, _, _, first)) in
            status["services"].as_array().unwrap().iter().zip(KINDS)
        {
            for backend in service["backends"].as_array().unwrap() {
                let address = backend["address"].as_str().unwrap();
                let is_dead = address.ends_with(&format!(":{}", first + DEAD));
                let expected = if is_dead { "no listener" } else { "up" };
                assert_eq!(
                    (&backend["listening"], &backend["state"]),
                    (&Value::Bool(!is_dead), &expected.into()),
                    "{data_plane}, {name}: {address}"
                );
            }
        }
    }
}

/// The number of lines of the agent's log that end with `text`.
fn told(agent: &Agent<'_>, text: &str) -> usize {
    let log = agent.log();
    log.lines().filter(|line| line.ends_with(text)).count()
}

#[test]
fn end_and_return_of_an_application_are_told_once_on_every_path() {
    let hosts = Hosts::new();
    let listen = || {
        KINDS.map(|(_, _, kind, port)| bind(&hosts.balancer, kind, &format!("127.0.0.1:{port}")))
    };
    let mut services = String::new();
    for (n, (name, settings, _, port)) in (80..).zip(KINDS) {
        services += &format!(
            "[[service]]\nname = '{name}'\n{settings}\nlisten = ['0.0.0.0:{n}']\n\
             backends = ['127.0.0.1:{port}']\n"
        );
    }
    let open = listen();
    let agent = Agent::start(&hosts.balancer, &services);
    let states = |expected: &str| {
        wait::until(expected, || {
            let status = agent.status();
            let services = status["services"].as_array().unwrap();
            let is = |service: &Value| service["backends"][0]["state"] == expected;
            services.iter().all(is).then_some(())
        });
    };
    states("up");
    // A restart that takes less than three seconds is not told.
    drop(open);
    states("no listener");
    let open = listen();
    states("up");
    drop(open);
    states("no listener");
    for (_, _, _, port) in KINDS {
        let line = format!("127.0.0.1:{port} listens no more");
        wait::until(&line, || (told(&agent, &line) > 0).then_some(()));
        assert_eq!(told(&agent, &line), 1);
    }
    let _open = listen();
    for (_, _, _, port) in KINDS {
        let line = format!("127.0.0.1:{port} listens again");
        wait::until(&line, || (told(&agent, &line) > 0).then_some(()));
    }
    states("up");
    let events = agent.ok(&["stats", "--json"]);
    assert!(
        events.contains("127.0.0.1:5000 listens no more"),
        "{events}"
    );
    assert!(events.contains("127.0.0.1:5000 listens again"), "{events}");
}

/// The longest time that one of several clients waits for its answer.
fn slowest(hosts: &Hosts) -> Duration {
    let waits = (1..=20).map(|n| {
        let begun = Instant::now();
        let answer = hosts.clients.run(|| http::get(client_v4(n), SERVICE_V4));
        assert_eq!(answer.unwrap().port, 5001);
        begun.elapsed()
    });
    waits.max().unwrap()
}

#[test]
fn dead_copy_of_an_http_service_costs_new_clients_no_time() {
    let hosts = Hosts::new();
    let services = "[[service]]\nname = 'web'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
                    affinity = { timeout = '0s' }\nbackends = ['127.0.0.1:5000', '127.0.0.1:5001']\n\
                    [service.http]\nupstream = { max_fails = 0 }\n";
    let agent = Agent::start(&hosts.balancer, services);
    let _app = node::copies(&hosts.balancer, [5001], agent.dir());
    // A port that never listened.
    let waited = slowest(&hosts);
    assert!(waited < Duration::from_millis(1500), "{waited:?}");
    // A copy that has been gone for longer than `restart_grace`.
    let gone = bind(&hosts.balancer, Type::STREAM, "127.0.0.1:5000");
    wait::until("the copy", || {
        (agent.backend("127.0.0.1:5000")["state"] == "up").then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    drop(gone);
    wait::until("its end", || {
        (told(&agent, "127.0.0.1:5000 listens no more") > 0).then_some(())
    });
    let waited = slowest(&hosts);
    assert!(waited < Duration::from_millis(1500), "{waited:?}");
}
