//! `mode = "http"` from text to values, and golden errors.

mod auth;
mod routes;

use std::path::Path as FilePath;
use std::time::Duration;

use super::*;
use crate::{Config, Line, Mode, parse};

const FULL: &str = r#"
[agent]
l7_workers = 2
[[service]]
name = "app"
listen = ["0.0.0.0:80", "[::]:80"]
mode = "http"
backends = ["127.0.0.1:5000"]
[service.tls]
listen = ["0.0.0.0:443"]
certificates = [{ certificate = "/etc/x/fullchain.pem", key = "/etc/x/privkey.pem" }]
min_version = "1.3"
redirect_http = true
hsts = "180d"
[[service.limit]]
path = "/login"
key = { header = "X-Api-Key" }
rate = "10/1m"
burst = 20
dry_run = true
[service.http]
trusted_proxies = ["10.0.0.0/8"]
proxy_protocol = true
send_proxy_protocol = "v2"
forwarded = true
stickiness = { cookie = "lb", max_age = "12h" }
request_headers = [{ set = "X-A", value = "$client_ip" }, { remove = "X-B" }]
response_headers = [{ add = "X-C", value = "c" }]
underscore_headers = true
upgrade = ["WebSocket"]
timeouts = { header = "5s", body = "0", tunnel = "1h" }
limits = { headers = 50, body = "10MiB" }
compression = { enabled = false, algorithms = ["gzip"] }
cache = { heuristic = true, lock = "1s" }
access_log = { file = "stdout", format = "json" }
tracing = { sample = "0.5%" }
auth = { users = "/etc/lb-agent/users", realm = "Staff" }
upstream = { max_fails = 1, fail_timeout = "1s", retry_budget = 0.1, keepalive = 8 }
errors = { pages = { 502 = "/p/502.html" }, maintenance = "/p/soon.html" }
[[service.route]]
host = ["Example.com", "*.example.com"]
path = "/api/"
backends = ["127.0.0.1:6000"]
limits = { body = "0" }
auth = false
[[service.route.limit]]
concurrent = 5
[[service.route]]
path = "/old"
redirect = { to = "https://example.com$uri", status = 301 }
[[service.route]]
name = "health"
path = "/healthz"
answer = { body = "ok" }
"#;

pub(super) fn of(text: &str) -> Config {
    parse(text, FilePath::new("f")).unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn errors(text: &str) -> Vec<String> {
    let Err(error) = parse(text, FilePath::new("f")) else {
        return Vec::new();
    };
    let shown = error.to_string();
    shown
        .lines()
        .map(|line| line.strip_prefix("f:").unwrap().to_owned())
        .collect()
}

/// The error lines of a service that is good but for `rest`.
fn errors_with(rest: &str) -> Vec<String> {
    errors(&format!(
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\nbackends = ['127.0.0.1:1']\n{rest}"
    ))
}

#[test]
fn every_key_is_read() {
    let config = of(FULL);
    assert_eq!(config.agent.l7_workers, 2);
    let names: Vec<&str> = config.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["app", "app/api"]);
    let app = &config.services[0];
    assert_eq!(app.mode, Mode::Http);
    assert_eq!(app.listen.len(), 3);
    let http = app.http.as_deref().unwrap();
    assert_eq!(http.listen.len(), 2);
    let tls = http.tls.as_ref().unwrap();
    assert_eq!(
        (tls.min_version, tls.http2, tls.redirect_http),
        (TlsVersion::V1_3, true, true)
    );
    assert_eq!(tls.hsts.unwrap().max_age, Duration::from_secs(180 * 86_400));
    let settings = &http.settings;
    assert_eq!(settings.timeouts.body, None);
    assert_eq!(settings.timeouts.tunnel, Some(Duration::from_secs(3600)));
    assert_eq!(settings.limits.body, Some(10 << 20));
    assert_eq!(settings.upgrade, ["websocket"]);
    assert_eq!(settings.upstream.retry_budget_permille, 100);
    assert_eq!(settings.request_headers.len(), 2);
    let cache = settings.cache.as_ref().unwrap();
    assert_eq!(
        (cache.heuristic, cache.lock),
        (true, Duration::from_secs(1))
    );
    assert_eq!(settings.errors.pages.len(), 1);
    let [api, old, health] = http.routes.as_slice() else {
        panic!("{:?}", http.routes)
    };
    assert_eq!(api.path, "/api");
    assert_eq!(api.action, Action::Forward("app/api".to_owned()));
    assert_eq!(api.limits.body, Some(None));
    assert_eq!(
        api.hosts,
        [
            HostPattern::Exact("example.com".to_owned()),
            HostPattern::Wildcard(".example.com".to_owned())
        ]
    );
    assert!(matches!(&old.action, Action::Redirect { status, .. } if status.as_u16() == 301));
    assert!(matches!(&health.action, Action::Answer { body, .. } if body == "ok"));
    let inner = &config.services[1];
    assert!(inner.listen.is_empty() && inner.http.is_none());
    assert_eq!(inner.backends.len(), 1);
}

