//! The kernel alone connects clients on the balancer's own host to backends elsewhere. No packet is
//! rewritten, and clients see only the service's address.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lb_common::abi::{path, state};
use lb_tests::plane::Kernel;
use lb_tests::stub_server::StubServer;
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6};
use lb_tests::{http, wait};
use socket2::{Domain, Protocol, Socket, Type};

const SERVICES: &str = "
[[service]]
name = 'web4'
listen = ['0.0.0.0:80']
backends = ['10.99.1.1:5001', '10.99.1.2:5002', '10.99.1.3:5003']
[[service]]
name = 'web6'
listen = ['[::]:80']
backends = ['[fd99:0:0:2::2]:5001', '[fd99:0:0:3::2]:5002', '[fd99:0:0:4::2]:5003']
[[service]]
name = 'echo4'
mode = 'udp'
listen = ['0.0.0.0:7', '10.99.0.1:8']
backends = ['10.99.1.1:5001', '10.99.1.2:5002', '10.99.1.3:5003']
[[service]]
name = 'echo6'
mode = 'udp'
listen = ['[::]:7', '[fd99::1]:8']
backends = ['[fd99:0:0:2::2]:5001', '[fd99:0:0:3::2]:5002', '[fd99:0:0:4::2]:5003']
";

/// The nth address of the balancer beside its first, of each family.
fn own_v4(n: u8) -> IpAddr {
    [10, 99, 8, n].into()
}

fn own_v6(n: u16) -> IpAddr {
    Ipv6Addr::new(0xfd99, 0, 0, 0x8000 + n, 0, 0, 0, 2).into()
}

/// Clients by addresses of the balancer, each with the service of its family.
fn bound_clients() -> impl Iterator<Item = (IpAddr, SocketAddr, &'static str)> {
    let v4 = (1..=12).map(|n| (own_v4(n), SERVICE_V4, "4"));
    v4.chain((1..=12).map(|n| (own_v6(n), SERVICE_V6, "6")))
}

/// The balancer with twelve more addresses, and the wire to the backends.
fn hosts() -> Hosts {
    let hosts = Hosts::new();
    for n in 1..=12 {
        let (v4, v6) = (own_v4(n), own_v6(n.into()));
        let balancer = &hosts.balancer;
        balancer.ip(&["addr", "add", &format!("{v4}/16"), "dev", "wire"]);
        balancer.ip(&["addr", "add", &format!("{v6}/32"), "dev", "wire", "nodad"]);
    }
    hosts
}

/// The backends' addresses, with the port by which each is known.
fn backends() -> [SocketAddr; 6] {
    let at = |n: u16, ip: IpAddr| SocketAddr::new(ip, 5000 + n);
    [
        at(1, client_v4(1)),
        at(2, client_v4(2)),
        at(3, client_v4(3)),
        at(1, client_v6(1)),
        at(2, client_v6(2)),
        at(3, client_v6(3)),
    ]
}

fn web(host: &Host) -> [StubServer; 6] {
    backends().map(|backend| StubServer::new(host, &backend.to_string(), backend.port()))
}

/// UDP servers that answer with their port and the received bytes; closed when dropped.
struct Echo(Arc<AtomicBool>);

