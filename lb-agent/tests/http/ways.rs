//! The short way of requests and the long one come to the same: every request is sent on a fresh
//! connection, where it takes the short way if it is plain, and on one that has been sent the long
//! way before, and the backend and the client see the same.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{Backend, Proxy};

/// Backends that fail stay in use, and no connection is used again: each request stands alone.
const SETTINGS: &str = "[service.http.upstream]\nmax_fails = 0\nretry_budget = 1.0\nkeepalive = 0\n\
                        [service.http.timeouts]\nrestart_grace = \"0s\"";
/// Nothing plain: the connection takes the long way from there on.
const FIRST: &str = "GET /first HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n";
/// Ends the connection.
const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\n\r\nown ";

/// A backend that notes what it is sent, and gives one answer to what the test is about.
struct Played {
    backend: Arc<Backend>,
    answer: Arc<Mutex<String>>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Played {
    fn new() -> Self {
        let backend = Arc::new(Backend::new());
        let played = Self {
            backend: Arc::clone(&backend),
            answer: Arc::default(),
            heads: Arc::default(),
        };
        let (answer, heads) = (Arc::clone(&played.answer), Arc::clone(&played.heads));
        std::thread::spawn(move || {
            while Arc::strong_count(&backend) > 1 {
                if let Some(stream) = backend.try_accept(Duration::from_millis(50)) {
                    let (answer, heads) = (Arc::clone(&answer), Arc::clone(&heads));
                    std::thread::spawn(move || play(stream, &answer, &heads));
                }
            }
        });
        played
    }
}

fn play(mut stream: TcpStream, answer: &Mutex<String>, heads: &Mutex<Vec<String>>) {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    while !read.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(length @ 1..) => read.extend_from_slice(&piece[..length]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&read).into_owned();
    let is_own = [" /first ", " /last "].iter().any(|own| head.contains(own));
    let text = if is_own {
        ANSWER.to_owned()
    } else {
        heads.lock().unwrap().push(head);
        answer.lock().unwrap().clone()
    };
    let _ = stream.write_all(text.as_bytes());
}

/// What was seen of one request, on both sides.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// The heads that the backend got, alike ones in any order of their lines.
    told: Vec<Vec<String>>,
    /// What the client got.
    got: Vec<Vec<String>>,
}

/// Sends `request`, by the long way if it is `long`.
fn seen(proxy: &Proxy, played: &Played, request: &str, long: bool) -> Seen {
    played.heads.lock().unwrap().clear();
    let mut client = proxy.connect();
    if long {
        client.send(FIRST);
        assert_eq!(client.status(), 200);
    }
    // What is refused at once may be closed before all of it is written.
    let _ = client.stream.write_all(request.as_bytes());
    // The answer, or the end; then the connection is brought to its end.
    let _ = client.stream.peek(&mut [0; 1]);
    let _ = client.stream.write_all(LAST.as_bytes());
    let got = client.rest();
    let heads = played.heads.lock().unwrap();
    Seen {
        told: heads.iter().map(|head| lines(head)).collect(),
        got: got.split("HTTP/1.1 ").map(lines).collect(),
    }
}

/// The lines of a message, names in lower case and in order, without what differs each time.
fn lines(text: &str) -> Vec<String> {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let mut lines: Vec<String> = head
        .split("\r\n")
        .map(|line| match line.split_once(':') {
            Some((name, value)) => match name.to_ascii_lowercase().as_str() {
                // The gateway adds the time to an answer without one.
                name @ ("x-request-id" | "date") => name.to_owned(),
                name => format!("{name}:{value}"),
            },
            None => line.to_owned(),
        })
        .collect();
    if lines.len() > 1 {
        lines[1..].sort_unstable();
    }
    // The pages of the gateway name the request, and how a body is cut up or compressed is a matter
    // of time too.
    let has = |name| lines.iter().any(|line: &String| line.starts_with(name));
    let is_cut_up = has("transfer-encoding:") || has("content-encoding:");
    let body = body.split_once("<small>").map_or(body, |(page, _)| page);
    let body = if is_cut_up { "" } else { body };
    lines.push(body.to_owned());
    lines
}

