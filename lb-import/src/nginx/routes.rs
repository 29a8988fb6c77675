//! The routes of a server.

use super::Import;
use super::action::{self, Action};
use super::guards;
use super::location::{self, Location, Match};
use super::scope::Scope;
use super::server::{self, Server};
use super::settings::{self, Settings};
use super::tree::Directive;
use crate::report::Origin;

/// Requests with their action and settings.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) origin: Origin,
    /// The names that it is for; none for every name.
    pub(super) hosts: Vec<String>,
    /// `/`, or a beginning without a slash at its end.
    pub(super) path: String,
    pub(super) exact: bool,
    /// Whether its path has a slash at its end in nginx.
    pub(super) has_slash: bool,
    pub(super) action: Action,
    pub(super) settings: Settings,
}

/// What a server does, beside its routes.
#[derive(Debug, Default)]
pub(super) struct Site {
    pub(super) routes: Vec<Route>,
    /// Whether all of its requests are redirected to the same URL with https.
    pub(super) redirects_to_https: bool,
    /// Whether its plain requests are.
    pub(super) redirects_plain: bool,
}

/// The routes of `server`, for `hosts`.
pub(super) fn read(server: &Server<'_>, hosts: &[String], import: &Import<'_>) -> Site {
    let locations = location::all(&server.scope, import);
    let mut site = Site {
        routes: Vec::new(),
        redirects_to_https: false,
        redirects_plain: false,
    };
    let mut secured: Vec<String> = Vec::new();
    redirected_paths(server, hosts, &mut site);
    conditions(server, &mut site, &mut secured, import);
    let whole = action::returned(&server.scope, server.name(), import)
        .or_else(|| action::redirect_by_rewrite(&server.scope, server.name(), import).map(Some));
    let names_are_secured =
        !server.names.is_empty() && server.names.iter().all(|name| secured.contains(name));
    match whole {
        Some(found) => {
            // nginx looks at no location then.
            let locations = server
                .scope
                .own()
                .iter()
                .filter(|one| one.name == "location");
            locations.for_each(|location| {
                take_all(location);
                import.needless(location, "nginx never comes to it, because of return");
            });
            let is_secure = found
                .as_ref()
                .is_some_and(|action| is_to_https(action, server));
            site.redirects_to_https = is_secure || names_are_secured;
            let settings = settings::read(&server.scope, server.name(), None, &[], import);
            site.routes.extend(found.map(|action| Route {
                origin: server.directive.origin.clone(),
                hosts: hosts.to_vec(),
                path: "/".to_owned(),
                exact: false,
                has_slash: true,
                action: match action {
                    Action::Answer(..) if settings.is_guarded => Action::forbidden(),
                    action => action,
                },
                settings,
            }));
        }
        None => {
            site.redirects_to_https = names_are_secured;
            of_locations(server, hosts, &locations, &mut site, import);
        }
    }
    site
}

/// Marks all of a block as accounted for.
pub(super) fn take_all(directive: &Directive) {
    directive.take();
    directive.inside().iter().for_each(take_all);
}

/// `rewrite` of a server that redirects one path.
fn redirected_paths(server: &Server<'_>, hosts: &[String], site: &mut Site) {
    for directive in server
        .scope
        .own()
        .iter()
        .filter(|one| one.name == "rewrite")
    {
        if let Some((path, action)) = action::of_one_path(directive, server.name()) {
            site.routes.push(Route {
                origin: directive.origin.clone(),
                hosts: hosts.to_vec(),
                path,
                exact: true,
                has_slash: false,
                action,
                settings: Settings::default(),
            });
        }
    }
}

/// `if` blocks of a server that redirect.
fn conditions(
    server: &Server<'_>,
    site: &mut Site,
    secured: &mut Vec<String>,
    import: &Import<'_>,
) {
    let own = server.scope.own().iter();
    for directive in own.filter(|one| one.name == "if") {
        let condition = directive.args.join(" ");
        let condition = condition.trim_matches(['(', ')', ' ']);
        let inside = server.scope.inside(directive.inside());
        let is_plain = matches!(
            condition.replace(['"', '\''], "").as_str(),
            "$scheme = http"
                | "$scheme != https"
                | "$https ="
                | "$https != on"
                | "$server_port = 80"
        );
        let host = condition
            .strip_prefix("$host = ")
            .or_else(|| condition.strip_prefix("$http_host = "));
        if !is_plain && !host.is_some_and(server::is_name) {
            continue;
        }
        let found = action::returned(&inside, server.name(), import)
            .or_else(|| action::redirect_by_rewrite(&inside, server.name(), import).map(Some));
        let Some(Some(found)) = found else {
            continue;
        };
        let to_https = is_to_https(&found, server);
        if is_plain && to_https {
            directive.take();
            site.redirects_plain = true;
        }
        if let Some(host) = host {
            directive.take();
            if to_https {
                secured.push(host.to_owned());
            }
            site.routes.push(Route {
                origin: directive.origin.clone(),
                hosts: vec![host.to_owned()],
                path: "/".to_owned(),
                exact: false,
                has_slash: true,
                action: found,
                settings: Settings::default(),
            });
        }
    }
}

