//! Which requests are plain, and what their backend is told.
//!
//! A plain one is a GET or HEAD without a body and without anything in its head that somebody on
//! the way would have to act on. Whatever is unusual, wrong or rare is not plain: what becomes of
//! it is decided elsewhere. So this may refuse too much, and must never take too much.

use std::mem::MaybeUninit;

use super::super::access_log::Said;
use super::super::checks;
use crate::config::http::Limits;

/// Most header lines of a plain request.
pub(super) const MOST_LINES: usize = 64;

/// What the beginning of a connection's bytes is.
#[derive(Debug)]
pub(super) enum Parsed<'a> {
    /// The head has not come to its end.
    Partial,
    /// A plain request; its head as its backend gets it has been written, but for its end.
    Plain(Plain<'a>),
    /// Not plain.
    Other,
}

/// A plain request.
#[derive(Debug)]
pub(super) struct Plain<'a> {
    /// Bytes of its head.
    pub(super) length: usize,
    /// It is a HEAD.
    pub(super) is_head: bool,
    /// The client wants the connection closed.
    pub(super) closes: bool,
    /// There is an `If-None-Match`.
    pub(super) is_conditional: bool,
    pub(super) path: &'a str,
    pub(super) host: &'a str,
    /// For the access log.
    pub(super) said: Said<'a>,
}

/// What requests are held to.
#[derive(Clone, Copy)]
pub(super) struct HeldTo<'a> {
    pub(super) limits: &'a Limits,
    /// Header names with underscores are passed on.
    pub(super) underscores: bool,
    /// A query may say whom the request belongs to.
    pub(super) reads_query: bool,
}

/// Reads the head at the beginning of `bytes`, and writes it to `out` without what is for this hop
/// only and without the empty line at its end.
pub(super) fn parse<'a>(bytes: &'a [u8], held_to: HeldTo<'_>, out: &mut Vec<u8>) -> Parsed<'a> {
    let mut lines = [const { MaybeUninit::uninit() }; MOST_LINES];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut lines) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < held_to.limits.header_bytes => {
            return Parsed::Partial;
        }
        Ok(httparse::Status::Partial) | Err(_) => return Parsed::Other,
    };
    match plain(&request, length, held_to, out) {
        Some(plain) => Parsed::Plain(plain),
        None => Parsed::Other,
    }
}

fn plain<'a>(
    request: &httparse::Request<'_, 'a>,
    length: usize,
    held_to: HeldTo<'_>,
    out: &mut Vec<u8>,
) -> Option<Plain<'a>> {
    let (method, target) = (request.method?, request.path?);
    let is_head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return None,
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let limits = held_to.limits;
    let fits = length <= limits.header_bytes
        && target.len() <= limits.target
        && request.headers.len() <= limits.headers;
    let is_asked = query.is_some() && held_to.reads_query;
    if request.version != Some(1) || !fits || is_asked || !is_origin_form(target) {
        return None;
    }
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut plain = Plain {
        length,
        is_head,
        closes: false,
        is_conditional: false,
        path,
        host: "",
        said: Said {
            method: method.as_bytes(),
            target: target.as_bytes(),
            ..Said::default()
        },
    };
    for line in request.headers.iter() {
        let (name, value) = (line.name.as_bytes(), line.value);
        if plain.take(name, value, held_to)? {
            line_to(out, name, value);
        }
    }
    plain.host = std::str::from_utf8(plain.said.host?).ok()?;
    Some(plain)
}

impl<'a> Plain<'a> {
    /// Looks at a header line: whether it is passed on, or `None` if the request is not plain.
    fn take(&mut self, name: &'a [u8], value: &'a [u8], held_to: HeldTo<'_>) -> Option<bool> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let said = &mut self.said;
        match name.len() {
            2 if is("te") => return None,
            3 if is("via") => return None,
            4 if is("host") => {
                if said.host.is_some() || !checks::is_host(value) {
                    return None;
                }
                said.host = Some(value);
            }
            6 if is("expect") => return None,
            7 if is("upgrade") || is("trailer") => return None,
            7 if is("referer") => said.referer = said.referer.or(Some(value)),
            9 if is("forwarded") || is("x-real-ip") => return None,
            10 if is("keep-alive") => return None,
            10 if is("connection") => {
                self.closes |= closes(value)?;
                return Some(false);
            }
            10 if is("user-agent") => said.user_agent = said.user_agent.or(Some(value)),
            12 if is("x-request-id") => return None,
            13 if is("authorization") => said.authorization = said.authorization.or(Some(value)),
            13 if is("if-none-match") => self.is_conditional = true,
            14 if is("content-length") || is("http2-settings") => return None,
            // Who takes no answer as it is has to be told so.
            15 if is("accept-encoding") && names_identity(value) => return None,
            16 if is("proxy-connection") => return None,
            17 if is("transfer-encoding") => return None,
            _ => {}
        }
        let claims = name.len() > 11 && name[..11].eq_ignore_ascii_case(b"x-forwarded");
        let hides = !held_to.underscores && name.contains(&b'_');
        (!claims && !hides).then_some(true)
    }
}

/// Whether a `Connection` header closes; `None` if it says anything unusual.
pub(super) fn closes(value: &[u8]) -> Option<bool> {
    if value.eq_ignore_ascii_case(b"close") {
        return Some(true);
    }
    value.eq_ignore_ascii_case(b"keep-alive").then_some(false)
}

