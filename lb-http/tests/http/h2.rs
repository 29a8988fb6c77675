//! HTTP/2 to clients, frame by frame over TLS: malformed requests go no further, and valid ones arrive as
//! HTTP/1.1.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use lb_http::metrics::ServiceFigures;
use lb_net::handover::AcceptPolicy;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::figures::{figures, requests};
use super::log::Log;
use super::{Backend, Client, OK, PATIENCE, Proxy, field, own_address};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
/// Flags (RFC 9113, sections 6.1, 6.2 and 6.7).
pub(super) const END_STREAM: u8 = 1;
const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// Error codes (section 7).
const PROTOCOL_ERROR: u32 = 1;

/// A proxy that serves HTTPS for `a.test`, and a client configuration that trusts it.
pub(super) struct Secure {
    proxy: Proxy,
    address: std::net::SocketAddr,
    trust: Arc<ClientConfig>,
    _files: tempfile::TempDir,
}

impl Secure {
    fn new(backend: &Backend) -> Self {
        Self::with(backend, "")
    }

    /// With `settings` under `[service.http]`.
    pub(super) fn with(backend: &Backend, settings: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let path = |name: &str| files.path().join(name);
        std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let address = own_address();
        let settings = format!(
            "{settings}\n[service.tls]\nlisten = ['{address}']\n\
             certificates = [{{ certificate = '{}', key = '{}' }}]",
            path("cert.pem").display(),
            path("key.pem").display()
        );
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut trust = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        trust.alpn_protocols = vec![b"h2".to_vec()];
        Self {
            proxy: Proxy::new(&[backend], &settings),
            address,
            trust: Arc::new(trust),
            _files: files,
        }
    }

    /// A connection on which settings were exchanged.
    pub(super) fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        let tls = ClientConnection::new(Arc::clone(&self.trust), name).unwrap();
        let mut connection = Connection(StreamOwned::new(tls, stream));
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        connection.0.write_all(preface).unwrap();
        connection.send(SETTINGS, 0, 0, &[]);
        connection
    }
}

/// A frame (section 4.1).
#[derive(Debug)]
pub(super) struct Frame {
    kind: u8,
    pub(super) flags: u8,
    stream: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) struct Connection(StreamOwned<ClientConnection, TcpStream>);

/// The outcome of a request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answer(u16),
    /// The stream was reset, with this code.
    Reset(u32),
    /// The connection was given up.
    Gone,
}

impl Connection {
    pub(super) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // It fails when the connection was given up, which is told by reading.
        let _ = self.0.write_all(&frame);
    }

    /// The next frame; `None` at the end of the connection. A ping is answered.
    fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let word = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte))
        };
        let mut payload = vec![0; word(&head[..3]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        if (head[3], head[4]) == (PING, 0) {
            self.send(PING, ACK, 0, &payload);
        }
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: word(&head[5..]),
            payload,
        })
    }

    /// The next frame of one of these kinds.
    pub(super) fn next_of(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    /// The outcome of the request on stream 1.
    fn outcome(&mut self) -> Outcome {
        match self.next_of(&[HEADERS, RST_STREAM, GOAWAY]) {
            Some(frame) if frame.kind == HEADERS => Outcome::Answer(status(&frame.payload)),
            Some(frame) if frame.kind == RST_STREAM => {
                Outcome::Reset(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()))
            }
            _ => Outcome::Gone,
        }
    }
}

/// The status of a header block, as far as HPACK has it in its static table (RFC 7541, appendix A).
pub(super) fn status(block: &[u8]) -> u16 {
    const KNOWN: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let index = block[0].checked_sub(0x88).map(usize::from);
    let known = index.and_then(|index| KNOWN.get(index));
    *known.unwrap_or_else(|| panic!("another status: {block:02x?}"))
}

/// Header fields in HPACK, each a literal that is not indexed (RFC 7541, section 6.2.2).
pub(super) fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in list {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

pub(super) const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/"),
    (":authority", "a.test"),
];
const POST: [(&str, &str); 4] = [(":method", "POST"), GET[1], GET[2], GET[3]];

/// A request with these fields goes no further, with any answer to its client.
#[track_caller]
fn refused(list: &[(&str, &str)]) {
    let backend = Backend::new();
    let secure = Secure::new(&backend);
    let mut connection = secure.connect();
    connection.send(HEADERS, END_HEADERS | END_STREAM, 1, &fields(list));
    let outcome = connection.outcome();
    let is_refusal = match outcome {
        Outcome::Answer(status) => status == 400,
        Outcome::Reset(code) => code == PROTOCOL_ERROR,
        Outcome::Gone => true,
    };
    assert!(is_refusal, "{list:?}: {outcome:?}");
    backend.was_spared();
}

