//! A service's configuration, compiled for its requests: routes with their rules, limits and cookies, and
//! the error pages. It is made anew at every change, and is immutable.

use std::collections::HashMap;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName};
use lb_common::abi::ServiceId;

use super::auth::{RouteAuth, UsersFiles};
use super::files::Site;
use super::filters::{Chain, LimitOrigin, LimitTerms, Proxied, Terms};
use super::forwarded::Via;
use super::limits::{LimitFigures, LimitTableFigures, Limiter, Offender};
use super::pages::Pages;
use super::routes::{Guard, Guards, Router};
use super::sticky::cookie::Cookies;
use super::tables::{Confine, ServiceTables};
use super::tls::ClientAuth;
use lb_config::http::{
    Action, AmbiguousPaths, Auth, Cache, HttpService, Protocol, Route, RouteLimits, RouteTimeouts,
    Stickiness, Template, Timeouts,
};

/// One service, ready for requests.
pub(super) struct CompiledService {
    router: Arc<Router>,
    /// One for each route, in their order; after them that of requests without one.
    routes: Vec<RouteConfig>,
    /// The error pages.
    pub(super) pages: Arc<Pages>,
}

/// The compiled configuration of one route.
pub(super) struct RouteConfig {
    /// The filters of its requests and answers.
    pub(super) filters: Chain,
    /// The handler of its requests: backends or an answer of its own.
    pub(super) target: Target,
    /// Its answers are stored; `None` if they are not.
    pub(super) cache: Option<Cache>,
    /// The protocol of its backends.
    pub(super) protocol: Protocol,
    /// Times.
    pub(super) timeouts: Timeouts,
    /// Bytes of a body; `None` for any number.
    pub(super) body: Option<u64>,
}

/// The target of requests.
pub(super) enum Target {
    /// To the backends of a service; `None` before it has tables.
    Backends(Option<ServiceId>),
    /// Elsewhere, by themselves.
    Redirect { to: Template, status: StatusCode },
    /// Nowhere: they are answered.
    Answer {
        status: StatusCode,
        body: Bytes,
        content_type: String,
    },
    /// Nowhere: they get files. What is none may go to the backends of a service.
    Files(Site, Option<Option<ServiceId>>),
}

impl CompiledService {
    /// Compiles `http`, by the `tables` in force.
    fn new(
        http: &HttpService,
        tables: &dyn ServiceTables,
        pages: Arc<Pages>,
        client: Option<&Arc<ClientAuth>>,
        shared: &mut Shared,
    ) -> Self {
        let secret = secret(http, tables);
        let router = Arc::new(Router::new(&http.routes));
        let guards = guards(http, &router);
        let routes = http.routes.iter().map(Some).chain([None]);
        let routes = routes.enumerate().map(|(place, route)| {
            let guards = guards.clone().map(|guards| (guards, place));
            RouteConfig::new(http, route, tables, secret, (guards, client), shared)
        });
        Self {
            routes: routes.collect(),
            router,
            pages,
        }
    }

    /// The index of the configuration for requests without a route.
    pub(super) fn without_route(&self) -> usize {
        self.routes.len() - 1
    }

    /// Whether all requests take one route.
    pub(super) fn is_plain(&self) -> bool {
        self.routes.len() == 1
    }

    /// The route that a request takes.
    pub(super) fn find(&self, host: &str, path: &str) -> usize {
        let found = self.router.find(host, path);
        found.unwrap_or_else(|| self.without_route())
    }

    /// A route by its place, which [`CompiledService::find`] gave.
    pub(super) fn route(&self, place: usize) -> &RouteConfig {
        &self.routes[place]
    }
}

/// Guards, and the place of a route among theirs.
type GuardedPlace = (Arc<Guards>, usize);

impl RouteConfig {
    /// Whether others may see its requests: backends, or its authentication.
    pub(super) const fn is_passed_on(&self) -> bool {
        let has_backends = matches!(self.target, Target::Backends(_) | Target::Files(_, Some(_)));
        has_backends || self.filters.has_auth()
    }

