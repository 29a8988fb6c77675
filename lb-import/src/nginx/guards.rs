//! What lets some clients in and refuses others, and has no counterpart in a route. Its requests get 403 then.

use super::Import;
use super::scope::Scope;
use super::tree::Directive;
use super::words;

/// Whether something in `scope` refuses requests that a route would let in. It is told.
pub(super) fn close(scope: &Scope<'_>, import: &Import<'_>) -> bool {
    let mut is_closed = methods(scope, import);
    for directive in scope.levels().flatten() {
        let is_one = match directive.name.as_str() {
            "if" => refuses(directive),
            name => is_of_a_module(name) && directive.arg(0) != "off",
        };
        if is_one {
            import.lost(
                directive,
                "it refuses some requests, and has no counterpart; all of them get 403 until you decide",
            );
        }
        is_closed |= is_one;
    }
    is_closed
}

/// Whether a location that others lead to has guards of its own. They are told.
pub(super) fn close_inside(scope: &Scope<'_>, import: &Import<'_>) -> bool {
    let own = scope.own().iter();
    let denies = own.filter(|one| one.name == "deny").inspect(|deny| {
        import.lost(
            deny,
            "it is for the requests that come here from another location, which get 403 until you decide",
        );
    });
    let is_denied = denies.count() > 0;
    close(scope, import) | is_denied
}

/// `limit_except` with something that refuses the other methods.
fn methods(scope: &Scope<'_>, import: &Import<'_>) -> bool {
    let mut is_closed = false;
    for directive in scope.own().iter().filter(|one| one.name == "limit_except") {
        if directive.inside().iter().any(is_guard) {
            directive.inside().iter().for_each(Directive::take);
            import.lost(
                directive,
                "methods are not restricted; all requests get 403 until you decide",
            );
            is_closed = true;
        }
    }
    is_closed
}

/// Whether a directive keeps requests out, or may do.
pub(super) fn is_guard(directive: &Directive) -> bool {
    const NAMES: [&str; 4] = ["deny", "internal", "limit_except", "if"];
    let name = directive.name.as_str();
    match name {
        "auth_basic" | "auth_request" => directive.arg(0) != "off",
        "return" => !(200..400).contains(&directive.arg(0).parse().unwrap_or(302)),
        // A file that is missing may have said anything.
        "include" => !words::is_known_file(directive),
        _ => NAMES.contains(&name) || is_of_a_module(name),
    }
}

/// Whether it is a directive of a module that asks who the client is.
fn is_of_a_module(name: &str) -> bool {
    const KNOWN: [&str; 5] = [
        "auth_basic",
        "auth_basic_user_file",
        "auth_delay",
        "auth_request",
        "auth_request_set",
    ];
    let begins = ["auth_", "access_by_lua", "js_access"];
    begins.iter().any(|begin| name.starts_with(begin)) && !KNOWN.contains(&name)
}

/// Variables of conditions that keep out some requests of anybody, as those of robots. Such a condition is no guard.
const OF_ANYBODY: [&str; 12] = [
    "$request_method",
    "$http_user_agent",
    "$http_origin",
    "$http_upgrade",
    "$host",
    "$http_host",
    "$scheme",
    "$https",
    "$server_port",
    "$request_uri",
    "$uri",
    "$document_uri",
];

/// Whether an `if` lets in some clients alone: it refuses others by a status, or sends those away that are not known.
fn refuses(directive: &Directive) -> bool {
    let variable = directive.arg(0).trim_start_matches(['(', '!']);
    let variable = variable.trim_end_matches(')').replace(['{', '}'], "");
    if OF_ANYBODY.contains(&variable.as_str()) {
        return false;
    }
    const OF_CLIENTS: [&str; 6] = [
        "$ssl_client",
        "$remote_addr",
        "$remote_user",
        "$cookie_",
        "$http_authorization",
        "$http_cookie",
    ];
    let is_of_clients = OF_CLIENTS.iter().any(|one| variable.starts_with(one));
    let mut inside = directive.inside().iter();
    inside.any(|one| match one.name.as_str() {
        "return" => one.arg(0).parse().is_ok_and(|status: u16| status >= 400) || is_of_clients,
        "rewrite" => is_of_clients,
        _ => is_guard(one),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nginx::tree;

    #[test]
    fn conditions_about_clients_are_guards() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("one");
        for (text, guards) in [
            ("if ($ssl_client_verify != SUCCESS) { return 403; }", true),
            ("if ($allowed = 0) { return 444; }", true),
            ("if ($cookie_in != yes) { return 302 /login; }", true),
            ("if (!$remote_user) { rewrite ^ /login redirect; }", true),
            ("if ($http_user_agent ~ evil) { return 403; }", false),
            ("if ($request_method = OPTIONS) { return 204; }", false),
            (
                "if ($http_x_forwarded_proto = http) { return 301 https://a; }",
                false,
            ),
            ("if ($slow) { set $limit_rate 4k; }", false),
        ] {
            std::fs::write(&path, text).unwrap();
            let top = tree::read(&path).unwrap();
            assert_eq!(refuses(&top[0]), guards, "{text}");
        }
    }
}
