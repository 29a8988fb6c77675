//! `proxy_set_header`, `add_header`, `expires` and the like.

use toml::Value;

use super::Import;
use super::scope::Scope;
use super::tree::Directive;
use super::values;
use crate::document::table;

/// Headers of requests that lb-agent sends by itself, or that Upgrade needs in nginx alone, with the values for which
/// that is true.
const NEEDLESS: &[(&str, &[&str])] = &[
    ("host", &["$host", "$http_host", "$host:$server_port"]),
    (
        "x-real-ip",
        &["$remote_addr", "$http_x_real_ip", "$proxy_protocol_addr"],
    ),
    (
        "x-forwarded-for",
        &[
            "$proxy_add_x_forwarded_for",
            "$remote_addr",
            "$http_x_forwarded_for",
            "$proxy_protocol_addr",
        ],
    ),
    (
        "x-forwarded-proto",
        &[
            "$scheme",
            "$http_x_forwarded_proto",
            "$proxy_x_forwarded_proto",
        ],
    ),
    (
        "x-forwarded-host",
        &["$host", "$http_host", "$host:$server_port"],
    ),
    ("x-forwarded-port", &["$server_port"]),
    ("x-request-id", &["$request_id"]),
    ("upgrade", &["$http_upgrade"]),
    (
        "connection",
        &[
            "upgrade",
            "Upgrade",
            "$connection_upgrade",
            "$http_connection",
            "",
            "keep-alive",
            "close",
        ],
    ),
    ("accept-encoding", &[""]),
    ("proxy", &[""]),
    ("early-data", &["$ssl_early_data"]),
    ("te", &[""]),
    ("transfer-encoding", &[""]),
    ("content-length", &[""]),
];

/// Headers that frame a message, or are for one connection.
const OF_THE_CONNECTION: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The rules of `request_headers` in `scope`.
pub(super) fn of_requests(scope: &Scope<'_>, name: &str, import: &Import<'_>) -> Vec<Value> {
    let mut rules = Vec::new();
    for directive in scope.all("proxy_set_header") {
        let (header, value) = (directive.arg(0), directive.arg(1));
        let known = NEEDLESS
            .iter()
            .find(|(known, _)| header.eq_ignore_ascii_case(known));
        if known.is_some_and(|(_, values)| values.contains(&value)) {
            import.needless(directive, "backends get it in any case");
            continue;
        }
        // Those by `auth_request_set` are part of `auth`.
        if import.auth.borrow().iter().any(|known| known == value) {
            continue;
        }
        if OF_THE_CONNECTION
            .iter()
            .any(|own| header.eq_ignore_ascii_case(own))
        {
            import.lost(directive, "the header belongs to the connection");
            continue;
        }
        if value.is_empty() {
            rules.push(table([("remove", header.into())]));
            continue;
        }
        if header.eq_ignore_ascii_case("host") {
            import.lost(directive, "backends get the Host that the client sent");
            continue;
        }
        match values::template(value, name) {
            Ok(value) => rules.push(table([("set", header.into()), ("value", value.into())])),
            Err(why) => import.lost(directive, &why),
        }
    }
    rules
}

/// The rules of `response_headers` in `scope`.
pub(super) fn of_responses(scope: &Scope<'_>, name: &str, import: &Import<'_>) -> Vec<Value> {
    let mut rules = Vec::new();
    for directive in scope.all("proxy_hide_header") {
        if !OF_THE_CONNECTION
            .iter()
            .any(|own| directive.arg(0).eq_ignore_ascii_case(own))
        {
            rules.push(table([("remove", directive.arg(0).into())]));
        }
    }
    for directive in scope.all("add_header") {
        let (header, value) = (directive.arg(0), directive.arg(1));
        if value == "$upstream_cache_status" {
            import.differs(
                directive,
                "stored responses carry `Cache-Status` (RFC 9211) instead",
            );
            continue;
        }
        if header.eq_ignore_ascii_case("alt-svc") {
            import.lost(directive, "HTTP/3 has its own `Alt-Svc`");
            continue;
        }
        if header.eq_ignore_ascii_case("content-type") {
            // An answer of the balancer's own has taken it for its type.
            if !directive_is_of_an_answer(scope) {
                import.lost(
                    directive,
                    "the type of a response is the backend's, or by the file's name",
                );
            }
            continue;
        }
        if value.is_empty()
            || OF_THE_CONNECTION
                .iter()
                .any(|own| header.eq_ignore_ascii_case(own))
        {
            import.lost(directive, "there is no such header");
            continue;
        }
        match values::template(value, name) {
            // nginx adds beside what the backend has sent.
            Ok(value) => rules.push(table([("add", header.into()), ("value", value.into())])),
            Err(why) => import.lost(directive, &why),
        }
    }
    rules
}

fn directive_is_of_an_answer(scope: &Scope<'_>) -> bool {
    scope.own().iter().any(|one| one.name == "return")
}

/// `Cache-Control` by `expires` in `scope`.
pub(super) fn expires(scope: &Scope<'_>, import: &Import<'_>) -> Option<String> {
    let directive = scope.one("expires")?;
    of_expires(directive, import)
}

fn of_expires(directive: &Directive, import: &Import<'_>) -> Option<String> {
    let value = directive.args.last().map_or("", String::as_str);
    match value {
        "off" => None,
        "epoch" => Some("no-cache".to_owned()),
        "max" => Some("max-age=315360000".to_owned()),
        _ if value.starts_with('-') => Some("no-cache".to_owned()),
        _ => match values::seconds(value.trim_start_matches('+')) {
            Some(seconds) => Some(format!("max-age={seconds}")),
            None => {
                import.lost(directive, "only a time is understood");
                None
            }
        },
    }
}
