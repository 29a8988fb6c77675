//! Filters: every request passes those of its route before its handler, and every answer passes them on
//! its way back, including the gateway's own.
//!
//! A filter is one file here with one type that implements [`Filter`]. The order stands in [`Chain::new`]
//! and nowhere else. No request gets around it: a handler takes a [`Permit`], which only [`Chain::admit`]
//! gives. A client is sent only [`Cleared`] answers, which only a chain makes.
//!
//! | file | request | answer |
//! | --- | --- | --- |
//! | `compression` | notes the codings that the client takes, gives `If-Match` tags back | plans its coding |
//! | `https` | redirects to TLS | `Strict-Transport-Security` |
//! | `client_certificates` | refuses a request of a connection that was made for another name, or whose certificate is not good any more; tells the backend about the certificate | |
//! | `paths` | refuses paths that backends may read otherwise | |
//! | `body_limit` | refuses a body that says it is too large | |
//! | `max_forwards` | answers OPTIONS that goes no further | |
//! | `limits` | refuses a request above a limit of its client | |
//! | `auth` | refuses a request without the password of a user, or that a server does not let in | adds the server's cookies |
//! | `header_rules` | applies the rules of the configuration | applies those for answers |
//! | `prefix_rewrite` | gives backends another beginning of the path | |
//! | `loops` | refuses a request that has passed here before | |
//! | `stickiness` | finds the client's sticky key | sets its cookie |

mod auth;
mod body_limit;
mod client_certificates;
mod compression;
mod header_rules;
mod https;
mod limits;
mod loops;
mod max_forwards;
mod paths;
mod prefix_rewrite;
mod stickiness;

use std::io;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::body::Bytes;
use lb_common::abi::{BackendId, ServiceId};
use lb_http1::ResponseHead;

use super::answers::Answer;
use super::auth::{RouteAuth, Servers};
use super::forwarded::{self, Via};
use super::request::{Backends, Request};
use super::routes::Guards;
use super::sticky::cookie::Cookies;
use super::tls::ClientAuth;
use lb_config::http::{Algorithm, HttpService, Route, Settings};
pub(super) use limits::{LimitOrigin, LimitTerms};

/// A filter sees every request of its routes, and every answer to one.
pub(super) trait Filter: Send + Sync {
    /// Looks at a request before its handler, and may change it.
    fn request(&self, _request: &mut Request, _backends: &dyn Backends) -> Verdict {
        Ok(None)
    }

    /// Changes a request whose backend is chosen. It is called for each backend that is tried.
    fn backend_chosen(
        &self,
        _request: &mut Request,
        _backends: &dyn Backends,
        _backend: BackendId,
    ) {
    }

    /// Changes an answer before its client gets it.
    fn response(&self, _request: &Request, _backends: &dyn Backends, _response: &mut Response<'_>) {
    }
}

/// The verdict of a filter on a request: pass, an answer in the place of the handler's, or a refusal.
pub(super) type Verdict = Result<Option<Answer>, Refusal>;

/// A refusal of a request: the page of its status is shown.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// A field that the page's head gets.
    pub(super) field: Option<(&'static str, String)>,
    /// The word for it in the access log.
    pub(super) why: Option<&'static str>,
}

impl From<StatusCode> for Refusal {
    fn from(status: StatusCode) -> Self {
        Self {
            status,
            field: None,
            why: None,
        }
    }
}

/// Why a request does not come to its handler.
pub(super) enum Stopped {
    /// It has its answer.
    Answered(Answer),
    /// It is refused.
    Refused(Refusal),
    /// It is refused, with the answer of the server that was asked.
    Denied(Answer),
}

/// The source of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A backend.
    Backend(BackendId),
    /// The configuration of the route: a redirect, or a fixed answer.
    Route,
    /// Files.
    Files,
    /// A stored answer of a backend.
    Cache,
    /// A filter, or the gateway: it says why there is no other answer.
    Gateway,
}

