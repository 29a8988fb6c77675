//! Backends that answer their clients themselves: wrapped in IPv4, IPv6 and UDP, or by MAC address.
//! Open connections stay with their backend when slots change hands, and two balancers choose alike.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_tests::agent::{Agent, program};
use lb_tests::node::{self, Clients};
use lb_tests::process::Process;
use lb_tests::topology::hosts::Host;
use lb_tests::topology::routed::{
    BALANCER, Bulk, CONTAINER, Net, SERVER, VIP, ask_udp, behind_the_driver, bulk_server, client,
    refused_udp, refusing, udp_echo,
};
use lb_tests::{http, wait};
use socket2::{Domain, Socket, Type};

/// One service of each family and protocol on the `dsr` path.
fn services(encapsulation: &str, backends: &[[IpAddr; 2]]) -> String {
    let service = |mode: &str, family: usize| {
        let at = |addresses: &[IpAddr; 2]| format!("'{}'", SocketAddr::new(addresses[family], 80));
        let list: Vec<String> = backends.iter().map(at).collect();
        format!(
            "[[service]]\nname = '{mode}{}'\nmode = '{mode}'\npath = 'dsr'\n\
             encapsulation = '{encapsulation}'\nlisten = [{}]\n\
             affinity = {{ ipv6_prefix = 128 }}\nbackends = [{}]\n",
            [4, 6][family],
            at(&VIP),
            list.join(", "),
        )
    };
    let seed = "hash_seed = '000102030405060708090a0b0c0d0e0f'\n".to_owned();
    let all = [("tcp", 0), ("tcp", 1), ("udp", 0), ("udp", 1)];
    all.iter()
        .fold(seed, |text, (mode, family)| text + &service(mode, *family))
}

/// Makes a host a backend: it unwraps packets, and has the service's addresses, for which no host asks
/// it.
fn backend(host: &Host, dir: &std::path::Path, name: &str) -> Process {
    for (address, length) in VIP.into_iter().zip([32, 128]) {
        host.address(&format!("{address}/{length}"), "lo");
        bulk_server(host, SocketAddr::new(address, 80));
        udp_echo(host, SocketAddr::new(address, 80));
    }
    let mut command = host.command(program());
    command.args(["decap", "--interface", "eth0"]);
    let mut decap = Process::start(command, &dir.join(format!("decap-{name}.log")));
    decap.wait_for("eth0");
    decap
}

fn visit(net: &Net, from: IpAddr, bytes: u64) -> std::io::Result<IpAddr> {
    let to = SocketAddr::new(VIP[usize::from(from.is_ipv6())], 80);
    net.clients
        .run(|| Bulk::connect(from, to)?.transfer(bytes, bytes))
}

/// The network between a client and a backend of the `dsr` path.
#[derive(Clone, Copy, Default)]
struct Way {
    /// The MTU towards clients is a small one.
    narrow: bool,
    /// The programs are at the driver.
    xdp: bool,
    /// IPv4 services have backends that are known by their IPv6 addresses, and the other way round.
    crossed: bool,
}

fn answered(encapsulation: &str, way: Way) {
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let _decap = backend(&net.server, dir.path(), "server");
    if way.narrow {
        net.narrow(1400);
    }
    let [v4, v6] = SERVER;
    let backends = if way.crossed { [v6, v4] } else { [v4, v6] };
    let mut text = services(encapsulation, &[backends]);
    if way.xdp {
        net.ready_for_xdp();
        text = format!("interfaces = [{{ name = 'eth0', attach = 'xdp' }}]\n{text}");
    }
    let agent = Agent::start(&net.balancer, &text);
    let status = agent.status();
    let place = &status["agent"]["packets"]["interfaces"][0]["mode"];
    let expected = if way.xdp { "xdp" } else { behind_the_driver() };
    assert_eq!(place, expected, "{status:#}");
    for service in agent.status()["services"].as_array().unwrap() {
        assert_eq!(service["backends"][0]["path"], "dsr", "{service:#}");
    }
    for from in client(1).into_iter().chain(client(2)) {
        let seen = wait::until("the backend to answer", || visit(&net, from, 500_000).ok());
        assert_eq!(seen, from);
        let to = SocketAddr::new(VIP[usize::from(from.is_ipv6())], 80);
        let seen = wait::until("an answer by UDP", || {
            net.clients.run(|| ask_udp(from, to, b"hello")).ok()
        });
        assert_eq!(seen, from);
        // As large as the client's wire takes, and larger: a packet that is too large when wrapped is
        // answered with the path MTU.
        for length in [1440, 6000] {
            let text = vec![b'x'; length];
            let seen = wait::until(&format!("an answer to {from} of {length} bytes"), || {
                net.clients.run(|| ask_udp(from, to, &text)).ok()
            });
            assert_eq!(seen, from);
        }
    }
    assert!(
        agent.packets("icmp_sent") >= 2,
        "clients were told what fits"
    );
}

