//! The spans of a request: one of the request itself, and one of its backend's part.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use hyper::{Method, StatusCode, Version};

use super::context::{SpanId, TraceContext};

/// The spans of a request, as they are exported.
#[derive(Clone)]
pub(crate) struct Spans {
    pub(super) context: TraceContext,
    pub(super) ids: SpanIds,
    /// The `tracestate` that came.
    pub(super) state: String,
    pub(super) begun: SystemTime,
    /// From the head of the request to the end of its answer.
    pub(super) total: Duration,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) scheme: &'static str,
    pub(super) host: String,
    pub(super) version: Version,
    pub(super) client: IpAddr,
    pub(super) service: String,
    /// The path of its route, and the name.
    pub(super) route: Option<String>,
    pub(super) route_name: Option<String>,
    pub(super) status: Option<StatusCode>,
    /// The answer was cut off, or there was none.
    pub(super) is_aborted: bool,
    pub(super) upstream: Option<UpstreamPart>,
}

/// The ids of the spans of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanIds {
    /// Of the request.
    pub(crate) server: SpanId,
    /// The span by which the client has sent it; `None` for a trace that begins here.
    pub(crate) parent: Option<SpanId>,
}

/// The last attempt of a backend. Times are since the head of the request.
#[derive(Clone)]
pub(super) struct UpstreamPart {
    pub(super) backend: String,
    pub(super) why: &'static str,
    pub(super) begun: Duration,
    /// The head of its answer; `None` if it has given none.
    pub(super) first_byte: Option<Duration>,
}
