//! By what a client is known (see `sticky`), and the cookie that makes it known.

use hyper::StatusCode;
use lb_http::{Fields, Name, list};

use super::{Filter, Response, Source};
use crate::l7::answers::Answer;
use crate::l7::context::RequestContext;
use crate::l7::sticky::{Key, Then};

struct Stickiness;

pub(super) fn filter(is_proxied: bool) -> Option<Box<dyn Filter>> {
    is_proxied.then(|| Box::new(Stickiness) as Box<dyn Filter>)
}

impl Filter for Stickiness {
    fn request(&self, context: &mut RequestContext) -> Result<Option<Answer>, StatusCode> {
        context.recognize();
        if context.known.then == Then::Learn {
            // The handshake is read on its way: it has to come as it is.
            context.head.fields.remove(Name::AcceptEncoding);
        }
        Ok(None)
    }

    fn response(&self, context: &RequestContext, response: &mut Response<'_>) {
        let Source::Backend(backend) = response.source else {
            return;
        };
        let fields = &mut response.head.fields;
        match &context.known.then {
            // An answer that a shared cache may keep would bring everybody to one backend.
            Then::Cookie if context.known.key != Key::Backend(backend) && !is_shared(fields) => {
                if let Some(value) = context.cookie_of(backend) {
                    fields.append(Name::SetCookie, value.as_bytes());
                }
            }
            // "Session ID unknown", or a request that does not fit it: either way what is
            // remembered is of no use.
            Then::Session(_) if response.head.status == StatusCode::BAD_REQUEST => {
                context.forget_session();
            }
            _ => {}
        }
    }
}

/// Whether a shared cache may store an answer because it says so (RFC 9111, section 3).
fn is_shared(fields: &Fields) -> bool {
    let has = |wanted| list::has(fields.all(Name::CacheControl), wanted);
    let is_fresh = || {
        list::members(fields.all(Name::CacheControl)).any(|directive| {
            let starts = |name: &[u8]| {
                let start = directive.get(..name.len());
                start.is_some_and(|start| start.eq_ignore_ascii_case(name))
            };
            (starts(b"max-age=") && directive != b"max-age=0") || starts(b"s-maxage=")
        })
    };
    fields.has(Name::CacheControl)
        && !(has("private") || has("no-store") || has("no-cache"))
        && (has("public") || is_fresh())
}