#[test]
fn memory_of_the_cache_is_bounded_and_holds_a_few_objects() {
    let config = of("[agent]\ncache = { memory = '2MiB', object = '256KiB' }");
    let cache = &config.agent.cache;
    assert_eq!((cache.memory, cache.object), (2 << 20, 256 << 10));
    for (cache, problem) in [
        ("memory = '2MiB', object = '300KiB'", "at most an eighth"),
        ("memory = '900GiB'", "bytes of memory that there are"),
        ("memory = '1KiB'", "out of range"),
    ] {
        let text = format!("[agent]\ncache = {{ {cache} }}");
        let refused = errors(&text);
        assert!(refused[0].contains(problem), "{refused:?}");
    }
}

#[test]
fn a_short_service_gets_the_defaults() {
    let config = of("[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\nmode = 'http'");
    let http = config.services[0].http.as_deref().unwrap();
    assert_eq!(http.settings, Settings::default());
    assert!(http.routes.is_empty() && http.tls.is_none());
}

#[test]
fn http_settings_of_a_tcp_service_are_refused() {
    let text = "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\nsend_proxy_protocol = 'v1'\n[service.http]\nforwarded = true";
    assert_eq!(
        errors(text),
        ["5: service[0].http: is for HTTP (write mode = \"http\")"]
    );
}

