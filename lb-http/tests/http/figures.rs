//! Every request is counted, with or without an access log, whatever its end is.

use std::io::Write as _;
use std::time::{Duration, Instant};

use lb_common::abi::BackendId;
use lb_http::metrics::{
    BackendFigures, CAUSES, GATEWAY_STATUSES, LIMITS, METHODS, STATUSES, ServiceFigures,
};

use super::{Backend, OK, PATIENCE, Proxy};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The number of a label.
#[track_caller]
fn index(labels: &[&str], label: &str) -> usize {
    labels.iter().position(|known| *known == label).unwrap()
}

/// Requests of a method and a class of status.
#[track_caller]
pub(super) fn requests(figures: &ServiceFigures, method: &str, status: &str) -> u64 {
    figures.requests[index(&METHODS, method)][index(&STATUSES, status)]
}

/// All requests.
fn all(figures: &ServiceFigures) -> u64 {
    figures.requests.iter().flatten().sum()
}

/// The figures of the service, once `is_there` says so. A client has its answer before it is counted.
#[track_caller]
pub(super) fn figures(proxy: &Proxy, is_there: impl Fn(&ServiceFigures) -> bool) -> ServiceFigures {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let figures = proxy.engine.as_ref().unwrap().service_figures("app");
        if is_there(&figures) {
            return figures;
        }
        assert!(Instant::now() < deadline, "{figures:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The same when so many requests are counted.
#[track_caller]
fn after(proxy: &Proxy, count: u64) -> ServiceFigures {
    figures(proxy, |figures| all(figures) == count)
}

/// The figures of the first backend.
fn of_backend(proxy: &Proxy) -> BackendFigures {
    let engine = proxy.engine.as_ref().unwrap();
    engine.backend_figures(BackendId::new(0, 1))
}

#[test]
fn answers_are_counted_by_method_and_class_of_status() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.connect();
    let mut behind = None;
    for (method, status) in [
        ("GET", "200 OK"),
        ("GET", "304 Not Modified"),
        ("PUT", "404 Not Found"),
        ("PURGE", "500 Internal Server Error"),
        ("HEAD", "204 No Content"),
    ] {
        client.send(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        let behind = behind.get_or_insert_with(|| backend.accept());
        behind.head();
        behind.send(&format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        client.head();
    }
    let figures = after(&proxy, 5);
    for (method, status) in [
        ("GET", "2xx"),
        ("GET", "3xx"),
        ("PUT", "4xx"),
        ("other", "5xx"),
        ("HEAD", "2xx"),
    ] {
        assert_eq!(requests(&figures, method, status), 1, "{method} {status}");
    }
    assert_eq!(figures.gateway_errors, [[0; CAUSES.len()]; 3]);
    assert_eq!(of_backend(&proxy).requests, [0, 2, 1, 1, 1, 0]);
}

#[test]
fn bytes_are_counted_while_a_request_goes_on() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    let (mut behind, _) = backend.request();
    behind.exactly(5);
    behind.send("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nfour");
    client.head();
    client.exactly(4);
    let figures = figures(&proxy, |figures| figures.sent == 4);
    assert_eq!((figures.received, all(&figures)), (5, 0));
    behind.stream.write_all(b"end").unwrap();
    client.exactly(3);
    let figures = after(&proxy, 1);
    assert_eq!((figures.received, figures.sent), (5, 7));
    let of_backend = of_backend(&proxy);
    assert_eq!((of_backend.received, of_backend.sent), (5, 7));
}

#[test]
fn latencies_are_those_of_the_head_and_of_the_end() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(GET);
    let (mut behind, _) = backend.request();
    let pause = Duration::from_millis(150);
    std::thread::sleep(pause);
    behind.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    client.head();
    std::thread::sleep(pause);
    behind.stream.write_all(b"k").unwrap();
    client.exactly(2);
    let figures = after(&proxy, 1);
    let of_backend = of_backend(&proxy);
    let pause_ns = pause.as_nanos() as u64;
    for (first_byte, duration) in [
        (figures.first_byte, figures.duration),
        (of_backend.first_byte, of_backend.duration),
    ] {
        assert_eq!(first_byte.buckets.iter().sum::<u64>(), 1);
        assert_eq!(duration.buckets.iter().sum::<u64>(), 1);
        assert!(first_byte.sum_ns >= pause_ns, "{first_byte:?}");
        assert!(duration.sum_ns >= first_byte.sum_ns + pause_ns / 2);
    }
}

#[test]
fn request_that_is_refused_at_its_head_is_counted() {
    for (request, method, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET", "4xx"),
        ("POST / HTTP/1.1\r\nno colon\r\n\r\n", "POST", "4xx"),
        ("not HTTP at all\r\n\r\n", "other", "4xx"),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", "GET", "5xx"),
    ] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], "");
        proxy.ask(request).status();
        let figures = after(&proxy, 1);
        assert_eq!(requests(&figures, method, status), 1, "{request:?}");
        backend.was_spared();
    }
}

