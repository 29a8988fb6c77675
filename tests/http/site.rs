//! A site as Express's guides have it, in Chromium: a front end from files, an API, a login, uploads and Socket.IO. The
//! browser sees no error, meets a limit and a ban, and comes back.

use std::fs;
use std::path::Path;
use std::process::Command;

use lb_tests::agent::Agent;
use lb_tests::chromium::Browser;
use lb_tests::node;
use lb_tests::process::Process;
use lb_tests::tls::{Authority, Files};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::wait;
use serde_json::{Value, json};

/// The front end that is built: a page, and files with names below `/assets`, one of them compressed beforehand.
fn build(root: &Path) {
    let (apps, assets) = (node::apps_dir(), root.join("assets"));
    fs::create_dir_all(&assets).unwrap();
    let copy = |from: &str, to: &Path| fs::copy(apps.join(from), to).unwrap();
    copy("site/index.html", &root.join("index.html"));
    copy("site/app.js", &assets.join("app.js"));
    copy("site/site.css", &assets.join("site.css"));
    let client = "node_modules/socket.io/client-dist/socket.io.min.js";
    copy(client, &assets.join("socket.io.min.js"));
    let gzip = Command::new("gzip")
        .arg("-9k")
        .arg(assets.join("app.js"))
        .status();
    assert!(gzip.expect("gzip").success());
}

/// The site; `pages` has the pages for errors.
fn services(root: &Path, pages: &Path, certificate: &Files) -> String {
    for (status, title) in [(429, "Too fast"), (503, "Out of order")] {
        let page = format!("<!doctype html><title>{title}</title>");
        fs::write(pages.join(format!("{status}.html")), page).unwrap();
    }
    let (root, pages) = (root.display(), pages.display());
    let certificate = certificate.toml();
    format!(
        "[[service]]\nname = 'site'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
         backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n\
         [service.tls]\nlisten = ['0.0.0.0:443']\nredirect_http = true\nhsts = '180d'\n\
         certificates = [{certificate}]\n\
         [service.http]\nstickiness = {{ cookie = 'lb' }}\n[service.http.cache]\n\
         [service.http.errors]\npages = {{ 429 = '{pages}/429.html', 503 = '{pages}/503.html' }}\n\
         [[service.limit]]\nname = 'search'\npath = '/api/search'\nrate = '5/1h'\n\
         [[service.route]]\npath = '/'\n[service.route.files]\nroot = '{root}'\n\
         try = ['$path', '/index.html']\nprecompressed = ['gzip']\n\
         cache_control = [{{ path = 'index.html', value = 'no-cache' }}, \
         {{ path = '/assets/*', value = 'max-age=31536000, immutable' }}]\n\
         [[service.route]]\npath = '/api'\n\
         response_headers = [{{ set = 'X-Content-Type-Options', value = 'nosniff' }}]\n\
         [[service.route]]\npath = '/socket.io'\n\
         response_headers = [{{ set = 'X-Content-Type-Options', value = 'nosniff' }}]\n\
         [[service.route]]\npath = '/reports'\nbackends = ['127.0.0.1:5999']\n"
    )
}

/// The response of a path, among those that the browser has got.
#[track_caller]
fn response<'a>(responses: &'a [Value], path: &str) -> &'a Value {
    let url = format!("https://a.test{path}");
    let mut all = responses.iter();
    all.find(|response| response["url"] == url.as_str())
        .unwrap_or_else(|| panic!("no {path}: {responses:#?}"))
}

/// A header of a response: HTTP/2 has its names in lower case.
fn header<'a>(response: &'a Value, name: &str) -> &'a str {
    response["headers"][name].as_str().unwrap_or_default()
}

fn loads(browser: &mut Browser) {
    assert_eq!(browser.open("http://a.test/account/7"), 200);
    let at = browser.run("[location.protocol, document.title, site.route, site.colour()]");
    assert_eq!(at, json!(["https:", "Site", "/account/7", "rgb(1, 2, 3)"]));
    let responses = browser.responses();
    let page = response(&responses, "/account/7");
    assert_eq!(header(page, "cache-control"), "no-cache");
    assert!(!header(page, "strict-transport-security").is_empty());
    let script = response(&responses, "/assets/app.js");
    assert_eq!(header(script, "content-encoding"), "gzip");
    assert_eq!(
        header(script, "cache-control"),
        "max-age=31536000, immutable"
    );
    // Without a twin it is compressed on its way.
    let client = response(&responses, "/assets/socket.io.min.js");
    assert_eq!(header(client, "content-encoding"), "zstd");
    let protocols = responses.iter().map(|response| &response["protocol"]);
    let is_http2 = |protocol: &&Value| **protocol == "h2";
    assert_eq!(protocols.filter(is_http2).count(), 4, "{responses:#?}");
}

