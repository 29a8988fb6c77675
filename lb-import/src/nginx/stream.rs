//! `stream`: services of TCP and UDP.

use toml::Value;

use super::Import;
use super::access;
use super::action;
use super::scope::Scope;
use super::server;
use super::tree::Directive;
use crate::document::{Part, texts};
use crate::report::Kind;

/// The services of the block `stream`.
pub(super) fn parts(stream: &Directive, import: &Import<'_>) -> Vec<Part> {
    let scope = Scope::default().inside(stream.inside());
    let servers = stream.inside().iter().filter(|one| one.name == "server");
    servers
        .filter_map(|server| part(server, &scope, import))
        .collect()
}

fn part(directive: &Directive, stream: &Scope<'_>, import: &Import<'_>) -> Option<Part> {
    directive.take();
    let scope = stream.inside(directive.inside());
    let pass = scope.here("proxy_pass")?;
    let listens = scope.all("listen");
    let has = |word: &str| {
        listens
            .iter()
            .any(|one| one.args.iter().any(|arg| arg == word))
    };
    if has("ssl") {
        import.lost(
            directive,
            "TLS ends here for HTTP alone, or in the application",
        );
        directive.inside().iter().for_each(Directive::take);
        return None;
    }
    let mut addresses: Vec<String> = Vec::new();
    for listen in &listens {
        match server::address(listen.arg(0)) {
            Some(address) => addresses.push(address.to_string()),
            None => import.lost(listen, "a service listens on addresses and ports"),
        }
    }
    let (backends, _) = action::backends(pass, import)?;
    if addresses.is_empty() {
        return None;
    }
    let mut part = Part::new("[[service]]", Some(&directive.origin));
    let name = pass.arg(0);
    let is_upstream = import.upstreams.iter().any(|one| one.arg(0) == name);
    let name = if is_upstream {
        name.replace(['.', '_'], "-")
    } else {
        "stream".to_owned()
    };
    part.set("name", import.unique(name), None);
    if has("udp") {
        part.set("mode", "udp", None);
    }
    part.set(
        "listen",
        texts(addresses),
        listens.first().map(|one| &one.origin),
    );
    part.set(
        "backends",
        Value::Array(backends.list),
        Some(&backends.origin),
    );
    if scope.flag("proxy_protocol", false) {
        part.set("send_proxy_protocol", "v1", None);
    }
    let rules = access::rules(&scope);
    match access::lists(&rules) {
        Ok(lists) => {
            lists.put(&mut part, &rules);
            rules.iter().for_each(|rule| rule.take());
        }
        Err(_) => {
            for rule in rules {
                import.lost(
                    rule,
                    "clients are addresses and prefixes; the service is left out",
                );
            }
            directive.inside().iter().for_each(Directive::take);
            return None;
        }
    }
    if let Some(timeout) = scope.one("proxy_timeout") {
        import.differs(
            timeout,
            "connections go through the kernel; `flow_timeouts` under [agent] are for those to other hosts",
        );
    }
    if let Some(timeout) = scope.one("proxy_connect_timeout") {
        import.needless(timeout, "the kernel hands connections to backends");
    }
    if let Some(responses) = scope.one("proxy_responses") {
        import.needless(responses, "a flow of UDP ends by `flow_timeouts`");
    }
    if !backends.settings.is_empty() {
        import.note(
            &backends.origin,
            "max_fails, fail_timeout".to_owned(),
            Kind::Different,
            "a backend that refuses is passed by at once; `[service.health]` checks others",
        );
    }
    if let Some(stickiness) = &backends.stickiness {
        import.note(
            &backends.origin,
            format!("stickiness {stickiness}"),
            Kind::Lost,
            "clients of TCP and UDP are told apart by address alone",
        );
    }
    Some(part)
}
