//! The live page: its figures are those of `status`, also after a reload, a crash and a new agent; it answers to its own
//! names alone, and a browser shows it.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::chromium::Browser;
use lb_tests::tls::Authority;
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, wait};
use serde_json::{Value, json};

const PAGE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9601);
const SERVICES: &str = "page = '127.0.0.1:9601'\npage_hosts = ['lb.test']\n\
    [[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nhealth = {}\n\
    backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n\
    [[service]]\nname = 'site'\nmode = 'http'\nlisten = ['0.0.0.0:81']\nbackends = ['127.0.0.1:5000']\n\
    [[service.limit]]\nname = 'login'\npath = '/login'\nrate = '5/1m'\n[service.http.cache]\n";
/// Most watchers at a time.
const WATCHERS: usize = 16;

/// The answer to a request for `path` with these lines of its head.
fn ask(host: &Host, path: &str, lines: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n");
    host.run(|| answer(TcpStream::connect(PAGE).unwrap(), &request))
}

fn answer(mut stream: impl std::io::Read + std::io::Write, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// A stream of events.
struct Watcher(Lines<BufReader<TcpStream>>);

impl Watcher {
    fn new(host: &Host) -> Self {
        let stream = host.run(|| {
            let mut stream = TcpStream::connect(PAGE).unwrap();
            let limit = Some(wait::slowed(Duration::from_secs(20)));
            stream.set_read_timeout(limit).unwrap();
            let request = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1:9601\r\n\r\n";
            stream.write_all(request).unwrap();
            stream
        });
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next().unwrap().unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK");
        Self(lines)
    }

    /// The data of the next event of this name.
    #[track_caller]
    fn next(&mut self, event: &str) -> Value {
        let name = format!("event: {event}");
        let mut lines = self.0.by_ref().map(Result::unwrap);
        lines.find(|line| *line == name).expect("an event");
        let data = lines.next().expect("its data");
        serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap()
    }
}

/// A document without the parts that change by themselves, and without processes, which `status` alone looks for.
fn settled(mut document: Value) -> Value {
    const ALWAYS_NEW: [&str; 6] = [
        "uptime_seconds",
        "since_seconds",
        "last_error_seconds_ago",
        "took_ms",
        "drain_seconds_left",
        "processes",
    ];
    match &mut document {
        Value::Object(parts) => {
            parts.retain(|name, _| !ALWAYS_NEW.contains(&name.as_str()));
            parts
                .values_mut()
                .for_each(|part| *part = settled(part.take()));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| *item = settled(item.take())),
        _ => {}
    }
    document
}

/// Waits for a snapshot whose state is that of `status`.
#[track_caller]
fn same_as_status(watcher: &mut Watcher, agent: &Agent<'_>) -> Value {
    wait::until("the page has the figures of status", || {
        let snapshot = watcher.next("snapshot");
        (settled(snapshot["status"].clone()) == settled(agent.status())).then_some(snapshot)
    })
}

/// The row of a service, or of a backend.
fn row<'a>(snapshot: &'a Value, key: &str) -> &'a Value {
    let mut rows = snapshot["rows"].as_array().unwrap().iter();
    rows.find(|row| row["key"] == key)
        .unwrap_or_else(|| panic!("no {key}: {snapshot:#}"))
}

/// Waits until the backends of the first service are up.
#[track_caller]
fn all_are_up(agent: &Agent<'_>) {
    wait::until("all backends to be up", || {
        let status = agent.status();
        let mut backends = status["services"][0]["backends"].as_array().unwrap().iter();
        let is_up =
            |backend: &Value| backend["state"] == "up" && backend["health"]["state"] == "up";
        backends.all(is_up).then_some(())
    });
}

/// Open connections of so many clients.
fn connections(hosts: &Hosts, count: u16) -> Vec<TcpStream> {
    hosts.clients.run(|| {
        let clients = (1..=count).map(client_v4);
        clients
            .map(|client| http::connect(client, SERVICE_V4).unwrap())
            .collect()
    })
}

