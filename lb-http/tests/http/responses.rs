//! The answers of a backend, and the client's view of them.

use std::time::{Duration, Instant};

use super::{Backend, OK, Proxy, field, status};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A client's request, with the backend's connection on which it arrived.
fn asked(request: &str) -> (Proxy, super::Client, Backend, super::Client) {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let client = proxy.ask(request);
    let (connection, _) = backend.request();
    (proxy, client, backend, connection)
}

#[test]
fn h9_3_2_the_answer_to_head_has_the_length_and_no_body() {
    let (_proxy, mut client, _backend, mut connection) =
        asked("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
    let head = client.head();
    assert_eq!(field(&head, "content-length"), Some("1234"));
    // The next answer follows at once, on both connections.
    client.send(GET);
    connection.head();
    connection.send(OK);
    assert_eq!(client.status(), 200);
}

#[test]
fn h15_4_5_answers_without_a_body_have_none() {
    for line in ["204 No Content", "304 Not Modified"] {
        let (_proxy, mut client, _backend, mut connection) = asked(GET);
        connection.send(&format!("HTTP/1.1 {line}\r\nETag: \"x\"\r\n\r\n"));
        let head = client.head();
        assert_eq!(field(&head, "transfer-encoding"), None, "{head}");
        assert_eq!(field(&head, "etag"), Some("\"x\""));
        client.send(GET);
        connection.head();
        connection.send(OK);
        assert_eq!(client.status(), 200, "after {line}");
    }
}

#[test]
fn m6_1_a_coding_on_an_answer_without_a_body_is_not_passed_on() {
    for line in ["204 No Content", "304 Not Modified"] {
        let (_proxy, mut client, backend, mut connection) = asked(GET);
        connection.send(&format!(
            "HTTP/1.1 {line}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        let head = client.head();
        assert_eq!(field(&head, "transfer-encoding"), None, "{head}");
        client.send(GET);
        // Whether this connection is still good is for the proxy to say.
        let begun = Instant::now();
        let mut next = loop {
            if let Some(stream) = backend.try_accept(Duration::from_millis(20)) {
                break super::Client::new(stream);
            }
            if connection.has_more() {
                break connection;
            }
            assert!(begun.elapsed() < super::PATIENCE, "the next request");
        };
        next.head();
        next.send(OK);
        assert_eq!(client.status(), 200, "after {line}");
    }
}

#[test]
fn m2_3_an_answer_has_our_own_version_and_an_old_backend_one_request_a_connection() {
    let (_proxy, mut client, backend, mut connection) = asked(GET);
    connection.send("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let (_, answer) = client.answer();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    client.send(GET);
    let (mut fresh, _) = backend.request();
    fresh.send(OK);
    assert_eq!(client.status(), 200);
}

#[test]
fn k3_nothing_is_kept_for_the_next_request() {
    let (_proxy, mut client, _backend, mut connection) = asked(GET);
    for age in ["public, max-age=3600", "s-maxage=3600"] {
        connection.send(&format!(
            "HTTP/1.1 200 OK\r\nCache-Control: {age}\r\nVary: Cookie\r\nAge: 5\r\n\
             Content-Length: 0\r\n\r\n"
        ));
        let (_, head) = client.answer();
        assert_eq!(field(&head, "cache-control"), Some(age));
        assert_eq!(field(&head, "age"), Some("5"));
        client.send(GET);
        connection.head();
    }
}

#[test]
fn m6_3_a_length_beside_transfer_encoding_is_not_passed_on() {
    let (_proxy, mut client, _backend, mut connection) = asked(GET);
    connection.send(
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\n",
    );
    let head = client.head();
    assert_eq!(field(&head, "content-length"), None, "{head}");
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
    assert_eq!(client.exactly(15), "5\r\nhello\r\n0\r\n\r\n");
}

#[test]
fn m6_3_an_answer_that_ends_with_its_connection_is_passed_on_in_chunks() {
    let (_proxy, mut client, backend, mut connection) = asked(GET);
    connection.send("HTTP/1.1 200 OK\r\n\r\nhello");
    assert_eq!(field(&client.head(), "transfer-encoding"), Some("chunked"));
    assert_eq!(client.exactly(10), "5\r\nhello\r\n");
    drop(connection);
    assert_eq!(client.exactly(5), "0\r\n\r\n");
    client.send(GET);
    let (mut connection, _) = backend.request();
    connection.send(OK);
    assert_eq!(client.status(), 200);
}

#[test]
fn m6_3_an_answer_that_is_cut_short_never_ends_well() {
    for head in ["Content-Length: 11", "Transfer-Encoding: chunked"] {
        let (_proxy, mut client, _backend, mut connection) = asked(GET);
        connection.send(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n"));
        client.head();
        drop(connection);
        let rest = client.rest();
        assert!(!rest.ends_with("0\r\n\r\n"), "{head}: {rest:?}");
    }
}

#[test]
fn m6_3_bytes_after_an_answer_are_never_taken_for_the_next_one() {
    let (_proxy, mut client, backend, mut connection) = asked(GET);
    connection.send(&format!(
        "{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    ));
    let (_, answer) = client.answer();
    assert!(answer.ends_with("ok"), "{answer}");
    client.send(GET);
    let (mut fresh, _) = backend.request();
    fresh.send(OK);
    let (_, answer) = client.answer();
    assert!(answer.ends_with("ok"), "{answer}");
}

#[test]
fn m5_2_a_malformed_answer_is_a_bad_gateway() {
    for answer in [
        "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: b\0c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX A: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "nonsense\r\n\r\n",
    ] {
        let (_proxy, mut client, _backend, mut connection) = asked(GET);
        connection.send(answer);
        assert_eq!(client.status(), 502, "{answer:?}");
    }
}

#[test]
fn h15_2_interim_answers_do_not_end_the_exchange() {
    let (_proxy, mut client, _backend, mut connection) = asked(GET);
    connection.send(&format!(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{OK}"
    ));
    let mut head = client.head();
    if status(&head) == 103 {
        head = client.head();
    }
    assert_eq!(status(&head), 200);
    assert_eq!(client.exactly(2), "ok");
}

#[test]
fn h7_8_a_101_that_nobody_asked_for_is_a_bad_gateway() {
    let (_proxy, mut client, _backend, mut connection) = asked(GET);
    connection.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(client.status(), 502);
}

#[test]
fn h6_6_1_a_date_is_added_where_there_is_none_and_never_replaced() {
    let (_proxy, mut client, _backend, mut connection) = asked(GET);
    connection.send(OK);
    assert!(field(&client.answer().1, "date").is_some());
    client.send(GET);
    connection.head();
    let date = "Mon, 01 Jan 2001 00:00:00 GMT";
    connection.send(&format!(
        "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n"
    ));
    assert_eq!(field(&client.answer().1, "date"), Some(date));
}

#[test]
fn m9_3_the_rest_of_a_body_that_nobody_read_is_never_taken_for_a_request() {
    let (_proxy, mut client, _backend, mut connection) =
        asked("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhi");
    connection.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.status(), 403);
    drop(connection);
    // The client goes on as if it had sent its body.
    let _ = std::io::Write::write_all(&mut client.stream, GET.as_bytes());
    let rest = client.rest();
    assert!(!rest.contains("200"), "{rest}");
}

#[test]
fn events_are_passed_on_as_they_come() {
    let (_proxy, mut client, _backend, mut connection) = asked(GET);
    connection.send(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    client.head();
    for n in 0..3 {
        let chunk = format!("9\r\ndata: {n}\n\n\r\n");
        connection.send(&chunk);
        assert_eq!(client.exactly(chunk.len()), chunk);
        client.is_silent();
    }
}

#[test]
fn h13_1_1_a_tag_that_was_weakened_comes_back_to_the_backend_as_its_own() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "compression = { algorithms = ['gzip'] }");
    let mut client = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    let (mut connection, _) = backend.request();
    let text = "many letters ".repeat(200);
    connection.send(&format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\nETag: \"v1\"\r\n\
         Content-Length: {}\r\n\r\n{text}",
        text.len()
    ));
    let head = client.head();
    assert_eq!(field(&head, "content-encoding"), Some("gzip"));
    let tag = field(&head, "etag").unwrap();
    assert_eq!(tag, "W/\"v1\"");
    let mut client = proxy.ask(&format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nIf-Match: {tag}, \"v0\"\r\nContent-Length: 0\r\n\r\n"
    ));
    let (mut connection, head) = backend.request();
    assert_eq!(field(&head, "if-match"), Some("\"v1\", \"v0\""));
    connection.send(OK);
    assert_eq!(client.status(), 200);
}
