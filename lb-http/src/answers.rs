//! Answers of the gateway's own.

use hyper::StatusCode;
use hyper::body::Bytes;
use lb_http1::{Name, ResponseHead};

use super::pages::Shown;

/// An answer that is at hand as a whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: ResponseHead,
    pub(super) body: Bytes,
    /// It says why there is no other answer.
    pub(super) is_page: bool,
}

impl Answer {
    /// One without a body.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self {
            head: ResponseHead::new(status),
            body: Bytes::new(),
            is_page: false,
        }
    }

    /// One with a body of this type.
    pub(super) fn new(status: StatusCode, content_type: &str, body: Bytes) -> Self {
        let mut answer = Self::empty(status);
        let fields = &mut answer.head.fields;
        fields.append(Name::ContentType, content_type.as_bytes());
        if status == StatusCode::METHOD_NOT_ALLOWED {
            fields.append(Name::Allow, ALLOWED);
        }
        answer.body = body;
        answer
    }
}

/// The methods that are passed on, of those that are registered.
const ALLOWED: &[u8] = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

const TEXT: &str = "text/plain; charset=utf-8";

/// A line of text that explains the status.
pub(super) fn plain(status: StatusCode) -> Answer {
    Answer::new(status, TEXT, format!("{status}\n").into())
}

/// A page for `status`.
pub(super) fn page(status: StatusCode, shown: Shown) -> Answer {
    Answer {
        is_page: true,
        ..Answer::new(status, shown.content_type, shown.body)
    }
}

/// An answer to a poll of Engine.IO.
pub(super) fn packet(packet: &'static str) -> Answer {
    let mut answer = Answer::new(StatusCode::OK, TEXT, Bytes::from_static(packet.as_bytes()));
    answer.head.fields.append(Name::CacheControl, b"no-store");
    answer
}
