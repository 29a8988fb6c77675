//! Packets other than those of an open connection: echo, fragments, made-up addresses, flows that are
//! given up, and services with all backends down.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{
    self, Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6, service_for,
};
use lb_tests::topology::routed::{
    BALANCER, Bulk, CONTAINER, Net, SERVER, VIP, ask_udp, bulk_server, client, refused_udp,
    refusing, udp_echo,
};
use lb_tests::wait;
use lb_tests::wire::{self, Ipv4, Ipv6, Tcp, number};
use socket2::{Domain, Protocol, Socket, Type};

/// A service for each family by TCP and UDP on port 80, with a backend on port 5000 of `backends`.
fn services(backends: [IpAddr; 2], more: &str) -> String {
    let mut text = format!("{more}\n");
    for (family, name) in [(0, "4"), (1, "6")] {
        let listen = SocketAddr::new(VIP[family], 80);
        let backend = SocketAddr::new(backends[family], 5000);
        for mode in ["tcp", "udp"] {
            text += &format!(
                "[[service]]\nname = '{mode}{name}'\nmode = '{mode}'\npath = 'nat'\n\
                 listen = ['{listen}']\nbackends = ['{backend}']\n"
            );
        }
    }
    text
}

fn service(family: usize) -> SocketAddr {
    SocketAddr::new(VIP[family], 80)
}

/// Sends an ICMP echo request by a socket for just that, and waits for the answer.
fn ping(from: IpAddr, to: IpAddr) -> io::Result<()> {
    let (protocol, request, answer) = match to {
        IpAddr::V4(_) => (Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Protocol::ICMPV6, 128, 129),
    };
    let to = SocketAddr::new(to, 0);
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(protocol))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect(&to.into())?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    // The kernel fills in the checksum of ICMPv6.
    let message = wire::icmp(request, 0, [0x12, 0x34, 0, 1], b"are you there?");
    socket.send(&message)?;
    let mut buffer = [0; 200];
    loop {
        let size = (&socket).read(&mut buffer)?;
        let header = if to.is_ipv4() { 20 } else { 0 };
        let got = &buffer[header..size];
        if got[0] == answer && got[4..] == message[4..] {
            return Ok(());
        }
    }
}

#[test]
fn the_address_of_a_service_answers_echo_and_no_other_does() {
    let net = Net::new();
    let agent = Agent::start(&net.balancer, &services(CONTAINER, ""));
    for (family, from) in client(1).into_iter().enumerate() {
        let vip = VIP[family];
        wait::until("an echo", || net.clients.run(|| ping(from, vip)).ok());
        let beside = match vip {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from(u32::from(address) + 1)),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) + 1)),
        };
        assert!(net.clients.run(|| ping(from, beside)).is_err());
    }
    assert!(agent.packets("echoed") >= 2);
}

#[test]
fn datagrams_in_fragments_arrive_whole() {
    for (backends, class) in [(CONTAINER, "container"), (SERVER, "remote")] {
        let net = Net::new();
        let host = if class == "remote" {
            &net.server
        } else {
            &net.container
        };
        for address in backends {
            udp_echo(host, SocketAddr::new(address, 5000));
        }
        let agent = Agent::start(&net.balancer, &services(backends, ""));
        let text: Vec<u8> = (0..6000u32).map(|n| b'a' + (n % 26) as u8).collect();
        for (family, from) in client(2).into_iter().enumerate() {
            let ask = |text: &[u8]| {
                net.clients
                    .run(|| ask_udp(from, service(family), text))
                    .ok()
            };
            wait::until("a small answer", || ask(b"hello"));
            let seen = wait::until("a large answer", || ask(&text));
            let expected = if class == "remote" {
                BALANCER[family]
            } else {
                from
            };
            assert_eq!(seen, expected, "{}", agent.ok(&["status"]));
        }
    }
}

