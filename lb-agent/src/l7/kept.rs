//! The head of a request, kept for sending it again.
//!
//! Nearly none is sent again. So it is kept as plain bytes, in a buffer that the thread uses again:
//! the copy of a header map takes two allocations, and counts up and down for each field.

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};

use super::body::RequestBody;
use super::spare;

/// A request without a body.
pub(super) struct Kept {
    method: Method,
    uri: Uri,
    /// Names and values in turn, each after its length.
    fields: Vec<u8>,
}

impl Kept {
    /// Keeps the head of `request`.
    pub(super) fn new<B>(request: &Request<B>) -> Self {
        let mut fields = spare::take();
        for (name, value) in request.headers() {
            for text in [name.as_str().as_bytes(), value.as_bytes()] {
                fields.extend_from_slice(&text.len().to_ne_bytes());
                fields.extend_from_slice(text);
            }
        }
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            fields,
        }
    }

    /// The same request once more.
    pub(super) fn request(&self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        let mut rest = self.fields.as_slice();
        while let (Some(name), Some(value)) = (next(&mut rest), next(&mut rest)) {
            // Both were taken out of a header.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                request.headers_mut().append(name, value);
            }
        }
        request
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        spare::give(std::mem::take(&mut self.fields));
    }
}

/// Takes a text off the front of `rest`.
fn next<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(usize::from_ne_bytes(*length))?;
    *rest = after;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_sent_again_as_it_was() {
        let sent = Request::put("/a?b=c")
            .header("x-a", "1")
            .header("host", "a.test")
            .header("x-a", "2")
            .header("x-b", HeaderValue::from_bytes(b"\xe9\"").unwrap())
            .header("x-empty", "")
            .body(RequestBody::Empty)
            .unwrap();
        for _ in 0..2 {
            let again = Kept::new(&sent).request();
            assert_eq!(again.method(), sent.method());
            assert_eq!(again.uri(), sent.uri());
            assert_eq!(again.version(), hyper::Version::HTTP_11);
            assert_eq!(again.headers(), sent.headers());
        }
    }
}
