//! Whether an answer is compressed, and what becomes of its header then.

use hyper::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, VARY,
};
use hyper::http::response;
use hyper::{Method, StatusCode};

use super::accept::Accepted;
use crate::config::http::{Algorithm, Compression};

/// What a request says about compression; noted before the request is passed on.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Read only for an answer that may be compressed.
    accept_encoding: Vec<HeaderValue>,
    is_head: bool,
    no_transform: bool,
    if_none_match: Vec<HeaderValue>,
}

impl Asked {
    /// Reads the request's method and header.
    pub fn new(method: &Method, headers: &HeaderMap) -> Self {
        Self {
            accept_encoding: headers.get_all(ACCEPT_ENCODING).iter().cloned().collect(),
            is_head: method == Method::HEAD,
            no_transform: no_transform(headers),
            if_none_match: headers.get_all(IF_NONE_MATCH).iter().cloned().collect(),
        }
    }
}

/// Compresses answers as configured.
#[derive(Clone, Debug)]
pub struct Compressor {
    types: Vec<String>,
    /// Server-sent events are text, and are compressed only where they are named.
    event_streams: bool,
    min_size: u64,
    algorithms: Vec<Algorithm>,
}

const EVENT_STREAM: &str = "text/event-stream";

impl Compressor {
    /// `None` where nothing is to be compressed.
    pub fn new(config: &Compression) -> Option<Self> {
        let useful = config.enabled && !config.algorithms.is_empty() && !config.types.is_empty();
        useful.then(|| Self {
            types: config.types.clone(),
            event_streams: config.types.iter().any(|kind| kind == EVENT_STREAM),
            min_size: config.min_size,
            algorithms: config.algorithms.clone(),
        })
    }

    /// Changes the header of an answer as needs be. What is returned is to be handed to
    /// [`Compressed::new`](super::Compressed::new) with the answer's body.
    pub fn plan(&self, asked: &Asked, head: &mut response::Parts) -> Option<Algorithm> {
        if head.status == StatusCode::NOT_MODIFIED {
            keep_weak(&asked.if_none_match, &mut head.headers);
            return None;
        }
        if asked.no_transform || !may_be_coded(head) {
            return None;
        }
        let text = |name| {
            let value: Option<&HeaderValue> = head.headers.get(name);
            value.and_then(|value| value.to_str().ok())
        };
        let length = text(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let fits = self.fits(text(CONTENT_TYPE), length);
        if !fits && asked.accept_encoding.is_empty() {
            return None;
        }
        let accepted = Accepted::of(&asked.accept_encoding);
        if !fits && !accepted.refuses_identity() {
            return None;
        }
        // Another client would get, or this one would have got, other bytes.
        add_vary(&mut head.headers);
        let algorithm = accepted.best(&self.algorithms)?;
        rewrite(&mut head.headers, algorithm);
        (!asked.is_head).then_some(algorithm)
    }

    /// Whether an answer of this type and length in bytes is worth it. A length that is not known may
    /// be any.
    pub fn fits(&self, content_type: Option<&str>, length: Option<u64>) -> bool {
        length.is_none_or(|length| length >= self.min_size.max(1))
            && content_type.is_some_and(|kind| self.has(kind))
    }

    fn has(&self, content_type: &str) -> bool {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case(EVENT_STREAM) {
            return self.event_streams;
        }
        self.types
            .iter()
            .any(|wanted| match wanted.strip_suffix('*') {
                Some(start) => kind
                    .get(..start.len())
                    .is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
                None => kind.eq_ignore_ascii_case(wanted),
            })
    }
}

/// Whether the answer has a body, whole and as it was made, that nobody vouches for byte by byte.
fn may_be_coded(head: &response::Parts) -> bool {
    const BOUND_TO_BYTES: [HeaderName; 6] = [
        CONTENT_RANGE,
        HeaderName::from_static("content-md5"),
        HeaderName::from_static("content-digest"),
        HeaderName::from_static("repr-digest"),
        HeaderName::from_static("digest"),
        HeaderName::from_static("signature-input"),
    ];
    let status = head.status;
    let without_body = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::RESET_CONTENT
        || status == StatusCode::PARTIAL_CONTENT;
    let coded = head
        .headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| coding.as_bytes() != b"identity");
    !without_body
        && !coded
        && !no_transform(&head.headers)
        && !BOUND_TO_BYTES
            .iter()
            .any(|name| head.headers.contains_key(name))
}