#[test]
fn a_fragment_that_comes_before_the_first_is_dropped_and_counted() {
    let net = Net::new();
    let agent = Agent::start(&net.balancer, &services(CONTAINER, ""));
    for (family, from) in client(2).into_iter().enumerate() {
        let before = agent.packets("drop_fragment");
        let packet = match (from, VIP[family]) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = Ipv4::new(src, dst);
                header.fragment = 64;
                header.packet(number::UDP, &[7; 64])
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let fragment = [[number::UDP, 0, 2, 0, 0, 0, 0, 9].as_slice(), &[7; 64]];
                Ipv6::new(src, dst).packet(number::FRAGMENT, &fragment.concat())
            }
            _ => unreachable!("the families are in the same order"),
        };
        net.router.run(|| send_raw(&packet, VIP[family]));
        wait::until("it to be counted", || {
            (agent.packets("drop_fragment") > before).then_some(())
        });
    }
    let told = agent.ok(&["stats"]);
    assert!(told.contains("packet_fragment"), "{told}");
}

#[test]
fn who_sends_what_comes_to_the_end_of_its_life_here_is_told() {
    let net = Net::new();
    let agent = Agent::start(&net.balancer, &services(CONTAINER, ""));
    for (family, from) in client(2).into_iter().enumerate() {
        let vip = VIP[family];
        let (protocol, exceeded, header) = match vip {
            IpAddr::V4(_) => (Protocol::ICMPV4, 11, 20),
            IpAddr::V6(_) => (Protocol::ICMPV6, 3, 0),
        };
        let domain = Domain::for_address(SocketAddr::new(vip, 0));
        net.clients.run(|| {
            let errors = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
            let patience = Some(Duration::from_millis(200));
            errors.set_read_timeout(patience).unwrap();
            let sender = UdpSocket::bind((from, 0)).unwrap();
            let own = sender.local_addr().unwrap().port().to_be_bytes();
            let sender = Socket::from(sender);
            // One for the router, one for the balancer.
            match vip {
                IpAddr::V4(_) => sender.set_ttl_v4(2).unwrap(),
                IpAddr::V6(_) => sender.set_unicast_hops_v6(2).unwrap(),
            }
            wait::until("time exceeded", || {
                sender.send_to(b"how far?", &service(family).into()).ok()?;
                let mut buffer = [0; 500];
                let size = (&errors).read(&mut buffer).ok()?;
                let message = &buffer[header..size];
                let quoted = if header == 20 { 28 } else { 48 };
                let ports = message.get(quoted..quoted + 4)?;
                (message[0] == exceeded && ports == [own, 80u16.to_be_bytes()].concat())
                    .then_some(())
            });
        });
    }
    assert!(agent.packets("icmp_sent") >= 2);
    assert_eq!(agent.packets("forwarded"), 0);
}

/// Sends an IP packet with its own header.
fn send_raw(packet: &[u8], to: IpAddr) {
    let to = SocketAddr::new(to, 0);
    let socket = Socket::new(
        Domain::for_address(to),
        Type::RAW,
        Some(Protocol::from(255)),
    )
    .unwrap();
    socket.send_to(packet, &to.into()).unwrap();
}

#[test]
fn packets_from_addresses_that_cannot_be_are_dropped_and_counted() {
    let net = Net::new();
    for address in CONTAINER {
        bulk_server(&net.container, SocketAddr::new(address, 5000));
    }
    let agent = Agent::start(&net.balancer, &services(CONTAINER, ""));
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    for (sources, counter) in [
        (loopback, "drop_martian"),
        (BALANCER, "drop_spoofed"),
        (VIP, "drop_spoofed"),
    ] {
        let before = agent.packets(counter);
        for (src, dst) in sources.into_iter().zip(VIP) {
            let segment = Tcp::new(4242, 80, 2).bytes(src, dst);
            let packet = match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => Ipv4::new(src, dst).packet(6, &segment),
                (IpAddr::V6(src), IpAddr::V6(dst)) => Ipv6::new(src, dst).packet(6, &segment),
                _ => unreachable!("the families are in the same order"),
            };
            net.router.run(|| send_raw(&packet, dst));
        }
        wait::until("both to be counted", || {
            (agent.packets(counter) >= before + 2).then_some(())
        });
    }
    assert_eq!(agent.packets("flow_new"), 0);
    for (family, from) in client(1).into_iter().enumerate() {
        let visit = || Bulk::connect(from, service(family))?.transfer(1000, 1000);
        assert_eq!(net.clients.run(visit).unwrap(), from);
    }
}

