//! A SYN flood from made-up addresses: clients are served by SYN cookies, of the driver's program (`syn_cookies`) or
//! of the listeners.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};

use lb_tests::agent::Agent;
use lb_tests::syn_flood::{SynFlood, syn_frame};
use lb_tests::topology::routed::{BALANCER, CLIENTS, Net, client};
use lb_tests::{http, wait};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Half-open connections that the application's listener takes.
const BACKLOG: i32 = 32;
/// SYNs after which every queue is full: a quarter goes to each of four listen addresses, and the agent's own listeners
/// take 4,096.
const FULL: u64 = 40_000;

fn network() -> Net {
    let net = Net::new();
    net.ready_for_xdp();
    // Answers to made-up clients end here, without an ICMP error to the balancer.
    for route in ["198.18.0.0/15", "2001:db8:f::/48"] {
        let family = if route.contains(':') { "-6" } else { "-4" };
        net.router.ip(&[family, "route", "add", "blackhole", route]);
    }
    net
}

/// An application that sends back what it gets.
fn echo(net: &Net) {
    let listener = net.balancer.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(false).unwrap();
        let at: SocketAddr = "[::]:5000".parse().unwrap();
        socket.bind(&at.into()).unwrap();
        socket.listen(BACKLOG).unwrap();
        std::net::TcpListener::from(socket)
    });
    net.balancer.spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
}

fn services(agent: &str) -> String {
    format!(
        "interfaces = [{{ name = 'eth0', attach = 'xdp' }}]\n{agent}\n\
         [[service]]\nname = 'tcp'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
         backends = ['127.0.0.1:5000', '[::1]:5000']\n\
         [[service]]\nname = 'site'\nmode = 'http'\nlisten = ['0.0.0.0:81', '[::]:81']\n\
         backends = ['127.0.0.1:5000']\n"
    )
}

fn at(port: u16) -> [SocketAddr; 2] {
    BALANCER.map(|ip| SocketAddr::new(ip, port))
}

fn flood(net: &Net) -> SynFlood {
    let mac = net.balancer.mac("eth0");
    let to = [at(80), at(81)].concat();
    let flood = SynFlood::start(&net.router, "balancer0", mac, &to);
    wait::until("the queues to be full", || {
        (flood.sent() > FULL).then_some(())
    });
    flood
}

/// Exchanges more than a segment's worth of data on a new connection.
fn visit(net: &Net, from: IpAddr, to: SocketAddr) -> io::Result<()> {
    net.clients.run(|| {
        let mut stream = http::connect(from, to)?;
        let sent = vec![b'x'; 20_000];
        stream.write_all(&sent)?;
        let mut seen = vec![0; sent.len()];
        stream.read_exact(&mut seen)?;
        assert_eq!(seen, sent);
        Ok(())
    })
}

fn all_visit(net: &Net) {
    for n in 1..=CLIENTS {
        for (from, to) in client(n).into_iter().zip(at(80)) {
            visit(net, from, to).unwrap_or_else(|error| panic!("{from}: {error}"));
        }
        for (from, to) in client(n).into_iter().zip(at(81)) {
            net.clients
                .run(|| http::connect(from, to))
                .unwrap_or_else(|error| panic!("{from} to the site: {error}"));
        }
    }
}

/// The kernel's count of cookies by `event`.
fn of_listeners(agent: &Agent<'_>, event: &str) -> f64 {
    let stats: Value = serde_json::from_str(&agent.ok(&["stats", "--json"])).unwrap();
    let families = stats["families"].as_array().unwrap();
    let cookies = families
        .iter()
        .find(|family| family["name"] == "lb_agent_syn_cookies")
        .unwrap();
    let samples = cookies["samples"].as_array().unwrap();
    let found = samples
        .iter()
        .find(|sample| sample["labels"][0][1] == event);
    found.unwrap()["value"].as_f64().unwrap()
}

