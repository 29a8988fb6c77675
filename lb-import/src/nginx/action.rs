//! What becomes of a request: backends, a redirect, an answer, files.

use toml::Value;

use super::Import;
use super::files::{self, Files};
use super::location::{Location, Match};
use super::scope::Scope;
use super::tree::Directive;
use super::upstream::{self, Backends};
use super::values;
use crate::document::table;

/// The action of a location.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// The request goes to backends; a `prefix_rewrite` replaces the beginning of its path.
    Forward(Backends, Option<String>),
    /// The client is sent elsewhere.
    Redirect(String, i64),
    /// An answer by the balancer: status, body, type.
    Answer(i64, String, Option<String>),
    /// Files; what is none may go to backends.
    Files(Files, Option<Backends>),
}

impl Action {
    /// The answer to requests that something refuses which has no counterpart.
    pub(super) fn forbidden() -> Self {
        Self::Answer(403, "Forbidden".to_owned(), None)
    }

    /// The backends of it, if it has some.
    pub(super) fn backends(&self) -> Option<&Backends> {
        match self {
            Self::Forward(backends, _) => Some(backends),
            Self::Files(_, backends) => backends.as_ref(),
            Self::Redirect(..) | Self::Answer(..) => None,
        }
    }
}

/// The action of `location` among the locations of its server.
pub(super) fn of_location(
    location: &Location<'_>,
    all: &[Location<'_>],
    name: &str,
    import: &Import<'_>,
) -> Option<Action> {
    if let Some(returned) = returned(&location.scope, name, import) {
        return returned;
    }
    if let Some(rewritten) = redirect_by_rewrite(&location.scope, name, import) {
        return Some(rewritten);
    }
    if let Some(forward) = forward(location, import) {
        return forward;
    }
    if refuses_all(&location.scope) {
        return Some(Action::forbidden());
    }
    of_files(&location.scope, Some(location), all, import)
}

/// The files of `scope`, if it has a root.
pub(super) fn of_files(
    scope: &Scope<'_>,
    at: Option<&Location<'_>>,
    all: &[Location<'_>],
    import: &Import<'_>,
) -> Option<Action> {
    let files = files::read(scope, at, all, import)?;
    let then = match &files.then {
        None => None,
        Some(named) => {
            let target = all
                .iter()
                .find(|one| matches!(&one.matches, Match::Named(name) if name == named));
            let forwarded = target.and_then(|target| forward(target, import)).flatten();
            match forwarded {
                Some(Action::Forward(backends, None)) => Some(backends),
                _ => {
                    if let Some(directive) = scope.one("try_files") {
                        let reason = format!("{named} is no location with proxy_pass alone");
                        import.lost(directive, &reason);
                    }
                    None
                }
            }
        }
    };
    Some(Action::Files(files, then))
}

/// Whether it has `deny all` and lets nobody in.
fn refuses_all(scope: &Scope<'_>) -> bool {
    let allows = scope.own().iter().any(|one| one.name == "allow");
    let denies = |one: &&Directive| one.name == "deny" && one.arg(0) == "all";
    match scope.own().iter().find(denies) {
        Some(deny) if !allows => {
            deny.take();
            true
        }
        _ => false,
    }
}

/// The action of `return` in the innermost level; inside, `None` is for one that is lost.
pub(super) fn returned(
    scope: &Scope<'_>,
    name: &str,
    import: &Import<'_>,
) -> Option<Option<Action>> {
    let directive = scope.here("return")?;
    Some(of_return(directive, scope, name, import))
}

/// The action of the directive `return`.
pub(super) fn of_return(
    directive: &Directive,
    scope: &Scope<'_>,
    name: &str,
    import: &Import<'_>,
) -> Option<Action> {
    let first = directive.arg(0);
    let (status, text) = match first.parse::<i64>() {
        Ok(status) => (status, directive.arg(1)),
        Err(_) => (302, first),
    };
    match status {
        301 | 302 | 303 | 307 | 308 => match target(text, name) {
            Ok(to) => Some(Action::Redirect(to, status)),
            Err(why) => {
                import.lost(directive, &why);
                None
            }
        },
        444 => {
            import.differs(
                directive,
                "the connection is answered with 404 instead of closed",
            );
            Some(Action::Answer(404, String::new(), None))
        }
        200..=599 if text.contains('$') => {
            import.lost(
                directive,
                "an answer of the balancer's own has no variables",
            );
            None
        }
        200..=599 => {
            let kind = content_type(scope).map(str::to_owned);
            Some(Action::Answer(status, text.to_owned(), kind))
        }
        _ => {
            import.lost(directive, "this status is not one of an answer");
            None
        }
    }
}

/// The type of an answer: by `add_header`, as many have it, or by `default_type`.
fn content_type<'a>(scope: &Scope<'a>) -> Option<&'a str> {
    let mut own = scope.own().iter();
    let is_type = |one: &&Directive| {
        one.name == "add_header" && one.arg(0).eq_ignore_ascii_case("content-type")
    };
    match own.find(is_type) {
        Some(header) => {
            header.take();
            Some(header.arg(1))
        }
        None => scope.one("default_type").map(|one| one.arg(0)),
    }
}

