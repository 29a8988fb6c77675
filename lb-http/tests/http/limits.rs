//! Sizes and times.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use super::{Backend, Client, OK, Proxy, field, status};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_head_that_is_too_large_is_431() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "limits = { header_bytes = 10000 }");
    let long = "x".repeat(11_000);
    let rest = proxy
        .ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {long}\r\n\r\n"))
        .rest();
    assert_eq!(status(&rest), 431);
    backend.was_spared();
}

#[test]
fn too_many_lines_are_431() {
    for most in [50, 200] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], &format!("limits = {{ headers = {most} }}"));
        let lines = |count| {
            (0..count)
                .map(|n| format!("X-{n}: 1\r\n"))
                .collect::<String>()
        };
        let ask = |count| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", lines(count));
        let mut client = proxy.ask(&ask(most - 1));
        backend.request().0.send(OK);
        assert_eq!(client.status(), 200);
        assert_eq!(proxy.ask(&ask(most + 1)).status(), 431, "{most}");
    }
}

#[test]
fn a_target_that_is_too_long_is_414() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "limits = { target = 100 }");
    let target = "x".repeat(100);
    assert_eq!(
        proxy
            .ask(&format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .status(),
        414
    );
    backend.was_spared();
}

#[test]
fn h10_1_1_a_body_that_is_too_large_is_413_before_it_is_asked_for() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "limits = { body = '10' }");
    let mut client = proxy
        .ask("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n");
    assert_eq!(client.status(), 413);
    backend.was_spared();
}

#[test]
fn a_body_that_turns_out_too_large_is_413_and_never_ends_for_the_backend() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "limits = { body = '10' }");
    let mut client = proxy
        .ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n");
    let (mut connection, _) = backend.request();
    connection.exactly(13);
    client.send("8\r\n12345678\r\n0\r\n\r\n");
    let (status, head) = client.answer();
    assert_eq!(status, 413);
    assert_eq!(field(&head, "connection"), Some("close"));
    assert!(!connection.rest().ends_with("0\r\n\r\n"));
}

#[test]
fn a_head_that_does_not_end_is_408() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "timeouts = { header = '1s' }");
    let mut slow = proxy.ask("GET / HTTP/1.1\r\nHost");
    let rest = slow.rest();
    assert_eq!(status(&rest), 408, "{rest}");
    // Drops of it do not help: the whole head has its time.
    let mut dripping = proxy.connect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) && dripping.stream.write_all(b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_body_that_does_not_come_is_408() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "timeouts = { body = '1s' }");
    let mut client = proxy.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhi");
    let (mut connection, _) = backend.request();
    let (status, head) = client.answer();
    assert_eq!(status, 408);
    assert_eq!(field(&head, "connection"), Some("close"));
    assert_eq!(connection.rest(), "hi");
}

#[test]
fn an_answer_that_does_not_come_is_504() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "timeouts = { first_byte = '1s' }");
    let mut client = proxy.ask(GET);
    let (mut connection, _) = backend.request();
    assert_eq!(client.status(), 504);
    assert_eq!(
        connection.rest(),
        "",
        "it is told by the end of its connection"
    );
    // The client's connection is none the worse.
    client.send(GET);
    backend.request().0.send(OK);
    assert_eq!(client.status(), 200);
}

/// An address to which connections are never made: its queue is full.
fn full() -> (std::net::SocketAddr, Vec<socket2::Socket>) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![listener];
    for _ in 0..4 {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        let _ = client.connect(&address);
        held.push(client);
    }
    (address.as_socket().unwrap(), held)
}

#[test]
fn h15_6_5_a_connection_that_is_not_made_in_time_is_504() {
    let (address, _held) = full();
    let backend = Backend {
        address,
        ..Backend::new()
    };
    let proxy = Proxy::new(&[&backend], "timeouts = { connect = '500ms' }");
    let mut client = proxy.ask(GET);
    assert_eq!(client.status(), 504);
    // The client's connection is none the worse.
    client.send(GET);
    assert_eq!(client.status(), 504);
}

