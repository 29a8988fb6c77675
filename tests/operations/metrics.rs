//! All counters are exported: by `stats`, on the control socket and on a metrics socket. Names follow
//! the Prometheus conventions, and the dashboard uses only existing metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use lb_tests::agent::Agent;
use lb_tests::tls::{self, Authority, Files};
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6};
use lb_tests::topology::routed::{BALANCER, Bulk, CONTAINER, Net, bulk_server, client, connecting};
use lb_tests::{http, node, wait};
use serde_json::Value;

const SERVICES: &str = "metrics = '127.0.0.1:9600'\n\
    [[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
    backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";
const METRICS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9600);

/// The head and body of the answer to `request`.
fn ask(mut stream: impl std::io::Read + std::io::Write, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn scrape(hosts: &Hosts) -> String {
    scrape_at(&hosts.balancer)
}

fn scrape_at(balancer: &Host) -> String {
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (head, body) = balancer.run(|| ask(TcpStream::connect(METRICS).unwrap(), request));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body
}

/// Sample lines, as `name{labels}` to value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// Sum of a metric's samples that have all of `labels`.
fn sum(text: &str, metric: &str, labels: &[&str]) -> f64 {
    let fits = |name: &String| {
        name.split('{').next() == Some(metric) && labels.iter().all(|label| name.contains(label))
    };
    let all = samples(text);
    all.iter()
        .filter(|(name, _)| fits(name))
        .map(|(_, value)| value)
        .sum()
}

fn promtool(text: &str) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[test]
fn counts_are_exact_and_their_names_good() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let visit = |n: u16| {
        hosts
            .clients
            .run(|| http::get(client_v4(n), SERVICE_V4).unwrap());
        // An IPv6 client of an IPv4 application comes by the agent.
        hosts
            .clients
            .run(|| http::get(client_v6(n), SERVICE_V6).unwrap());
    };
    (1..=20).for_each(visit);
    (1..=20).for_each(visit);
    let text = scrape(&hosts);
    promtool(&text);
    let of = |metric, labels: &[&str]| sum(&text, metric, labels);
    assert_eq!(
        of("lb_agent_connections_total", &["path=\"socket\""]),
        40.0,
        "{text}"
    );
    assert_eq!(
        of("lb_agent_connections_total", &["path=\"proxy\""]),
        40.0,
        "{text}"
    );
    assert_eq!(of("lb_agent_choices_total", &["reason=\"affinity\""]), 40.0);
    assert_eq!(of("lb_agent_choices_total", &["reason=\"slot\""]), 40.0);
    assert_eq!(of("lb_agent_clients_new_total", &[]), 40.0);
    assert_eq!(of("lb_agent_clients_moved_total", &[]), 0.0);
    assert_eq!(of("lb_agent_table_entries", &["table=\"affinity\""]), 40.0);
    assert_eq!(
        of("lb_agent_table_capacity", &["table=\"affinity\""]),
        4096.0
    );
    assert!(
        of(
            "lb_agent_bytes_total",
            &["path=\"proxy\"", "direction=\"out\""]
        ) > 1000.0
    );
    assert_eq!(of("lb_agent_backend_listening", &[]), 2.0);

    // Clients of a backend that is away move, each once; without any, connections are dropped.
    let [first, second] = apps;
    let home = agent.backend("127.0.0.1:5000")["connections"]
        .as_u64()
        .unwrap();
    drop(first);
    (1..=20).for_each(visit);
    (1..=20).for_each(visit);
    drop(second);
    wait::until("nobody listening", || {
        let text = scrape(&hosts);
        (sum(&text, "lb_agent_backend_listening", &[]) == 0.0).then_some(())
    });
    for n in 1..=5 {
        hosts
            .clients
            .run(|| http::get(client_v4(n), SERVICE_V4).unwrap_err());
    }
    let text = wait::until("a fresh snapshot", || {
        let text = scrape(&hosts);
        (sum(&text, "lb_agent_drops_total", &["reason=\"no_backend\""]) >= 5.0).then_some(text)
    });
    let moved = sum(&text, "lb_agent_clients_moved_total", &[]);
    assert_eq!(moved, home as f64 / 2.0, "as many as the backend had");
    promtool(&text);
}

