//! WebSockets over HTTP/1.1: the handshake, and the tunnel after it.

use std::io::Read as _;
use std::time::Duration;

use super::{Backend, OK, Proxy, field, status};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Protocol: chat, superchat\r\n\
                       Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                        Sec-WebSocket-Protocol: chat\r\n\r\n";

/// Both ends of a tunnel.
fn tunnel(settings: &str) -> (Proxy, super::Client, super::Client) {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], settings);
    let mut client = proxy.ask(UPGRADE);
    let (mut connection, _) = backend.request();
    connection.send(SWITCHED);
    assert_eq!(status(&client.head()), 101);
    (proxy, client, connection)
}

#[test]
fn w4_2_the_fields_of_the_handshake_are_passed_on_untouched() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(UPGRADE);
    let (mut connection, head) = backend.request();
    assert_eq!(field(&head, "upgrade"), Some("websocket"));
    assert!(
        field(&head, "connection")
            .unwrap()
            .eq_ignore_ascii_case("upgrade")
    );
    assert_eq!(
        field(&head, "sec-websocket-key"),
        Some("dGhlIHNhbXBsZSBub25jZQ==")
    );
    assert_eq!(field(&head, "sec-websocket-version"), Some("13"));
    assert_eq!(
        field(&head, "sec-websocket-protocol"),
        Some("chat, superchat")
    );
    assert_eq!(
        field(&head, "sec-websocket-extensions"),
        Some("permessage-deflate")
    );
    assert_eq!(field(&head, "x-forwarded-proto"), Some("http"), "never ws");
    connection.send(SWITCHED);
    let head = client.head();
    assert_eq!(
        field(&head, "sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(field(&head, "sec-websocket-protocol"), Some("chat"));
    assert_eq!(field(&head, "transfer-encoding"), None);
    assert_eq!(field(&head, "content-length"), None);
}

#[test]
fn w4_bytes_that_come_with_the_handshake_arrive_in_both_directions() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(&format!("{UPGRADE}early"));
    let (mut connection, _) = backend.request();
    connection.send(&format!("{SWITCHED}prompt"));
    assert_eq!(connection.exactly(5), "early");
    client.head();
    assert_eq!(client.exactly(6), "prompt");
}

#[test]
fn h7_8_nothing_of_the_client_goes_on_before_the_backend_has_agreed() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(&format!("{UPGRADE}GET /smuggled HTTP/1.1\r\n\r\n"));
    let (mut connection, _) = backend.request();
    connection.is_silent();
    // The backend does not agree: the bytes are the next request, and a bad one.
    connection.send(OK);
    assert_eq!(client.status(), 200);
    assert_eq!(client.status(), 400);
    connection.is_silent();
}

#[test]
fn h7_8_a_refused_upgrade_leaves_a_good_connection() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(UPGRADE);
    let (mut connection, _) = backend.request();
    connection.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad");
    let (status, answer) = client.answer();
    assert_eq!(status, 400);
    assert!(answer.ends_with("bad"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    connection.head();
    connection.send(OK);
    assert_eq!(client.status(), 200);
}

#[test]
fn h7_8_other_protocols_and_http_1_0_are_not_upgraded() {
    let requests = [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ];
    for request in requests {
        let head = super::forwarded(request);
        assert_eq!(field(&head, "upgrade"), None, "{head}");
        assert_eq!(field(&head, "connection"), None, "{head}");
    }
}

#[test]
fn h9_3_6_each_direction_ends_by_itself() {
    let (_proxy, mut client, mut connection) = tunnel("");
    client.send("last words");
    client.end();
    assert_eq!(connection.rest(), "last words");
    connection.send("answer");
    connection.end();
    assert_eq!(client.rest(), "answer");
}

#[test]
fn a_reset_is_passed_on() {
    let (_proxy, client, mut connection) = tunnel("");
    socket2::SockRef::from(&client.stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    let read = connection.stream.read(&mut [0; 1]);
    assert_eq!(
        read.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
}

#[test]
fn a_tunnel_is_cut_after_its_own_time_alone() {
    // Other times do not touch it.
    let (_proxy, mut client, mut connection) =
        tunnel("timeouts = { idle = '1s', body = '1s', first_byte = '1s', header = '1s' }");
    std::thread::sleep(Duration::from_millis(2500));
    client.send("still here");
    assert_eq!(connection.exactly(10), "still here");

    let (_proxy, mut client, _connection) = tunnel("timeouts = { tunnel = '1s' }");
    assert_eq!(client.rest(), "");
}

#[test]
fn much_goes_through_at_the_pace_of_whoever_reads() {
    let (_proxy, mut client, mut connection) = tunnel("");
    let all: Vec<u8> = (0..16 << 20).map(|n: u32| (n >> 3) as u8).collect();
    let sent = all.clone();
    let writer = std::thread::spawn(move || {
        std::io::Write::write_all(&mut client.stream, &sent).unwrap();
        client.end();
        client
    });
    let mut got = Vec::new();
    connection.stream.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == all, "{} of {} bytes", got.len(), all.len());
}
