//! `client_connections`: the kernel refuses connections above the cap of a client at the SYN, by counts that outlive
//! the agent.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{CONTAINER, Hosts, SERVICE_V4, client_v4, client_v6, service_for};
use lb_tests::{http, node, wait};
use socket2::{Domain, SockRef, Socket, Type};

/// `web` on the socket path, `site` by the L7 path, `far` by the proxy path.
const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\nclient_connections = 3\n\
     backends = ['127.0.0.1:5000', '[::1]:5000']\n\
     [[service]]\nname = 'site'\nmode = 'http'\nlisten = ['0.0.0.0:81', '[::]:81']\nclient_connections = 3\n\
     backends = ['127.0.0.1:5000']\n\
     [[service]]\nname = 'far'\nlisten = ['0.0.0.0:82', '[::]:82']\nclient_connections = 3\n\
     backends = [{ address = '127.0.0.1:5000', path = 'proxy' }]\n";
const PORTS: [u16; 3] = [80, 81, 82];

fn connect(hosts: &Hosts, from: IpAddr, port: u16) -> Option<TcpStream> {
    let to = SocketAddr::new(service_for(from).ip(), port);
    match hosts.clients.run(|| http::connect(from, to)) {
        Ok(stream) => Some(stream),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
            None
        }
    }
}

/// Opens connections until one is refused.
fn fill(hosts: &Hosts, from: IpAddr, port: u16) -> Vec<TcpStream> {
    (0..100).map_while(|_| connect(hosts, from, port)).collect()
}

/// Waits until as many connections as `more` can be opened beside the open ones, and no more.
fn wait_for_room(hosts: &Hosts, from: IpAddr, port: u16, more: usize) -> Vec<TcpStream> {
    let mut open = Vec::new();
    wait::until("a closed connection is taken off the count", || {
        open.extend(connect(hosts, from, port));
        (open.len() == more).then_some(())
    });
    assert!(connect(hosts, from, port).is_none());
    open
}

fn capped(agent: &Agent<'_>, service: usize) -> u64 {
    let counters = &agent.status()["services"][service]["counters"];
    counters["capped"].as_u64().unwrap()
}

#[test]
fn client_at_its_cap_is_refused_with_and_without_an_agent() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let (one, other) = (client_v4(1), client_v4(2));
    wait::until("the application listens", || connect(&hosts, other, 80));
    let mut open = PORTS.map(|port| fill(&hosts, one, port));
    assert_eq!(open.each_ref().map(Vec::len), [3; 3]);
    assert_eq!([0, 1, 2].map(|service| capped(&agent, service)), [1; 3]);
    for port in PORTS {
        assert!(connect(&hosts, other, port).is_some());
        assert!(connect(&hosts, client_v6(1), port).is_some());
    }
    agent.ok(&["reload"]);
    assert!(
        PORTS
            .iter()
            .all(|port| connect(&hosts, one, *port).is_none())
    );
    for (port, open) in PORTS.into_iter().zip(&mut open) {
        open.pop();
        open.append(&mut wait_for_room(&hosts, one, port, 1));
    }
    agent.kill();
    // Without an agent: one connection of the socket path closes, and one is opened.
    let [web, ..] = &mut open;
    assert!(connect(&hosts, one, 80).is_none());
    web.pop();
    web.append(&mut wait_for_room(&hosts, one, 80, 1));
    web.truncate(1);
    agent.start_again();
    web.append(&mut wait_for_room(&hosts, one, 80, 2));
    // Those through the agent have ended with it.
    for port in [81, 82] {
        drop(wait_for_room(&hosts, one, port, 3));
    }
    let metrics = agent.ok(&["stats", "--json"]);
    assert!(metrics.contains("\"client_connections\""), "{metrics}");
}

#[test]
fn parallel_connections_do_not_exceed_the_cap() {
    const CAP: usize = 50;
    let services = SERVICES.replace("client_connections = 3", "client_connections = 50");
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &services);
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let one = client_v4(1);
    wait::until("the application listens", || {
        connect(&hosts, client_v4(2), 80)
    });
    for port in PORTS {
        let barrier = Barrier::new(200);
        let open: Vec<TcpStream> = thread::scope(|scope| {
            let connects = || {
                barrier.wait();
                connect(&hosts, one, port)
            };
            let all: Vec<_> = (0..200).map(|_| scope.spawn(connects)).collect();
            let opened = all.into_iter().map(|thread| thread.join().unwrap());
            opened.flatten().collect()
        });
        assert!(open.len() <= CAP, "{} at port {port}", open.len());
        let more = wait_for_room(&hosts, one, port, CAP - open.len());
        assert_eq!(open.len() + more.len(), CAP);
    }
}

#[test]
fn cap_of_a_reload_holds_for_connections_from_then_on() {
    let hosts = Hosts::new();
    let agent = Agent::start(
        &hosts.balancer,
        &SERVICES.replace("client_connections = 3\n", ""),
    );
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let one = client_v4(1);
    let before = wait::until("the application listens", || connect(&hosts, one, 80));
    agent.configure(SERVICES);
    agent.ok(&["reload"]);
    let open = fill(&hosts, one, 80);
    assert_eq!(open.len(), 3);
    drop((before, open));
    drop(wait_for_room(&hosts, one, 80, 3));
    agent.configure(&SERVICES.replace("client_connections = 3\n", ""));
    agent.ok(&["reload"]);
    assert_eq!(fill(&hosts, one, 80).len(), 100);
}

/// Waits until the SYNs of another connection have been refused. It is dropped on this path, so no answer comes.
fn wait_for_a_dropped_syn(hosts: &Hosts, agent: &Agent<'_>, from: IpAddr) {
    let before = capped(agent, 0);
    let socket = hosts.clients.run(move || {
        let socket = Socket::new(Domain::for_address(SERVICE_V4), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&SERVICE_V4.into());
        socket
    });
    wait::until("a SYN is refused", || {
        (capped(agent, 0) > before).then_some(())
    });
    assert!(socket.peer_addr().is_err(), "connected");
}

#[test]
fn flows_of_nat_are_counted_until_they_end() {
    let hosts = Hosts::new();
    let container = hosts.container();
    let services = format!(
        "[[service]]\nname = 'web'\nlisten = ['{SERVICE_V4}']\npath = 'nat'\nclient_connections = 3\n\
         backends = ['{}:5000']\n",
        CONTAINER[0]
    );
    let mut agent = Agent::start(&hosts.balancer, &services);
    let listen = SocketAddr::new(CONTAINER[0], 5000);
    let _app = node::serve(&container, "server.js", listen, agent.dir());
    let (one, other) = (client_v4(1), client_v4(2));
    wait::until("the container is reached", || {
        hosts.clients.run(|| http::get(other, SERVICE_V4)).ok()
    });
    let mut open: Vec<TcpStream> = (0..3).map(|_| connect(&hosts, one, 80).unwrap()).collect();
    wait_for_a_dropped_syn(&hosts, &agent, one);
    assert!(connect(&hosts, other, 80).is_some());
    for stream in open.split_off(1) {
        // An RST: the flow ends at once.
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    agent.kill();
    open.extend((0..2).map(|_| connect(&hosts, one, 80).unwrap()));
    agent.start_again();
    wait_for_a_dropped_syn(&hosts, &agent, one);
    assert_eq!(open.len(), 3);
}
