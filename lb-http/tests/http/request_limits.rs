//! Limits on the requests of clients: exact counts, keys that cannot be evaded, and what is told of them.

use super::figures::figures;
use super::log::Log;
use super::{Backend, Echo, OK, Proxy, field};

/// A proxy that believes X-Forwarded-For, with limits; its backend answers 200.
fn limited(echo: &Echo, limits: &str) -> Proxy {
    let settings = format!("trusted_proxies = ['127.0.0.0/8']\n{limits}");
    Proxy::new(&[&echo.backend], &settings)
}

/// The status of a request for `path` with more header lines.
#[track_caller]
fn ask(proxy: &Proxy, path: &str, more: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    proxy.ask(&request).status()
}

#[track_caller]
fn from(proxy: &Proxy, client: &str) -> u16 {
    ask(proxy, "/", &format!("X-Forwarded-For: {client}\r\n"))
}

/// How often requests were refused by a limit, and how often one would have been.
fn counted(proxy: &Proxy, limit: &str) -> (u64, u64) {
    let config = proxy.config(&proxy.settings);
    let engine = proxy.engine.as_ref().unwrap();
    let all = engine.limit_figures(config.services[0].http.as_ref().unwrap());
    let (_, figures) = all.iter().find(|(name, _)| name == limit).unwrap();
    (figures.refused, figures.would_refuse)
}

const LOGIN: &str = "[[service.limit]]\npath = '/login'\nrate = '3/1h'";

