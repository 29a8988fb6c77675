//! The `nat` path for clients in all places: on the network of a container, behind an interface without
//! Ethernet, and on the balancer itself. Their packets have any size.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{self, Host, Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6};
use lb_tests::topology::routed::{
    self, BALANCER, Bulk, CONTAINER, Net, SERVER, VIP, ask_udp, bulk_server, client, give, pair,
    route_by, udp_echo,
};
use lb_tests::{http, tunnel, wait};
use socket2::{Domain, Socket, Type};

/// Services of each family by TCP and UDP on port 80 of the balancer's own addresses and of others.
fn services(backends: [IpAddr; 2], more: &str) -> String {
    let mut text = format!("{more}\n");
    for family in 0..2 {
        for mode in ["tcp", "udp"] {
            let at = |addresses: [IpAddr; 2], port| SocketAddr::new(addresses[family], port);
            text += &format!(
                "[[service]]\nname = '{mode}{family}'\nmode = '{mode}'\npath = 'nat'\n\
                 listen = ['{}', '{}']\nbackends = ['{}']\n",
                at(BALANCER, 80),
                at(VIP, 80),
                at(backends, 5000),
            );
        }
    }
    text
}

fn serve(host: &Host, addresses: [IpAddr; 2]) {
    for address in addresses {
        bulk_server(host, SocketAddr::new(address, 5000));
        udp_echo(host, SocketAddr::new(address, 5000));
    }
}

/// A client at `own` of `host` reaches all services by TCP and UDP; the backends see `seen`.
fn served(host: &Host, own: [IpAddr; 2], seen: [IpAddr; 2], agent: &Agent<'_>) {
    for address in [BALANCER, VIP] {
        for family in 0..2 {
            let (from, to) = (own[family], SocketAddr::new(address[family], 80));
            let found = host.run(|| {
                let mut bulk = Bulk::connect(from, to).unwrap_or_else(|error| {
                    panic!("{from} to {to}: {error}: {}", agent.ok(&["status"]))
                });
                bulk.transfer(300_000, 300_000).unwrap()
            });
            assert_eq!(found, seen[family], "TCP from {from} to {to}");
            let found = wait::until("an answer by UDP", || {
                host.run(|| ask_udp(from, to, b"hello")).ok()
            });
            assert_eq!(found, seen[family], "UDP from {from} to {to}");
        }
    }
}

#[test]
fn container_and_its_neighbour_on_a_bridge_reach_the_service_that_the_container_serves() {
    let net = Net::new();
    let balancer = &net.balancer;
    balancer.ip(&["link", "add", "br0", "type", "bridge"]);
    balancer.ip(&["link", "set", "br0", "up"]);
    let hosts = [(2, "one"), (3, "two")].map(|(n, role)| {
        let host = Host::new(role);
        let port = format!("p{n}");
        balancer.wire(&port, &host, "eth0");
        balancer.ip(&["link", "set", &port, "master", "br0"]);
        give(&host, pair(6, n), "eth0");
        host
    });
    give(balancer, pair(6, 1), "br0");
    hosts.iter().for_each(|host| route_by(host, pair(6, 1)));
    let [one, two] = &hosts;
    serve(one, pair(6, 2));
    let agent = Agent::start(balancer, &services(pair(6, 2), ""));
    served(&net.clients, client(1), client(1), &agent);
    served(two, pair(6, 3), pair(6, 1), &agent);
    served(one, pair(6, 2), pair(6, 1), &agent);
}

/// A host behind a tunnel without Ethernet, and an agent whose services have these backends.
fn behind_a_tunnel<'a>(net: &'a Net, backends: [IpAddr; 2], forwards: bool) -> (Host, Agent<'a>) {
    let far = Host::new("far");
    let balancer = &net.balancer;
    tunnel::join(balancer, &far, "tun0");
    give(balancer, pair(7, 1), "tun0");
    give(&far, pair(7, 2), "tun0");
    route_by(&far, pair(7, 1));
    if forwards {
        balancer.set("net/ipv4/conf/tun0/forwarding", "1");
    }
    let agent = Agent::start(balancer, &services(backends, ""));
    (far, agent)
}

/// The entry in `status` for an interface.
fn interface(agent: &Agent<'_>, name: &str) -> serde_json::Value {
    let status = agent.status();
    let all = status["agent"]["packets"]["interfaces"].as_array().unwrap();
    let found = all.iter().find(|interface| interface["name"] == name);
    found.unwrap_or_else(|| panic!("{status:#}")).clone()
}

#[test]
fn clients_behind_a_tunnel_without_ethernet_reach_a_container() {
    let net = Net::new();
    serve(&net.container, CONTAINER);
    let (far, agent) = behind_a_tunnel(&net, CONTAINER, true);
    assert_eq!(
        interface(&agent, "tun0")["mode"],
        routed::behind_the_driver()
    );
    served(&far, pair(7, 2), pair(7, 2), &agent);
    served(&net.clients, client(1), client(1), &agent);
}