#[test]
fn all_problems_come_at_once() {
    let found = errors_with(
        "[service.tls]\nlisten = ['0.0.0.0:80']\ncertificates = [{ certificate = '/c', key = '/k' }]\n\
         [service.http]\ntrusted_proxies = ['10.0.0.1/8']\nnonsense = 1\n\
         request_headers = [{ set = 'X-A', value = '$clientip' }, { set = 'Connection', value = 'x' }]\n\
         [[service.route]]\npath = '/a'\nanswer = { status = 99 }\n\
         [[service.route]]\npath = '/a'\nbackends = []\n\
         [[service.route]]\nhost = 'b.com'\n",
    );
    let expected = [
        "7: service[0].tls.listen[0]: 0.0.0.0:80 is listed twice (leave one out)",
        "10: service[0].http.trusted_proxies[0]: \"10.0.0.1/8\" has bits after its prefix (write \"10.0.0.0/8\")",
        "11: service[0].http.nonsense: unknown key (there is proxy_protocol, forwarded, underscore_headers, allow_client_headers, ambiguous_paths, trusted_proxies, protocol, send_proxy_protocol, stickiness, upgrade, request_headers, response_headers, timeouts, limits, compression, cache, access_log, tracing, auth, upstream and errors)",
        "12: service[0].http.request_headers[0].value: \"$clientip\" is not a variable (did you mean $client_ip?)",
        "12: service[0].http.request_headers[1].set: Connection belongs to the connection and is set as it must be (leave it out)",
        "15: service[0].route[0].answer.status: 99 is not the status of an answer (use 200 to 599)",
        "17: service[0].route[1].path: /a of every host belongs to the route of line 13 too (leave one out)",
        "18: service[0].route[1].backends: leads nowhere (name a backend, as in [\"127.0.0.1:5000\"])",
        "19: service[0].route[2]: leads nowhere (write backends, redirect, answer or files)",
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_backends_speak_is_the_routes_own_or_that_of_the_service() {
    let config = of(
        "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         backends = ['127.0.0.1:1']\n\
         health = { path = '/' }\n\
         [service.http]\nprotocol = 'h2c'\n\
         [[service.route]]\npath = '/old'\nbackends = ['127.0.0.1:2']\nprotocol = 'http1'\n\
         [[service.route]]\npath = '/new'\nbackends = ['127.0.0.1:3']\n",
    );
    let http = config.services[0].http.as_deref().unwrap();
    assert_eq!(http.settings.protocol, Protocol::H2c);
    let routes: Vec<Option<Protocol>> = http.routes.iter().map(|route| route.protocol).collect();
    assert_eq!(routes, [Some(Protocol::Http1), None]);
    let checks =
        config
            .services
            .iter()
            .map(|service| match &service.health.as_ref().unwrap().probe {
                crate::health::Probe::Http(http) => http.protocol,
                other => panic!("{other}"),
            });
    let checks: Vec<Protocol> = checks.collect();
    assert_eq!(checks, [Protocol::H2c, Protocol::Http1, Protocol::H2c]);
}

#[test]
fn unix_sockets_are_for_http() {
    let text = |mode: &str| {
        format!(
            "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\nmode = '{mode}'\nbackends = ['unix:/run/a.sock']"
        )
    };
    let address = of(&text("http")).services[0].backends[0].address.clone();
    assert_eq!(address.to_string(), "unix:/run/a.sock");
    let wrong = [
        "5: service[0].backends[0]: unix:/run/a.sock is a unix socket, which is for HTTP (write mode = \"http\", or an address with a port)",
    ];
    assert_eq!(errors(&text("tcp")), wrong);
    assert_eq!(
        errors(&text("http").replace("/run/a.sock", "run/a.sock")),
        [
            "5: service[0].backends[0]: \"run/a.sock\" is not an absolute path (write it like \"unix:/run/app.sock\")"
        ]
    );
}

#[test]
fn what_is_wrong_with_one_value_is_said_in_one_line() {
    let table = [
        (
            "[service.http]\nprotocol = 'h3'",
            "7: service[0].http.protocol: \"h3\" is unknown (use \"http1\" or \"h2c\")",
        ),
        (
            "[service.http]\nprotocol = 'h2c'\nsend_proxy_protocol = 'v2'",
            "8: service[0].http.send_proxy_protocol: a connection of HTTP/2 carries the requests of many clients, and a PROXY header names one (leave send_proxy_protocol out: X-Forwarded-For and Forwarded tell who asks)",
        ),
        (
            "[service.http]\nsend_proxy_protocol = 'v2'\n[[service.route]]\npath = '/a'\nprotocol = 'h2c'",
            "10: service[0].route[0].protocol: a connection of HTTP/2 carries the requests of many clients, and a PROXY header names one (leave send_proxy_protocol out: X-Forwarded-For and Forwarded tell who asks)",
        ),
        (
            "[[service.route]]\npath = '/a'\nanswer = {}\nprotocol = 'h2c'",
            "9: service[0].route[0].protocol: there is no backend to speak it with (leave it out)",
        ),
        (
            "[service.http]\nstickiness = 'cookies'",
            "7: service[0].http.stickiness: \"cookies\" is unknown (use \"address\", \"socketio\", { cookie = \"lb\" }, { header = \"X-User\" } or { query = \"room\" })",
        ),
        (
            "[service.http]\nrequest_headers = [{ add = 'X-B', value = '$backend' }]",
            "7: service[0].http.request_headers: $backend cannot be added to a request, which may be sent twice (use set)",
        ),
        (
            "[service.http]\nlimits = { body = 'much' }",
            "7: service[0].http.limits.body: \"much\" is not a size (write it like \"10MiB\", \"64KiB\" or \"512\")",
        ),
        (
            "[service.http]\ntimeouts = { header = '0' }",
            "7: service[0].http.timeouts.header: 0 is no time at all (write it like \"60s\" or \"250ms\")",
        ),
        (
            "[service.http]\nerrors = { pages = { 200 = '/x.html' } }",
            "7: service[0].http.errors.pages.200: 200 is not an error (use 400 to 599)",
        ),
        (
            "[[service.route]]\npath = 'api'\nanswer = {}",
            "7: service[0].route[0].path: \"api\" is not the beginning of a path (start it with \"/\", and write other than visible ASCII as %XX)",
        ),
        (
            "[[service.route]]\npath = '/%61pi'\nanswer = {}",
            "7: service[0].route[0].path: \"/%61pi\" is never seen by routes (paths are compared in their plain form: write \"/api\")",
        ),
        (
            "[[service.route]]\nhost = 'a.com:80'\nanswer = {}",
            "7: service[0].route[0].host: \"a.com:80\" has a port (leave the port out: names count, ports do not)",
        ),
        (
            "[[service.route]]\nhost = 'a.com'\nbackends = ['127.0.0.1:2']",
            "6: service[0].route[0]: name is missing (write name = \"api\": its backends are then those of \"app/api\")",
        ),
        (
            "[[service.route]]\npath = '/a'\nbackends = ['127.0.0.1:80']",
            "8: service[0].route[0].backends[0]: 127.0.0.1:80 is this service itself, which listens on 0.0.0.0:80 (let the application listen on another port)",
        ),
        (
            "[[service.route]]\npath = '/a'\nredirect = 'example.com'",
            "8: service[0].route[0].redirect: \"example.com\" is not a place to ask (write a URL or a path, as in \"https://example.com$uri\")",
        ),
        (
            "[[service.route]]\npath = '/a'\nlimits = { headers = 5 }",
            "8: service[0].route[0].limits.headers: counts before the route is known (set it under [service.http.limits])",
        ),
        (
            "[service.tls]\nlisten = ['0.0.0.0:443']\ncertificates = []",
            "8: service[0].tls.certificates: no certificate (write certificates = [{ certificate = \"/etc/lb-agent/fullchain.pem\", key = \"/etc/lb-agent/privkey.pem\" }])",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(errors_with(text), [expected], "for {text}");
    }
}

const TLS: &str = "[service.tls]\nlisten = ['0.0.0.0:443']\ncertificates = [{ certificate = '/c', key = '/k' }]\n";

#[test]
fn certificates_of_clients_are_required_unless_that_is_changed() {
    let client = |more: &str| {
        let text = format!(
            "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n{TLS}redirect_http = true\n\
             client_ca = '/ca.pem'\n{more}"
        );
        let config = of(&text);
        let tls = config.services[0].http.as_ref().unwrap().tls.clone();
        tls.unwrap().client.unwrap()
    };
    let usual = client("");
    assert_eq!(usual.policy, ClientPolicy::Require);
    assert!(usual.crl.is_empty() && usual.hosts.is_empty());
    assert_eq!(usual.line, Line(9));
    let all = client(
        "client_certificates = 'optional'\ncrl = ['/a.crl', '/b.crl']\nclient_hosts = '*.a.test'",
    );
    assert_eq!(all.policy, ClientPolicy::Optional);
    assert_eq!(all.crl.len(), 2);
    assert_eq!(all.hosts, [HostPattern::Wildcard(".a.test".to_owned())]);
    assert_eq!(client("crl = '/a.crl'").crl.len(), 1);
}

#[test]
fn keys_for_certificates_of_clients_need_an_authority_and_tls() {
    let alone = "9: service[0].tls.KEY: no client is asked for a certificate (add client_ca = \"/etc/lb-agent/ca.pem\")";
    for (key, line) in [
        ("client_certificates", "client_certificates = 'optional'"),
        ("crl", "crl = '/a.crl'"),
        ("client_hosts", "client_hosts = ['a.test']"),
    ] {
        let place = if key.ends_with('s') && key != "client_certificates" {
            "client_hosts[0]"
        } else {
            key
        };
        let expected = alone.replace("KEY", place);
        assert_eq!(errors_with(&format!("{TLS}{line}")), [expected]);
    }
    let plain = errors_with(&format!("{TLS}client_ca = '/ca.pem'"));
    assert_eq!(
        plain,
        [
            "9: service[0].tls.client_ca: plain requests come without a certificate (add redirect_http = true, or remove listen of the service)"
        ]
    );
    let optional = format!("{TLS}client_ca = '/ca.pem'\nclient_certificates = 'optional'");
    assert!(errors_with(&optional).is_empty());
    let elsewhere = errors_with("client_ca = '/ca.pem'");
    assert!(elsewhere[0].contains("client_ca"), "{elsewhere:?}");
}

/// The blocks of docs/configuration.md, each a text.
fn documented() -> Vec<&'static str> {
    let page = include_str!("../../../../docs/configuration.md");
    let blocks = page.split("```toml\n").skip(1);
    blocks.filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn documented_examples_are_accepted() {
    let blocks = documented();
    assert!(blocks.len() >= 4, "{blocks:?}");
    for block in blocks {
        of(block);
    }
}

#[test]
fn every_variable_is_documented() {
    let page = include_str!("../../../../docs/configuration.md");
    for variable in Variable::ALL {
        let name = format!("`${}`", variable.name());
        assert!(page.contains(&name), "{name}");
    }
}

#[test]
fn limits_have_names_and_the_burst_of_their_rate() {
    let limits = "[[service.limit]]\nrate = '10/1m'\n[[service.limit]]\npath = '/api/v1/'\nconcurrent = 3\n\
                  [[service.route]]\npath = '/shop'\n[[service.route.limit]]\nrate = '5/1s'\nburst = 50\n\
                  key = { cookie = 'sid' }";
    let config = of(&format!(
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n{limits}"
    ));
    let http = config.services[0].http.as_ref().unwrap();
    let all = &http.request_limits;
    let names = all.iter().map(|limit| (&*limit.name, &*limit.path));
    assert_eq!(
        names.collect::<Vec<_>>(),
        [("all", ""), ("api-v1", "/api/v1")]
    );
    let minute = Duration::from_secs(60);
    let rate = Rate {
        count: 10,
        per: minute,
        burst: 10,
    };
    assert_eq!((all[0].rate, &all[0].key), (Some(rate), &LimitKey::Client));
    let of_route = &http.routes[0].request_limits[0];
    assert_eq!((&*of_route.name, &*of_route.path), ("shop", "/shop"));
    assert_eq!(of_route.key, LimitKey::Cookie("sid".to_owned()));
    assert_eq!(of_route.rate.unwrap().burst, 50);
}

#[test]
fn limits_that_are_none_or_contradict_each_other_are_refused() {
    for (limit, message) in [
        ("path = '/x'", "limits nothing"),
        ("concurrent = 1\nburst = 2", "belongs to a rate"),
        ("rate = '10'", "has no time"),
        ("rate = '0/1s'", "is not a number of requests"),
        ("rate = '10/48h'", "is not the time of a rate"),
        ("rate = '1/24h'\nburst = 2", "is no limit"),
        ("rate = '1/1s'\nkey = 'ip'", "is unknown"),
        (
            "rate = '1/1s'\nkey = { header = 'a', cookie = 'b' }",
            "not one of header and cookie",
        ),
        (
            "rate = '1/1s'\npath = 'login'",
            "is not the beginning of a path",
        ),
        (
            "rate = '1/1s'\n[[service.limit]]\nconcurrent = 1",
            "is called \"all\" too",
        ),
        (
            "rate = '1/1s'\n[[service.route]]\npath = '/a'\n[[service.route.limit]]\nrate = '1/1s'\npath = '/ab'",
            "no request of the route has this path",
        ),
    ] {
        let errors = errors_with(&format!("[[service.limit]]\n{limit}"));
        assert_eq!(errors.len(), 1, "{limit}: {errors:?}");
        assert!(errors[0].contains(message), "{limit}: {errors:?}");
    }
    let tcp =
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\n[[service.limit]]\nrate = '1/1s'";
    assert!(
        errors(tcp)[0].contains("mode = \"http\""),
        "{:?}",
        errors(tcp)
    );
}

#[test]
fn configuration_whose_lines_have_moved_is_the_same() {
    let text = "[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\nmode = 'http'\nbackends = ['127.0.0.1:1']\n\
                http = { auth = { users = '/etc/users' }, errors = { maintenance = '/srv/m.html' } }\n\
                tls = { listen = ['0.0.0.0:443'], certificates = [{ certificate = '/c', key = '/k' }] }\n\
                [[service.route]]\npath = '/a'\nfiles = '/srv'\n";
    let moved = format!("# A comment.\n\n{text}");
    assert_eq!(of(&moved).services, of(text).services);
}
