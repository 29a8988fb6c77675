//! Which route a request takes: by server name, then by the beginning of its path.
//!
//! Routes for an exact name come before those for a wildcard, a longer wildcard before a shorter
//! one, and all of them before routes for every host. Among the routes for one name the longest
//! path wins; when none fits, the next name's are looked at.

use std::collections::HashMap;
use std::sync::Arc;

use lb_config::http::path;
use lb_config::http::{HostPattern, Route};

/// The routes of one service, ready to be asked.
#[derive(Debug, Default)]
pub(crate) struct Router {
    exact: HashMap<Box<str>, Paths>,
    wildcard: HashMap<Box<str>, Paths>,
    every: Paths,
}

/// Paths for one name with the places of their routes: the longest first, and a whole one before a beginning.
#[derive(Debug, Default)]
struct Paths(Vec<Entry>);

/// A path of a route.
#[derive(Debug)]
struct Entry {
    path: Box<str>,
    /// It is a whole path, not the beginning of some.
    exact: bool,
    place: usize,
}

impl Router {
    /// For these routes, of which no two have a host and a path in common.
    pub(crate) fn new(routes: &[Route]) -> Self {
        let mut router = Self::default();
        for (place, route) in routes.iter().enumerate() {
            if route.hosts.is_empty() {
                router.every.add(route, place);
            }
            for host in &route.hosts {
                let paths = match host {
                    HostPattern::Exact(name) => router.exact.entry(name.as_str().into()),
                    HostPattern::Wildcard(name) => router.wildcard.entry(name.as_str().into()),
                };
                paths.or_default().add(route, place);
            }
        }
        router
    }

    /// The same with their paths in lower case, except for the digits of triplets. Of routes that differ by case alone
    /// the first one counts.
    fn in_lower_case(routes: &[Route]) -> Self {
        let lower = routes.iter().map(|route| Route {
            path: path::normal(&route.path.to_ascii_lowercase()).into_owned(),
            ..route.clone()
        });
        Self::new(&lower.collect::<Vec<_>>())
    }

    /// The place of the route that a request for `host`, which may have a port, and `path` takes;
    /// `None` if there is none for it.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<usize> {
        let no_names = self.exact.is_empty() && self.wildcard.is_empty();
        if no_names && self.every.0.is_empty() {
            return None;
        }
        let path = path::normal(path);
        if !no_names {
            let mut lower = [0; 256];
            let name = lower_case(hostname(host), &mut lower);
            if let Some(found) = self.by_name(name, &path) {
                return Some(found);
            }
        }
        self.every.find(&path)
    }

    fn by_name(&self, name: &str, path: &str) -> Option<usize> {
        let exact = self.exact.get(name).and_then(|paths| paths.find(path));
        if exact.is_some() || self.wildcard.is_empty() {
            return exact;
        }
        let dots = name.match_indices('.').filter(|(at, _)| *at > 0);
        dots.map(|(at, _)| &name[at..])
            .find_map(|ending| self.wildcard.get(ending)?.find(path))
    }
}

/// The reason to guard a route against other readings of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    None,
    /// It answers by itself.
    Answer,
    /// It has users of its own, or none although the service has.
    Users,
}

/// Which routes of a service are guarded.
#[derive(Debug)]
pub(crate) struct Guards {
    router: Arc<Router>,
    /// The same for paths in lower case, if a route has users.
    lower: Option<Router>,
    /// By place; the last is that of requests without a route.
    guards: Vec<Guard>,
}

impl Guards {
    /// For `routes`, which `router` has.
    pub(crate) fn new(router: Arc<Router>, routes: &[Route], guards: Vec<Guard>) -> Self {
        let has_users = guards.contains(&Guard::Users);
        Self {
            router,
            lower: has_users.then(|| Router::in_lower_case(routes)),
            guards,
        }
    }