#[test]
fn figures_are_those_of_status_after_reload_crash_and_take_over() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    all_are_up(&agent);
    let open = connections(&hosts, 20);
    let mut watcher = Watcher::new(&hosts.balancer);
    let history = watcher.next("history");
    assert_eq!(
        (&history["step_ms"], &history["points"]),
        (&json!(10_000), &json!(360))
    );
    let snapshot = wait::until("twenty connections", || {
        let snapshot = watcher.next("snapshot");
        (row(&snapshot, "web")["open"] == 20).then_some(snapshot)
    });
    assert_eq!(row(&snapshot, "web 127.0.0.1:5000")["latency"], Value::Null);
    same_as_status(&mut watcher, &agent);

    agent.ok(&[
        "ban",
        "192.0.2.7",
        "--for",
        "1h",
        "--reason",
        "a <b>test</b>",
    ]);
    agent.ok(&[
        "drain-backend",
        "127.0.0.1:5001",
        "--service",
        "web",
        "--timeout",
        "1h",
    ]);
    let more = SERVICES.replace("'127.0.0.1:5001']", "'127.0.0.1:5001', '127.0.0.1:5002']");
    agent.configure(&more);
    agent.ok(&["reload"]);
    let snapshot = same_as_status(&mut watcher, &agent);
    assert_eq!(snapshot["bans"][0]["reason"], "a <b>test</b>");
    let backends = &snapshot["status"]["services"][0]["backends"];
    assert_eq!(backends[1]["state"], "draining");
    assert!(
        backends[1]["drain_seconds_left"].as_u64() > Some(3000),
        "{backends}"
    );
    assert_eq!(backends[2]["address"], "127.0.0.1:5002");
    assert_eq!(row(&snapshot, "web")["open"], 20);
    let events = snapshot["events"].as_array().unwrap();
    let is_reload = |event: &Value| event["message"].as_str().unwrap().contains("reload");
    assert!(events.iter().any(is_reload), "{events:#?}");

    agent.kill();
    agent.start_again();
    let mut watcher = Watcher::new(&hosts.balancer);
    let snapshot = same_as_status(&mut watcher, &agent);
    assert_eq!(row(&snapshot, "web")["open"], 20);

    let before = agent.take_over();
    let mut watcher = Watcher::new(&hosts.balancer);
    let snapshot = same_as_status(&mut watcher, &agent);
    assert_eq!(snapshot["status"]["agent"]["pid"], agent.pid());
    assert_eq!(row(&snapshot, "web")["open"], 20);
    drop((open, before));
}

#[test]
fn page_is_strict_about_names_and_other_sites_and_changes_nothing() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let page = |path: &str, lines: &str| ask(&hosts.balancer, path, lines);
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
    ] {
        for host in ["127.0.0.1:9601", "localhost", "lb.test"] {
            let (head, body) = page(path, &format!("Host: {host}\r\n"));
            assert!(head.starts_with("HTTP/1.1 200"), "{host}: {head}");
            assert!(head.contains(&format!("content-type: {kind}")), "{head}");
            assert!(
                head.contains("content-security-policy: default-src 'none'; script-src 'self';"),
                "{head}"
            );
            assert!(!head.contains("unsafe-inline"), "{head}");
            assert!(!body.is_empty());
        }
    }
    for lines in [
        "Host: evil.test:9601\r\n",
        "",
        "Host: localhost\r\nHost: evil.test\r\n",
    ] {
        for path in ["/", "/events", "/lookup?client=192.0.2.1"] {
            let (head, _) = page(path, lines);
            let is_refused = head.starts_with("HTTP/1.1 421") || head.starts_with("HTTP/1.1 400");
            assert!(is_refused, "{path} {lines:?}: {head}");
        }
    }
    let foreign = "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n";
    assert!(page("/events", foreign).0.starts_with("HTTP/1.1 403"));
    assert!(page("/", foreign).0.starts_with("HTTP/1.1 200"), "a link");
    for path in ["/v1/status", "/metrics", "/../etc/passwd"] {
        assert!(
            page(path, "Host: localhost\r\n")
                .0
                .starts_with("HTTP/1.1 404"),
            "{path}"
        );
    }
    for method in ["POST", "DELETE", "PUT", "OPTIONS"] {
        let request =
            format!("{method} /v1/stop HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let stream = hosts.balancer.run(|| TcpStream::connect(PAGE).unwrap());
        let (head, _) = answer(stream, &request);
        assert!(head.starts_with("HTTP/1.1 405"), "{method}: {head}");
    }
    let lookup = "/lookup?client=192.0.2.1&service=web";
    let (head, body) = page(lookup, "Host: localhost\r\n");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let found: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        found["text"],
        agent.ok(&["lookup", "192.0.2.1", "--service", "web"])
    );
    let (head, body) = page("/lookup?client=nobody", "Host: localhost\r\n");
    assert!(
        head.starts_with("HTTP/1.1 400") && body.contains("error"),
        "{head}"
    );
}

