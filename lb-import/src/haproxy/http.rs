//! Routes and settings of a service of HTTP.

use toml::Value;

use super::backend::{self, Backend};
use super::binds::Binds;
use super::condition::{self, Condition, Refused};
use super::tree::{Line, Section};
use super::{Import, first, values};
use crate::document::{Part, table, texts};

/// A route as a table, with the requests that it is for.
pub(super) struct Route {
    pub(super) part: Part,
    pub(super) requests: Requests,
}

/// Hosts, a path, and whether it is for this path alone.
pub(super) type Requests = (Vec<String>, String, bool);

impl Route {
    /// Whether it takes all of these requests.
    fn covers(&self, (hosts, path, exact): &Requests) -> bool {
        let (own, from, is_exact) = &self.requests;
        let has_hosts =
            own.is_empty() || (!hosts.is_empty() && hosts.iter().all(|host| own.contains(host)));
        has_hosts
            && match is_exact {
                true => *exact && path == from,
                false => is_below(path, from),
            }
    }
}

/// Whether `path` is `from` or below it.
fn is_below(path: &str, from: &str) -> bool {
    let rest = path.strip_prefix(from.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A service of HTTP in the making.
pub(super) struct Http<'h, 'a> {
    pub(super) lines: &'h [&'a Line],
    pub(super) import: &'h Import<'a>,
    pub(super) binds: &'h Binds,
    pub(super) redirect_http: bool,
    pub(super) routes: Vec<Route>,
}

impl<'a> Http<'_, 'a> {
    /// Redirects and refusals, in their order.
    pub(super) fn rules(&mut self, service: &mut Part) {
        for line in self.lines {
            let at = usize::from(line.is("http-request"));
            match line.word(at) {
                "redirect" => self.redirect(line, at + 1),
                _ if is_refusal(line) => self.refuse(line, service),
                _ => {}
            }
        }
    }

    fn redirect(&mut self, line: &Line, at: usize) {
        let (kind, value) = (line.word(at), line.word(at + 1));
        let mut status = 302;
        let mut from = at + 2;
        if line.word(from) == "code" {
            status = line.word(from + 1).parse().unwrap_or(302);
            from += 2;
        }
        let condition = match condition::of(line, from, self.lines) {
            Ok(condition) => condition,
            Err(why) => return self.import.lost(line, &why),
        };
        let is_plain = self.binds.tls.is_empty();
        let to = match (kind, value) {
            ("scheme", "https") if condition.tls != Some(true) => {
                "https://$hostname$uri".to_owned()
            }
            ("prefix", prefix) => format!("{}$uri", prefix.trim_end_matches('/')),
            ("location", location) => location.to_owned(),
            _ => return self.import.lost(line, "this redirect has no counterpart"),
        };
        if to.contains('%') || condition.clients.is_some() {
            return self.import.lost(
                line,
                "samples and clients of a redirect have no counterpart",
            );
        }
        line.take();
        if kind == "scheme" && !is_plain {
            if !condition.hosts.is_empty() || !condition.paths.is_empty() {
                self.import
                    .differs(line, "all plain requests are redirected");
            }
            self.import
                .differs(line, "plain requests are redirected by 308");
            self.redirect_http = true;
            return;
        }
        if condition.tls.is_some() && !is_plain {
            return self.import.lost(
                line,
                "a route is for both plain requests and those over TLS",
            );
        }
        let redirect = table([("to", to.into()), ("status", Value::Integer(status))]);
        self.route(line, &condition, |part| {
            part.set("redirect", redirect.clone(), None)
        });
    }

    /// Refuses the requests of `line`, or more of them where a part of its condition is lost.
    fn refuse(&mut self, line: &Line, service: &mut Part) {
        line.take();
        for refused in condition::refused(line, self.lines) {
            let Refused {
                mut condition,
                lost,
                is_closed,
            } = refused;
            match lost {
                None if line.word(1) != "auth" => self.deny(line, &condition, service),
                Some(why) if !is_closed && line.word(1) != "auth" => {
                    let reason = format!("{why}; requests that it refuses are OPEN now");
                    self.import.lost(line, &reason);
                }
                why => {
                    (condition.clients, condition.tls) = (None, None);
                    let why = why.unwrap_or_else(|| {
                        "passwords are `auth` with a file of bcrypt hashes".to_owned()
                    });
                    self.close(line, &condition, &why);
                }
            }
        }
    }

    /// Answers 403 to the requests of `condition`, as what lets some of them in is lost.
    fn close(&mut self, line: &Line, condition: &Condition, why: &str) {
        let reason = format!("{why}; requests for it get 403 until you decide");
        self.import.lost(line, &reason);
        let answer = table([("status", 403.into())]);
        self.route(line, condition, |part| {
            part.set("answer", answer.clone(), None)
        });
    }

    fn deny(&mut self, line: &Line, condition: &Condition, service: &mut Part) {
        let status = match line.word(2) {
            "deny_status" | "status" => line.word(3).parse().unwrap_or(403),
            _ => 403,
        };
        match &condition.clients {
            Some((clients, is_these))
                if condition.hosts.is_empty() && condition.paths.is_empty() =>
            {
                if !admit(service, line, clients, *is_these) {
                    let why = "`allow` and `deny` of the service have other clients already";
                    return self.close(line, &Condition::default(), why);
                }
                if condition.tls.is_some() {
                    self.import
                        .differs(line, "the clients are refused with and without TLS");
                }
                self.import
                    .differs(line, "the clients are refused at their first packet");
            }
            _ if condition.is_route() => {
                let answer = table([("status", Value::Integer(status))]);
                self.route(line, condition, |part| {
                    part.set("answer", answer.clone(), None)
                });
            }
            _ => self.close(
                line,
                condition,
                "clients are refused for a service, not for a path",
            ),
        }
    }

    /// Routes by `use_backend`.
    pub(super) fn backends(&mut self, default: Option<&Backend>) {
        for line in self.lines.iter().filter(|line| line.is("use_backend")) {
            let condition = match condition::of(line, 2, self.lines) {
                Ok(condition) if condition.is_route() && !condition.is_always() => condition,
                Ok(_) => {
                    self.import.lost(line, "routes are for hosts and paths");
                    continue;
                }
                Err(why) => {
                    self.import.lost(line, &why);
                    continue;
                }
            };
            line.take();
            let section = self.import.backend(line.word(1));
            let lines = section
                .map(|section| self.import.lines_of(section))
                .unwrap_or_default();
            let backend = section.and_then(|section| backend::read(section, &lines, self.import));
            let Some(backend) = backend else {
                self.import.lost(
                    line,
                    "no server of the backend is left; its requests get 503",
                );
                let answer = table([("status", 503.into())]);
                self.route(line, &condition, |part| {
                    part.set("answer", answer.clone(), None)
                });
                continue;
            };
            if section.is_some_and(|section| is_closed(section, self.import)) {
                let answer = table([("status", 403.into())]);
                self.route(line, &condition, |part| {
                    part.set("answer", answer.clone(), None)
                });
                continue;
            }
            if default.is_some_and(|default| {
                default.health != backend.health || default.stickiness != backend.stickiness
            }) {
                self.import.differs(line, "health checks and stickiness are those of the default backend; another service may have its own");
            }
            let own = headers(
                &lines,
                section.map_or(&[], |section| &section.lines),
                self.import,
            );
            let time = section
                .and_then(|section| section.lines.iter().find(|line| line.is("timeout server")));
            let time = time
                .inspect(|line| line.take())
                .and_then(|line| values::time(line.word(2)));
            let name = values::name(line.word(1));
            self.route(line, &condition, |part| {
                part.set("name", name.clone(), None);
                part.set(
                    "backends",
                    Value::Array(backend.list.clone()),
                    Some(&backend.origin),
                );
                for (key, rules) in [("request_headers", &own.0), ("response_headers", &own.1)] {
                    if !rules.is_empty() {
                        part.set(key, Value::Array(rules.clone()), None);
                    }
                }
                if let Some(time) = &time {
                    part.set(
                        "timeouts",
                        table([("first_byte", time.clone().into())]),
                        None,
                    );
                }
            });
        }
    }

    /// Routes with the hosts and paths of `condition`.
    fn route(&mut self, line: &Line, condition: &Condition, mut fill: impl FnMut(&mut Part)) {
        let rest = [("/".to_owned(), false)];
        let paths = if condition.paths.is_empty() {
            &rest[..]
        } else {
            &condition.paths
        };
        for (path, exact) in paths {
            let bare = path.trim_end_matches('/');
            // An exact path has no slash at its end here, so the route is for what is below, too.
            let exact = &(*exact && (bare.is_empty() || bare == path));
            let bare = if bare.is_empty() { "/" } else { bare };
            if !exact && bare != "/" {
                let difference =
                    format!("{bare} is for this path and those below it, in whole segments");
                self.import.differs(line, &difference);
            }
            let requests = (condition.hosts.clone(), bare.to_owned(), *exact);
            if self.routes.iter().any(|route| route.covers(&requests)) {
                self.import
                    .needless(line, "an earlier rule has these requests");
                continue;
            }
            let mut part = Part::new("[[service.route]]", Some(&line.origin));
            if !condition.hosts.is_empty() {
                part.set("host", texts(&condition.hosts), None);
            }
            if bare != "/" || *exact {
                part.set("path", bare, None);
            }
            if *exact {
                part.set("exact", true, None);
            }
            fill(&mut part);
            if !condition.hosts.is_empty() {
                self.repeat(&requests);
            }
            self.push(part, requests);
        }
    }

    /// Repeats earlier routes for paths alone, which a route for hosts would go before.
    fn repeat(&mut self, (hosts, path, _): &Requests) {
        let is_before =
            |route: &&Route| route.requests.0.is_empty() && is_below(&route.requests.1, path);
        let earlier = self.routes.iter().filter(is_before);
        let copies: Vec<(Part, Requests)> = earlier
            .map(|route| {
                let mut part = route.part.clone();
                part.set("host", texts(hosts), None);
                let (_, path, exact) = route.requests.clone();
                (part, (hosts.clone(), path, exact))
            })
            .collect();
        for (part, requests) in copies {
            if !self.routes.iter().any(|route| route.requests == requests) {
                self.push(part, requests);
            }
        }
    }

    /// Adds a route, with a name that no other one has.
    fn push(&mut self, mut part: Part, requests: Requests) {
        if let Some(name) = part.get("name").and_then(Value::as_str).map(str::to_owned) {
            let is_taken = |name: &str| {
                let mut names = self
                    .routes
                    .iter()
                    .filter_map(|route| route.part.get("name"));
                names.any(|taken| taken.as_str() == Some(name))
            };
            let mut number = 1;
            let mut free = name.clone();
            while is_taken(&free) {
                number += 1;
                free = format!("{name}-{number}");
            }
            part.set("name", free, None);
        }
        self.routes.push(Route { part, requests });
    }

    /// `[service.http]`.
    pub(super) fn settings(&self, target: Option<&'a Section>, backend: Option<&Backend>) -> Part {
        let mut part = Part::new("[service.http]", None);
        let of_backend = target.map_or_else(Vec::new, |target| self.import.lines_of(target));
        if let Some(stickiness) = backend.and_then(|backend| backend.stickiness.as_ref()) {
            part.set(
                "stickiness",
                stickiness.clone(),
                backend.map(|backend| &backend.origin),
            );
        }
        if let Some(version) = backend.and_then(|backend| backend.proxy_protocol) {
            part.set(
                "send_proxy_protocol",
                version,
                backend.map(|backend| &backend.origin),
            );
        }
        let mut all = self.lines.to_vec();
        all.extend(&of_backend);
        times(&all, &mut part, self.import);
        compression(&all, &mut part);
        let own: Vec<&Line> = self
            .lines
            .iter()
            .chain(of_backend.iter())
            .copied()
            .collect();
        let rules = headers(&own, &[], self.import);
        for (key, rules) in [("request_headers", rules.0), ("response_headers", rules.1)] {
            if !rules.is_empty() {
                part.set(key, Value::Array(rules), None);
            }
        }
        part
    }
}