/// Whether `Accept-Encoding` says something of answers as they are (RFC 9110, section 12.5.3).
fn names_identity(value: &[u8]) -> bool {
    let named = |word: &[u8]| word.eq_ignore_ascii_case(b"identity");
    value.contains(&b'*') || value.windows(8).any(named)
}

/// Adds a header line.
pub(super) fn line_to(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whether a target is a path and a query of nothing but characters that RFC 3986 has for them
/// (RFC 9112, section 3.2.1).
fn is_origin_form(target: &str) -> bool {
    target.starts_with('/') && target.bytes().all(|byte| IN_TARGET[usize::from(byte)])
}

const IN_TARGET: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=:@/?%";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, limits: &Limits) -> Option<(usize, String)> {
        let held_to = HeldTo {
            limits,
            underscores: false,
            reads_query: true,
        };
        let mut out = Vec::new();
        match parse(text.as_bytes(), held_to, &mut out) {
            Parsed::Plain(plain) => Some((plain.length, String::from_utf8(out).unwrap())),
            Parsed::Partial | Parsed::Other => None,
        }
    }

    fn is_plain(line: &str) -> bool {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
        read(&text, &Limits::default()).is_some()
    }

    #[test]
    fn m9_3_a_plain_request_is_written_as_it_came_without_what_is_for_one_hop() {
        let text =
            "GET /a?b HTTP/1.1\r\nhost: a:80\r\nX-A:  1 \r\nConnection: close\r\nx-a: 2\r\n\r\n";
        let next = format!("{text}GET / HTTP/1.1\r\n");
        let (length, written) = read(&next.replace("/a?b", "/a"), &Limits::default()).unwrap();
        assert_eq!(length, text.len() - 2);
        let wanted = "GET /a HTTP/1.1\r\nhost: a:80\r\nX-A: 1\r\nx-a: 2\r\n";
        assert_eq!(written, wanted);
        assert!(read(text, &Limits::default()).is_none(), "a query is read");
    }

    #[test]
    fn m6_1_whatever_has_to_be_acted_on_is_not_plain() {
        for line in [
            "Content-Length: 0",
            "Content-Length: 5",
            "content-LENGTH: 0",
            "Transfer-Encoding: chunked",
            "transfer-encoding: identity",
            "TE: trailers",
            "Trailer: x",
            "Upgrade: websocket",
            "HTTP2-Settings: x",
            "Expect: 100-continue",
            "Connection: upgrade",
            "Connection: close, x-a",
            "Connection:",
            "Keep-Alive: 5",
            "Proxy-Connection: close",
            "Via: 1.1 x",
            "Forwarded: for=a",
            "X-Forwarded-For: a",
            "x-forwarded-proto: https",
            "X-Forwarded_For: a",
            "X-Real-IP: a",
            "X-Request-ID: a",
            "X_Real_IP: a",
            "Accept-Encoding: *;q=0",
            "Accept-Encoding: gzip, Identity;q=0",
            "Host: b",
            " folded",
            "X-A : 1",
            "X A: 1",
            "no colon",
            "X-A: \u{1}",
        ] {
            assert!(!is_plain(line), "{line}");
        }
        for line in [
            "Connection: Keep-Alive",
            "Accept-Encoding: gzip, br;q=0.5",
            "Content-Type: a",
            "X-Forward: a",
        ] {
            assert!(is_plain(line), "{line}");
        }
    }

    #[test]
    fn m3_only_targets_and_methods_that_mean_one_thing_are_plain() {
        for line in [
            "POST / HTTP/1.1",
            "get / HTTP/1.1",
            "CONNECT a:1 HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET a HTTP/1.1",
            "GET http://a/ HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET /a|b HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
            "GET / HTTP/1.0",
            "GET / HTTP/2.0",
            "GET /",
        ] {
            let text = format!("{line}\r\nHost: a\r\n\r\n");
            assert!(read(&text, &Limits::default()).is_none(), "{line}");
        }
        assert!(read("GET / HTTP/1.1\r\n\r\n", &Limits::default()).is_none());
        assert!(read("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", &Limits::default()).is_none());
    }

    #[test]
    fn h5_4_what_goes_beyond_a_limit_is_not_plain() {
        let text = "GET /abc HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n";
        let usual = Limits::default();
        assert!(read(text, &usual).is_some());
        for limits in [
            Limits {
                target: 3,
                ..usual.clone()
            },
            Limits {
                headers: 1,
                ..usual.clone()
            },
            Limits {
                header_bytes: text.len() - 1,
                ..usual.clone()
            },
        ] {
            assert!(read(text, &limits).is_none(), "{limits:?}");
        }
        let many = "X-A: 1\r\n".repeat(MOST_LINES);
        assert!(read(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), &usual).is_none());
    }

    #[test]
    fn a_head_that_is_cut_off_is_waited_for_up_to_its_limit() {
        let text = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
        let limits = Limits {
            header_bytes: 100,
            ..Limits::default()
        };
        let held_to = HeldTo {
            limits: &limits,
            underscores: false,
            reads_query: false,
        };
        for length in 1..text.len() {
            let parsed = parse(&text.as_bytes()[..length], held_to, &mut Vec::new());
            assert!(matches!(parsed, Parsed::Partial), "{length}: {parsed:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(100));
        let parsed = parse(long.as_bytes(), held_to, &mut Vec::new());
        assert!(matches!(parsed, Parsed::Other));
    }
}
