//! Backends in containers, on other hosts and on this one are reached packet by packet. Covered are
//! driver and stack hooks, IPv4 and IPv6, TCP and UDP, and any path MTU.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::node::{self, Clients};
use lb_tests::topology::hosts::Host;
use lb_tests::topology::routed::{
    self, BALANCER, Bulk, CONTAINER, Net, SERVER, VIP, ask_udp, bulk_server, client, udp_echo,
};
use lb_tests::wait;
use socket2::{Domain, Socket, Type};

/// The hook at which the programs run.
#[derive(Clone, Copy, PartialEq)]
enum Hook {
    Xdp,
    Tc,
}

/// The services of a test: one for each family and protocol, with a backend on port 5000 of
/// `backends`.
fn services(hook: Hook, backends: [IpAddr; 2], more: &str) -> String {
    let attach = match hook {
        Hook::Xdp => "xdp",
        Hook::Tc => "tc",
    };
    let interfaces = format!("interfaces = [{{ name = 'eth0', attach = '{attach}' }}]\n{more}\n");
    let service = |mode: &str, family: usize| {
        let at = |addresses: [IpAddr; 2], port| SocketAddr::new(addresses[family], port);
        format!(
            "[[service]]\nname = '{mode}{}'\nmode = '{mode}'\npath = 'nat'\n\
             listen = ['{}', '{}']\naffinity = {{ ipv6_prefix = 128 }}\nbackends = ['{}']\n",
            [4, 6][family],
            at(BALANCER, 80),
            at(VIP, 80),
            at(backends, 5000),
        )
    };
    let all = [("tcp", 0), ("tcp", 1), ("udp", 0), ("udp", 1)];
    all.iter().fold(interfaces, |text, (mode, family)| {
        text + &service(mode, *family)
    })
}

/// Servers for every protocol on both addresses.
fn serve(host: &Host, addresses: [IpAddr; 2]) {
    for address in addresses {
        bulk_server(host, SocketAddr::new(address, 5000));
        udp_echo(host, SocketAddr::new(address, 5000));
    }
}

/// A network, and an agent whose interfaces are ready.
fn start<'a>(net: &'a Net, hook: Hook, backends: [IpAddr; 2], more: &str) -> Agent<'a> {
    if hook == Hook::Xdp {
        net.ready_for_xdp();
    }
    let agent = Agent::start(&net.balancer, &services(hook, backends, more));
    let status = agent.status();
    let eth0 = status["agent"]["packets"]["interfaces"]
        .as_array()
        .and_then(|all| all.iter().find(|interface| interface["name"] == "eth0"));
    let mode = eth0.unwrap_or_else(|| panic!("{status:#}"))["mode"].clone();
    assert_eq!(
        mode,
        match hook {
            Hook::Xdp => "xdp",
            Hook::Tc => routed::behind_the_driver(),
        },
        "{status:#}"
    );
    agent
}

/// The balancer's address of the family of `client`, and a client of the other services.
fn service_for(client: IpAddr, addresses: [IpAddr; 2]) -> SocketAddr {
    let [v4, v6] = addresses;
    SocketAddr::new(if client.is_ipv4() { v4 } else { v6 }, 80)
}

/// Clients of both families reach the service at its addresses by TCP and UDP; the backend sees
/// `seen` of them.
fn reached(net: &Net, agent: &Agent<'_>, class: &str, seen: impl Fn(IpAddr) -> IpAddr) {
    for service in agent.status()["services"].as_array().unwrap() {
        let backend = &service["backends"][0];
        assert_eq!(backend["path"], "nat", "{backend}");
        assert_eq!(backend["class"], class, "{backend}");
    }
    for address in [BALANCER, VIP] {
        for client in [client(1), client(2)].concat() {
            let to = service_for(client, address);
            let found = net.clients.run(|| {
                let mut bulk = Bulk::connect(client, to).unwrap_or_else(|error| {
                    panic!("{client} to {to}: {error}: {}", agent.ok(&["status"]))
                });
                bulk.transfer(300_000, 300_000).unwrap()
            });
            assert_eq!(found, seen(client), "TCP from {client} to {to}");
            let found = wait::until("an answer by UDP", || {
                net.clients
                    .run(|| ask_udp(client, to, b"how are you?"))
                    .ok()
            });
            assert_eq!(found, seen(client), "UDP from {client} to {to}");
        }
    }
}

