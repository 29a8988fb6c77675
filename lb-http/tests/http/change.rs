//! Other settings and the end of the agent, while requests and tunnels go on.

use std::time::{Duration, Instant};

use lb_net::handover::AcceptPolicy;

use super::{Backend, OK, Proxy, field, status};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn new_settings_hold_for_the_next_request_and_cut_nothing() {
    let backend = Backend::new();
    let mut proxy = Proxy::new(&[&backend], "");
    let mut waiting = proxy.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nhi");
    let (mut connection, _) = backend.request();
    let mut upgraded =
        proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let (mut tunnel, _) = backend.request();
    tunnel.send("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(status(&upgraded.head()), 101);

    proxy.configure("limits = { body = '3' }");

    upgraded.send("ping");
    assert_eq!(tunnel.exactly(4), "ping");
    waiting.send("ho");
    assert_eq!(connection.exactly(4), "hiho");
    connection.send(OK);
    assert_eq!(waiting.status(), 200);
    waiting.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(waiting.status(), 413);
}

#[test]
fn listen_addresses_come_and_go_and_open_connections_are_answered_once_more() {
    let backend = Backend::new();
    let mut proxy = Proxy::new(&[&backend], "");
    let mut old = proxy.ask(GET);
    let (mut connection, _) = backend.request();
    connection.send(OK);
    assert_eq!(old.status(), 200);
    let before = std::mem::replace(&mut proxy.address, super::own_address());
    proxy.configure("");
    let mut new = proxy.ask(GET);
    connection.head();
    connection.send(OK);
    assert_eq!(new.status(), 200);
    let begun = std::time::Instant::now();
    while std::net::TcpStream::connect(before).is_ok() {
        assert!(
            begun.elapsed() < super::PATIENCE,
            "{before} is still listened on"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    old.send(GET);
    connection.head();
    connection.send(OK);
    let (status, head) = old.answer();
    assert_eq!(status, 200);
    assert_eq!(field(&head, "connection"), Some("close"));
    assert_eq!(old.rest(), "");
}

#[test]
fn at_the_end_requests_are_answered_and_connections_closed() {
    let backend = Backend::new();
    let mut proxy = Proxy::new(&[&backend], "");
    let mut idle = proxy.ask(GET);
    let (mut connection, _) = backend.request();
    connection.send(OK);
    assert_eq!(idle.status(), 200);
    let mut busy = proxy.ask(GET);
    connection.head();
    let mut tunnel =
        proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let (mut peer, _) = backend.request();
    peer.send("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(status(&tunnel.head()), 101);

    let stopped = proxy.stop(Duration::from_secs(15), AcceptPolicy::Refused);

    assert_eq!(idle.rest(), "", "an idle connection ends at once");
    connection.send(OK);
    let (status, head) = busy.answer();
    assert_eq!(status, 200);
    assert_eq!(field(&head, "connection"), Some("close"));
    assert_eq!(busy.rest(), "");
    tunnel.send("still here");
    assert_eq!(peer.exactly(10), "still here");
    assert!(!stopped.is_finished());
    drop((tunnel, peer));
    stopped.join().unwrap();
}

#[test]
fn at_the_end_whoever_has_connected_is_answered() {
    let backend = Backend::new();
    let mut proxy = Proxy::new(&[&backend], "");
    let mut clients: Vec<_> = (0..50).map(|_| proxy.ask(GET)).collect();
    let stopped = proxy.stop(Duration::from_secs(15), AcceptPolicy::Refused);
    for _ in &clients {
        let (mut connection, _) = backend.request();
        connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.status(), 200);
    }
    stopped.join().unwrap();
}

#[test]
fn until_the_agent_is_started_again_newcomers_are_served() {
    let backend = Backend::new();
    let mut proxy = Proxy::new(&[&backend], "");
    let mut busy = proxy.ask(GET);
    let (mut connection, _) = backend.request();
    let stopped = proxy.stop(Duration::from_secs(15), AcceptPolicy::Served);
    // Until the workers have heard of the end, connections are kept.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut newcomer = proxy.ask(GET);
        let (mut other, _) = backend.request();
        other.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let (status, head) = newcomer.answer();
        assert_eq!(status, 200);
        if field(&head, "connection") == Some("close") {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "accept_policy are not told of the end"
        );
    }
    connection.send(OK);
    assert_eq!(busy.status(), 200);
    stopped.join().unwrap();
    assert!(std::net::TcpStream::connect(proxy.address).is_err());
}

#[test]
fn a_tunnel_lives_until_the_drain_is_over() {
    let backend = Backend::new();
    let mut proxy = Proxy::new(&[&backend], "");
    let mut tunnel =
        proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let (mut peer, _) = backend.request();
    peer.send("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(status(&tunnel.head()), 101);
    proxy
        .stop(Duration::from_millis(200), AcceptPolicy::Served)
        .join()
        .unwrap();
    assert_eq!(tunnel.rest(), "");
}
