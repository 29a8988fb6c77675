//! The head of a request.

use http::{Method, StatusCode, Version};

use crate::fields::{Fields, FieldsError, Span, section_end, start};
use crate::framing::{Framing, FramingError};
use crate::name::{Name, is_token_byte};
use crate::{framing, host, list};

/// The head of a request.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// HTTP/1.0, HTTP/1.1 or HTTP/2, as the client spoke it.
    pub version: Version,
    /// The header section.
    pub fields: Fields,
    target: Span,
    /// The target that is written, if it is another one.
    rewritten: Option<Span>,
}

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes in all.
    pub bytes: usize,
    /// Header lines.
    pub lines: usize,
    /// Bytes of the target.
    pub target: usize,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no HTTP, or may be taken for another request by another parser.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// Another version than HTTP/1.0 and HTTP/1.1.
    #[error("the version of HTTP is not supported")]
    Version,
    /// The head is too large.
    #[error("the header section is larger than allowed")]
    TooLarge,
    /// The target is too long.
    #[error("the target is longer than allowed")]
    TargetTooLong,
    /// CONNECT or TRACE.
    #[error("the method is not allowed")]
    Method,
    /// A transfer coding beside `chunked`.
    #[error("the transfer coding is not supported")]
    Coding,
    /// Another expectation than `100-continue`.
    #[error("the expectation cannot be met")]
    Expectation,
}

impl Refusal {
    /// The status to refuse it with.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
        }
    }

    /// Whether the end of the request is unknown: bytes behind it must not be read.
    pub const fn is_unsound(self) -> bool {
        !matches!(self, Self::Method | Self::Expectation)
    }
}

impl From<FramingError> for Refusal {
    fn from(error: FramingError) -> Self {
        match error {
            FramingError::Malformed(what) => Self::Malformed(what),
            FramingError::Coding => Self::Coding,
        }
    }
}

impl From<FieldsError> for Refusal {
    fn from(error: FieldsError) -> Self {
        match error {
            FieldsError::Malformed => Self::Malformed("header section"),
            FieldsError::TooMany => Self::TooLarge,
        }
    }
}

impl RequestHead {
    /// An empty head for a request of another protocol.
    pub fn new(method: Method, target: &[u8], version: Version) -> Self {
        let mut fields = Fields::new();
        let target = fields.add_text(target);
        Self {
            method,
            version,
            fields,
            target,
            rewritten: None,
        }
    }

    /// Reads the head at the beginning of `bytes`, and how many bytes of them it is; `None` if more
    /// are needed. Empty lines before it belong to it (RFC 9112, section 2.2).
    pub fn parse(bytes: &[u8], limits: Limits) -> Result<Option<(Self, usize)>, Refusal> {
        let begin = start(bytes);
        let text = &bytes[begin..];
        let Some(line_end) = memchr::memchr(b'\n', text) else {
            return partial(text, bytes.len(), limits);
        };
        let (method, target, version) = request_line(&text[..line_end])?;
        if target.len() > limits.target {
            return Err(Refusal::TargetTooLong);
        }
        let section = &text[line_end + 1..];
        let Some(length) = section_end(section) else {
            if bytes.len() > limits.bytes {
                return Err(Refusal::TooLarge);
            }
            return Ok(None);
        };
        let all = begin + line_end + 1 + length;
        if all > limits.bytes {
            return Err(Refusal::TooLarge);
        }
        let mut head = Self::new(method, target, version);
        head.fields.read(&section[..length], limits.lines)?;
        Ok(Some((head, all)))
    }

    /// The target, in origin form after [`RequestHead::check`].
    pub fn target(&self) -> &[u8] {
        self.target.of(self.fields.text())
    }

    /// Replaces the target.
    pub fn set_target(&mut self, target: &[u8]) {
        self.target = self.fields.add_text(target);
    }

