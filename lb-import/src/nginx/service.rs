//! The service of the servers that share addresses.

use toml::Value;

use super::Import;
use super::access;
use super::action::{self, Action};
use super::group::Group;
use super::http;
use super::routes::{Route, Site};
use super::settings::Settings;
use super::tls;
use super::tree::Directive;
use super::upstream::Backends;
use crate::document::{Part, table, texts};
use crate::report::Kind;

/// The parts of the service of `group`. `sites` are those of its servers, and `plain` a group that only redirects to it.
pub(super) fn parts(
    group: &Group<'_, '_>,
    mut sites: Vec<Site>,
    plain: Option<(&Group<'_, '_>, Vec<Route>)>,
    import: &Import<'_>,
) -> Vec<Part> {
    let lists = admitted(group, &mut sites, import);
    let mut routes: Vec<Route> = sites
        .iter_mut()
        .flat_map(|site| site.routes.drain(..))
        .collect();
    let mut listens = group.plain.clone();
    let redirects = plain.is_some() || sites.iter().any(|site| site.redirects_plain);
    if let Some((plain, more)) = plain {
        listens.extend(plain.plain.clone());
        routes.extend(more);
    }
    let default = group.servers[0];
    let origin = &default.directive.origin;
    let mut service = Part::new("[[service]]", Some(origin));
    service.set("name", group.name(import), None);
    service.set("mode", "http", None);
    if !listens.is_empty() {
        let listens = listens.iter().map(|listen| listen.address.to_string());
        service.set("listen", texts(listens), None);
    }
    let routes = settled(routes, import);
    let backends = take_default(&routes);
    if let Some(backends) = &backends {
        let list = Value::Array(backends.list.clone());
        service.set("backends", list, Some(&backends.origin));
    }
    if let Some((lists, rules)) = lists {
        lists.put(&mut service, &rules);
    }
    let common = common(&routes);
    let mut names = Names::default();
    if !common.limits.is_empty() {
        let limits = common.limits.iter().map(|limit| names.of_limit(limit));
        service.set("limit", Value::Array(limits.collect()), None);
    }
    let tls = tls::part(group, redirects, import);
    let asks = tls
        .as_ref()
        .is_some_and(|tls| tls.get("client_ca").is_some());
    if asks && !redirects && !listens.is_empty() {
        import.lost(
            default.directive,
            "plain requests come without a certificate, so its plain addresses are left out",
        );
        service.remove("listen");
    }
    let mut parts = vec![service];
    parts.extend(tls);
    let sent = backends
        .as_ref()
        .or_else(|| routes.iter().find_map(|route| route.action.backends()));
    let mut http = http::part(group, &listens, sent.is_some(), import);
    put_common(&mut http, &common, backends.as_ref(), sent);
    if let Some(sent) = sent {
        others(sent, &routes, import);
    }
    if !http.is_empty() {
        parts.push(http);
    }
    let rest_is_plain = routes.iter().any(|route| {
        let is_rest = route.hosts.is_empty() && route.path == "/" && !route.exact;
        let part = of_route(route, &common, backends.as_ref(), &mut Names::default());
        is_rest && says_nothing(&part)
    });
    for route in &routes {
        let mut part = of_route(route, &common, backends.as_ref(), &mut names);
        let is_rest = route.hosts.is_empty() && route.path == "/" && !route.exact;
        let is_plain = rest_is_plain || is_rest;
        if is_plain && is_implied(route, &part, &routes, backends.as_ref()) {
            continue;
        }
        // A route that only names its requests would lead nowhere.
        if let Some(own) = route.action.backends().filter(|_| says_nothing(&part)) {
            if let Some(name) = names.of_backends(route) {
                part.set("name", name, None);
            }
            part.set(
                "backends",
                Value::Array(own.list.clone()),
                Some(&own.origin),
            );
        }
        parts.push(part);
    }
    parts
}

/// `routes`, where one for `/a` beside one for `/a/` is for `/a` alone, and no two are for the same requests.
fn settled(routes: Vec<Route>, import: &Import<'_>) -> Vec<Route> {
    let mut kept: Vec<Route> = Vec::new();
    for mut route in routes {
        let clash = |one: &Route, other: &Route| {
            one.path == other.path && one.exact == other.exact && one.hosts == other.hosts
        };
        if let Some(before) = kept.iter_mut().find(|before| clash(before, &route)) {
            match (before.has_slash, route.has_slash) {
                (false, true) => before.exact = true,
                (true, false) => route.exact = true,
                _ => {
                    if before.action != route.action {
                        let what = format!("the route for {}", route.path);
                        import.note(
                            &route.origin,
                            what,
                            Kind::Lost,
                            "an earlier one has its requests",
                        );
                    }
                    continue;
                }
            }
            if kept.iter().any(|before| clash(before, &route)) {
                continue;
            }
        }
        kept.push(route);
    }
    kept
}

