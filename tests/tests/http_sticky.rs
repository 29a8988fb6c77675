//! `mode = "http"`: clients behind one address spread over all backends and stay, by Socket.IO
//! session, by cookie, by header.

use std::net::IpAddr;

use lb_tests::agent::Agent;
use lb_tests::exchange::{self, Reply};
use lb_tests::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::node::{self, Clients};

const PORTS: [u16; 4] = [5000, 5001, 5002, 5003];

fn service(stickiness: &str) -> String {
    let backends: Vec<String> = PORTS.iter().map(|p| format!("'127.0.0.1:{p}'")).collect();
    format!(
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\nbackends = [{}]\n\
         [service.http]\nstickiness = {stickiness}\n",
        backends.join(", ")
    )
}

#[test]
fn three_hundred_socket_io_clients_behind_one_address_spread_evenly_and_stay() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &service("'socketio'"));
    let _apps = node::copies(&hosts.balancer, PORTS, agent.dir());
    let behind_one = |count| -> Vec<IpAddr> { vec![client_v4(1); count] };
    // Each poll is a connection of its own: a session that is not followed ends at once.
    let kinds = ["polling", "both", "websocket"];
    let mut open: Vec<Clients> = Vec::new();
    for kind in kinds {
        let mut clients = Clients::new(&hosts.clients, agent.dir(), kind);
        clients.open(kind, SERVICE_V4, &behind_one(100));
        clients.echo(100);
        let counts = clients.per_port();
        assert_eq!(counts.values().sum::<usize>(), 100);
        for port in PORTS {
            let count = counts.get(&port).copied().unwrap_or(0);
            assert!((20..=30).contains(&count), "{kind}: {counts:?}");
        }
        open.push(clients);
    }
    // Nobody notices a reload.
    agent.ok(&["reload"]);
    for clients in &mut open {
        clients.echo(1000);
        assert_eq!(clients.disconnects(), Vec::<IpAddr>::new());
    }
    // A backend that drains keeps its sessions and gets no new ones.
    agent.ok(&["drain-backend", "127.0.0.1:5002", "--timeout", "1h"]);
    let mut late = Clients::new(&hosts.clients, agent.dir(), "late");
    late.open("polling", SERVICE_V4, &behind_one(30));
    assert_eq!(late.per_port().get(&5002), None, "{:?}", late.per_port());
    late.echo(10);
    for clients in &mut open {
        clients.echo(1000);
        assert_eq!(clients.disconnects(), Vec::<IpAddr>::new());
    }
}

#[test]
fn a_cookie_keeps_each_browser_with_its_backend() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &service("{ cookie = 'lb' }"));
    let _apps = node::copies(&hosts.balancer, PORTS, agent.dir());
    let ask = |lines: &[&str]| -> Reply {
        exchange::ask(&hosts.clients, client_v4(1), SERVICE_V4, "GET /id", lines)
    };
    let mut cookies = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let reply = ask(&[]);
        let set = reply.header("set-cookie").to_owned();
        assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
        let pair = set.split(';').next().unwrap().to_owned();
        seen.insert(reply.port());
        cookies.push((format!("Cookie: a=b; {pair}"), reply.port()));
    }
    assert_eq!(seen.len(), 4, "browsers behind one address spread");
    for (cookie, port) in &cookies {
        for _ in 0..3 {
            let reply = ask(&[cookie]);
            assert_eq!(reply.port(), *port);
            assert_eq!(reply.header("set-cookie"), "", "it has one");
        }
    }
    // One that was made up is replaced.
    let forged = ask(&["Cookie: lb=00000000000000000000000000000000"]);
    assert!(forged.header("set-cookie").starts_with("lb="));
    // A backend that drains keeps those who have its cookie; one that is gone does not.
    let (cookie, port) = &cookies[0];
    let backend = format!("127.0.0.1:{port}");
    agent.ok(&["drain-backend", &backend, "--timeout", "1h"]);
    assert_eq!(ask(&[cookie]).port(), *port);
    agent.ok(&["remove-backend", &backend]);
    let moved = ask(&[cookie]);
    assert_ne!(moved.port(), *port);
    assert!(moved.header("set-cookie").starts_with("lb="));
}

#[test]
fn a_header_takes_the_place_of_the_address() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &service("{ header = 'X-User' }"));
    let _apps = node::copies(&hosts.balancer, PORTS, agent.dir());
    let port_of = |user: &str, from: u16| {
        let line = format!("X-User: {user}");
        let from = client_v4(from);
        exchange::ask(&hosts.clients, from, SERVICE_V4, "GET /id", &[&line]).port()
    };
    let users: Vec<String> = (0..24).map(|n| format!("user{n}")).collect();
    let ports: Vec<u64> = users.iter().map(|user| port_of(user, 1)).collect();
    let seen: std::collections::BTreeSet<&u64> = ports.iter().collect();
    assert!(
        seen.len() >= 3,
        "users behind one address spread: {ports:?}"
    );
    for (user, port) in users.iter().zip(&ports) {
        assert_eq!(port_of(user, 9), *port, "{user} from elsewhere");
    }
}
