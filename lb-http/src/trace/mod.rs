//! Traces: `traceparent` and `tracestate` of requests (W3C Trace Context, <https://www.w3.org/TR/trace-context/>).
//!
//! | file | owns |
//! | --- | --- |
//! | `context` | the value of `traceparent` |

mod context;

use lb_config::http::Tracing;
use lb_http1::{Fields, Name};

pub(crate) use context::TraceContext;

/// The trace of a request, as its backend gets it. Without `tracing` nothing is changed. With it a request without a
/// valid `traceparent` begins a trace, and loses its `tracestate` (section 3.2.2 of the specification).
pub(crate) fn follow(fields: &mut Fields, tracing: Option<&Tracing>) -> Option<TraceContext> {
    let known = fields.only(Name::Traceparent).and_then(TraceContext::parse);
    let Some(tracing) = tracing.filter(|_| known.is_none()) else {
        return known;
    };
    let context = TraceContext::begin(tracing.sample_millionths);
    fields.remove(Name::Tracestate);
    fields.set(Name::Traceparent, &context.to_field());
    Some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

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
        for tracing in [None, Some(&Tracing::default())] {
            let mut fields = fields(&[PARENT]);
            let context = follow(&mut fields, tracing);
            assert_eq!(context, TraceContext::parse(PARENT));
            assert_eq!(fields.get(Name::Traceparent), Some(PARENT));
            assert_eq!(fields.get(Name::Tracestate), Some(&b"a=1"[..]));
        }
    }

    #[test]
    fn request_without_a_valid_trace_begins_one_if_that_is_wanted() {
        let nonsense: &[u8] = b"00-nonsense";
        for parents in [&[][..], &[nonsense], &[PARENT, PARENT]] {
            let mut untouched = fields(parents);
            assert_eq!(follow(&mut untouched, None), None);
            assert_eq!(untouched.all(Name::Traceparent).count(), parents.len());
            assert!(untouched.has(Name::Tracestate));
            let mut begun = fields(parents);
            let context = follow(&mut begun, Some(&Tracing::default())).unwrap();
            let written = begun.only(Name::Traceparent).unwrap();
            assert_eq!(TraceContext::parse(written), Some(context));
            assert!(!context.is_sampled && !begun.has(Name::Tracestate));
        }
    }
}