/// Whether `line` keeps requests out, or may do.
pub(super) fn is_refusal(line: &Line) -> bool {
    match line.word(0) {
        "http-request" => {
            ["auth", "deny", "reject", "silent-drop", "tarpit"].contains(&line.word(1))
        }
        "tcp-request" => ["reject", "silent-drop"].contains(&line.word(2)),
        _ => false,
    }
}

/// Whether requests for the backend `section` are to be refused, as its own rules for that are lost. That is told.
pub(super) fn is_closed(section: &Section, import: &Import<'_>) -> bool {
    let lines: Vec<&Line> = section.lines.iter().collect();
    let mut is_closed = false;
    for line in section.lines.iter().filter(|line| is_refusal(line)) {
        let refused = condition::refused(line, &lines);
        let closes = line.word(1) == "auth"
            || refused
                .iter()
                .any(|one| one.lost.is_none() || one.is_closed);
        is_closed |= closes;
        let reason = match closes {
            true => "a backend refuses nobody; all requests for it get 403 until you decide",
            false => "a backend refuses nobody; requests that it refuses are OPEN now",
        };
        import.lost(line, reason);
    }
    is_closed
}

/// Sets `allow` or `deny` of `service` for a line that refuses these clients, or all others. `false` where a service
/// cannot have both this line and an earlier one.
pub(super) fn admit(service: &mut Part, line: &Line, clients: &[String], is_these: bool) -> bool {
    if service.get("allow").is_some() || (!is_these && service.get("deny").is_some()) {
        return false;
    }
    let mut list = match service.get("deny") {
        Some(Value::Array(known)) => known.clone(),
        _ => Vec::new(),
    };
    let more = clients.iter().map(|client| Value::from(client.as_str()));
    list.extend(more);
    let key = if is_these { "deny" } else { "allow" };
    service.set(key, Value::Array(list), Some(&line.origin));
    true
}

