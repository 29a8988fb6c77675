//! `[service.http]`.

use std::time::Duration;

use ::http::HeaderName;

use super::ProxyVersion;
use super::auth::{Auth, auth};
use super::cache::Cache;
use super::header::{HeaderRule, request_rules, response_rules};
use super::sections::{AccessLog, Compression, ErrorPages, Limits, Timeouts, Tracing, Upstream};
use super::value::{self, Cidr};
use crate::choice::choice;
use crate::error::Problems;
use crate::foreign;
use crate::lists::Texts;
use crate::reader::{Table, Value};
use crate::schema::fields::OnlyIf;
use crate::schema::kinds::{
    Flag, Given, List, Made, Maybe, Short, Sound, Text, one_of, sub, text, time,
};
use crate::schema::{Kind, section};
use crate::value::quoted;

/// The message about PROXY headers to backends of HTTP/2, with a remedy.
pub(super) const INTRODUCED_AND_SHARED: &str = "a connection of HTTP/2 carries the requests of many clients, and a PROXY header names one \
     (leave send_proxy_protocol out: X-Forwarded-For and Forwarded tell who asks)";
/// `send_proxy_protocol`, a text.
pub(crate) const PROXY_VERSION: Texts<ProxyVersion> = Text {
    what: "`\"v1\"` or `\"v2\"`",
    example: "\"v2\"",
    parse: value::proxy_version,
    print: |version| match version {
        ProxyVersion::V1 => "v1".to_owned(),
        ProxyVersion::V2 => "v2".to_owned(),
    },
};
const HEADER: Texts<HeaderName> = text("name of a header", "\"X-Client-IP\"", value::header_name);
pub(crate) const BLOCK: Texts<Cidr> = text("range of IP addresses", "\"10.0.0.0/8\"", value::cidr);
const UPGRADE: Texts<String> = text("name of a protocol", "\"websocket\"", value::upgrade_token);

section! {
    Reload, "0.1"; check = check_protocol;
    /// Settings for `mode = "http"`.
    pub struct Settings {
        /// Whether connections from trusted proxies begin with a PROXY header, version 1 or 2.
        pub proxy_protocol: bool = false, Flag;
        /// Whether `Forwarded` (RFC 7239) is sent beside the `X-Forwarded` headers.
        pub forwarded: bool = false, Flag;
        /// Whether request headers with an underscore in their name are passed on.
        pub underscore_headers: bool = false, Flag;
        /// Headers that are passed on although clients could claim another identity by them.
        pub allow_client_headers: Vec<HeaderName> = Vec::new(), List("[\"X-Client-IP\"]", HEADER);
        /// What becomes of a path that backends may read in different ways, where that matters for a route that
        /// answers by itself.
        pub ambiguous_paths: AmbiguousPaths = AmbiguousPaths::Refuse, one_of();
        /// Proxies whose forwarding headers and PROXY headers are believed.
        pub trusted_proxies: Vec<Cidr> = Vec::new(), List("[\"10.0.0.0/8\"]", BLOCK);
        /// What backends speak. A route may have its own.
        pub protocol: Protocol = Protocol::Http1, one_of();
        /// Version of the PROXY header that connections to backends begin with. Each connection is then for one
        /// request. Not with `protocol = "h2c"`.
        pub send_proxy_protocol: Option<ProxyVersion> = None, Maybe(PROXY_VERSION);
        /// What keeps a client with its backend: `"address"`, `"socketio"`, or a table.
        pub stickiness: Stickiness = Stickiness::Address, stickiness();
        /// Protocols that clients may upgrade to.
        pub upgrade: Vec<String> = vec!["websocket".to_owned()], List("[\"websocket\"]", UPGRADE);
        /// Changes to the headers of each request, in their order.
        pub request_headers: Vec<HeaderRule> = Vec::new(), request_rules();
        /// Changes to the headers of each response, in their order.
        pub response_headers: Vec<HeaderRule> = Vec::new(), response_rules();
        /// Times of requests and connections.
        pub timeouts: Timeouts = Timeouts::default(), sub("{ first_byte = \"60s\" }");
        /// Limits on sizes and numbers.
        pub limits: Limits = Limits::default(), sub("{ body = \"10MiB\" }");
        /// Compression of responses.
        pub compression: Compression = Compression::default(), sub("{ enabled = false }");
        /// The response cache. Without the table nothing is stored.
        pub cache: Option<Cache> = None, Maybe(Sound(sub("{}")));
        /// The access log. Without the table there is none.
        pub access_log: Option<AccessLog> = None, Maybe(Sound(sub("{ file = \"stdout\" }")));
        /// Traces. Without the table `traceparent` and `tracestate` are passed on as they are.
        pub tracing: Option<Tracing> = None, Maybe(Sound(sub("{ sample = \"1%\" }")));
        /// Users that may ask. Without the table everybody may.
        pub auth: Option<Auth> = None, Maybe(auth());
        /// Connections to backends.
        pub upstream: Upstream = Upstream::default(), sub("{ keepalive = 512 }");
        /// Pages for errors of lb-agent's own.
        pub errors: ErrorPages = ErrorPages::default(),
            sub("{ maintenance = \"/etc/lb-agent/back-soon.html\" }");
    }
}

