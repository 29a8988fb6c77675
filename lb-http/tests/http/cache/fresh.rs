//! Answers that are fresh are sent without a backend.

use lb_http::Purge;

use super::super::h2::{
    DATA, END_HEADERS, END_STREAM, GET, HEADERS, Secure, WINDOW_UPDATE, fields, status,
};
use super::super::log::Log;
use super::super::{Backend, Client};
use super::{Got, ON, Origin, get, ok};

const FRESH: &str = "Cache-Control: max-age=60\r\nETag: \"x\"\r\n";

#[test]
fn second_request_is_answered_from_memory_with_its_age() {
    let origin = Origin::with(FRESH);
    let proxy = origin.proxy(ON);
    let first = get(&proxy, "/", "");
    assert_eq!(
        first.field("cache-status"),
        Some("lb-agent; fwd=uri-miss; stored")
    );
    for _ in 0..3 {
        let again = get(&proxy, "/", "");
        assert_eq!((again.status, &*again.body), (200, "1"));
        assert!(
            again
                .field("age")
                .is_some_and(|age| age.parse::<u64>().unwrap() < 5)
        );
        assert!(
            again
                .field("cache-status")
                .unwrap()
                .starts_with("lb-agent; hit; ttl=")
        );
        assert_eq!(again.field("date"), first.field("date"));
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(get(&proxy, "/?x", "").body, "2");
}

#[test]
fn nothing_is_stored_without_the_table() {
    let origin = Origin::with(FRESH);
    let proxy = origin.proxy("");
    for number in 1..4 {
        let got = get(&proxy, "/", "");
        assert_eq!(got.body, number.to_string());
        assert_eq!(got.field("cache-status"), None);
    }
}

#[test]
fn host_is_in_the_key() {
    let origin = Origin::with(FRESH);
    let proxy = origin.proxy(ON);
    let of = |host: &str| {
        let mut client = proxy.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        Got::of(&mut client).body
    };
    assert_eq!(
        (of("a"), of("b"), of("A"), of("a:80")),
        ("1".into(), "2".into(), "1".into(), "1".into())
    );
    assert_eq!(of("a:81"), "3");
}

#[test]
fn variants_are_stored_apart() {
    let origin = Origin::with("Cache-Control: max-age=60\r\nVary: Accept-Language\r\n");
    let proxy = origin.proxy(ON);
    let of = |language: &str| get(&proxy, "/", &format!("Accept-Language: {language}\r\n")).body;
    assert_eq!(
        (of("de"), of("en"), of("de"), of("en")),
        ("1".into(), "2".into(), "1".into(), "2".into())
    );
}

#[test]
fn clients_that_have_it_are_told_so_and_parts_come_from_the_whole() {
    let origin = Origin::new(|_| {
        let lines = "Cache-Control: max-age=60\r\nETag: \"x\"\r\nContent-Type: a/b\r\n";
        ok(lines, "0123456789")
    });
    let proxy = origin.proxy(ON);
    get(&proxy, "/", "");
    let known = get(&proxy, "/", "If-None-Match: \"x\"\r\n");
    assert_eq!((known.status, known.field("etag")), (304, Some("\"x\"")));
    assert_eq!(known.field("transfer-encoding"), None);
    let part = get(&proxy, "/", "Range: bytes=2-4\r\n");
    assert_eq!((part.status, &*part.body), (206, "234"));
    assert_eq!(part.field("content-range"), Some("bytes 2-4/10"));
    assert_eq!(get(&proxy, "/", "Range: bytes=10-\r\n").status, 416);
    assert_eq!(
        get(&proxy, "/", "Range: bytes=0-1\r\nIf-Range: \"y\"\r\n").status,
        200
    );
    let parts = get(&proxy, "/", "Range: bytes=0-1, 3-4, 20-\r\n");
    let kind = parts.field("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=");
    let boundary = boundary.unwrap();
    let part = |of: &str, bytes: &str| {
        format!(
            "\r\n--{boundary}\r\nContent-Type: a/b\r\nContent-Range: bytes {of}/10\r\n\r\n{bytes}"
        )
    };
    let body = part("0-1", "01") + &part("3-4", "34") + &format!("\r\n--{boundary}--\r\n");
    assert_eq!((parts.status, parts.body), (206, body));
    assert_eq!(get(&proxy, "/", "Range: bytes=0-9, 0-9\r\n").status, 200);
    let mut client: Client = proxy.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head();
    assert!(
        head.contains("content-length: 10\r\n") && head.contains("age: "),
        "{head}"
    );
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(Got::of(&mut client).body, "0123456789");
    assert_eq!(origin.count(), 1);
}

/// So many bytes, no part of which is like another.
fn numbers(length: usize) -> String {
    let mut text: String = (0..length / 8).map(|at| format!("{at:08}")).collect();
    text.push_str(&"-".repeat(length % 8));
    text
}

#[test]
fn answers_of_all_sizes_are_stored_and_larger_ones_than_the_limit_are_not() {
    for (length, requests) in [
        (2_048, 1),
        (2_049, 1),
        (200_000, 1),
        (2_000_000, 1),
        (2_200_000, 2),
    ] {
        let text = numbers(length);
        let origin = Origin::new(move |_| ok("Cache-Control: max-age=60\r\n", &text));
        let proxy = origin.proxy(ON);
        for _ in 0..2 {
            assert!(get(&proxy, "/", "").body == numbers(length), "{length}");
        }
        assert_eq!(origin.count(), requests, "{length}");
    }
}

#[test]
fn client_that_takes_its_time_gets_a_large_answer_and_the_next_one_behind_it() {
    const LENGTH: usize = 2_000_000;
    let origin = Origin::new(|_| ok("Cache-Control: max-age=60\r\n", &numbers(LENGTH)));
    let proxy = origin.proxy(ON);
    get(&proxy, "/", "");
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = proxy.ask(&request.repeat(4));
    // The buffers of both sockets are full by now, most likely: the answers have to be right in any case.
    std::thread::sleep(std::time::Duration::from_millis(200));
    for _ in 0..4 {
        assert!(Got::of(&mut client).body == numbers(LENGTH));
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn coded_answers_are_made_once_and_sent_to_those_who_take_them() {
    let text = "hello ".repeat(1000);
    let origin = Origin::new(move |_| {
        ok(
            "Cache-Control: max-age=60\r\nContent-Type: text/plain\r\n",
            &text,
        )
    });
    let proxy = origin.proxy(ON);
    get(&proxy, "/", "");
    for _ in 0..2 {
        let mut client = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
        let head = client.head();
        assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
        assert!(head.contains("vary: accept-encoding\r\n"), "{head}");
    }
    let plain = get(&proxy, "/", "");
    assert_eq!(
        (plain.field("content-encoding"), plain.body.len()),
        (None, 6000)
    );
    assert_eq!(origin.count(), 1);
}

#[test]
fn http2_is_served_from_the_same_store() {
    let backend = Backend::new();
    let secure = Secure::with(&backend, ON);
    let origin = std::thread::spawn(move || {
        backend
            .request()
            .0
            .send(&ok("Cache-Control: max-age=60\r\n", "stored"));
        backend
    });
    let mut connection = secure.connect();
    for stream in [1, 3, 5] {
        connection.send(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&GET));
        assert_eq!(
            status(&connection.next_of(&[HEADERS]).unwrap().payload),
            200
        );
        assert_eq!(connection.next_of(&[DATA]).unwrap().payload, b"stored");
    }
    origin.join().unwrap().was_spared();
}

#[test]
fn http2_gets_large_answers_in_pieces() {
    const LENGTH: usize = 200_000;
    let backend = Backend::new();
    let secure = Secure::with(&backend, ON);
    let origin = std::thread::spawn(move || {
        backend
            .request()
            .0
            .send(&ok("Cache-Control: max-age=60\r\n", &numbers(LENGTH)));
        backend
    });
    for _ in 0..2 {
        let mut connection = secure.connect();
        connection.send(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&GET));
        for stream in [0, 1] {
            connection.send(WINDOW_UPDATE, 0, stream, &(LENGTH as u32).to_be_bytes());
        }
        assert_eq!(
            status(&connection.next_of(&[HEADERS]).unwrap().payload),
            200
        );
        let mut body = Vec::new();
        while body.len() < LENGTH {
            body.extend(connection.next_of(&[DATA]).unwrap().payload);
        }
        assert!(body == numbers(LENGTH).as_bytes());
    }
    origin.join().unwrap().was_spared();
}

#[test]
fn purged_answers_are_gone_and_the_figures_tell() {
    let origin = Origin::with(FRESH);
    let proxy = origin.proxy(ON);
    let engine = proxy.engine.as_ref().unwrap();
    for path in ["/a", "/a", "/b/1", "/b/2"] {
        get(&proxy, path, "");
    }
    let figures = engine.cache().unwrap();
    assert_eq!((figures.requests, figures.entries), ([1, 3, 0, 0], 3));
    assert!(figures.bytes > 1500 && figures.bytes < figures.capacity);
    let stored = engine.stored("http://a/", 2);
    assert_eq!(
        (&*stored[0].url, stored[0].hits, stored.len()),
        ("http://a/a", 1, 2)
    );
    assert_eq!(engine.purge(&Purge::Url("http://a/a".into())), 1);
    assert_eq!(engine.purge(&Purge::Prefix("http://a/b/".into())), 2);
    assert_eq!(get(&proxy, "/a", "").body, "4");
    assert_eq!(engine.purge(&Purge::All), 1);
    assert_eq!(get(&proxy, "/a", "").body, "5");
}

#[test]
fn access_log_says_what_the_cache_did() {
    let log = Log::new();
    let origin = Origin::with(FRESH);
    let proxy = origin.proxy(&format!("{}\n{ON}", log.settings()));
    get(&proxy, "/", "");
    get(&proxy, "/", "");
    let lines = log.lines(2);
    assert_eq!(
        (&lines[0]["cache"], &lines[1]["cache"]),
        (&"miss".into(), &"hit".into())
    );
    assert_eq!(
        (lines[1].get("backend"), &lines[1]["why"]),
        (None, &"cache".into())
    );
}