/// Rules for headers of requests and responses, by `lines`, or by those of `own` alone if there are some.
fn headers(lines: &[&Line], own: &[Line], import: &Import<'_>) -> (Vec<Value>, Vec<Value>) {
    let mut rules = (Vec::new(), Vec::new());
    let own: Vec<&Line> = own.iter().collect();
    let lines = if own.is_empty() { lines } else { &own };
    for line in lines {
        let list = match line.word(0) {
            "http-request" => &mut rules.0,
            "http-response" => &mut rules.1,
            _ => continue,
        };
        let (name, value) = (line.word(2), line.word(3));
        let (key, from) = match line.word(1) {
            "set-header" => ("set", 4),
            "add-header" => ("add", 4),
            "del-header" => ("remove", 3),
            _ => continue,
        };
        let is_proto = name.eq_ignore_ascii_case("x-forwarded-proto") && line.words.len() > 4;
        if is_proto && ["https", "http"].contains(&value) {
            import.needless(line, "backends get it in any case");
            continue;
        }
        if line.words.len() > from {
            import.lost(line, "a change of headers has no condition");
            continue;
        }
        if key == "remove" {
            line.take();
            list.push(table([("remove", name.into())]));
            continue;
        }
        match values::template(value) {
            Ok(value) => {
                line.take();
                let rule = table([(key, name.into()), ("value", value.into())]);
                if !list.contains(&rule) {
                    list.push(rule);
                }
            }
            Err(why) => import.lost(line, &why),
        }
    }
    rules
}