    fn new(
        http: &HttpService,
        route: Option<&Route>,
        tables: &dyn ServiceTables,
        secret: [u64; 2],
        (guards, client): (Option<GuardedPlace>, Option<&Arc<ClientAuth>>),
        shared: &mut Shared,
    ) -> Self {
        let mut timeouts = http.settings.timeouts.clone();
        let mut body = http.settings.limits.body;
        let mut protocol = http.settings.protocol;
        let mut auth = http.settings.auth.as_ref();
        if let Some(route) = route {
            // Every setting is named here: a new one does not compile before it has its place.
            let Route {
                // Taken by `Router`, `Target` and `Chain`.
                name: _,
                hosts: _,
                path: _,
                exact: _,
                prefix_rewrite: _,
                action: _,
                request_headers: _,
                response_headers: _,
                request_limits: _,
                auth: own_auth,
                timeouts: of_route,
                limits,
                protocol: own,
            } = route;
            protocol = own.unwrap_or(protocol);
            auth = own_auth.as_ref().map_or(auth, Option::as_ref);
            let RouteTimeouts {
                body: pause,
                first_byte,
                tunnel,
            } = of_route;
            let RouteLimits { body: most } = limits;
            timeouts.body = pause.unwrap_or(timeouts.body);
            timeouts.first_byte = first_byte.unwrap_or(timeouts.first_byte);
            timeouts.tunnel = tunnel.unwrap_or(timeouts.tunnel);
            body = most.unwrap_or(body);
        }
        let target = Target::new(http, route, tables);
        let proxied = proxied(http, route, &target, tables, secret);
        let terms = Terms {
            body,
            guards,
            proxied,
            client: client.cloned(),
            auth: auth.map(|auth| {
                let via = || Via::new(secret, &format!("{} auth", http.name));
                RouteAuth::new(auth, &mut shared.users, via)
            }),
            foreign: foreign_claims(http, auth),
            limits: limit_terms(http, &target, tables, &shared.limiter),
        };
        Self {
            filters: Chain::new(http, route, terms),
            target,
            cache: http.settings.cache.clone(),
            protocol,
            timeouts,
            body,
        }
    }
}

impl Target {
    fn new(http: &HttpService, route: Option<&Route>, tables: &dyn ServiceTables) -> Self {
        match route.map(|route| &route.action) {
            None => Self::Backends(tables.service(&http.name)),
            Some(Action::Forward(name)) => Self::Backends(tables.service(name)),
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
            Some(Action::Files { files, otherwise }) => {
                let path = route.map_or("", |route| route.path.as_str());
                let otherwise = otherwise.as_ref().map(|name| tables.service(name));
                Self::Files(Site::new(files, path), otherwise)
            }
        }
    }
}

impl Target {
    /// The service whose backends may get its requests; inside, `None` before it has tables.
    fn backends(&self) -> Option<Option<ServiceId>> {
        match self {
            Self::Backends(service) | Self::Files(_, Some(service)) => Some(*service),
            Self::Redirect { .. } | Self::Answer { .. } | Self::Files(_, None) => None,
        }
    }
}

/// The facts about a route's backends that filters need.
fn proxied(
    http: &HttpService,
    route: Option<&Route>,
    target: &Target,
    tables: &dyn ServiceTables,
    secret: [u64; 2],
) -> Option<Proxied> {
    let service = target.backends()?;
    let cookies = service.and_then(|id| cookies(http, route, id, tables, secret));
    Some(Proxied {
        service,
        cookies,
        via: Via::new(secret, &http.name),
    })
}

/// The headers that servers of the service's other routes tell of users. A client has no say in them on a route with
/// `auth`, its own or none. Credentials are the client's.
fn foreign_claims(http: &HttpService, auth: Option<&Auth>) -> Vec<Vec<u8>> {
    let of = |auth: &Auth| match auth {
        Auth::Forward(forward) => forward.set.clone(),
        Auth::Basic(_) => Vec::new(),
    };
    let own = auth.map(of).unwrap_or_default();
    let is_foreign = |name: &HeaderName| {
        !own.contains(name) && !matches!(*name, header::AUTHORIZATION | header::COOKIE)
    };
    let mut names: Vec<HeaderName> = http.auths().flat_map(of).filter(is_foreign).collect();
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names
        .iter()
        .map(|name| name.as_str().as_bytes().to_vec())
        .collect()
}

/// The facts that limits of a route need.
fn limit_terms<'a>(
    http: &'a HttpService,
    target: &Target,
    tables: &'a dyn ServiceTables,
    limiter: &'a Arc<Limiter>,
) -> LimitTerms<'a> {
    let service = tables.service(&http.name);
    let table = service.and_then(|id| tables.table(id));
    let identity = service.and_then(|id| tables.hash_name(id));
    LimitTerms {
        limiter,
        identity: identity.unwrap_or(&http.name),
        origin: LimitOrigin {
            service: target.backends().flatten(),
            prefixes: table.map_or((32, 64), |table| {
                (table.head.ipv4_prefix, table.head.ipv6_prefix)
            }),
        },
    }
}

/// The secret of a service; zero before it has tables.
pub(super) fn secret(http: &HttpService, tables: &dyn ServiceTables) -> [u64; 2] {
    tables
        .service(&http.name)
        .and_then(|id| tables.table(id))
        .map_or([0, 0], |table| table.head.hash_key)
}

