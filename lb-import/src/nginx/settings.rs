//! Settings of a location that a route can have: headers, times, sizes, limits, passwords.

use toml::Value;

use super::Import;
use super::action;
use super::guards;
use super::headers;
use super::location::{Location, Match};
use super::scope::Scope;
use super::tree::Directive;
use super::values;
use crate::document::{table, texts};

/// Settings of a route or a service, each as the value of its key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    pub(super) request_headers: Vec<Value>,
    pub(super) response_headers: Vec<Value>,
    /// `timeouts.first_byte` and `timeouts.body`.
    pub(super) first_byte: Option<String>,
    pub(super) body_time: Option<String>,
    /// `limits.body`, in bytes.
    pub(super) body: Option<i64>,
    pub(super) limits: Vec<Value>,
    pub(super) auth: Option<Value>,
    /// Whether its requests are guarded by something that is lost, so that none may pass.
    pub(super) is_guarded: bool,
}

/// The settings that hold in `scope`. Requests that go to backends have those of `sent` on their way.
pub(super) fn read(
    scope: &Scope<'_>,
    name: &str,
    sent: Option<&Scope<'_>>,
    all: &[Location<'_>],
    import: &Import<'_>,
) -> Settings {
    // First, as header rules with its variables are part of it.
    let auth = auth(scope, sent, all, import);
    let is_guarded = auth.is_err()
        | guards::close(scope, import)
        | sent.is_some_and(|sent| closes_on_the_way(scope, sent, auth.as_ref(), all, import));
    let mut settings = Settings {
        response_headers: headers::of_responses(scope, name, import),
        limits: limits(scope, import),
        auth: auth.unwrap_or_default(),
        is_guarded,
        ..Settings::default()
    };
    if let Some(sent) = sent {
        settings.request_headers = headers::of_requests(sent, name, import);
        settings.first_byte = time(sent, "proxy_read_timeout", import)
            .or_else(|| time(sent, "grpc_read_timeout", import));
        settings.body_time = time(sent, "client_body_timeout", import);
        // nginx refuses more than 1 MiB where nothing is said.
        let size = sent.one("client_max_body_size");
        settings.body = Some(
            size.map_or(Some(1 << 20), |size| values::bytes(size.arg(0)))
                .unwrap_or_else(|| {
                    size.inspect(|size| import.lost(size, "this is no size"));
                    1 << 20
                }),
        );
        let expires = Some(scope).filter(|scope| std::ptr::eq(scope.own(), sent.own()));
        if let Some(expires) = expires.and_then(|scope| headers::expires(scope, import)) {
            let rule = [("set", "Cache-Control".into()), ("value", expires.into())];
            settings.response_headers.push(table(rule));
        }
    }
    settings
}

/// The time of directive `name`, where it is not the default of both programs.
pub(super) fn time(scope: &Scope<'_>, name: &str, import: &Import<'_>) -> Option<String> {
    let directive = scope.one(name)?;
    let time = values::time(directive.arg(0));
    if time.is_none() {
        import.lost(directive, "this is no time");
    }
    time
}

/// `limit` by `limit_req` and `limit_conn`.
fn limits(scope: &Scope<'_>, import: &Import<'_>) -> Vec<Value> {
    let dry = scope.flag("limit_req_dry_run", false);
    let mut limits = Vec::new();
    for directive in scope.all("limit_req") {
        let parameter = |name: &str| {
            let mut args = directive.args.iter();
            args.find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
        };
        let Some(zone) = parameter("zone").and_then(|name| import.zone("limit_req_zone", name))
        else {
            import.lost(directive, "its limit_req_zone is not there");
            continue;
        };
        let rate = zone.args.iter().find_map(|arg| arg.strip_prefix("rate="));
        let (Some(rate), Some(key)) = (rate.and_then(self::rate), key(zone, import)) else {
            import.lost(directive, "its zone has no rate or key that is known");
            continue;
        };
        let burst: i64 = parameter("burst")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let mut limit = vec![
            ("name", plain(parameter("zone").unwrap_or("all")).into()),
            ("rate", rate.into()),
            ("burst", burst.saturating_add(1).into()),
        ];
        limit.extend(key.map(|key| ("key", key)));
        limit.extend(dry.then_some(("dry_run", true.into())));
        let Some(limit) = known(limit, directive, import) else {
            continue;
        };
        limits.push(limit);
        if burst > 0 && !directive.args.iter().any(|arg| arg == "nodelay") {
            import.differs(directive, "a burst passes at once, nothing is delayed");
        }
    }
    for directive in scope.all("limit_conn") {
        let zone = import.zone("limit_conn_zone", directive.arg(0));
        let key = zone.and_then(|zone| key(zone, import));
        let (Some(key), Ok(number)) = (key, directive.arg(1).parse::<i64>()) else {
            import.lost(
                directive,
                "its limit_conn_zone is not there, or not by client, header or cookie",
            );
            continue;
        };
        let mut limit = vec![
            ("name", plain(directive.arg(0)).into()),
            ("concurrent", Value::Integer(number)),
        ];
        limit.extend(key.map(|key| ("key", key)));
        limits.extend(known(limit, directive, import));
    }
    limits
}

/// The limit with these keys, if lb-agent takes them.
fn known(keys: Vec<(&str, Value)>, directive: &Directive, import: &Import<'_>) -> Option<Value> {
    let limit = of(keys);
    if crate::is_taken(&format!("limit = [{limit}]")) {
        return Some(limit);
    }
    import.lost(
        directive,
        "its rate, burst or key is none that a limit takes, so nothing is limited",
    );
    None
}

/// The name of a zone as that of a limit.
fn plain(zone: &str) -> String {
    zone.replace(|char: char| !char.is_ascii_alphanumeric(), "-")
}

fn of(keys: Vec<(&str, Value)>) -> Value {
    Value::Table(
        keys.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

/// `10r/s` and `30r/m` as a rate of ours.
fn rate(text: &str) -> Option<String> {
    let (count, unit) = text.split_once("r/")?;
    let count: u32 = count.parse().ok()?;
    match unit {
        "s" => Some(format!("{count}/1s")),
        "m" => Some(format!("{count}/1m")),
        _ => None,
    }
}

/// What requests are counted by; inside, `None` is for the client. A zone by something else is lost.
fn key(zone: &Directive, import: &Import<'_>) -> Option<Option<Value>> {
    zone.take();
    match zone.arg(0).trim_start_matches('$') {
        "binary_remote_addr" | "remote_addr" | "{binary_remote_addr}" => Some(None),
        key if key.starts_with("http_") => {
            let name = key["http_".len()..].replace('_', "-");
            Some(Some(table([("header", name.into())])))
        }
        key if key.starts_with("cookie_") => {
            let name = key["cookie_".len()..].to_owned();
            Some(Some(table([("cookie", name.into())])))
        }
        _ => {
            import.lost(zone, "requests are counted by client, header or cookie");
            None
        }
    }
}

/// Whether the named location that takes requests of `scope` has guards of its own.
fn closes_on_the_way(
    scope: &Scope<'_>,
    sent: &Scope<'_>,
    auth: Result<&Option<Value>, &Lost>,
    all: &[Location<'_>],
    import: &Import<'_>,
) -> bool {
    if std::ptr::eq(scope.own(), sent.own()) {
        return false;
    }
    let own = self::auth(sent, Some(sent), all, import);
    let asks = |auth: &Value| auth.is_table();
    let has_other = match (&own, auth) {
        (Ok(Some(own)), Ok(of_files)) => asks(own) && of_files.as_ref() != Some(own),
        (Err(Lost), _) => true,
        _ => false,
    };
    if has_other {
        let named = ["auth_basic", "auth_request"];
        for guard in named.iter().filter_map(|name| sent.one(name)) {
            import.lost(
                guard,
                "files before it have other rules; requests for both get 403 until you decide",
            );
        }
    }
    guards::close_inside(sent, import) | has_other
}

/// `auth` that has no counterpart.
struct Lost;

/// `auth`: passwords, or another server that is asked. nginx asks for both where both are there.
fn auth(
    scope: &Scope<'_>,
    sent: Option<&Scope<'_>>,
    all: &[Location<'_>],
    import: &Import<'_>,
) -> Result<Option<Value>, Lost> {
    let asked = asked(scope, sent, all, import);
    let users = users(scope, import);
    let (asked, users) = (asked?, users?);
    let is_on = |auth: &Option<Value>| auth.as_ref().is_some_and(Value::is_table);
    if is_on(&asked) && is_on(&users) {
        for guard in ["auth_basic", "auth_request"] {
            if let Some(guard) = scope.one(guard) {
                import.lost(
                    guard,
                    "a route asks for passwords or another server, not both; requests get 403 until you decide",
                );
            }
        }
        return Err(Lost);
    }
    Ok(if is_on(&asked) {
        asked
    } else {
        users.or(asked)
    })
}

/// `auth = { users }` by `auth_basic`.
fn users(scope: &Scope<'_>, import: &Import<'_>) -> Result<Option<Value>, Lost> {
    let Some(realm) = scope.one("auth_basic") else {
        return Ok(None);
    };
    if realm.arg(0) == "off" {
        return Ok(Some(false.into()));
    }
    let users = scope.one("auth_basic_user_file");
    let Some(users) = users.filter(|users| !users.arg(0).contains('$')) else {
        import.lost(
            realm,
            "auth_basic_user_file is not there, or a variable; requests get 403",
        );
        return Err(Lost);
    };
    let mut keys = vec![("users", import.file(users.arg(0)).into())];
    if realm.arg(0) != "Restricted" {
        keys.push(("realm", realm.arg(0).into()));
    }
    import.differs(
        users,
        "hashes are bcrypt or argon2id; write others anew by \"htpasswd -B\"",
    );
    Ok(Some(of(keys)))
}

/// `auth = { url, set }` by `auth_request`.
fn asked(
    scope: &Scope<'_>,
    sent: Option<&Scope<'_>>,
    all: &[Location<'_>],
    import: &Import<'_>,
) -> Result<Option<Value>, Lost> {
    let Some(directive) = scope.one("auth_request") else {
        return Ok(None);
    };
    let path = directive.arg(0);
    if path == "off" {
        return Ok(Some(false.into()));
    }
    let is_target = |one: &&Location<'_>| matches!(&one.matches, Match::Exact(at) | Match::Prefix(at) if at == path);
    let target = all.iter().find(is_target);
    let passed = target.and_then(|target| target.scope.here("proxy_pass"));
    let url = passed.and_then(|passed| url(passed, path, import));
    let (Some(target), Some(url)) = (target, url) else {
        import.lost(
            directive,
            "its location has no proxy_pass with an address; requests get 403 until you decide",
        );
        return Err(Lost);
    };
    for header in target.scope.all("proxy_set_header") {
        import.needless(
            header,
            "the server that is asked gets the headers of the client and X-Forwarded-Uri and the like",
        );
    }
    let set = taken_over(scope, sent, import);
    let mut keys = vec![("url", url.into())];
    if !set.is_empty() {
        keys.push(("set", texts(set)));
    }
    Ok(Some(of(keys)))
}

/// The URL of the server that is asked. It is asked for `path` where `proxy_pass` has none.
fn url(passed: &Directive, path: &str, import: &Import<'_>) -> Option<String> {
    let (backends, uri) = action::backends(passed, import)?;
    let first = match backends.list.first()? {
        Value::Table(first) => first.get("address")?.as_str()?,
        first => first.as_str()?,
    };
    if backends.list.len() > 1 {
        import.differs(passed, "the first server alone is asked");
    }
    let colon = if first.starts_with("unix:") { ":" } else { "" };
    Some(format!("http://{first}{colon}{}", uri.unwrap_or(path)))
}

/// Headers of the answer that the request gets: `auth_request_set` has them as variables.
fn taken_over(scope: &Scope<'_>, sent: Option<&Scope<'_>>, import: &Import<'_>) -> Vec<String> {
    let headers = sent.map_or_else(Vec::new, |sent| sent.all("proxy_set_header"));
    let mut set = Vec::new();
    for variable in scope.all("auth_request_set") {
        let name = variable.arg(0);
        let from = variable.arg(1).strip_prefix("$upstream_http_");
        let Some(from) = from.map(|from| from.replace('_', "-")) else {
            import.lost(variable, "headers alone are taken from the answer");
            continue;
        };
        import.auth.borrow_mut().push(name.to_owned());
        let mut is_used = false;
        for header in headers.iter().filter(|header| header.arg(1) == name) {
            is_used = true;
            if from.eq_ignore_ascii_case(header.arg(0)) {
                set.push(header.arg(0).to_owned());
            } else {
                let reason =
                    format!("a header keeps its name; it comes as {from} from the auth server");
                import.lost(header, &reason);
            }
        }
        if from == "set-cookie" {
            import.needless(variable, "clients get the cookies of the answer");
        } else if !is_used {
            import.lost(variable, "no proxy_set_header takes it to the backend");
        }
    }
    set
}