/// Lines that most clients send.
const USUAL: &[&str] = &[
    "Accept: */*",
    "accept:   text/html  ",
    "Accept-Encoding: gzip, br",
    "User-Agent: x/1.0",
    "Referer: http://a.test/",
    "Cookie: a=b; c=d",
    "Cookie: e=f",
    "Connection: keep-alive",
    "Connection: close",
    "If-None-Match: \"x\"",
    "If-Modified-Since: Sat, 21 Nov 2026 10:00:00 GMT",
    "Range: bytes=0-1",
    "Cache-Control: no-transform",
    "Authorization: Basic YTpi",
    "Priority: u=1",
    "X-Empty:",
    "X-Latin: \u{e9}",
    "X-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// Lines that few send, and lines that nobody should.
const UNUSUAL: &[&str] = &[
    "Host: b.test:8080",
    "host: a b",
    "Host:",
    "Accept-Encoding: identity;q=0, gzip",
    "Accept-Encoding: *;q=0",
    "Connection: Keep-Alive, X-Named",
    "connection: x-named",
    "X-Named: 1",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "TE: trailers",
    "Trailer: x",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "Expect: 100-continue",
    "Expect: more",
    "Content-Length: 0",
    "Transfer-Encoding: gzip",
    "Max-Forwards: 0",
    "Via: 1.0 other",
    "Forwarded: for=1.2.3.4",
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-Host: evil",
    "X-Forwarded-Proto: https",
    "X-Real-IP: 1.2.3.4",
    "X-Request-Id: abc",
    "X_Real_IP: 1.2.3.4",
    "X-Forwarded_For: 1.2.3.4",
    "X Space: 1",
    "X-Space : 1",
    " folded",
    "NoColon",
    ": empty",
];

const TARGETS: &[&str] = &[
    "/",
    "/a",
    "/a/b?c=d&e=%20",
    "//a",
    "/?",
    "/a#b",
    "/%zz",
    "/a|b",
    "/\u{e9}",
    "/a\"b",
    "/{a}",
    "*",
    "a",
    "http://a.test/x",
    "/socket.io/?EIO=4&transport=polling",
    "",
];

const ANSWERED: &[&str] = &[
    "Date: x",
    "Date: x",
    "Date: x",
    "Content-Length: 4",
    "Content-Length: 4",
    "content-length: 2",
    "Content-Length: 9",
    "Content-Length: 0",
    "Content-Length: +4",
    "Content-Length: 99999999999999999999",
    "Transfer-Encoding: chunked",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: x-named",
    "X-Named: 1",
    "Keep-Alive: timeout=5",
    "Keep-Alive: timeout=0",
    "Proxy-Connection: close",
    "Upgrade: h2c",
    "Trailer: x",
    "Content-Type: text/html; charset=utf-8",
    "Content-Type: image/png",
    "Content-Encoding: gzip",
    "Set-Cookie: a=b",
    "Set-Cookie: c=d",
    "ETag: \"x\"",
    "Vary: Accept",
    "Cache-Control: no-transform",
    "X-Empty:",
    "X-Latin: \u{e9}",
    "X-Space : 1",
    " folded",
    "NoColon",
];

fn requests() -> impl Strategy<Value = String> {
    let methods = &["HEAD", "OPTIONS", "DELETE", "get", "TRACE"];
    let lines = (
        prop_oneof![9 => Just("Host: a.test"), 1 => Just("X-Host: none")],
        subsequence(USUAL, 0..5),
        prop_oneof![2 => Just(Vec::new()), 1 => subsequence(UNUSUAL, 1..3)],
    );
    (
        prop_oneof![4 => Just("GET"), 1 => select(&methods[..])],
        prop_oneof![3 => Just("/a?b"), 1 => select(TARGETS)],
        prop_oneof![9 => Just("HTTP/1.1"), 1 => select(&["HTTP/1.0", "HTTP/2.0"][..])],
        lines,
        prop_oneof![9 => Just("\r\n"), 1 => Just("\n")],
    )
        .prop_map(|(method, target, version, (host, usual, unusual), end)| {
            let mut text = format!("{method} {target} {version}{end}");
            for line in std::iter::once(host).chain(usual).chain(unusual) {
                text.push_str(line);
                text.push_str(end);
            }
            text + end
        })
}

fn answers() -> impl Strategy<Value = String> {
    let statuses = &[
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 Fine by me",
        "HTTP/1.1 200",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 304 Not Modified",
        "HTTP/1.1 404 Not Found",
        "HTTP/1.1 500 Oh",
        "HTTP/1.1 799 Odd",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK",
        "HTTP/1.1 101 Switching Protocols",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 20 OK",
        "SSH-2.0",
        "",
    ];
    let bodies = &[
        "",
        "body",
        "body",
        "4\r\nbody\r\n0\r\n\r\n",
        "bodybody",
        "b",
    ];
    (
        prop_oneof![3 => Just("HTTP/1.1 200 OK\r\nDate: x"), 2 => select(&statuses[..])],
        subsequence(ANSWERED, 0..5),
        select(&bodies[..]),
    )
        .prop_map(|(status, lines, body)| {
            let mut text = format!("{status}\r\n");
            // As long as it says, so that it comes to its end.
            let mut body = body.to_owned();
            for line in lines {
                text.push_str(line);
                text.push_str("\r\n");
                let length = line.split_once("ength: ").map(|(_, length)| length.parse());
                if let Some(Ok(length @ 0..20)) = length {
                    body.extend((body.len()..length).map(|_| 'x'));
                }
                if line.contains("chunked") {
                    body = "4\r\nbody\r\n0\r\n\r\n".to_owned();
                }
            }
            text + "\r\n" + &body
        })
}

/// How many cases are tried.
const CASES: u32 = 400;

#[test]
fn both_ways_come_to_the_same() {
    let played = Played::new();
    let proxy = Proxy::new(&[&played.backend], SETTINGS);
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(CASES)
    };
    let plain = std::cell::Cell::new(0);
    proptest!(config, |(request in requests(), answer in answers())| {
        (*played.answer.lock().unwrap()).clone_from(&answer);
        let short = seen(&proxy, &played, &request, false);
        // The long way writes all names in lower case.
        let as_it_came = |head: &String| head.contains("\r\nHost: ");
        if played.heads.lock().unwrap().iter().any(as_it_came) {
            plain.set(plain.get() + 1);
        }
        let long = seen(&proxy, &played, &request, true);
        prop_assert_eq!(short, long, "{:?}\n{:?}", request, answer);
    });
    assert!(plain.get() > CASES / 20, "only {} were plain", plain.get());
}
