//! Another beginning of the path for backends.

use std::borrow::Cow;

use hyper::StatusCode;
use lb_config::http::path;

use super::{Filter, Verdict};
use crate::request::{Backends, Request};

/// The header that tells backends what was taken off.
const PREFIX: &[u8] = b"X-Forwarded-Prefix";

struct PrefixRewrite {
    /// The path of the route; empty for every path.
    of_route: String,
    /// What backends get in its place; empty for nothing.
    instead: String,
}

pub(super) fn filter(of_route: &str, instead: Option<&str>) -> Option<Box<dyn Filter>> {
    Some(Box::new(PrefixRewrite {
        of_route: of_route.to_owned(),
        instead: instead?.to_owned(),
    }))
}

impl PrefixRewrite {
    /// Whether a backend may read a rewritten path as one that is not below the new beginning.
    fn is_left_by(&self, rewritten: &[u8]) -> bool {
        if self.instead.is_empty() {
            return false;
        }
        let is_outside = |reading: &String| {
            let plain = path::normal(reading);
            let rest = plain.strip_prefix(self.instead.as_str());
            !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let sent = String::from_utf8_lossy(rewritten);
        path::readings(&sent).is_some_and(|all| all.iter().any(is_outside))
    }
}

impl Filter for PrefixRewrite {
    fn request(&self, request: &mut Request, _backends: &dyn Backends) -> Verdict {
        let target = request.head.target();
        if target.first() != Some(&b'/') {
            // `OPTIONS *` has no path.
            return Ok(None);
        }
        let asked = request.head.path();
        let text = String::from_utf8_lossy(asked);
        let plain = path::normal(&text);
        let rest = match (&plain, &text) {
            // As it came, so that bytes that are no UTF-8 stay.
            (Cow::Borrowed(_), _) => asked.get(self.of_route.len()..),
            (Cow::Owned(plain), Cow::Borrowed(_)) => plain.as_bytes().get(self.of_route.len()..),
            (Cow::Owned(_), Cow::Owned(_)) => return Err(StatusCode::BAD_REQUEST.into()),
        };
        let rest = rest.unwrap_or_default();
        let mut rewritten = Vec::with_capacity(target.len() + self.instead.len() + 1);
        rewritten.extend_from_slice(self.instead.as_bytes());
        if rest.first() != Some(&b'/') && (self.instead.is_empty() || !rest.is_empty()) {
            rewritten.push(b'/');
        }
        rewritten.extend_from_slice(rest);
        if self.is_left_by(&rewritten) {
            return Err(StatusCode::BAD_REQUEST.into());
        }
        if let Some(query) = request.head.query() {
            rewritten.push(b'?');
            rewritten.extend_from_slice(query);
        }
        request.head.rewrite(&rewritten);
        if !self.of_route.is_empty() {
            let fields = &mut request.head.fields;
            fields.set_called(PREFIX, self.of_route.as_bytes());
        }
        Ok(None)
    }
}
