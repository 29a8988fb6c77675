//! Answers of the gateway's own.

use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use super::body::Body;
use super::pages::Shown;

/// A line of text that says what the status means.
pub(super) fn plain(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::full(format!("{status}\n")));
    *answer.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, text);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        answer.headers_mut().insert(header::ALLOW, allowed);
    }
    answer
}

/// A page for `status`.
pub(super) fn page(status: StatusCode, shown: Shown) -> Response<Body> {
    let mut answer = plain(status);
    *answer.body_mut() = Body::full(shown.body);
    let kind = HeaderValue::from_static(shown.content_type);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// What a poll of Engine.IO gets.
pub(super) fn packet(packet: &'static str) -> Response<Body> {
    let mut answer = plain(StatusCode::OK);
    *answer.body_mut() = Body::full(packet);
    let no_store = HeaderValue::from_static("no-store");
    answer.headers_mut().insert(header::CACHE_CONTROL, no_store);
    answer
}

/// The connection ends with this answer.
pub(super) fn close(answer: &mut Response<Body>) {
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(header::CONNECTION, close);
}

/// Counts `Max-Forwards` of OPTIONS down; at zero the answer is ours (RFC 9110, section 7.6.2).
pub(super) fn max_forwards(head: &mut Parts) -> Result<Option<Response<Body>>, StatusCode> {
    if head.method != Method::OPTIONS {
        return Ok(None);
    }
    let Some(value) = head.headers.get(header::MAX_FORWARDS) else {
        return Ok(None);
    };
    let left: u64 = value
        .to_str()
        .ok()
        .and_then(|left| left.trim().parse().ok())
        .ok_or(StatusCode::BAD_REQUEST)?;
    let Some(left) = left.checked_sub(1) else {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        return Ok(Some(answer));
    };
    head.headers
        .insert(header::MAX_FORWARDS, HeaderValue::from(left));
    Ok(None)
}
