//! `mode = "http"`: clients behind one address spread over all backends and stay, by Socket.IO
//! session, by cookie, by header.

use std::net::IpAddr;

use lb_tests::agent::Agent;
use lb_tests::exchange::{self, Reply};
use lb_tests::load::Load;
use lb_tests::node::{self, Clients};
use lb_tests::pm2::Pm2;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::wait;
use serde_json::Value;

const PORTS: [u16; 4] = [5000, 5001, 5002, 5003];

fn service(stickiness: &str) -> String {
    let backends: Vec<String> = PORTS.iter().map(|p| format!("'127.0.0.1:{p}'")).collect();
    // Each worker takes its own turns: with many workers the spread would show only with many clients.
    format!(
        "l7_workers = 2\n[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\nbackends = [{}]\n\
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
    // A reload disturbs no client.
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
fn of_three_hundred_behind_one_address_only_those_of_a_restarted_backend_notice_and_come_back() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &service("'socketio'"));
    let pm2 = Pm2::start(&hosts.balancer, &agent, "server.js");
    let kinds = ["polling", "both", "websocket"];
    let mut open: Vec<Clients> = Vec::new();
    for kind in kinds {
        let mut clients = Clients::new(&hosts.clients, agent.dir(), kind);
        clients.open(kind, SERVICE_V4, &[client_v4(1); 100]);
        open.push(clients);
    }
    let others: Vec<IpAddr> = (2..=40).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &others, 100);
    let before: Vec<usize> = open.iter_mut().map(|all| all.per_port()[&5001]).collect();
    pm2.restart(5001);
    load.more(100);
    for ((kind, clients), on_it) in kinds.iter().zip(&mut open).zip(before) {
        eprintln!("{kind}: {on_it} have to come back");
        back_again(clients, on_it);
    }
    for visit in load.finish() {
        assert!(visit.answer.is_ok(), "{visit:?}");
    }
}

/// Checks that this many clients have lost their session and that all are on a copy that knows them. No
/// client may have seen an unknown session or a bad gateway.
#[track_caller]
fn back_again(clients: &mut Clients, lost: usize) {
    wait::until("the sessions to be over", || {
        (clients.disconnects().len() >= lost).then_some(())
    });
    clients.echo(1000);
    assert_eq!(clients.disconnects().len(), lost);
    for (error, times) in clients.errors() {
        // A request to a session that is over may be refused (410), which ends it too.
        for told in ["unknown", "400", "502", "503", "504"] {
            assert!(!error.contains(told), "{times} times {error}");
        }
    }
}

#[test]
fn a_backend_that_crashes_ends_its_sessions_and_nobody_elses() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &service("'socketio'"));
    let mut apps = node::copies(&hosts.balancer, PORTS, agent.dir());
    let mut clients = Clients::new(&hosts.clients, agent.dir(), "polling");
    clients.open("polling", SERVICE_V4, &[client_v4(1); 60]);
    let on_it = clients.per_port()[&5001];
    apps[1].kill();
    let listen = "127.0.0.1:5001".parse().unwrap();
    apps[1] = node::serve(&hosts.balancer, "server.js", listen, agent.dir());
    back_again(&mut clients, on_it);
}

