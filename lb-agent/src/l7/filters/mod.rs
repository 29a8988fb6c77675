//! Filters: every request passes those of its route before its handler, and every answer passes them on
//! its way back, whoever gives it.
//!
//! A filter is one file here with one type that implements [`Filter`]. The order stands in [`Chain::new`]
//! and nowhere else. Nothing gets around it: a handler takes a [`Permit`], which only [`Chain::admit`]
//! gives, and what is sent to a client is [`Cleared`], which only a chain makes.
//!
//! | file | request | answer |
//! | --- | --- | --- |
//! | `compression` | notes what the client takes, gives `If-Match` tags back | plans its coding |
//! | `https` | redirects to TLS | `Strict-Transport-Security` |
//! | `paths` | refuses paths that backends may read otherwise | |
//! | `body_limit` | refuses a body that says it is too large | |
//! | `max_forwards` | answers OPTIONS that goes no further | |
//! | `header_rules` | applies the rules of the configuration | applies those for answers |
//! | `loops` | refuses a request that has passed here before | |
//! | `stickiness` | finds out by what the client is known | sets its cookie |

mod body_limit;
mod compression;
mod header_rules;
mod https;
mod loops;
mod max_forwards;
mod paths;
mod stickiness;

use hyper::StatusCode;
use hyper::body::Bytes;
use lb_common::abi::BackendId;
use lb_http::ResponseHead;

use super::answers::Answer;
use super::compress;
use super::context::RequestContext;
use crate::config::http::{Algorithm, HttpService, Route, Settings};

/// What looks at every request of its routes, and at every answer to one.
pub(super) trait Filter: Send + Sync {
    /// Looks at a request before its handler, and may change it. An answer is given in the place of the
    /// handler's; an error is the status of a request that is refused.
    fn request(&self, _context: &mut RequestContext) -> Result<Option<Answer>, StatusCode> {
        Ok(None)
    }

    /// Changes a request whose backend is chosen. It is called for each backend that is tried.
    fn backend_chosen(&self, _context: &mut RequestContext, _backend: BackendId) {}

    /// Changes an answer before its client gets it.
    fn response(&self, _context: &RequestContext, _response: &mut Response<'_>) {}
}

/// Who gives an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A backend.
    Backend(BackendId),
    /// The configuration of the route: a redirect, or a fixed answer.
    Route,
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

/// What all filters have seen, and may be sent to the client.
pub(super) struct Cleared<T>(T);

impl<T> Cleared<T> {
    /// What is to be sent.
    pub(super) fn into_inner(self) -> T {
        self.0
    }
}

/// What a route comes to, beside its rules.
pub(super) struct Terms {
    /// Bytes of a body; `None` for any number.
    pub(super) body: Option<u64>,
    /// Backends answer.
    pub(super) is_proxied: bool,
}

/// The filters of one route.
pub(super) struct Chain(Vec<Box<dyn Filter>>);

impl Chain {
    /// Those of `route` of a service, or of its requests without one. Requests pass them from the first to
    /// the last, answers from the last to the first.
    pub(super) fn new(http: &HttpService, route: Option<&Route>, terms: &Terms) -> Self {
        // Every setting is named here: a new one does not compile before it has its place.
        let HttpService {
            name: _,
            listen: _,
            tls,
            settings,
            routes,
        } = http;
        let Settings {
            compression,
            ambiguous_paths,
            request_headers,
            response_headers,
            // Every request is read by these (`context`).
            trusted_proxies: _,
            forwarded: _,
            underscore_headers: _,
            allow_client_headers: _,
            upgrade: _,
            stickiness: _,
            // Of connections, backends and answers (`serve`, `reach`, `exchange`, `edge`, `pages`).
            proxy_protocol: _,
            send_proxy_protocol: _,
            upstream: _,
            access_log: _,
            errors: _,
            // Merged with those of the route (`parts`).
            timeouts: _,
            limits: _,
        } = settings;
        let route_rules = route.map(|route| (&*route.request_headers, &*route.response_headers));
        let (of_requests, of_responses) = route_rules.unwrap_or_default();
        let filters = [
            compression::filter(compression),
            https::filter(tls.as_ref()),
            paths::filter(*ambiguous_paths, routes),
            body_limit::filter(terms.body),
            max_forwards::filter(),
            header_rules::filter(
                request_headers.iter().chain(of_requests),
                response_headers.iter().chain(of_responses),
            ),
            loops::filter(terms.is_proxied),
            stickiness::filter(terms.is_proxied),
        ];
        Self(filters.into_iter().flatten().collect())
    }

    /// Has all filters look at a request. The error is the answer in the place of the handler's.
    pub(super) fn admit(&self, context: &mut RequestContext) -> Result<Permit, Cleared<Answer>> {
        for filter in &self.0 {
            let stopped = match filter.request(context) {
                Ok(None) => continue,
                Ok(Some(answer)) => answer,
                Err(status) => context.page(status),
            };
            return Err(self.clear_answer(context, Source::Gateway, stopped));
        }
        Ok(Permit(()))
    }

    /// Tells the filters which backend was chosen.
    pub(super) fn backend_chosen(&self, context: &mut RequestContext, backend: BackendId) {
        for filter in &self.0 {
            filter.backend_chosen(context, backend);
        }
    }

    /// Has all filters look at the head of an answer whose body has `length` bytes, if that is known.
    /// With it comes the coding that the body is to get.
    pub(super) fn clear(
        &self,
        context: &RequestContext,
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
        for filter in self.0.iter().rev() {
            filter.response(context, &mut response);
        }
        let coding = response.coding;
        (Cleared(head), coding)
    }

    /// Has all filters look at an answer that is at hand.
    pub(super) fn clear_answer(
        &self,
        context: &RequestContext,
        source: Source,
        answer: Answer,
    ) -> Cleared<Answer> {
        let Answer { head, mut body } = answer;
        let length = Some(body.len() as u64);
        let (Cleared(mut head), coding) = self.clear(context, source, head, length);
        if let Some(algorithm) = coding
            && !body.is_empty()
        {
            match compress::whole(algorithm, &body) {
                Ok(coded) => body = Bytes::from(coded),
                Err(error) => {
                    tracing::error!(%error, "an answer cannot be compressed");
                    head.fields.remove(lb_http::Name::ContentEncoding);
                }
            }
        }
        Cleared(Answer { head, body })
    }
}