fn itself(client: IpAddr) -> IpAddr {
    client
}

fn the_balancer(client: IpAddr) -> IpAddr {
    BALANCER[usize::from(client.is_ipv6())]
}

#[test]
fn a_container_sees_the_clients_own_addresses() {
    let net = Net::new();
    serve(&net.container, CONTAINER);
    let agent = start(&net, Hook::Tc, CONTAINER, "");
    reached(&net, &agent, "container", itself);
}

#[test]
fn a_container_is_reached_from_the_driver() {
    let net = Net::new();
    serve(&net.container, CONTAINER);
    let agent = start(&net, Hook::Xdp, CONTAINER, "");
    reached(&net, &agent, "container", itself);
}

#[test]
fn another_host_needs_no_set_up_and_sees_the_balancer() {
    let net = Net::new();
    serve(&net.server, SERVER);
    let agent = start(&net, Hook::Tc, SERVER, "");
    reached(&net, &agent, "remote", the_balancer);
}

#[test]
fn another_host_is_reached_from_the_driver() {
    let net = Net::new();
    serve(&net.server, SERVER);
    let agent = start(&net, Hook::Xdp, SERVER, "");
    reached(&net, &agent, "remote", the_balancer);
}

#[test]
fn a_backend_on_this_host_sees_the_clients_own_addresses() {
    let net = Net::new();
    serve(&net.balancer, BALANCER);
    let agent = start(&net, Hook::Tc, BALANCER, "");
    reached(&net, &agent, "local", itself);
}

#[test]
fn a_backend_on_this_host_is_reached_from_the_driver() {
    let net = Net::new();
    serve(&net.balancer, BALANCER);
    let agent = start(&net, Hook::Xdp, BALANCER, "");
    reached(&net, &agent, "local", itself);
}

/// Transfers in both directions over a path whose MTU is unknown beforehand.
fn big_transfers_pass_a_narrow_way(
    hook: Hook,
    backends: [IpAddr; 2],
    host: impl Fn(&Net) -> &Host,
) {
    let net = Net::new();
    net.narrow(1300);
    serve(host(&net), backends);
    let agent = start(&net, hook, backends, "");
    for client in client(1) {
        let to = service_for(client, VIP);
        net.clients.run(|| {
            let mut bulk = Bulk::connect(client, to).unwrap();
            if let Err(error) = bulk.transfer(5_000_000, 5_000_000) {
                panic!("{client}: {error}: {}", agent.ok(&["status"]));
            }
        });
    }
    assert!(agent.packets("icmp_passed") >= 2, "nobody was told the MTU");
}

#[test]
fn a_container_finds_the_mtu_of_the_way() {
    big_transfers_pass_a_narrow_way(Hook::Tc, CONTAINER, |net| &net.container);
}

#[test]
fn another_host_finds_the_mtu_of_the_way() {
    big_transfers_pass_a_narrow_way(Hook::Tc, SERVER, |net| &net.server);
}

#[test]
fn the_mtu_of_the_way_is_found_with_xdp_too() {
    big_transfers_pass_a_narrow_way(Hook::Xdp, SERVER, |net| &net.server);
}

#[test]
fn a_backend_on_this_host_finds_the_mtu_of_the_way() {
    big_transfers_pass_a_narrow_way(Hook::Tc, BALANCER, |net| &net.balancer);
}

