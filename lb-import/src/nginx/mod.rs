//! Configurations of nginx.
//!
//! | file | owns |
//! | --- | --- |
//! | `tree` | words, blocks, `include` |
//! | `scope` | inheritance: a level takes over what it has not itself |
//! | `values` | times, sizes, addresses, variables |
//! | `upstream` | backends |
//! | `server`, `location` | addresses, names, what a location matches |
//! | `action`, `files` | what becomes of a request |
//! | `access` | clients that are admitted or refused |
//! | `guards` | what closes a route, as it has no counterpart |
//! | `headers`, `settings` | what a route can set |
//! | `routes` | the routes of a server |
//! | `group` | servers that share addresses |
//! | `service`, `http`, `tls`, `stream` | services and their tables |
//! | `words` | what needs no key, and why the rest is lost |

mod access;
mod action;
mod files;
mod group;
mod guards;
mod headers;
mod http;
mod location;
mod routes;
mod scope;
mod server;
mod service;
mod settings;
mod stream;
mod tls;
mod tree;
mod upstream;
mod values;
mod words;

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use crate::document::{Part, table};
use crate::report::{Findings, Kind, Origin};
use crate::{ImportError, Imported, finished};
use group::Group;
use routes::{Route, Site};
use scope::Scope;
use tree::Directive;

/// What all rules need beside their directives.
struct Import<'a> {
    findings: Findings,
    upstreams: Vec<&'a Directive>,
    zones: Vec<&'a Directive>,
    /// Variables that `auth_request_set` gives a value.
    auth: RefCell<Vec<String>>,
    /// Whether some service has a cache.
    caches: Cell<bool>,
    names: RefCell<Vec<String>>,
    /// Relative names of files are below this directory.
    prefix: PathBuf,
}

impl<'a> Import<'a> {
    fn new(top: &'a [Directive], prefix: PathBuf) -> Self {
        let inside = |name: &str| {
            let blocks = top.iter().filter(move |one| one.name == name);
            blocks.flat_map(Directive::inside).collect::<Vec<_>>()
        };
        let mut all: Vec<&Directive> = top.iter().collect();
        all.extend(inside("http"));
        all.extend(inside("stream"));
        let named = |names: &[&str]| {
            let found = all.iter().filter(|one| names.contains(&one.name.as_str()));
            found.copied().collect::<Vec<_>>()
        };
        Self {
            findings: Findings::default(),
            upstreams: named(&["upstream"]),
            zones: named(&["limit_req_zone", "limit_conn_zone", "proxy_cache_path"]),
            auth: RefCell::default(),
            caches: Cell::new(false),
            names: RefCell::default(),
            prefix,
        }
    }

    /// The path of a file that a directive names.
    fn file(&self, name: &str) -> String {
        self.prefix.join(name).to_string_lossy().into_owned()
    }

    fn report(&self, directive: &Directive, kind: Kind, reason: &str) {
        directive.take();
        self.note(&directive.origin, directive.shown(), kind, reason);
    }

    fn note(&self, origin: &Origin, directive: String, kind: Kind, reason: &str) {
        self.findings.note(origin, directive, kind, reason);
    }

    fn lost(&self, directive: &Directive, reason: &str) {
        self.report(directive, Kind::Lost, reason);
    }

    fn differs(&self, directive: &Directive, difference: &str) {
        self.report(directive, Kind::Different, difference);
    }

    fn needless(&self, directive: &Directive, why: &str) {
        self.report(directive, Kind::Needless, why);
    }

    /// The directive `kind` whose zone is `name`.
    fn zone(&self, kind: &str, name: &str) -> Option<&'a Directive> {
        let has_name = |zone: &&&Directive| {
            let mut args = zone.args.iter();
            args.any(|arg| {
                let zone = arg
                    .strip_prefix("zone=")
                    .or_else(|| arg.strip_prefix("keys_zone="));
                zone.is_some_and(|zone| zone.split(':').next() == Some(name))
            })
        };
        self.zones
            .iter()
            .filter(|zone| zone.name == kind)
            .find(has_name)
            .copied()
    }

    /// `name`, or with a number where another service has it.
    fn unique(&self, name: String) -> String {
        let mut names = self.names.borrow_mut();
        let base = name.trim_matches('-');
        let base = if base.is_empty() { "web" } else { base };
        let numbered = |number: usize| match number {
            1 => base.to_owned(),
            _ => format!("{base}-{number}"),
        };
        let mut number = 1;
        while names.contains(&numbered(number)) {
            number += 1;
        }
        names.push(numbered(number));
        numbered(number)
    }

    /// `[agent]`, where it needs a key.
    fn agent(&self) -> Option<Part> {
        let mut part = Part::new("[agent]", None);
        if self.caches.get() {
            let path = self
                .zones
                .iter()
                .find(|zone| zone.name == "proxy_cache_path");
            let size = path.and_then(|path| {
                path.take();
                let mut args = path.args.iter();
                args.find_map(|arg| values::bytes(arg.strip_prefix("max_size=")?))
            });
            if let (Some(path), Some(bytes)) = (path, size) {
                // A cache of nginx is on disk, ours in memory.
                let bytes = bytes.clamp(1 << 20, 256 << 20);
                self.differs(
                    path,
                    "the cache is in memory, with at most 256 MiB unless `memory` says more",
                );
                let cache = table([("memory", values::size(bytes))]);
                part.set("cache", cache, Some(&path.origin));
            }
        }
        (!part.is_empty()).then_some(part)
    }
}