#[test]
fn flood_is_answered_at_the_driver_and_clients_are_served() {
    let net = network();
    echo(&net);
    let agent = Agent::start(&net.balancer, &services("syn_cookies = true"));
    let status = agent.status();
    let at_driver = &status["agent"]["packets"]["interfaces"][0];
    assert_eq!(at_driver["mode"], "xdp", "{status:#}");
    all_visit(&net);
    assert_eq!(agent.packets("syn_cookie"), 0, "without a flood");
    let banned = client(CLIENTS)[0];
    let flood = flood(&net);
    all_visit(&net);
    let sent = flood.sent();
    let answered = agent.packets("syn_cookie");
    assert!(answered > sent / 2, "{answered} of {sent}");
    assert!(of_listeners(&agent, "accepted") >= f64::from(CLIENTS));
    let by_listeners = of_listeners(&agent, "sent");
    assert!(
        by_listeners < answered as f64 / 10.0,
        "{by_listeners} by listeners, {answered} by the driver"
    );
    agent.ok(&["ban", &banned.to_string()]);
    let error = visit(&net, banned, at(80)[0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    drop(flood);
}

#[test]
fn cookies_outlive_the_agent_and_end_with_the_setting() {
    let net = network();
    echo(&net);
    let mut agent = Agent::start(&net.balancer, &services("syn_cookies = true"));
    let _flood = flood(&net);
    agent.kill();
    all_visit_tcp(&net);
    agent.start_again();
    let before = agent.packets("syn_cookie");
    wait::until("more cookies", || {
        (agent.packets("syn_cookie") > before).then_some(())
    });
    agent.kill();
    agent.configure(&services(""));
    agent.start_again();
    wait::until("no program at the driver", || {
        agent.status()["agent"]["packets"].is_null().then_some(())
    });
    all_visit(&net);
    assert!(of_listeners(&agent, "sent") > 0.0, "the listeners' cookies");
}

/// The HTTP service has no listener without an agent.
fn all_visit_tcp(net: &Net) {
    for (from, to) in client(1).into_iter().zip(at(80)) {
        visit(net, from, to).unwrap();
    }
}

#[test]
fn syns_for_other_hosts_and_of_open_connections_get_no_cookie() {
    let net = network();
    // A listener always sends cookies.
    net.balancer.set("net/ipv4/tcp_syncookies", "2");
    echo(&net);
    let agent = Agent::start(&net.balancer, &services("syn_cookies = true"));
    let mac = net.balancer.mac("eth0");
    let send = |from: SocketAddr, to: SocketAddr| {
        let mut frame = syn_frame(from, to);
        frame[..6].copy_from_slice(&mac);
        net.router.send_frame("balancer0", &frame);
    };
    let counts_up = |what: &str, before: u64| {
        wait::until(what, || {
            (agent.packets("syn_cookie") > before).then_some(())
        });
    };
    let from = SocketAddr::new(client(1)[0], 40_000);
    let open = net.clients.run(|| {
        let mut stream = http::connect(client(1)[0], at(80)[0]).unwrap();
        stream.write_all(b"?").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream
    });
    counts_up("the cookie of a client", 0);
    let before = agent.packets("syn_cookie");
    net.balancer.set("net/ipv4/ip_forward", "1");
    // A host behind the balancer, the ports of an open connection, a source that no wire has; then one that gets a
    // cookie, which tells that the others are through.
    send(from, "10.80.4.2:80".parse().unwrap());
    send(open.local_addr().unwrap(), at(80)[0]);
    send("127.0.0.9:40000".parse().unwrap(), at(80)[0]);
    send(from, at(80)[0]);
    counts_up("the cookie of a made-up client", before);
    assert_eq!(agent.packets("syn_cookie"), before + 1);
}

#[test]
fn interface_without_xdp_leaves_cookies_to_the_listeners() {
    let net = network();
    echo(&net);
    net.balancer.set("net/ipv4/tcp_syncookies", "0");
    let text = services("syn_cookies = true").replace("attach = 'xdp'", "attach = 'tc'");
    let agent = Agent::start(&net.balancer, &text);
    let status = agent.status();
    let interface = &status["agent"]["packets"]["interfaces"][0];
    assert_eq!(interface["mode"], "none", "{status:#}");
    let why = interface["why"].as_str().unwrap();
    assert!(
        why.starts_with("SYN cookies come from the listeners alone: "),
        "{why}"
    );
    let notes = status["agent"]["notes"].to_string();
    assert!(notes.contains("net.ipv4.tcp_syncookies is 0"), "{notes}");
}