/// The request that a backend gets for these fields.
#[track_caller]
fn forwarded(list: &[(&str, &str)]) -> String {
    let backend = Backend::new();
    let secure = Secure::new(&backend);
    let mut connection = secure.connect();
    connection.send(HEADERS, END_HEADERS | END_STREAM, 1, &fields(list));
    let (mut behind, head) = backend.request();
    behind.send(OK);
    assert_eq!(connection.outcome(), Outcome::Answer(200), "{list:?}");
    head
}

#[test]
fn h2_8_2_2_fields_of_a_connection_are_refused() {
    for field in [
        ("connection", "close"),
        ("connection", "x-a"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, deflate"),
    ] {
        refused(&[&GET[..], &[field]].concat());
    }
    let head = forwarded(&[&GET[..], &[("te", "trailers")]].concat());
    assert_eq!(field(&head, "te"), Some("trailers"));
}

#[test]
fn h2_8_2_1_names_and_values_that_would_be_lines_of_http_1_are_refused() {
    for field in [
        ("x-a", "b\r\nx-evil: 1"),
        ("x-a", "b\nc"),
        ("x-a", "b\rc"),
        ("x-a", "b\0c"),
        ("x-a\r\nx-evil", "1"),
        ("x-a: b", "1"),
        ("x a", "1"),
        ("X-A", "1"),
        ("", "1"),
    ] {
        refused(&[&GET[..], &[field]].concat());
    }
}

#[test]
fn h2_8_3_pseudo_fields_are_there_once_and_first_and_no_others() {
    refused(&GET[1..]);
    refused(&[GET[0], GET[2], GET[3]]);
    refused(&[GET[0], GET[1], GET[3]]);
    refused(&[&GET[..], &GET[2..3]].concat());
    refused(&[&GET[..], &[(":status", "200")]].concat());
    refused(&[&GET[..], &[(":other", "x")]].concat());
    refused(&[&[("x-a", "b")], &GET[..]].concat());
    refused(&[GET[0], GET[1], (":path", "nowhere"), GET[3]]);
    refused(&[GET[0], GET[1], (":path", ""), GET[3]]);
}

#[test]
fn h2_8_3_1_the_authority_is_the_host_and_must_agree_with_it() {
    let head = forwarded(&GET);
    assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "host"), Some("a.test"));
    assert_eq!(field(&head, "x-forwarded-proto"), Some("https"));
    assert!(head.contains("\r\nvia: 2 lb-agent-"), "{head}");
    let head = forwarded(&[&GET[..], &[("host", "a.test")]].concat());
    assert_eq!(field(&head, "host"), Some("a.test"));
    let head = forwarded(&[&GET[..3], &[("host", "b.test")]].concat());
    assert_eq!(field(&head, "host"), Some("b.test"));
    refused(&[&GET[..], &[("host", "b.test")]].concat());
    refused(&[&GET[..3], &[("host", "a"), ("host", "a")]].concat());
    refused(&GET[..3]);
    for authority in ["", "a b", "a/b", "user@a.test", "a:b"] {
        refused(&[&GET[..3], &[(":authority", authority)]].concat());
    }
}

#[test]
fn h15_5_20_another_name_than_that_of_the_certificate_is_not_misdirected() {
    let head = forwarded(&[&GET[..3], &[(":authority", "other.test")]].concat());
    assert_eq!(field(&head, "host"), Some("other.test"));
}

#[test]
fn h2_8_2_3_cookies_in_pieces_arrive_whole() {
    let pieces = [("cookie", "a=1"), ("x-a", "b"), ("cookie", "c=2")];
    let head = forwarded(&[&GET[..], &pieces].concat());
    assert_eq!(field(&head, "cookie"), Some("a=1; c=2"));
}

#[test]
fn h2_8_1_1_a_body_of_another_length_than_it_says_never_ends_for_the_backend() {
    for (body, passed_on) in [("hi", "hi"), ("hello!", "")] {
        let backend = Backend::new();
        let secure = Secure::new(&backend);
        let mut connection = secure.connect();
        let list = [&POST[..], &[("content-length", "5")]].concat();
        connection.send(HEADERS, END_HEADERS, 1, &fields(&list));
        let (mut behind, head) = backend.request();
        assert_eq!(field(&head, "content-length"), Some("5"));
        connection.send(DATA, END_STREAM, 1, body.as_bytes());
        assert_eq!(connection.outcome(), Outcome::Reset(PROTOCOL_ERROR));
        let rest = behind.rest();
        assert!(passed_on.starts_with(&rest), "{body:?}: {rest:?}");
    }
    // One that is known to have none has none.
    refused(&[&POST[..], &[("content-length", "5")]].concat());
}