#[test]
fn both_ends_of_an_idle_flow_are_told_that_it_is_given_up() {
    // Long enough for the steps before they are idle.
    let ages = "flow_timeouts = { established = '5s', syn = '5s', closing = '1s' }";
    for (backends, class) in [(CONTAINER, "container"), (SERVER, "remote")] {
        let net = Net::new();
        let host = if class == "remote" {
            &net.server
        } else {
            &net.container
        };
        let (ended, ends) = mpsc::channel();
        for address in backends {
            let ended = ended.clone();
            let listener = host.run(|| TcpListener::bind((address, 5000)).unwrap());
            host.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let patience = Some(Duration::from_secs(50));
                stream.set_read_timeout(patience).unwrap();
                let end = io::copy(&mut stream, &mut io::sink());
                let _ = ended.send((address, end.map_err(|error| error.kind())));
            });
        }
        let _agent = Agent::start(&net.balancer, &services(backends, ages));
        let mut open: Vec<_> = client(3)
            .into_iter()
            .enumerate()
            .map(|(family, from)| {
                let connect = || lb_tests::http::connect(from, service(family));
                let mut stream = wait::until("a connection", || net.clients.run(connect).ok());
                stream.write_all(b"and now we wait").unwrap();
                stream
            })
            .collect();
        for stream in &mut open {
            // Unlike `read`, it goes on when a signal interrupts it.
            let end = stream.read_exact(&mut [0]).map_err(|error| error.kind());
            assert_eq!(
                end,
                Err(io::ErrorKind::ConnectionReset),
                "a client of {class}"
            );
        }
        for _ in backends {
            let (address, end) = ends.recv_timeout(wait::PATIENCE).unwrap();
            assert_eq!(
                end,
                Err(io::ErrorKind::ConnectionReset),
                "{class} {address}"
            );
        }
    }
}

#[test]
fn while_all_backends_are_down_connections_and_datagrams_are_refused_at_once() {
    let net = Net::new();
    // The port has no listener: a probe is refused.
    let agent = Agent::start(&net.balancer, &refusing(&services(CONTAINER, "")));
    agent.wait_until_all_are_down();
    for (family, from) in client(4).into_iter().enumerate() {
        let connect = || Bulk::connect(from, service(family)).map(drop);
        let refused = net.clients.run(connect).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{from}");
        let refused = net.clients.run(|| refused_udp(from, service(family)));
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{from}");
    }
    assert!(agent.packets("reset_sent") >= 2 && agent.packets("icmp_sent") >= 2);
}

#[test]
fn datagrams_to_a_backend_that_is_removed_are_refused_at_once_and_the_next_served_by_another() {
    let net = Net::new();
    let mut text = services(CONTAINER, "");
    for address in CONTAINER {
        let [one, other] = [5000, 5001].map(|port| SocketAddr::new(address, port));
        udp_echo(&net.container, one);
        udp_echo(&net.container, other);
        text = text.replace(&format!("'{one}'"), &format!("'{one}', '{other}'"));
    }
    let agent = Agent::start(&net.balancer, &text);
    for (family, from) in client(6).into_iter().enumerate() {
        let socket = net.clients.run(|| UdpSocket::bind((from, 0)).unwrap());
        socket.connect(service(family)).unwrap();
        // An answer that comes late would be taken for that to the next question.
        let patience = Some(Duration::from_secs(5));
        socket.set_read_timeout(patience).unwrap();
        let ask = || {
            socket.send(b"hello")?;
            socket.recv(&mut [0; 100])
        };
        wait::until("an answer", || ask().ok());
        let name = ["udp4", "udp6"][family];
        let found = agent.ok(&["lookup", &from.to_string(), "--service", name, "--json"]);
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        let backend = found["backend"].as_str().unwrap();
        agent.ok(&["remove-backend", backend, "--service", name]);
        let refused = ask().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{from}");
        wait::until("an answer of the other", || ask().ok());
    }
}

