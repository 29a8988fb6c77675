//! A real browser, Chromium without a window, on an HTTPS page with a WebSocket.

use std::path::Path;

use lb_tests::agent::Agent;
use lb_tests::node;
use lb_tests::process::Process;
use lb_tests::tls::Authority;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4};

/// Programs of Debian's packages, either of them. The scripts in /usr/bin start these: ending a script
/// would leave the browser running.
const PROGRAMS: [&str; 2] = [
    "/usr/lib/chromium/chromium-headless-shell",
    "/usr/lib/chromium/chromium",
];

#[test]
fn chromium_shows_a_page_with_a_websocket_over_tls() {
    let mut programs = PROGRAMS.iter();
    let browser = programs
        .find(|program| Path::new(program).exists())
        .expect("a browser (apt-get install chromium-headless-shell)");
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let services = format!(
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         backends = ['127.0.0.1:5000']\n[service.tls]\nlisten = ['0.0.0.0:443']\n\
         certificates = [{}]\nredirect_http = true\nhsts = '180d'\n",
        authority.issue("a", &["a.test"]).toml()
    );
    let agent = Agent::start(&hosts.balancer, &services);
    let listen = "127.0.0.1:5000".parse().unwrap();
    let mut app = node::serve(&hosts.balancer, "content.js", listen, agent.dir());
    let mut command = hosts.clients.command(browser);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
        ])
        // The browser keeps its authorities elsewhere; its trust in the test's authority is not under
        // test.
        .arg("--ignore-certificate-errors")
        .arg(format!(
            "--host-resolver-rules=MAP a.test {}",
            SERVICE_V4.ip()
        ))
        .arg(format!(
            "--user-data-dir={}",
            dir.path().join("profile").display()
        ))
        .arg("http://a.test/page")
        .env("HOME", dir.path());
    let _chromium = Process::start(command, &dir.path().join("chromium.log"));
    let told = app.wait_for("told: ");
    assert_eq!(told, "told: WebSocket says hello by h2 to a HeadlessChrome");
}
