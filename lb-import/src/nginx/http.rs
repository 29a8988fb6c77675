//! `[service.http]`: what holds for all routes of a service.

use toml::Value;

use super::Import;
use super::group::Group;
use super::scope::Scope;
use super::server::{Listen, Server};
use super::settings;
use super::tree::Directive;
use super::values;
use crate::document::{Part, texts};

/// The part of `group`, with settings by its first server.
pub(super) fn part(
    group: &Group<'_, '_>,
    listens: &[Listen],
    sends_on: bool,
    import: &Import<'_>,
) -> Part {
    let mut part = Part::new("[service.http]", None);
    let scope = &group.lead().scope;
    let real_ip = trusted(scope, &mut part, import);
    if listens
        .iter()
        .chain(&group.tls)
        .any(|listen| listen.proxy_protocol)
    {
        if real_ip {
            part.set("proxy_protocol", true, None);
        } else {
            import.lost(
                group.lead().directive,
                "proxy_protocol takes set_real_ip_from for the proxies that send it",
            );
        }
    }
    if scope.flag("underscores_in_headers", false) {
        part.set("underscore_headers", true, None);
    }
    times_and_sizes(group, scope, &mut part, import);
    compression(group, &mut part);
    if sends_on {
        cache(group, &mut part, import);
    }
    access_log(scope, &mut part, import);
    errors(group, &mut part, import);
    once(group, import);
    part
}

/// Directives with one value for all names of a service, where a difference is small.
const SMALL: [&str; 12] = [
    "access_log",
    "gzip",
    "gzip_types",
    "gzip_min_length",
    "brotli",
    "brotli_types",
    "client_header_timeout",
    "send_timeout",
    "keepalive_timeout",
    "proxy_connect_timeout",
    "large_client_header_buffers",
    "underscores_in_headers",
];

/// The same, where the difference is not.
const LARGE: [&str; 6] = [
    "error_page",
    "set_real_ip_from",
    "real_ip_header",
    "ssl_protocols",
    "proxy_cache",
    "ssl_crl",
];

/// Tells of values that a service has once, where other servers of the group have others.
fn once(group: &Group<'_, '_>, import: &Import<'_>) {
    let lead = group.lead();
    let others = || {
        let servers = group.servers.iter();
        servers.filter(|server| !std::ptr::eq(**server, lead))
    };
    let own = lead.scope.own().iter();
    for directive in own.filter(|one| LARGE.contains(&one.name.as_str())) {
        let lacks_it = |server: &&Server<'_>| server.scope.all(&directive.name).is_empty();
        if directive.name != "proxy_cache" && others().any(lacks_it) {
            import.differs(directive, "all names of a service have it");
        }
    }
    for server in others() {
        for directive in server.scope.own() {
            let name = directive.name.as_str();
            let (small, large) = (SMALL.contains(&name), LARGE.contains(&name));
            if !(small || large) || directive.is_taken() {
                continue;
            }
            let args =
                |all: Vec<&Directive>| all.iter().map(|one| one.args.clone()).collect::<Vec<_>>();
            let reason = format!(
                "all names of a service have that of the server in {}",
                lead.directive.origin
            );
            if args(lead.scope.all(name)) == args(server.scope.all(name)) {
                import.needless(directive, &reason);
            } else if small {
                import.differs(directive, &reason);
            } else {
                import.lost(directive, &reason);
            }
        }
    }
}