#[test]
fn a_flood_and_a_full_table_take_no_connection_from_anybody() {
    let net = Net::new();
    for address in CONTAINER {
        bulk_server(&net.container, SocketAddr::new(address, 5000));
    }
    // One set of each family, in which fourteen are kept.
    let agent = Agent::start(&net.balancer, &services(CONTAINER, "flow_table = 8"));
    let connect = |n: u16| {
        let pair = client(n).into_iter().enumerate();
        pair.map(|(family, from)| {
            let connect = || Bulk::connect(from, service(family)).ok();
            let mut bulk = wait::until("a connection", || net.clients.run(connect));
            bulk.transfer(1000, 1000).unwrap();
            bulk
        })
        .collect::<Vec<_>>()
    };
    let mut open: Vec<Bulk> = (1..=10).flat_map(connect).collect();
    let figures = || agent.status()["agent"]["packets"]["figures"].clone();
    wait::until("all to be known", || {
        (figures()["established"] == open.len()).then_some(())
    });
    // A flood of clients that do not exist. (A queue on the path may be full.)
    let flood = |first: u16| {
        for n in first..first + 500 {
            let [high, low] = n.to_be_bytes();
            let v4 = Ipv4Addr::new(198, 18, high, low);
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 1);
            let [IpAddr::V4(to4), IpAddr::V6(to6)] = VIP else {
                unreachable!("one of each family")
            };
            let syn = |src, dst| Tcp::new(4242, 80, 2).bytes(src, dst);
            let packet = Ipv4::new(v4, to4).packet(number::TCP, &syn(v4.into(), to4.into()));
            send_raw(&packet, to4.into());
            let packet = Ipv6::new(v6, to6).packet(number::TCP, &syn(v6.into(), to6.into()));
            send_raw(&packet, to6.into());
        }
    };
    let mut waves = (0..60_000).step_by(500);
    wait::until("the flood to be over", || {
        net.router.run(|| waves.next().map(flood));
        (agent.packets("flow_new") > 3000).then_some(())
    });
    assert_eq!(
        figures()["established"],
        open.len(),
        "nobody was pushed out"
    );
    // More than there is room for.
    open.extend((11..=20).flat_map(connect));
    assert!(agent.packets("flow_quota") > 0, "{}", figures());
    for bulk in &mut open {
        bulk.transfer(50_000, 50_000).unwrap();
    }
}

#[test]
fn source_ports_are_free_again_when_their_flows_are_over() {
    let net = Net::new();
    // There are 4096 slots for ports, and the backend has no listener.
    let ages = "flow_table = 512\nflow_timeouts = { syn = '1s', closing = '1s' }";
    let agent = Agent::start(&net.balancer, &services(SERVER, ages));
    let IpAddr::V4(vip) = VIP[0] else {
        unreachable!("the first is IPv4")
    };
    let wave = |first: u16| {
        for n in first..first + 800 {
            let [high, low] = n.to_be_bytes();
            let from = Ipv4Addr::new(198, 18, high, low);
            let syn = Tcp::new(4242, 80, 2).bytes(from.into(), vip.into());
            send_raw(&Ipv4::new(from, vip).packet(number::TCP, &syn), vip.into());
        }
    };
    let figures = || agent.status()["agent"]["packets"]["figures"].clone();
    let mut first = 0;
    while agent.packets("flow_new") < 6000 {
        assert!(first < 60_000, "{} new flows", agent.packets("flow_new"));
        net.router.run(|| wave(first));
        first += 800;
        let walks = figures()["walks"].as_u64().unwrap();
        wait::until("them to be over", || {
            let figures = figures();
            // The walk that is under way has begun before.
            let looked = figures["walks"].as_u64() >= Some(walks + 2);
            (looked && figures["opening"] == 0).then_some(())
        });
    }
    assert_eq!(agent.packets("drop_no_port"), 0);
}

