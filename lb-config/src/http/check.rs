//! Rules between the values of a service with `mode = "http"`.

use std::collections::HashMap;

use super::limit::{self, Limit};
use super::route::{Action, RawRoute, Route, Target};
use super::settings::INTRODUCED_AND_SHARED;
use super::value::HostPattern;
use super::{HttpService, Protocol, RawTls, Settings};
use crate::error::{Located, Place, Problems};
use crate::lists::RawBackend;
use crate::value;

/// The settings of a service for HTTP, as written in the file.
pub(crate) struct RawHttp {
    pub(crate) settings: Settings,
    pub(crate) tls: Option<RawTls>,
    pub(crate) request_limits: Vec<Located<Limit>>,
    pub(crate) routes: Vec<RawRoute>,
}

/// The backends of a route: an inner service.
pub(crate) struct Inner {
    pub(crate) place: Place,
    pub(crate) name: String,
    /// Former names of the route.
    pub(crate) was: Vec<Located<String>>,
    pub(crate) backends: Vec<RawBackend>,
    /// The HTTP version that the backends speak.
    pub(crate) protocol: Protocol,
}

/// Checks the HTTP settings of the service `name`, and takes out the services inside it.
pub(crate) fn check(
    name: &str,
    listen: Vec<std::net::SocketAddr>,
    mut raw: RawHttp,
    problems: &mut Problems,
) -> (HttpService, Vec<Inner>) {
    check_overlaps(&raw.routes, problems);
    name_limits(&mut raw, problems);
    check_introductions(&raw, problems);
    let mut inner = Vec::new();
    let tls = raw.tls.map(|raw| raw.check(&listen, problems));
    let routes = raw
        .routes
        .into_iter()
        .map(|route| self::route(name, route, raw.settings.protocol, &mut inner, problems))
        .collect();
    let service = HttpService {
        name: name.to_owned(),
        listen,
        tls,
        settings: raw.settings,
        request_limits: values(raw.request_limits),
        routes,
    };
    (service, inner)
}

/// Gives each limit its name.
fn name_limits(raw: &mut RawHttp, problems: &mut Problems) {
    let of_service = raw.request_limits.iter_mut().map(|limit| (limit, ""));
    let routes = raw.routes.iter_mut();
    let known = routes.filter(|route| !route.has_wrong_path());
    let of_routes = known.flat_map(|route| {
        let path = route.path.value.as_str();
        route
            .request_limits
            .iter_mut()
            .map(move |limit| (limit, path))
    });
    limit::named(of_service.chain(of_routes), problems);
}

/// Values without their places.
fn values<T>(located: Vec<Located<T>>) -> Vec<T> {
    located.into_iter().map(|located| located.value).collect()
}

/// PROXY headers are for connections of one client each, which those of HTTP/2 are not.
fn check_introductions(raw: &RawHttp, problems: &mut Problems) {
    if raw.settings.send_proxy_protocol.is_none() || raw.settings.protocol == Protocol::H2c {
        return;
    }
    for protocol in raw
        .routes
        .iter()
        .filter_map(|route| route.protocol.as_ref())
    {
        if protocol.value == Protocol::H2c {
            problems.add(&protocol.place, INTRODUCED_AND_SHARED);
        }
    }
}

/// Two routes for the same host and path: one of them would never be taken.
fn check_overlaps(routes: &[RawRoute], problems: &mut Problems) {
    let mut seen: HashMap<(Option<&HostPattern>, &str, bool), &Place> = HashMap::new();
    let routes = routes.iter();
    // A key with a problem of its own gets no second one.
    for route in routes.filter(|route| !route.has_wrong_path() && !route.has_wrong_host()) {
        let every = [None];
        let named: Vec<Option<&Located<HostPattern>>> = route.hosts.iter().map(Some).collect();
        let hosts = if named.is_empty() { &every[..] } else { &named };
        for host in hosts {
            let path = route.path.value.as_str();
            let key = (host.map(|host| &host.value), path, route.exact);
            let place = host.map_or(route.path_place(), |host| &host.place);
            if let Some(before) = seen.insert(key, &route.place) {
                let line = before.offset.map_or(0, |offset| problems.line(offset));
                let of = match key.0 {
                    Some(HostPattern::Exact(name)) => name.clone(),
                    Some(HostPattern::Wildcard(name)) => format!("*{name}"),
                    None => "every host".to_owned(),
                };
                let path = if key.1.is_empty() { "/" } else { key.1 };
                problems.add(
                    place,
                    format!(
                        "{path} of {of} belongs to the route of line {line} too (leave one out)"
                    ),
                );
            }
        }
    }
}

fn route(
    service: &str,
    mut raw: RawRoute,
    usual: Protocol,
    inner: &mut Vec<Inner>,
    problems: &mut Problems,
) -> Route {
    let target = raw.take_target();
    let has_wrong_path = raw.has_wrong_path();
    let RawRoute {
        place: here,
        name,
        was,
        hosts,
        path,
        exact,
        prefix_rewrite,
        // The action made of these is in `target`.
        backends: _,
        redirect: _,
        answer: _,
        files: _,
        protocol,
        request_headers,
        response_headers,
        timeouts,
        limits,
        request_limits,
        auth,
        has_path: _,
        has_host: _,
        does_something,
    } = raw;
    let protocol = protocol.map(|protocol| protocol.value);
    let named = name.as_ref();
    let mut own_backends = |place: Place, backends| {
        let own = named.map(|name| name.value.clone());
        let derived = own.or_else(|| derived_name(&path.value));
        let whole = match derived {
            None if has_wrong_path => service.to_owned(),
            derived => inner_name(service, derived, &here, problems),
        };
        // Without a name that is noted there is no service.
        if whole != service {
            inner.push(Inner {
                place: named.map_or(place, |name| name.place.clone()),
                name: whole.clone(),
                was: was.clone(),
                backends,
                protocol: protocol.unwrap_or(usual),
            });
        }
        whole
    };
    let action = match target {
        Target::Done(action) => action,
        Target::Backends(place, backends) => Action::Forward(own_backends(place, backends)),
        Target::FilesFirst(files, backends) => Action::Files {
            files,
            otherwise: Some(match backends {
                Some((place, backends)) => own_backends(place, backends),
                None => service.to_owned(),
            }),
        },
        Target::Unsaid => {
            if !does_something {
                problems.add(
                    &here,
                    "leads nowhere (write backends, redirect, answer or files)",
                );
            }
            Action::Forward(service.to_owned())
        }
        Target::Bad => Action::Forward(service.to_owned()),
    };
    Route {
        name: name.map(|name| name.value),
        hosts: hosts.into_iter().map(|host| host.value).collect(),
        path: path.value,
        exact,
        prefix_rewrite: prefix_rewrite.map(|path| path.value),
        action,
        protocol,
        request_headers,
        response_headers,
        timeouts,
        limits,
        request_limits: values(request_limits),
        auth,
    }
}

/// The name of a route without one: "/api/v1" is "api-v1".
fn derived_name(path: &str) -> Option<String> {
    let name = path.trim_start_matches('/').replace('/', "-");
    value::service_name(&name).ok()
}

fn inner_name(
    service: &str,
    name: Option<String>,
    place: &Place,
    problems: &mut Problems,
) -> String {
    let Some(name) = name else {
        problems.add(
            place,
            format!("name is missing (write name = \"api\": its backends are then those of \"{service}/api\")"),
        );
        return service.to_owned();
    };
    let whole = format!("{service}/{name}");
    problems
        .keep(place, value::any_service_name(&whole))
        .unwrap_or(whole)
}
