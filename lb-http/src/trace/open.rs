//! The spans of a request under way. At its end they go to the queue.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use lb_config::http::Route;
use lb_http1::{Name, RequestHead};

use super::context::TraceContext;
use super::queue::SpanQueue;
use super::span::{SpanIds, Spans, UpstreamPart};

/// Bytes of a text that a span holds at most: the queue's memory is bounded by them.
const LONGEST: usize = 1024;

/// The facts about a request beside its head.
pub(crate) struct Facts<'a> {
    pub(crate) context: TraceContext,
    pub(crate) ids: SpanIds,
    pub(crate) scheme: &'static str,
    pub(crate) client: IpAddr,
    pub(crate) service: &'a str,
    pub(crate) route: Option<&'a Route>,
}

/// The spans of a request that is not over, with the queue for its end.
pub(crate) struct OpenSpans {
    queue: Arc<SpanQueue>,
    spans: Spans,
}

impl OpenSpans {
    /// Those of a request that has just come.
    pub(crate) fn begin(queue: &Arc<SpanQueue>, head: &RequestHead, facts: &Facts<'_>) -> Self {
        let states: Vec<&[u8]> = head.fields.all(Name::Tracestate).collect();
        let spans = Spans {
            context: facts.context,
            ids: facts.ids,
            state: text(&states.join(&b','), 512),
            begun: SystemTime::now(),
            total: Duration::ZERO,
            method: head.method.clone(),
            path: text(head.path(), LONGEST),
            scheme: facts.scheme,
            host: text(head.host(), 256),
            version: head.version,
            client: facts.client,
            service: facts.service.to_owned(),
            route: facts.route.map(route_path),
            route_name: facts.route.and_then(|route| route.name.clone()),
            status: None,
            is_aborted: false,
            upstream: None,
        };
        Self {
            queue: Arc::clone(queue),
            spans,
        }
    }

    /// A backend was reached, so long after the head of the request. The last one counts.
    pub(crate) fn reached(&mut self, backend: &str, why: &'static str, begun: Duration) {
        self.spans.upstream = Some(UpstreamPart {
            backend: backend.to_owned(),
            why,
            begun,
            first_byte: None,
        });
    }

    /// The head of the backend's answer is there.
    pub(crate) const fn first_byte(&mut self, after: Duration) {
        if let Some(upstream) = &mut self.spans.upstream {
            upstream.first_byte = Some(after);
        }
    }

    /// The request is over: the spans go to the queue, or are dropped.
    pub(crate) fn end(mut self, status: Option<StatusCode>, is_aborted: bool, total: Duration) {
        self.spans.status = status;
        self.spans.is_aborted = is_aborted;
        self.spans.total = total;
        self.queue.put(self.spans);
    }
}

/// The path of a route as its configuration has it.
fn route_path(route: &Route) -> String {
    match route.path.as_str() {
        "" => "/".to_owned(),
        path => path.to_owned(),
    }
}

/// At most so many bytes of a text from the network.
fn text(bytes: &[u8], longest: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(longest)]).into_owned()
}