    /// The target as [`RequestHead::write`] sends it.
    pub fn written_target(&self) -> &[u8] {
        match self.rewritten {
            Some(target) => target.of(self.fields.text()),
            None => self.target(),
        }
    }

    /// Has another target written; [`RequestHead::target`] stays that of the client.
    pub fn rewrite(&mut self, target: &[u8]) {
        self.rewritten = Some(self.fields.add_text(target));
    }

    /// The path, as it came.
    pub fn path(&self) -> &[u8] {
        let target = self.target();
        let end = memchr::memchr(b'?', target).unwrap_or(target.len());
        &target[..end]
    }

    /// The query without its question mark.
    pub fn query(&self) -> Option<&[u8]> {
        let target = self.target();
        memchr::memchr(b'?', target).map(|at| &target[at + 1..])
    }

    /// The value of Host; empty if there is none.
    pub fn host(&self) -> &[u8] {
        self.fields.get(Name::Host).unwrap_or_default()
    }

    /// Whether the connection ends with this request (RFC 9112, section 9.3).
    pub fn closes(&self) -> bool {
        let connection = || self.fields.all(Name::Connection);
        match self.version {
            Version::HTTP_10 => !list::has(connection(), "keep-alive"),
            _ => self.fields.has(Name::Connection) && list::has(connection(), "close"),
        }
    }

    /// Refuses bytes that another parser might read differently, puts the target
    /// into origin form (RFC 9112, section 3.2.1) and its authority into `Host`, and says how long the
    /// body is.
    pub fn check(&mut self) -> Result<Framing, Refusal> {
        if self.method == Method::CONNECT || self.method == Method::TRACE {
            // CONNECT would make a tunnel to any host (RFC 9110, section 9.3.6); TRACE would show
            // the fields that the gateway adds (section 9.3.8).
            return Err(Refusal::Method);
        }
        self.check_target()?;
        self.check_host()?;
        let framing = framing::of_request(self.version, &self.fields)?;
        let known = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
        if !self.fields.all(Name::Expect).all(known) {
            return Err(Refusal::Expectation);
        }
        Ok(framing)
    }

    /// `*` is for OPTIONS alone; everything else begins with a slash or names its host.
    fn check_target(&mut self) -> Result<(), Refusal> {
        let target = self.target();
        if memchr::memchr(b'#', target).is_some() {
            return Err(Refusal::Malformed("fragment in the target"));
        }
        if target.first() == Some(&b'/') || (target == b"*" && self.method == Method::OPTIONS) {
            return Ok(());
        }
        let scheme = |scheme: &str| {
            let begins = target.get(..scheme.len())?;
            begins
                .eq_ignore_ascii_case(scheme.as_bytes())
                .then(|| &target[scheme.len()..])
        };
        let rest = scheme("http://").or_else(|| scheme("https://"));
        let rest = rest.ok_or(Refusal::Malformed("target"))?;
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
        let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
        if !host::is_valid(authority) {
            return Err(Refusal::Malformed("authority of the target"));
        }
        if self.version == Version::HTTP_11 && !self.fields.has(Name::Host) {
            return Err(Refusal::Malformed("no Host"));
        }
        let path = match path.first() {
            None => b"/".to_vec(),
            Some(b'?') => [b"/", path].concat(),
            Some(_) => path.to_vec(),
        };
        let authority = authority.to_vec();
        // Its own `Host` has to be one good host all the same.
        self.check_host()?;
        self.fields.set(Name::Host, &authority);
        self.set_target(&path);
        Ok(())
    }

    /// Exactly one good `Host` (RFC 9112, section 3.2).
    fn check_host(&self) -> Result<(), Refusal> {
        let mut hosts = self.fields.all(Name::Host);
        match (hosts.next(), hosts.next()) {
            (None, _) if self.version == Version::HTTP_10 => Ok(()),
            (None, _) => Err(Refusal::Malformed("no Host")),
            (Some(host), None) if host::is_valid(host) => Ok(()),
            _ => Err(Refusal::Malformed("Host")),
        }
    }