/// Tells of settings that a service has once, where backends of its routes have others.
fn others(sent: &Backends, routes: &[Route], import: &Import<'_>) {
    for other in routes.iter().filter_map(|route| route.action.backends()) {
        let differs = other.stickiness != sent.stickiness;
        if differs && other.list.len() > 1 {
            import.note(
                &other.origin,
                "upstream".to_owned(),
                Kind::Lost,
                &format!(
                    "a service has one kind of stickiness, that of {}; another service may have its own",
                    sent.origin
                ),
            );
        }
        if other.settings != sent.settings && !other.settings.is_empty() {
            import.note(
                &other.origin,
                "upstream".to_owned(),
                Kind::Different,
                &format!(
                    "keepalive, max_fails and fail_timeout are those of {}",
                    sent.origin
                ),
            );
        }
    }
}

/// The backends of the route for every name and path.
fn take_default(routes: &[Route]) -> Option<Backends> {
    let is_default = |route: &&Route| route.hosts.is_empty() && route.path == "/" && !route.exact;
    match &routes.iter().find(is_default)?.action {
        Action::Forward(backends, None) | Action::Files(_, Some(backends)) => {
            Some(backends.clone())
        }
        _ => None,
    }
}

/// `allow` and `deny` of its servers, if they are the same for all names and about connections. Otherwise a server that refuses some clients
/// refuses all of them.
fn admitted<'a>(
    group: &Group<'_, 'a>,
    sites: &mut [Site],
    import: &Import<'_>,
) -> Option<(access::Lists, Vec<&'a Directive>)> {
    let mut rules: Vec<_> = group
        .servers
        .iter()
        .map(|server| access::rules(&server.scope))
        .collect();
    let mut lists: Vec<_> = rules.iter().map(|rules| access::lists(rules)).collect();
    // nginx compares the client that a proxy names, and a service the proxy.
    let is_behind = group.servers.iter().any(|server| {
        let proxies = server.scope.either(&["set_real_ip_from"]);
        proxies.iter().any(|proxy| proxy.arg(0) != "unix:")
    });
    let is_behind = is_behind && rules.iter().flatten().any(|rule| rule.name == "deny");
    if !is_behind
        && let Some(Ok(first)) = lists.first()
        && lists.iter().all(|other| other.as_ref().ok() == Some(first))
    {
        rules.iter().flatten().for_each(|rule| rule.take());
        return Some((lists.remove(0).ok()?, rules.remove(0)));
    }
    let reason = match is_behind {
        true => {
            "a service compares the address of the proxy, not that of its client; the names of this server get 403 \
                 until you decide"
        }
        false => {
            "addresses are allowed and denied for all names of a service alike, so the names of this server get \
                  403 until you decide; a service on an address of its own has its own"
        }
    };
    for (rules, site) in rules.iter().zip(sites) {
        for rule in rules {
            import.lost(rule, reason);
        }
        let refuses = rules.iter().any(|rule| rule.name == "deny");
        let routes = site.routes.iter_mut().filter(|_| refuses);
        for route in routes.filter(|route| !matches!(route.action, Action::Redirect(..))) {
            route.action = Action::forbidden();
            route.settings = Settings::default();
        }
    }
    None
}

/// What all routes have alike; times and sizes are those of the most general one.
fn common(routes: &[Route]) -> Settings {
    let Some(first) = routes.first() else {
        return Settings::default();
    };
    let general = routes
        .iter()
        .find(|route| route.path == "/" && !route.exact)
        .unwrap_or(first);
    let sent = |route: &&Route| route.action.backends().is_some();
    let first_sent = routes.iter().find(sent);
    let mut common = general.settings.clone();
    let forwarded = || routes.iter().filter(sent).map(|route| &route.settings);
    let all = || routes.iter().map(|route| &route.settings);
    if let Some(sent) = first_sent {
        common
            .request_headers
            .clone_from(&sent.settings.request_headers);
        if general.action.backends().is_none() {
            common.body = sent.settings.body;
            common.first_byte.clone_from(&sent.settings.first_byte);
            common.body_time.clone_from(&sent.settings.body_time);
        }
    }
    if forwarded().any(|one| one.request_headers != common.request_headers) {
        common.request_headers.clear();
    }
    if all().any(|one| one.response_headers != common.response_headers) {
        common.response_headers.clear();
    }
    common
        .limits
        .retain(|limit| all().all(|one| one.limits.contains(limit)));
    common
}

