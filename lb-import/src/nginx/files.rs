//! `root`, `alias`, `try_files` and what belongs to them.

use toml::Value;

use super::Import;
use super::headers;
use super::location::{self, Location, Match};
use super::scope::Scope;
use super::tree::Directive;
use crate::document::{table, texts};

/// Keys of `files`, and what a path without a file goes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Files {
    pub(super) keys: Vec<(&'static str, Value)>,
    /// The named location that takes what is no file, as in `try_files $uri @app`.
    pub(super) then: Option<String>,
}

impl Files {
    /// The value of `files`: a path, or a table.
    pub(super) fn value(&self) -> Value {
        match self.keys.as_slice() {
            [("root", root)] => root.clone(),
            keys => {
                let keys = keys
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone()));
                Value::Table(keys.collect())
            }
        }
    }
}

/// The files that `scope` serves at `location`, if it has a root.
pub(super) fn read(
    scope: &Scope<'_>,
    at: Option<&Location<'_>>,
    siblings: &[Location<'_>],
    import: &Import<'_>,
) -> Option<Files> {
    let alias = scope.here("alias");
    let file = alias.filter(|alias| !alias.arg(0).ends_with('/') && is_exact(at));
    let root = alias.or_else(|| scope.one("root"))?;
    let directory = match file {
        Some(_) => root
            .arg(0)
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory),
        None => root.arg(0),
    };
    if directory.contains('$') || !root.arg(0).starts_with('/') {
        import.lost(root, "a root is an absolute path without variables");
        return None;
    }
    let mut keys: Vec<(&'static str, Value)> = Vec::new();
    let trimmed = directory.trim_end_matches('/');
    keys.push((
        "root",
        if trimmed.is_empty() { "/" } else { trimmed }.into(),
    ));
    let strip = at.filter(|at| alias.is_some() && at.path() != "/" && file.is_none());
    if strip.is_some() {
        keys.push(("strip", true.into()));
    }
    if let Some(file) = file {
        let name = file.arg(0).rsplit_once('/').map_or("", |(_, name)| name);
        keys.push(("try", texts([format!("/{name}")])));
    }
    if file.is_none() {
        index(scope, import, &mut keys);
    }
    let prefix = strip.map_or("", |at| at.path().trim_end_matches('/'));
    let then = match file {
        Some(_) => None,
        None => attempts(scope, prefix, siblings, import, &mut keys),
    };
    if then.is_some() {
        keys.push(("missing", "backends".into()));
    }
    let twins = [
        ("gzip_static", "gzip"),
        ("brotli_static", "br"),
        ("zstd_static", "zstd"),
    ];
    let twins: Vec<&str> = twins
        .iter()
        .filter(|(directive, _)| scope.flag(directive, false))
        .map(|(_, coding)| *coding)
        .rev()
        .collect();
    if !twins.is_empty() {
        keys.push(("precompressed", texts(twins)));
    }
    if scope.flag("autoindex", false) {
        keys.push(("listing", true.into()));
    }
    let rules = cache_control(scope, at, siblings, import);
    if !rules.is_empty() {
        keys.push(("cache_control", Value::Array(rules)));
    }
    Some(Files { keys, then })
}

fn index(scope: &Scope<'_>, import: &Import<'_>, keys: &mut Vec<(&'static str, Value)>) {
    let Some(index) = scope.one("index") else {
        return;
    };
    let (files, others): (Vec<&String>, Vec<&String>) = index
        .args
        .iter()
        .partition(|file| !file.contains(['/', '$']) && !file.ends_with(".php"));
    if !others.is_empty() {
        import.differs(index, "only names of files are taken; there is no FastCGI");
    }
    if !files.is_empty() && files != ["index.html"] {
        keys.push(("index", texts(files)));
    }
}

fn is_exact(at: Option<&Location<'_>>) -> bool {
    at.is_some_and(|at| matches!(at.matches, Match::Exact(_)))
}

/// `try`, and the named location at the end of `try_files`. `prefix` is what `alias` takes off.
fn attempts(
    scope: &Scope<'_>,
    prefix: &str,
    siblings: &[Location<'_>],
    import: &Import<'_>,
    keys: &mut Vec<(&'static str, Value)>,
) -> Option<String> {
    // Locations do not inherit it.
    let directive = scope.here("try_files")?;
    let mut tries: Vec<String> = Vec::new();
    let mut then = None;
    let last = directive.args.len().saturating_sub(1);
    for (at, attempt) in directive.args.iter().enumerate() {
        let attempt = attempt.split('?').next().unwrap_or_default();
        match attempt {
            // A directory is looked into with its index in any case.
            "$uri" | "$uri/" => {
                if !tries.iter().any(|known| known == "$path") {
                    tries.push("$path".to_owned());
                }
            }
            "=404" if at == last => {}
            named if named.starts_with('@') && at == last => then = Some(named.to_owned()),
            code if code.starts_with('=') => {
                import.differs(directive, "what is no file gets 404");
            }
            path if path.ends_with(".php") || path.contains("$is_args") => {
                import.lost(
                    directive,
                    &format!("{path} is for a program; there is no FastCGI"),
                );
            }
            path if path.replace("$uri", "").contains('$') => {
                import.lost(directive, &format!("{path} has a variable other than $uri"));
            }
            path if at == last && leads_away(path, siblings) => {
                import.lost(directive, &format!("{path} is for another location"));
            }
            path => {
                let path = path.strip_prefix(prefix).unwrap_or(path);
                let path = path.replace("$uri", "$path");
                let is_rooted = path.starts_with('/') || path.starts_with("$path");
                tries.push(if is_rooted { path } else { format!("/{path}") });
            }
        }
    }
    if tries != ["$path"] && !tries.is_empty() {
        keys.push(("try", texts(tries)));
    }
    then
}

/// Whether the last path of `try_files` is for a location that has no files.
fn leads_away(path: &str, locations: &[Location<'_>]) -> bool {
    let fits = |location: &&Location<'_>| match &location.matches {
        Match::Prefix(prefix) => path.starts_with(prefix.as_str()),
        Match::Exact(exact) => path == exact,
        Match::Regex(_) | Match::Named(_) => false,
    };
    let nearest = locations
        .iter()
        .filter(fits)
        .max_by_key(|one| one.path().len());
    let elsewhere = ["proxy_pass", "grpc_pass", "fastcgi_pass", "return"];
    nearest.is_some_and(|location| {
        let guards = ["deny", "auth_basic", "auth_request"];
        let mut own = location.scope.own().iter();
        own.any(|one| {
            let name = one.name.as_str();
            elsewhere.contains(&name) || (guards.contains(&name) && one.arg(0) != "off")
        })
    })
}

/// `cache_control`: by locations for one file and for extensions, then by `expires` of the scope itself.
fn cache_control(
    scope: &Scope<'_>,
    at: Option<&Location<'_>>,
    siblings: &[Location<'_>],
    import: &Import<'_>,
) -> Vec<Value> {
    let mut rules = Vec::new();
    // No other location is looked at from `=` and `^~`.
    let is_final = at.is_some_and(|at| matches!(at.directive.arg(0), "=" | "^~"));
    let siblings = if is_final { &[][..] } else { siblings };
    // `index` and `try_files` lead to a location for the file that they name.
    for sibling in siblings {
        let Match::Exact(path) = &sibling.matches else {
            continue;
        };
        let mut own = sibling.scope.own().iter();
        let is_other =
            own.any(|one| ["alias", "return", "proxy_pass", "root"].contains(&one.name.as_str()));
        if is_other || path.ends_with('/') {
            continue;
        }
        if let Some(value) = of_extensions(sibling, import) {
            rules.push(table([
                ("path", path.as_str().into()),
                ("value", value.into()),
            ]));
        }
    }
    for sibling in siblings {
        let Match::Regex(regex) = &sibling.matches else {
            continue;
        };
        let Some(extensions) = location::extensions(regex) else {
            continue;
        };
        if let Some(value) = of_extensions(sibling, import) {
            let names = extensions.iter().map(|extension| format!("*.{extension}"));
            rules.push(table([("path", texts(names)), ("value", value.into())]));
        }
    }
    if let Some(value) = headers::expires(scope, import) {
        rules.push(table([("path", "*".into()), ("value", value.into())]));
    }
    rules
}

/// `Cache-Control` of a location for extensions, by `expires` or `add_header`.
fn of_extensions(location: &Location<'_>, import: &Import<'_>) -> Option<String> {
    let is_control =
        |directive: &&Directive| directive.arg(0).eq_ignore_ascii_case("cache-control");
    let own = location.scope.own().iter();
    let mut own = own
        .filter(|directive| directive.name == "add_header")
        .filter(is_control);
    let header = own.next().inspect(|directive| directive.take());
    let expires = headers::expires(&location.scope, import);
    match (expires, header.map(|directive| directive.arg(1))) {
        (Some(expires), Some(more)) if more.contains("max-age") => {
            let _ = expires;
            Some(more.to_owned())
        }
        (Some(expires), Some(more)) => Some(format!("{expires}, {more}")),
        (Some(expires), None) => Some(expires),
        (None, more) => more.map(str::to_owned),
    }
}
