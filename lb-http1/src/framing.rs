//! How long a body is: the one place that decides it (RFC 9112, section 6.3).

use http::{Method, StatusCode, Version};

use crate::fields::{Fields, line_to};
use crate::list;
use crate::name::Name;

/// Why it cannot be said how long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FramingError {
    /// The framing fields of the message are not well-formed.
    Malformed(&'static str),
    /// It has a transfer coding beside `chunked`.
    Coding,
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks, the last of which is empty.
    Chunked,
    /// Until the connection ends.
    UntilClose,
}

impl Framing {
    /// Whether no byte of a body is to come.
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }

    /// Writes the line that frames a body, and ends the header section.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::None | Self::UntilClose => {}
            Self::Length(length) => {
                let mut digits = itoa::Buffer::new();
                line_to(out, b"content-length", digits.format(length).as_bytes());
            }
            Self::Chunked => line_to(out, b"transfer-encoding", b"chunked"),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The body of a request: `chunked` alone, or a length, or nothing.
pub(crate) fn of_request(version: Version, fields: &Fields) -> Result<Framing, FramingError> {
    let malformed = |what| Err(FramingError::Malformed(what));
    if fields.has(Name::TransferEncoding) {
        let coding = fields.only(Name::TransferEncoding);
        if version != Version::HTTP_11 {
            return malformed("Transfer-Encoding in HTTP/1.0");
        }
        if fields.has(Name::ContentLength) {
            return malformed("Content-Length beside Transfer-Encoding");
        }
        let last = list::members(fields.all(Name::TransferEncoding)).last();
        return match coding {
            Some(coding) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            _ if !last.is_some_and(|last| last.eq_ignore_ascii_case(b"chunked")) => {
                malformed("the last transfer coding is not chunked")
            }
            _ => Err(FramingError::Coding),
        };
    }
    match length(fields.all(Name::ContentLength)) {
        Ok(None) => Ok(Framing::None),
        Ok(Some(length)) => Ok(Framing::Length(length)),
        Err(()) => malformed("Content-Length"),
    }
}

/// The body of an answer with this status and version to a request with `method`.
pub(crate) fn of_response(
    method: &Method,
    (status, version): (StatusCode, Version),
    fields: &Fields,
) -> Result<Framing, FramingError> {
    let length = length(fields.all(Name::ContentLength));
    let malformed = |()| FramingError::Malformed("an answer has a malformed Content-Length");
    let length = length.map_err(malformed)?;
    if !may_have_body(method, status) {
        return Ok(Framing::None);
    }
    if fields.has(Name::TransferEncoding) {
        let mut codings = list::members(fields.all(Name::TransferEncoding));
        let (first, second) = (codings.next(), codings.next());
        let is_chunked = first.is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
        return match is_chunked && second.is_none() && version == Version::HTTP_11 {
            true => Ok(Framing::Chunked),
            false => Err(FramingError::Coding),
        };
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

/// Whether an answer with `status` to `method` has a body (RFC 9110, section 6.4.1).
pub fn may_have_body(method: &Method, status: StatusCode) -> bool {
    !(method == Method::HEAD || status.is_informational() || matches!(status.as_u16(), 204 | 304))
}

/// The common value of all Content-Length lines: one number, perhaps again and again (RFC 9110, section 8.6).
fn length<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Option<u64>, ()> {
    let mut length = None;
    for line in lines {
        for part in line.split(|byte| *byte == b',') {
            let number = list::number(part.trim_ascii()).ok_or(())?;
            if length.is_some_and(|length| length != number) {
                return Err(());
            }
            length = Some(number);
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Limits, Refusal, RequestHead};
    use crate::response::{Malformed, ResponseHead};

    fn request(version: &str, lines: &str) -> Result<Framing, Refusal> {
        let limits = Limits {
            bytes: 1000,
            lines: 10,
            target: 100,
        };
        let text = format!("POST / {version}\r\nHost: a\r\n{lines}\r\n");
        let (mut head, _) = RequestHead::parse(text.as_bytes(), limits)?.unwrap();
        head.check()
    }

    fn response(method: &Method, line: &str, lines: &str) -> Result<Framing, Malformed> {
        let text = format!("{line}\r\n{lines}\r\n");
        let (head, _) = ResponseHead::parse(text.as_bytes(), 1000, 10)?.unwrap();
        head.framing(method)
    }

    #[test]
    fn m6_framing_is_written_once() {
        let framed = |framing: Framing| {
            let mut out = Vec::new();
            framing.write(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(framed(Framing::None), "\r\n");
        assert_eq!(framed(Framing::Length(7)), "content-length: 7\r\n\r\n");
        assert_eq!(
            framed(Framing::Chunked),
            "transfer-encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn m6_3_a_request_has_one_length_or_chunks_or_nothing() {
        let of = |lines| request("HTTP/1.1", lines);
        assert_eq!(of(""), Ok(Framing::None));
        assert_eq!(of("Content-Length: 0\r\n"), Ok(Framing::Length(0)));
        assert_eq!(
            of("Content-Length: 2\r\ncontent-length: 2\r\n"),
            Ok(Framing::Length(2))
        );
        assert_eq!(of("Content-Length: 2, 2\r\n"), Ok(Framing::Length(2)));
        assert_eq!(of("transfer-encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for lines in [
            "Content-Length: 2, 3\r\n",
            "Content-Length: +2\r\n",
            "Content-Length:\r\n",
            "Content-Length: 2,\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "Transfer-Encoding:\r\n",
        ] {
            assert!(matches!(of(lines), Err(Refusal::Malformed(_))), "{lines}");
        }
        for lines in [
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert_eq!(of(lines), Err(Refusal::Coding), "{lines}");
        }
        let old = request("HTTP/1.0", "Transfer-Encoding: chunked\r\n");
        assert!(matches!(old, Err(Refusal::Malformed(_))));
    }

    #[test]
    fn m6_3_an_answer_is_as_long_as_its_status_method_and_lines_say() {
        let of = |lines| response(&Method::GET, "HTTP/1.1 200 OK", lines);
        assert_eq!(of(""), Ok(Framing::UntilClose));
        assert_eq!(of("Content-Length: 2, 2\r\n"), Ok(Framing::Length(2)));
        assert_eq!(of("Transfer-Encoding: chunked\r\n"), Ok(Framing::Chunked));
        let both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n";
        assert_eq!(of(both), Ok(Framing::Chunked));
        for lines in [
            "Content-Length: 2\r\nContent-Length: 3\r\n",
            "Content-Length: x\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
        ] {
            assert!(of(lines).is_err(), "{lines}");
        }
        let without = |method, line| response(method, line, "Content-Length: 5\r\n");
        assert_eq!(without(&Method::HEAD, "HTTP/1.1 200 OK"), Ok(Framing::None));
        for line in ["HTTP/1.1 204 x", "HTTP/1.1 304 x", "HTTP/1.1 103 x"] {
            assert_eq!(without(&Method::GET, line), Ok(Framing::None), "{line}");
        }
        let old = response(
            &Method::GET,
            "HTTP/1.0 200 OK",
            "Transfer-Encoding: chunked\r\n",
        );
        assert!(old.is_err());
    }
}