#[test]
fn the_control_socket_and_a_unix_socket_tell_the_same() {
    let hosts = Hosts::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.sock");
    let services = SERVICES.replace("127.0.0.1:9600", &format!("unix:{}", path.display()));
    let agent = Agent::start(&hosts.balancer, &services);
    let get = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let names = |text: &str| samples(text).into_keys().collect::<BTreeSet<_>>();
    let (_, own) = ask(UnixStream::connect(&path).unwrap(), &format!("{get}\r\n"));
    let (_, control) = ask(
        UnixStream::connect(agent.control()).unwrap(),
        &format!("{get}\r\n"),
    );
    assert_eq!(names(&own), names(&control));
    let open = format!("{get}Accept: application/openmetrics-text\r\n\r\n");
    let (head, text) = ask(UnixStream::connect(&path).unwrap(), &open);
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    for (request, status) in [("GET / HTTP/1.1", "404"), ("POST /metrics HTTP/1.1", "405")] {
        let request = format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n");
        let (head, _) = ask(UnixStream::connect(&path).unwrap(), &request);
        assert!(head.contains(status), "{head}");
    }
}

#[test]
fn the_packet_paths_tell_flows_packets_bytes_drops_and_refusals() {
    let net = Net::new();
    bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000));
    let service = |name: &str, port, backend| {
        let listen = SocketAddr::new(BALANCER[0], port);
        format!(
            "[[service]]\nname = '{name}'\nlisten = ['{listen}']\nbackends = ['{backend}']\n\
             [service.health]\ninterval = '1h'\ntimeout = '50s'\nfall = 1000\n"
        )
    };
    let [container, _] = CONTAINER;
    let services = [
        "metrics = '127.0.0.1:9600'\ninterfaces = [{ name = 'eth0', attach = 'tc' }]\n".to_owned(),
        service("web", 80, SocketAddr::new(container, 5000)),
        service("closed", 81, SocketAddr::new(container, 5001)),
        service("silent", 82, "10.80.4.77:5000".parse().unwrap()),
    ];
    let agent = Agent::start(&net.balancer, &services.concat());
    let [from, _] = client(1);
    let at = |port| SocketAddr::new(BALANCER[0], port);
    let mut open = net.clients.run(|| Bulk::connect(from, at(80)).unwrap());
    open.transfer(200_000, 1000).unwrap();
    for _ in 0..2 {
        let refused = net.clients.run(|| http::connect(from, at(81)).unwrap_err());
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    // No host has this address: the client retries for as long as it likes.
    let _waits = net.clients.run(|| connecting(from, at(82)));
    let text = wait::until("everything to be told", || {
        let text = scrape_at(&net.balancer);
        let of = |metric, labels: &[&str]| sum(&text, metric, labels);
        let all = of("lb_agent_connections_active", &["web", "path=\"nat\""]) == 1.0
            && of("lb_agent_connect_failures_total", &["closed"]) == 2.0
            && of("lb_agent_connect_failures_total", &["silent"]) >= 1.0
            && samples(&text)
                .keys()
                .any(|name| is_health_of(name, "closed"))
            && of("lb_agent_backend_healthy", &["web"]) == 1.0;
        all.then_some(text)
    });
    promtool(&text);
    let of = |metric, labels: &[&str]| sum(&text, metric, labels);
    assert_eq!(of("lb_agent_backend_healthy", &["closed"]), 0.0);
    assert!(of("lb_agent_backend_health_check_seconds", &["web"]) > 0.0);
    assert_eq!(of("lb_agent_connections_total", &["web", "nat"]), 1.0);
    assert_eq!(of("lb_agent_connect_failures_total", &["web", "nat"]), 0.0);
    assert!(of("lb_agent_bytes_total", &["web", "direction=\"in\""]) > 200_000.0);
    // Segments may come merged, 64 KiB at a time; and there are SYN and ACK.
    assert!(of("lb_agent_packets_total", &["web", "direction=\"in\""]) >= 5.0);
    assert!(of("lb_agent_packet_actions_total", &["forwarded"]) >= 5.0);
    assert_eq!(
        of("lb_agent_flows_total", &["event=\"new\""]),
        4.0,
        "{text}"
    );
    assert_eq!(of("lb_agent_flows_total", &["event=\"established\""]), 1.0);
    assert_eq!(of("lb_agent_table_entries", &["table=\"flows\""]), 1.0);
    assert_eq!(of("lb_agent_table_evictions_total", &["flows_new"]), 0.0);
    assert_eq!(of("lb_agent_drops_total", &["packet_no_backend"]), 0.0);
    assert_eq!(
        of("lb_agent_interface_programs", &["eth0", "mode=\"tcx\""]),
        1.0
    );
    let page = agent.ok(&["stats"]);
    for word in ["nat", "forwarded", "flows_new"] {
        assert!(page.contains(word), "{page}");
    }
}

