//! Traces: `traceparent` and `tracestate` of requests (W3C Trace Context, <https://www.w3.org/TR/trace-context/>), and the
//! spans of sampled requests for a collector of OpenTelemetry.
//!
//! | file | owns |
//! | --- | --- |
//! | `context` | the value of `traceparent` |
//! | `span` | the spans of a request |
//! | `open` | the spans of a request under way |
//! | `queue` | the queue from the workers to the exporter |
//! | `otlp` | spans in the JSON of OTLP |
//! | `exporter` | the thread that sends batches of them |

mod context;
mod exporter;
mod open;
mod otlp;
mod queue;
mod span;

use lb_config::http::Tracing;
use lb_http1::{Fields, Name};

use context::SpanId;
pub(crate) use context::TraceContext;
pub(crate) use exporter::Exporter;
pub(crate) use open::{Facts, OpenSpans};
pub use queue::SpanFigures;
pub(crate) use queue::SpanQueue;
pub(crate) use span::SpanIds;

/// The trace of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Followed {
    /// As its backend gets it.
    pub(crate) context: TraceContext,
    /// Its spans; `None` if they are not exported.
    pub(crate) ids: Option<SpanIds>,
}

impl Followed {
    /// The trace with the request's own span, where it has one.
    pub(crate) fn own(&self) -> TraceContext {
        let span = self.ids.map_or(self.context.span, |ids| ids.server);
        TraceContext {
            span,
            ..self.context
        }
    }
}

/// Follows the trace of a request. Without `tracing` nothing is changed. With it a request without a valid
/// `traceparent` begins a trace, and loses its `tracestate` (section 3.2.2 of the specification). A sampled request gets
/// another parent id, if its spans are exported.
pub(crate) fn follow(
    fields: &mut Fields,
    tracing: Option<&Tracing>,
    is_exported: bool,
) -> Option<Followed> {
    let known = fields.only(Name::Traceparent).and_then(TraceContext::parse);
    let unchanged = |context| Followed { context, ids: None };
    let Some(tracing) = tracing else {
        return known.map(unchanged);
    };
    let mut context = known.unwrap_or_else(|| TraceContext::begin(tracing.sample_millionths));
    let is_recorded = is_exported && context.is_sampled;
    if known.is_some() && !is_recorded {
        return known.map(unchanged);
    }
    if known.is_none() {
        fields.remove(Name::Tracestate);
    }
    let ids = is_recorded.then(|| SpanIds {
        server: SpanId::generate(),
        parent: known.map(|known| known.span),
    });
    if is_recorded {
        context.span = SpanId::generate();
    }
    fields.set(Name::Traceparent, &context.to_field());
    Some(Followed { context, ids })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn fields(parents: &[&[u8]]) -> Fields {
        let mut fields = Fields::new();
        for parent in parents {
            fields.append(Name::Traceparent, parent);
        }
        fields.append(Name::Tracestate, b"a=1");
        fields
    }

    #[test]
    fn valid_trace_is_passed_on_as_it_is() {
        let tracing = Tracing::default();
        for (parent, tracing, is_exported) in [
            (PARENT, None, true),
            (PARENT, Some(&tracing), false),
            (UNSAMPLED, Some(&tracing), true),
        ] {
            let mut fields = fields(&[parent]);
            let followed = follow(&mut fields, tracing, is_exported).unwrap();
            assert_eq!(Some(followed.context), TraceContext::parse(parent));
            assert_eq!((followed.ids, followed.own()), (None, followed.context));
            assert_eq!(fields.get(Name::Traceparent), Some(parent));
            assert_eq!(fields.get(Name::Tracestate), Some(&b"a=1"[..]));
        }
    }

    #[test]
    fn request_without_a_valid_trace_begins_one_if_that_is_wanted() {
        let nonsense: &[u8] = b"00-nonsense";
        for parents in [&[][..], &[nonsense], &[PARENT, PARENT]] {
            let mut untouched = fields(parents);
            assert_eq!(follow(&mut untouched, None, true), None);
            assert_eq!(untouched.all(Name::Traceparent).count(), parents.len());
            assert!(untouched.has(Name::Tracestate));
            let mut begun = fields(parents);
            let followed = follow(&mut begun, Some(&Tracing::default()), true).unwrap();
            let written = begun.only(Name::Traceparent).unwrap();
            assert_eq!(TraceContext::parse(written), Some(followed.context));
            assert!(!followed.context.is_sampled && followed.ids.is_none());
            assert!(!begun.has(Name::Tracestate));
        }
    }

    #[test]
    fn sampled_request_gets_spans_where_they_are_exported() {
        let tracing = Tracing {
            sample_millionths: 1_000_000,
        };
        for parents in [&[][..], &[PARENT]] {
            let mut fields = fields(parents);
            let Followed { context, ids } = follow(&mut fields, Some(&tracing), true).unwrap();
            let ids = ids.unwrap();
            let known = parents
                .first()
                .map(|parent| TraceContext::parse(parent).unwrap());
            assert_eq!(ids.parent, known.map(|known| known.span));
            assert!(known.is_none_or(|known| known.trace == context.trace));
            assert!(context.is_sampled && context.span != ids.server);
            assert_ne!(Some(context.span), ids.parent);
            assert_eq!(fields.get(Name::Traceparent), Some(&context.to_field()[..]));
            assert_eq!(fields.has(Name::Tracestate), known.is_some());
        }
    }
}