/// Whether proxies are trusted.
fn trusted(scope: &Scope<'_>, part: &mut Part, import: &Import<'_>) -> bool {
    let all = scope.all("set_real_ip_from");
    let (unix, known): (Vec<&Directive>, Vec<&Directive>) =
        all.into_iter().partition(|one| one.arg(0) == "unix:");
    if let Some(unix) = unix.first() {
        import.lost(unix, "services listen on addresses");
    }
    let Some(first) = known.first() else {
        return false;
    };
    let header = scope.one("real_ip_header");
    let name = header.map_or("X-Real-IP", |header| header.arg(0));
    let same = ["X-Forwarded-For", "proxy_protocol"];
    if !same.iter().any(|same| name.eq_ignore_ascii_case(same)) {
        let difference =
            format!("the client is read from X-Forwarded-For or Forwarded, not from {name}");
        import.differs(header.unwrap_or(first), &difference);
    }
    if !scope.flag("real_ip_recursive", false) {
        import.differs(
            first,
            "the client is the last address that is not trusted (real_ip_recursive on)",
        );
    }
    let prefixes = known.iter().map(|directive| directive.arg(0));
    part.set("trusted_proxies", texts(prefixes), Some(&first.origin));
    true
}

/// `timeouts.connect`, which a service has once: that of the server, or of its first location that has one.
fn connect(group: &Group<'_, '_>, import: &Import<'_>) -> Option<String> {
    let name = "proxy_connect_timeout";
    let lead = group.lead();
    let mut all: Vec<&Directive> = lead.scope.one(name).into_iter().collect();
    for server in &group.servers {
        let locations = server
            .scope
            .own()
            .iter()
            .filter(|one| one.name == "location");
        all.extend(
            locations
                .flat_map(Directive::inside)
                .filter(|one| one.name == name),
        );
    }
    let first = *all.first()?;
    for other in &all[1..] {
        other.take();
        if other.args != first.args {
            import.differs(
                other,
                &format!("a service has one, that of {}", first.origin),
            );
        }
    }
    first.take();
    let time = values::time(first.arg(0));
    if time.is_none() {
        import.lost(first, "this is no time");
    }
    time
}

fn times_and_sizes(group: &Group<'_, '_>, scope: &Scope<'_>, part: &mut Part, import: &Import<'_>) {
    let known = [
        ("client_header_timeout", "header"),
        ("send_timeout", "send"),
        ("keepalive_timeout", "idle"),
    ];
    let mut times = toml::Table::new();
    for (theirs, ours) in known {
        if let Some(time) = settings::time(scope, theirs, import) {
            times.insert(ours.to_owned(), time.into());
        }
    }
    if let Some(time) = connect(group, import) {
        times.insert("connect".to_owned(), time.into());
    }
    if !times.is_empty() {
        part.set("timeouts", Value::Table(times), None);
    }
    if let Some(buffers) = scope.one("large_client_header_buffers") {
        let number = buffers.arg(0).parse::<i64>().ok();
        let size = values::bytes(buffers.arg(1));
        if let Some(total) = number
            .zip(size)
            .and_then(|(number, size)| number.checked_mul(size))
        {
            let total = total.clamp(1024, 1 << 20);
            let limits = [("header_bytes".to_owned(), values::size(total))];
            part.set(
                "limits",
                Value::Table(limits.into_iter().collect()),
                Some(&buffers.origin),
            );
        }
    }
}

fn compression(group: &Group<'_, '_>, part: &mut Part) {
    let scope = &group.lead().scope;
    let is_on = scope.flag("gzip", false) | scope.flag("brotli", false);
    let mut keys = toml::Table::new();
    let types = scope
        .one("gzip_types")
        .or_else(|| scope.one("brotli_types"));
    let size = scope
        .one("gzip_min_length")
        .or_else(|| scope.one("brotli_min_length"));
    if !is_on {
        keys.insert("enabled".to_owned(), false.into());
    } else {
        if let Some(types) = types.filter(|types| types.arg(0) != "*") {
            let mut all = vec!["text/html"];
            // The usual lists have names that are no media types of their own.
            let named = types.args.iter().map(String::as_str);
            all.extend(named.filter(|kind| kind.contains('/') && *kind != "text/html"));
            keys.insert("types".to_owned(), texts(all));
        }
        if let Some(size) = size.and_then(|size| values::bytes(size.arg(0))) {
            keys.insert("min_size".to_owned(), size.into());
        }
    }
    if !keys.is_empty() {
        let origin = types.or(size).map(|one| &one.origin);
        part.set("compression", Value::Table(keys), origin);
    }
}