#[test]
fn h2_8_1_a_body_without_a_length_is_sent_on_in_chunks() {
    let backend = Backend::new();
    let secure = Secure::new(&backend);
    for method in ["POST", "GET"] {
        let mut connection = secure.connect();
        let list = [&[(":method", method)], &GET[1..]].concat();
        connection.send(HEADERS, END_HEADERS, 1, &fields(&list));
        let (mut behind, head) = backend.request();
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
        connection.send(DATA, END_STREAM, 1, b"hello");
        assert_eq!(behind.exactly(15), "5\r\nhello\r\n0\r\n\r\n");
        behind.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(connection.outcome(), Outcome::Answer(200));
    }
}

/// The stream of a request to a backend that has it, with both their connections.
fn asked() -> (Secure, Connection, Backend, Client) {
    let backend = Backend::new();
    let secure = Secure::new(&backend);
    let mut connection = secure.connect();
    connection.send(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&GET));
    let (behind, _) = backend.request();
    (secure, connection, backend, behind)
}

#[test]
fn m6_3_an_answer_that_is_cut_short_resets_its_stream_alone() {
    for head in ["Content-Length: 11", "Transfer-Encoding: chunked"] {
        let (_secure, mut connection, backend, mut behind) = asked();
        behind.send(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n"));
        assert_eq!(connection.outcome(), Outcome::Answer(200));
        drop(behind);
        let end = loop {
            let frame = connection.next_of(&[DATA, RST_STREAM]).unwrap();
            assert_eq!(frame.stream, 1);
            assert!(
                frame.kind != DATA || frame.flags & END_STREAM == 0,
                "{frame:?}"
            );
            if frame.kind == RST_STREAM {
                break frame;
            }
        };
        assert_ne!(
            end.payload, [0; 4],
            "a reset that says that something is wrong"
        );
        connection.send(HEADERS, END_HEADERS | END_STREAM, 3, &fields(&GET));
        backend.request().0.send(OK);
        assert_eq!(connection.outcome(), Outcome::Answer(200));
    }
}

#[test]
fn a_client_that_does_not_take_its_stream_is_cut_off_after_its_time() {
    let backend = Backend::new();
    let secure = Secure::with(&backend, "timeouts = { send = '300ms' }");
    let mut connection = secure.connect();
    connection.send(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&GET));
    let (mut behind, _) = backend.request();
    behind.send(&format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}",
        "x".repeat(200_000)
    ));
    // The window of a stream is 65,535 bytes (section 6.9.2), and nothing makes it larger.
    let begun = std::time::Instant::now();
    while connection.next().is_some() {}
    assert!(begun.elapsed() < Duration::from_secs(15), "not by a PING");
    assert_eq!(
        behind.rest(),
        "",
        "its backend is told by the end of its connection"
    );
}

#[test]
fn h6_5_trailers_of_an_answer_are_the_last_fields_of_its_stream() {
    let (_secure, mut connection, _backend, mut behind) = asked();
    behind.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    assert_eq!(connection.outcome(), Outcome::Answer(200));
    let data = connection.next_of(&[DATA]).unwrap();
    assert_eq!(
        (data.payload.as_slice(), data.flags & END_STREAM),
        (&b"ok"[..], 0)
    );
    let trailers = connection.next_of(&[HEADERS, DATA, RST_STREAM]).unwrap();
    assert_eq!(trailers.kind, HEADERS, "{trailers:?}");
    assert_eq!(trailers.flags & END_STREAM, END_STREAM);
}

#[test]
fn h2_6_8_at_the_end_a_client_is_told_and_what_is_under_way_answered() {
    let (mut secure, mut connection, _backend, mut behind) = asked();
    let stopped = secure
        .proxy
        .stop(Duration::from_secs(15), AcceptPolicy::Refused);
    assert_eq!(connection.next_of(&[GOAWAY, HEADERS]).unwrap().kind, GOAWAY);
    behind.send(OK);
    let answer = connection.next_of(&[HEADERS, RST_STREAM]).unwrap();
    assert_eq!((answer.kind, status(&answer.payload)), (HEADERS, 200));
    while connection.next().is_some() {}
    stopped.join().unwrap();
}

/// An extended CONNECT (RFC 8441, section 5.1).
const CHAT: [(&str, &str); 7] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":path", "/chat?x"),
    (":authority", "a.test"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-protocol", "chat"),
];
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                        Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";