#[test]
fn wrapped_in_ip_packets_arrive() {
    answered("auto", Way::default());
}

#[test]
fn wrapped_in_udp_packets_arrive() {
    answered("gue", Way::default());
}

#[test]
fn the_other_address_family_carries_too() {
    for encapsulation in ["auto", "gue"] {
        let way = Way {
            crossed: true,
            ..Way::default()
        };
        answered(encapsulation, way);
    }
}

#[test]
fn packets_are_wrapped_at_the_driver_too() {
    for encapsulation in ["auto", "gue"] {
        let way = Way {
            xdp: true,
            ..Way::default()
        };
        answered(encapsulation, way);
    }
}

#[test]
fn segments_are_made_to_fit_and_the_mtu_of_the_way_is_found() {
    let way = Way {
        narrow: true,
        ..Way::default()
    };
    answered("auto", way);
}

#[test]
fn by_mac_address_packets_arrive_as_they_are() {
    let net = Net::new();
    for (address, length) in VIP.into_iter().zip([32, 128]) {
        net.container.address(&format!("{address}/{length}"), "lo");
        bulk_server(&net.container, SocketAddr::new(address, 80));
    }
    let agent = Agent::start(&net.balancer, &services("l2", &[CONTAINER]));
    for from in client(3) {
        let seen = wait::until("the backend to answer", || visit(&net, from, 100_000).ok());
        assert_eq!(seen, from, "{}", agent.ok(&["status"]));
    }
}

#[test]
fn open_connections_stay_when_slots_change_hands() {
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let _decaps = [
        backend(&net.server, dir.path(), "server"),
        backend(&net.container, dir.path(), "container"),
    ];
    let mut agent = Agent::start(&net.balancer, &services("auto", &[SERVER]));
    let mut open: Vec<Bulk> = (1..=10)
        .flat_map(client)
        .map(|from| {
            let to = SocketAddr::new(VIP[usize::from(from.is_ipv6())], 80);
            let connect = || net.clients.run(|| Bulk::connect(from, to)).ok();
            let mut bulk = wait::until("a connection", connect);
            bulk.transfer(10_000, 10_000).unwrap();
            bulk
        })
        .collect();
    let mut pass = |when: &str| {
        for bulk in &mut open {
            bulk.transfer(20_000, 20_000)
                .unwrap_or_else(|error| panic!("{when}: {error}"));
        }
    };
    for (address, service) in CONTAINER.into_iter().zip(["tcp4", "tcp6"]) {
        let address = SocketAddr::new(address, 80).to_string();
        agent.ok(&["add-backend", &address, "--service", service]);
    }
    pass("after another backend has taken half of the slots");
    agent.kill();
    agent.start_again();
    pass("after a restart");
    for from in (11..=20).flat_map(client) {
        visit(&net, from, 1000).unwrap();
    }
    assert!(agent.packets("tracked") > 0, "what is new is tracked");
}