/// The configuration of nginx in the file `path` and those that it includes: a whole one, or some `server` blocks.
///
/// # Errors
///
/// A file that cannot be read, or a mistake of syntax, with file and line.
pub fn import(path: &Path) -> Result<Imported, ImportError> {
    let top = tree::read(path)?;
    let prefix = tree::prefix(path).unwrap_or_else(|| PathBuf::from("/etc/nginx"));
    let import = Import::new(&top, prefix);
    let mut parts = http_services(&top, &import);
    for stream in top.iter().filter(|one| one.name == "stream") {
        parts.extend(stream::parts(stream, &import));
    }
    let agent = import.agent();
    words::sweep(&top, &import);
    finished((path, "nginx"), agent, parts, import.findings.sorted())
}

/// The services of all `server` blocks.
fn http_services(top: &[Directive], import: &Import<'_>) -> Vec<Part> {
    let main = Scope::default().inside(top);
    let http = top.iter().find(|one| one.name == "http");
    let http = http.map_or_else(|| main.clone(), |http| main.inside(http.inside()));
    let mut blocks: Vec<&Directive> = http.own().iter().collect();
    if !std::ptr::eq(http.own(), top) {
        blocks.extend(top);
    }
    let blocks = blocks.into_iter().filter(|one| one.name == "server");
    let servers: Vec<_> = blocks
        .map(|block| server::read(block, &http, import))
        .collect();
    let groups = group::groups(&servers, import);
    for server in &servers {
        let is_in =
            |group: &Group<'_, '_>| group.servers.iter().any(|one| std::ptr::eq(*one, server));
        if !groups.iter().any(is_in) {
            routes::take_all(server.directive);
        }
    }
    let mut sites: Vec<Vec<Site>> = groups.iter().map(|group| group.sites(import)).collect();
    let mut parts = Vec::new();
    let of_redirects = redirecting(&groups, &sites);
    for (at, group) in groups.iter().enumerate() {
        if of_redirects.iter().any(|(from, _)| *from == at) {
            continue;
        }
        let from = of_redirects
            .iter()
            .find(|(_, to)| *to == at)
            .map(|(from, _)| *from);
        let plain = from.map(|from| {
            let sites = std::mem::take(&mut sites[from]);
            (
                &groups[from],
                challenges(&groups[from], sites, group, import),
            )
        });
        parts.extend(service::parts(
            group,
            std::mem::take(&mut sites[at]),
            plain,
            import,
        ));
    }
    parts
}

/// The routes for challenges of certificates in a group that redirects everything else to `target`.
fn challenges(
    group: &Group<'_, '_>,
    sites: Vec<Site>,
    target: &Group<'_, '_>,
    import: &Import<'_>,
) -> Vec<Route> {
    let mut found = Vec::new();
    for (site, server) in sites.into_iter().zip(&group.servers) {
        let difference = "plain requests for all names of the service are redirected, by 308";
        import.differs(server.directive, difference);
        let routes = site.routes.into_iter();
        for mut route in routes.filter(|route| route.path.starts_with("/.well-known")) {
            // A route for a name goes before one for all names.
            if target.servers.len() > 1 {
                route.hosts.clone_from(&server.names);
            }
            found.push(route);
        }
    }
    found
}

/// Groups that only redirect to HTTPS, each with the group whose service does that.
fn redirecting(groups: &[Group<'_, '_>], sites: &[Vec<Site>]) -> Vec<(usize, usize)> {
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (from, group) in groups.iter().enumerate() {
        let all = sites[from].iter().all(|site| site.redirects_to_https);
        let target = groups
            .iter()
            .enumerate()
            .position(|(at, other)| !other.tls.is_empty() && pairs.iter().all(|(_, to)| *to != at));
        if let (true, true, Some(to)) = (group.tls.is_empty(), all, target) {
            pairs.push((from, to));
        }
    }
    pairs
}
