//! The settings of a service that `status` names: routes and stickiness.

use lb_config::http::{Action, HttpService, Route, Stickiness};

use crate::control::status::{RouteStatus, StickinessStatus};

/// The routes of a service.
pub(super) fn routes(http: &HttpService) -> Vec<RouteStatus> {
    http.routes.iter().map(route).collect()
}

fn route(route: &Route) -> RouteStatus {
    RouteStatus {
        hosts: route.hosts.iter().map(ToString::to_string).collect(),
        path: match route.path.as_str() {
            "" => "/".to_owned(),
            path => path.to_owned(),
        },
        to: match &route.action {
            Action::Forward(service) => format!("backends of {service}"),
            Action::Redirect { to, .. } => format!("redirect to {to}"),
            Action::Answer { status, .. } => format!("answer {}", status.as_str()),
            Action::Files { files, otherwise } => {
                let of = format!("files of {}", files.root.display());
                match otherwise {
                    Some(service) => format!("{of}, else backends of {service}"),
                    None => of,
                }
            }
        },
    }
}

/// A stickiness in the words of `status`.
pub(super) fn stickiness(stickiness: &Stickiness) -> StickinessStatus {
    let (by, name) = match stickiness {
        Stickiness::Address => ("address", None),
        Stickiness::SocketIo => ("socketio", None),
        Stickiness::Cookie(cookie) => ("cookie", Some(cookie.name.clone())),
        Stickiness::Header(name) => ("header", Some(name.to_string())),
        Stickiness::Query(key) => ("query", Some(key.clone())),
    };
    StickinessStatus {
        by: by.to_owned(),
        name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn http(settings: &str) -> std::sync::Arc<HttpService> {
        let text = format!(
            "[[service]]\nname = 'app'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n{settings}"
        );
        let mut config = lb_config::parse(&text, "test.toml".as_ref()).unwrap();
        config.services.remove(0).http.unwrap()
    }

    #[test]
    fn routes_have_hosts_path_and_target() {
        let http = http(
            "[[service.route]]\npath = '/api'\nbackends = ['127.0.0.1:6000']\n\
             [[service.route]]\nhost = ['a.example', '*.b.example']\nredirect = 'https://c.example/'\n\
             [[service.route]]\npath = '/secret'\nanswer = { status = 403 }\n",
        );
        let lines = routes(&http).into_iter();
        let lines: Vec<String> = lines
            .map(|route| format!("{} {} {}", route.hosts.join(" "), route.path, route.to))
            .collect();
        let expected = [
            " /api backends of app/api",
            "a.example *.b.example / redirect to https://c.example/",
            " /secret answer 403",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn stickiness_is_named_with_its_cookie_header_or_key() {
        let cases = [
            ("", "address", None),
            ("stickiness = 'socketio'", "socketio", None),
            ("stickiness = { cookie = 'lb' }", "cookie", Some("lb")),
            (
                "stickiness = { header = 'X-User' }",
                "header",
                Some("x-user"),
            ),
            ("stickiness = { query = 'room' }", "query", Some("room")),
        ];
        for (setting, by, name) in cases {
            let http = http(&format!("[service.http]\n{setting}\n"));
            let found = stickiness(&http.settings.stickiness);
            assert_eq!((found.by.as_str(), found.name.as_deref()), (by, name));
        }
    }
}
