//! The head of an answer.

use http::{Method, StatusCode, Version};

use crate::fields::{Fields, FieldsError, Span, section_end, start};
use crate::framing::{self, Framing, FramingError};
use crate::list;
use crate::name::Name;

/// The head of an answer, interim ones included.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// HTTP/1.0 or HTTP/1.1, as the backend spoke it.
    pub version: Version,
    /// The header section.
    pub fields: Fields,
    reason: Span,
}

/// The bytes are no HTTP/1 response, or one that another parser may read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

impl ResponseHead {
    /// A head of the gateway's own.
    pub fn new(status: StatusCode) -> Self {
        let mut fields = Fields::new();
        let reason = fields.add_text(status.canonical_reason().unwrap_or_default().as_bytes());
        Self {
            status,
            version: Version::HTTP_11,
            fields,
            reason,
        }
    }

    /// A copy that takes no more memory than it needs, to be kept.
    pub fn packed(&self) -> Self {
        Self {
            status: self.status,
            version: self.version,
            fields: self.fields.packed(),
            reason: self.reason,
        }
    }

    /// Reads the head at the beginning of `bytes`, which may have `most_bytes` and `most_lines`, and
    /// how many bytes of them it is; `None` if more are needed.
    pub fn parse(
        bytes: &[u8],
        most_bytes: usize,
        most_lines: usize,
    ) -> Result<Option<(Self, usize)>, Malformed> {
        let begin = start(bytes);
        let text = &bytes[begin..];
        let Some(line_end) = memchr::memchr(b'\n', text) else {
            let begins = b"HTTP/1.".iter().zip(text).all(|(a, b)| a == b);
            return match bytes.len() > most_bytes || !begins {
                true => Err(Malformed("an answer has a malformed status line")),
                false => Ok(None),
            };
        };
        let (version, status, reason) = status_line(&text[..line_end])?;
        let section = &text[line_end + 1..];
        let Some(length) = section_end(section) else {
            return match bytes.len() > most_bytes {
                true => Err(Malformed(
                    "an answer has a larger header section than is read",
                )),
                false => Ok(None),
            };
        };
        let mut fields = Fields::new();
        let reason = fields.add_text(reason);
        let read = fields.read(&section[..length], most_lines);
        read.map_err(|error| match error {
            FieldsError::Malformed => Malformed("an answer has a malformed header line"),
            FieldsError::TooMany => {
                Malformed("an answer has more header lines than limits.response_headers allows")
            }
        })?;
        let head = Self {
            status,
            version,
            fields,
            reason,
        };
        Ok(Some((head, begin + line_end + 1 + length)))
    }

    /// How long the body of this answer to a request with `method` is (RFC 9112, section 6.3).
    pub fn framing(&self, method: &Method) -> Result<Framing, Malformed> {
        let line = (self.status, self.version);
        framing::of_response(method, line, &self.fields).map_err(|error| match error {
            FramingError::Malformed(what) => Malformed(what),
            // Other codings would have to be undone: they are for this hop.
            FramingError::Coding => Malformed("an answer has a transfer coding beside chunked"),
        })
    }

    /// Whether another final answer follows.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// Whether the connection can carry another request, as far as the head says (RFC 9112, section
    /// 9.3).
    pub fn stays(&self) -> bool {
        let connection = || self.fields.all(Name::Connection);
        match self.version {
            Version::HTTP_10 => false,
            _ => !self.fields.has(Name::Connection) || !list::has(connection(), "close"),
        }
    }

    /// For how many seconds the connection may be idle, if `Keep-Alive` says so.
    pub fn idle_seconds(&self) -> Option<u64> {
        let parameters = list::members(self.fields.all(Name::KeepAlive));
        parameters.into_iter().find_map(|parameter| {
            let at = memchr::memchr(b'=', parameter)?;
            let (name, seconds) = (
                parameter[..at].trim_ascii(),
                parameter[at + 1..].trim_ascii(),
            );
            let is_timeout = name.eq_ignore_ascii_case(b"timeout");
            is_timeout.then(|| list::number(seconds)).flatten()
        })
    }

