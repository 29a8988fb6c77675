//! `mode = "http"`: what can be set, as checked values, and every default.
//!
//! | file | owns |
//! | --- | --- |
//! | `read` | `[service.http]` and `[service.tls]` |
//! | `sections` | the tables under `[service.http]` |
//! | `route` | `[[service.route]]` |
//! | `header` | header rules |
//! | `template` | texts with variables |
//! | `path` | the plain form of a path |
//! | `protocol` | what backends speak |
//! | `value` | the rules for one value |
//! | `check` | rules between values |

mod check;
mod header;
pub mod path;
mod protocol;
mod read;
mod route;
mod sections;
mod template;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ::http::{HeaderName, StatusCode};

pub(super) use check::{Inner, RawHttp, check};
pub use header::{HeaderRule, Operation};
pub(super) use read::{RawTls, http, tls};
pub(super) use route::routes;
pub use route::{Action, Route};
pub use sections::{RouteLimits, RouteTimeouts};
pub use template::{Part, Template, Variable};
pub(super) use value::proxy_version;
pub use value::{Cidr, HostPattern};

/// One service with `mode = "http"`, as the engine gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpService {
    /// Its name; its own backends are those of the service of this name.
    pub name: String,
    /// Where it takes plain HTTP.
    pub listen: Vec<SocketAddr>,
    /// HTTPS, if it is served.
    pub tls: Option<Tls>,
    /// What holds for every request.
    pub settings: Settings,
    /// In the order of the file. A request that none of them matches goes to the service's own
    /// backends.
    pub routes: Vec<Route>,
}

/// `[service.http]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whose forwarding headers and PROXY protocol are believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Whether connections from trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
    /// What backends speak.
    pub protocol: Protocol,
    /// The PROXY header that connections to backends begin with.
    pub send_proxy_protocol: Option<ProxyVersion>,
    /// Whether `Forwarded` (RFC 7239) is sent beside the `X-Forwarded` headers.
    pub forwarded: bool,
    /// What keeps a client with its backend.
    pub stickiness: Stickiness,
    /// Changes to each request, in their order.
    pub request_headers: Vec<HeaderRule>,
    /// Changes to each answer, in their order.
    pub response_headers: Vec<HeaderRule>,
    /// Whether header names with underscores are passed on.
    pub underscore_headers: bool,
    /// Names, of those by which a client could claim to be somebody else, that are passed on.
    pub allow_client_headers: Vec<HeaderName>,
    /// Whether a path that may lead to a guarded route, by another reading than ours, is passed on.
    pub ambiguous_paths: AmbiguousPaths,
    /// Protocols that a client may upgrade to, in lower case.
    pub upgrade: Vec<String>,
    /// Times.
    pub timeouts: Timeouts,
    /// Sizes.
    pub limits: Limits,
    /// Compression of answers.
    pub compression: Compression,
    /// The access log; none unless configured.
    pub access_log: Option<AccessLog>,
    /// Connections to backends.
    pub upstream: Upstream,
    /// Pages for errors.
    pub errors: ErrorPages,
}

/// `[service.tls]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// Where it takes HTTPS; at least one address.
    pub listen: Vec<SocketAddr>,
    /// At least one; the first is for clients that name no server, or none that is known.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
    /// Whether plain requests are answered with 308 to https.
    pub redirect_http: bool,
    /// `Strict-Transport-Security`, if it is sent.
    pub hsts: Option<Hsts>,
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The line of the configuration, for messages.
    pub line: usize,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// `Strict-Transport-Security` (RFC 6797).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hsts {
    /// For how long a browser remembers it.
    pub max_age: Duration,
    /// Whether it is for the names below this one too.
    pub include_subdomains: bool,
    /// Whether the name may be entered in the browsers' own lists.
    pub preload: bool,
}

/// What backends speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge (RFC 9113, section 3.3).
    H2c,
}

/// Versions of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// What keeps a client with its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stickiness {
    /// Its address.
    Address,
    /// The Socket.IO session; requests without one go by weight, or by address where they are no
    /// part of Socket.IO.
    SocketIo,
    /// A cookie that names the backend, signed.
    Cookie(StickyCookie),
    /// The value of a request header; the address if there is none.
    Header(HeaderName),
    /// The value of a key in the query; the address if there is none.
    Query(String),
}

/// The cookie of [`Stickiness::Cookie`] (RFC 6265).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// Its name.
    pub name: String,
    /// How long browsers keep it; until they are closed if not given.
    pub max_age: Option<Duration>,
    /// Whether other sites send it.
    pub same_site: SameSite,
    /// Whether it is for HTTPS alone; whether the request came by it if not given.
    pub secure: Option<bool>,
    /// The domain whose hosts get it; the host alone if not given.
    pub domain: Option<String>,
    /// Where it is sent; the route's path if not given.
    pub path: Option<String>,
}

/// `SameSite` of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// With links from other sites.
    Lax,
    /// Never from other sites.
    Strict,
    /// From everywhere; over HTTPS alone.
    None,
}

