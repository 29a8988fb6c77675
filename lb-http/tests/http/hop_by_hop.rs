//! Fields of one hop, and the fields that a client can and cannot have removed or claimed.

use super::{Backend, OK, Proxy, field, forwarded};

#[test]
fn h7_6_1_fields_of_one_hop_are_not_passed_on_in_either_direction() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-a, keep-alive\r\nConnection: X-B\r\n\
         X-A: 1\r\nX-B: 2\r\nX-C: 3\r\nKeep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\n\
         Upgrade: h2c\r\n\r\n",
    );
    let (mut connection, head) = backend.request();
    for gone in [
        "connection",
        "x-a",
        "x-b",
        "keep-alive",
        "proxy-connection",
        "upgrade",
    ] {
        assert_eq!(field(&head, gone), None, "{head}");
    }
    assert_eq!(field(&head, "x-c"), Some("3"));
    connection.send(
        "HTTP/1.1 200 OK\r\nConnection: X-D\r\nX-D: 1\r\nX-E: 2\r\nKeep-Alive: timeout=5\r\n\
         Content-Length: 0\r\n\r\n",
    );
    let (_, head) = client.answer();
    for gone in ["connection", "x-d", "keep-alive"] {
        assert_eq!(field(&head, gone), None, "{head}");
    }
    assert_eq!(field(&head, "x-e"), Some("2"));
}

#[test]
fn h7_6_1_a_client_cannot_have_removed_what_the_gateway_sets() {
    let head = forwarded(
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: b\r\nCookie: c\r\nConnection: close, \
         X-Forwarded-For, X-Real-IP, X-Forwarded-Proto, Host, Authorization, Cookie\r\n\r\n",
    );
    for kept in ["x-forwarded-for", "x-real-ip"] {
        assert_eq!(field(&head, kept), Some("127.0.0.1"), "{head}");
    }
    assert_eq!(field(&head, "x-forwarded-proto"), Some("http"));
    assert_eq!(field(&head, "host"), Some("a"));
    assert_eq!(field(&head, "authorization"), Some("b"));
    assert_eq!(field(&head, "cookie"), Some("c"));
}

#[test]
fn h7_6_1_what_connection_names_goes_from_trailers_too() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, X-Mine\r\n\
         Transfer-Encoding: chunked\r\nTrailer: X-Mine, X-Sum\r\n\r\n\
         2\r\nhi\r\n0\r\nX-Mine: 1\r\nX-Sum: 1\r\n\r\n",
    );
    let (mut connection, _) = backend.request();
    assert_eq!(connection.exactly(7), "2\r\nhi\r\n");
    assert_eq!(connection.head(), "0\r\nx-sum: 1\r\n\r\n");
    connection.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Theirs\r\n\
         Trailer: X-Theirs, X-Time\r\n\r\n2\r\nok\r\n0\r\nX-Theirs: 5\r\nX-Time: 5\r\n\r\n",
    );
    assert_eq!(super::status(&client.head()), 200);
    assert_eq!(client.exactly(7), "2\r\nok\r\n");
    assert_eq!(client.head(), "0\r\nx-time: 5\r\n\r\n");
}

#[test]
fn h10_1_4_who_has_not_asked_for_trailers_gets_none() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut connection, head) = backend.request();
    assert_eq!(field(&head, "te"), None);
    connection.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Time\r\n\r\n\
         2\r\nok\r\n0\r\nX-Time: 5\r\n\r\n",
    );
    client.head();
    assert_eq!(client.exactly(12), "2\r\nok\r\n0\r\n\r\n");
}

#[test]
fn h7_6_3_via_names_the_version_that_came_after_those_of_before() {
    for version in ["1.0", "1.1"] {
        let head = forwarded(&format!(
            "GET / HTTP/{version}\r\nHost: a\r\nVia: 1.1 b, 1.0 c\r\n\r\n"
        ));
        let via: Vec<&str> = head
            .split("\r\n")
            .filter_map(|line| line.strip_prefix("via: "))
            .collect();
        let own = format!("{version} lb-agent-");
        assert!(
            via.join(", ").starts_with(&format!("1.1 b, 1.0 c, {own}")),
            "{head}"
        );
        // It has been here before.
        let own = via.last().unwrap().split(' ').next_back().unwrap();
        super::refused(
            &format!("GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 {own}, 1.1 b\r\n\r\n"),
            508,
        );
    }
}