#[test]
fn clients_behind_a_tunnel_without_ethernet_reach_another_host() {
    let net = Net::new();
    serve(&net.server, SERVER);
    let (far, agent) = behind_a_tunnel(&net, SERVER, true);
    served(&far, pair(7, 2), BALANCER, &agent);
}

#[test]
fn clients_behind_a_tunnel_without_ethernet_reach_an_application_on_the_balancer() {
    let net = Net::new();
    serve(&net.balancer, BALANCER);
    let (far, agent) = behind_a_tunnel(&net, BALANCER, true);
    served(&far, pair(7, 2), pair(7, 2), &agent);
}

#[test]
fn clients_behind_a_tunnel_that_the_host_does_not_forward_are_told_of_in_status() {
    let net = Net::new();
    serve(&net.container, CONTAINER);
    let (_far, agent) = behind_a_tunnel(&net, CONTAINER, false);
    let tunnel = interface(&agent, "tun0");
    assert_eq!(tunnel["mode"], "none");
    let why = tunnel["why"].as_str().unwrap();
    assert!(why.contains("net.ipv4.conf.tun0.forwarding=1"), "{why}");
    assert_eq!(net.balancer.setting("net/ipv4/conf/tun0/forwarding"), "0");
}

/// A socket of the balancer at this port of its own.
fn own_socket(kind: Type, from: SocketAddr, to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(from), kind, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&from.into()).unwrap();
    let patience = Some(wait::slowed(Duration::from_secs(10)));
    socket.set_read_timeout(patience).unwrap();
    socket.connect(&to.into()).unwrap();
    socket
}

#[test]
fn connections_of_the_balancer_from_a_port_of_a_service_are_its_own() {
    let net = Net::new();
    serve(&net.container, CONTAINER);
    serve(&net.server, SERVER);
    let agent = Agent::start(&net.balancer, &services(CONTAINER, ""));
    served(&net.clients, client(1), client(1), &agent);
    for family in 0..2 {
        let own = SocketAddr::new(BALANCER[family], 80);
        let to = SocketAddr::new(SERVER[family], 5000);
        net.balancer.run(|| {
            let stream = own_socket(Type::STREAM, own, to);
            let mut bulk = Bulk::over(stream.into());
            assert_eq!(bulk.transfer(300_000, 300_000).unwrap(), own.ip());
            let socket = own_socket(Type::DGRAM, own, to);
            wait::until("an answer", || {
                socket.send(b"hello").unwrap();
                let mut buffer = [std::mem::MaybeUninit::uninit(); 100];
                socket.recv(&mut buffer).ok()
            });
        });
    }
}

#[test]
fn datagrams_that_never_stop_leave_a_backend_whose_drain_is_over() {
    let net = Net::new();
    serve(&net.container, CONTAINER);
    serve(&net.server, SERVER);
    let config = format!(
        "[[service]]\nname = 'dns'\nmode = 'udp'\npath = 'nat'\nlisten = ['{}:80']\n\
         backends = ['{}:5000', '{}:5000']\n",
        VIP[0], CONTAINER[0], SERVER[0]
    );
    let agent = Agent::start(&net.balancer, &config);
    let [from, _] = client(1);
    net.clients.run(|| {
        let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
        socket.connect((VIP[0], 80)).unwrap();
        let patience = Some(wait::slowed(Duration::from_millis(200)));
        socket.set_read_timeout(patience).unwrap();
        let ask = || {
            socket.send(b"hello").ok()?;
            let mut buffer = [0; 100];
            let size = socket.recv(&mut buffer).ok()?;
            let text = String::from_utf8_lossy(&buffer[..size]).into_owned();
            text.split(' ').next().map(str::to_owned)
        };
        let first = wait::until("an answer", ask);
        let at = if first == from.to_string() {
            CONTAINER
        } else {
            SERVER
        };
        let backend = format!("{}:5000", at[0]);
        agent.ok(&["drain-backend", &backend, "--timeout", "1s"]);
        wait::until("another backend", || ask().filter(|seen| *seen != first));
    });
}

/// A service on VIP port 80 with a container and another host.
fn container_and_server() -> String {
    format!(
        "[[service]]\nname = 'web'\npath = 'nat'\nlisten = ['{}:80']\n\
         backends = ['{}:5000', '{}:5000']\n",
        VIP[0], CONTAINER[0], SERVER[0]
    )
}

/// The client address that the backend sees, if the client is served.
fn seen_from(net: &Net, n: u16) -> Option<IpAddr> {
    let [from, _] = client(n);
    net.clients.run(|| {
        let mut bulk = Bulk::connect(from, SocketAddr::new(VIP[0], 80)).ok()?;
        bulk.transfer(10, 10).ok()
    })
}

#[test]
fn backend_elsewhere_that_refuses_is_passed_over_without_a_health_check() {
    let net = Net::new();
    bulk_server(&net.server, SocketAddr::new(SERVER[0], 5000));
    let agent = Agent::start(&net.balancer, &container_and_server());
    let container = format!("{}:5000", CONTAINER[0]);
    // Some of them find the container first.
    wait::until("a refusal", || {
        for n in 1..=routed::CLIENTS {
            let _ = seen_from(&net, n);
        }
        (agent.backend(&container)["state"] == "down").then_some(())
    });
    for n in 1..=routed::CLIENTS {
        assert_eq!(
            seen_from(&net, n),
            Some(BALANCER[0]),
            "{}",
            agent.ok(&["status"])
        );
    }
    bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000));
    wait::until("the container", || {
        (agent.backend(&container)["state"] == "up").then_some(())
    });
}

