//! `mode = "http"`: the client address that Express derives under each of its "trust proxy" settings,
//! from untrusted clients and from trusted proxies. Header rules and requests that go in circles are
//! tested too.

use lb_tests::agent::Agent;
use lb_tests::exchange::{self, Reply};
use lb_tests::node;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6};

fn service(settings: &str) -> String {
    format!(
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80', '[::]:80']\nmode = 'http'\n\
         backends = ['127.0.0.1:5000']\n[service.http]\n{settings}"
    )
}

/// Settings of Express under which it believes the balancer, as it is told to in its own guide.
const TRUSTING: [&str; 6] = [
    "1",
    "2",
    "true",
    "\"loopback\"",
    "\"127.0.0.1, 10.0.0.0/9\"",
    "[\"loopback\", \"linklocal\", \"uniquelocal\"]",
];

#[test]
fn express_sees_the_client_whatever_the_client_claims() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &service("forwarded = true"));
    let claims = [
        "Host: shop.example:8080",
        "X-Forwarded-For: 192.0.2.66, 127.0.0.1",
        "X-Forwarded-For: 10.0.0.1",
        "X_Forwarded_For: 192.0.2.66",
        "X-Real-IP: 192.0.2.66",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.example",
        "Forwarded: for=192.0.2.66;proto=https",
        "Connection: X-Forwarded-For, X-Real-IP, Host",
        "Authorization: Bearer x",
    ];
    for trust in TRUSTING.into_iter().chain(["false"]) {
        let settings = [("TRUST_PROXY", trust)];
        let _app = node::serve_with(
            &hosts.balancer,
            ["127.0.0.1", "5000"],
            &settings,
            agent.dir(),
        );
        for (client, to) in [(client_v4(1), SERVICE_V4), (client_v6(1), SERVICE_V6)] {
            let reply = exchange::ask(&hosts.clients, client, to, "GET /request?a=b", &claims);
            let seen = reply.json();
            let believes = trust != "false";
            let ip = if believes {
                client.to_string()
            } else {
                "127.0.0.1".to_owned()
            };
            assert_eq!(seen["ip"], ip, "trust proxy {trust}: {seen:#}");
            assert_eq!(seen["protocol"], "http");
            assert_eq!(seen["hostname"], "shop.example");
            let headers = &seen["headers"];
            assert_eq!(headers["host"], "shop.example:8080");
            assert_eq!(headers["x-forwarded-for"], client.to_string());
            assert_eq!(headers["x-real-ip"], client.to_string());
            assert_eq!(headers["x-forwarded-host"], "shop.example:8080");
            assert_eq!(headers["x-forwarded-port"], "80");
            assert_eq!(headers["authorization"], "Bearer x");
            assert!(headers["x_forwarded_for"].is_null(), "{headers:#}");
            let node = match client {
                std::net::IpAddr::V4(ip) => ip.to_string(),
                std::net::IpAddr::V6(ip) => format!("\"[{ip}]\""),
            };
            let forwarded = format!("for={node};host=\"shop.example:8080\";proto=http");
            assert_eq!(headers["forwarded"], forwarded);
            assert_eq!(headers["x-request-id"].as_str().unwrap().len(), 32);
            assert!(
                headers["via"]
                    .as_str()
                    .unwrap()
                    .starts_with("1.1 lb-agent-")
            );
        }
    }
}

#[test]
fn a_trusted_proxy_is_believed_and_continued() {
    let hosts = Hosts::new();
    let proxy = client_v4(2);
    let agent = Agent::start(
        &hosts.balancer,
        &service(&format!("trusted_proxies = ['{proxy}', '172.16.0.0/12']")),
    );
    // Two hops of Express: the balancer and the proxy before it.
    let settings = [("TRUST_PROXY", "2")];
    let _app = node::serve_with(
        &hosts.balancer,
        ["127.0.0.1", "5000"],
        &settings,
        agent.dir(),
    );
    let told = [
        "Host: inner",
        "X-Forwarded-For: 192.0.2.66, 203.0.113.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: shop.example",
        "X-Forwarded-Port: 443",
        "X-Request-Id: abc-123",
    ];
    let seen = exchange::ask(&hosts.clients, proxy, SERVICE_V4, "GET /request", &told).json();
    assert_eq!(seen["ip"], "203.0.113.9", "{seen:#}");
    assert_eq!(seen["protocol"], "https");
    assert_eq!(seen["hostname"], "shop.example");
    let headers = &seen["headers"];
    assert_eq!(headers["x-forwarded-for"], format!("203.0.113.9, {proxy}"));
    assert_eq!(headers["x-real-ip"], "203.0.113.9");
    assert_eq!(headers["x-forwarded-port"], "443");
    assert_eq!(headers["x-request-id"], "abc-123");
    // The same from another client.
    let other = exchange::ask(
        &hosts.clients,
        client_v4(3),
        SERVICE_V4,
        "GET /request",
        &told,
    );
    assert_eq!(
        other.json()["headers"]["x-forwarded-for"],
        client_v4(3).to_string()
    );
}