fn put_common(
    http: &mut Part,
    common: &Settings,
    backends: Option<&Backends>,
    sent: Option<&Backends>,
) {
    if !common.request_headers.is_empty() {
        http.set(
            "request_headers",
            Value::Array(common.request_headers.clone()),
            None,
        );
    }
    if !common.response_headers.is_empty() {
        http.set(
            "response_headers",
            Value::Array(common.response_headers.clone()),
            None,
        );
    }
    let mut timeouts = toml::Table::new();
    if let Some(Value::Table(known)) = http.get("timeouts") {
        timeouts.clone_from(known);
    }
    timeouts.extend(times(common));
    if !timeouts.is_empty() {
        http.set("timeouts", Value::Table(timeouts), None);
    }
    if let Some(body) = common.body.filter(|body| *body != 0) {
        let mut limits = match http.get("limits") {
            Some(Value::Table(known)) => known.clone(),
            _ => toml::Table::new(),
        };
        limits.insert("body".to_owned(), super::values::size(body));
        http.set("limits", Value::Table(limits), None);
    }
    if let Some(auth @ Value::Table(_)) = &common.auth {
        http.set("auth", auth.clone(), None);
    }
    if let Some(backends) = backends.filter(|backends| backends.h2c) {
        http.set("protocol", "h2c", Some(&backends.origin));
    }
    if let Some(backends) = sent {
        if let Some(stickiness) = &backends.stickiness {
            http.set("stickiness", stickiness.clone(), Some(&backends.origin));
        }
        if !backends.settings.is_empty() {
            let keys = backends.settings.iter();
            let keys = keys.map(|(name, value)| ((*name).to_owned(), value.clone()));
            http.set(
                "upstream",
                Value::Table(keys.collect()),
                Some(&backends.origin),
            );
        }
    }
}

fn times(settings: &Settings) -> Vec<(String, Value)> {
    let body = settings.body_time.as_ref().map(|time| ("body", time));
    let first_byte = settings
        .first_byte
        .as_ref()
        .map(|time| ("first_byte", time));
    let both = body.into_iter().chain(first_byte);
    both.map(|(name, time)| (name.to_owned(), Value::String(time.clone())))
        .collect()
}

/// A route as a table, without what the service says already.
fn of_route(
    route: &Route,
    common: &Settings,
    backends: Option<&Backends>,
    names: &mut Names,
) -> Part {
    let mut part = Part::new("[[service.route]]", Some(&route.origin));
    let own = route.action.backends();
    let own = own.filter(|own| backends.is_none_or(|service| !service.same(own)));
    if own.is_some()
        && let Some(name) = names.of_backends(route)
    {
        part.set("name", name, None);
    }
    match route.hosts.as_slice() {
        [] => {}
        [host] => part.set("host", host.as_str(), None),
        hosts => part.set("host", texts(hosts), None),
    }
    if route.path != "/" || route.exact {
        part.set("path", route.path.as_str(), None);
    }
    if route.exact {
        part.set("exact", true, None);
    }
    put_action(&mut part, route, backends);
    let settings = &route.settings;
    let sends_on = route.action.backends().is_some();
    if sends_on && settings.request_headers != common.request_headers {
        part.set(
            "request_headers",
            Value::Array(settings.request_headers.clone()),
            None,
        );
    }
    if settings.response_headers != common.response_headers {
        part.set(
            "response_headers",
            Value::Array(settings.response_headers.clone()),
            None,
        );
    }
    let limits = settings.limits.iter();
    let limits = limits.filter(|limit| !common.limits.contains(limit));
    let limits: Vec<Value> = limits.map(|limit| names.of_limit(limit)).collect();
    if !limits.is_empty() {
        part.set("limit", Value::Array(limits), None);
    }
    if settings.auth != common.auth {
        match (&settings.auth, &common.auth) {
            (Some(auth), _) => part.set("auth", auth.clone(), None),
            (None, Some(Value::Table(_))) => part.set("auth", false, None),
            (None, _) => {}
        }
    }
    if sends_on && settings.body != common.body {
        let body = super::values::size(settings.body.unwrap_or(0));
        part.set("limits", table([("body", body)]), None);
    }
    if sends_on && times(settings) != times(common) {
        let mut times: toml::Table = times(settings).into_iter().collect();
        // What the service says and the route does not is nginx's default.
        for (name, value) in self::times(common) {
            if !times.contains_key(&name) && value != "60s".into() {
                times.insert(name, "60s".into());
            }
        }
        if !times.is_empty() {
            part.set("timeouts", Value::Table(times), None);
        }
    }
    part
}