/// A PROXY header is for one client, and a connection of HTTP/2 for many.
fn check_protocol(settings: &Settings, table: &mut Table<'_, '_>, problems: &mut Problems) {
    if settings.protocol == Protocol::H2c
        && let Some(value) = table.peek("send_proxy_protocol")
    {
        problems.add(&value.place, INTRODUCED_AND_SHARED);
    }
}

choice! {
    /// What backends speak.
    pub enum Protocol {
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2 without TLS, with prior knowledge (RFC 9113, section 3.3), as for gRPC.
        H2c = "h2c",
    }
}

choice! {
    /// What becomes of a path that readers take for different ones, where it matters for a route that
    /// answers by itself.
    pub enum AmbiguousPaths {
        /// It gets 400.
        Refuse = "refuse",
        /// It takes the route of its plain reading.
        Forward = "forward",
    }
}

/// The property of a request that keeps a client with its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stickiness {
    /// The address of the client.
    Address,
    /// The Socket.IO session. A request without one goes by weight. A request that is no part of
    /// Socket.IO goes by address.
    SocketIo,
    /// A signed cookie that names the backend.
    Cookie(StickyCookie),
    /// The value of a request header; the address if there is none.
    Header(HeaderName),
    /// The value of a key in the query; the address if there is none.
    Query(String),
}

/// The cookie of [`Stickiness::Cookie`] (RFC 6265).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// The name of the cookie.
    pub name: String,
    /// Time for which browsers keep it; until they are closed if not given.
    pub max_age: Option<Duration>,
    /// Whether other sites send it.
    pub same_site: SameSite,
    /// Whether it is for HTTPS alone. If not given, it is if the request came by HTTPS.
    pub secure: Option<bool>,
    /// The domain for which hosts get it; the host alone if not given.
    pub domain: Option<String>,
    /// The path that browsers send it to; the route's path if not given.
    pub path: Option<String>,
}

choice! {
    /// `SameSite` of a cookie.
    pub enum SameSite {
        /// With links from other sites.
        Lax = "lax",
        /// Never from other sites.
        Strict = "strict",
        /// From everywhere; over HTTPS alone.
        None = "none",
    }
}

const EXAMPLE: &str = "{ cookie = \"lb\" }";
const COOKIE: Texts<String> = text("name of a cookie", "\"lb\"", value::token);
const STICKY_HEADER: Texts<HeaderName> = text("name of a header", "\"X-User\"", value::header_name);
const QUERY: Texts<String> = text("key of a query", "\"room\"", value::token);
const MAX_AGE: Texts<Duration> = time("\"12h\"", value::some_time);
const DOMAIN: Texts<String> = text("domain", "\"example.com\"", value::cookie_domain);
const COOKIE_PATH: Texts<String> = text("path", "\"/\"", value::cookie_path);

