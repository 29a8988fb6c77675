//! `mode = "http"`: its settings as checked values, and every default.
//!
//! | file | owns |
//! | --- | --- |
//! | `settings` | `[service.http]` |
//! | `sections` | the tables under `[service.http]` |
//! | `tls` | `[service.tls]` |
//! | `route` | `[[service.route]]` |
//! | `files` | `files` of a route |
//! | `auth` | authentication |
//! | `limit` | limits on the requests of a client |
//! | `header` | header rules |
//! | `template` | texts with variables |
//! | `path` | the plain form of a path |
//! | `value` | the rules for one value |
//! | `check` | rules between values |

mod auth;
mod cache;
mod check;
mod files;
mod header;
mod limit;
pub mod path;
mod route;
mod sections;
mod settings;
mod template;
#[cfg(test)]
mod tests;
mod tls;
mod value;

use std::net::SocketAddr;

pub(crate) use auth::http_url;
pub use auth::{Auth, AuthUrl, BasicAuth, ForwardAuth};
pub use cache::{Cache, CacheKey};
pub(super) use check::{Inner, RawHttp, check};
pub use files::{Attempt, CacheControl, Files, Pattern};
pub use header::{HeaderRule, Operation};
pub(super) use limit::limits;
pub use limit::{Limit, LimitKey, Rate};
pub(super) use route::RawRoute;
pub use route::{Action, Route};
pub(crate) use sections::size;
pub use sections::{
    AccessLog, Algorithm, Compression, ErrorPages, Limits, LogFormat, LogTarget, RouteLimits,
    RouteTimeouts, Timeouts, Tracing, Upstream,
};
pub use settings::{AmbiguousPaths, Protocol, SameSite, Settings, Stickiness, StickyCookie};
pub(super) use settings::{BLOCK, PROXY_VERSION};
pub use template::{Part, Template, Variable};
pub(super) use tls::RawTls;
pub use tls::{CertificateFiles, ClientCertificates, ClientPolicy, Hsts, Tls, TlsVersion};
pub use value::{Cidr, HostPattern, is_alike};

/// A service with `mode = "http"`, as the engine gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpService {
    /// The name, which is also that of the service with its own backends.
    pub name: String,
    /// Addresses that take plain HTTP.
    pub listen: Vec<SocketAddr>,
    /// The settings of HTTPS, if it is served.
    pub tls: Option<Tls>,
    /// The settings that hold for every request.
    pub settings: Settings,
    /// Limits on the requests of each client, of all routes together.
    pub request_limits: Vec<Limit>,
    /// The routes in the order of the file. A request that matches none goes to the service's own
    /// backends.
    pub routes: Vec<Route>,
}

impl HttpService {
    /// The authentications of the service and of its routes.
    pub fn auths(&self) -> impl Iterator<Item = &Auth> {
        let of_routes = self.routes.iter().filter_map(|route| route.auth.as_ref());
        self.settings.auth.iter().chain(of_routes.flatten())
    }

    /// The files of users of the service and of its routes.
    pub fn users(&self) -> impl Iterator<Item = &BasicAuth> {
        self.auths().filter_map(|auth| match auth {
            Auth::Basic(basic) => Some(basic),
            Auth::Forward(_) => None,
        })
    }

    /// The authentications that a request for `path` can have, of the routes with the longest match. Hosts are not
    /// looked at.
    pub(crate) fn auths_at(&self, path: &str) -> Vec<Option<&Auth>> {
        let matches = |route: &&Route| {
            let rest = path.strip_prefix(route.path.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let longest = self.routes.iter().filter(matches);
        let Some(longest) = longest.map(|route| route.path.len()).max() else {
            return vec![self.settings.auth.as_ref()];
        };
        let routes = self.routes.iter().filter(matches);
        let routes = routes.filter(|route| route.path.len() == longest);
        let usual = self.settings.auth.as_ref();
        routes
            .map(|route| route.auth.as_ref().map_or(usual, Option::as_ref))
            .collect()
    }

    /// All addresses that it listens on, plain ones first.
    pub fn all_listen(&self) -> impl Iterator<Item = SocketAddr> {
        let tls = self.tls.iter().flat_map(|tls| &tls.listen);
        self.listen.iter().chain(tls).copied()
    }
}

/// Versions of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Version 1: one line of text.
    V1,
    /// Version 2: a binary header.
    V2,
}