/// WebSockets to a Node.js application on `host` by either family, while the agent dies and comes
/// back.
fn websockets(backends: [IpAddr; 2], host: impl Fn(&Net) -> &Host, seen: fn(IpAddr) -> IpAddr) {
    let net = Net::new();
    let mut agent = start(&net, Hook::Tc, backends, "");
    for (family, backend) in backends.into_iter().enumerate() {
        let listen = SocketAddr::new(backend, 5000);
        let _app = node::serve(host(&net), "server.js", listen, agent.dir());
        let mut sockets = Clients::new(&net.clients, agent.dir(), "ws");
        let clients: Vec<IpAddr> = (1..=5).map(|n| client(n)[family]).collect();
        sockets.open("both", SocketAddr::new(VIP[family], 80), &clients);
        sockets.echo(200_000);
        for (client, remote) in sockets.remotes() {
            assert_eq!(remote, seen(client).to_string());
        }
        agent.kill();
        sockets.echo(100_000);
        agent.start_again();
        sockets.echo(100_000);
        assert_eq!(sockets.disconnects(), Vec::<IpAddr>::new());
        sockets.close();
    }
}

#[test]
fn websockets_reach_an_application_in_a_container() {
    websockets(CONTAINER, |net| &net.container, itself);
}

#[test]
fn websockets_reach_an_application_on_another_host() {
    websockets(SERVER, |net| &net.server, the_balancer);
}

#[test]
fn connections_outlive_the_agent_and_its_restart() {
    let net = Net::new();
    serve(&net.server, SERVER);
    let mut agent = start(&net, Hook::Xdp, SERVER, "");
    let mut open: Vec<Bulk> = client(3)
        .into_iter()
        .map(|client| {
            net.clients
                .run(|| Bulk::connect(client, service_for(client, VIP)).unwrap())
        })
        .collect();
    let mut pass = |agent: &str| {
        for bulk in &mut open {
            bulk.transfer(100_000, 100_000)
                .unwrap_or_else(|error| panic!("{agent}: {error}"));
        }
    };
    pass("with the agent");
    agent.kill();
    pass("without the agent");
    agent.start_again();
    pass("with the next agent");
    // It has looked at all flows, and given none of them up.
    wait::until("two walks over the flows", || {
        let figures = agent.status()["agent"]["packets"]["figures"].clone();
        assert_eq!(figures["expired"], 0, "{figures}");
        (figures["walks"].as_u64() >= Some(2)).then(|| assert_eq!(figures["established"], 2))
    });
    pass("after walks over the flows");
    let to = SocketAddr::new(VIP[0], 80);
    let new = net
        .clients
        .run(|| Bulk::connect(client(4)[0], to).unwrap().transfer(10, 10));
    assert_eq!(new.unwrap(), BALANCER[0]);
}

