//! Decides whether an answer is compressed, and changes its header accordingly.

use hyper::StatusCode;
use lb_http1::{Fields, Name, RequestHead, ResponseHead, list};

use super::accept::Accepted;
use crate::h2c::is_grpc_type;
use lb_config::http::{Algorithm, Compression};

/// The request's part in compression; noted before the request is passed on.
#[derive(Clone, Debug)]
pub(crate) struct RequestMeta {
    /// `None` if it says nothing.
    accepted: Option<Accepted>,
    no_transform: bool,
    if_none_match: Vec<Vec<u8>>,
}

impl RequestMeta {
    /// Reads the request's header.
    pub(crate) fn new(head: &RequestHead) -> Self {
        let fields = &head.fields;
        let names_codings = fields.has(Name::AcceptEncoding);
        Self {
            accepted: names_codings.then(|| Accepted::of(fields.all(Name::AcceptEncoding))),
            no_transform: no_transform(fields),
            if_none_match: list::members(fields.all(Name::IfNoneMatch))
                .map(<[u8]>::to_vec)
                .collect(),
        }
    }
}

/// Compresses answers as configured.
#[derive(Clone, Debug)]
pub(crate) struct Compressor {
    types: Vec<String>,
    /// Server-sent events are text, and are compressed only if the configuration names them.
    event_streams: bool,
    min_size: u64,
    algorithms: Vec<Algorithm>,
}

const EVENT_STREAM: &str = "text/event-stream";

impl Compressor {
    /// `None` if nothing is to be compressed.
    pub(crate) fn new(config: &Compression) -> Option<Self> {
        let useful = config.enabled && !config.algorithms.is_empty() && !config.types.is_empty();
        useful.then(|| Self {
            types: config.types.clone(),
            event_streams: config.types.iter().any(|kind| kind == EVENT_STREAM),
            min_size: config.min_size,
            algorithms: config.algorithms.clone(),
        })
    }

    /// Changes the header of an answer as needs be, whose body has `length` bytes if that is known.
    /// What is returned is the coding of its body, and of that which a HEAD asks about: its length is
    /// not known.
    pub(crate) fn plan(
        &self,
        asked: &RequestMeta,
        head: &mut ResponseHead,
        length: Option<u64>,
    ) -> Option<Algorithm> {
        if head.status == StatusCode::NOT_MODIFIED {
            keep_weak(&asked.if_none_match, &mut head.fields);
            let kind = head.fields.get(Name::ContentType);
            if kind.is_none_or(|kind| std::str::from_utf8(kind).is_ok_and(|kind| self.has(kind))) {
                // It has the Vary that the 200 would have (RFC 9110, section 15.4.5).
                add_vary(&mut head.fields);
            }
            return None;
        }
        if head.status == StatusCode::PARTIAL_CONTENT {
            if !asked.no_transform && self.codes_whole(&head.fields) {
                // So has a part (RFC 9110, section 15.3.7).
                add_vary(&mut head.fields);
            }
            return None;
        }
        if asked.no_transform || !may_be_coded(head) {
            return None;
        }
        let kind = head.fields.get(Name::ContentType);
        let kind = kind.and_then(|kind| std::str::from_utf8(kind).ok());
        let fits = self.fits(kind, length);
        let refuses_identity = asked
            .accepted
            .is_some_and(|accepted| accepted.refuses_identity());
        if !fits && !refuses_identity {
            return None;
        }
        // Another client would get, or this one would have got, other bytes.
        add_vary(&mut head.fields);
        let algorithm = asked.accepted?.best(&self.algorithms)?;
        rewrite(&mut head.fields, algorithm);
        Some(algorithm)
    }

    /// Whether the whole of which an answer has one part would be compressed.
    fn codes_whole(&self, fields: &Fields) -> bool {
        let range = fields.get(Name::ContentRange);
        let range = range.and_then(|range| std::str::from_utf8(range).ok());
        let whole = range.and_then(|range| range.rsplit_once('/')?.1.parse().ok());
        let kind = fields.get(Name::ContentType);
        let kind = kind.and_then(|kind| std::str::from_utf8(kind).ok());
        is_plain(fields) && self.fits(kind, whole)
    }

    /// Whether an answer of this type and length in bytes is worth it. A length that is not known may
    /// be any.
    pub(crate) fn fits(&self, content_type: Option<&str>, length: Option<u64>) -> bool {
        length.is_none_or(|length| length >= self.min_size.max(1))
            && content_type.is_some_and(|kind| self.has(kind))
    }