#[test]
fn clients_behind_a_trusted_proxy_are_told_apart() {
    let hosts = Hosts::new();
    let proxy = client_v4(2);
    let text = service(&format!("trusted_proxies = ['{proxy}']"))
        .replace("['127.0.0.1:5000']", "['127.0.0.1:5000', '127.0.0.1:5001']");
    let agent = Agent::start(&hosts.balancer, &text);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    for n in 0..20 {
        let client = format!("203.0.113.{n}");
        let told = format!("X-Forwarded-For: {client}");
        let reply = exchange::ask(&hosts.clients, proxy, SERVICE_V4, "GET /id", &[&told]);
        let expected = agent.looked_up_port(client.parse().unwrap());
        assert_eq!(reply.port(), u64::from(expected), "{client}");
    }
}

#[test]
fn header_rules_change_requests_and_answers() {
    let hosts = Hosts::new();
    let rules = "request_headers = [{ set = 'X-Client', value = '$client_ip:$remote_port' }, \
                 { set = 'X-To', value = '$backend' }, { remove = 'X-Secret' }, \
                 { add = 'X-Tag', value = 'b' }]\n\
                 response_headers = [{ set = 'X-Served-By', value = '$service at $backend' }, \
                 { remove = 'X-Powered-By' }, { set = 'X-Id', value = '$request_id' }]\n";
    let agent = Agent::start(&hosts.balancer, &service(rules));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let lines = ["X-Secret: y", "X-Tag: a"];
    let reply = exchange::ask(
        &hosts.clients,
        client_v4(1),
        SERVICE_V4,
        "GET /request",
        &lines,
    );
    let seen = reply.json();
    let headers = &seen["headers"];
    let client = headers["x-client"].as_str().unwrap();
    assert!(client.starts_with("10.99.1.1:"), "{client}");
    assert_eq!(headers["x-to"], "127.0.0.1:5000");
    assert_eq!(headers["x-tag"], "a, b");
    assert!(headers["x-secret"].is_null());
    assert_eq!(reply.header("x-served-by"), "app at 127.0.0.1:5000");
    assert_eq!(reply.header("x-powered-by"), "");
    assert_eq!(reply.header("x-id"), headers["x-request-id"]);
}

#[test]
fn a_request_that_goes_in_circles_ends_with_508() {
    let hosts = Hosts::new();
    // Over two hosts: on one it would be refused.
    let lead = |port: u16, to: &str| {
        format!(
            "[[service]]\nname = 'to-{port}'\nlisten = ['0.0.0.0:{port}']\nmode = 'http'\n\
             backends = ['{to}']\n"
        )
    };
    let _there = Agent::start(&hosts.balancer, &lead(80, "10.99.1.1:81"));
    let _back = Agent::start(&hosts.clients, &lead(81, "10.99.0.1:80"));
    let reply = exchange::ask(&hosts.clients, client_v4(1), SERVICE_V4, "GET /", &[]);
    assert_eq!(reply.status, 508, "{reply:?}");
}

#[test]
fn an_error_is_shown_as_the_client_likes_it() {
    let hosts = Hosts::new();
    let agent = Agent::start(
        &hosts.balancer,
        &service("timeouts = { restart_grace = '0' }"),
    );
    let ask = |accept: &str| -> Reply {
        let line = format!("Accept: {accept}");
        exchange::ask(&hosts.clients, client_v4(1), SERVICE_V4, "GET /", &[&line])
    };
    let html = ask("text/html,*/*;q=0.8");
    assert_eq!(html.status, 503, "{html:?}");
    assert!(html.body.starts_with("<!doctype html>"), "{html:?}");
    assert_eq!(ask("application/json").json_error(), 503);
    assert_eq!(ask("*/*").body, "503 Service Unavailable\n");
    let page = agent.dir().join("soon.html");
    std::fs::write(&page, "<p>Back soon").unwrap();
    let pages = format!(
        "timeouts = {{ restart_grace = '0' }}\nerrors = {{ maintenance = '{}' }}",
        page.display()
    );
    agent.configure(&service(&pages));
    agent.ok(&["reload"]);
    let soon = ask("application/json");
    assert_eq!((soon.status, soon.body.as_str()), (503, "<p>Back soon"));
}

trait JsonError {
    fn json_error(&self) -> u64;
}

impl JsonError for Reply {
    fn json_error(&self) -> u64 {
        let error: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        error["status"].as_u64().unwrap()
    }
}