#[test]
fn idle_clients_of_a_removed_backend_are_told_at_once() {
    let net = Net::new();
    serve(&net.container, CONTAINER);
    let agent = start(&net, Hook::Tc, CONTAINER, "");
    let mut open: Vec<Bulk> = client(5)
        .into_iter()
        .map(|client| {
            net.clients.run(|| {
                let mut bulk = Bulk::connect(client, service_for(client, VIP)).unwrap();
                bulk.transfer(1000, 1000).unwrap();
                bulk
            })
        })
        .collect();
    for (address, service) in CONTAINER.into_iter().zip(["tcp4", "tcp6"]) {
        let backend = SocketAddr::new(address, 5000).to_string();
        agent.ok(&["remove-backend", &backend, "--service", service]);
    }
    // Nothing else would end them: flows may be idle for a day.
    for bulk in &mut open {
        let error = bulk.end();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
}

#[test]
fn a_flow_that_is_idle_for_too_long_is_given_up_aloud() {
    let net = Net::new();
    serve(&net.server, SERVER);
    // Long enough for the steps before it to be idle.
    let more = "flow_timeouts = { established = '5s', syn = '5s', closing = '1s' }";
    let agent = start(&net, Hook::Tc, SERVER, more);
    let to = service_for(client(6)[0], VIP);
    let mut bulk = net.clients.run(|| {
        let mut bulk = Bulk::connect(client(6)[0], to).unwrap();
        bulk.transfer(1000, 1000).unwrap();
        bulk
    });
    let error = bulk.end();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    let figures = || agent.status()["agent"]["packets"]["figures"].clone();
    wait::until("the table is empty again", || {
        (figures()["established"] == 0 && figures()["expired"].as_u64() >= Some(1)).then_some(())
    });
}

#[test]
fn adding_a_backend_moves_nobody_and_removing_one_only_its_clients() {
    let net = Net::new();
    for n in 1..=2u16 {
        bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000 + n));
    }
    let services = format!(
        "[[service]]\nname = 'web'\nlisten = ['{}:80']\npath = 'nat'\nbackends = ['{}:5001']\n",
        VIP[0], CONTAINER[0]
    );
    let agent = Agent::start(&net.balancer, &services);
    let to = SocketAddr::new(VIP[0], 80);
    let visit = |n: u16| {
        let from = client(n)[0];
        net.clients
            .run(|| Bulk::connect(from, to)?.transfer(10, 10))
    };
    for n in 1..=routed::CLIENTS {
        visit(n).unwrap();
    }
    let second = format!("{}:5002", CONTAINER[0]);
    agent.ok(&["add-backend", &second]);
    for n in 1..=routed::CLIENTS {
        let found = agent.lookup(client(n)[0]);
        assert_eq!(found["reason"], "affinity", "{found}");
        visit(n).unwrap();
    }
    let first = format!("{}:5001", CONTAINER[0]);
    agent.ok(&["remove-backend", &first]);
    for n in 1..=routed::CLIENTS {
        visit(n).unwrap();
        assert_eq!(agent.lookup(client(n)[0])["backend"], second);
    }
}

#[test]
fn a_client_of_the_other_family_goes_through_the_agent() {
    let net = Net::new();
    bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000));
    let services = format!(
        "[[service]]\nname = 'web'\nlisten = ['{}:80', '[{}]:80']\nbackends = ['{}:5000']\n",
        BALANCER[0], BALANCER[1], CONTAINER[0]
    );
    let agent = Agent::start(&net.balancer, &services);
    assert_eq!(
        agent.backend(&format!("{}:5000", CONTAINER[0]))["path"],
        "nat"
    );
    let [v4, v6] = client(7);
    let visit = |from: IpAddr| {
        let to = service_for(from, BALANCER);
        net.clients
            .run(|| Bulk::connect(from, to)?.transfer(100_000, 100_000))
    };
    assert_eq!(visit(v4).unwrap(), v4);
    // The agent connects for it, from its own address on the way to the container.
    assert_eq!(visit(v6).unwrap().to_string(), "10.80.4.1");
}

#[test]
fn who_is_forgotten_by_the_host_is_asked_for_before_a_client_needs_it() {
    let net = Net::new();
    serve(&net.container, CONTAINER);
    let agent = start(&net, Hook::Tc, CONTAINER, "");
    for (family, address) in ["-4", "-6"].into_iter().zip(CONTAINER) {
        // No client has come; health checks there are none.
        net.balancer.ip(&[family, "neigh", "flush", "dev", "cont0"]);
        let known = || {
            let mut command = net.balancer.command("ip");
            let address = address.to_string();
            command.args([family, "neigh", "show", &address, "dev", "cont0"]);
            let shown = command.output().unwrap().stdout;
            String::from_utf8_lossy(&shown).contains("lladdr")
        };
        wait::until("its MAC address", || known().then_some(()));
    }
    assert_eq!(agent.packets("forwarded"), 0);
    // A packet of an unknown kind is left to the stack, and no connection fails for it.
    for (family, from) in client(9).into_iter().enumerate() {
        let flag = ["-4", "-6"][family];
        net.balancer.ip(&[flag, "neigh", "flush", "dev", "cont0"]);
        let visit = || Bulk::connect(from, service_for(from, VIP))?.transfer(10, 10);
        assert_eq!(net.clients.run(visit).unwrap(), from);
    }
}