fn is_health_of(name: &str, service: &str) -> bool {
    name.starts_with("lb_agent_backend_healthy{") && name.contains(service)
}

#[test]
fn stats_prints_tables_json_and_rates() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let text = agent.ok(&["stats"]);
    for word in ["127.0.0.1:5000", "socket", "MOVED", "affinity", "4096"] {
        assert!(text.contains(word), "{text}");
    }
    let stats: Value = serde_json::from_str(&agent.ok(&["stats", "--json"])).unwrap();
    assert_eq!(stats["traffic"].as_array().unwrap().len(), 2);
    let events = stats["events"].as_array().unwrap();
    assert!(
        events.iter().any(|event| event["message"] == "ready"),
        "{events:?}"
    );
    // It goes on until its reader is gone.
    let mut command = hosts.balancer.command(lb_tests::agent::program());
    command.args(["stats", "--watch", "--json", "--interval", "100ms"]);
    command.env("LB_AGENT_CONTROL", agent.control());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let at: Vec<u64> = lines
        .take(3)
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .map(|stats| stats["at_unix_ms"].as_u64().unwrap())
        .collect();
    assert!(at.is_sorted() && at[0] < at[2], "{at:?}");
    assert!(child.wait().unwrap().success());
}

/// Plain HTTP of the service that [`site`] configures.
const SITE: SocketAddr = SocketAddr::new(SERVICE_V4.ip(), 83);

/// A service with `mode = "http"`.
fn site(certificate: &Files) -> String {
    format!(
        "[[service]]\nname = 'site'\nmode = 'http'\nlisten = ['0.0.0.0:83']\n\
         backends = ['127.0.0.1:5000']\n[service.tls]\nlisten = ['0.0.0.0:443']\n\
         certificates = [{}]\n[[service.route]]\npath = '/broken'\nbackends = ['127.0.0.1:5999']\n",
        certificate.toml()
    )
}

