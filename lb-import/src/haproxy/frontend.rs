//! Services of `frontend` and `listen`.

use std::net::SocketAddr;

use toml::Value;

use super::backend::{self, Backend};
use super::binds::{self, Binds};
use super::condition;
use super::http::{self, Http, Route};
use super::tree::{Line, Section};
use super::{Import, first, values};
use crate::document::{Part, table, texts};

/// The parts of the service of `section`.
pub(super) fn parts<'a>(section: &'a Section, import: &Import<'a>) -> Vec<Part> {
    section.heading.take();
    let lines = import.lines_of(section);
    let mode = first(&lines, "mode");
    let is_http = mode.is_some_and(|mode| mode.word(1) == "http");
    if let Some(mode) = mode.filter(|mode| !is_http && mode.word(1) == "tcp") {
        import.needless(mode, "it is the default");
    }
    let sends = ["server", "default_backend", "use_backend"];
    let sends_on = section
        .lines
        .iter()
        .any(|line| sends.iter().any(|word| line.is(word)));
    if !sends_on && section.lines.iter().any(|line| line.is("stats")) {
        let reason = "\"lb-agent status\" and `metrics` under [agent] have these figures";
        import.lost(&section.heading, reason);
        return Vec::new();
    }
    let binds = binds::read(section, is_http, import);
    if binds.plain.is_empty() && binds.tls.is_empty() {
        import.lost(&section.heading, "it has no address to listen on");
        return Vec::new();
    }
    let origin = section.heading.origin.clone();
    let mut service = Part::new("[[service]]", Some(&origin));
    service.set("name", values::name(section.name()), None);
    if is_http {
        service.set("mode", "http", None);
    }
    if !binds.plain.is_empty() {
        service.set(
            "listen",
            texts(binds.plain.iter().map(SocketAddr::to_string)),
            None,
        );
    }
    let target = default(section, &lines, import);
    let backend = target.and_then(|target| backend::read(target, &import.lines_of(target), import));
    if let Some(backend) = &backend {
        service.set(
            "backends",
            Value::Array(backend.list.clone()),
            Some(&backend.origin),
        );
        if let Some(version) = backend.proxy_protocol.filter(|_| !is_http) {
            service.set("send_proxy_protocol", version, Some(&backend.origin));
        }
    }
    if let Some(most) = first(&lines, "maxconn")
        && let Ok(number) = most.word(1).parse::<i64>()
    {
        service.set("max_connections", number, Some(&most.origin));
    }
    let health = backend.as_ref().and_then(Backend::health);
    if !is_http {
        of_tcp(backend.as_ref(), &lines, target, import);
        let own = target.filter(|target| !std::ptr::eq(*target, section));
        let own: Vec<&Line> = own.map_or(&[][..], |own| &own.lines).iter().collect();
        if !admits(&lines, &mut service, import) || !admits(&own, &mut service, import) {
            return Vec::new();
        }
        return [Some(service), health].into_iter().flatten().collect();
    }
    let mut http = Http {
        lines: &lines,
        import,
        binds: &binds,
        redirect_http: false,
        routes: Vec::new(),
    };
    http.rules(&mut service);
    http.backends(backend.as_ref());
    let settings = http.settings(target, backend.as_ref());
    let Http {
        redirect_http,
        mut routes,
        ..
    } = http;
    let has_rest = routes
        .iter()
        .any(|route| route.requests == (Vec::new(), "/".to_owned(), false));
    let own = target.filter(|target| !std::ptr::eq(*target, section));
    let is_closed = own.is_some_and(|target| http::is_closed(target, import));
    if (backend.is_none() || is_closed) && !has_rest {
        let status = if is_closed { 403 } else { 503 };
        let mut part = Part::new("[[service.route]]", Some(&origin));
        part.set("answer", table([("status", status.into())]), None);
        routes.push(Route {
            part,
            requests: (Vec::new(), "/".to_owned(), false),
        });
    }
    let asks = binds.keys.iter().any(|(key, _)| *key == "client_ca");
    if asks && !redirect_http && !binds.plain.is_empty() {
        import.lost(
            &section.heading,
            "plain requests come without a certificate, so its plain addresses are left out",
        );
        service.remove("listen");
    }
    let mut parts = vec![service];
    parts.extend(tls(&binds, redirect_http));
    parts.extend(health);
    parts.extend(Some(settings).filter(|settings| !settings.is_empty()));
    parts.extend(routes.into_iter().map(|route| route.part));
    parts
}

/// The section with the servers of requests without a rule.
fn default<'a>(section: &'a Section, lines: &[&Line], import: &Import<'a>) -> Option<&'a Section> {
    if let Some(line) = first(lines, "default_backend") {
        let found = import.backend(line.word(1));
        if found.is_none() {
            import.lost(line, "there is no such backend");
        }
        return found;
    }
    section
        .lines
        .iter()
        .any(|line| line.is("server"))
        .then_some(section)
}

fn tls(binds: &Binds, redirect_http: bool) -> Option<Part> {
    if binds.tls.is_empty() {
        return None;
    }
    let mut part = Part::new("[service.tls]", None);
    part.set(
        "listen",
        texts(binds.tls.iter().map(SocketAddr::to_string)),
        None,
    );
    part.set(
        "certificates",
        Value::Array(binds.certificates.clone()),
        None,
    );
    for (key, value) in &binds.keys {
        part.set(key, value.clone(), None);
    }
    if redirect_http {
        part.set("redirect_http", true, None);
    }
    Some(part)
}

/// Refuses clients of a service of TCP. `false` where it is left out, as it would let in others.
fn admits(lines: &[&Line], service: &mut Part, import: &Import<'_>) -> bool {
    let mut is_open = true;
    for line in lines.iter().filter(|line| http::is_refusal(line)) {
        line.take();
        for refused in condition::refused(line, lines) {
            let clients = refused.condition.clients.as_ref();
            match (&refused.lost, clients) {
                (None, Some((clients, is_these)))
                    if http::admit(service, line, clients, *is_these) => {}
                (Some(why), _) if !refused.is_closed => {
                    let reason = format!("{why}; connections that it refuses are OPEN now");
                    import.lost(line, &reason);
                }
                _ => {
                    import.lost(
                        line,
                        "clients are addresses and prefixes; the service is left out",
                    );
                    is_open = false;
                }
            }
        }
    }
    is_open
}

/// Lines of a service of TCP that have another meaning here.
fn of_tcp<'a>(
    backend: Option<&Backend>,
    lines: &[&Line],
    target: Option<&'a Section>,
    import: &Import<'a>,
) {
    let more = target.map_or_else(Vec::new, |target| import.lines_of(target));
    for line in lines.iter().chain(&more) {
        if line.is("timeout client") || line.is("timeout server") || line.is("timeout tunnel") {
            import.differs(
                line,
                "connections go through the kernel and have no time limit",
            );
        } else if line.is("timeout connect") {
            import.needless(line, "the kernel hands connections to backends");
        }
    }
    if let Some(cookie) = lines.iter().chain(&more).find(|line| line.is("cookie"))
        && backend.is_some_and(|backend| backend.stickiness.is_some())
    {
        import.lost(cookie, "clients of TCP are told apart by address alone");
    }
}
