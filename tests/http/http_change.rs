//! `mode = "http"`: WebSockets and requests while settings, backends and the agent itself change;
//! WebSockets over HTTP/2.

use std::net::{IpAddr, SocketAddr};

use lb_tests::agent::Agent;
use lb_tests::load::Load;
use lb_tests::node::{self, Clients};
use lb_tests::process::Process;
use lb_tests::tls::Authority;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::wait;

const SERVICES: &str = "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
                        mode = 'http'\nbackends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

fn clients() -> Vec<IpAddr> {
    (1..=20).map(client_v4).collect()
}

#[test]
fn web_sockets_carry_any_size_and_survive_reloads() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let mut open = Clients::new(&hosts.clients, agent.dir(), "ws");
    open.open("ws", SERVICE_V4, &clients()[..2]);
    for size in [1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20] {
        open.echo(size);
    }
    for settings in [
        "limits = { body = '1KiB' }",
        "timeouts = { idle = '1s' }",
        "",
    ] {
        agent.configure(&format!("{SERVICES}[service.http]\n{settings}\n"));
        agent.ok(&["reload"]);
        open.echo(1000);
    }
    assert_eq!(open.disconnects(), Vec::<IpAddr>::new());
}

#[test]
fn a_backend_that_is_restarted_loses_no_request_and_no_client() {
    let hosts = Hosts::new();
    let services = format!("{SERVICES}[service.http]\ntimeouts = {{ restart_grace = '50s' }}\n");
    let agent = Agent::start(&hosts.balancer, &services);
    let mut apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let load = Load::start(&hosts.clients, &clients(), 100);
    load.more(60);
    for (app, port) in apps.iter_mut().zip([5000, 5001]) {
        app.kill();
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        *app = node::serve(&hosts.balancer, "server.js", listen, agent.dir());
        load.more(60);
    }
    let visits = load.finish();
    let mut homes = std::collections::BTreeMap::new();
    for visit in visits {
        let answer = visit.answer.unwrap_or_else(|error| {
            panic!("{} was not answered: {error}", visit.client);
        });
        let home = *homes.entry(visit.client).or_insert(answer.port);
        assert_eq!(answer.port, home, "{} has moved", visit.client);
    }
}

#[test]
fn an_agent_that_ends_lets_web_sockets_live_while_a_new_one_takes_over() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let mut open = Clients::new(&hosts.clients, agent.dir(), "old");
    open.open("ws", SERVICE_V4, &clients());
    let load = Load::start(&hosts.clients, &clients(), 100);
    load.more(50);
    let old = agent.end();
    // It goes on serving until the other one is there.
    load.more(50);
    agent.start_again();
    load.more(50);
    open.echo(1000);
    for visit in load.finish() {
        assert!(visit.answer.is_ok(), "{visit:?}");
    }
    assert_eq!(open.disconnects(), Vec::<IpAddr>::new());
    drop(open);
    drop(old);
}

#[test]
fn x5_web_sockets_come_over_http_2_too_and_floods_are_ended() {
    let hosts = Hosts::new();
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let files = authority.issue("a", &["a.test"]);
    let services = format!(
        "{SERVICES}[service.tls]\nlisten = ['0.0.0.0:443']\ncertificates = [{}]\n",
        files.toml()
    );
    let agent = Agent::start(&hosts.balancer, &services);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let mut command = hosts.clients.command("node");
    command
        .arg(node::apps_dir().join("h2.js"))
        .arg(authority.certificate())
        .args([&SERVICE_V4.ip().to_string(), "443"]);
    let mut client = Process::start(command, &dir.path().join("h2.log"));
    client.wait_for("status 200 gone true");
    client.wait_for("greeted");
    client.wait_for("echoed hello");
    client.wait_for("connect 405");
    client.wait_for("other 501");
    wait::until("an end to the flood of resets", || {
        let log = agent.log();
        log.contains("remotely-reset pending-accept streams")
            .then_some(())
    });
    let load = Load::start(&hosts.clients, &clients(), 100);
    load.more(20);
    for visit in load.finish() {
        assert!(visit.answer.is_ok(), "after a flood: {visit:?}");
    }
}

#[test]
fn an_application_that_listened_before_the_agent_is_told_to_listen() {
    let hosts = Hosts::new();
    let dir = tempfile::tempdir().unwrap();
    let app = node::copies(&hosts.balancer, [5000], dir.path());
    let agent = Agent::start(
        &hosts.balancer,
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         backends = ['127.0.0.1:5000']\n",
    );
    let listens = || agent.backend("127.0.0.1:5000")["listening"].clone();
    assert_eq!(listens(), true);
    drop(app);
    wait::until("nobody listens", || (listens() == false).then_some(()));
}