#[test]
fn an_idle_connection_to_a_backend_is_ended_by_us() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(GET);
    let (mut connection, _) = backend.request();
    connection.send(OK);
    assert_eq!(client.status(), 200);
    // Node.js would do so after five seconds, perhaps just when the next request is on its way.
    assert_eq!(connection.rest(), "");
}

#[test]
fn an_idle_connection_ends_after_its_time() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "timeouts = { idle = '1s' }");
    let mut client = proxy.ask(GET);
    backend.request().0.send(OK);
    assert_eq!(client.status(), 200);
    assert_eq!(client.rest(), "");
}

#[test]
fn an_upload_goes_at_the_pace_of_the_backend() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 67108864\r\n\r\n");
    let (mut connection, _) = backend.request();
    client
        .stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let piece = vec![b'x'; 1 << 20];
    let mut sent = 0;
    // A backend that does not read: the client cannot get rid of everything.
    while let Ok(length) = client.stream.write(&piece) {
        sent += length;
        assert!(sent < 64 << 20, "64 MiB are somewhere in between");
    }
    client.stream.set_write_timeout(None).unwrap();
    let writer = std::thread::spawn(move || {
        let rest = vec![b'x'; (64 << 20) - sent];
        client.stream.write_all(&rest).unwrap();
        client
    });
    let mut left = 64 << 20;
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let length = std::io::Read::read(&mut connection.stream, &mut buffer).unwrap();
        assert_ne!(length, 0);
        left -= length;
    }
    connection.send(OK);
    assert_eq!(writer.join().unwrap().status(), 200);
}

const MUCH: usize = 1 << 30;

/// A client, and the backend's end of its request, whose answer is to be large.
fn large_answer(settings: &str) -> (Proxy, Client, Client) {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], settings);
    let client = proxy.ask(GET);
    let (mut connection, _) = backend.request();
    connection.send(&format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n"
    ));
    (proxy, client, connection)
}

/// Sends as much as is taken; how many bytes, and why no more.
fn send_all(connection: &mut Client, most: usize) -> (usize, io::Result<()>) {
    let piece = vec![b'x'; 1 << 20];
    for sent in (0..most).step_by(piece.len()) {
        if let Err(error) = connection.stream.write_all(&piece) {
            return (sent, Err(error));
        }
    }
    (most, Ok(()))
}

#[test]
fn a_client_that_does_not_take_its_answer_is_cut_off_after_its_time() {
    let (_proxy, mut client, mut connection) = large_answer("timeouts = { send = '300ms' }");
    let (sent, end) = send_all(&mut connection, MUCH);
    let error = end.expect_err("nobody takes that much").kind();
    // Not because the backend has lost its patience.
    let closed = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(closed.contains(&error), "{error:?} after {sent} bytes");
    assert!(client.rest().len() < MUCH);
}

#[test]
fn a_client_that_takes_its_answer_slowly_gets_it() {
    let (_proxy, mut client, mut connection) = large_answer("timeouts = { send = '2s' }");
    let most = 48 << 20;
    let writer = std::thread::spawn(move || {
        let (sent, end) = send_all(&mut connection, most);
        end.unwrap();
        (sent, connection)
    });
    client.head();
    let mut piece = vec![0; 1 << 16];
    let mut read = client.buffer.len();
    while read < most {
        // At some pace: it takes longer for all than it may for a piece.
        std::thread::sleep(Duration::from_millis(5));
        read += io::Read::read(&mut client.stream, &mut piece).unwrap();
    }
    assert_eq!(writer.join().unwrap().0, most);
}

#[test]
fn slow_clients_keep_nobody_waiting() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let slow: Vec<_> = (0..200)
        .map(|_| proxy.ask("GET / HTTP/1.1\r\nHost: "))
        .collect();
    let mut client = proxy.ask(GET);
    backend.request().0.send(OK);
    assert_eq!(client.status(), 200);
    drop(slow);
}

#[test]
fn h9_3_2_a_head_request_that_is_refused_early_gets_no_body() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    for request in [
        "\r\n\r\nHEAD /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD / HTTP/3.0\r\nHost: a\r\n\r\n",
    ] {
        let mut client = proxy.ask(request);
        let head = client.head();
        assert!(matches!(status(&head), 400 | 505), "{head}");
        assert_eq!(client.rest(), "", "{request:?}");
    }
}