/// Whether the action leads to the same URL with https.
fn is_to_https(action: &Action, server: &Server<'_>) -> bool {
    let Action::Redirect(to, _) = action else {
        return false;
    };
    let Some(host) = to
        .strip_prefix("https://")
        .and_then(|rest| rest.strip_suffix("$uri"))
    else {
        return false;
    };
    matches!(host, "$hostname" | "$host") || (server.names.len() == 1 && host == server.name())
}

/// The routes of the locations of `server`.
fn of_locations(
    server: &Server<'_>,
    hosts: &[String],
    locations: &[Location<'_>],
    site: &mut Site,
    import: &Import<'_>,
) {
    let name = server.name();
    let mut has_root = false;
    let mut only_redirects = true;
    for location in locations {
        if let Match::Regex(_) | Match::Named(_) = location.matches {
            continue;
        }
        if location.is_internal() || is_asked_internally(location, &server.scope) {
            if internal(location, locations, &server.scope, import) {
                let answer = Action::Answer(404, "Not found".to_owned(), None);
                site.routes.push(alone(location, hosts, answer));
            }
            continue;
        }
        let path = location.path().trim_end_matches('/');
        if !path.is_empty() && !crate::is_of_a_route("path", path) {
            take_all(location.directive);
            import.lost(
                location.directive,
                "a route takes no such path; requests for it REACH other routes, also if it refuses them",
            );
            continue;
        }
        let is_whole = path.is_empty() && matches!(location.matches, Match::Prefix(_));
        has_root |= is_whole;
        let Some(action) = action::of_location(location, locations, name, import) else {
            site.routes.push(empty(location, hosts, import));
            continue;
        };
        let is_challenge = path.starts_with("/.well-known");
        let is_secure = is_whole && is_to_https(&action, server);
        site.redirects_to_https |= is_secure && only_redirects;
        if !is_secure && !is_challenge {
            only_redirects = false;
            site.redirects_to_https = false;
        }
        let mut action = action;
        boundary(location, import);
        let sent = sent(&action, location, locations);
        let settings = settings::read(&location.scope, name, sent, locations, import);
        let is_refused = matches!(action, Action::Answer(403 | 404, ..));
        if settings.is_guarded || (!is_refused && refuse_some(location, import)) {
            action = Action::forbidden();
        }
        site.routes.push(Route {
            origin: location.directive.origin.clone(),
            hosts: hosts.to_vec(),
            path: if path.is_empty() {
                "/".to_owned()
            } else {
                path.to_owned()
            },
            // With a slash at the end it is for what is below, too (`boundary`).
            exact: matches!(location.matches, Match::Exact(_))
                && (path.is_empty() || !location.path().ends_with('/')),
            has_slash: location.path().ends_with('/'),
            settings,
            action,
        });
    }
    if !has_root {
        site.redirects_to_https = false;
        site.routes.push(rest(server, hosts, locations, import));
    }
    let forwarded = |route: &&Route| matches!(route.action, Action::Forward(..));
    let forwards = Forwards {
        some: site.routes.iter().any(|route| forwarded(&route)),
        rest: site
            .routes
            .iter()
            .filter(forwarded)
            .any(|route| route.path == "/"),
        is_open: site.routes.iter().any(|route| {
            let auth = route.settings.auth.as_ref();
            let asks = auth.is_some_and(toml::Value::is_table);
            matches!(route.action, Action::Files(..) | Action::Forward(..)) && !asks
        }),
    };
    let mut guard = None;
    for location in locations {
        if pattern(location, forwards, &server.scope, import) {
            guard = guard.or(Some(location.directive));
        }
    }
    let is_files = |route: &&mut Route| matches!(route.action, Action::Files(..));
    if let Some(guard) = guard {
        for route in site.routes.iter_mut().filter(is_files) {
            import.lost(
                guard,
                "its paths would be shown as files, so all files of the server get 403 until you decide",
            );
            route.action = Action::forbidden();
            route.settings = Settings::default();
        }
    }
}

/// Whether requests of a server go to backends: some, or those that no other location takes.
#[derive(Clone, Copy)]
struct Forwards {
    some: bool,
    rest: bool,
    /// Whether some files or backends are for everybody, without a password.
    is_open: bool,
}

/// The scope of requests of `location` that go to backends.
fn sent<'l, 'a>(
    action: &Action,
    location: &'l Location<'a>,
    all: &'l [Location<'a>],
) -> Option<&'l Scope<'a>> {
    match action {
        Action::Forward(..) => Some(&location.scope),
        Action::Files(files, Some(_)) => named(files.then.as_deref(), all),
        Action::Files(..) | Action::Redirect(..) | Action::Answer(..) => None,
    }
}

