//! Faults known from other proxies: requests that hold up others, and messages that end early.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use super::{Backend, Client, OK, Proxy, field, status};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The longest that a request of another client takes while `flood` goes on, on one worker.
fn worst_beside(proxy: &Proxy, backend: &Backend, mut flood: impl FnMut() -> bool) -> Duration {
    let mut client = proxy.connect();
    client.send(GET);
    let mut connection = backend.accept();
    connection.head();
    let mut worst = Duration::ZERO;
    let begun = Instant::now();
    loop {
        connection.send(OK);
        assert_eq!(client.status(), 200);
        if begun.elapsed() > Duration::from_millis(500) {
            return worst;
        }
        for _ in 0..20 {
            if !flood() {
                break;
            }
        }
        let asked = Instant::now();
        client.send(GET);
        connection.head();
        worst = worst.max(asked.elapsed());
    }
}

/// Half a second: on a machine that is busy with something else, too.
const SOON: Duration = Duration::from_millis(500);

#[test]
fn a_flood_of_tiny_chunks_holds_up_nobody_else() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut flooding = proxy.ask(POST);
    let (mut sink, _) = backend.request();
    let drain = std::thread::spawn(move || {
        let mut piece = vec![0; 1 << 16];
        while let Ok(1..) = sink.stream.read(&mut piece) {}
    });
    flooding.stream.set_nonblocking(true).unwrap();
    let chunks = b"1\r\nx\r\n".repeat(20_000);
    let mut rest = &chunks[..];
    let worst = worst_beside(&proxy, &backend, || {
        match flooding.stream.write(rest) {
            Ok(length) => rest = &rest[length..],
            Err(_) => return false,
        }
        if rest.is_empty() {
            rest = &chunks;
        }
        true
    });
    assert!(worst < SOON, "{worst:?}");
    drop(flooding);
    drain.join().unwrap();
}

#[test]
fn a_chunk_size_without_end_and_interim_answers_without_end_are_cut_off() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut zeros = proxy.ask(&format!("{POST}{}", "0".repeat(100)));
    assert_eq!(status(&zeros.rest()), 400);
    let _ = backend.try_accept(Duration::from_millis(100));
    let mut client = proxy.ask(GET);
    let (mut connection, _) = backend.request();
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100);
    let _ = connection.stream.write_all(hints.as_bytes());
    let heads = client.rest();
    let interim = heads.matches("HTTP/1.1 103 ").count();
    assert!(interim < 20 && heads.contains("HTTP/1.1 502 "), "{heads}");
}

#[test]
fn h15_2_early_hints_are_passed_on() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(GET);
    let (mut connection, _) = backend.request();
    connection.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: 1\r\n\r\n");
    let head = client.head();
    assert_eq!(status(&head), 103);
    assert_eq!(field(&head, "link"), Some("</a>"));
    assert_eq!(field(&head, "x"), None);
    connection.send(OK);
    assert_eq!(client.status(), 200);
}

#[test]
fn m9_6_an_early_answer_reaches_a_client_that_is_still_sending() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "limits = { body = '1000' }");
    for _ in 0..20 {
        let mut client =
            proxy.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n");
        // More than the kernel's queues take: a client that hears nothing of a reset.
        let piece = vec![b'x'; 300_000];
        client.stream.write_all(&piece).unwrap();
        let (status, head) = client.answer();
        assert_eq!(status, 413);
        assert_eq!(field(&head, "connection"), Some("close"));
    }
    backend.was_spared();
}

#[test]
fn a_backend_that_answers_early_and_closes_is_heard() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    for _ in 0..20 {
        let mut client =
            proxy.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n");
        let (mut connection, _) = backend.request();
        connection.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        drop(connection);
        let mut sender = Client::new(client.stream.try_clone().unwrap());
        let writer = std::thread::spawn(move || {
            let _ = sender.stream.write_all(&vec![b'x'; 10_000_000]);
        });
        let (status, answer) = client.answer();
        assert_eq!(status, 403, "{answer}");
        assert!(answer.ends_with("no"));
        drop(client);
        writer.join().unwrap();
    }
}