#[test]
fn requests_are_told_by_class_latency_and_cause_and_certificates_by_their_end() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let certificate = authority.issue("a", &["a.test", "*.b.test"]);
    let services = format!("metrics = '127.0.0.1:9600'\n{}", site(&certificate));
    let agent = Agent::start(&hosts.balancer, &services);
    let _app = node::copies(&hosts.balancer, [5000], agent.dir());
    let trust = authority.certificate();
    let secure = SocketAddr::new(SERVICE_V4.ip(), 443);
    let get = |more: &[&str]| {
        let all = [&["--cacert", trust.to_str().unwrap()], more].concat();
        assert_eq!(tls::curl(&hosts.clients, secure, &all).code, 0, "{more:?}");
    };
    get(&["https://a.test/id", "https://a.test/id"]);
    get(&["--http2", "-d", "hello", "https://a.test/request"]);
    get(&["https://a.test/broken"]);
    let text = wait::until("four requests", || {
        let text = scrape(&hosts);
        (sum(&text, "lb_agent_http_requests_total", &[]) == 4.0).then_some(text)
    });
    promtool(&text);
    let of = |metric, labels: &[&str]| sum(&text, metric, labels);
    let requests = |labels: &[&str]| of("lb_agent_http_requests_total", labels);
    assert_eq!(
        requests(&["service=\"site\"", "\"GET\"", "\"2xx\""]),
        2.0,
        "{text}"
    );
    assert_eq!(requests(&["method=\"POST\"", "status=\"2xx\""]), 1.0);
    assert_eq!(requests(&["status=\"5xx\""]), 1.0);
    let errors = "lb_agent_http_gateway_errors_total";
    assert_eq!(
        of(errors, &["status=\"503\"", "cause=\"connect\""]),
        1.0,
        "{text}"
    );
    let answers = "lb_agent_http_backend_requests_total";
    assert_eq!(of(answers, &["backend=\"127.0.0.1:5000\""]), 3.0);
    for (histogram, count) in [
        ("lb_agent_http_first_byte_seconds", 4.0),
        ("lb_agent_http_request_seconds", 4.0),
        ("lb_agent_http_backend_first_byte_seconds", 3.0),
        ("lb_agent_http_backend_request_seconds", 3.0),
    ] {
        let counted = sum(&text, &format!("{histogram}_count"), &[]);
        assert_eq!(counted, count, "{histogram}");
        let all = sum(&text, &format!("{histogram}_bucket"), &["le=\"+Inf\""]);
        assert_eq!(all, count, "{histogram}");
    }
    assert_eq!(of("lb_agent_bytes_total", &["direction=\"in\""]), 5.0);
    assert_eq!(of("lb_agent_tls_handshakes_total", &["failed"]), 0.0);
    assert!(of("lb_agent_tls_handshakes_total", &[]) >= 3.0, "{text}");
    for name in ["a.test", "*.b.test"] {
        let label = format!("name=\"{name}\"");
        let end = of("lb_agent_certificate_expiry_timestamp_seconds", &[&label]);
        assert!(end > 1.6e9, "{end}");
    }
    let status = agent.ok(&["status"]);
    assert!(
        status.contains("tls, certificate for a.test and 1 more until 2"),
        "{status}"
    );
    let page = agent.ok(&["stats"]);
    for word in ["HEAD P50", "TUNNELS", "http_sessions"] {
        assert!(page.contains(word), "{page}");
    }
}

#[test]
fn the_dashboard_shows_metrics_that_exist() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/grafana/lb-agent.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        expressions.push(variable["query"].to_string());
    }
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let named: BTreeSet<&str> = expressions
        .iter()
        .flat_map(|expression| expression.split(|c: char| !is_name(c)))
        .filter(|word| word.starts_with("lb_agent_") || word.starts_with("process_"))
        .collect();
    assert!(named.len() >= 10, "{named:?}");

    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let certificate = Authority::new(dir.path()).issue("a", &["a.test"]);
    fs::write(dir.path().join("users"), "").unwrap();
    let guarded = format!(
        "[[service]]\nname = 'guarded'\nmode = 'http'\nlisten = ['0.0.0.0:84']\n\
         backends = ['127.0.0.1:5000']\nlimit = [{{ rate = '10/1m' }}]\n\
         [service.http]\nauth = {{ users = '{}/users' }}\n[service.http.cache]\n",
        dir.path().display()
    );
    let services = "metrics = '127.0.0.1:9600'\n[[service]]\nname = 'web'\nlisten = ['[::]:80']\n\
                    backends = ['127.0.0.1:5000']\n[[service]]\nname = 'far'\n\
                    listen = ['0.0.0.0:81']\nbackends = ['10.99.0.250:5000']\n\
                    [[service]]\nname = 'checked'\nlisten = ['0.0.0.0:82']\n\
                    backends = ['127.0.0.1:5000']\n[service.health]\ninterval = '100ms'\n";
    let agent = Agent::start(
        &hosts.balancer,
        &format!("{services}{guarded}{}", site(&certificate)),
    );
    let _app = node::copies(&hosts.balancer, [5000], agent.dir());
    hosts
        .clients
        .run(|| http::get(client_v6(1), SERVICE_V6).unwrap());
    hosts.clients.run(|| http::get(client_v4(1), SITE).unwrap());
    let text = wait::until("a health check, and a request", || {
        let is_there = |text: &String| {
            text.contains("lb_agent_backend_health_check_seconds{")
                && text.contains("lb_agent_http_backend_requests_total{")
        };
        Some(scrape(&hosts)).filter(is_there)
    });
    let told = samples(&text);
    let told: BTreeSet<&str> = told
        .keys()
        .map(|name| name.split('{').next().unwrap())
        .collect();
    let missing: Vec<_> = named.difference(&told).collect();
    assert!(missing.is_empty(), "{missing:?}\n{text}");
}