/// The target of a redirect in our variables.
fn target(text: &str, name: &str) -> Result<String, String> {
    let to = values::template(text, name)?;
    let begins = ["/", "http://", "https://", "$scheme://", "$uri", "$path"];
    if begins.iter().any(|begin| to.starts_with(begin)) {
        Ok(to)
    } else {
        Err("a target is a URL or a path".to_owned())
    }
}

/// A redirect by `rewrite` of the innermost level, if it is for every path.
pub(super) fn redirect_by_rewrite(
    scope: &Scope<'_>,
    name: &str,
    import: &Import<'_>,
) -> Option<Action> {
    let mut rewrites = scope.own().iter().filter(|one| one.name == "rewrite");
    rewrites.find_map(|directive| of_rewrite(directive, name, import))
}

/// The path, and the redirect of the directive `rewrite` that is for one path alone, as in `^/old$`.
pub(super) fn of_one_path(directive: &Directive, name: &str) -> Option<(String, Action)> {
    let status = match directive.arg(2) {
        "permanent" => 301,
        "redirect" => 302,
        _ => return None,
    };
    let path = directive.arg(0).strip_prefix('^')?.strip_suffix('$')?;
    let path = path.strip_suffix("/?").unwrap_or(path).replace("\\.", ".");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    let is_literal = path.len() > 1 && path.starts_with('/') && path.bytes().all(is_plain);
    // A dot without a backslash is any character; a path with one is hardly meant otherwise.
    if !is_literal || directive.arg(1).contains('$') {
        return None;
    }
    let to = target(directive.arg(1), name).ok()?;
    directive.take();
    Some((path, Action::Redirect(to, status)))
}

/// The redirect of the directive `rewrite`, if it is for every path.
pub(super) fn of_rewrite(directive: &Directive, name: &str, import: &Import<'_>) -> Option<Action> {
    let status = match directive.arg(2) {
        "permanent" => 301,
        "redirect" => 302,
        _ if directive.arg(1).starts_with("http") => 302,
        _ => return None,
    };
    let (path, whole) = match directive.arg(0) {
        "^" | ".*" | "^.*$" | "^.*" => (directive.arg(1).to_owned(), true),
        // The group has no slash before it, so the target has it.
        "^/(.*)$" | "^/(.*)" => (directive.arg(1).replace("/$1", "$uri"), false),
        "^(.*)$" | "(.*)" | "^(.*)" => (directive.arg(1).replace("$1", "$uri"), false),
        _ => return None,
    };
    // nginx adds the query of the request to the target, unless that ends in a question mark.
    let (path, query) = match path.strip_suffix('?') {
        Some(path) => (path.to_owned(), false),
        None => (path, true),
    };
    let to = match query {
        true => path.replace("$uri", "$request_uri"),
        false => path,
    };
    let to = target(&to, name).ok()?;
    directive.take();
    if whole && !to.contains('$') {
        import.differs(directive, "the query of the request is not added");
    }
    Some(Action::Redirect(to, status))
}

/// The action of `proxy_pass` or `grpc_pass`; inside, `None` is for one that is lost.
fn forward(location: &Location<'_>, import: &Import<'_>) -> Option<Option<Action>> {
    let scope = &location.scope;
    let others = ["fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass"];
    if let Some(directive) = others.iter().find_map(|name| scope.here(name)) {
        import.lost(
            directive,
            "backends speak HTTP; give the program an HTTP server of its own",
        );
        return Some(None);
    }
    let directive = scope
        .here("proxy_pass")
        .or_else(|| scope.here("grpc_pass"))?;
    let passed = backends(directive, import);
    Some(passed.map(|(backends, uri)| {
        let rewrite = rewrite(location, uri, import);
        Action::Forward(backends, rewrite)
    }))
}

