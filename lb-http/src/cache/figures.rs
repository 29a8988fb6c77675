//! What is told of the cache, and what is purged.

use super::object::Object;
use crate::metrics::CacheResult;

/// The size of the cache, and what it did since the agent began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Bytes that are taken.
    pub bytes: u64,
    /// Bytes that there may be.
    pub capacity: u64,
    /// Entries: stored answers, indexes of variants, bodies in other codings, URLs whose answers are not stored.
    pub entries: u64,
    /// Requests by [`CacheResult`].
    pub requests: [u64; CacheResult::ALL.len()],
}

/// One stored answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// Scheme, host, path and query.
    pub url: String,
    /// Bytes of memory.
    pub bytes: u64,
    /// How often it was sent.
    pub hits: u64,
    /// Seconds since it left its origin.
    pub age_s: u64,
    /// Seconds for which it is fresh.
    pub lifetime_s: u64,
}

/// What is to be purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// The answers of one URL, in all their variants.
    Url(String),
    /// Those of all URLs that begin so.
    Prefix(String),
    /// Those with this tag in `Cache-Tag` or `Surrogate-Key`.
    Tag(String),
    /// All.
    All,
}

impl Purge {
    /// The answers of one URL as the store has it: with a host in lower case, without the scheme's own port and without
    /// a fragment. `None` if it is none of `http` or `https`.
    pub fn url(text: &str) -> Option<Self> {
        let text = text.split('#').next().unwrap_or_default();
        let (scheme, rest) = text.split_once("://")?;
        let (scheme, port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => ("http", ":80"),
            "https" => ("https", ":443"),
            _ => return None,
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, target) = rest.split_at(end);
        let host = host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase();
        let slash = if target.starts_with('/') { "" } else { "/" };
        (!host.is_empty()).then(|| Self::Url(format!("{scheme}://{host}{slash}{target}")))
    }

    /// The answers with a tag. `None` if a header cannot have it as one.
    pub fn tag(text: &str) -> Option<Self> {
        let is_one = |byte: u8| byte.is_ascii_graphic() && byte != b',';
        (!text.is_empty() && text.bytes().all(is_one)).then(|| Self::Tag(text.to_owned()))
    }

    pub(super) fn covers(&self, object: &Object) -> bool {
        match self {
            Self::Url(wanted) => wanted.as_bytes() == &*object.url,
            Self::Prefix(begin) => object.url.starts_with(begin.as_bytes()),
            Self::Tag(tag) => object.has_tag(tag.as_bytes()),
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_written_as_the_store_has_it() {
        let of = |text: &str| match Purge::url(text) {
            Some(Purge::Url(url)) => url,
            other => format!("{other:?}"),
        };
        assert_eq!(of("HTTP://A.test:80"), "http://a.test/");
        assert_eq!(of("https://a:443/X?y#z"), "https://a/X?y");
        assert_eq!(of("https://a:80?y"), "https://a:80/?y");
        for none in ["", "a/b", "ftp://a/", "http:///x"] {
            assert_eq!(of(none), "None", "{none}");
        }
    }

    #[test]
    fn tag_is_one_word() {
        assert_eq!(Purge::tag("a:1"), Some(Purge::Tag("a:1".to_owned())));
        for none in ["", "a b", "a,b", "\n"] {
            assert_eq!(Purge::tag(none), None, "{none:?}");
        }
    }
}
