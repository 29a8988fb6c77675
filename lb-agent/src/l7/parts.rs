//! What is made of a service's configuration for its requests: routes with their rules, limits and
//! cookies, and the pages for errors. Made anew whenever something changes, and never changed.

use std::collections::HashMap;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::body::Bytes;
use lb_common::abi::ServiceId;

use super::forwarded::Via;
use super::pages::Pages;
use super::routes::Router;
use super::rules::Rules;
use super::sticky::cookie::Cookies;
use crate::config::http::path;
use crate::config::http::{
    Action, AmbiguousPaths, HeaderRule, HttpService, Operation, Route, Stickiness, Template,
    Timeouts, Variable,
};
use crate::state::observed::Observed;

/// The parts of one service.
pub(super) struct Parts {
    router: Router,
    /// Some route answers by itself.
    guards: bool,
    /// One for each route, in their order; after them that of requests without one.
    lanes: Vec<Lane>,
    /// Names the service to others.
    pub(super) via: Via,
    /// What is shown for errors.
    pub(super) pages: Arc<Pages>,
}

/// What holds for the requests of one route.
pub(super) struct Lane {
    /// Where they go.
    pub(super) target: Target,
    /// Times.
    pub(super) timeouts: Timeouts,
    /// Bytes of a body; `None` for any number.
    pub(super) body: Option<u64>,
    /// Changes to a request before its backend is chosen.
    pub(super) request: Rules,
    /// Those that name the backend.
    pub(super) late: Rules,
    /// Changes to an answer.
    pub(super) response: Rules,
}

/// Where requests go.
pub(super) enum Target {
    /// To backends.
    Backends(Backends),
    /// Elsewhere, by themselves.
    Redirect { to: Template, status: StatusCode },
    /// Nowhere: they are answered.
    Answer {
        status: StatusCode,
        body: Bytes,
        content_type: String,
    },
}

/// Backends of a service, or of one inside it.
pub(super) struct Backends {
    /// Their service; `None` before it has tables.
    pub(super) service: Option<ServiceId>,
    /// Their cookies, if clients are known by them.
    pub(super) cookies: Option<Cookies>,
}

impl Parts {
    /// The parts of `http`, with tables as `observed`.
    fn new(http: &HttpService, observed: &Observed, pages: Arc<Pages>) -> Self {
        let secret = observed
            .service(&http.name)
            .and_then(|id| observed.tables.get(&id))
            .map_or([0, 0], |built| built.table().head.hash_key);
        let routed = http
            .routes
            .iter()
            .map(|route| Lane::new(http, Some(route), observed, secret));
        let own = std::iter::once_with(|| Lane::new(http, None, observed, secret));
        Self {
            router: Router::new(&http.routes),
            guards: http.settings.ambiguous_paths == AmbiguousPaths::Refuse
                && http
                    .routes
                    .iter()
                    .any(|route| !matches!(route.action, Action::Forward(_))),
            lanes: routed.chain(own).collect(),
            via: Via::new(secret, &http.name),
            pages,
        }
    }

    /// The lane that a request takes.
    pub(super) fn find(&self, host: &str, path: &str) -> usize {
        let own = self.lanes.len() - 1;
        self.router.find(host, path).unwrap_or(own)
    }

    /// Whether a backend may take this path for one of a route that answers by itself, or for one
    /// beside it, where this service does not: a slash, a backslash or a NUL in disguise, or
    /// parameters of a segment (RFC 3986, section 3.3).
    pub(super) fn is_evasive(&self, host: &str, path: &str, place: usize) -> bool {
        let is_guarded = |place: usize| !matches!(self.lanes[place].target, Target::Backends(_));
        self.guards
            && path::readings(path).is_some_and(|readings| {
                readings.iter().any(|reading| {
                    let other = self.find(host, reading);
                    other != place && (is_guarded(other) || is_guarded(place))
                })
            })
    }

    /// A lane by its place, which [`Parts::find`] gave.
    pub(super) fn lane(&self, place: usize) -> &Lane {
        &self.lanes[place]
    }
}

