//! The agent's main functions, in few tests. `cargo xtask test kernels` boots other kernels for these,
//! under an emulator that loads the programs slowly.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lb_tests::agent::Agent;
use lb_tests::flaky_backend::{FlakyBackend, Mood};
use lb_tests::stub_server::StubServer;
use lb_tests::tls::{Authority, curl};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4, client_v6, service_for};
use lb_tests::topology::routed::{ask_udp, udp_echo};
use lb_tests::{http, prog_run, wait};
use serde_json::Value;

/// Number of clients of each family.
const CLIENTS: u16 = 8;

const SERVICES: &str = "
[[service]]
name = 'web4'
listen = ['0.0.0.0:80']
backends = ['127.0.0.1:5000', '127.0.0.1:5001']
[[service]]
name = 'web6'
listen = ['[::]:80']
backends = ['[::1]:5000', '[::1]:5001']
[[service]]
name = 'echo'
mode = 'udp'
listen = ['10.99.0.1:5300']
backends = ['127.0.0.1:5300']
";

/// The application that answers a client, and the client address that it sees.
fn visit(hosts: &Hosts, client: IpAddr) -> (u16, String) {
    let answer = hosts
        .clients
        .run(|| http::get(client, service_for(client)))
        .unwrap_or_else(|error| panic!("{client}: {error}"));
    (answer.port, answer.remote)
}