/// An answer on its way through the filters.
pub(super) struct Response<'a> {
    pub(super) source: Source,
    pub(super) head: &'a mut ResponseHead,
    /// Bytes of its body, if that is known.
    pub(super) length: Option<u64>,
    /// The coding that its body is to get.
    pub(super) coding: Option<Algorithm>,
}

/// Says that all filters have let a request pass.
pub(super) struct Permit(());

impl Permit {
    /// For the same request, which asks again by itself.
    pub(super) const fn again(&self) -> Self {
        Self(())
    }
}

/// An answer that has passed all filters, and may be sent to the client.
pub(super) struct Cleared<T>(T);

impl<T> Cleared<T> {
    /// The answer to send.
    pub(super) fn into_inner(self) -> T {
        self.0
    }
}

/// The settings of a route for its chain, beside its rules.
pub(super) struct Terms<'a> {
    /// Bytes of a body; `None` for any number.
    pub(super) body: Option<u64>,
    /// Which paths are read otherwise by others, and its own place among the routes.
    pub(super) guards: Option<(Arc<Guards>, usize)>,
    /// Its backends; `None` if it answers by itself.
    pub(super) proxied: Option<Proxied>,
    /// The verification of the certificates of clients.
    pub(super) client: Option<Arc<ClientAuth>>,
    /// Its authentication.
    pub(super) auth: Option<RouteAuth>,
    /// Headers in which its client has no say, although its own authentication does not set them.
    pub(super) foreign: Vec<Vec<u8>>,
    /// The counts of its limits.
    pub(super) limits: LimitTerms<'a>,
}

/// The facts about a route's backends that filters need.
pub(super) struct Proxied {
    /// Their service; `None` before it has tables.
    pub(super) service: Option<ServiceId>,
    /// Their cookies, if clients are known by them.
    pub(super) cookies: Option<Cookies>,
    /// Names this service to others.
    pub(super) via: Via,
}

/// The filters of one route.
pub(super) struct Chain {
    /// Before the authentication: they see the request as the client sent it.
    before: Vec<Box<dyn Filter>>,
    /// The authentication, which may wait for the hash of a password, or for another server.
    auth: Option<RouteAuth>,
    /// Headers that are removed after it.
    foreign: Vec<Vec<u8>>,
    after: Vec<Box<dyn Filter>>,
}

impl Chain {
    /// Those of `route` of a service, or of its requests without one. Requests pass them from the first to
    /// the last, answers from the last to the first.
    pub(super) fn new(http: &HttpService, route: Option<&Route>, terms: Terms<'_>) -> Self {
        // Every setting is named here: a new one does not compile before it has its place.
        let HttpService {
            name,
            listen: _,
            tls,
            settings,
            request_limits,
            // Those of other routes matter for `guards` (`parts`).
            routes: _,
        } = http;
        let Settings {
            compression,
            stickiness,
            request_headers,
            response_headers,
            // Every request is read by these (`context`).
            trusted_proxies: _,
            forwarded: _,
            underscore_headers: _,
            allow_client_headers: _,
            upgrade: _,
            // Of the guards (`parts`).
            ambiguous_paths: _,
            // Of connections, backends and answers (`serve`, `reach`, `exchange`, `edge`, `pages`).
            proxy_protocol: _,
            send_proxy_protocol: _,
            upstream: _,
            access_log: _,
            tracing: _,
            errors: _,
            // Merged with those of the route (`parts`).
            timeouts: _,
            limits: _,
            protocol: _,
            // Beyond the filters (`serve_cached`).
            cache: _,
            // Of the authentication (`compiled`).
            auth: _,
        } = settings;
        let route_rules = route.map(|route| (&*route.request_headers, &*route.response_headers));
        let (of_requests, of_responses) = route_rules.unwrap_or_default();
        let limits_of_route = route.map_or(&[][..], |route| &route.request_limits);
        let (via, sticky) = match terms.proxied {
            Some(Proxied {
                service,
                cookies,
                via,
            }) => (Some(via), Some((service, cookies))),
            None => (None, None),
        };
        let before = [
            compression::filter(compression),
            https::filter(tls.as_ref()),
            client_certificates::filter(terms.client, request_headers.iter().chain(of_requests)),
            paths::filter(terms.guards),
            body_limit::filter(terms.body),
            max_forwards::filter(),
            limits::filter(
                name,
                request_limits.iter().chain(limits_of_route),
                &terms.limits,
            ),
        ];
        let after = [
            header_rules::filter(
                name,
                request_headers.iter().chain(of_requests),
                response_headers.iter().chain(of_responses),
            ),
            prefix_rewrite::filter(
                route.map_or("", |route| &route.path),
                route.and_then(|route| route.prefix_rewrite.as_deref()),
            ),
            loops::filter(via),
            stickiness::filter(stickiness, sticky),
        ];
        Self {
            before: before.into_iter().flatten().collect(),
            auth: terms.auth,
            foreign: terms.foreign,
            after: after.into_iter().flatten().collect(),
        }
    }