impl Lane {
    fn new(
        http: &HttpService,
        route: Option<&Route>,
        observed: &Observed,
        secret: [u64; 2],
    ) -> Self {
        let settings = &http.settings;
        let both = |own: &'_ [HeaderRule], more: Option<&'_ [HeaderRule]>| -> Vec<HeaderRule> {
            own.iter()
                .chain(more.unwrap_or_default())
                .cloned()
                .collect()
        };
        let request = both(
            &settings.request_headers,
            route.map(|route| route.request_headers.as_slice()),
        );
        let response = both(
            &settings.response_headers,
            route.map(|route| route.response_headers.as_slice()),
        );
        let mut timeouts = settings.timeouts.clone();
        let mut body = settings.limits.body;
        if let Some(route) = route {
            let own = &route.timeouts;
            timeouts.body = own.body.unwrap_or(timeouts.body);
            timeouts.first_byte = own.first_byte.unwrap_or(timeouts.first_byte);
            timeouts.tunnel = own.tunnel.unwrap_or(timeouts.tunnel);
            body = route.limits.body.unwrap_or(body);
        }
        Self {
            target: Target::new(http, route, observed, secret),
            timeouts,
            body,
            request: Rules::new(request.iter().filter(|rule| !names_backend(rule))),
            late: Rules::new(request.iter().filter(|rule| names_backend(rule))),
            response: Rules::new(&response),
        }
    }
}

fn names_backend(rule: &HeaderRule) -> bool {
    match &rule.operation {
        Operation::Set(value) | Operation::Add(value) => value.names(Variable::Backend),
        Operation::Remove => false,
    }
}

impl Target {
    fn new(
        http: &HttpService,
        route: Option<&Route>,
        observed: &Observed,
        secret: [u64; 2],
    ) -> Self {
        let path = route.map_or("", |route| route.path.as_str());
        match route.map(|route| &route.action) {
            None => Self::Backends(Backends::new(http, &http.name, path, observed, secret)),
            Some(Action::Forward(name)) => {
                // Backends that are not the route's own have their cookies everywhere.
                let path = if *name == http.name { "" } else { path };
                Self::Backends(Backends::new(http, name, path, observed, secret))
            }
            Some(Action::Redirect { to, status }) => Self::Redirect {
                to: to.clone(),
                status: *status,
            },
            Some(Action::Answer {
                status,
                body,
                content_type,
            }) => Self::Answer {
                status: *status,
                body: Bytes::from(body.clone()),
                content_type: content_type.clone(),
            },
        }
    }
}

impl Backends {
    fn new(
        http: &HttpService,
        name: &str,
        path: &str,
        observed: &Observed,
        secret: [u64; 2],
    ) -> Self {
        let service = observed.service(name);
        let cookies = match (&http.settings.stickiness, service) {
            (Stickiness::Cookie(cookie), Some(id)) => Some(Cookies::new(
                cookie,
                path,
                secret,
                observed.hash_names.get(&id).map_or(name, String::as_str),
                observed.backends_of(id),
            )),
            _ => None,
        };
        Self { service, cookies }
    }
}

/// Makes parts, and reads the pages of a configuration once.
#[derive(Default)]
pub(super) struct Maker {
    pages: HashMap<String, (Arc<HttpService>, Arc<Pages>)>,
    problems: HashMap<String, String>,
}

impl Maker {
    /// The parts of a service.
    pub(super) fn parts(&mut self, http: &Arc<HttpService>, observed: &Observed) -> Parts {
        let pages = self.pages(http);
        Parts::new(http, observed, pages)
    }

    /// Forgets services that are gone.
    pub(super) fn keep_only(&mut self, is_there: impl Fn(&str) -> bool) {
        self.pages.retain(|name, _| is_there(name));
        self.problems.retain(|name, _| is_there(name));
    }

    /// Pages that cannot be shown, for `status`.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.problems.values().cloned()
    }

    fn pages(&mut self, http: &Arc<HttpService>) -> Arc<Pages> {
        if let Some((known, pages)) = self.pages.get(&http.name)
            && Arc::ptr_eq(known, http)
        {
            return Arc::clone(pages);
        }
        self.problems.remove(&http.name);
        let pages = Pages::load(&http.settings.errors).unwrap_or_else(|error| {
            let problem = format!("{}: {}", http.name, crate::errors::chain(&error));
            tracing::error!("{problem}");
            self.problems.insert(http.name.clone(), problem);
            Pages::default()
        });
        let pages = Arc::new(pages);
        let entry = (Arc::clone(http), Arc::clone(&pages));
        self.pages.insert(http.name.clone(), entry);
        pages
    }
}