/// The backend that `lookup` shows for a client.
fn looked_up(agent: &Agent<'_>, client: IpAddr) -> u16 {
    let service = if client.is_ipv4() { "web4" } else { "web6" };
    let client = client.to_string();
    let told = agent.ok(&["lookup", &client, "--service", service, "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let backend: SocketAddr = told["backend"].as_str().unwrap().parse().unwrap();
    backend.port()
}

#[test]
fn clients_are_served_while_the_agent_dies_and_comes_back_and_a_purge_leaves_nothing() {
    let hosts = Hosts::new();
    let balancer = &hosts.balancer;
    let mut agent = Agent::start(balancer, SERVICES);
    assert_eq!(agent.status()["agent"]["data_plane"], "bpf");
    let _web = ["127.0.0.1", "[::1]"].map(|ip| {
        [5000, 5001].map(|port| StubServer::new(balancer, &format!("{ip}:{port}"), port))
    });
    udp_echo(balancer, "0.0.0.0:5300".parse().unwrap());
    let clients: Vec<IpAddr> = (1..=CLIENTS)
        .flat_map(|n| [client_v4(n), client_v6(n)])
        .collect();
    let expected: Vec<u16> = clients
        .iter()
        .map(|client| looked_up(&agent, *client))
        .collect();
    let seen: BTreeSet<u16> = expected.iter().copied().collect();
    assert_eq!(seen, BTreeSet::from([5000, 5001]), "both have clients");

    let all_are_served = |when: &str| {
        for (client, expected) in clients.iter().zip(&expected) {
            for _ in 0..2 {
                let (port, remote) = visit(&hosts, *client);
                assert_eq!((port, remote), (*expected, client.to_string()), "{when}");
            }
        }
        // Clients on the balancer itself, which the kernel connects to a backend.
        for (from, to) in [
            ("127.0.0.1", "127.0.0.1:80"),
            ("10.99.0.1", "10.99.0.1:80"),
            ("::1", "[::1]:80"),
        ] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let answer = balancer.run(|| http::get(from, to));
            let answer = answer.unwrap_or_else(|error| panic!("{when}: {from} to {to}: {error}"));
            assert_eq!(answer.remote, from.to_string(), "{when}");
        }
        let echo = SocketAddr::new(SERVICE_V4.ip(), 5300);
        let seen = wait::until("an answer by UDP", || {
            hosts
                .clients
                .run(|| ask_udp(client_v4(1), echo, b"hello"))
                .ok()
        });
        assert_eq!(seen, client_v4(1), "{when}");
    };
    all_are_served("with the agent");
    agent.kill();
    all_are_served("without the agent");
    agent.start_again();
    all_are_served("with the next agent");
    agent.ok(&["add-backend", "127.0.0.1:5002", "--service", "web4"]);
    all_are_served("with one more backend");

    let objects = prog_run::pinned(agent.pin_dir());
    assert!(objects.len() > 20 && objects.iter().all(prog_run::Object::exists));
    agent.ok(&["stop", "--purge"]);
    agent.wait_for_end();
    wait::until("the kernel to let go of everything", || {
        let left = objects.iter().filter(|object| object.exists());
        (left.count() == 0).then_some(())
    });
    assert!(!agent.pin_dir().exists());
    let refused = hosts
        .clients
        .run(|| http::get(client_v4(1), SERVICE_V4))
        .unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn backend_that_is_drained_or_unhealthy_gets_nobody() {
    const BACKENDS: [&str; 2] = ["127.0.0.1:5000", "127.0.0.1:5001"];
    let hosts = Hosts::new();
    let apps = BACKENDS.map(|address| FlakyBackend::new(&hosts.balancer, address));
    let services = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                    backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n\
                    [service.health]\ninterval = '200ms'\ntimeout = '20s'\npath = '/'\n";
    let agent = Agent::start(&hosts.balancer, services);
    let state = |address: &str, state: &str| {
        wait::until(&format!("{address} {state}"), || {
            (agent.backend(address)["state"] == state).then_some(())
        });
    };
    let port = |n: u16| visit(&hosts, client_v4(n)).0;
    BACKENDS.iter().for_each(|address| state(address, "up"));

    let known: Vec<u16> = (1..=20).filter(|n| port(*n) == 5001).collect();
    assert!(!known.is_empty());
    agent.ok(&["drain-backend", BACKENDS[1], "--timeout", "1h"]);
    assert!(known.iter().all(|n| port(*n) == 5001), "known clients stay");
    assert!((21..=40).all(|n| port(n) == 5000), "new ones go elsewhere");
    let open = hosts
        .clients
        .run(|| http::connect(client_v4(known[0]), SERVICE_V4))
        .unwrap();
    assert_eq!(http::ask(&open).unwrap().port, 5001);
    agent.ok(&["drain-backend", BACKENDS[1], "--now", "--timeout", "1h"]);
    assert!(
        known.iter().all(|n| port(*n) == 5000),
        "known clients move at once"
    );
    assert_eq!(
        http::ask(&open).unwrap().port,
        5001,
        "open connections go on"
    );
    agent.ok(&["add-backend", BACKENDS[1]]);

    apps[0].feel(Mood::Status(503));
    state(BACKENDS[0], "down");
    wait::until("every client at the other backend", || {
        (41..=60).all(|n| port(n) == 5001).then_some(())
    });
    apps[0].feel(Mood::Well);
    state(BACKENDS[0], "up");
    assert!((61..=80).any(|n| port(n) == 5000), "it gets clients again");
}

#[test]
fn http_over_tls_is_answered() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let certificate = authority.issue("a", &["a.test"]).toml();
    let services = format!(
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         backends = ['127.0.0.1:5000']\n[service.tls]\nlisten = ['0.0.0.0:443']\n\
         certificates = [{certificate}]\n"
    );
    let _app = FlakyBackend::new(&hosts.balancer, "127.0.0.1:5000");
    let _agent = Agent::start(&hosts.balancer, &services);
    assert_eq!(visit(&hosts, client_v4(1)).0, 5000, "without TLS");
    let trust = authority.certificate();
    let trust = trust.to_str().unwrap();
    for (protocol, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let to = SocketAddr::new(SERVICE_V4.ip(), 443);
        let arguments = ["--cacert", trust, protocol, "-w", "\n%{http_version}"];
        let outcome = curl(
            &hosts.clients,
            to,
            &[&arguments[..], &["https://a.test/"]].concat(),
        );
        let (body, spoken) = outcome.stdout.rsplit_once('\n').unwrap_or_default();
        assert_eq!(spoken, version, "{outcome:?}");
        assert!(body.contains("\"port\":5000"), "{outcome:?}");
    }
}