    /// Sets the status, with its usual reason.
    pub fn set_status(&mut self, status: StatusCode) {
        self.status = status;
        let reason = status.canonical_reason().unwrap_or_default();
        self.reason = self.fields.add_text(reason.as_bytes());
    }

    /// Writes the status line and the header lines; the framing of the body ends the section.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.reason.of(self.fields.text()));
        out.extend_from_slice(b"\r\n");
        self.fields.write(out);
    }
}

fn status_line(line: &[u8]) -> Result<(Version, StatusCode, &[u8]), Malformed> {
    let malformed = Malformed("an answer has a malformed status line");
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (version, rest) = line.split_at_checked(8).ok_or(malformed)?;
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ => return Err(malformed),
    };
    let (code, reason) = match rest {
        [b' ', a, b, c] => ([*a, *b, *c], &[][..]),
        [b' ', a, b, c, b' ', reason @ ..] => ([*a, *b, *c], reason),
        _ => return Err(malformed),
    };
    let status = StatusCode::from_bytes(&code).map_err(|_| malformed)?;
    let is_bad = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    if reason.iter().any(is_bad) {
        return Err(malformed);
    }
    Ok((version, status, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<ResponseHead, Malformed> {
        let (head, length) = ResponseHead::parse(text.as_bytes(), 1000, 10)?.expect("all of it");
        assert_eq!(length, text.len());
        Ok(head)
    }

    fn written(head: &ResponseHead) -> String {
        let mut out = Vec::new();
        head.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn m4_a_head_is_written_as_it_came() {
        for text in [
            "HTTP/1.1 200 Fine by me\r\nDate: x\r\n\r\n",
            "HTTP/1.1 799 \r\nX-A: 1\r\n\r\n",
        ] {
            assert_eq!(written(&read(text).unwrap()) + "\r\n", text);
        }
        let bare = read("HTTP/1.1 404\nX-A: 1\n\n").unwrap();
        assert_eq!(written(&bare), "HTTP/1.1 404 \r\nX-A: 1\r\n");
    }

    #[test]
    fn m4_status_lines_that_are_none_are_malformed() {
        for line in [
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000",
            "HTTP/1.1 099 x",
            "HTTP/1.1  200 OK",
            "HTTP/2.0 200 OK",
            "HTTP/1.2 200 OK",
            "HTTP/1.1 200 O\0K",
            "SSH-2.0",
            "HTTP/1.1",
        ] {
            assert!(read(&format!("{line}\r\n\r\n")).is_err(), "{line}");
        }
        assert!(ResponseHead::parse(b"SSH-2.0", 1000, 10).is_err());
        assert!(ResponseHead::parse(&[b'x'; 1001], 1000, 10).is_err());
    }

    #[test]
    fn m9_3_a_connection_stays_unless_it_is_said_or_old() {
        let stays = |text: &str| read(text).unwrap().stays();
        assert!(stays("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n"));
        assert!(stays("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(!stays("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n"));
        assert!(!stays("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn keep_alive_says_for_how_long() {
        let seconds = |value| {
            let text = format!("HTTP/1.1 200 OK\r\nKeep-Alive: {value}\r\n\r\n");
            read(&text).unwrap().idle_seconds()
        };
        assert_eq!(seconds("timeout=5"), Some(5));
        assert_eq!(seconds("max=3, Timeout = 72"), Some(72));
        assert_eq!(seconds("timeout=x"), None);
    }

    proptest! {
        #[test]
        fn no_cut_changes_a_head(cut in 0usize..50) {
            let text = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\n";
            let cut = cut.min(text.len() - 1);
            prop_assert!(ResponseHead::parse(&text.as_bytes()[..cut], 1000, 10).unwrap().is_none());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = ResponseHead::parse(&bytes, 1000, 10);
        }
    }
}