#[test]
fn h5_1_unknown_fields_and_the_order_of_lines_are_kept() {
    let head = forwarded(
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-Odd: \"<>\"\r\nX-A: 2\r\nX-A: 3\r\n\r\n",
    );
    let lines: Vec<&str> = head
        .split("\r\n")
        .filter(|line| line.starts_with("x-a: "))
        .collect();
    assert_eq!(lines, ["x-a: 1", "x-a: 2", "x-a: 3"]);
    assert_eq!(field(&head, "x-odd"), Some("\"<>\""));
}

#[test]
fn names_with_underscores_are_dropped() {
    let head = forwarded("GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 192.0.2.1\r\n\r\n");
    assert!(!head.contains("x_forwarded_for"), "{head}");
}

#[test]
fn names_with_underscores_are_kept_where_that_is_wanted() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "underscore_headers = true");
    let mut client = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nuser_name: b\r\n\r\n");
    let (mut connection, head) = backend.request();
    assert_eq!(field(&head, "user_name"), Some("b"));
    connection.send(OK);
    assert_eq!(client.status(), 200);
}

#[test]
fn h11_6_2_credentials_and_challenges_are_passed_on() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic YTpi\r\n\r\n");
    let (mut connection, head) = backend.request();
    assert_eq!(field(&head, "authorization"), Some("Basic YTpi"));
    connection.send(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nAllow: GET\r\n\
         Content-Length: 0\r\n\r\n",
    );
    let (status, head) = client.answer();
    assert_eq!(status, 401);
    assert_eq!(field(&head, "www-authenticate"), Some("Basic realm=\"x\""));
    assert_eq!(field(&head, "allow"), Some("GET"));
}

#[test]
fn h7_6_2_max_forwards_counts_down_and_ends_here() {
    let head = forwarded("OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n");
    assert_eq!(field(&head, "max-forwards"), Some("2"));
    super::refused(
        "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
        204,
    );
}

#[test]
fn h13_2_1_conditions_are_for_the_backend_to_judge() {
    let head = forwarded(
        "GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"x\"\r\nIf-Modified-Since: x\r\n\
         Range: bytes=0-1\r\n\r\n",
    );
    assert_eq!(field(&head, "if-none-match"), Some("\"x\""));
    assert_eq!(field(&head, "if-modified-since"), Some("x"));
    assert_eq!(field(&head, "range"), Some("bytes=0-1"));
}

#[test]
fn h6_5_1_trailers_are_passed_on_without_what_has_no_business_there() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Sum, X-Forwarded-For\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\
         X-Forwarded-For: 192.0.2.1\r\nContent-Length: 9\r\n\r\n",
    );
    let (mut connection, _) = backend.request();
    assert_eq!(connection.exactly(7), "2\r\nhi\r\n");
    assert_eq!(connection.head(), "0\r\nx-sum: 1\r\n\r\n");
    connection.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Time, Content-Length\r\n\r\n\
         2\r\nok\r\n0\r\nX-Time: 5\r\nContent-Length: 9\r\n\r\n",
    );
    assert_eq!(super::status(&client.head()), 200);
    assert_eq!(client.exactly(7), "2\r\nok\r\n");
    assert_eq!(client.head(), "0\r\nx-time: 5\r\n\r\n");
}

#[test]
fn h10_1_1_an_expectation_is_met_by_us_and_an_unknown_one_refused() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy
        .ask("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    let (mut connection, head) = backend.request();
    assert_eq!(field(&head, "expect"), None, "{head}");
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    client.send("hi");
    assert_eq!(connection.exactly(2), "hi");
    connection.send(OK);
    assert_eq!(client.status(), 200);
    super::refused(
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 0\r\n\r\n",
        417,
    );
}