impl Echo {
    fn serve(host: &Host) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for address in backends() {
            let socket = host.run(|| UdpSocket::bind(address).unwrap());
            let pause = Some(Duration::from_millis(100));
            socket.set_read_timeout(pause).unwrap();
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut buffer = [0; 100];
                while !stop.load(Ordering::SeqCst) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                        continue;
                    };
                    let heard = String::from_utf8_lossy(&buffer[..length]);
                    let answer = format!("{}:{heard}", address.port());
                    let _ = socket.send_to(answer.as_bytes(), from);
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn udp(from: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
}

/// The port in an echo server's answer to `hello`.
fn answered_by(answer: &[u8]) -> u16 {
    let text = std::str::from_utf8(answer).unwrap();
    let (port, heard) = text.split_once(':').unwrap();
    assert_eq!(heard, "hello");
    port.parse().unwrap()
}

#[test]
fn tcp_clients_get_the_backend_that_lookup_names_and_see_the_service() {
    let hosts = hosts();
    let _web = web(&hosts.clients);
    let kernel = Kernel::open(&hosts.balancer, SERVICES, path::NAT);
    let mut seen = BTreeSet::new();
    for (client, service, family) in bound_clients() {
        let name = format!("web{family}");
        let backend = kernel.choice(&name, client);
        let before = kernel.counts(&name, backend);
        let stream = hosts
            .balancer
            .run(|| http::connect(client, service).unwrap());
        assert_eq!(stream.peer_addr().unwrap(), service, "getpeername");
        assert_eq!(stream.local_addr().unwrap().ip(), client);
        assert_eq!(kernel.counts(&name, backend).active, before.active + 1);
        assert_eq!(kernel.counts(&name, backend).total, before.total + 1);
        assert_eq!(kernel.remembered(&name, client), Some(backend));
        let answer = http::ask(&stream).unwrap();
        assert_eq!(answer.port, backend.port(), "{client}");
        assert_eq!(answer.remote, client.to_string(), "no packet is rewritten");
        // The server closes after its answer; then so does the client, and the connection is over.
        let _ = (&stream).read(&mut [0; 1]);
        drop(stream);
        wait::until("the connection is off the count", || {
            (kernel.counts(&name, backend).active == before.active).then_some(())
        });
        seen.insert(backend);
    }
    assert_eq!(seen.len(), 6, "every backend is somebody's: {seen:?}");
}

#[test]
fn a_client_that_binds_nothing_counts_as_what_a_connection_to_the_service_would_have() {
    let hosts = hosts();
    let _web = web(&hosts.clients);
    let kernel = Kernel::open(&hosts.balancer, SERVICES, path::NAT);
    for (service, client) in [
        ("127.0.0.1:80", "127.0.0.1"),
        ("127.0.0.9:80", "127.0.0.1"),
        ("0.0.0.0:80", "127.0.0.1"),
        ("10.99.0.1:80", "10.99.0.1"),
        // A second address of an interface: connections to it come from the first.
        ("10.99.8.5:80", "10.99.0.1"),
        ("[::1]:80", "::1"),
        ("[fd99::1]:80", "fd99::1"),
        ("[fd99:0:0:8005::2]:80", "fd99:0:0:8005::2"),
    ] {
        let service: SocketAddr = service.parse().unwrap();
        let name = if service.is_ipv4() { "web4" } else { "web6" };
        let expected = kernel.choice(name, client.parse().unwrap());
        let stream = hosts.balancer.run(|| TcpStream::connect(service).unwrap());
        let answer = http::ask(&stream).unwrap();
        assert_eq!(answer.port, expected.port(), "{service}");
        let remembered = kernel.remembered(name, client.parse().unwrap());
        assert_eq!(remembered, Some(expected), "{service}");
    }
}

#[test]
fn an_ipv6_socket_that_names_a_mapped_address_is_a_client_like_others() {
    let hosts = hosts();
    let _web = web(&hosts.clients);
    let _echo = Echo::serve(&hosts.clients);
    let kernel = Kernel::open(&hosts.balancer, SERVICES, path::NAT);
    let mapped = |port| SocketAddr::new(Ipv4Addr::new(10, 99, 0, 1).to_ipv6_mapped().into(), port);
    let expected = kernel.choice("web4", [10, 99, 0, 1].into());
    let stream = hosts.balancer.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.connect(&mapped(80).into()).unwrap();
        TcpStream::from(socket)
    });
    assert_eq!(stream.peer_addr().unwrap(), mapped(80));
    assert_eq!(http::ask(&stream).unwrap().port, expected.port());

    let expected = kernel.choice("echo4", [10, 99, 0, 1].into());
    let socket = hosts.balancer.run(|| udp(Ipv6Addr::UNSPECIFIED.into()));
    socket.send_to(b"hello", mapped(7)).unwrap();
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from, mapped(7));
    assert_eq!(answered_by(&buffer[..length]), expected.port());
}

#[test]
fn udp_clients_stay_with_their_backend_and_answers_come_from_the_service() {
    let hosts = hosts();
    let _echo = Echo::serve(&hosts.clients);
    let kernel = Kernel::open(&hosts.balancer, SERVICES, path::NAT);
    let mut buffer = [0; 100];
    for (client, service, family) in bound_clients() {
        let name = format!("echo{family}");
        let backend = kernel.choice(&name, client);
        let one = SocketAddr::new(service.ip(), 7);
        let connected = hosts.balancer.run(|| udp(client));
        connected.connect(one).unwrap();
        assert_eq!(connected.peer_addr().unwrap(), one, "getpeername");
        connected.send(b"hello").unwrap();
        let (length, from) = connected.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (from, answered_by(&buffer[..length])),
            (one, backend.port())
        );
        assert_eq!(kernel.remembered(&name, client), Some(backend));

        // One socket, two addresses of the service: each answers for itself.
        let unconnected = hosts.balancer.run(|| udp(client));
        let before = kernel.counts(&name, backend).total;
        for port in [7, 8, 7] {
            let service = SocketAddr::new(service.ip(), port);
            unconnected.send_to(b"hello", service).unwrap();
            let (length, from) = unconnected.recv_from(&mut buffer).unwrap();
            assert_eq!(from, service);
            assert_eq!(answered_by(&buffer[..length]), backend.port());
        }
        assert_eq!(kernel.counts(&name, backend).total, before + 3);
    }
}