    fn has(&self, content_type: &str) -> bool {
        if is_grpc_type(content_type.as_bytes()) {
            // Its messages are compressed one by one, by their sender.
            return false;
        }
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

/// Whether the answer has a whole and unchanged body, without a digest or signature of its bytes.
fn may_be_coded(head: &ResponseHead) -> bool {
    const BOUND_TO_BYTES: [Name; 6] = [
        Name::ContentRange,
        Name::ContentMd5,
        Name::ContentDigest,
        Name::ReprDigest,
        Name::Digest,
        Name::SignatureInput,
    ];
    let status = head.status;
    let without_body = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::RESET_CONTENT;
    let fields = &head.fields;
    !without_body && is_plain(fields) && !BOUND_TO_BYTES.iter().any(|name| fields.has(*name))
}

/// Whether the answer has no coding, and may get one.
fn is_plain(fields: &Fields) -> bool {
    let coded = fields
        .get(Name::ContentEncoding)
        .is_some_and(|coding| coding != b"identity");
    !coded && !no_transform(fields)
}

/// RFC 9110, section 7.7: proxies leave such content alone.
fn no_transform(fields: &Fields) -> bool {
    list::has(fields.all(Name::CacheControl), "no-transform")
}

/// `Vary: Accept-Encoding`, unless it is there or everything varies.
fn add_vary(fields: &mut Fields) {
    let mut names = list::members(fields.all(Name::Vary));
    let there = names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"));
    drop(names);
    if !there {
        fields.append(Name::Vary, b"accept-encoding");
    }
}

/// The header of a compressed answer: other bytes, no ranges, and a weak tag (RFC 9110, section 8.8.1).
fn rewrite(fields: &mut Fields, algorithm: Algorithm) {
    fields.set(Name::ContentEncoding, super::name_of(algorithm));
    fields.remove(Name::AcceptRanges);
    if let Some(weak) = fields.get(Name::Etag).and_then(weakened) {
        fields.set(Name::Etag, &weak);
    }
}

/// `W/"x"` for `"x"`; `None` if it is weak, or no entity tag at all.
fn weakened(tag: &[u8]) -> Option<Vec<u8>> {
    tag.starts_with(b"\"").then(|| [b"W/", tag].concat())
}

/// `If-Match` wants strong tags (RFC 9110, section 13.1.1), and those of compressed answers were made
/// weak by us: the backend gets its own.
pub(crate) fn give_back_tags(fields: &mut Fields) {
    if !fields
        .all(Name::IfMatch)
        .any(|line| memchr::memmem::find(line, b"W/\"").is_some())
    {
        return;
    }
    let strong = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let tags: Vec<Vec<u8>> = list::members(fields.all(Name::IfMatch))
        .map(strong)
        .collect();
    fields.set(Name::IfMatch, &tags.join(&b", "[..]));
}

/// A client that has a compressed answer knows it by the weak tag that we gave it: it gets that
/// one back, so that it finds what it has stored.
fn keep_weak(if_none_match: &[Vec<u8>], fields: &mut Fields) {
    if let Some(weak) = fields.get(Name::Etag).and_then(weakened)
        && if_none_match.contains(&weak)
    {
        fields.set(Name::Etag, &weak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::{Method, Version};

    fn asked(headers: &[(&str, &str)]) -> RequestMeta {
        let mut head = RequestHead::new(Method::GET, b"/", Version::HTTP_11);
        head.fields = map(headers);
        RequestMeta::new(&head)
    }

    fn map(headers: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in headers {
            fields.append_called(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn head(status: u16, headers: &[(&str, &str)]) -> ResponseHead {
        let mut head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
        for (name, value) in headers {
            head.fields.append_called(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn lines(fields: &Fields) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let lines = fields.iter().map(|(name, value)| (text(name), text(value)));
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        lines
    }

    fn value(fields: &Fields, name: Name) -> &str {
        std::str::from_utf8(fields.only(name).unwrap()).unwrap()
    }

    const GZIP: [(&str, &str); 1] = [("accept-encoding", "gzip")];
    const TEXT: (&str, &str) = ("content-type", "text/html; charset=utf-8");

    fn compressor() -> Compressor {
        Compressor::new(&Compression::default()).unwrap()
    }

    fn plan(head: &mut ResponseHead) -> Option<Algorithm> {
        compressor().plan(&asked(&GZIP), head, None)
    }

    #[test]
    fn a_text_becomes_smaller_with_the_header_of_what_it_is_then() {
        let mut answer = head(
            200,
            &[
                TEXT,
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
        assert_eq!(lines(&answer.fields), lines(&expected));
    }

    #[test]
    fn a_client_that_takes_none_gets_vary_and_nothing_else_is_changed() {
        let mut answer = head(200, &[TEXT, ("etag", "\"abc\"")]);
        assert_eq!(compressor().plan(&asked(&[]), &mut answer, None), None);
        let expected = map(&[TEXT, ("etag", "\"abc\""), ("vary", "accept-encoding")]);
        assert_eq!(lines(&answer.fields), lines(&expected));
    }

    #[test]
    fn calls_of_grpc_are_left_alone_whatever_is_configured() {
        let everything = Compression {
            types: vec!["application/*".to_owned(), "application/grpc".to_owned()],
            ..Compression::default()
        };
        let compressor = Compressor::new(&everything).unwrap();
        for (kind, expected) in [
            ("application/grpc", None),
            ("application/grpc+proto", None),
            ("application/json", Some(Algorithm::Gzip)),
        ] {
            let mut answer = head(200, &[("content-type", kind)]);
            assert_eq!(
                compressor.plan(&asked(&GZIP), &mut answer, None),
                expected,
                "{kind}"
            );
        }
    }

    #[test]
    fn nothing_is_compressed_twice_or_in_part_or_against_an_order() {
        let untouched: &[(u16, &[(&str, &str)])] = &[
            (200, &[TEXT, ("content-encoding", "br")]),
            (200, &[TEXT, ("cache-control", "public, No-Transform")]),
            (200, &[TEXT, ("content-digest", "sha-256=:x:")]),
            (200, &[("content-type", "image/png")]),
            (200, &[("content-type", "text/event-stream")]),
            (200, &[]),
            (204, &[TEXT]),
            (206, &[TEXT, ("content-range", "bytes 0-9/500")]),
        ];
        for (status, headers) in untouched {
            let mut answer = head(*status, headers);
            assert_eq!(plan(&mut answer), None, "{status} {headers:?}");
            assert_eq!(lines(&answer.fields), lines(&map(headers)), "{status}");
        }
        let asked = asked(&[GZIP[0], ("cache-control", "no-transform")]);
        let mut answer = head(200, &[TEXT]);
        assert_eq!(compressor().plan(&asked, &mut answer, None), None);
        for length in [0, 1023] {
            let mut answer = head(200, &[TEXT]);
            assert_eq!(
                compressor().plan(&self::asked(&GZIP), &mut answer, Some(length)),
                None
            );
            assert_eq!(lines(&answer.fields), lines(&map(&[TEXT])));
        }
    }

    #[test]
    fn a_304_gives_back_the_weak_tag_that_the_client_has() {
        let asked = asked(&[GZIP[0], ("if-none-match", "\"x\", W/\"abc\"")]);
        let mut answer = head(304, &[("etag", "\"abc\"")]);
        compressor().plan(&asked, &mut answer, None);
        assert_eq!(value(&answer.fields, Name::Etag), "W/\"abc\"");
        let mut strong = head(304, &[("etag", "\"x\"")]);
        compressor().plan(&asked, &mut strong, None);
        assert_eq!(value(&strong.fields, Name::Etag), "\"x\"");
    }

    #[test]
    fn h13_1_1_a_backend_gets_its_own_tags_back() {
        let mut fields = map(&[("if-match", "W/\"a\", \"b\"")]);
        give_back_tags(&mut fields);
        assert_eq!(value(&fields, Name::IfMatch), "\"a\", \"b\"");
        let mut star = map(&[("if-match", "*")]);
        give_back_tags(&mut star);
        assert_eq!(value(&star, Name::IfMatch), "*");
    }

    #[test]
    fn h15_4_5_a_304_varies_as_the_200_does() {
        let mut answer = head(304, &[("etag", "\"x\"")]);
        plan(&mut answer);
        assert_eq!(value(&answer.fields, Name::Vary), "accept-encoding");
        let mut picture = head(304, &[("content-type", "image/png")]);
        plan(&mut picture);
        assert!(!picture.fields.has(Name::Vary));
    }

    #[test]
    fn h15_3_7_a_206_varies_as_the_200_does() {
        let part = |fields: &[(&'static str, &'static str)]| {
            let mut answer = head(206, fields);
            assert_eq!(plan(&mut answer), None);
            answer.fields.has(Name::Vary)
        };
        let large = ("content-range", "bytes 0-9/440000");
        assert!(part(&[TEXT, large]));
        assert!(!part(&[TEXT, ("content-range", "bytes 0-9/10")]));
        assert!(!part(&[("content-type", "image/png"), large]));
        assert!(!part(&[TEXT, large, ("content-encoding", "gzip")]));
        assert!(!part(&[TEXT, large, ("cache-control", "no-transform")]));
    }

    #[test]
    fn vary_is_said_once_and_a_star_says_it() {
        for vary in ["Accept-Encoding", "Origin, accept-encoding", "*"] {
            let mut answer = head(200, &[TEXT, ("vary", vary)]);
            plan(&mut answer);
            assert_eq!(answer.fields.all(Name::Vary).count(), 1, "{vary}");
        }
    }

    #[test]
    fn a_client_that_refuses_identity_gets_even_small_and_unusual_things_compressed() {
        let asked = asked(&[("accept-encoding", "br, identity;q=0")]);
        let mut answer = head(200, &[("content-type", "image/png")]);
        assert_eq!(
            compressor().plan(&asked, &mut answer, Some(3)),
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
        assert!(compressor.plan(&asked(&GZIP), &mut answer, None).is_some());
    }
}
