//! A stored answer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::StatusCode;
use hyper::body::Bytes;
use lb_http1::{Fields, Name, ResponseHead};
use lb_net::clock::boot_ns;

use super::policy::{Terms, seconds_of_date};

/// Bytes that an entry of the store has beside its texts: the entry itself, its place in the index, its counts, and
/// what the allocator adds to six allocations.
const OVERHEAD: usize = 512;
const NS: u64 = 1_000_000_000;

/// A stored answer.
#[derive(Debug)]
pub(crate) struct Object {
    /// No other object has it.
    pub(crate) id: u64,
    /// Scheme, host, path and query, as `lb-agent cache` shows it.
    pub(crate) url: Box<[u8]>,
    pub(crate) head: ResponseHead,
    pub(crate) body: Bytes,
    pub(crate) terms: Terms,
    pub(crate) hits: AtomicU64,
    stored_ns: u64,
}

impl Object {
    /// An answer that has just come.
    pub(crate) fn new(url: &[u8], head: &ResponseHead, body: Bytes, terms: Terms) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Self {
            id: IDS.fetch_add(1, Relaxed),
            url: url.into(),
            head: head.packed(),
            body,
            terms,
            hits: AtomicU64::new(0),
            stored_ns: boot_ns(),
        }
    }

    /// Seconds since it left its origin.
    pub(crate) fn age(&self) -> u64 {
        let here = boot_ns().saturating_sub(self.stored_ns) / NS;
        self.terms.age.saturating_add(here)
    }

    /// Counts one use.
    pub(crate) fn used(&self) {
        self.hits.fetch_add(1, Relaxed);
    }

    /// Whether a 304 with these fields can be about it: a strong tag that is another one names other bytes (section
    /// 4.3.4). Backends that compress weaken the tag of the 200 alone.
    pub(crate) fn is_meant_by(&self, news: &Fields) -> bool {
        let is_strong = |tag: &&[u8]| !tag.starts_with(b"W/");
        let tag = news.get(Name::Etag).filter(is_strong);
        let own = self.head.fields.get(Name::Etag).map(strong);
        tag.is_none_or(|tag| own == Some(tag))
    }

    /// Its head with the fields of the 304 that says that it is still good (RFC 9111, section 3.2).
    pub(crate) fn merged(&self, news: &Fields) -> ResponseHead {
        merged(&self.head, news)
    }

    /// The same under a head and terms that are newer.
    pub(crate) fn refreshed(&self, head: &ResponseHead, terms: Terms) -> Self {
        let fresh = Self::new(&self.url, head, self.body.clone(), terms);
        fresh.hits.store(self.hits.load(Relaxed), Relaxed);
        fresh
    }

    /// The fields of a request that asks whether it is still good (section 4.3.1).
    pub(crate) fn ask(&self, request: &mut Fields) {
        request.remove(Name::IfRange);
        request.remove(Name::Range);
        for (of_request, of_answer) in [
            (Name::IfNoneMatch, Name::Etag),
            (Name::IfModifiedSince, Name::LastModified),
        ] {
            request.remove(of_request);
            if let Some(value) = self.head.fields.get(of_answer) {
                request.append(of_request, value);
            }
        }
    }

    /// Whether the client of a request with these fields has it already (section 4.3.2).
    pub(crate) fn is_known_to(&self, request: &Fields) -> bool {
        let own = &self.head.fields;
        if self.head.status != StatusCode::OK {
            return false;
        }
        if request.has(Name::IfNoneMatch) {
            let tag = own.get(Name::Etag).map(strong);
            let mut known = lb_http1::list::members(request.all(Name::IfNoneMatch));
            return known.any(|member| member == b"*" || tag == Some(strong(member)));
        }
        let since = request.only(Name::IfModifiedSince);
        let Some(since) = since.and_then(seconds_of_date) else {
            return false;
        };
        let changed = own.only(Name::LastModified);
        let changed = changed.or_else(|| own.only(Name::Date));
        changed
            .and_then(seconds_of_date)
            .is_some_and(|changed| changed <= since)
    }

    /// Whether its backend gave it this tag: one of `Cache-Tag`, with commas between them, or of `Surrogate-Key`, with
    /// spaces.
    pub(crate) fn has_tag(&self, tag: &[u8]) -> bool {
        let fields = &self.head.fields;
        let mut tags = lb_http1::list::members(fields.called(b"cache-tag"));
        let mut keys = fields
            .called(b"surrogate-key")
            .flat_map(|line| line.split(u8::is_ascii_whitespace));
        tags.any(|known| known == tag) || keys.any(|known| known == tag)
    }

    /// Bytes of memory that it takes under a key of so many bytes.
    pub(crate) fn memory(&self, key: usize) -> usize {
        OVERHEAD + key + self.url.len() + self.head.fields.memory() + self.body.len()
    }
}