#[test]
fn number_of_watchers_is_bounded_and_a_unix_socket_serves_the_page() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let mut watchers: Vec<Watcher> = (0..WATCHERS)
        .map(|_| Watcher::new(&hosts.balancer))
        .collect();
    for watcher in &mut watchers {
        watcher.next("snapshot");
    }
    let (head, _) = ask(&hosts.balancer, "/events", "Host: localhost\r\n");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(
        ask(&hosts.balancer, "/", "Host: localhost\r\n")
            .0
            .starts_with("HTTP/1.1 200")
    );
    watchers.pop();
    wait::until("room for another watcher", || {
        let stream = hosts.balancer.run(|| TcpStream::connect(PAGE).unwrap());
        let mut stream = stream;
        stream
            .write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        (&head == b"HTTP/1.1 200").then_some(())
    });
    drop((watchers, agent));

    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("page.sock");
    let at = format!("page = 'unix:{}'", socket.display());
    let _agent = Agent::start(
        &hosts.balancer,
        &SERVICES.replace("page = '127.0.0.1:9601'", &at),
    );
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let (head, _) = answer(UnixStream::connect(socket).unwrap(), request);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

/// Waits in the page until a script has a true value.
#[track_caller]
fn shows(browser: &mut Browser, what: &str, script: &str) {
    wait::until(what, || (browser.run(script) == true).then_some(()));
}

/// Pictures for the documentation, if `LB_TEST_PICTURES` names a directory for them.
fn take_pictures(browser: &mut Browser, dir: &Path) {
    let dir = std::env::var_os("LB_TEST_PICTURES").map_or_else(|| dir.to_owned(), Into::into);
    for (name, width, height, scheme) in [
        ("page-light", 1100, 800, "light"),
        ("page-dark", 1100, 800, "dark"),
        ("page-narrow", 390, 844, "light"),
    ] {
        let file = dir.join(format!("{name}.png"));
        browser.picture(&file, width, height, scheme);
        assert!(fs::metadata(&file).unwrap().len() > 1000, "{name}");
        let fits = "document.documentElement.scrollWidth <= innerWidth";
        assert_eq!(browser.run(fits), true, "{name} has no scroll bar");
    }
}

/// Each table has a caption and heads with scopes, each control a name, each plot a description.
fn is_accessible(browser: &mut Browser) {
    let script = "[...document.querySelectorAll('table')].every((table) => table.caption.textContent && \
        [...table.rows].every((row) => row.querySelector('th[scope]'))) && \
        [...document.querySelectorAll('input, select')].every((field) => field.labels.length) && \
        [...document.querySelectorAll('svg')].every((plot) => plot.getAttribute('aria-label')) && \
        document.querySelectorAll('[aria-live]').length === 2 && document.querySelectorAll('h1').length === 1";
    assert_eq!(browser.run(script), true);
}

#[test]
fn page_in_a_browser_follows_the_agent() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let certificate = Authority::new(dir.path()).issue("a", &["a.test"]);
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    all_are_up(&agent);
    let _open = connections(&hosts, 12);
    let localhost = Ipv4Addr::LOCALHOST.into();
    let mut browser = Browser::start(&hosts.balancer, dir.path(), localhost, &certificate);
    assert_eq!(browser.open("http://127.0.0.1:9601/"), 200);
    shows(
        &mut browser,
        "the page is live",
        "document.getElementById('state').textContent === 'live'",
    );
    let has = |key: &str| format!("!!document.querySelector('tr[data-key=\"{key}\"]')");
    assert_eq!(browser.run(&has("web 127.0.0.1:5001")), true);
    assert_eq!(browser.run(&has("web 127.0.0.1:5002")), false);
    agent.ok(&["add-backend", "127.0.0.1:5002", "--service", "web"]);
    shows(&mut browser, "the new backend", &has("web 127.0.0.1:5002"));
    agent.ok(&[
        "drain-backend",
        "127.0.0.1:5001",
        "--service",
        "web",
        "--timeout",
        "1h",
    ]);
    agent.ok(&[
        "ban",
        "198.51.100.0/24",
        "--for",
        "1h",
        "--reason",
        "<img src=x onerror=alert(1)>",
    ]);
    let text = |words: &str| format!("document.body.innerText.includes({words:?})");
    shows(&mut browser, "the drain", &text("draining, 59 min"));
    shows(
        &mut browser,
        "the ban",
        &text("<img src=x onerror=alert(1)>"),
    );
    let look_up = "(() => { const form = document.forms.lookup; form.elements.client.value = '203.0.113.9'; \
                   form.elements.service.value = 'web'; form.requestSubmit(); return true; })()";
    browser.run(look_up);
    shows(
        &mut browser,
        "where a client goes",
        &text("203.0.113.9 goes to 127.0.0.1:500"),
    );
    is_accessible(&mut browser);
    take_pictures(&mut browser, dir.path());
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");

    // The page finds the next agent by itself.
    let before = agent.take_over();
    let pid = format!("pid {}", agent.pid());
    shows(&mut browser, "the next agent", &text(&pid));
    drop(before);
}