#[test]
fn limits_are_counted_and_answers_of_routes_are_not() {
    let backend = Backend::new();
    let settings = "limits = { target = 100, headers = 10, body = 10 }\n\
                    timeouts = { header = '1s' }\n\
                    [[service.route]]\npath = '/gone'\nanswer = { status = 413 }\n\
                    [[service.route]]\npath = '/closed'\nanswer = { status = 503 }";
    let proxy = Proxy::new(&[&backend], settings);
    let long = "x".repeat(100);
    let lines = "X-A: 1\r\n".repeat(20);
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"), 431),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n".to_owned(),
            413,
        ),
        ("GET / HTTP/1.1\r\n".to_owned(), 408),
        ("GET /gone HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 413),
        ("GET /closed HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 503),
    ] {
        assert_eq!(proxy.ask(&request).status(), status, "{request:?}");
    }
    let figures = after(&proxy, 6);
    for limit in ["target", "headers", "body", "time"] {
        assert_eq!(figures.refused[index(&LIMITS, limit)], 1, "{limit}");
    }
    assert_eq!(figures.refused.iter().sum::<u64>(), 4);
    assert_eq!(figures.gateway_errors, [[0; CAUSES.len()]; 3]);
}

#[test]
fn gateway_errors_are_counted_by_their_cause() {
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    for (answer, settings, status, cause) in [
        (None, "", "502", "broken"),
        (Some("nonsense\r\n\r\n"), "", "502", "malformed"),
        (
            Some("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"),
            "",
            "502",
            "malformed",
        ),
        (
            Some(""),
            "timeouts = { first_byte = '300ms' }",
            "504",
            "timeout",
        ),
    ] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], settings);
        let mut client = proxy.ask(post);
        let (mut behind, _) = backend.request();
        match answer {
            Some(answer) => behind.send(answer),
            None => drop(behind),
        }
        assert_eq!(client.status().to_string(), status, "{answer:?}");
        is_gateway_error(&after(&proxy, 1), status, cause);
        assert_eq!(of_backend(&proxy).requests, [0; STATUSES.len()]);
    }
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "timeouts = { restart_grace = '0s' }");
    drop(backend);
    assert_eq!(proxy.ask(GET).status(), 503);
    is_gateway_error(&after(&proxy, 1), "503", "connect");
    let proxy = Proxy::new(&[], "");
    assert_eq!(proxy.ask(GET).status(), 503);
    is_gateway_error(&after(&proxy, 1), "503", "no_backend");
}

/// One gateway error, and no other.
#[track_caller]
fn is_gateway_error(figures: &ServiceFigures, status: &str, cause: &str) {
    let errors = figures.gateway_errors[index(&GATEWAY_STATUSES, status)];
    assert_eq!(
        errors[index(&CAUSES, cause)],
        1,
        "{status} {cause}: {figures:?}"
    );
    assert_eq!(figures.gateway_errors.iter().flatten().sum::<u64>(), 1);
}

#[test]
fn tunnel_is_open_until_it_ends_and_is_no_latency() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut client = proxy.ask(&format!("GET /chat HTTP/1.1\r\nHost: a\r\n{upgrade}"));
    let (mut behind, _) = backend.request();
    behind.send(&format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}"));
    client.head();
    behind.send("hello");
    client.exactly(5);
    client.send("hi");
    behind.exactly(2);
    let open = figures(&proxy, |figures| figures.sent == 5 && figures.received == 2);
    assert_eq!((open.tunnels, open.tunnels_active), (1, 1));
    assert_eq!(all(&open), 0);
    behind.end();
    client.end();
    let ended = after(&proxy, 1);
    assert_eq!(requests(&ended, "GET", "1xx"), 1);
    assert_eq!((ended.tunnels, ended.tunnels_active), (1, 0));
    assert_eq!(ended.first_byte.buckets.iter().sum::<u64>(), 1);
    assert_eq!(ended.duration.buckets.iter().sum::<u64>(), 0);
}

#[test]
fn client_that_goes_and_backend_that_breaks_off_are_counted() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let client = proxy.ask(GET);
    let (_behind, _) = backend.request();
    // A close with nothing unread: the client does not wait for its answer.
    let linger = Some(Duration::ZERO);
    socket2::SockRef::from(&client.stream)
        .set_linger(linger)
        .unwrap();
    drop(client);
    let figures = after(&proxy, 1);
    assert_eq!(requests(&figures, "GET", "none"), 1);
    assert_eq!(figures.aborted, 0);

    let mut client = proxy.ask(GET);
    let (mut behind, _) = backend.request();
    behind.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    client.head();
    drop(behind);
    client.rest();
    let figures = after(&proxy, 2);
    assert_eq!(requests(&figures, "GET", "2xx"), 1);
    assert_eq!(figures.aborted, 1);
}

#[test]
fn counts_outlive_a_change_of_settings() {
    let backend = Backend::new();
    let mut proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(GET);
    let (mut behind, _) = backend.request();
    behind.send(OK);
    assert_eq!(client.status(), 200);
    after(&proxy, 1);
    proxy.configure("limits = { body = 10 }");
    client.send(GET);
    behind.head();
    behind.send(OK);
    assert_eq!(client.status(), 200);
    after(&proxy, 2);
}