#[test]
fn x3_x5_an_extended_connect_is_offered_and_becomes_an_upgrade_with_a_key_of_its_own() {
    let backend = Backend::new();
    let secure = Secure::new(&backend);
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut connection = secure.connect();
        let settings = connection.next_of(&[SETTINGS]).unwrap();
        let offered = settings
            .payload
            .chunks(6)
            .any(|one| one == [0, 8, 0, 0, 0, 1]);
        assert!(offered, "SETTINGS_ENABLE_CONNECT_PROTOCOL: {settings:?}");
        connection.send(HEADERS, END_HEADERS, 1, &fields(&CHAT));
        let (mut behind, head) = backend.request();
        assert!(head.starts_with("GET /chat?x HTTP/1.1\r\n"), "{head}");
        assert_eq!(field(&head, "upgrade"), Some("websocket"));
        assert_eq!(field(&head, "connection"), Some("upgrade"));
        assert_eq!(field(&head, "host"), Some("a.test"));
        assert_eq!(field(&head, "sec-websocket-version"), Some("13"));
        assert_eq!(field(&head, "sec-websocket-protocol"), Some("chat"));
        keys.push(field(&head, "sec-websocket-key").unwrap().to_owned());
        behind.send(&format!("{SWITCHED}prompt"));
        assert_eq!(connection.outcome(), Outcome::Answer(200));
        assert_eq!(connection.next_of(&[DATA]).unwrap().payload, b"prompt");
        connection.send(DATA, 0, 1, b"hello");
        assert_eq!(behind.exactly(5), "hello");
        // Each direction ends by itself.
        connection.send(DATA, END_STREAM, 1, b"bye");
        assert_eq!(behind.rest(), "bye");
        behind.send("last");
        behind.end();
        let mut last = Vec::new();
        loop {
            let frame = connection.next_of(&[DATA, RST_STREAM]).unwrap();
            assert_eq!(frame.kind, DATA, "{frame:?}");
            last.extend(frame.payload);
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
        assert_eq!(last, b"last");
    }
    assert_eq!(keys[0].len(), 24, "16 bytes in base64");
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn x5_a_tunnel_has_its_line_in_the_access_log_at_its_end() {
    let (log, backend) = (Log::new(), Backend::new());
    let secure = Secure::with(&backend, &log.settings());
    let mut connection = secure.connect();
    connection.send(HEADERS, END_HEADERS, 1, &fields(&CHAT));
    let (mut behind, _) = backend.request();
    behind.send(&format!("{SWITCHED}prompt"));
    assert_eq!(connection.outcome(), Outcome::Answer(200));
    assert_eq!(connection.next_of(&[DATA]).unwrap().payload, b"prompt");
    log.is_empty();
    connection.send(DATA, END_STREAM, 1, b"bye");
    assert_eq!(behind.rest(), "bye");
    behind.end();
    let lines = log.lines(1);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for (field, value) in [
        ("target", "/chat?x"),
        ("protocol", "HTTP/2.0"),
        ("host", "a.test"),
    ] {
        assert_eq!(lines[0][field], value, "{field} of {lines:?}");
    }
    assert_eq!(lines[0]["status"], 200, "{lines:?}");
    assert_eq!(lines[0]["bytes"], 6, "{lines:?}");
    let figures = figures(&secure.proxy, |figures| figures.tunnels_active == 0);
    assert_eq!(requests(&figures, "GET", "2xx"), 1);
    assert_eq!(figures.tunnels, 1);
    assert_eq!((figures.received, figures.sent), (3, 6));
}

#[test]
fn requests_and_handshakes_are_counted() {
    let backend = Backend::new();
    let secure = Secure::new(&backend);
    let mut connection = secure.connect();
    connection.send(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&GET));
    let (mut behind, _) = backend.request();
    behind.send(OK);
    assert_eq!(connection.outcome(), Outcome::Answer(200));
    let malformed = [&GET[..], &[("host", "b.test")]].concat();
    connection.send(HEADERS, END_HEADERS | END_STREAM, 3, &fields(&malformed));
    assert_eq!(connection.outcome(), Outcome::Answer(400));
    let is_there = |figures: &ServiceFigures| {
        requests(figures, "GET", "2xx") == 1 && requests(figures, "GET", "4xx") == 1
    };
    assert_eq!(figures(&secure.proxy, is_there).handshakes[..3], [1, 0, 0]);
    // The ticket of the first connection.
    drop(secure.connect().next());
    figures(&secure.proxy, |figures| {
        figures.handshakes[..3] == [1, 1, 0]
    });
    let mut plain = TcpStream::connect(secure.address).unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    figures(&secure.proxy, |figures| {
        figures.handshakes[..3] == [1, 1, 1]
    });
}
