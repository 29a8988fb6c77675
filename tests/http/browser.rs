//! A real browser, Chromium without a window, on an HTTPS page with a WebSocket.

use lb_tests::agent::Agent;
use lb_tests::process::Process;
use lb_tests::tls::Authority;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4};
use lb_tests::{chromium, node};

#[test]
fn chromium_shows_a_page_with_a_websocket_over_tls() {
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
    let mut command = chromium::command(&hosts.clients, dir.path(), SERVICE_V4.ip());
    // The browser keeps its authorities elsewhere; its trust in the test's authority is not under test.
    command
        .arg("--ignore-certificate-errors")
        .arg("http://a.test/page");
    let _chromium = Process::start(command, &dir.path().join("chromium.log"));
    let told = app.wait_for("told: ");
    assert_eq!(told, "told: WebSocket says hello by h2 to a HeadlessChrome");
}