#[test]
fn a_router_may_move_flows_from_one_balancer_to_another() {
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let (other, other_addresses) = net.another("other", 5);
    let (twin, twin_addresses) = net.another("twin", 6);
    let _decaps = [
        backend(&net.server, dir.path(), "server"),
        backend(&other, dir.path(), "other"),
    ];
    let services = services("auto", &[SERVER, other_addresses]);
    let agents = [
        Agent::start(&net.balancer, &services),
        Agent::start(&twin, &services),
    ];
    let mut open: Vec<Bulk> = (1..=10)
        .flat_map(client)
        .map(|from| {
            let to = SocketAddr::new(VIP[usize::from(from.is_ipv6())], 80);
            let connect = || net.clients.run(|| Bulk::connect(from, to)).ok();
            wait::until("a connection", connect)
        })
        .collect();
    let seen = agents.each_ref().map(|agent| agent.packets("forwarded"));
    for to in [BALANCER, twin_addresses, BALANCER] {
        for bulk in &mut open {
            bulk.transfer(20_000, 20_000)
                .unwrap_or_else(|error| panic!("by way of {to:?}: {error}"));
        }
        let next = if to == BALANCER {
            twin_addresses
        } else {
            BALANCER
        };
        net.lead_to(next);
    }
    for (agent, seen) in agents.iter().zip(seen) {
        assert!(
            agent.packets("forwarded") > seen + 20,
            "both had their share"
        );
        assert_eq!(
            agent.packets("tracked"),
            0,
            "nothing needed to be remembered"
        );
    }
}

#[test]
fn a_drain_takes_its_time_and_says_that_nobody_knows_what_is_left() {
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let _decaps = [
        backend(&net.server, dir.path(), "server"),
        backend(&net.container, dir.path(), "container"),
    ];
    let agent = Agent::start(&net.balancer, &services("auto", &[SERVER, CONTAINER]));
    let [from, _] = client(1);
    let to = SocketAddr::new(VIP[0], 80);
    let connect = || net.clients.run(|| Bulk::connect(from, to)).ok();
    let mut open = wait::until("a connection", connect);
    open.transfer(1000, 1000).unwrap();
    for address in [SERVER[0], CONTAINER[0]] {
        let address = SocketAddr::new(address, 80).to_string();
        let drain = ["drain-backend", &address, "--service", "tcp4", "--wait"];
        let told = agent.ok(&[&drain[..], &["--timeout", "1s"]].concat());
        assert!(told.contains("nobody knows what is left"), "{told}");
        open.transfer(1000, 1000).unwrap();
        agent.ok(&["add-backend", &address, "--service", "tcp4"]);
    }
}