/// RFC 9110, section 7.7: proxies leave such content alone.
fn no_transform(headers: &HeaderMap) -> bool {
    headers.get_all(CACHE_CONTROL).iter().any(|line| {
        let directives = line.as_bytes().split(|byte| *byte == b',');
        directives
            .map(<[u8]>::trim_ascii)
            .any(|directive| directive.eq_ignore_ascii_case(b"no-transform"))
    })
}

/// `Vary: Accept-Encoding`, unless it is there or everything varies.
fn add_vary(headers: &mut HeaderMap) {
    let names = headers.get_all(VARY).iter().flat_map(|line| {
        let names = line.as_bytes().split(|byte| *byte == b',');
        names.map(<[u8]>::trim_ascii)
    });
    let there = names
        .into_iter()
        .any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"));
    if !there {
        headers.append(VARY, HeaderValue::from_name(ACCEPT_ENCODING));
    }
}

/// The header of what was coded: other bytes, of a length that is not known, not to be had in
/// parts, and equal in meaning alone (RFC 9110, section 8.8.1).
fn rewrite(headers: &mut HeaderMap, algorithm: Algorithm) {
    let name = match algorithm {
        Algorithm::Gzip => "gzip",
        Algorithm::Brotli => "br",
        Algorithm::Zstd => "zstd",
    };
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    if let Some(weak) = headers.get(ETAG).and_then(weakened) {
        headers.insert(ETAG, weak);
    }
}

/// `W/"x"` for `"x"`; `None` if it is weak, or no entity tag at all.
fn weakened(tag: &HeaderValue) -> Option<HeaderValue> {
    let tag = tag.as_bytes();
    tag.starts_with(b"\"")
        .then(|| HeaderValue::from_bytes(&[b"W/", tag].concat()).ok())?
}