#[test]
fn a_backend_that_is_down_is_passed_over() {
    let hosts = hosts();
    let _web = web(&hosts.clients);
    let mut kernel = Kernel::open(&hosts.balancer, SERVICES, path::DSR);
    let client = own_v4(3);
    let get = || {
        hosts
            .balancer
            .run(|| http::get(client, SERVICE_V4).unwrap().port)
    };
    let first = kernel.choice("web4", client);
    assert_eq!(get(), first.port());
    kernel.set_state(first, state::DOWN);
    let next = kernel.choice("web4", client);
    assert_ne!(next, first);
    assert_eq!(get(), next.port());
    // The client has moved, and stays.
    kernel.set_state(first, state::UP);
    assert_eq!(get(), next.port());
    // A backend that is drained keeps its clients.
    kernel.set_state(next, state::DRAINING);
    assert_eq!(get(), next.port());
}

#[test]
fn what_is_not_for_a_service_here_goes_where_it_was_going() {
    let hosts = hosts();
    let _web = web(&hosts.clients);
    let kernel = Kernel::open(&hosts.balancer, SERVICES, path::NAT);
    // The services are on all addresses, of this host.
    let other: SocketAddr = "10.99.1.9:80".parse().unwrap();
    let _other = StubServer::new(&hosts.clients, "10.99.1.9:80", 9);
    let _in_other_namespace = StubServer::new(&hosts.clients, "127.0.0.1:80", 10);
    let direct = backends()[1];
    let (from_here, to_backend, elsewhere) = (
        hosts.balancer.run(|| http::get(own_v4(1), other).unwrap()),
        hosts
            .balancer
            .run(|| http::connect(own_v4(1), direct).unwrap()),
        hosts.clients.run(|| {
            let stream = TcpStream::connect("127.0.0.1:80").unwrap();
            http::ask(&stream).unwrap()
        }),
    );
    assert_eq!((from_here.port, elsewhere.port), (9, 10));
    assert_eq!(to_backend.peer_addr().unwrap(), direct);
    assert_eq!(kernel.counts("web4", direct).total, 0);
    // A socket at 127.0.0.1 cannot reach another host. Such a client is served by the agent, and is
    // refused at once without an agent.
    let loopback: IpAddr = [127, 0, 0, 1].into();
    let service = "127.0.0.1:80".parse().unwrap();
    let refused = hosts.balancer.run(|| http::connect(loopback, service));
    assert_eq!(
        refused.unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn addresses_that_come_are_served_and_those_that_go_are_let_be() {
    let hosts = hosts();
    let _web = web(&hosts.clients);
    let kernel = Kernel::open(&hosts.balancer, SERVICES, path::NAT);
    let address: SocketAddr = "10.99.9.9:80".parse().unwrap();
    let client = own_v4(2);
    let expected = kernel.choice("web4", client).port();
    let get = || hosts.balancer.run(|| http::get(client, address));
    hosts
        .balancer
        .ip(&["addr", "add", "10.99.9.9/16", "dev", "wire"]);
    wait::until("the new address is served", || {
        get()
            .is_ok_and(|answer| answer.port == expected)
            .then_some(())
    });
    hosts
        .balancer
        .ip(&["addr", "del", "10.99.9.9/16", "dev", "wire"]);
    hosts
        .clients
        .ip(&["addr", "add", "10.99.9.9/16", "dev", "wire"]);
    let _other = StubServer::new(&hosts.clients, "10.99.9.9:80", 9);
    wait::until("the address is another host's", || {
        get().is_ok_and(|answer| answer.port == 9).then_some(())
    });
}

#[test]
fn hooks_come_with_the_first_backend_on_a_packet_path() {
    let hosts = hosts();
    let hook = "links/lb_connect4";
    let local = Kernel::open(&hosts.balancer, SERVICES, path::SOCKET);
    assert!(!local.pin_dir().join(hook).exists());
    drop(local);
    for rewritten in [path::NAT, path::DSR] {
        let kernel = Kernel::open(&hosts.balancer, SERVICES, rewritten);
        assert!(kernel.pin_dir().join(hook).exists());
    }
}

#[test]
fn hooks_are_taken_over_in_place_and_purged() {
    let hosts = hosts();
    let _web = web(&hosts.clients);
    let mut kernel = Kernel::open(&hosts.balancer, SERVICES, path::NAT);
    let client = own_v4(4);
    let get = || hosts.balancer.run(|| http::get(client, SERVICE_V4));
    let stream = hosts
        .balancer
        .run(|| http::connect(client, SERVICE_V4).unwrap());
    kernel.open_again();
    assert_eq!(stream.peer_addr().unwrap(), SERVICE_V4);
    assert!(kernel.pin_dir().join("links/lb_connect4").exists());
    let backend = http::ask(&stream).unwrap().port;
    assert_eq!(get().unwrap().port, backend);
    drop(kernel);
    let refused = get().unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}