#[test]
fn a_router_that_takes_another_mac_address_is_followed_at_once() {
    let net = Net::new();
    serve(&net.container, CONTAINER);
    let _agent = start(&net, Hook::Tc, CONTAINER, "");
    // As a router does that takes over from another: it says so.
    net.router.set("net/ipv4/conf/balancer0/arp_notify", "1");
    net.router.set("net/ipv6/conf/balancer0/ndisc_notify", "1");
    let mut open = client(8).map(|from| {
        net.clients.run(|| {
            let mut bulk = Bulk::connect(from, service_for(from, VIP)).unwrap();
            bulk.transfer(1000, 1000).unwrap();
            bulk
        })
    });
    let mac = "02:00:00:00:77:01";
    net.router.ip(&["link", "set", "balancer0", "address", mac]);
    for bulk in &mut open {
        bulk.transfer(50_000, 50_000).unwrap();
    }
}

/// Whether a client is served by TCP, and as a new one by UDP. The wait is short, as a client that is
/// kept away gets no answer.
fn is_served(net: &Net, from: IpAddr, to: SocketAddr) -> [bool; 2] {
    let patience = wait::slowed(Duration::from_millis(500));
    net.clients.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        let by_tcp = socket.connect_timeout(&to.into(), patience);
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        let by_udp = socket
            .send(b"hello")
            .and_then(|_| socket.recv(&mut [0; 100]));
        [by_tcp.is_ok(), by_udp.is_ok()]
    })
}

/// Sources and destinations that the host's routing bans get nothing, for as long as it does; others are served.
fn banned_clients_are_kept_away(hook: Hook, backends: [IpAddr; 2], host: impl Fn(&Net) -> &Host) {
    let net = Net::new();
    serve(host(&net), backends);
    let agent = start(&net, hook, backends, "");
    let [banned, other] = [client(1), client(2)];
    let is_local = backends == BALANCER;
    for (what, kind, address) in [
        ("rule", "prohibit", VIP),
        ("rule", "prohibit", BALANCER),
        ("rule", "blackhole", VIP),
        ("rule", "unreachable", VIP),
        ("route", "blackhole", VIP),
    ] {
        let is_served = |from| is_served(&net, from, service_for(from, address));
        // The host's own stack looks up the routes for its answers itself.
        if is_local && what == "route" {
            continue;
        }
        let change = |change: &str| {
            for (family, from) in ["-4", "-6"].into_iter().zip(banned) {
                let from = from.to_string();
                match what {
                    "rule" => net
                        .balancer
                        .ip(&[family, what, change, "from", &from, kind]),
                    _ => net.balancer.ip(&[family, what, change, kind, &from]),
                }
            }
        };
        for from in [banned, other].concat() {
            let all = || (is_served(from) == [true; 2]).then_some(());
            wait::until(&format!("{from} before {what} {kind}"), all);
        }
        change("add");
        for from in banned {
            // A packet that the stack drops before the programs see it does not count.
            wait::until(&format!("{from} to be kept away by {what} {kind}"), || {
                let dropped = agent.packets("drop_no_route");
                let none = is_served(from) == [false; 2];
                (none && agent.packets("drop_no_route") >= dropped + 2).then_some(())
            });
        }
        for from in other {
            let all = || (is_served(from) == [true; 2]).then_some(());
            wait::until(&format!("{from} beside {what} {kind}"), all);
        }
        change("del");
    }
}

#[test]
fn clients_that_routing_bans_are_kept_away_from_a_container() {
    banned_clients_are_kept_away(Hook::Tc, CONTAINER, |net| &net.container);
}

#[test]
fn clients_that_routing_bans_are_kept_away_from_another_host_at_the_driver() {
    banned_clients_are_kept_away(Hook::Xdp, SERVER, |net| &net.server);
}

#[test]
fn clients_that_routing_bans_are_kept_away_from_a_backend_on_this_host() {
    banned_clients_are_kept_away(Hook::Tc, BALANCER, |net| &net.balancer);
}