    /// Writes the request line and the header lines; the framing of the body ends the section.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.written_target());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        self.fields.write(out);
    }
}

/// Judges the beginning of a request line before its end has come.
fn partial(
    text: &[u8],
    all: usize,
    limits: Limits,
) -> Result<Option<(RequestHead, usize)>, Refusal> {
    let is_method = |byte: &u8| is_token_byte(*byte);
    let method = text.iter().take_while(|byte| is_method(byte)).count();
    match text.get(method) {
        None | Some(b' ' | b'\r') if method <= LONGEST_METHOD => {}
        _ => return Err(Refusal::Malformed("request line")),
    }
    // The method, the version and two spaces beside the target.
    if text.len() > limits.target + LONGEST_METHOD + 12 {
        return Err(Refusal::TargetTooLong);
    }
    if all > limits.bytes {
        return Err(Refusal::TooLarge);
    }
    Ok(None)
}

/// Longer than any method that is registered.
const LONGEST_METHOD: usize = 64;

/// Method, target and version (RFC 9112, section 3).
fn request_line(line: &[u8]) -> Result<(Method, &[u8], Version), Refusal> {
    let malformed = Refusal::Malformed("request line");
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let first = memchr::memchr(b' ', line).ok_or(malformed)?;
    let last = memchr::memrchr(b' ', line).filter(|last| *last > first);
    let last = last.ok_or(malformed)?;
    let (method, target, version) = (&line[..first], &line[first + 1..last], &line[last + 1..]);
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Refusal::Version);
        }
        _ => return Err(malformed),
    };
    if method.len() > LONGEST_METHOD {
        return Err(malformed);
    }
    let method = Method::from_bytes(method).map_err(|_| malformed)?;
    // Bytes that do not split the line go on unchanged (browsers send `"` and bytes above 0x7F).
    let is_bad = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
    if target.is_empty() || target.iter().any(is_bad) {
        return Err(malformed);
    }
    Ok((method, target, version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        bytes: 1000,
        lines: 10,
        target: 100,
    };

    fn read(text: &[u8]) -> Result<RequestHead, Refusal> {
        let (head, length) = RequestHead::parse(text, LIMITS)?.expect("all of it");
        assert_eq!(length, text.len());
        Ok(head)
    }

    fn checked(text: &str) -> Result<(RequestHead, Framing), Refusal> {
        let mut head = read(text.as_bytes())?;
        let framing = head.check()?;
        Ok((head, framing))
    }

    fn written(head: &RequestHead) -> String {
        let mut out = Vec::new();
        head.write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn m3_a_head_is_written_as_it_came() {
        let head =
            read(b"\r\n\nPATCH /a%2F?b=\"\xe9 HTTP/1.1\r\nHOST: a\nX-A:  1 \r\n\r\n").unwrap();
        assert_eq!(head.path(), b"/a%2F");
        assert_eq!(head.query(), Some(&b"b=\"\xe9"[..]));
        let mut out = Vec::new();
        head.write(&mut out);
        assert_eq!(
            out,
            b"PATCH /a%2F?b=\"\xe9 HTTP/1.1\r\nHOST: a\r\nX-A: 1\r\n"
        );
    }

    #[test]
    fn m3_request_lines_that_mean_two_things_are_refused() {
        for line in [
            "GET  / HTTP/1.1",
            "GET /",
            "GET / ",
            "GET / http/1.1",
            "G\u{e9}T / HTTP/1.1",
            " GET / HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET /\t HTTP/1.1",
            "GET /\u{7f} HTTP/1.1",
            "GET /\r HTTP/1.1",
            "/ HTTP/1.1",
            "",
        ] {
            let text = format!("x{line}\r\nHost: a\r\n\r\n");
            let refused = RequestHead::parse(&text.as_bytes()[1..], LIMITS);
            let is_refused = matches!(refused, Err(Refusal::Malformed(_)));
            assert!(is_refused, "{line:?}: {refused:?}");
        }
        for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9"] {
            let text = format!("GET / {version}\r\n\r\n");
            assert_eq!(read(text.as_bytes()).unwrap_err(), Refusal::Version);
        }
    }

    #[test]
    fn what_is_no_http_is_refused_before_its_end() {
        for text in [&b"\x16\x03\x01\x02\x00"[..], b"{\"a\": 1", b"\0", b"GET\t/"] {
            assert!(RequestHead::parse(text, LIMITS).is_err(), "{text:?}");
        }
    }

    #[test]
    fn limits_hold_whether_the_head_is_whole_or_not() {
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(100));
        assert_eq!(read(long.as_bytes()).unwrap_err(), Refusal::TargetTooLong);
        let endless = "GET /".to_owned() + &"a".repeat(300);
        let endless = RequestHead::parse(endless.as_bytes(), LIMITS);
        assert_eq!(endless.unwrap_err(), Refusal::TargetTooLong);
        for end in ["", "\r\n\r\n"] {
            let long = format!("GET / HTTP/1.1\r\nX-A: {}{end}", "a".repeat(1000));
            let refused = RequestHead::parse(long.as_bytes(), LIMITS);
            assert_eq!(refused.unwrap_err(), Refusal::TooLarge);
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X-A: 1\r\n".repeat(11));
        assert_eq!(read(many.as_bytes()).unwrap_err(), Refusal::TooLarge);
    }

    #[test]
    fn m3_2_2_an_absolute_target_becomes_a_path_and_a_host() {
        for (target, path, host) in [
            ("http://b.test:81/x?y", "/x?y", "b.test:81"),
            ("HTTPS://b.test", "/", "b.test"),
            ("http://b.test?y", "/?y", "b.test"),
        ] {
            let (head, _) = checked(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
            assert_eq!(head.target(), path.as_bytes());
            assert_eq!(head.fields.only(Name::Host), Some(host.as_bytes()));
        }
        for target in [
            "http:///x",
            "http://a b/",
            "http://u@a/",
            "ftp://a/",
            "a",
            "*",
        ] {
            assert!(checked(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).is_err());
        }
        assert!(checked("GET http://a/ HTTP/1.1\r\n\r\n").is_err());
        assert!(checked("GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n").is_err());
        assert!(checked("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").is_ok());
    }

    #[test]
    fn m9_3_who_says_nothing_stays_with_1_1_and_goes_with_1_0() {
        let closes = |version, line| {
            let text = format!("GET / {version}\r\nHost: a\r\n{line}\r\n");
            read(text.as_bytes()).unwrap().closes()
        };
        assert!(!closes("HTTP/1.1", ""));
        assert!(closes("HTTP/1.1", "Connection: x, Close\r\n"));
        assert!(closes("HTTP/1.0", ""));
        assert!(!closes("HTTP/1.0", "Connection: Keep-Alive\r\n"));
    }

    proptest! {
        /// However it is cut, a head is waited for, and then it is the same.
        #[test]
        fn no_cut_changes_a_head(cut in 0usize..60, crlf: bool) {
            let text = "GET /a?b HTTP/1.1\nHost: a.test\nX-A: 1\nX-B:\n\n";
            let text = if crlf { text.replace('\n', "\r\n") } else { text.to_owned() };
            let cut = cut.min(text.len() - 1);
            prop_assert!(RequestHead::parse(&text.as_bytes()[..cut], LIMITS).unwrap().is_none());
            prop_assert_eq!(written(&read(text.as_bytes()).unwrap()),
                "GET /a?b HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\nX-B: \r\n");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            if let Ok(Some((mut head, _))) = RequestHead::parse(&bytes, LIMITS) {
                let _ = head.check();
                written(&head);
            }
        }
    }
}
