//! Which answers are plain, and what the client gets of them.
//!
//! A plain one says how long it is and has nothing in its head that has to be acted on: no coding,
//! no upgrade, nothing that a compressor would change.

use std::mem::MaybeUninit;

use super::super::compress::Compressor;
use super::super::headers::seconds_in;
use super::request::{MOST_LINES, closes, line_to};

/// Longest head of a plain answer, bytes.
const LONGEST: usize = 32 * 1024;

/// What the beginning of an answer is.
#[derive(Debug)]
pub(super) enum Parsed {
    /// The head has not come to its end.
    Partial,
    /// A plain answer; its head as the client gets it has been written, but for its end.
    Plain(Plain),
    /// Not plain.
    Other,
}

/// A plain answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    /// Bytes of its head.
    pub(super) length: usize,
    pub(super) status: u16,
    /// Bytes of its body.
    pub(super) body: u64,
    /// The connection carries another request after it.
    pub(super) stays: bool,
    /// For how many seconds it may be idle before, if that was said.
    pub(super) idle_s: Option<u64>,
}

/// What is known of the request.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) is_head: bool,
    /// It had an `If-None-Match`.
    pub(super) is_conditional: bool,
    pub(super) compressor: Option<&'a Compressor>,
}

/// Reads the head at the beginning of `bytes`, and writes it to `out` without what is for this hop
/// only and without the empty line at its end.
pub(super) fn parse(bytes: &[u8], known: Known<'_>, out: &mut Vec<u8>) -> Parsed {
    let mut lines = [const { MaybeUninit::uninit() }; MOST_LINES];
    let mut answer = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut answer, bytes, &mut lines) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return Parsed::Partial,
        Ok(httparse::Status::Partial) | Err(_) => return Parsed::Other,
    };
    match plain(&answer, length, known, out) {
        Some(plain) => Parsed::Plain(plain),
        None => Parsed::Other,
    }
}

/// What the lines of a head say.
#[derive(Default)]
struct Lines<'a> {
    length: Option<u64>,
    content_type: Option<&'a [u8]>,
    is_dated: bool,
    closes: bool,
    idle_s: Option<u64>,
}

