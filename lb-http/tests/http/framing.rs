//! The boundary between two requests: a mistake there permits request smuggling.

use super::{Backend, OK, Proxy, field, forwarded, refused};

#[test]
fn m3_2_a_request_without_host_is_refused() {
    refused("GET / HTTP/1.1\r\n\r\n", 400);
}

#[test]
fn m3_2_a_request_with_two_hosts_is_refused() {
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400);
}

#[test]
fn m3_2_a_request_with_an_invalid_host_is_refused() {
    for host in ["", "a b", "a/b", "a@b", "a:b"] {
        refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400);
    }
}

#[test]
fn m6_3_length_beside_transfer_encoding_is_refused_and_the_connection_closed() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], "");
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n0\r\n\r\n");
        let mut client = proxy.ask(&format!(
            "{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        let (status, head) = client.answer();
        assert_eq!(status, 400);
        assert_eq!(field(&head, "connection"), Some("close"));
        assert_eq!(client.rest(), "");
        backend.was_spared();
    }
}

#[test]
fn m6_3_a_coding_that_does_not_end_in_chunked_is_refused() {
    let answer = refused(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        400,
    );
    assert_eq!(field(&answer, "connection"), Some("close"));
}

#[test]
fn m6_1_anything_but_one_chunked_is_refused() {
    for coding in ["gzip, chunked", "chunked, chunked", "identity, chunked"] {
        let lines = format!("Transfer-Encoding: {coding}");
        refused(
            &format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n0\r\n\r\n"),
            501,
        );
    }
    let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked";
    refused(
        &format!("POST / HTTP/1.1\r\nHost: a\r\n{twice}\r\n\r\n0\r\n\r\n"),
        501,
    );
}

#[test]
fn m6_1_what_follows_a_coding_that_is_refused_is_not_read() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    let next = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = proxy.ask(&format!("{request}{next}"));
    let (status, head) = client.answer();
    assert_eq!(status, 501);
    assert_eq!(field(&head, "connection"), Some("close"));
    assert_eq!(client.rest(), "");
    backend.was_spared();
}

#[test]
fn m6_1_transfer_encoding_in_http_1_0_is_refused() {
    refused(
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    );
}

#[test]
fn h8_6_a_content_length_that_is_no_number_is_refused() {
    let lines = [
        "Content-Length: +5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 99999999999999999999",
        "Content-Length: 5, 6",
        "Content-Length: 5,",
        "Content-Length: 0x5",
    ];
    for line in lines {
        refused(
            &format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\nhello"),
            400,
        );
    }
}

#[test]
fn h8_6_the_same_length_twice_is_that_length() {
    for lines in ["2\r\nContent-Length: 2", "2, 2"] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], "");
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {lines}\r\n\r\nhi");
        let mut client = proxy.ask(&request);
        let (mut connection, head) = backend.request();
        assert_eq!(field(&head, "content-length"), Some("2"));
        assert_eq!(connection.exactly(2), "hi");
        connection.send(OK);
        assert_eq!(client.status(), 200);
    }
}

#[test]
fn m5_1_space_before_the_colon_is_refused() {
    refused("GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n", 400);
}

#[test]
fn m5_2_a_folded_line_is_refused() {
    refused("GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n", 400);
}

#[test]
fn m2_2_space_before_the_first_header_is_refused() {
    refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400);
}

#[test]
fn h5_5_control_characters_in_a_value_are_refused() {
    for value in ["a\rb", "a\0b"] {
        refused(
            &format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {value}\r\n\r\n"),
            400,
        );
    }
}

#[test]
fn m7_1_broken_chunks_are_an_error_and_end_both_connections() {
    let flood = format!("5;{}\r\nhello\r\n", "x".repeat(20_000));
    for chunk in [
        "0x5\r\nhello\r\n",
        "FFFFFFFFFFFFFFFFF\r\n",
        "5\r\nhelloX\r\n",
        "-1\r\nhello\r\n",
        "5\nhello\r\n",
        &flood,
    ] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], "");
        let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut client = proxy.ask(&format!("{request}{chunk}"));
        let rest = client.rest();
        assert!(
            rest.starts_with("HTTP/1.1 400 ") || rest.is_empty(),
            "{chunk:?}: {rest}"
        );
        if let Some(stream) = backend.try_accept(std::time::Duration::from_millis(50)) {
            let passed_on = super::Client::new(stream).rest();
            assert!(!passed_on.ends_with("0\r\n\r\n"), "{passed_on}");
        }
    }
}