    /// Whether it has an authentication.
    pub(super) const fn has_auth(&self) -> bool {
        self.auth.is_some()
    }

    /// Has all filters look at a request.
    pub(super) async fn admit(
        &self,
        request: &mut Request,
        backends: &dyn Backends,
        servers: Servers<'_>,
    ) -> Result<Permit, Stopped> {
        pass(&self.before, request, backends)?;
        if let Some(auth) = &self.auth {
            auth::check(auth, request, servers).await?;
        }
        for name in &self.foreign {
            forwarded::remove_alike(&mut request.head.fields, name);
        }
        pass(&self.after, request, backends)?;
        Ok(Permit(()))
    }

    /// All filters in their order.
    fn all(&self) -> impl DoubleEndedIterator<Item = &dyn Filter> {
        let all = self.before.iter().chain(&self.after);
        all.map(|filter| &**filter)
    }

    /// Tells the filters which backend was chosen.
    pub(super) fn backend_chosen(
        &self,
        request: &mut Request,
        backends: &dyn Backends,
        backend: BackendId,
    ) {
        for filter in self.all() {
            filter.backend_chosen(request, backends, backend);
        }
    }

    /// Has all filters look at the head of an answer whose body has `length` bytes, if that is known.
    /// With it comes the coding that the body is to get.
    pub(super) fn clear(
        &self,
        request: &Request,
        backends: &dyn Backends,
        source: Source,
        mut head: ResponseHead,
        length: Option<u64>,
    ) -> (Cleared<ResponseHead>, Option<Algorithm>) {
        let mut response = Response {
            source,
            head: &mut head,
            length,
            coding: None,
        };
        for filter in self.all().rev() {
            filter.response(request, backends, &mut response);
        }
        let coding = response.coding;
        auth::add_cookies(request, &mut head);
        (Cleared(head), coding)
    }

    /// Has all filters look at an answer that is at hand. `code` compresses its body.
    pub(super) fn clear_answer(
        &self,
        request: &Request,
        backends: &dyn Backends,
        source: Source,
        answer: Answer,
        code: &dyn Fn(Algorithm, &Bytes) -> io::Result<Bytes>,
    ) -> Cleared<Answer> {
        let Answer {
            head,
            mut body,
            is_page,
        } = answer;
        let length = Some(body.len() as u64);
        let (Cleared(mut head), coding) = self.clear(request, backends, source, head, length);
        if let Some(algorithm) = coding
            && !body.is_empty()
        {
            match code(algorithm, &body) {
                Ok(coded) => body = coded,
                Err(error) => {
                    tracing::error!(%error, "an answer cannot be compressed");
                    head.fields.remove(lb_http1::Name::ContentEncoding);
                }
            }
        }
        Cleared(Answer {
            head,
            body,
            is_page,
        })
    }
}

/// Has filters look at a request.
fn pass(
    filters: &[Box<dyn Filter>],
    request: &mut Request,
    backends: &dyn Backends,
) -> Result<(), Stopped> {
    for filter in filters {
        match filter.request(request, backends) {
            Ok(None) => {}
            Ok(Some(answer)) => return Err(Stopped::Answered(answer)),
            Err(refusal) => return Err(Stopped::Refused(refusal)),
        }
    }
    Ok(())
}