/// The backends of `proxy_pass`, and its path if it has one.
pub(super) fn backends<'d>(
    directive: &'d Directive,
    import: &Import<'_>,
) -> Option<(Backends, Option<&'d str>)> {
    let url = directive.arg(0);
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let is_grpc = directive.name == "grpc_pass";
    if matches!(scheme, "https" | "grpcs") {
        import.lost(
            directive,
            "connections to backends have no TLS; give the backend a plain port",
        );
        return None;
    }
    let (authority, uri) = match rest.strip_prefix("unix:") {
        Some(socket) => {
            let (path, uri) = socket.split_once(':').unwrap_or((socket, ""));
            (
                format!("unix:{path}"),
                Some(uri).filter(|uri| !uri.is_empty()),
            )
        }
        None => match rest.find('/') {
            Some(at) => (rest[..at].to_owned(), Some(&rest[at..])),
            None => (rest.to_owned(), None),
        },
    };
    if authority.contains('$') {
        import.lost(
            directive,
            "a backend is an address; a variable cannot name it",
        );
        return None;
    }
    let upstream = import.upstreams.iter().find(|one| one.arg(0) == authority);
    let mut backends = match upstream {
        Some(upstream) => upstream::read(upstream, 80, import),
        None => match values::address(&authority, 80) {
            Some(address) => Backends::single(address, &directive.origin),
            None => {
                import.lost(
                    directive,
                    &format!("{authority} is a name; a backend is an address"),
                );
                return None;
            }
        },
    };
    backends.h2c = is_grpc;
    if backends.list.is_empty() {
        import.lost(directive, "no server of it is left");
        return None;
    }
    Some((backends, uri))
}

/// The path that replaces that of the location: by the path of `proxy_pass`, or by `rewrite … break`.
fn rewrite(location: &Location<'_>, uri: Option<&str>, import: &Import<'_>) -> Option<String> {
    let path = location.path().trim_end_matches('/');
    for directive in location
        .scope
        .own()
        .iter()
        .filter(|one| one.name == "rewrite")
    {
        let (pattern, to) = (directive.arg(0), directive.arg(1));
        let stripped = [
            format!("^{path}/(.*)$"),
            format!("^{path}/?(.*)$"),
            format!("{path}/(.*)"),
        ];
        let stripped = stripped
            .contains(&pattern.to_owned())
            .then(|| to.strip_suffix("/$1"));
        let whole = [format!("^{path}(.*)$"), format!("^{path}(/.*)$")];
        let whole = whole
            .contains(&pattern.to_owned())
            .then(|| to.strip_suffix("$1"));
        let beginning = stripped.or(whole).flatten();
        if let (Some(beginning), "break") = (beginning, directive.arg(2)) {
            directive.take();
            return Some(rooted(beginning));
        }
        import.lost(
            directive,
            "only the beginning of a path is replaced, by `prefix_rewrite` of a route",
        );
    }
    let uri = uri?;
    if matches!(location.matches, Match::Regex(_) | Match::Named(_)) {
        return None;
    }
    if location.path().ends_with('/') != uri.ends_with('/') {
        let (from, to) = (location.path(), uri);
        import.differs(
            location.directive,
            &format!("{from} and {to} end differently; whole segments are replaced here"),
        );
    }
    let uri = uri.trim_end_matches('/');
    (uri != path).then(|| rooted(uri))
}

fn rooted(path: &str) -> String {
    if path.is_empty() {
        "/".to_owned()
    } else {
        path.to_owned()
    }
}

/// `answer` of a route.
pub(super) fn answer(status: i64, body: &str, content_type: Option<&String>) -> Value {
    let mut answer = table([("status", status.into())]);
    if let Value::Table(keys) = &mut answer {
        if !body.is_empty() {
            keys.insert("body".to_owned(), body.into());
        }
        if let Some(kind) = content_type {
            keys.insert("content_type".to_owned(), kind.clone().into());
        }
    }
    answer
}