/// What becomes of a path that readers take for different ones, where it matters for a route that
/// answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmbiguousPaths {
    /// 400.
    Refuse,
    /// It takes the route of its plain reading.
    Forward,
}

/// How long things may take. Where there is an `Option`, `None` is for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a request to the end of its headers.
    pub header: Duration,
    /// Between two pieces of a request's body.
    pub body: Option<Duration>,
    /// For a connection to a backend to be made.
    pub connect: Duration,
    /// From the end of a request to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// Between two pieces of an answer.
    pub response: Option<Duration>,
    /// For a client to make room for more of its answer.
    pub send: Option<Duration>,
    /// Of a client's connection between two requests; zero for one request a connection.
    pub idle: Duration,
    /// Of a WebSocket or another tunnel without a byte in either direction.
    pub tunnel: Option<Duration>,
    /// How long a backend that refuses connections is waited for; zero for not at all.
    pub restart_grace: Duration,
    /// How long WebSockets and requests may go on when the agent ends.
    pub drain: Duration,
}

/// How much of anything there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's header section.
    pub header_bytes: usize,
    /// Header lines of a request.
    pub headers: usize,
    /// Header lines of an answer.
    pub response_headers: usize,
    /// Bytes of a request's target.
    pub target: usize,
    /// Bytes of a request's body; `None` for any number.
    pub body: Option<u64>,
    /// Requests at once on one HTTP/2 connection.
    pub h2_streams: u32,
}

/// Compression of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// Whether there is any.
    pub enabled: bool,
    /// Media types, in lower case, that are compressed; `text/*` is every text.
    pub types: Vec<String>,
    /// Answers that are known to have fewer bytes are left alone.
    pub min_size: u64,
    /// In the order of preference among those that a client likes equally.
    pub algorithms: Vec<Algorithm>,
}

/// Content codings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `gzip`.
    Gzip,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
}

/// The access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where it goes.
    pub target: LogTarget,
    /// What a line looks like.
    pub format: LogFormat,
}

/// Where an access log goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// The agent's standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// What a line of an access log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Apache's and nginx's "combined", with some fields after it.
    Combined,
    /// One JSON object.
    Json,
}

/// Connections to backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Failures within `fail_timeout` after which a backend is passed by; 0 for never.
    pub max_fails: u32,
    /// For how long it is passed by then.
    pub fail_timeout: Duration,
    /// How often one request is sent again after a connection broke that may have carried it.
    pub retries: u32,
    /// Retries in thousandths of the requests.
    pub retry_budget_permille: u32,
    /// Idle connections kept open to one backend by each worker.
    pub keepalive: usize,
}

/// Pages for errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPages {
    /// Files by status.
    pub pages: BTreeMap<StatusCode, PathBuf>,
    /// The file that is shown while no backend can be used.
    pub maintenance: Option<PathBuf>,
    /// The lines of the configuration that name these files, for messages.
    pub lines: BTreeMap<PathBuf, usize>,
}

impl HttpService {
    /// All addresses that it listens on, plain ones first.
    pub fn all_listen(&self) -> impl Iterator<Item = SocketAddr> {
        let tls = self.tls.iter().flat_map(|tls| &tls.listen);
        self.listen.iter().chain(tls).copied()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            protocol: Protocol::Http1,
            send_proxy_protocol: None,
            forwarded: false,
            stickiness: Stickiness::Address,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            underscore_headers: false,
            allow_client_headers: Vec::new(),
            ambiguous_paths: AmbiguousPaths::Refuse,
            upgrade: vec!["websocket".to_owned()],
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            compression: Compression::default(),
            access_log: None,
            upstream: Upstream::default(),
            errors: ErrorPages::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            header: minute,
            body: Some(minute),
            connect: Duration::from_secs(5),
            first_byte: Some(minute),
            response: None,
            send: Some(minute),
            idle: Duration::from_secs(75),
            tunnel: None,
            restart_grace: Duration::from_secs(3),
            drain: Duration::from_secs(30),
        }
    }
}

/// Node.js takes 16 KiB of headers: more would only be refused behind.
impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 16_384,
            headers: 100,
            response_headers: 1000,
            target: 8192,
            body: None,
            h2_streams: 128,
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        let types = [
            "text/*",
            "application/javascript",
            "application/json",
            "application/ld+json",
            "application/manifest+json",
            "application/wasm",
            "application/xhtml+xml",
            "application/xml",
            "image/svg+xml",
            "image/x-icon",
        ];
        Self {
            enabled: true,
            types: types.map(str::to_owned).to_vec(),
            min_size: 1024,
            algorithms: vec![Algorithm::Zstd, Algorithm::Brotli, Algorithm::Gzip],
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            max_fails: 5,
            fail_timeout: Duration::from_secs(10),
            retries: 1,
            retry_budget_permille: 200,
            keepalive: 512,
        }
    }
}