fn times(lines: &[&Line], part: &mut Part, import: &Import<'_>) {
    let known = [
        ("timeout http-request", "header"),
        ("timeout client", "send"),
        ("timeout http-keep-alive", "idle"),
        ("timeout connect", "connect"),
        ("timeout server", "first_byte"),
        ("timeout tunnel", "tunnel"),
    ];
    let mut times = toml::Table::new();
    for (theirs, ours) in known {
        let Some(line) = first(lines, theirs) else {
            continue;
        };
        match values::time(line.word(2)) {
            Some(time) => drop(times.insert(ours.to_owned(), time.into())),
            None => import.lost(line, "this is no time"),
        }
    }
    if !times.is_empty() {
        part.set("timeouts", Value::Table(times), None);
    }
}

fn compression(lines: &[&Line], part: &mut Part) {
    let mut keys = toml::Table::new();
    let algorithms = first(lines, "compression algo");
    if let Some(types) = first(lines, "compression type") {
        keys.insert("types".to_owned(), texts(types.words.iter().skip(2)));
    }
    if algorithms.is_none() {
        keys.insert("enabled".to_owned(), false.into());
    }
    if !keys.is_empty() {
        part.set(
            "compression",
            Value::Table(keys),
            algorithms.map(|line| &line.origin),
        );
    }
}
