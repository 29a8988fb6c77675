//! `mode = "http"`: server names and paths lead to backends of their own, redirects and fixed
//! answers; backends may be unix sockets.

use lb_tests::agent::Agent;
use lb_tests::exchange::{self, Reply};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node};

const ROUTES: &str = r#"
[[service]]
name = "app"
listen = ["0.0.0.0:80"]
mode = "http"
backends = ["127.0.0.1:5000"]
[service.http.limits]
body = "1KiB"
[[service.route]]
path = "/id"
host = "api.example.com"
name = "api"
backends = ["127.0.0.1:5001"]
[[service.route]]
host = "*.old.example.com"
redirect = { to = "https://example.com$uri", status = 301 }
[[service.route]]
path = "/healthz"
answer = { body = "fine\n" }
response_headers = [{ set = "X-Seen-As", value = "$host$path" }]
[[service.route]]
path = "/request"
limits = { body = "0" }
"#;

#[test]
fn names_and_paths_lead_where_they_should() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, ROUTES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001, 5002], agent.dir());
    let client = client_v4(1);
    let ask = |what: &str, host: &str| -> Reply {
        let line = format!("Host: {host}");
        exchange::ask(&hosts.clients, client, SERVICE_V4, what, &[&line])
    };
    assert_eq!(ask("GET /id", "example.com").port(), 5000);
    assert_eq!(ask("GET /id", "API.example.com:80").port(), 5001);
    assert_eq!(ask("GET /id?a=b", "api.example.com.").port(), 5001);
    assert_eq!(ask("GET /idx", "api.example.com").status, 404);

    let moved = ask("GET /a/b?c=d", "shop.old.example.com");
    assert_eq!(moved.status, 301);
    assert_eq!(moved.header("location"), "https://example.com/a/b?c=d");
    let fixed = ask("GET /healthz/x?y", "any.example");
    assert_eq!((fixed.status, fixed.body.as_str()), (200, "fine\n"));
    assert_eq!(fixed.header("x-seen-as"), "any.example/healthz/x");

    // The backends of a route are a service: the commands know it by its name.
    agent.ok(&["add-backend", "127.0.0.1:5002", "--service", "app/api"]);
    agent.ok(&["remove-backend", "127.0.0.1:5001", "--service", "app/api"]);
    assert_eq!(ask("GET /id", "api.example.com").port(), 5002);
    assert_eq!(ask("GET /id", "example.com").port(), 5000);
    let status = agent.status();
    assert_eq!(status["services"][1]["name"], "app/api");
    assert_eq!(status["services"][1]["mode"], "http");
    let found = agent.ok(&["lookup", "10.99.1.1", "--service", "app/api"]);
    assert!(found.contains("127.0.0.1:5002"), "{found}");
}

#[test]
fn a_route_has_limits_of_its_own() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, ROUTES);
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let post = |path: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5000\r\n\r\n{}",
            "x".repeat(5000)
        );
        let answer = exchange::raw(&hosts.clients, client_v4(1), SERVICE_V4, request.as_bytes());
        Reply::parse(&answer).status
    };
    assert_eq!(post("/id"), 413);
    assert_eq!(post("/request"), 200);
}

#[test]
fn a_reload_changes_routes_under_an_open_connection() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, ROUTES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    hosts.clients.run(|| {
        let stream = http::connect(client_v4(1), SERVICE_V4).unwrap();
        assert_eq!(http::ask(&stream).unwrap().port, 5000);
        agent.configure(&ROUTES.replace("host = \"api.example.com\"\n", ""));
        agent.ok(&["reload"]);
        assert_eq!(http::ask(&stream).unwrap().port, 5001);
    });
}

#[test]
fn a_backend_may_be_a_unix_socket() {
    let hosts = Hosts::new();
    let agent = Agent::start(
        &hosts.balancer,
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n",
    );
    let path = agent.dir().join("app.sock");
    let path = path.to_str().unwrap();
    let _app = node::serve_with(&hosts.balancer, [path, "7"], &[], agent.dir());
    let ask = || exchange::ask(&hosts.clients, client_v4(1), SERVICE_V4, "GET /id", &[]);
    let address = format!("unix:{path}");
    let said = agent.ok(&["add-backend", &address]);
    assert!(said.contains(&address), "{said}");
    assert_eq!(ask().port(), 7);
    assert_eq!(agent.backend(&address)["path"], "proxy");
    let found = agent.lookup(client_v4(1));
    assert_eq!(found["backend"], address);
    assert!(agent.ok(&["status"]).contains(&address));
    agent.ok(&["drain-backend", &address, "--timeout", "1h"]);
    assert_eq!(ask().port(), 7, "a known client stays");
    agent.ok(&["remove-backend", &address]);
    assert_eq!(ask().status, 503);
}