/// Names that a service has given.
#[derive(Debug, Default)]
struct Names {
    backends: Vec<String>,
    limits: Vec<String>,
}

impl Names {
    /// A limit with a name that no other one of the service has.
    fn of_limit(&mut self, limit: &Value) -> Value {
        let mut limit = limit.clone();
        if let Value::Table(keys) = &mut limit {
            let base = keys.get("name").and_then(Value::as_str).unwrap_or("all");
            let name = free(base, &mut self.limits);
            keys.insert("name".to_owned(), name.into());
        }
        limit
    }

    /// A name for the service of the route's backends, if it needs one beside its path.
    fn of_backends(&mut self, route: &Route) -> Option<String> {
        let is_part = |char: char| char.is_ascii_alphanumeric() || char == '-';
        let plain = |text: &str| text.replace(|char| !is_part(char), "-");
        let path = route.path.trim_start_matches('/').replace('/', "-");
        let host = route.hosts.first().map(|host| plain(host));
        let base = match (host, path.as_str()) {
            (None, "") => "all".to_owned(),
            (None, _) => plain(&path),
            (Some(host), "") => host,
            (Some(host), _) => format!("{host}-{}", plain(&path)),
        };
        let base: String = base.trim_matches('-').chars().take(50).collect();
        let name = free(&base, &mut self.backends);
        (name != path).then_some(name)
    }
}

/// `base`, or with a number where it is among `taken`, which gets it.
fn free(base: &str, taken: &mut Vec<String>) -> String {
    let mut number = 1;
    let mut name = base.to_owned();
    while taken.contains(&name) {
        number += 1;
        name = format!("{base}-{number}");
    }
    taken.push(name.clone());
    name
}

/// Whether all keys of a route say which requests it is for.
fn says_nothing(part: &Part) -> bool {
    let plain = ["host", "path", "exact"];
    part.names().all(|name| plain.contains(&name))
}

fn put_action(part: &mut Part, route: &Route, of_service: Option<&Backends>) {
    let set_backends = |part: &mut Part, backends: &Backends| {
        if of_service.is_none_or(|service| !service.same(backends)) {
            let list = Value::Array(backends.list.clone());
            part.set("backends", list, Some(&backends.origin));
            if backends.h2c != of_service.is_some_and(|service| service.h2c) {
                part.set("protocol", if backends.h2c { "h2c" } else { "http1" }, None);
            }
        }
    };
    match &route.action {
        Action::Forward(backends, rewrite) => {
            set_backends(part, backends);
            if let Some(rewrite) = rewrite {
                part.set("prefix_rewrite", rewrite.as_str(), None);
            }
        }
        Action::Redirect(to, 308) => part.set("redirect", to.as_str(), None),
        Action::Redirect(to, status) => {
            let redirect = [("to", to.as_str().into()), ("status", (*status).into())];
            part.set("redirect", table(redirect), None);
        }
        Action::Answer(status, body, kind) => {
            part.set("answer", action::answer(*status, body, kind.as_ref()), None);
        }
        Action::Files(files, then) => {
            part.set("files", files.value(), None);
            if let Some(backends) = then {
                set_backends(part, backends);
            }
        }
    }
}

/// Whether the service does the same without the route.
fn is_implied(route: &Route, part: &Part, routes: &[Route], backends: Option<&Backends>) -> bool {
    let Action::Forward(own, None) = &route.action else {
        return false;
    };
    let says_nothing = says_nothing(part);
    let is_default = route.hosts.is_empty() && route.path == "/" && !route.exact;
    let other_takes_it = || {
        routes.iter().any(|other| {
            let is_rest = other.hosts.is_empty() && other.path == "/" && !other.exact;
            !(std::ptr::eq(other, route) || is_rest)
                && (other.hosts.is_empty() || other.hosts == route.hosts)
                && (route.path == other.path
                    || other.path == "/"
                    || route.path.starts_with(&format!("{}/", other.path)))
        })
    };
    says_nothing
        && backends.is_some_and(|service| service.same(own))
        && (is_default || (route.hosts.is_empty() && !other_takes_it()))
}