#[test]
fn an_upload_whose_client_is_gone_ends_at_the_backend_at_once() {
    for reads in [true, false] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], "");
        let mut client =
            proxy.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
        let (mut connection, _) = backend.request();
        let begun = Instant::now();
        client.stream.set_nonblocking(true).unwrap();
        // Until the backend's queue and the proxy's are full.
        while begun.elapsed() < Duration::from_millis(300) {
            if client.stream.write(&[b'x'; 65_536]).is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        drop(client);
        let gone = Instant::now();
        if !reads {
            std::thread::sleep(Duration::from_secs(2));
        }
        let mut piece = vec![0; 1 << 16];
        let mut after = 0;
        while let Ok(length @ 1..) = connection.stream.read(&mut piece) {
            after += length;
        }
        assert!(gone.elapsed() < Duration::from_secs(5), "{after}");
    }
}

#[test]
fn a_client_that_closes_its_sending_side_gets_its_answer() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    for request in [GET.to_owned(), format!("{POST}5\r\nhello\r\n0\r\n\r\n")] {
        let mut client = proxy.ask(&request);
        client.end();
        let (mut connection, _) = backend.request();
        std::thread::sleep(Duration::from_millis(300));
        connection.send(OK);
        let rest = client.rest();
        assert!(rest.ends_with("\r\n\r\nok"), "{rest}");
    }
}

#[test]
fn field_names_keep_their_case_on_every_request() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.connect();
    let mut connection = None;
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nHOST: a\r\nX-CamelCase: 1\r\nContent-Length: 0\r\n\r\n");
        let connection = connection.get_or_insert_with(|| backend.accept());
        let head = connection.until(|bytes| {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            end.map(|at| at + 4)
        });
        assert!(head.contains("\r\nX-CamelCase: 1\r\n"), "{head}");
        connection.send(OK);
        assert_eq!(client.status(), 200);
    }
}

#[test]
fn an_answer_of_many_lines_is_passed_on_up_to_its_limit() {
    let cookies = "Set-Cookie: a=b\r\n".repeat(150);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{cookies}\r\n");
    for (settings, wanted) in [("", 200), ("limits = { response_headers = 100 }", 502)] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], settings);
        let mut client = proxy.ask(GET);
        backend.request().0.send(&answer);
        let head = client.head();
        assert_eq!(status(&head), wanted);
    }
}

#[test]
fn h8_6_no_length_beside_a_status_that_has_no_body() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(GET);
    backend
        .request()
        .0
        .send("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(field(&client.head(), "content-length"), None);
}

#[test]
fn m6_1_a_coding_that_would_have_to_be_undone_is_a_bad_gateway() {
    for line in ["gzip, chunked", "gzip"] {
        let backend = Backend::new();
        let proxy = Proxy::new(&[&backend], "");
        let mut client = proxy.ask(GET);
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {line}\r\n\r\n0\r\n\r\n");
        backend.request().0.send(&answer);
        assert_eq!(client.status(), 502);
    }
}

#[test]
fn m9_3_an_answer_of_unknown_length_ends_a_connection_of_http_1_0() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    backend
        .request()
        .0
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    let head = client.head();
    assert_eq!(field(&head, "connection"), Some("close"));
    assert_eq!(field(&head, "transfer-encoding"), None);
    assert_eq!(client.rest(), "ok");
}

#[test]
fn h9_2_2_a_request_that_ends_its_backend_is_sent_once_more_and_not_to_everybody() {
    for (settings, wanted) in [
        ("", 2),
        ("upstream = { retries = 0, retry_budget = 1.0 }", 1),
    ] {
        let backends: Vec<Backend> = (0..4).map(|_| Backend::new()).collect();
        let all: Vec<&Backend> = backends.iter().collect();
        let settings = if settings.is_empty() {
            "upstream = { retry_budget = 1.0 }"
        } else {
            settings
        };
        let proxy = Proxy::new(&all, settings);
        let mut client = proxy.ask(GET);
        let mut seen = 0;
        let begun = Instant::now();
        client.stream.set_nonblocking(true).unwrap();
        while client.stream.peek(&mut [0]).is_err() && begun.elapsed() < super::PATIENCE {
            for backend in &backends {
                if let Some(stream) = backend.try_accept(Duration::from_millis(2)) {
                    let mut connection = Client::new(stream);
                    connection.head();
                    seen += 1;
                }
            }
        }
        client.stream.set_nonblocking(false).unwrap();
        assert_eq!((client.status(), seen), (502, wanted), "{settings}");
    }
}

