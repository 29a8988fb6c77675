//! The PROXY protocol: read from trusted proxies alone, and sent to backends, over HTTP and for
//! plain TCP.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use lb_tests::agent::Agent;
use lb_tests::exchange::{self, Reply};
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6};
use lb_tests::{http, node};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(client: [u8; 4], local: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
    let ports = ports.map(u16::to_be_bytes).concat();
    [V2, b"\x21\x11\x00\x0c", &client, &local, &ports].concat()
}

#[test]
fn a_trusted_proxy_says_who_the_client_is_and_others_cannot() {
    let hosts = Hosts::new();
    let proxy = client_v4(2);
    let agent = Agent::start(
        &hosts.balancer,
        &format!(
            "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
             backends = ['127.0.0.1:5000']\n[service.http]\nproxy_protocol = true\n\
             trusted_proxies = ['{proxy}']\n"
        ),
    );
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let request = b"GET /request HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let v1 = b"PROXY TCP4 203.0.113.9 198.51.100.1 51000 443\r\n".to_vec();
    let v2 = v2([203, 0, 113, 9], [198, 51, 100, 1], [51_000, 443]);
    for header in [&v1, &v2] {
        let bytes = [header.as_slice(), request].concat();
        let seen = Reply::parse(&exchange::raw(&hosts.clients, proxy, SERVICE_V4, &bytes)).json();
        assert_eq!(seen["ip"], "203.0.113.9", "{seen:#}");
        assert_eq!(seen["headers"]["x-forwarded-port"], "443");
        // From an untrusted peer these bytes are no request.
        let other = exchange::raw(&hosts.clients, client_v4(3), SERVICE_V4, &bytes);
        assert!(
            other.is_empty() || other.starts_with("HTTP/1.1 400"),
            "{other}"
        );
    }
    // The proxy's own check has no client.
    let check = [V2, b"\x20\x00\x00\x00", request].concat();
    let seen = Reply::parse(&exchange::raw(&hosts.clients, proxy, SERVICE_V4, &check)).json();
    assert_eq!(seen["ip"], proxy.to_string());
    // Without its header the proxy is not listened to; others need none.
    let silent = exchange::raw(&hosts.clients, proxy, SERVICE_V4, request);
    assert_eq!(silent, "");
    let plain = exchange::raw(&hosts.clients, client_v4(3), SERVICE_V4, request);
    assert_eq!(Reply::parse(&plain).json()["ip"], client_v4(3).to_string());
}

/// An application that answers a connection with its first bytes, up to the empty line.
fn beginning(host: &Host, listen: SocketAddr) {
    let (ready, listening) = std::sync::mpsc::channel();
    host.spawn(move || {
        let listener = TcpListener::bind(listen).unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = Vec::new();
            let mut piece = [0; 1024];
            while !bytes.ends_with(b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => bytes.extend_from_slice(&piece[..length]),
                }
            }
            let shown = bytes.escape_ascii().to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{shown}",
                shown.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    listening.recv().unwrap();
}

#[test]
fn backends_are_told_whose_connection_it_is() {
    for (mode, setting) in [
        ("http", "[service.http]\nsend_proxy_protocol = 'v1'\n"),
        ("tcp", "send_proxy_protocol = 'v1'\n"),
    ] {
        let hosts = Hosts::new();
        let agent = Agent::start(
            &hosts.balancer,
            &format!(
                "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80', '[::]:80']\nmode = '{mode}'\n\
                 backends = ['127.0.0.1:5000']\n{setting}"
            ),
        );
        beginning(&hosts.balancer, "127.0.0.1:5000".parse().unwrap());
        for n in 1..=3 {
            let (client, port, body) = hosts.clients.run(|| {
                let stream = http::connect(client_v4(n), SERVICE_V4).unwrap();
                let port = stream.local_addr().unwrap().port();
                (client_v4(n), port, first_answer(stream))
            });
            let line = format!("PROXY TCP4 {client} 10.99.0.1 {port} 80\\r\\nGET / HTTP/1.1");
            assert!(body.starts_with(&line), "{mode}: {body}");
        }
        let body = hosts
            .clients
            .run(|| first_answer(http::connect(client_v6(1), SERVICE_V6).unwrap()));
        assert!(body.starts_with("PROXY TCP6 fd99:"), "{mode}: {body}");
        assert_eq!(agent.backend("127.0.0.1:5000")["path"], "proxy");
    }
}

#[test]
fn backends_are_told_in_binary_too() {
    for (mode, setting) in [
        ("http", "[service.http]\nsend_proxy_protocol = 'v2'\n"),
        ("tcp", "send_proxy_protocol = 'v2'\n"),
    ] {
        let hosts = Hosts::new();
        let _agent = Agent::start(
            &hosts.balancer,
            &format!(
                "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = '{mode}'\n\
                 backends = ['127.0.0.1:5000']\n{setting}"
            ),
        );
        beginning(&hosts.balancer, "127.0.0.1:5000".parse().unwrap());
        let (port, body) = hosts.clients.run(|| {
            let stream = http::connect(client_v4(1), SERVICE_V4).unwrap();
            let port = stream.local_addr().unwrap().port();
            (port, first_answer(stream))
        });
        let header = v2([10, 99, 1, 1], [10, 99, 0, 1], [port, 80]);
        let expected = format!("{}GET / HTTP/1.1", header.escape_ascii());
        assert!(body.starts_with(&expected), "{mode}: {body}");
    }
}

/// Asks for `/`, and returns the body of the answer.
fn first_answer(mut stream: std::net::TcpStream) -> String {
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let length = stream.read(&mut piece).unwrap();
        answer.extend_from_slice(&piece[..length]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && (body.ends_with("\\r\\n\\r\\n") || length == 0)
        {
            return body.to_owned();
        }
        assert_ne!(length, 0, "{text}");
    }
}