fn plain(
    answer: &httparse::Response<'_, '_>,
    length: usize,
    known: Known<'_>,
    out: &mut Vec<u8>,
) -> Option<Plain> {
    let status = answer.code?;
    let is_odd = status < 200 || (status == 304 && known.is_conditional);
    if answer.version != Some(1) || is_odd {
        return None;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    for part in [" ", answer.reason.unwrap_or_default(), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut lines = Lines::default();
    for line in answer.headers.iter() {
        let (name, value) = (line.name.as_bytes(), line.value);
        if lines.take(name, value)? {
            line_to(out, name, value);
        }
    }
    let without_body = matches!(status, 204 | 304) || known.is_head;
    let has_length = lines.length.is_some();
    let is_told_a_length = matches!(status, 204 | 304) && has_length;
    if !lines.is_dated || is_told_a_length || !(has_length || without_body) {
        return None;
    }
    let is_changed = |compressor: &Compressor| {
        let kind = lines.content_type.unwrap_or_default();
        compressor.fits(std::str::from_utf8(kind).ok(), lines.length)
    };
    if known.compressor.is_some_and(is_changed) {
        return None;
    }
    Some(Plain {
        length,
        status,
        body: lines.length.filter(|_| !without_body).unwrap_or(0),
        stays: !lines.closes,
        idle_s: lines.idle_s,
    })
}

impl<'a> Lines<'a> {
    /// Looks at a line: whether it is passed on, or `None` if the answer is not plain.
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Option<bool> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match name.len() {
            2 if is("te") => return None,
            4 if is("date") => self.is_dated = true,
            7 if is("upgrade") || is("trailer") => return None,
            10 if is("connection") => {
                self.closes |= closes(value)?;
                return Some(false);
            }
            10 if is("keep-alive") => {
                self.idle_s = seconds_in(std::str::from_utf8(value).ok()?);
                return Some(false);
            }
            12 if is("content-type") => self.content_type = self.content_type.or(Some(value)),
            14 if is("content-length") => {
                if self.length.is_some() {
                    return None;
                }
                self.length = Some(number(value)?);
            }
            16 if is("proxy-connection") => return None,
            17 if is("transfer-encoding") => return None,
            _ => {}
        }
        Some(true)
    }
}

/// Digits and nothing else (RFC 9110, section 8.6).
fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_number)?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::http::Compression;

    const KNOWN: Known<'_> = Known {
        is_head: false,
        is_conditional: false,
        compressor: None,
    };

    fn read(text: &str, known: Known<'_>) -> Option<(Plain, String)> {
        let mut out = Vec::new();
        match parse(text.as_bytes(), known, &mut out) {
            Parsed::Plain(plain) => Some((plain, String::from_utf8(out).unwrap())),
            Parsed::Partial | Parsed::Other => None,
        }
    }

    fn with(line: &str) -> Option<(Plain, String)> {
        let text =
            format!("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n{line}\r\n\r\nhello");
        read(&text, KNOWN)
    }

    #[test]
    fn h7_6_1_what_is_for_one_hop_goes_and_is_heeded() {
        let (plain, written) =
            with("Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nX-A: 1").unwrap();
        assert_eq!(
            written,
            "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\nX-A: 1\r\n"
        );
        assert_eq!((plain.body, plain.stays, plain.idle_s), (5, true, Some(5)));
        let (plain, _) = with("Connection: close").unwrap();
        assert!(!plain.stays);
    }

    #[test]
    fn m6_3_only_a_body_of_known_length_is_plain() {
        for line in [
            "Content-Length: 5",
            "Content-Length: 6",
            "Transfer-Encoding: chunked",
            "Trailer: x",
            "Upgrade: h2c",
            "TE: x",
            "Connection: upgrade",
            "Connection: x-a",
            "Proxy-Connection: close",
            " folded",
            "X-A : 1",
        ] {
            assert_eq!(with(line), None, "{line}");
        }
        for length in ["", "+5", "5, 5", "5a", "-1", "99999999999999999999"] {
            let text = format!("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: {length}\r\n\r\n");
            assert_eq!(read(&text, KNOWN), None, "{length}");
        }
        assert_eq!(read("HTTP/1.1 200 OK\r\nDate: x\r\n\r\n", KNOWN), None);
        assert_eq!(
            read("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", KNOWN),
            None,
            "no date"
        );
        assert_eq!(
            read(
                "HTTP/1.0 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
                KNOWN
            ),
            None
        );
    }

    #[test]
    fn h15_answers_without_a_body_have_none() {
        let body = |text: &str, known| read(text, known).map(|(plain, _)| plain.body);
        let head = Known {
            is_head: true,
            ..KNOWN
        };
        let long = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(body(long, head), Some(0));
        assert_eq!(body("HTTP/1.1 204 x\r\nDate: x\r\n\r\n", KNOWN), Some(0));
        let unchanged = "HTTP/1.1 304 x\r\nDate: x\r\n\r\n";
        assert_eq!(body(unchanged, KNOWN), Some(0));
        let conditional = Known {
            is_conditional: true,
            ..KNOWN
        };
        assert_eq!(
            body(unchanged, conditional),
            None,
            "its ETag may have to be weakened"
        );
        for status in ["100 Continue", "101 x", "103 x", "204 x", "304 x"] {
            let text = format!("HTTP/1.1 {status}\r\nDate: x\r\nContent-Length: 5\r\n\r\n");
            assert_eq!(body(&text, KNOWN), None, "{status}");
        }
    }

    #[test]
    fn what_a_compressor_would_change_is_not_plain() {
        let compressor = Compressor::new(&Compression::default()).unwrap();
        let known = Known {
            compressor: Some(&compressor),
            ..KNOWN
        };
        let is_plain = |kind: &str, length: u32| {
            let text = format!(
                "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
            );
            read(&text, known).is_some()
        };
        assert!(!is_plain("text/html; charset=utf-8", 100_000));
        assert!(is_plain("text/html", 10));
        assert!(is_plain("image/png", 100_000));
    }

    #[test]
    fn a_head_that_is_cut_off_is_waited_for() {
        let text = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\n";
        for length in 1..text.len() {
            let parsed = parse(&text.as_bytes()[..length], KNOWN, &mut Vec::new());
            assert!(matches!(parsed, Parsed::Partial), "{length}: {parsed:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX-A: {}", "a".repeat(LONGEST));
        let parsed = parse(endless.as_bytes(), KNOWN, &mut Vec::new());
        assert!(matches!(parsed, Parsed::Other));
    }
}