/// A client that has a compressed answer knows it by the weak tag that we gave it: it gets that
/// one back, so that it finds what it has stored.
fn keep_weak(if_none_match: &[HeaderValue], headers: &mut HeaderMap) {
    let Some(weak) = headers.get(ETAG).and_then(weakened) else {
        return;
    };
    let known = if_none_match.iter().any(|line| {
        let tags = line.as_bytes().split(|byte| *byte == b',');
        tags.map(<[u8]>::trim_ascii)
            .any(|tag| tag == weak.as_bytes())
    });
    if known {
        headers.insert(ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Response;

    fn asked(headers: &[(&str, &str)]) -> Asked {
        Asked::new(&Method::GET, &map(headers))
    }

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        map
    }

    fn head(status: u16, headers: &[(&str, &str)]) -> response::Parts {
        let (mut head, ()) = Response::builder()
            .status(status)
            .body(())
            .unwrap()
            .into_parts();
        head.headers = map(headers);
        head
    }

    const GZIP: [(&str, &str); 1] = [("accept-encoding", "gzip")];
    const TEXT: (&str, &str) = ("content-type", "text/html; charset=utf-8");

    fn compressor() -> Compressor {
        Compressor::new(&Compression::default()).unwrap()
    }

    fn plan(head: &mut response::Parts) -> Option<Algorithm> {
        compressor().plan(&asked(&GZIP), head)
    }

    #[test]
    fn a_text_becomes_smaller_with_the_header_of_what_it_is_then() {
        let mut answer = head(
            200,
            &[
                TEXT,
                ("content-length", "5000"),
                ("accept-ranges", "bytes"),
                ("etag", "\"abc\""),
                ("vary", "Origin"),
            ],
        );
        assert_eq!(plan(&mut answer), Some(Algorithm::Gzip));
        let expected = map(&[
            TEXT,
            ("content-encoding", "gzip"),
            ("etag", "W/\"abc\""),
            ("vary", "Origin"),
            ("vary", "accept-encoding"),
        ]);
        assert_eq!(answer.headers, expected);
    }

    #[test]
    fn a_client_that_takes_none_gets_vary_and_nothing_else_is_changed() {
        let mut answer = head(200, &[TEXT, ("etag", "\"abc\"")]);
        assert_eq!(compressor().plan(&asked(&[]), &mut answer), None);
        let expected = map(&[TEXT, ("etag", "\"abc\""), ("vary", "accept-encoding")]);
        assert_eq!(answer.headers, expected);
    }

    #[test]
    fn nothing_is_compressed_twice_or_in_part_or_against_an_order() {
        let untouched: &[(u16, &[(&str, &str)])] = &[
            (200, &[TEXT, ("content-encoding", "br")]),
            (200, &[TEXT, ("cache-control", "public, No-Transform")]),
            (200, &[TEXT, ("content-length", "1023")]),
            (200, &[TEXT, ("content-length", "0")]),
            (200, &[TEXT, ("content-digest", "sha-256=:x:")]),
            (200, &[("content-type", "image/png")]),
            (200, &[("content-type", "text/event-stream")]),
            (200, &[]),
            (204, &[TEXT]),
            (206, &[TEXT, ("content-range", "bytes 0-9/5000")]),
        ];
        for (status, headers) in untouched {
            let mut answer = head(*status, headers);
            assert_eq!(plan(&mut answer), None, "{status} {headers:?}");
            assert_eq!(answer.headers, map(headers), "{status}");
        }
        let asked = asked(&[GZIP[0], ("cache-control", "no-transform")]);
        let mut answer = head(200, &[TEXT]);
        assert_eq!(compressor().plan(&asked, &mut answer), None);
    }

    #[test]
    fn the_answer_to_head_has_the_header_of_that_to_get() {
        let asked = Asked::new(&Method::HEAD, &map(&GZIP));
        let mut answer = head(200, &[TEXT, ("content-length", "5000")]);
        assert_eq!(compressor().plan(&asked, &mut answer), None);
        assert_eq!(answer.headers["content-encoding"], "gzip");
        assert!(!answer.headers.contains_key("content-length"));
    }

    #[test]
    fn a_304_gives_back_the_weak_tag_that_the_client_has() {
        let asked = asked(&[GZIP[0], ("if-none-match", "\"x\", W/\"abc\"")]);
        let mut answer = head(304, &[("etag", "\"abc\"")]);
        compressor().plan(&asked, &mut answer);
        assert_eq!(answer.headers, map(&[("etag", "W/\"abc\"")]));
        let mut strong = head(304, &[("etag", "\"x\"")]);
        compressor().plan(&asked, &mut strong);
        assert_eq!(strong.headers["etag"], "\"x\"");
    }

    #[test]
    fn vary_is_said_once_and_a_star_says_it() {
        for vary in ["Accept-Encoding", "Origin, accept-encoding", "*"] {
            let mut answer = head(200, &[TEXT, ("vary", vary)]);
            plan(&mut answer);
            assert_eq!(answer.headers.get_all("vary").iter().count(), 1, "{vary}");
        }
    }

    #[test]
    fn a_client_that_refuses_identity_gets_even_small_and_unusual_things_compressed() {
        let asked = asked(&[("accept-encoding", "br, identity;q=0")]);
        let mut answer = head(
            200,
            &[("content-type", "image/png"), ("content-length", "3")],
        );
        assert_eq!(
            compressor().plan(&asked, &mut answer),
            Some(Algorithm::Brotli)
        );
    }

    #[test]
    fn types_are_matched_whole_or_by_their_first_half() {
        for (kind, fits) in [
            ("text/css", true),
            ("TEXT/CSS", true),
            ("application/json;charset=utf-8", true),
            ("application/json-seq", false),
            ("textual/css", false),
            ("text", false),
        ] {
            let mut answer = head(200, &[("content-type", kind)]);
            assert_eq!(plan(&mut answer).is_some(), fits, "{kind}");
        }
    }

    #[test]
    fn event_streams_are_compressed_only_where_they_are_named() {
        let config = Compression {
            types: vec!["text/event-stream".into()],
            ..Compression::default()
        };
        let mut answer = head(200, &[("content-type", "text/event-stream")]);
        let compressor = Compressor::new(&config).unwrap();
        assert!(compressor.plan(&asked(&GZIP), &mut answer).is_some());
    }
}