    /// Whether a backend may take this path for one of another route, although this service takes it for
    /// one at `place`, and one of both is guarded. Causes: a slash, a backslash or a NUL in disguise, or
    /// parameters of a segment (RFC 3986, section 3.3), `..` that stays, and triplets of characters that need none. If a
    /// route has users, letter case and a slash at the end are causes too.
    pub(crate) fn is_evasive(&self, host: &str, path: &str, place: usize) -> bool {
        let is_guarded = |place: usize| self.guard(place) != Guard::None;
        let has_users = |place: usize| self.guard(place) == Guard::Users;
        let is_other = |router: &Router, reading: &str, is_guarded: &dyn Fn(usize) -> bool| {
            let other = router.find(host, reading).unwrap_or(self.guards.len() - 1);
            other != place && (is_guarded(other) || is_guarded(place))
        };
        let is_disguised = |router: &Router, path: &str, is_guarded: &dyn Fn(usize) -> bool| {
            path::readings(path)
                .is_some_and(|all| all.iter().any(|it| is_other(router, it, is_guarded)))
        };
        if is_disguised(&self.router, path, &is_guarded) {
            return true;
        }
        let Some(lower) = &self.lower else {
            return false;
        };
        // Frameworks take a slash at the end for nothing, and letters of either case for the same.
        let bare = path.trim_end_matches('/');
        let ends_open = bare.len() < path.len() && !bare.is_empty();
        if ends_open && is_other(&self.router, bare, &has_users) {
            return true;
        }
        let folded = path.to_ascii_lowercase();
        is_other(lower, &folded, &has_users) || is_disguised(lower, &folded, &has_users)
    }

    fn guard(&self, place: usize) -> Guard {
        self.guards.get(place).copied().unwrap_or(Guard::None)
    }
}

impl Paths {
    fn add(&mut self, route: &Route, place: usize) {
        self.0.push(Entry {
            path: route.path.as_str().into(),
            exact: route.exact,
            place,
        });
        self.0
            .sort_by_key(|entry| std::cmp::Reverse((entry.path.len(), entry.exact)));
    }

    fn find(&self, path: &str) -> Option<usize> {
        let found = self.0.iter().find(|entry| entry.fits(path));
        found.map(|entry| entry.place)
    }
}

impl Entry {
    fn fits(&self, path: &str) -> bool {
        match (path.strip_prefix(&*self.path), self.exact) {
            (None, _) => false,
            // The path of `/` is kept as an empty one.
            (Some(rest), true) => rest.is_empty() || (self.path.is_empty() && rest == "/"),
            (Some(rest), false) => self.path.is_empty() || rest.is_empty() || rest.starts_with('/'),
        }
    }
}

