//! HTTP/2 without TLS from clients that know of it (RFC 9113, section 3.3).

use std::time::{Duration, Instant};

use super::https::Certificate;
use super::{Backend, Client, OK, Proxy, field};

const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame, and a HEADERS frame with END_STREAM and END_HEADERS: GET http://a/ (RFC 7541,
/// appendix A; the authority is a literal).
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const GET: [u8; 15] = [
    0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 0x01, b'a',
];
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;

/// The kind, flags and payload of the next frame.
fn frame(client: &mut Client) -> (u8, u8, Vec<u8>) {
    let mut bytes = |length: usize| {
        while client.buffer.len() < length {
            let mut piece = [0; 4096];
            let read = std::io::Read::read(&mut client.stream, &mut piece).unwrap();
            assert_ne!(read, 0, "ended after {:02x?}", client.buffer);
            client.buffer.extend_from_slice(&piece[..read]);
        }
        client.buffer.drain(..length).collect::<Vec<u8>>()
    };
    let head = bytes(9);
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    (head[3], head[4], bytes(length as usize))
}

/// The next frame of this kind.
fn frame_of(client: &mut Client, kind: u8) -> (u8, Vec<u8>) {
    loop {
        let (other, flags, payload) = frame(client);
        if other == kind {
            return (flags, payload);
        }
    }
}

fn write(client: &mut Client, bytes: &[u8]) {
    std::io::Write::write_all(&mut client.stream, bytes).unwrap();
}

#[test]
fn h2_3_3_plain_connection_that_begins_with_the_preface_speaks_http_2() {
    // In one piece, cut at every place that matters, and byte by byte.
    for size in [1000, 1, 3, 14, 16, 17, 18, 24, 30] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], "");
        let mut client = proxy.connect();
        let all = [PREFACE.as_bytes(), &SETTINGS, &GET].concat();
        for piece in all.chunks(size) {
            write(&mut client, piece);
            std::thread::sleep(Duration::from_millis(1));
        }
        let (mut connection, head) = backend.request();
        assert_eq!(field(&head, "host"), Some("a"));
        assert_eq!(field(&head, "x-forwarded-proto"), Some("http"));
        connection.send(OK);
        let (_, block) = frame_of(&mut client, HEADERS);
        assert_eq!(block[0], 0x88, "200");
        // A second request on it.
        let mut second = GET;
        second[8] = 3;
        write(&mut client, &second);
        connection.head();
        connection.send(OK);
        frame_of(&mut client, HEADERS);
    }
}

#[test]
fn preface_is_for_the_beginning_of_a_connection() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    backend.request().0.send(OK);
    assert_eq!(client.status(), 200);
    client.send(PREFACE);
    assert_eq!(client.status(), 505);
}

#[test]
fn other_requests_that_begin_alike_are_those_of_http_1_1() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    for (request, wanted) in [
        ("PRI * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("PRI /x HTTP/2.0\r\n\r\n", 505),
        ("PRIX * HTTP/2.0\r\n\r\n", 505),
    ] {
        assert_eq!(proxy.ask(request).status(), wanted, "{request:?}");
    }
    let mut client = proxy.ask("PRI /x HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut connection, head) = backend.request();
    assert!(head.starts_with("PRI /x HTTP/1.1\r\n"), "{head}");
    connection.send(OK);
    assert_eq!(client.status(), 200);
}

#[test]
fn preface_that_is_not_finished_ends_with_the_idle_time() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "timeouts = { idle = '300ms' }");
    let begun = Instant::now();
    let mut client = proxy.ask("PRI * HTTP/2.0\r\n");
    client.rest();
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn idle_connection_is_told_to_go_and_closed() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "timeouts = { idle = '300ms' }");
    let mut client = proxy.connect();
    write(&mut client, &[PREFACE.as_bytes(), &SETTINGS].concat());
    frame_of(&mut client, GOAWAY);
    // The client does not answer, and stays.
    let begun = Instant::now();
    client.rest();
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn plain_request_is_sent_to_tls_over_http_2_too() {
    let files = Certificate::new();
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], &files.settings());
    let mut client = proxy.connect();
    write(&mut client, &[PREFACE.as_bytes(), &SETTINGS, &GET].concat());
    let (_, block) = frame_of(&mut client, HEADERS);
    // The status is a literal: its name is in the static table at 8 (RFC 7541, section 6.2).
    assert_eq!(block[0] & 0x0f, 8, "{block:02x?}");
    backend.was_spared();
}
