//! Who may ask.

use super::*;

fn realm(auth: &Auth) -> &str {
    match auth {
        Auth::Basic(basic) => &basic.realm,
        Auth::Forward(_) => "",
    }
}

#[test]
fn route_takes_the_users_of_its_service_unless_it_has_its_own_or_none() {
    let config = of(
        "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\nmode = 'http'\nbackends = ['127.0.0.1:1']\n\
         http = { auth = { users = '/etc/users' } }\n\
         [[service.route]]\npath = '/a'\nauth = false\n\
         [[service.route]]\npath = '/b'\nauth = { users = '/etc/others', realm = 'B' }\n\
         [[service.route]]\npath = '/c'\nresponse_headers = [{ remove = 'X' }]\n",
    );
    let http = config.services[0].http.as_deref().unwrap();
    let own = http.routes.iter().map(|route| route.auth.as_ref());
    let users = own.map(|auth| auth.map(|auth| auth.as_ref().map(realm)));
    assert_eq!(
        users.collect::<Vec<_>>(),
        [Some(None), Some(Some("B")), None]
    );
    let all = http.users().map(|auth| (auth.realm.as_str(), auth.line.0));
    assert_eq!(all.collect::<Vec<_>>(), [("Restricted", 6), ("B", 12)]);
}

#[test]
fn authentication_without_users_is_refused() {
    for (route, message) in [
        ("auth = true", "true names no users"),
        ("auth = {}", "not one of users and url"),
        ("auth = { users = 'users' }", "is not an absolute path"),
        (
            "auth = { users = '/u', realm = 'a\"b' }",
            "is not the name of a realm",
        ),
        ("auth = '/u'", "expected a table or false"),
    ] {
        let errors = errors_with(&format!("[[service.route]]\npath = '/a'\n{route}"));
        assert_eq!(errors.len(), 1, "{route}: {errors:?}");
        assert!(errors[0].contains(message), "{route}: {errors:?}");
    }
}

#[test]
fn forward_authentication_has_an_address_a_path_and_headers() {
    for (url, address, target) in [
        (
            "http://127.0.0.1:4180/auth?x=1",
            "127.0.0.1:4180",
            "/auth?x=1",
        ),
        ("http://localhost:4180", "127.0.0.1:4180", "/"),
        ("http://192.0.2.1/a", "192.0.2.1:80", "/a"),
        ("http://[2001:db8::1]/a", "[2001:db8::1]:80", "/a"),
        ("http://[2001:db8::1]:81/a", "[2001:db8::1]:81", "/a"),
        (
            "http://unix:/run/auth.sock:/oauth2/auth",
            "unix:/run/auth.sock",
            "/oauth2/auth",
        ),
        ("http://unix:/run/auth.sock", "unix:/run/auth.sock", "/"),
    ] {
        let config = of(&format!(
            "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\nmode = 'http'\nbackends = ['127.0.0.1:1']\n\
             http = {{ auth = {{ url = '{url}', set = ['X-Auth-User'] }} }}\n"
        ));
        let http = config.services[0].http.as_deref().unwrap();
        let Some(Auth::Forward(forward)) = &http.settings.auth else {
            panic!("{url}");
        };
        assert_eq!(forward.url.address.to_string(), address);
        assert_eq!(forward.url.target, target);
        assert_eq!(forward.set, ["x-auth-user"]);
        assert_eq!(forward.timeout, Duration::from_secs(5));
    }
}

#[test]
fn forward_authentication_that_cannot_be_is_refused() {
    for (auth, message) in [
        (
            "url = 'https://127.0.0.1/auth'",
            "needs TLS, which is not used towards servers",
        ),
        ("url = '127.0.0.1:4180/auth'", "is not a URL"),
        (
            "url = 'http://auth.example.com:4180/'",
            "names are not looked up",
        ),
        ("url = 'http://127.0.0.1:4180?x'", "is not a path"),
        ("url = 'http://127.0.0.1:4180/a b'", "is not a path"),
        ("url = 'http://user@127.0.0.1:4180/'", "is not an address"),
        (
            "url = 'http://127.0.0.1:1/', users = '/u'",
            "not one of users and url",
        ),
        (
            "url = 'http://127.0.0.1:1/', realm = 'A'",
            "only users have a realm",
        ),
        ("users = '/u', set = ['X-A']", "only a url has this"),
        (
            "url = 'http://127.0.0.1:1/', timeout = '0'",
            "0 is no time at all",
        ),
        (
            "url = 'http://127.0.0.1:1/', set = ['Host']",
            "host of an answer is not for the request",
        ),
        (
            "url = 'http://127.0.0.1:1/', set = ['X-A', 'x_a']",
            "are the same to applications",
        ),
    ] {
        let errors = errors_with(&format!(
            "[[service.route]]\npath = '/a'\nauth = {{ {auth} }}"
        ));
        assert_eq!(errors.len(), 1, "{auth}: {errors:?}");
        assert!(errors[0].contains(message), "{auth}: {errors:?}");
    }
}

#[test]
fn service_that_asks_itself_who_may_ask_is_refused_unless_that_path_is_open() {
    let with = |auth: &str, routes: &str| {
        format!(
            "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:8080']\nmode = 'http'\nbackends = ['127.0.0.1:1']\n\
             http = {{ auth = {{ url = '{auth}' }} }}\n{routes}"
        )
    };
    let own = "http://127.0.0.1:8080/auth?a";
    let open = "[[service.route]]\npath = '/auth'\nauth = false\n";
    let found = errors(&with(own, ""));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("which is this service itself (0.0.0.0:8080)"),
        "{found:?}"
    );
    let other = "[[service.route]]\npath = '/authors'\nauth = false\n";
    assert_eq!(errors(&with(own, other)).len(), 1);
    of(&with(own, open));
    of(&with("http://127.0.0.1:8081/auth", ""));
}
