//! From an HTTP request to a command, and from a refusal to an HTTP answer.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::facts::{self, RequestFacts};
use super::message::{BanRequest, Command, Part, Refusal, RefusalDocument, RefusalKind, Submitted};
use crate::state::overlay::AtEnd;
use lb_config::BackendAddress;
use lb_config::value::{self, BadValue};
use lb_http::Purge;

/// Longest body that is taken, in bytes.
const MAX_BODY: usize = 64 << 10;
/// Longest reason of a ban, in bytes.
const MAX_REASON: usize = 200;
/// Body limit of a request that carries a whole configuration. As JSON it may take twice its size.
const MAX_PLAN_BODY: usize = 2 * lb_config::MAX_FILE_BYTES as usize + MAX_BODY;

/// Longest body that is taken at `path`, in bytes.
pub(super) fn max_body(path: &str) -> usize {
    match path {
        "/v1/plan" => MAX_PLAN_BODY,
        _ => MAX_BODY,
    }
}

/// An answer that says no.
#[derive(Debug)]
pub(super) struct No {
    pub(super) status: StatusCode,
    pub(super) document: RefusalDocument,
    /// For the `Allow` header, RFC 9110 section 15.5.6.
    pub(super) allow: Option<String>,
}

impl No {
    pub(super) fn new(
        status: StatusCode,
        error: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            status,
            document: RefusalDocument {
                error: error.into(),
                hint: Some(hint.into()),
            },
            allow: None,
        }
    }

    pub(super) fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "only root and members of the group lb-agent may change anything",
            "use sudo, or have yourself added to the group: adduser NAME lb-agent",
        )
    }

    pub(super) fn too_large(most: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is longer than {} KiB", most >> 10),
            "send one change in each request",
        )
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            RefusalKind::BadRequest => StatusCode::BAD_REQUEST,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            status,
            document: RefusalDocument {
                error: refusal.error,
                hint: refusal.hint,
            },
            allow: None,
        }
    }
}

impl From<BadValue> for No {
    fn from(bad: BadValue) -> Self {
        Self::new(StatusCode::BAD_REQUEST, bad.problem, bad.remedy)
    }
}

/// The purpose of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Status,
    Stats,
    Metrics,
    Lookup,
    AddBackend,
    RemoveBackend,
    DrainBackend,
    ResetBackend,
    Bans,
    Ban,
    Unban,
    Reload,
    Plan,
    Cache,
    PurgeCache,
    Stop,
}

/// Every route of the control socket. `docs/openapi.json` describes the same ones.
pub(super) static ROUTES: [(Method, &str, Endpoint); 16] = [
    (Method::GET, "/v1/status", Endpoint::Status),
    (Method::GET, "/v1/stats", Endpoint::Stats),
    (Method::GET, "/metrics", Endpoint::Metrics),
    (Method::GET, "/v1/lookup", Endpoint::Lookup),
    (Method::POST, "/v1/backends", Endpoint::AddBackend),
    (Method::DELETE, "/v1/backends", Endpoint::RemoveBackend),
    (Method::POST, "/v1/backends/drain", Endpoint::DrainBackend),
    (Method::POST, "/v1/backends/reset", Endpoint::ResetBackend),
    (Method::GET, "/v1/bans", Endpoint::Bans),
    (Method::POST, "/v1/bans", Endpoint::Ban),
    (Method::DELETE, "/v1/bans", Endpoint::Unban),
    (Method::POST, "/v1/reload", Endpoint::Reload),
    (Method::POST, "/v1/plan", Endpoint::Plan),
    (Method::GET, "/v1/cache", Endpoint::Cache),
    (Method::POST, "/v1/cache/purge", Endpoint::PurgeCache),
    (Method::POST, "/v1/stop", Endpoint::Stop),
];

/// Finds the endpoint of a request before its body is read.
pub(super) fn endpoint(method: &Method, path: &str) -> Result<Endpoint, No> {
    let here = || ROUTES.iter().filter(|(_, known, _)| *known == path);
    if let Some((_, _, endpoint)) = here().find(|(known, _, _)| known == method) {
        return Ok(*endpoint);
    }
    let methods: Vec<&str> = here().map(|(known, _, _)| known.as_str()).collect();
    if methods.is_empty() {
        let known = ROUTES.each_ref();
        let known = known.map(|(method, path, _)| format!("{method} {path}"));
        return Err(No::new(
            StatusCode::NOT_FOUND,
            format!("there is nothing at {}", value::quoted(path)),
            format!("there is {}", known.join(", ")),
        ));
    }
    Err(No {
        allow: Some(methods.join(", ")),
        ..No::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{path} does not take {}", value::quoted(method.as_str())),
            format!("use {}", methods.join(" or ")),
        )
    })
}

