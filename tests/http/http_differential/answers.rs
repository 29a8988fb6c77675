//! Made-up answers of backends.

use std::fmt;

use lb_tests::random::Random;

use super::requests::{chunks, data, one, rarely};

/// The bytes that a backend writes after a request.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) bytes: Vec<u8>,
    /// The backend closes the connection.
    pub(crate) closes: bool,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.bytes))?;
        if self.closes {
            write!(f, " and closes")
        } else {
            Ok(())
        }
    }
}

const STATUSES: [&str; 26] = [
    "200 OK",
    "200 OK",
    "200 OK",
    "200 OK",
    "200",
    "200 ",
    "201 Created",
    "202 Accepted",
    "204 No Content",
    "206 Partial Content",
    "299 Odd  reason: \u{e9}",
    "301 Moved Permanently",
    "302 Found",
    "304 Not Modified",
    "400 Bad Request",
    "401 Unauthorized",
    "404 Not Found",
    "410 Gone",
    "413 Payload Too Large",
    "418 I'm a teapot",
    "429 Too Many Requests",
    "500 Internal Server Error",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "599 Odd",
];

const LINES: [&str; 30] = [
    "X-A: 1",
    "X-A: 2",
    "x-b:  \t spaced \t ",
    "X-Empty:",
    "X_Under: 1",
    "Content-Type: text/html; charset=utf-8",
    "Content-Type: application/json",
    "Set-Cookie: a=b; Path=/; HttpOnly",
    "Set-Cookie: c=d",
    "Cache-Control: no-store",
    "Cache-Control: max-age=5",
    "ETag: \"x\"",
    "ETag: W/\"y\"",
    "Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT",
    "Expires: Tue, 15 Nov 1994 12:45:26 GMT",
    "Date: Tue, 15 Nov 1994 12:45:26 GMT",
    "Server: test",
    "Vary: Accept-Encoding",
    "Vary: Cookie",
    "Location: /elsewhere",
    "Location: http://b.example/x",
    "WWW-Authenticate: Basic realm=\"a, b\"",
    "Access-Control-Allow-Origin: *",
    "Content-Encoding: br",
    "Content-Range: bytes 0-3/10",
    "Accept-Ranges: bytes",
    "Retry-After: 5",
    "Age: 10",
    "Keep-Alive: timeout=5",
    "Trailer: X-Sum",
];
const ODD_LINES: [&[u8]; 14] = [
    b"Connection: X-A",
    b"Connection: keep-alive",
    b"Upgrade: h2c",
    b"Via: 1.0 fred",
    b"X-High: \xe9\xff",
    b"X-Control: a\x01b",
    b"X-Return: a\rb",
    b"X-Zero: a\0b",
    b"Bad Name: 1",
    b"X-Space : 1",
    b": no name",
    b"NoColon",
    b"X-Folded: a\r\n b",
    b"X-Dot.!: 1",
];

impl Script {
    /// The answer to the request that ends a connection.
    pub(crate) fn last() -> Self {
        Self {
            bytes: b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 4\r\n\r\nlast".to_vec(),
            closes: false,
        }
    }

    /// One for a request with this method.
    pub(crate) fn new(random: &mut Random, method: &str) -> Self {
        if rarely(random, 25) {
            return Self::broken(random);
        }
        let mut bytes = Vec::new();
        if rarely(random, 12) {
            let interim = [
                "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n",
                "HTTP/1.1 102 Processing\r\n\r\n",
                "HTTP/1.1 100 Continue\r\n\r\n",
            ];
            for _ in 0..=random.below(2) {
                bytes.extend_from_slice(one(random, &interim).as_bytes());
            }
        }
        let version = match rarely(random, 8) {
            true => "HTTP/1.0",
            false => "HTTP/1.1",
        };
        let status = one(random, &STATUSES);
        bytes.extend_from_slice(format!("{version} {status}\r\n").as_bytes());
        for _ in 0..random.below(6) {
            bytes.extend_from_slice(match rarely(random, 20) {
                true => one(random, &ODD_LINES),
                false => one(random, &LINES).as_bytes(),
            });
            bytes.extend_from_slice(b"\r\n");
        }
        let has_body = method != "HEAD" && !status.starts_with("204") && !status.starts_with("304");
        let closes = framed(random, version, has_body, &mut bytes);
        Self { bytes, closes }
    }

    /// The same without the interim answers before the final one: nginx takes the first for the final.
    pub(crate) fn without_interim(&self) -> Self {
        let mut rest = &self.bytes[..];
        while rest.starts_with(b"HTTP/1.1 10") {
            let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
            rest = &rest[end.map_or(rest.len(), |end| end + 4)..];
        }
        Self {
            bytes: rest.to_vec(),
            closes: self.closes,
        }
    }

    /// The statuses of the interim answers that are passed on.
    pub(crate) fn interim(&self) -> Vec<u16> {
        let length = self.bytes.len() - self.without_interim().bytes.len();
        let text = String::from_utf8_lossy(&self.bytes[..length]);
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("HTTP/1.1 "));
        let statuses = lines.filter_map(|line| line.get(..3)?.parse().ok());
        statuses.filter(|status| *status != 100).collect()
    }

    /// Something that is no answer, or the beginning of one.
    fn broken(random: &mut Random) -> Self {
        let broken: [&str; 16] = [
            "",
            "hello",
            "HTTP/1.1",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 99 Low\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-A: 1",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsho",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nx",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nshort\r\n0\r\n\r\n",
        ];
        Self {
            bytes: one(random, &broken).as_bytes().to_vec(),
            closes: true,
        }
    }
}

/// The lines that frame a body, the end of the head, and the body; whether the connection ends then.
fn framed(random: &mut Random, version: &str, has_body: bool, bytes: &mut Vec<u8>) -> bool {
    let data = data(random);
    let kind = random.below(8);
    if version == "HTTP/1.0" || kind == 0 {
        if kind.is_multiple_of(2) {
            bytes.extend_from_slice(b"Connection: close\r\n");
        }
        if kind.is_multiple_of(3) {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", data.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        if has_body {
            bytes.extend_from_slice(&data);
        }
        return true;
    }
    if !has_body && kind < 3 {
        bytes.extend_from_slice(b"\r\n");
        return false;
    }
    if kind < 5 {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", data.len()).as_bytes());
        if has_body {
            bytes.extend_from_slice(&data);
        }
        return false;
    }
    bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    if has_body {
        chunks(random, &data, bytes);
    }
    false
}