/// The scope of the location with the name `then`.
fn named<'l, 'a>(then: Option<&str>, all: &'l [Location<'a>]) -> Option<&'l Scope<'a>> {
    let has_name = |one: &&Location<'_>| matches!(&one.matches, Match::Named(name) if Some(name.as_str()) == then);
    all.iter().find(has_name).map(|one| &one.scope)
}

/// Tells where a prefix of nginx, which is one of characters, is for other paths than one of segments.
fn boundary(location: &Location<'_>, import: &Import<'_>) {
    let path = location.path();
    let is_exact = matches!(location.matches, Match::Exact(_));
    if path == "/" || (is_exact && !path.ends_with('/')) {
        return;
    }
    let bare = path.trim_end_matches('/');
    let difference = match path.ends_with('/') {
        true if is_exact => format!("{bare} and all paths below it are for it too"),
        true => format!("{bare} without a slash at its end is for it too"),
        false => format!("paths such as {bare}x are not for it: prefixes end at a slash"),
    };
    import.differs(location.directive, &difference);
}

/// A location that clients cannot ask for. Whether backends could lead there is told.
fn internal(
    location: &Location<'_>,
    all: &[Location<'_>],
    server: &Scope<'_>,
    import: &Import<'_>,
) -> bool {
    let path = location.path();
    let names_it = |scope: &Scope<'_>| {
        let mut own = scope.own().iter();
        own.any(|one| match one.name.as_str() {
            "auth_request" => one.arg(0) == path,
            "error_page" => one.args.last().is_some_and(|page| page.starts_with(path)),
            _ => false,
        })
    };
    let is_for_backends = !names_it(server) && !all.iter().any(|one| names_it(&one.scope));
    if is_for_backends {
        import.lost(
            location.directive,
            "X-Accel-Redirect of backends is not followed; a route with `files` and `auth` may do",
        );
    }
    for directive in location.scope.own() {
        if directive.name.starts_with("proxy_pass_request") {
            import.needless(directive, "the server that is asked gets no body");
        }
    }
    take_all(location.directive);
    is_for_backends
}