/// Makes a command from the query and body of a request. Values follow the same rules as those of the
/// configuration.
pub(super) fn command(endpoint: Endpoint, query: &str, body: &[u8]) -> Result<Command, No> {
    let known: &[&str] = match endpoint {
        Endpoint::Lookup => &["client", "service", "cookie", "header", "query", "sid"],
        Endpoint::Cache => &["prefix", "most"],
        _ => &[],
    };
    let parameters = parameters(query, known)?;
    match endpoint {
        Endpoint::Status => Ok(Command::Status),
        Endpoint::Stats | Endpoint::Metrics => Ok(Command::Stats),
        Endpoint::Lookup => lookup(&parameters),
        Endpoint::AddBackend => add_backend(body),
        Endpoint::RemoveBackend => remove_backend(body),
        Endpoint::DrainBackend => drain_backend(body),
        Endpoint::ResetBackend => reset_backend(body),
        Endpoint::Bans => Ok(Command::Bans),
        Endpoint::Ban => ban(body),
        Endpoint::Unban => unban(body),
        Endpoint::Reload => {
            let Reload {
                max_moved,
                forget_runtime,
            } = document(body, r#"{"max_moved": 0.05}"#)?;
            let max_moved = max_moved.map(value::part).transpose()?.map(Part);
            Ok(Command::Reload {
                max_moved,
                forget_runtime,
            })
        }
        Endpoint::Plan => {
            const EXAMPLE: &str = r#"{"config": {"text": "[[service]]…", "source": "new.toml"}}"#;
            let Plan {
                config,
                forget_runtime,
            } = document(body, EXAMPLE)?;
            Ok(Command::Plan {
                config,
                forget_runtime,
            })
        }
        Endpoint::Cache => cache(&parameters),
        Endpoint::PurgeCache => purge_cache(body),
        Endpoint::Stop => {
            let Stop { purge } = document(body, r#"{"purge": false}"#)?;
            Ok(Command::Stop { purge })
        }
    }
}

/// The command of a query, by the rules of `GET /v1/lookup`.
///
/// # Errors
/// Something is missing, unknown or wrong in it.
pub fn lookup_command(query: &str) -> Result<Command, RefusalDocument> {
    command(Endpoint::Lookup, query, &[]).map_err(|no| no.document)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reload {
    max_moved: Option<f64>,
    #[serde(default)]
    forget_runtime: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    config: Option<Submitted>,
    #[serde(default)]
    forget_runtime: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    #[serde(default)]
    purge: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    address: String,
    service: Option<String>,
    weight: Option<i64>,
    #[serde(default)]
    ensure: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneBackend {
    address: String,
    service: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    address: String,
    service: Option<String>,
    timeout_seconds: Option<f64>,
    #[serde(default)]
    at_end: AtEnd,
    #[serde(default)]
    now: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    prefix: String,
    service: Option<String>,
    for_seconds: Option<f64>,
    reason: Option<String>,
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unban {
    prefix: String,
    service: Option<String>,
}

fn ban(body: &[u8]) -> Result<Command, No> {
    const EXAMPLE: &str = r#"{"prefix": "203.0.113.0/24", "for_seconds": 600}"#;
    let Ban {
        prefix,
        service,
        for_seconds,
        reason,
        force,
    } = document(body, EXAMPLE)?;
    Ok(Command::Ban(BanRequest {
        prefix: prefix.parse()?,
        service: checked_name(service)?,
        length: for_seconds.map(value::seconds).transpose()?,
        reason: reason.map(checked_reason).transpose()?,
        force,
    }))
}

fn unban(body: &[u8]) -> Result<Command, No> {
    const EXAMPLE: &str = r#"{"prefix": "203.0.113.0/24"}"#;
    let Unban { prefix, service } = document(body, EXAMPLE)?;
    Ok(Command::Unban {
        prefix: prefix.parse()?,
        service: checked_name(service)?,
    })
}

/// A reason, which is one line.
fn checked_reason(reason: String) -> Result<String, No> {
    if reason.len() <= MAX_REASON && !reason.chars().any(char::is_control) {
        return Ok(reason);
    }
    Err(No::new(
        StatusCode::BAD_REQUEST,
        "the reason of a ban is one line",
        format!("use at most {MAX_REASON} bytes, without control characters"),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeCache {
    url: Option<String>,
    #[serde(default)]
    prefix: bool,
    tag: Option<String>,
}

/// Stored responses that are shown if the request does not say how many.
const SHOWN: u32 = 20;

fn cache(parameters: &BTreeMap<Cow<'_, str>, Cow<'_, str>>) -> Result<Command, No> {
    let most = match parameters.get("most") {
        None => SHOWN,
        Some(text) => text.parse().map_err(|_| {
            No::new(
                StatusCode::BAD_REQUEST,
                format!("{} is not a number", value::quoted(text)),
                "write it as in /v1/cache?most=20",
            )
        })?,
    };
    let prefix = parameters.get("prefix").map(|prefix| prefix.to_string());
    Ok(Command::Cache {
        prefix: prefix.unwrap_or_default(),
        most,
    })
}

fn purge_cache(body: &[u8]) -> Result<Command, No> {
    const EXAMPLE: &str = r#"{"url": "https://example.com/a"}"#;
    let PurgeCache { url, prefix, tag } = document(body, EXAMPLE)?;
    let is_begin = |url: &String| url.starts_with("http://") || url.starts_with("https://");
    let (what, problem, remedy) = match (url, tag) {
        (Some(url), None) => {
            let problem = format!("{} is not a URL", value::quoted(&url));
            let what = match prefix {
                true if url.is_empty() => Some(Purge::All),
                true => Some(url).filter(is_begin).map(Purge::Prefix),
                false => Purge::url(&url),
            };
            (what, problem, "write it like https://example.com/a")
        }
        (None, Some(tag)) if !prefix => {
            let problem = format!("{} is not a tag", value::quoted(&tag));
            (
                Purge::tag(&tag),
                problem,
                "name one, without commas and spaces",
            )
        }
        _ => {
            let problem = "a purge is of a URL or of a tag".to_owned();
            (None, problem, "give one of url and tag")
        }
    };
    let no = || No::new(StatusCode::BAD_REQUEST, problem, remedy);
    Ok(Command::PurgeCache {
        what: what.ok_or_else(no)?,
    })
}

fn lookup(parameters: &BTreeMap<Cow<'_, str>, Cow<'_, str>>) -> Result<Command, No> {
    let client = parameters.get("client").ok_or_else(|| {
        No::new(
            StatusCode::BAD_REQUEST,
            "which client?",
            "name it as in /v1/lookup?client=203.0.113.9",
        )
    })?;
    let service = parameters.get("service").map(|name| name.to_string());
    let cookie = parameters.get("cookie").map(|text| facts::cookie(text));
    let header = parameters.get("header").map(|text| facts::header(text));
    let query = parameters.get("query").map(|text| facts::query(text));
    let sid = parameters.get("sid").map(|text| facts::sid(text));
    Ok(Command::Lookup {
        client: value::client_address(client)?,
        service: checked_name(service)?,
        request: RequestFacts {
            cookie: cookie.transpose()?,
            header: header.transpose()?,
            query: query.transpose()?,
            sid: sid.transpose()?,
        },
    })
}

fn add_backend(body: &[u8]) -> Result<Command, No> {
    const EXAMPLE: &str = r#"{"address": "127.0.0.1:5000", "service": "web", "weight": 1}"#;
    let Add {
        address,
        service,
        weight,
        ensure,
    } = document(body, EXAMPLE)?;
    let weight = weight.map(|weight| value::weight(weight.into()));
    Ok(Command::AddBackend {
        address: address.parse()?,
        service: checked_name(service)?,
        weight: weight.transpose()?,
        ensure,
    })
}

fn remove_backend(body: &[u8]) -> Result<Command, No> {
    let (address, service) = one_backend(body)?;
    Ok(Command::RemoveBackend { address, service })
}

fn reset_backend(body: &[u8]) -> Result<Command, No> {
    let (address, service) = one_backend(body)?;
    Ok(Command::ResetBackend { address, service })
}

fn one_backend(body: &[u8]) -> Result<(BackendAddress, Option<String>), No> {
    const EXAMPLE: &str = r#"{"address": "127.0.0.1:5000", "service": "web"}"#;
    let OneBackend { address, service } = document(body, EXAMPLE)?;
    Ok((address.parse()?, checked_name(service)?))
}

fn drain_backend(body: &[u8]) -> Result<Command, No> {
    const EXAMPLE: &str =
        r#"{"address": "127.0.0.1:5000", "service": "web", "timeout_seconds": 30}"#;
    let Drain {
        address,
        service,
        timeout_seconds,
        at_end,
        now,
    } = document(body, EXAMPLE)?;
    Ok(Command::DrainBackend {
        address: address.parse()?,
        service: checked_name(service)?,
        timeout: timeout_seconds.map(value::seconds).transpose()?,
        at_end,
        now,
    })
}

fn checked_name(name: Option<String>) -> Result<Option<String>, No> {
    Ok(name.as_deref().map(value::any_service_name).transpose()?)
}

/// The JSON object in `body`; none at all is an empty one.
fn document<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, No> {
    let body = body.trim_ascii();
    let body = if body.is_empty() { b"{}" } else { body };
    let no = |error: String| {
        No::new(
            StatusCode::BAD_REQUEST,
            format!("the body cannot be used: {error}"),
            format!("send something like {example}"),
        )
    };
    // serde would take a list for an object.
    if body[0] != b'{' {
        return Err(no("it is not a JSON object".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| no(error.to_string()))
}

fn parameters<'q>(
    query: &'q str,
    known: &[&str],
) -> Result<BTreeMap<Cow<'q, str>, Cow<'q, str>>, No> {
    let mut found = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let shown = value::quoted(&name);
        if !known.contains(&name.as_ref()) {
            let hint = match known {
                [] => "take no parameters here".to_owned(),
                known => format!("there is {}", known.join(" and ")),
            };
            let error = format!("unknown parameter {shown}");
            return Err(No::new(StatusCode::BAD_REQUEST, error, hint));
        }
        if found.insert(name, value).is_some() {
            let error = format!("parameter {shown} is there twice");
            return Err(No::new(StatusCode::BAD_REQUEST, error, "give it once"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod openapi;
#[cfg(test)]
mod tests;
