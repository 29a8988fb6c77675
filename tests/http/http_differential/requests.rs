//! Made-up requests: usual ones, odd ones, and ones that are to be refused.

use lb_tests::random::Random;

/// A request as bytes, with its method.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) number: u64,
    pub(crate) method: String,
    pub(crate) bytes: Vec<u8>,
}

/// A random element of `all`.
pub(crate) fn one<'a, T: ?Sized>(random: &mut Random, all: &[&'a T]) -> &'a T {
    all[random.below(all.len() as u64) as usize]
}

/// Whether something happens that does once in `often`.
pub(crate) fn rarely(random: &mut Random, often: u64) -> bool {
    random.below(often) == 0
}

const METHODS: [&str; 8] = [
    "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS",
];
const ODD_METHODS: [&str; 7] = [
    "PURGE", "PROPFIND", "M-SEARCH", "get", "TRACE", "CONNECT", "G{T",
];

const TARGETS: [&str; 10] = [
    "/",
    "/a/b?c=d&e=f",
    "/a%20b%2Fc",
    "/a//b/./c/../d",
    "/?",
    "/a?b?c=/d",
    "/a;b=c,d!e$f'(g)*h+i:j@k~l",
    "/a?q=%22%zz",
    "http://b.example/x?y=z",
    "/%E4%BD%A0",
];
const ODD_TARGETS: [&[u8]; 16] = [
    b"*",
    b"/a?q=\"<>`{}|\\^",
    b"/\xe9?\xff",
    b"/a#b",
    b"/a b",
    b"",
    b"a",
    b"http://b.example",
    b"HTTP://b.example:8080?a",
    b"http:///a",
    b"https://u:p@b.example/a",
    b"/../../a",
    b"/a%00b",
    b"/a\x7fb",
    b"/a\tb",
    b"/a/%2e%2e/%2e%2e/b",
];

const LINES: [&str; 34] = [
    "X-A: 1",
    "X-A: 2",
    "x-b:  \t spaced \t ",
    "X-Empty:",
    "X-Comma: a, b,, c",
    "X-Quoted: \"a, b\"",
    "User-Agent: test/1.0 (x; y)",
    "Accept: */*",
    "Accept-Encoding: gzip, br",
    "Accept-Language: de",
    "Cookie: a=b; c=d",
    "Cookie: e=f",
    "Authorization: Basic YTpi",
    "Referer: http://b.example/",
    "Range: bytes=0-3",
    "If-None-Match: \"x\", W/\"y\"",
    "If-Modified-Since: Tue, 15 Nov 1994 12:45:26 GMT",
    "Cache-Control: no-cache",
    "Content-Type: application/json",
    "Content-Encoding: gzip",
    "Content-Language: de",
    "Origin: https://b.example",
    "Pragma: no-cache",
    "TE: trailers",
    "Connection: keep-alive",
    "Connection: close",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "Upgrade: h2c",
    "DNT: 1",
    "Trailer: X-Sum",
    "Via: 1.0 fred",
    "Max-Forwards: 5",
    "X_Under: 1",
];
const ODD_LINES: [&[u8]; 20] = [
    b"Connection: X-A, close",
    b"Connection: keep-alive, X-A",
    b"Connection: Upgrade\r\nUpgrade: foo/2",
    b"X-High: \xe9\xff",
    b"X-Dot.!#$%&'*+^`|~: 1",
    b"X-Control: a\x01b",
    b"X-Delete: a\x7fb",
    b"X-Tab: a\tb",
    b"X-Return: a\rb",
    b"X-Zero: a\0b",
    b"Bad Name: 1",
    b"X-Space : 1",
    b": no name",
    b"NoColon",
    b"X-Folded: a\r\n b",
    b" X-Led: 1",
    b"X-\xe9: 1",
    b"X-(): 1",
    b"Expect: 100-continue",
    b"Expect: something",
];
const HOSTS: [&str; 12] = [
    "Host: b.example",
    "Host: b.example",
    "Host: b.example:8080",
    "host: [2001:db8::1]:80",
    "Host: 192.0.2.1",
    "HOST:b.example",
    "Host: B.Example.",
    "Host: b_c.example",
    "Host:",
    "Host: b.example\r\nHost: b.example",
    "Host: b.example/a",
    "X-None: host",
];