#[test]
fn container_that_is_gone_without_a_word_loses_its_clients() {
    let net = Net::new();
    bulk_server(&net.server, SocketAddr::new(SERVER[0], 5000));
    bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000));
    let agent = Agent::start(&net.balancer, &container_and_server());
    let clients = 1..=routed::CLIENTS;
    let there = clients
        .into_iter()
        .find(|n| seen_from(&net, *n) == Some(client(*n)[0]));
    let there = there.expect("a client of the container");
    net.container.ip(&["link", "set", "eth0", "down"]);
    let [from, _] = client(there);
    // Its SYN waits until the container is known to be gone, and goes on then.
    let served = net.clients.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        let to = SocketAddr::new(VIP[0], 80);
        let patience = wait::slowed(Duration::from_secs(60));
        socket.connect_timeout(&to.into(), patience).unwrap();
        Bulk::over(socket.into()).transfer(10, 10).unwrap()
    });
    assert_eq!(served, BALANCER[0]);
    let container = format!("{}:5000", CONTAINER[0]);
    assert_eq!(agent.backend(&container)["state"], "down");
}

/// A server that says of each connection how many bytes came.
fn sink(host: &Host, address: SocketAddr) {
    let listener = host.run(|| TcpListener::bind(address).unwrap());
    host.spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let came = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
            let _ = stream.write_all(&came.to_be_bytes());
        }
    });
}

/// The length of the largest frame that comes to a host, as it grows.
fn largest_frame(host: &Host) -> Arc<AtomicUsize> {
    const ETH_P_ALL: i32 = 3;
    let largest = Arc::new(AtomicUsize::new(0));
    let found = Arc::clone(&largest);
    host.spawn(move || {
        let protocol = i32::from((ETH_P_ALL as u16).to_be()).into();
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).unwrap();
        let mut head = [std::mem::MaybeUninit::uninit(); 64];
        // With MSG_TRUNC the length is that of the frame, however little of it is read.
        while let Ok(length) = socket.recv_with_flags(&mut head, libc::MSG_TRUNC) {
            found.fetch_max(length, Ordering::Relaxed);
        }
    });
    largest
}

/// A client on the balancer's network sends packets of more than 64 KiB (BIG TCP). They come to a
/// container unsplit, and nothing is lost.
fn packets_of_more_than_64_kib_pass(family: usize) {
    const MOST: u32 = 200_000;
    // IFLA_GSO_MAX_SIZE, IFLA_GRO_MAX_SIZE, and the same for IPv4 (linux/if_link.h, Linux 6.3).
    const SIZES: [u16; 4] = [41, 58, 63, 64];
    /// More than a length field of 16 bits tells, with all headers.
    const BIG: usize = 65_650;
    const MOST_PARTS: usize = 500;
    let part = vec![7; 1 << 20];
    let hosts = Hosts::new();
    let container = hosts.container();
    for (host, interface) in [
        (&hosts.clients, "wire"),
        (&hosts.balancer, "wire"),
        (&hosts.balancer, "cont0"),
        (&container, "eth0"),
    ] {
        for attribute in SIZES {
            host.set_link(interface, attribute, MOST);
        }
    }
    let backend = SocketAddr::new(hosts::CONTAINER[family], 5000);
    sink(&container, backend);
    let (from, service) = [(client_v4(1), SERVICE_V4), (client_v6(1), SERVICE_V6)][family];
    let config = format!(
        "[[service]]\nname = 'web'\npath = 'nat'\nlisten = ['{service}']\nbackends = ['{backend}']\n"
    );
    let _agent = Agent::start(&hosts.balancer, &config);
    let largest = largest_frame(&container);
    hosts.clients.run(|| {
        let mut stream = http::connect(from, service).unwrap();
        let (mut sent, begun) = (0, Instant::now());
        // How much Linux joins depends on how fast it goes.
        for _ in 0..MOST_PARTS {
            stream.write_all(&part).unwrap();
            sent += part.len() as u64;
            if largest.load(Ordering::Relaxed) > BIG || begun.elapsed() > wait::PATIENCE {
                break;
            }
        }
        assert!(largest.load(Ordering::Relaxed) > BIG, "{largest:?}");
        stream.shutdown(Shutdown::Write).unwrap();
        let mut came = [0; 8];
        stream.read_exact(&mut came).unwrap();
        assert_eq!(u64::from_be_bytes(came), sent);
    });
}

#[test]
fn packets_of_more_than_64_kib_pass_over_ipv4() {
    packets_of_more_than_64_kib_pass(0);
}

#[test]
fn packets_of_more_than_64_kib_pass_over_ipv6() {
    packets_of_more_than_64_kib_pass(1);
}