#[test]
fn sessions_of_protocol_3_are_followed_too() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &service("'socketio'"));
    let _apps = node::copies(&hosts.balancer, PORTS, agent.dir());
    let ask = |method: &str, more: &str, lines: &[&str]| -> Reply {
        let what = format!("{method} /socket.io/?EIO=3&transport=polling{more}");
        exchange::ask(&hosts.clients, client_v4(1), SERVICE_V4, &what, lines)
    };
    for _ in 0..8 {
        // 96:0{"sid":"…",…}2:40
        let open = ask("GET", "", &[]);
        assert_eq!(open.status, 200, "{open:?}");
        let (_, rest) = open.body.split_once("\"sid\":\"").unwrap();
        let sid = format!("&sid={}", rest.split('"').next().unwrap());
        // A ping, and its pong: each is a connection of its own.
        for _ in 0..2 {
            let ping = ["Content-Length: 3", "Content-Type: text/plain", "", "1:2"];
            let took = ask("POST", &sid, &ping);
            assert_eq!((took.status, took.body.as_str()), (200, "ok"));
            let pong = ask("GET", &sid, &[]);
            assert!(pong.body.contains("1:3"), "{pong:?}");
        }
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
    // A draining backend keeps the clients that have its cookie; a backend that is gone does not.
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
fn a_header_or_a_key_of_the_query_takes_the_place_of_the_address() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &service("{ header = 'X-User' }"));
    let _apps = node::copies(&hosts.balancer, PORTS, agent.dir());
    spread_and_stay(|user, from| {
        let line = format!("X-User: {user}");
        let from = client_v4(from);
        exchange::ask(&hosts.clients, from, SERVICE_V4, "GET /id", &[&line]).port()
    });
    agent.configure(&service("{ query = 'room' }"));
    agent.ok(&["reload"]);
    spread_and_stay(|room, from| {
        let what = format!("GET /id?a=b&room={room}");
        exchange::ask(&hosts.clients, client_v4(from), SERVICE_V4, &what, &[]).port()
    });
}

/// Each key that `port_of` is asked for stays with its backend, from any client address.
fn spread_and_stay(port_of: impl Fn(&str, u16) -> u64) {
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

#[test]
fn lookup_names_the_backend_that_a_request_then_gets() {
    let hosts = Hosts::new();
    let served_by = "response_headers = [{ add = 'X-Served-By', value = '$backend' }]\n";
    let configured = |stickiness: &str| service(stickiness) + served_by;
    let agent = Agent::start(&hosts.balancer, &configured("{ cookie = 'lb' }"));
    let _apps = node::copies(&hosts.balancer, PORTS, agent.dir());
    let client = client_v4(1);
    let ask = |what: &str, lines: &[&str]| -> Reply {
        exchange::ask(&hosts.clients, client, SERVICE_V4, what, lines)
    };
    let lookup = |facts: &[&str]| -> Value {
        let client = client.to_string();
        let arguments = [&["lookup", &client, "--json"], facts].concat();
        serde_json::from_str(&agent.ok(&arguments)).unwrap()
    };
    let any = "a request without a session (cookie lb) goes to any of: 127.0.0.1:5000, ";
    let text = agent.ok(&["lookup", &client.to_string()]);
    assert!(text.starts_with(any), "{text}");
    for _ in 0..4 {
        let first = ask("GET /id", &[]);
        let pair = first.header("set-cookie").split(';').next().unwrap();
        let found = lookup(&["--cookie", pair]);
        assert_eq!(found["decided_by"], "cookie");
        assert_eq!(found["backend"], first.header("x-served-by"));
        let again = ask("GET /id", &[&format!("Cookie: {pair}")]);
        assert_eq!(found["backend"], again.header("x-served-by"));
    }
    agent.configure(&configured("{ header = 'X-User' }"));
    agent.ok(&["reload"]);
    for user in 0..8 {
        let line = format!("X-User: user{user}");
        let found = lookup(&["--header", &line]);
        assert_eq!(found["decided_by"], "header");
        let reply = ask("GET /id", &[&line]);
        assert_eq!(found["backend"], reply.header("x-served-by"), "{line}");
    }
    agent.configure(&configured("'socketio'"));
    agent.ok(&["reload"]);
    let poll = "GET /socket.io/?EIO=4&transport=polling";
    for _ in 0..4 {
        let open = ask(poll, &[]);
        let (_, rest) = open.body.split_once("\"sid\":\"").unwrap();
        let sid = rest.split('"').next().unwrap();
        let found = lookup(&["--sid", sid]);
        assert_eq!(found["decided_by"], "session");
        assert_eq!(found["backend"], open.header("x-served-by"));
    }
    let by_address = lookup(&[]);
    assert_eq!(by_address["decided_by"], "address");
    assert_eq!(by_address["candidates"].as_array().unwrap().len(), 4);
    let reply = ask("GET /id", &[]);
    assert_eq!(by_address["backend"], reply.header("x-served-by"));
}