/// The host without its port and without a dot at its end.
pub(crate) fn hostname(host: &str) -> &str {
    let name = if host.starts_with('[') {
        host.find(']').map_or(host, |end| &host[..=end])
    } else {
        host.split(':').next().unwrap_or(host)
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// `name` in lower case; nearly always it is so already. Names too long to be one stay as they
/// are: no route has them.
fn lower_case<'a>(name: &'a str, buffer: &'a mut [u8; 256]) -> &'a str {
    if !name.bytes().any(|byte| byte.is_ascii_uppercase()) || name.len() > buffer.len() {
        return name;
    }
    let lower = &mut buffer[..name.len()];
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_config::parse;
    use proptest::prelude::*;

    /// A router for routes like "example.com *.example.com /api"; each is known by its place.
    fn router(routes: &[&str]) -> Router {
        let mut text =
            String::from("[[service]]\nname = 'a'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n");
        for route in routes {
            let (hosts, path) = route.split_once('/').unwrap();
            let hosts: Vec<&str> = hosts.split_whitespace().collect();
            text.push_str(&format!(
                "[[service.route]]\npath = '/{path}'\nanswer = {{}}\n"
            ));
            if !hosts.is_empty() {
                text.push_str(&format!("host = {hosts:?}\n"));
            }
        }
        let config = parse(&text, std::path::Path::new("f")).unwrap();
        Router::new(&config.services[0].http.as_ref().unwrap().routes)
    }

    #[test]
    fn the_longest_path_wins_and_ends_at_a_slash() {
        let router = router(&["/api", "/api/v2", "/"]);
        let find = |path| router.find("h", path);
        assert_eq!(find("/api"), Some(0));
        assert_eq!(find("/api/"), Some(0));
        assert_eq!(find("/api/v1"), Some(0));
        assert_eq!(find("/api/v2/x"), Some(1));
        assert_eq!(find("/api/v22"), Some(0));
        assert_eq!(find("/apix"), Some(2));
        assert_eq!(find("*"), Some(2));
    }

    #[test]
    fn exact_path_is_for_itself_alone() {
        let text = "[[service]]\nname = 'a'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
                    [[service.route]]\npath = '/'\nanswer = {}\n\
                    [[service.route]]\npath = '/'\nexact = true\nanswer = {}\n\
                    [[service.route]]\npath = '/login'\nexact = true\nanswer = {}\n\
                    [[service.route]]\npath = '/login'\nanswer = {}\n";
        let config = parse(text, std::path::Path::new("f")).unwrap();
        let router = Router::new(&config.services[0].http.as_ref().unwrap().routes);
        for (path, place) in [
            ("/", 1),
            ("/x", 0),
            ("/login", 2),
            ("/login/", 3),
            ("/login/x", 3),
            ("/%6cogin", 2),
            ("/loginx", 0),
        ] {
            assert_eq!(router.find("h", path), Some(place), "{path}");
        }
    }

    #[test]
    fn an_exact_name_comes_before_a_wildcard_and_that_before_every_host() {
        let router = router(&["a.example.com/", "*.example.com/", "*.b.example.com/", "/"]);
        let find = |host| router.find(host, "/x");
        assert_eq!(find("a.example.com"), Some(0));
        assert_eq!(find("A.Example.COM.:8080"), Some(0));
        assert_eq!(find("c.example.com"), Some(1));
        assert_eq!(find("c.b.example.com:80"), Some(2));
        assert_eq!(find("b.example.com"), Some(1));
        assert_eq!(find("example.com"), Some(3));
        assert_eq!(find(""), Some(3));
    }

    #[test]
    fn a_name_without_a_route_for_the_path_leaves_it_to_the_others() {
        let router = router(&["a.com/api", "*.com/static", "/health"]);
        assert_eq!(router.find("a.com", "/api/1"), Some(0));
        assert_eq!(router.find("a.com", "/static/1"), Some(1));
        assert_eq!(router.find("a.com", "/health"), Some(2));
        assert_eq!(router.find("a.com", "/"), None);
    }

    #[test]
    fn a_path_in_disguise_takes_the_same_route() {
        let router = router(&["/admin"]);
        for path in ["/%61dmin", "//admin", "/x/../admin/y", "/./admin"] {
            assert_eq!(router.find("h", path), Some(0), "{path}");
        }
        assert_eq!(router.find("h", "/admin%2Fx"), None);
    }

    #[test]
    fn ports_and_brackets_are_no_part_of_a_name() {
        assert_eq!(hostname("a.com:80"), "a.com");
        assert_eq!(hostname("[2001:db8::1]:80"), "[2001:db8::1]");
        assert_eq!(hostname("a.com."), "a.com");
        assert_eq!(hostname(""), "");
    }

    proptest! {
        /// Against the rules as one would read them out loud.
        #[test]
        fn the_router_agrees_with_the_rules(
            prefixes in proptest::collection::btree_set("(/[ab]{1,2}){1,3}", 0..6),
            path in "(/[ab]{1,3}){1,4}/?",
        ) {
            let prefixes: Vec<String> = prefixes.into_iter().collect();
            let routes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            let segments = |path: &str| -> Vec<String> {
                path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect()
            };
            let asked = segments(&path);
            let expected = (0..routes.len())
                .filter(|place| asked.starts_with(&segments(routes[*place])))
                .max_by_key(|place| segments(routes[*place]).len());
            prop_assert_eq!(router(&routes).find("h", &path), expected);
        }

        #[test]
        fn no_host_and_no_path_make_it_panic(host in "\\PC{0,300}", path in "\\PC{0,40}") {
            router(&["a.com/x", "*.com/", "/y"]).find(&host, &path);
        }
    }
}