#[test]
fn the_last_backend_that_is_drained_keeps_its_connections() {
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let _decap = backend(&net.server, dir.path(), "server");
    let agent = Agent::start(&net.balancer, &services("auto", &[SERVER]));
    let mut open: Vec<Bulk> = client(1)
        .into_iter()
        .map(|from| {
            let to = SocketAddr::new(VIP[usize::from(from.is_ipv6())], 80);
            let connect = || net.clients.run(|| Bulk::connect(from, to)).ok();
            let mut bulk = wait::until("a connection", connect);
            bulk.transfer(1000, 1000).unwrap();
            bulk
        })
        .collect();
    let each = |command: &[&str]| {
        for (address, service) in SERVER.into_iter().zip(["tcp4", "tcp6"]) {
            let address = SocketAddr::new(address, 80).to_string();
            agent.ok(&[command, &[&address, "--service", service]].concat());
        }
    };
    for timeout in ["1h", "0s"] {
        each(&["drain-backend", "--timeout", timeout]);
        for bulk in &mut open {
            bulk.transfer(1000, 1000).unwrap();
        }
        for from in client(2) {
            let refused = visit(&net, from, 10).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
    }
    each(&["add-backend"]);
    for from in client(2) {
        visit(&net, from, 10).unwrap();
    }
    for bulk in &mut open {
        bulk.transfer(1000, 1000).unwrap();
    }
}

#[test]
fn while_all_backends_are_down_clients_are_refused_at_once() {
    let net = Net::new();
    // The port has no listener: a probe is refused.
    let agent = Agent::start(&net.balancer, &refusing(&services("auto", &[SERVER])));
    agent.wait_until_all_are_down();
    for from in client(1) {
        let refused = visit(&net, from, 10).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let to = SocketAddr::new(VIP[usize::from(from.is_ipv6())], 80);
        let refused = net.clients.run(|| refused_udp(from, to));
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn requests_and_websockets_are_answered_straight_by_the_backend() {
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    for (address, length) in VIP.into_iter().zip([32, 128]) {
        net.server.address(&format!("{address}/{length}"), "lo");
    }
    let mut command = net.server.command(program());
    command.args(["decap", "--interface", "eth0"]);
    let mut decap = Process::start(command, &dir.path().join("decap.log"));
    decap.wait_for("eth0");
    for (family, name) in [(0, "tcp4"), (1, "tcp6")] {
        let listen = SocketAddr::new(VIP[family], 80);
        let _app = node::serve(&net.server, "server.js", listen, dir.path());
        let agent = Agent::start(&net.balancer, &services("auto", &[SERVER]));
        let from = client(1)[family];
        let answer = wait::until("an answer", || {
            net.clients.run(|| http::get(from, listen)).ok()
        });
        assert_eq!(answer.remote, from.to_string());
        let mut sockets = Clients::new(&net.clients, agent.dir(), name);
        let clients: Vec<IpAddr> = (2..=6).map(|n| client(n)[family]).collect();
        sockets.open("both", listen, &clients);
        sockets.echo(200_000);
        for (client, remote) in sockets.remotes() {
            assert_eq!(remote, client.to_string());
        }
        assert_eq!(sockets.disconnects(), Vec::<IpAddr>::new());
        sockets.close();
    }
}

/// A routing rule keeps a client away at once, with the connection that it has open.
fn banned_client_is_dropped_at_once(xdp: bool) {
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let _decap = backend(&net.server, dir.path(), "server");
    let mut text = services("auto", &[SERVER]);
    if xdp {
        net.ready_for_xdp();
        text = format!("interfaces = [{{ name = 'eth0', attach = 'xdp' }}]\n{text}");
    }
    let agent = Agent::start(&net.balancer, &text);
    let [banned, other] = [client(1), client(2)];
    let rule = |change: &str| {
        for (family, from) in ["-4", "-6"].into_iter().zip(banned) {
            let from = from.to_string();
            net.balancer
                .ip(&[family, "rule", change, "from", &from, "prohibit"]);
        }
    };
    let connect = |from: IpAddr, patience: Duration| {
        let to = SocketAddr::new(VIP[usize::from(from.is_ipv6())], 80);
        net.clients.run(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket.connect_timeout(&to.into(), patience)?;
            socket.set_read_timeout(Some(patience))?;
            Ok::<_, std::io::Error>(Bulk::over(socket.into()))
        })
    };
    let (short, long) = (Duration::from_millis(500), Duration::from_secs(20));
    let open = |from: IpAddr, patience| {
        wait::until(&format!("a connection of {from}"), || {
            let mut bulk = connect(from, wait::slowed(patience)).ok()?;
            bulk.transfer(1000, 1000).ok().map(|_| bulk)
        })
    };
    let mut cut: Vec<Bulk> = banned.map(|from| open(from, short)).into();
    let mut kept: Vec<Bulk> = other.map(|from| open(from, long)).into();
    let dropped = agent.packets("drop_no_route");
    rule("add");
    for (from, bulk) in banned.into_iter().zip(&mut cut) {
        wait::until(&format!("{from} to be kept away"), || {
            connect(from, wait::slowed(short)).is_err().then_some(())
        });
        let error = bulk.transfer(1000, 1000).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
    }
    assert!(
        agent.packets("drop_no_route") >= dropped + 4,
        "dropped by the programs: {}",
        agent.ok(&["stats"])
    );
    for bulk in &mut kept {
        bulk.transfer(100_000, 100_000).unwrap();
    }
    assert_eq!(other.map(|from| visit(&net, from, 1000).unwrap()), other);
    rule("del");
    for from in banned {
        drop(open(from, short));
    }
}

#[test]
fn client_that_a_routing_rule_prohibits_is_dropped_at_once_behind_the_driver() {
    banned_client_is_dropped_at_once(false);
}

#[test]
fn client_that_a_routing_rule_prohibits_is_dropped_at_once_at_the_driver() {
    banned_client_is_dropped_at_once(true);
}
