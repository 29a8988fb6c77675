//! Finds the sticky key of a request (see `sticky`), and sets the cookie that carries it.

use hyper::StatusCode;
use lb_common::abi::ServiceId;
use lb_http1::{Fields, Name, list};

use super::{Filter, Response, Source, Verdict};
use crate::request::{Backends, Request};
use crate::sticky::cookie::Cookies;
use crate::sticky::{self, Key, Memory, StickyAction};
use lb_config::http::Stickiness;

struct Sticky {
    stickiness: Stickiness,
    /// The service of the route's backends; `None` before it has tables.
    service: Option<ServiceId>,
    /// Their cookies, if clients are known by them.
    cookies: Option<Cookies>,
}

pub(super) fn filter(
    stickiness: &Stickiness,
    proxied: Option<(Option<ServiceId>, Option<Cookies>)>,
) -> Option<Box<dyn Filter>> {
    let (service, cookies) = proxied?;
    Some(Box::new(Sticky {
        stickiness: stickiness.clone(),
        service,
        cookies,
    }))
}

impl Filter for Sticky {
    fn request(&self, request: &mut Request, backends: &dyn Backends) -> Verdict {
        if let Some(table) = self.service.and_then(|id| backends.table(id)) {
            let memory = Memory {
                cookies: self.cookies.as_ref(),
                sessions: backends.sessions(),
            };
            request.sticky = sticky::known(
                &self.stickiness,
                table,
                request.asker.ip,
                &request.head.fields,
                request.head.query(),
                memory,
            );
        }
        if request.sticky.action == StickyAction::Learn {
            // The handshake is read on its way: it has to come as it is.
            request.head.fields.remove(Name::AcceptEncoding);
        }
        Ok(None)
    }

    fn response(&self, request: &Request, backends: &dyn Backends, response: &mut Response<'_>) {
        let Source::Backend(backend) = response.source else {
            return;
        };
        let fields = &mut response.head.fields;
        match &request.sticky.action {
            // An answer in a shared cache would bring all of its clients to one backend.
            StickyAction::Cookie
                if request.sticky.key != Key::Backend(backend) && !is_shared(fields) =>
            {
                let cookies = self.cookies.as_ref();
                if let Some(value) = cookies.and_then(|all| all.set(backend, request.asker.https)) {
                    fields.append(Name::SetCookie, value.as_bytes());
                }
            }
            // "Session ID unknown", or a request that does not fit it: either way the remembered session is
            // of no use.
            StickyAction::Session(sid) if response.head.status == StatusCode::BAD_REQUEST => {
                if let Some(service) = self.service {
                    backends.sessions().forget(service, sid);
                }
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