/// The cookies that name the backends of the service `id`, to which `route` leads.
pub(super) fn cookies(
    http: &HttpService,
    route: Option<&Route>,
    id: ServiceId,
    tables: &dyn ServiceTables,
    secret: [u64; 2],
) -> Option<Cookies> {
    let Stickiness::Cookie(cookie) = &http.settings.stickiness else {
        return None;
    };
    let (name, path) = match route.map(|route| (&route.action, route.path.as_str())) {
        // Backends that are not the route's own have their cookies everywhere.
        Some((
            Action::Forward(name)
            | Action::Files {
                otherwise: Some(name),
                ..
            },
            path,
        )) if *name != http.name => (name, path),
        _ => (&http.name, ""),
    };
    let name = tables.hash_name(id).unwrap_or(name);
    let backends = tables.backends_of(id);
    Some(Cookies::new(cookie, path, secret, name, backends))
}

/// The routes that are to be guarded against other readings of paths: those with users of their own, and those
/// that answer by themselves if it is wanted.
fn guards(http: &HttpService, router: &Arc<Router>) -> Option<Arc<Guards>> {
    let refuses = http.settings.ambiguous_paths == AmbiguousPaths::Refuse;
    let answers_itself = |route: &Route| !matches!(route.action, Action::Forward(_));
    let guard = |route: &Route| match route.auth {
        Some(_) => Guard::Users,
        None if refuses && answers_itself(route) => Guard::Answer,
        None => Guard::None,
    };
    let guards: Vec<Guard> = http.routes.iter().map(guard).chain([Guard::None]).collect();
    let is_needed = guards.iter().any(|guard| *guard != Guard::None);
    is_needed.then(|| Arc::new(Guards::new(Arc::clone(router), &http.routes, guards)))
}

/// The state that outlives changes of the configuration.
struct Shared {
    limiter: Arc<Limiter>,
    users: UsersFiles,
}

/// Makes parts, and reads the pages of a configuration once.
pub(super) struct Compiler {
    pages: HashMap<String, (Arc<HttpService>, Arc<Pages>)>,
    problems: HashMap<String, String>,
    shared: Shared,
}

impl Compiler {
    /// Without any; threads are confined by `confine`.
    pub(super) fn new(confine: Confine) -> Self {
        Self {
            pages: HashMap::new(),
            problems: HashMap::new(),
            shared: Shared {
                limiter: Arc::default(),
                users: UsersFiles::new(confine),
            },
        }
    }

    /// Compiles a service. `client` verifies the certificates of its clients.
    pub(super) fn compile(
        &mut self,
        http: &Arc<HttpService>,
        tables: &dyn ServiceTables,
        client: Option<&Arc<ClientAuth>>,
    ) -> CompiledService {
        let pages = self.pages(http);
        CompiledService::new(http, tables, pages, client, &mut self.shared)
    }

    /// Forgets all services but these.
    pub(super) fn keep_only(&mut self, services: &[Arc<HttpService>]) {
        let is_there = |name: &str| services.iter().any(|http| http.name == name);
        self.pages.retain(|name, _| is_there(name));
        self.problems.retain(|name, _| is_there(name));
        self.shared.limiter.keep_only(is_there);
        let users = services.iter().flat_map(|http| http.users());
        let paths = users.map(|auth| auth.users.as_path()).collect();
        self.shared.users.keep_only(&paths);
    }

    /// The figures of each limit of a service, with its name.
    pub(super) fn limits(&self, http: &HttpService) -> Vec<(String, LimitFigures)> {
        let of_routes = http.routes.iter().flat_map(|route| &route.request_limits);
        let all = http.request_limits.iter().chain(of_routes);
        all.map(|limit| {
            let figures = self.shared.limiter.figures(&http.name, &limit.name);
            (limit.name.clone(), figures)
        })
        .collect()
    }

    /// Takes the clients that limits want banned.
    pub(super) fn take_offenders(&self) -> Vec<Offender> {
        self.shared.limiter.take_offenders()
    }

    /// The figures of the table of rates; `None` before the first rate.
    pub(super) fn limit_table(&self) -> Option<LimitTableFigures> {
        self.shared.limiter.table()
    }

    /// Pages that cannot be shown and users that are not in force, for `status`.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let of_users = self.shared.users.problems();
        self.problems.values().cloned().chain(of_users)
    }

    fn pages(&mut self, http: &Arc<HttpService>) -> Arc<Pages> {
        if let Some((known, pages)) = self.pages.get(&http.name)
            && Arc::ptr_eq(known, http)
        {
            return Arc::clone(pages);
        }
        self.problems.remove(&http.name);
        let pages = Pages::load(&http.settings.errors).unwrap_or_else(|error| {
            let problem = format!("{}: {}", http.name, error);
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