impl Request {
    /// One with a number by which its backend knows it.
    pub(crate) fn new(random: &mut Random, number: u64) -> Self {
        let method = match rarely(random, 15) {
            true => one(random, &ODD_METHODS),
            false => one(random, &METHODS),
        };
        let mut bytes = Vec::new();
        if rarely(random, 20) {
            bytes.extend_from_slice(one(random, &["\r\n", "\n", "\r\n\r\n"]).as_bytes());
        }
        let version = match random.below(30) {
            0..4 => "HTTP/1.0",
            4 => one(
                random,
                &["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 "],
            ),
            _ => "HTTP/1.1",
        };
        let target = match rarely(random, 8) {
            true => one(random, &ODD_TARGETS),
            false => one(random, &TARGETS).as_bytes(),
        };
        let host = match rarely(random, 6) {
            true => one(random, &HOSTS),
            false => HOSTS[0],
        };
        bytes.extend_from_slice(method.as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(target);
        bytes.extend_from_slice(format!(" {version}\r\n{host}\r\nX-Case: {number}\r\n").as_bytes());
        lines(random, &mut bytes);
        body(random, method, &mut bytes);
        if rarely(random, 25) {
            bytes = bare_lines(&bytes);
        }
        Self {
            number,
            method: method.to_owned(),
            bytes,
        }
    }
}

impl Request {
    /// Whether its client takes interim answers.
    pub(crate) fn is_http11(&self) -> bool {
        let text = String::from_utf8_lossy(&self.bytes);
        let line = text.trim_start().lines().next();
        line.is_some_and(|line| line.ends_with(" HTTP/1.1"))
    }
}

fn lines(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(6) {
        bytes.extend_from_slice(match rarely(random, 15) {
            true => one(random, &ODD_LINES),
            false => one(random, &LINES).as_bytes(),
        });
        bytes.extend_from_slice(b"\r\n");
    }
}

/// Line breaks of the head without their CR.
fn bare_lines(bytes: &[u8]) -> Vec<u8> {
    // Empty lines before the head are no end of it.
    const BEFORE: usize = 4;
    let rest = &bytes[BEFORE..];
    let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = bytes.split_at(end.map_or(bytes.len(), |end| end + BEFORE + 4));
    let head = head.iter().filter(|byte| **byte != b'\r');
    head.copied().chain(body.iter().copied()).collect()
}

/// The lines that frame a body, the end of the head, and the body.
fn body(random: &mut Random, method: &str, bytes: &mut Vec<u8>) {
    let has_body = match method {
        "POST" | "PUT" | "PATCH" => !rarely(random, 8),
        _ => rarely(random, 12),
    };
    if !has_body {
        bytes.extend_from_slice(b"\r\n");
        return;
    }
    let data = data(random);
    if rarely(random, 10) {
        return odd_body(random, &data, bytes);
    }
    if rarely(random, 2) {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", data.len()).as_bytes());
        bytes.extend_from_slice(&data);
        return;
    }
    let coding = one(random, &["chunked", "chunked", "chunked", "Chunked"]);
    bytes.extend_from_slice(format!("Transfer-Encoding: {coding}\r\n\r\n").as_bytes());
    chunks(random, &data, bytes);
}

/// Framing that is doubtful or wrong.
fn odd_body(random: &mut Random, data: &[u8], bytes: &mut Vec<u8>) {
    let n = data.len();
    let odd = [
        format!("Content-Length: {n}\r\nContent-Length: {n}\r\n\r\n"),
        format!("Content-Length: {n}, {n}\r\n\r\n"),
        format!("Content-Length: {n}\r\nContent-Length: {}\r\n\r\n", n + 1),
        format!("Content-Length: +{n}\r\n\r\n"),
        format!("Content-Length: 0{n}\r\n\r\n"),
        format!("Content-Length: -{n}\r\n\r\n"),
        "Content-Length: \r\n\r\n".to_owned(),
        "Content-Length: 99999999999999999999\r\n\r\n".to_owned(),
        format!("Content-Length: {n}\r\nTransfer-Encoding: chunked\r\n\r\n{n:x}\r\n"),
        "Transfer-Encoding: gzip, chunked\r\n\r\n".to_owned(),
        "Transfer-Encoding: identity\r\n\r\n".to_owned(),
        "Transfer-Encoding: chunked, chunked\r\n\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n0x5\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n-5\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n;a=b\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n2\r\nabX\r\n0\r\n\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n2\nab\n0\n\n".to_owned(),
    ];
    let at = random.below(odd.len() as u64) as usize;
    bytes.extend_from_slice(odd[at].as_bytes());
    bytes.extend_from_slice(data);
}

/// Random bytes for a body.
pub(crate) fn data(random: &mut Random) -> Vec<u8> {
    let length = match random.below(12) {
        0 => 0,
        1 => 20_000 + random.below(80_000),
        _ => 1 + random.below(400),
    };
    let first = random.below(26) as usize;
    let letter = |at: usize| b'a' + ((first + at) % 26) as u8;
    (0..length as usize).map(letter).collect()
}

/// Appends `data` in chunks of many sizes, with the optional parts of chunks.
pub(crate) fn chunks(random: &mut Random, mut data: &[u8], bytes: &mut Vec<u8>) {
    while !data.is_empty() {
        let size = match rarely(random, 4) {
            true => 1,
            false => 1 + random.below(data.len() as u64) as usize,
        };
        let (chunk, rest) = data.split_at(size);
        let size = match random.below(12) {
            0 => format!("{size:X}"),
            1 => format!("00{size:x}"),
            2 => format!("{size:x};a=b"),
            3 => format!("{size:x} ;a=\"b c\";d"),
            _ => format!("{size:x}"),
        };
        bytes.extend_from_slice(size.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        data = rest;
    }
    let trailers = one(
        random,
        &["", "", "", "X-Sum: 1\r\n", "X-Sum: 1\r\nHost: c\r\n"],
    );
    let end = one(random, &["0", "0", "000", "0;a"]);
    bytes.extend_from_slice(format!("{end}\r\n{trailers}\r\n").as_bytes());
}