#[test]
fn request_above_a_rate_gets_429_with_retry_after_and_the_page() {
    let echo = Echo::new(OK);
    let proxy = limited(&echo, LOGIN);
    for _ in 0..3 {
        assert_eq!(ask(&proxy, "/login", ""), 200);
    }
    let mut client = proxy.ask("GET /login HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
    let (status, answer) = client.answer();
    assert_eq!(status, 429);
    let wait: u64 = field(&answer, "retry-after").unwrap().parse().unwrap();
    assert!((1190..=1200).contains(&wait), "{wait}");
    assert!(
        field(&answer, "content-type").unwrap().contains("html"),
        "{answer}"
    );
    // The connection is good for another path.
    client.send("GET /other HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.status(), 200);
    assert_eq!(counted(&proxy, "login"), (1, 0));
    let figures = figures(&proxy, |figures| figures.refused.iter().sum::<u64>() == 1);
    assert_eq!(figures.gateway_errors.iter().flatten().sum::<u64>(), 0);
}

#[test]
fn path_in_disguise_counts_for_its_limit() {
    for disguise in [
        "/login/",
        "/login/x",
        "//login",
        "/./login",
        "/a/../login",
        "/%6Cogin",
        "/login;x=1",
        "/login%2fx",
        "/LOGIN",
        "/login?a=/b",
        "/login%00",
    ] {
        let echo = Echo::new(OK);
        let proxy = limited(&echo, LOGIN);
        for _ in 0..3 {
            assert_eq!(ask(&proxy, "/login", ""), 200);
        }
        assert_eq!(ask(&proxy, disguise, ""), 429, "{disguise}");
        assert_eq!(ask(&proxy, "/logins", ""), 200);
    }
}

#[test]
fn client_is_a_whole_prefix_and_counts_outlive_a_reload() {
    let echo = Echo::new(OK);
    let limits = "[[service.limit]]\nrate = '2/1h'";
    let mut proxy = limited(&echo, limits);
    for (client, status) in [
        ("2001:db8:1:2::1", 200),
        ("2001:db8:1:2:ffff::2", 200),
        ("2001:db8:1:2:3:4:5:6", 429),
        ("2001:db8:1:3::1", 200),
        ("203.0.113.9", 200),
        ("203.0.113.10", 200),
        ("203.0.113.9", 200),
        ("203.0.113.9", 429),
        ("203.0.113.10", 200),
    ] {
        assert_eq!(from(&proxy, client), status, "{client}");
    }
    proxy.configure(&format!(
        "trusted_proxies = ['127.0.0.0/8']\nlimits = {{ body = 10 }}\n{limits}"
    ));
    assert_eq!(from(&proxy, "203.0.113.9"), 429);
    assert_eq!(from(&proxy, "2001:db8:1:2::7"), 429);
    assert_eq!(from(&proxy, "203.0.113.11"), 200);
}

#[test]
fn header_or_cookie_takes_the_place_of_the_client() {
    for (key, ann, bob) in [
        (
            "{ header = 'X-Api-Key' }",
            "X-Api-Key: ann\r\n",
            "X-Api-Key: bob\r\n",
        ),
        (
            "{ cookie = 'sid' }",
            "Cookie: a=b; sid=ann\r\n",
            "Cookie: sid=bob; b=c\r\n",
        ),
    ] {
        let echo = Echo::new(OK);
        let proxy = limited(
            &echo,
            &format!("[[service.limit]]\nkey = {key}\nrate = '1/1h'"),
        );
        assert_eq!(ask(&proxy, "/", ann), 200);
        assert_eq!(ask(&proxy, "/", ann), 429);
        assert_eq!(ask(&proxy, "/", bob), 200);
        assert_eq!(ask(&proxy, "/", ""), 200, "its client");
        assert_eq!(ask(&proxy, "/", "Cookie: sid=\r\n"), 429, "its client");
    }
}

#[test]
fn session_that_no_backend_has_begun_counts_for_its_client() {
    let backend = Backend::new();
    let proxy = Proxy::new(
        &[&backend],
        "stickiness = 'socketio'\n[[service.limit]]\nkey = 'session'\nrate = '1/1h'",
    );
    let poll = |sid: &str| {
        format!("GET /socket.io/?EIO=4&transport=polling{sid} HTTP/1.1\r\nHost: a\r\n\r\n")
    };
    let open = r#"0{"sid":"abc","upgrades":[],"pingInterval":25000}"#;
    let mut client = proxy.ask(&poll(""));
    let (mut behind, _) = backend.request();
    let length = open.len();
    behind.send(&format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{open}"
    ));
    assert_eq!(client.status(), 200);
    for made_up in ["", "&sid=one", "&sid=two"] {
        assert_eq!(proxy.ask(&poll(made_up)).status(), 429, "{made_up}");
    }
    let mut client = proxy.ask(&poll("&sid=abc"));
    behind.head();
    behind.send(OK);
    assert_eq!(client.status(), 200, "a session of its own");
    assert_eq!(proxy.ask(&poll("&sid=abc")).status(), 429);
}

#[test]
fn requests_under_way_are_limited_and_websockets_are_among_them() {
    let backend = Backend::new();
    let proxy = Proxy::new(&[&backend], "[[service.limit]]\nconcurrent = 2");
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut first = proxy.ask(get);
    let (mut behind, _) = backend.request();
    let mut socket = proxy.ask(&format!("GET /chat HTTP/1.1\r\nHost: a\r\n{upgrade}"));
    let (mut behind_socket, _) = backend.request();
    behind_socket.send(&format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}"));
    socket.head();
    let (status, answer) = proxy.ask(get).answer();
    assert_eq!((status, field(&answer, "retry-after")), (429, Some("1")));
    behind.send(OK);
    assert_eq!(first.status(), 200);
    figures(&proxy, |figures| {
        figures.requests.iter().flatten().sum::<u64>() == 2
    });
    first.send(get);
    behind.head();
    assert_eq!(
        proxy.ask(get).status(),
        429,
        "the WebSocket and another request"
    );
    behind_socket.end();
    socket.end();
    socket.rest();
    figures(&proxy, |figures| figures.tunnels_active == 0);
    let mut third = proxy.ask(get);
    let (mut behind_third, _) = backend.request();
    behind_third.send(OK);
    assert_eq!(third.status(), 200);
    behind.send(OK);
    assert_eq!(first.status(), 200);
    assert_eq!(counted(&proxy, "all"), (2, 0));
}

#[test]
fn dry_run_counts_and_logs_and_refuses_nothing() {
    let (echo, log) = (Echo::new(OK), Log::new());
    let settings = log.settings();
    let limits = "[[service.limit]]\nname = 'try'\nrate = '1/1h'\ndry_run = true\n\
                  [[service.limit]]\nrate = '2/1h'";
    let proxy = limited(&echo, &format!("{settings}\n{limits}"));
    let statuses = [(); 3].map(|()| ask(&proxy, "/", ""));
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(
        (counted(&proxy, "try"), counted(&proxy, "all")),
        ((0, 2), (1, 0))
    );
    let lines = log.lines(3);
    let limit = |line: usize| {
        (
            &lines[line]["limit"],
            &lines[line]["dry_run"],
            &lines[line]["why"],
        )
    };
    assert_eq!(limit(0).0, &serde_json::Value::Null);
    assert_eq!((limit(1).0, limit(1).1), (&"try".into(), &true.into()));
    assert_ne!(limit(1).2, "limit");
    assert_eq!((limit(2).0, limit(2).2), (&"all".into(), &"limit".into()));
    assert_eq!(lines[2]["status"], 429);
}

#[test]
fn limit_of_a_service_is_one_for_all_routes_and_that_of_a_route_is_its_own() {
    let echo = Echo::new(OK);
    let proxy = limited(
        &echo,
        "[[service.limit]]\nrate = '4/1h'\n\
         [[service.route]]\npath = '/api'\nanswer = { body = 'x' }\n\
         [[service.route.limit]]\nrate = '2/1h'\n\
         [[service.route]]\npath = '/x'\nanswer = { body = 'x' }",
    );
    assert_eq!(ask(&proxy, "/api", ""), 200);
    assert_eq!(ask(&proxy, "/api/b", ""), 200);
    assert_eq!(ask(&proxy, "/api", ""), 429, "its own");
    assert_eq!(ask(&proxy, "/x", ""), 200);
    assert_eq!(ask(&proxy, "/", ""), 429, "all routes have had four");
    assert_eq!(
        (counted(&proxy, "api"), counted(&proxy, "all")),
        ((1, 0), (1, 0))
    );
}