fn caches(browser: &mut Browser) {
    let first = browser.run("site.prices()");
    assert_eq!((&first["made"], &first["items"]), (&json!(1), &json!(500)));
    assert_eq!(first["cache"], "lb-agent; fwd=uri-miss; stored");
    let second = browser.run("site.prices()");
    assert_eq!(
        (&second["made"], &second["items"]),
        (&json!(1), &json!(500))
    );
    let status = second["cache"].as_str().unwrap();
    assert!(status.starts_with("lb-agent; hit; ttl="), "{status}");
    let responses = browser.responses();
    let prices = response(&responses, "/api/prices");
    assert_eq!(header(prices, "content-encoding"), "zstd");
}

fn logs_in(browser: &mut Browser) {
    let login = browser.run("site.login('ada', 'open sesame')");
    let client = client_v4(1).to_string();
    assert_eq!(
        login["body"],
        json!({ "user": "ada", "ip": client, "secure": true })
    );
    assert_eq!(browser.run("site.me()")["body"], json!({ "user": "ada" }));
    // The page cannot read it.
    assert_eq!(browser.run("document.cookie.includes('sid=')"), false);
}

fn chats(browser: &mut Browser) {
    assert_eq!(browser.run("site.join()"), json!(["polling", "websocket"]));
    let said = browser.run("site.say('hello')");
    assert_eq!(said, json!({ "user": "ada", "text": "hello" }));
}

fn uploads(browser: &mut Browser, dir: &Path) {
    let file = dir.join("holiday.bin");
    let bytes: Vec<u8> = (0..6_000_000u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(&file, &bytes).unwrap();
    browser.choose("#file", &file);
    let answer = browser.run("site.upload()");
    assert_eq!(answer["status"], 200);
    assert_eq!(answer["size"], bytes.len());
    assert_eq!(answer["sha256"], answer["sent"]);
    assert_eq!(
        (&answer["name"], &answer["title"]),
        (&json!("holiday.bin"), &json!("two words"))
    );
}

/// The sixth search of an hour gets the page for 429; a backend that is not there the one for 503.
fn shows_pages(browser: &mut Browser) {
    let url = "https://a.test/api/search?q=shoes";
    for _ in 0..5 {
        assert_eq!(browser.open(url), 200);
        assert_eq!(browser.run("document.title"), "Found");
    }
    assert_eq!(browser.open(url), 429);
    assert_eq!(browser.run("document.title"), "Too fast");
    let responses = browser.responses();
    let refused = responses.last().expect("a response");
    assert!(!header(refused, "retry-after").is_empty(), "{refused}");
    assert_eq!(browser.open("https://a.test/reports"), 503);
    assert_eq!(browser.run("document.title"), "Out of order");
}

/// Banned, the page loses its chat and no page opens. Unbanned, the chat is back by itself, and the session holds.
fn is_banned_and_comes_back(browser: &mut Browser, agent: &Agent<'_>) {
    assert_eq!(browser.open("https://a.test/"), 200);
    assert_eq!(browser.run("site.join()"), json!(["polling", "websocket"]));
    let lost = "window.lost = new Promise((done) => site.chat.once('disconnect', done)); 0";
    browser.run(lost);
    let client = client_v4(1).to_string();
    agent.ok(&["ban", &client, "--for", "1h", "--reason", "a test"]);
    let reason = browser.run("window.lost");
    assert!(
        reason == "transport close" || reason == "transport error",
        "{reason}"
    );
    assert_eq!(
        browser.run("fetch('/api/me').then(() => 'answered', () => 'refused')"),
        "refused"
    );
    let back = "window.back = new Promise((done) => site.chat.once('connect', done)); 0";
    browser.run(back);
    agent.ok(&["unban", &client]);
    browser.run("window.back");
    let said = browser.run("site.say('again')");
    assert_eq!(said["text"], "again");

    agent.ok(&["ban", &client]);
    assert_eq!(
        browser.open("https://a.test/"),
        "net::ERR_CONNECTION_REFUSED"
    );
    agent.ok(&["unban", &client]);
    assert_eq!(browser.open("https://a.test/"), 200);
    wait::until("the script of the page", || {
        (browser.run("typeof site") == "object").then_some(())
    });
    assert_eq!(browser.run("site.me()")["body"], json!({ "user": "ada" }));
}

#[test]
fn site_in_a_browser_loads_logs_in_is_limited_is_banned_and_comes_back() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let root = dir.path().join("www");
    build(&root);
    let certificate = Authority::new(dir.path()).issue("a", &["a.test"]);
    let agent = Agent::start(&hosts.balancer, &services(&root, dir.path(), &certificate));
    let _apps: [Process; 2] = [5000, 5001].map(|port| {
        let listen = ([127, 0, 0, 1], port).into();
        node::serve(&hosts.balancer, "site.js", listen, agent.dir())
    });
    let mut browser = Browser::start(&hosts.clients, dir.path(), SERVICE_V4.ip(), &certificate);
    loads(&mut browser);
    logs_in(&mut browser);
    caches(&mut browser);
    chats(&mut browser);
    uploads(&mut browser, dir.path());
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
    shows_pages(&mut browser);
    is_banned_and_comes_back(&mut browser, &agent);
}