#[test]
fn m3_2_4_asterisk_is_for_options_alone() {
    let head = forwarded("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
    refused("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400);
}

#[test]
fn m3_2_a_target_without_a_slash_is_refused() {
    refused("GET foo HTTP/1.1\r\nHost: a\r\n\r\n", 400);
}

#[test]
fn m3_2_a_fragment_in_the_target_is_refused() {
    refused("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400);
}

#[test]
fn m3_2_2_an_absolute_target_replaces_the_host() {
    let head = forwarded("GET http://b.example:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(head.starts_with("GET /x?y HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "host"), Some("b.example:81"));
    assert_eq!(field(&head, "x-forwarded-host"), Some("b.example:81"));
}

#[test]
fn m3_2_2_an_absolute_target_names_the_host_for_routes_too() {
    let backend = Backend::new();
    let routes = "[[service.route]]\nhost = 'b.example'\nanswer = { status = 201 }";
    let proxy = Proxy::new(&[&backend], routes);
    let mut client = proxy.ask("GET http://b.example/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.status(), 201);
    client.send("GET http://a/ HTTP/1.1\r\nHost: b.example\r\n\r\n");
    let (mut connection, head) = backend.request();
    assert_eq!(field(&head, "host"), Some("a"));
    connection.send(OK);
    assert_eq!(client.status(), 200);
}

#[test]
fn h7_7_path_and_query_are_passed_on_as_they_came() {
    let target = "/a%2F../b//c;d=\"{|}^é?q=%zz&&+[]";
    let head = forwarded(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(
        head.starts_with(&format!("GET {target} HTTP/1.1\r\n")),
        "{head}"
    );
}

#[test]
fn h9_3_6_connect_is_refused() {
    for target in ["a:443", "/"] {
        refused(
            &format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
            405,
        );
    }
}

#[test]
fn h9_3_8_trace_is_refused() {
    let answer = refused("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405);
    assert!(field(&answer, "allow").is_some());
}

#[test]
fn m2_3_other_versions_are_refused() {
    for version in ["HTTP/1.2", "HTTP/0.9", "HTTP/2.0"] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], "");
        let rest = proxy
            .ask(&format!("GET / {version}\r\nHost: a\r\n\r\n"))
            .rest();
        assert!(
            rest.starts_with("HTTP/1.1 400 ") || rest.starts_with("HTTP/1.1 505 "),
            "{rest}"
        );
        backend.was_spared();
    }
}

#[test]
fn m2_2_a_line_that_ends_with_a_bare_lf_is_a_line_and_is_sent_on_with_both() {
    let head = forwarded("GET / HTTP/1.1\nHost: a\nX-A: b\n\n");
    assert_eq!(field(&head, "x-a"), Some("b"));
    assert!(!head.replace("\r\n", "").contains('\n'), "{head:?}");
}

#[test]
fn m9_3_http_1_0_is_answered_once_unless_it_asks_for_more() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let (mut connection, head) = backend.request();
    assert!(
        head.starts_with("GET / HTTP/1.1\r\n"),
        "our own version: {head}"
    );
    connection.send(OK);
    let rest = client.rest();
    assert!(rest.ends_with("\r\n\r\nok"), "{rest}");

    let mut client = proxy.ask("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    connection.head();
    connection.send(OK);
    let (_, head) = client.answer();
    assert_eq!(field(&head, "connection"), Some("keep-alive"), "{head}");
}

#[test]
fn h9_3_1_the_body_of_a_get_is_passed_on_in_chunks() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let request = "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = proxy.ask(&format!("{request}5\r\nhello\r\n0\r\n\r\n"));
    let (mut connection, head) = backend.request();
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
    assert_eq!(field(&head, "content-length"), None);
    assert_eq!(connection.exactly(15), "5\r\nhello\r\n0\r\n\r\n");
    connection.send(OK);
    assert_eq!(client.status(), 200);
}

#[test]
fn m9_3_requests_in_a_pipeline_are_answered_in_order() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let first = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let mut client = proxy.ask(&format!("{first}GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"));
    let (mut connection, head) = backend.request();
    assert!(head.starts_with("POST /1 "), "{head}");
    assert_eq!(connection.exactly(2), "hi");
    connection.send(OK);
    let head = connection.head();
    assert!(
        head.starts_with("GET /2 "),
        "on the same connection: {head}"
    );
    connection.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.status(), 200);
    assert_eq!(client.status(), 201);
}