/// The route for what no location takes: files, or 404.
fn rest(
    server: &Server<'_>,
    hosts: &[String],
    locations: &[Location<'_>],
    import: &Import<'_>,
) -> Route {
    let files = action::of_files(&server.scope, None, locations, import);
    let mut action = files.unwrap_or(Action::Answer(404, "Not found".to_owned(), None));
    let sent = match &action {
        Action::Files(files, Some(_)) => named(files.then.as_deref(), locations),
        _ => None,
    };
    let settings = settings::read(&server.scope, server.name(), sent, locations, import);
    if settings.is_guarded {
        if let Some(root) = server.scope.one("root") {
            import.lost(root, "its files get 403, as what guards them is lost");
        }
        action = Action::forbidden();
    }
    Route {
        origin: server.directive.origin.clone(),
        hosts: hosts.to_vec(),
        path: "/".to_owned(),
        exact: false,
        has_slash: true,
        settings,
        action,
    }
}

/// Whether the location is that of an error page, or is asked about others.
fn is_asked_internally(location: &Location<'_>, scope: &Scope<'_>) -> bool {
    let is_page = |page: &&Directive| page.args.last().map(String::as_str) == Some(location.path());
    matches!(location.matches, Match::Exact(_)) && scope.all("error_page").iter().any(is_page)
}

/// The route of a location whose requests cannot be carried over. They must not go to another location.
fn empty(location: &Location<'_>, hosts: &[String], import: &Import<'_>) -> Route {
    let own = location.scope.own();
    let passes = [
        "proxy_pass",
        "grpc_pass",
        "fastcgi_pass",
        "return",
        "uwsgi_pass",
        "scgi_pass",
    ];
    let is_told = own.iter().any(|one| passes.contains(&one.name.as_str()));
    let has_inside = own.iter().any(|one| one.name == "location");
    if !is_told && !has_inside {
        import.lost(
            location.directive,
            "neither files nor backends are known for it",
        );
    }
    refuse_some(location, import);
    let action = match is_told {
        true => Action::Answer(503, "Not translated".to_owned(), None),
        false => Action::Answer(404, "Not found".to_owned(), None),
    };
    alone(location, hosts, action)
}

/// The route of `location` with `action` and no settings.
fn alone(location: &Location<'_>, hosts: &[String], action: Action) -> Route {
    let path = location.path().trim_end_matches('/');
    Route {
        origin: location.directive.origin.clone(),
        hosts: hosts.to_vec(),
        path: if path.is_empty() { "/" } else { path }.to_owned(),
        exact: matches!(location.matches, Match::Exact(_)),
        has_slash: location.path().ends_with('/'),
        action,
        settings: Settings::default(),
    }
}

/// A location by regular expression or with a name, as far as others have not used it. Whether it guards files is told.
fn pattern(
    location: &Location<'_>,
    forwards: Forwards,
    server: &Scope<'_>,
    import: &Import<'_>,
) -> bool {
    let Match::Regex(regex) = &location.matches else {
        return false;
    };
    let own = location.scope.own();
    let has = |name: &str| own.iter().any(|one| one.name == name);
    let refuses = has("deny") || own.iter().any(|one| one.name == "return");
    if location::is_of_hidden_files(regex) && refuses && !forwards.rest {
        take_all(location.directive);
        let reason = "names with a dot at their beginning get 404 in `files`";
        match forwards.some {
            true => import.differs(
                location.directive,
                &format!("{reason}, but requests for them REACH the backends of other routes"),
            ),
            false => import.needless(location.directive, reason),
        }
        return false;
    }
    let is_challenge = regex.contains("well-known");
    if is_challenge
        && own
            .iter()
            .all(|one| one.name == "allow" && one.arg(0) == "all")
    {
        take_all(location.directive);
        import.needless(location.directive, "`.well-known` is open to everybody");
        return false;
    }
    // Rules of `cache_control` have taken these.
    let is_taken = |one: &&Directive| ["expires", "add_header"].contains(&one.name.as_str());
    let mut rules = own.iter().filter(is_taken).peekable();
    let has_rules = rules.peek().is_some() && rules.all(Directive::is_taken);
    let elsewhere = ["proxy_pass", "fastcgi_pass", "return", "alias", "rewrite"];
    let same_root = own.iter().filter(|one| one.name == "root").all(|root| {
        server
            .one("root")
            .is_some_and(|other| other.args == root.args)
    });
    let asks = |name: &&str| {
        let auth = location.scope.one(name);
        auth.is_some_and(|auth| auth.arg(0) != "off")
    };
    let asks = ["auth_basic", "auth_request"].iter().any(asks);
    let closes = own.iter().any(guards::is_guard) || (asks && forwards.is_open);
    if has_rules && !closes && same_root && !elsewhere.iter().any(|name| has(name)) {
        let same = ["try_files", "root", "access_log"];
        let same = own.iter().filter(|one| same.contains(&one.name.as_str()));
        same.for_each(|one| import.needless(one, "files of the route have it"));
        if forwards.some {
            import.differs(
                location.directive,
                "the rule is for `files`, not for the answers of backends",
            );
        }
        return false;
    }
    let reason = "routes take names and beginnings of paths, no regular expressions";
    match closes && forwards.some {
        true => import.lost(
            location.directive,
            &format!("{reason}; requests for it REACH the backends of other routes, without what it refuses"),
        ),
        false => import.lost(location.directive, reason),
    }
    own.iter().for_each(take_all);
    closes || PROGRAMS.iter().any(|name| has(name))
}

/// Directives of a location whose files are not to be shown as they are.
const PROGRAMS: [&str; 5] = [
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "proxy_pass",
    "return",
];

/// Whether `allow` and `deny` of a location let some clients in. A route cannot, so it lets in none.
fn refuse_some(location: &Location<'_>, import: &Import<'_>) -> bool {
    let own = location.scope.own().iter();
    let names = ["allow", "deny"];
    let rules: Vec<_> = own
        .filter(|one| names.contains(&one.name.as_str()))
        .collect();
    for rule in &rules {
        import.lost(
            rule,
            "addresses are allowed and denied for a service, not for a path; its requests get 403 until you decide",
        );
    }
    rules.iter().any(|rule| rule.name == "deny")
}