/// The tag without the mark of a weak one.
fn strong(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// A stored head with the fields of a newer one, but for those that belong to the body's bytes (RFC 9111, section 3.2).
fn merged(stored: &ResponseHead, news: &Fields) -> ResponseHead {
    const OF_BODY: [Name; 10] = [
        Name::Etag,
        Name::ContentLength,
        Name::ContentEncoding,
        Name::ContentRange,
        Name::ContentMd5,
        Name::ContentDigest,
        Name::ReprDigest,
        Name::Digest,
        Name::TransferEncoding,
        Name::SetCookie,
    ];
    let mut head = stored.clone();
    let is_new = |name: &[u8]| !OF_BODY.contains(&Name::of(name));
    let changes = || news.iter().filter(|(name, _)| is_new(name));
    // An age of before the 304 is not its own.
    head.fields.remove(Name::Age);
    for (name, _) in changes() {
        head.fields.remove_called(name);
    }
    for (name, value) in changes() {
        head.fields.append_called(name, value);
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[(&str, &str)]) -> ResponseHead {
        let mut head = ResponseHead::new(StatusCode::OK);
        for (name, value) in lines {
            head.fields.append_called(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn object(lines: &[(&str, &str)]) -> Object {
        Object::new(
            b"http://a/",
            &head(lines),
            Bytes::from_static(b"ok"),
            Terms::default(),
        )
    }

    #[test]
    fn c3_2_fields_of_a_304_take_the_place_of_stored_ones_but_not_those_of_the_body() {
        let stored = object(&[
            ("A", "1"),
            ("a", "2"),
            ("B", "3"),
            ("Age", "9"),
            ("Content-Type", "x/y"),
            ("Content-MD5", "x"),
        ]);
        let news = head(&[
            ("a", "4"),
            ("Content-Type", "z/z"),
            ("Content-Encoding", "br"),
            ("Content-MD5", "y"),
            ("Set-Cookie", "s"),
            ("C", "5"),
        ]);
        let fresh = stored.refreshed(&stored.merged(&news.fields), Terms::default());
        let mut lines: Vec<String> = fresh
            .head
            .fields
            .iter()
            .map(|(name, value)| {
                format!(
                    "{}={}",
                    name.to_ascii_lowercase().escape_ascii(),
                    value.escape_ascii()
                )
            })
            .collect();
        lines.sort();
        assert_eq!(
            lines,
            ["a=4", "b=3", "c=5", "content-md5=x", "content-type=z/z"]
        );
        assert_eq!(fresh.body, stored.body);
    }

    #[test]
    fn c4_3_4_strong_tag_of_a_304_has_to_be_that_of_the_object() {
        let stored = object(&[("ETag", "\"x\"")]);
        for (tag, wanted) in [("\"x\"", true), ("W/\"y\"", true), ("\"y\"", false)] {
            assert_eq!(stored.is_meant_by(&head(&[("ETag", tag)]).fields), wanted);
        }
        assert!(stored.is_meant_by(&Fields::new()));
        let weak = object(&[("ETag", "W/\"x\"")]);
        assert!(weak.is_meant_by(&head(&[("ETag", "\"x\"")]).fields));
        assert!(!object(&[]).is_meant_by(&head(&[("ETag", "\"x\"")]).fields));
    }

    #[test]
    fn c4_3_2_clients_that_have_it_are_told_so() {
        const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
        let tagged = object(&[("ETag", "W/\"x\""), ("Last-Modified", THEN)]);
        let plain = object(&[("Date", THEN)]);
        for (object, name, value, wanted) in [
            (&tagged, "If-None-Match", "\"x\"", true),
            (&tagged, "If-None-Match", "\"a\", W/\"x\"", true),
            (&tagged, "If-None-Match", "*", true),
            (&tagged, "If-None-Match", "\"y\"", false),
            (&tagged, "If-Modified-Since", THEN, true),
            (&tagged, "If-Modified-Since", BEFORE, false),
            (&tagged, "If-Modified-Since", "then", false),
            (&plain, "If-None-Match", "\"x\"", false),
            (&plain, "If-Modified-Since", THEN, true),
            (&plain, "X", "", false),
        ] {
            let request = head(&[(name, value)]).fields;
            assert_eq!(object.is_known_to(&request), wanted, "{name}: {value}");
        }
    }
}