#[test]
fn a_path_in_disguise_does_not_get_around_a_guard() {
    let backend = Backend::new();
    let guard = "[[service.route]]\npath = '/admin'\nanswer = { status = 403 }";
    let proxy = Proxy::new(&[&backend], guard);
    for (path, wanted) in [
        ("/admin/users", 403),
        ("/%61dmin", 403),
        ("/admin%2fusers", 400),
        ("/x/..%2fadmin/users", 400),
        ("/x\\..\\admin", 400),
        ("/x/..;/admin", 400),
        ("/admin;x=1/users", 400),
        ("/admin%00", 400),
        // Some frameworks take `..` for a name.
        ("/x/../admin", 400),
        ("/admin/../x", 400),
        ("/x/%2e%2E/admin", 400),
    ] {
        let mut client = proxy.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.status(), wanted, "{path}");
    }
    backend.was_spared();
    // Paths that lead nowhere near the guard go on unchanged.
    let mut client = proxy.ask("GET /@scope%2fname;v=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut connection, head) = backend.request();
    assert!(
        head.starts_with("GET /@scope%2fname;v=1 HTTP/1.1\r\n"),
        "{head}"
    );
    connection.send(OK);
    assert_eq!(client.status(), 200);
}

#[test]
fn a_cookie_is_not_set_on_what_shared_caches_store() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "stickiness = { cookie = 'lb' }");
    let mut connection = None;
    for (cache_control, is_set) in [
        ("no-store", true),
        ("private, max-age=60", true),
        ("max-age=0", true),
        ("public, max-age=60", false),
        ("max-age=60", false),
        ("s-maxage=60", false),
    ] {
        let mut client = proxy.ask(GET);
        let connection = connection.get_or_insert_with(|| backend.accept());
        connection.head();
        connection.send(&format!(
            "HTTP/1.1 200 OK\r\nCache-Control: {cache_control}\r\nContent-Length: 0\r\n\r\n"
        ));
        let (_, head) = client.answer();
        assert_eq!(
            field(&head, "set-cookie").is_some(),
            is_set,
            "{cache_control}"
        );
    }
}

#[test]
fn an_answer_that_stops_is_cut_off_where_that_is_wanted() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "timeouts = { response = '300ms' }");
    let mut client = proxy.ask(GET);
    let (mut connection, _) = backend.request();
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    assert!(client.rest().ends_with("hello"));
    assert_eq!(connection.rest(), "");
}

#[test]
fn a_request_that_is_refused_at_once_gets_a_page() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client =
        proxy.ask("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n");
    let (status, answer) = client.answer();
    assert_eq!(status, 405);
    assert!(answer.contains("\"status\":405"), "{answer}");
}

#[test]
fn a_short_answer_goes_in_one_piece() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.connect();
    let mut connection = None;
    for _ in 0..50 {
        client.send(GET);
        let connection = connection.get_or_insert_with(|| backend.accept());
        connection.head();
        connection.send(OK);
        let mut piece = [0; 4096];
        let length = client.stream.read(&mut piece).unwrap();
        assert!(piece[..length].ends_with(b"\r\n\r\nok"), "the head alone");
    }
}

#[test]
fn a_malformed_body_behind_the_head_of_an_answer_is_a_bad_gateway() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "");
    let mut client = proxy.ask(GET);
    for _ in 0..3 {
        let (mut connection, _) = backend.request();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX");
        let (status, head) = client.answer();
        assert_eq!(status, 502);
        assert_eq!(field(&head, "transfer-encoding"), None);
        client.send(GET);
    }
}