#[test]
fn the_backends_kernel_knows_the_clients_addresses() {
    let net = Net::new();
    for address in CONTAINER {
        bulk_server(&net.container, SocketAddr::new(address, 5000));
    }
    let _agent = Agent::start(&net.balancer, &services(CONTAINER, ""));
    for (family, from) in client(5).into_iter().enumerate() {
        let connect = || {
            net.clients
                .run(|| Bulk::connect(from, service(family)))
                .ok()
        };
        let mut bulk = wait::until("a connection", connect);
        bulk.transfer(10, 10).unwrap();
        let mut ss: Command = net.container.command("ss");
        ss.args(["-Htn", "state", "established", "sport", "=", ":5000"]);
        let said = ss.output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout);
        assert!(
            said.contains(&from.to_string()),
            "{from} is not in {said:?}"
        );
    }
}

#[test]
fn clients_on_the_same_wire_whose_mac_addresses_are_not_known_are_answered() {
    let hosts = Hosts::new();
    let container = hosts.container();
    let mut services = String::new();
    for (address, listen) in hosts::CONTAINER.into_iter().zip([SERVICE_V4, SERVICE_V6]) {
        let backend = SocketAddr::new(address, 5000);
        bulk_server(&container, backend);
        services += &format!(
            "[[service]]\nname = '{}'\nlisten = ['{listen}']\npath = 'nat'\n\
             backends = ['{backend}']\n",
            if address.is_ipv4() { "four" } else { "six" }
        );
    }
    let agent = Agent::start(&hosts.balancer, &services);
    // The first client of each family asks for the balancer's address, and so becomes known. The others
    // have no reason to announce their addresses.
    for from in (1..=3).flat_map(|n| [client_v4(n), client_v6(n)]) {
        let visit = || Bulk::connect(from, service_for(from))?.transfer(1000, 1000);
        let seen = hosts.clients.run(visit);
        assert_eq!(seen.ok(), Some(from), "{}", agent.ok(&["stats"]));
    }
}

#[test]
fn flows_of_a_backend_that_was_drained_and_is_back_are_over_also_for_the_next_agent() {
    let net = Net::new();
    let backend = SocketAddr::new(CONTAINER[0], 5000);
    bulk_server(&net.container, backend);
    let mut agent = Agent::start(&net.balancer, &services(CONTAINER, ""));
    let open = || {
        let mut bulk = Bulk::connect(client(7)[0], service(0)).unwrap();
        bulk.transfer(1000, 1000).unwrap();
        bulk
    };
    let mut open: Vec<Bulk> = net.clients.run(|| (0..8).map(|_| open()).collect());
    let (address, end) = (
        backend.to_string(),
        ["--timeout", "0s", "--at-end", "close"],
    );
    agent.ok(&[&["drain-backend", &address, "--service", "tcp4"], &end[..]].concat());
    for bulk in &mut open {
        assert_eq!(bulk.end().kind(), io::ErrorKind::ConnectionReset);
    }
    // The backend is back before its entries are gone, and the next agent does not know which clients
    // have been told.
    agent.ok(&["add-backend", &address, "--service", "tcp4"]);
    agent.kill();
    agent.start_again();
    let figures = || agent.status()["agent"]["packets"]["figures"].clone();
    wait::until("the table to be empty", || {
        (figures()["established"] == 0 && figures()["walks"].as_u64() > Some(1)).then_some(())
    });
}