fn cache(group: &Group<'_, '_>, part: &mut Part, import: &Import<'_>) {
    let found = group
        .servers
        .iter()
        .find_map(|server| cache_of(&server.scope, import));
    if let Some(found) = found {
        part.set(
            "cache",
            Value::Table(toml::Table::new()),
            Some(&found.origin),
        );
        import.caches.set(true);
    }
}

/// The directive that puts a cache before a server or one of its locations.
fn cache_of<'a>(scope: &Scope<'a>, import: &Import<'_>) -> Option<&'a Directive> {
    let is_on = |one: &&Directive| one.name == "proxy_cache" && one.arg(0) != "off";
    if let Some(own) = scope.one("proxy_cache").filter(is_on) {
        return Some(own);
    }
    let locations = scope.own().iter().filter(|one| one.name == "location");
    let found = locations
        .flat_map(|location| location.inside())
        .find(is_on)?;
    import.differs(
        found,
        "the cache is for all routes of the service; responses say by Cache-Control what is stored",
    );
    Some(found)
}

fn access_log(scope: &Scope<'_>, part: &mut Part, import: &Import<'_>) {
    let Some(log) = scope.one("access_log").filter(|log| log.arg(0) != "off") else {
        return;
    };
    let file = log.arg(0);
    if file.starts_with("syslog:") || file.contains('$') {
        import.lost(log, "an access log is a file or \"stdout\"");
        return;
    }
    let file = if file == "/dev/stdout" {
        "stdout"
    } else {
        file
    };
    let mut keys = toml::Table::new();
    keys.insert("file".to_owned(), file.into());
    let format = log.args.get(1).filter(|format| !format.contains('='));
    match format.map(String::as_str) {
        None | Some("combined") => {}
        Some(name) if name.contains("json") => {
            keys.insert("format".to_owned(), "json".into());
            import.differs(log, "the JSON has lb-agent's own fields");
        }
        Some(_) => import.differs(
            log,
            "the format is \"combined\" with more fields, or \"json\"",
        ),
    }
    part.set("access_log", Value::Table(keys), Some(&log.origin));
}

/// `errors.pages` by `error_page` with files.
fn errors(group: &Group<'_, '_>, part: &mut Part, import: &Import<'_>) {
    let mut pages = toml::Table::new();
    let scope = &group.lead().scope;
    let mut origin = None;
    for directive in scope.all("error_page") {
        let Some((page, codes)) = directive.args.split_last() else {
            continue;
        };
        if !page.starts_with('/') || codes.iter().any(|code| code.starts_with('=')) {
            import.lost(
                directive,
                "a page is a file, and keeps the status of the error",
            );
            continue;
        }
        let at = scope
            .own()
            .iter()
            .find(|one| one.name == "location" && one.args.last() == Some(page));
        let inside = at.map_or_else(|| scope.clone(), |at| scope.inside(at.inside()));
        let Some(root) = inside.one("root").filter(|root| !root.arg(0).contains('$')) else {
            import.lost(directive, "its page has no root");
            continue;
        };
        origin = origin.or(Some(&directive.origin));
        for code in codes.iter().filter(|code| {
            code.parse()
                .is_ok_and(|code: u16| (400..=599).contains(&code))
        }) {
            let file = format!("{}{page}", root.arg(0).trim_end_matches('/'));
            pages.insert(code.clone(), file.into());
        }
        if scope
            .one("proxy_intercept_errors")
            .is_some_and(|one| one.arg(0) == "on")
        {
            import.lost(
                directive,
                "pages are for errors of lb-agent's own, not for those of backends",
            );
        }
    }
    if !pages.is_empty() {
        let errors = [("pages".to_owned(), Value::Table(pages))];
        part.set("errors", Value::Table(errors.into_iter().collect()), origin);
    }
}
