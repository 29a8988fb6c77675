//! Sessions of Socket.IO whose backend is gone: their clients are told so, in their own way, and not
//! sent to a backend that has never heard of them.

use super::{Backend, Client, Proxy, field};

/// Two backends, and the one that has the session `abc`.
struct Session {
    proxy: Proxy,
    home: Backend,
    other: Backend,
}

fn handshake(version: u8) -> Session {
    let (one, two) = (Backend::new(), Backend::new());
    let settings = "stickiness = 'socketio'\ntimeouts = { restart_grace = '60s' }";
    let proxy = Proxy::new(&[&one, &two], settings);
    let mut client = proxy.ask(&request("GET", version, ""));
    let (stream, is_first) = super::either(&one, &two);
    let (home, other) = if is_first { (one, two) } else { (two, one) };
    let mut connection = Client::new(stream);
    connection.head();
    let open = r#"0{"sid":"abc","upgrades":["websocket"],"pingInterval":25000}"#;
    let body = match version {
        3 => format!("{}:{open}2:40", open.len()),
        _ => open.to_owned(),
    };
    let length = body.len();
    // Each poll is a connection of its own.
    connection.send(&format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    assert!(client.answer().1.ends_with(&body));
    Session { proxy, home, other }
}

fn request(method: &str, version: u8, more: &str) -> String {
    let length = if method == "POST" {
        "Content-Length: 2\r\n"
    } else {
        ""
    };
    let body = if method == "POST" { "40" } else { "" };
    format!(
        "{method} /socket.io/?EIO={version}&transport=polling{more} HTTP/1.1\r\nHost: a\r\n\
         {length}\r\n{body}"
    )
}

#[test]
fn a_session_stays_with_its_backend() {
    let Session { proxy, home, other } = handshake(4);
    for _ in 0..4 {
        let mut client = proxy.ask(&request("GET", 4, "&sid=abc"));
        let (mut connection, _) = home.request();
        connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n6");
        assert_eq!(client.status(), 200);
    }
    other.was_spared();
}

#[test]
fn whoever_polls_is_told_at_once_that_the_session_went_with_its_process() {
    for (version, packet) in [(4, "1"), (3, "1:1")] {
        let Session { proxy, home, other } = handshake(version);
        drop(home);
        let mut client = proxy.ask(&request("GET", version, "&sid=abc"));
        let (status, answer) = client.answer();
        assert_eq!(status, 200, "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{packet}")), "{answer}");
        assert_eq!(field(&answer, "cache-control"), Some("no-store"));
        other.was_spared();
    }
}

#[test]
fn what_is_sent_to_a_session_that_is_gone_is_refused() {
    let Session { proxy, home, other } = handshake(4);
    drop(home);
    assert_eq!(proxy.ask(&request("POST", 4, "&sid=abc")).status(), 410);
    other.was_spared();
}

#[test]
fn a_process_that_drops_what_it_was_sent_has_ended_its_session() {
    let Session { proxy, home, other } = handshake(4);
    let mut client = proxy.ask(&request("POST", 4, "&sid=abc"));
    // It is not sent again, as it may have arrived.
    drop(home.request());
    assert_eq!(client.status(), 410);
    other.was_spared();
}

#[test]
fn a_backend_that_has_forgotten_its_session_ends_it() {
    let Session { proxy, home, other } = handshake(4);
    let unknown = "HTTP/1.1 400 Bad Request\r\nContent-Length: 41\r\n\r\n\
                   {\"code\":1,\"message\":\"Session ID unknown\"}";
    let mut client = proxy.ask(&request("GET", 4, "&sid=abc"));
    home.request().0.send(unknown);
    let (status, answer) = client.answer();
    assert_eq!(
        (status, answer.ends_with("\r\n\r\n1")),
        (200, true),
        "{answer}"
    );
    other.was_spared();
    // For a session that was never here, the application's own answer passes.
    client.send(&request("GET", 4, "&sid=made-up"));
    let mut connection = Client::new(super::either(&home, &other).0);
    connection.head();
    connection.send(unknown);
    assert_eq!(client.status(), 400);
}