section! {
    Reload, "0.1";
    /// What keeps a client with its backend. One of `cookie`, `header` and `query` is given.
    struct Sticky {
        /// Name of a cookie that names the backend, signed with `hash_seed`.
        cookie: Option<Option<String>> = None, Given(COOKIE);
        /// Name of a request header whose value makes a client. Without one in the request its address does.
        header: Option<Option<HeaderName>> = None, Given(STICKY_HEADER);
        /// Key of the query whose value makes a client. Without one in the request its address does.
        query: Option<Option<String>> = None, Given(QUERY);
        /// Time for which browsers keep the cookie. Without it until they are closed.
        max_age: Option<Duration> = None, of_cookie(Maybe(MAX_AGE));
        /// Whether requests from other sites carry the cookie.
        same_site: SameSite = SameSite::Lax, of_cookie(one_of());
        /// Whether the cookie is for HTTPS alone. Without the key it is if the request came by HTTPS.
        secure: Option<bool> = None, of_cookie(Maybe(Flag));
        /// Domain whose hosts get the cookie. Without it the host of the request alone.
        domain: Option<String> = None, of_cookie(Maybe(DOMAIN));
        /// Path below which the cookie is sent. Without it the path of the route.
        path: Option<String> = None, of_cookie(Maybe(COOKIE_PATH));
    }
}

/// A key that is allowed beside `cookie` only.
fn of_cookie<K>(key: K) -> OnlyIf<K> {
    OnlyIf {
        key,
        why_not: |table| (!table.has("cookie")).then_some("only a cookie has this (leave it out)"),
        written: |table| table.contains_key("cookie"),
    }
}

/// A word, or a table.
fn stickiness() -> impl Kind<Value = Stickiness> {
    let word: Text<Stickiness, String> = Text {
        what: "`\"address\"` or `\"socketio\"`",
        example: "\"address\"",
        parse: sticky_word,
        print: |stickiness| match stickiness {
            Stickiness::SocketIo => "socketio".to_owned(),
            _ => "address".to_owned(),
        },
    };
    Short {
        text: word,
        table: Sound(Made {
            of: sub(EXAMPLE),
            make: made,
            back: Sticky::of,
        }),
        brief: |value| matches!(value, Stickiness::Address | Stickiness::SocketIo),
        else_text: false,
    }
}

fn sticky_word(text: &str) -> Result<Stickiness, String> {
    match text {
        "address" => Ok(Stickiness::Address),
        "socketio" => Ok(Stickiness::SocketIo),
        _ => {
            let choices = format!(
                "\"address\", \"socketio\", {EXAMPLE}, {{ header = \"X-User\" }} or {{ query = \"room\" }}"
            );
            let remedy = foreign::instead_of_value("stickiness", text, &choices);
            Err(format!("{} is unknown ({remedy})", quoted(text)))
        }
    }
}

fn made(table: Sticky, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Stickiness> {
    let Sticky {
        cookie,
        header,
        query,
        max_age,
        same_site,
        secure,
        domain,
        path,
    } = table;
    match (cookie, header, query) {
        (Some(name), None, None) => {
            if same_site == SameSite::None && secure == Some(false) {
                problems.add(
                    &value.place,
                    "browsers drop a cookie with same_site = \"none\" that is not secure (leave out secure)",
                );
            }
            Some(Stickiness::Cookie(StickyCookie {
                name: name?,
                max_age,
                same_site,
                secure,
                domain,
                path,
            }))
        }
        (None, Some(header), None) => header.map(Stickiness::Header),
        (None, None, Some(query)) => query.map(Stickiness::Query),
        _ => {
            problems.add(
                &value.place,
                format!("not one of cookie, header and query (write it like {EXAMPLE})"),
            );
            None
        }
    }
}

impl Sticky {
    fn of(stickiness: &Stickiness) -> Self {
        let table = Self::default();
        match stickiness.clone() {
            Stickiness::Address | Stickiness::SocketIo => table,
            Stickiness::Header(name) => Self {
                header: Some(Some(name)),
                ..table
            },
            Stickiness::Query(key) => Self {
                query: Some(Some(key)),
                ..table
            },
            Stickiness::Cookie(cookie) => Self {
                cookie: Some(Some(cookie.name)),
                max_age: cookie.max_age,
                same_site: cookie.same_site,
                secure: cookie.secure,
                domain: cookie.domain,
                path: cookie.path,
                ..table
            },
        }
    }
}
