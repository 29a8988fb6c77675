//! `mode = "http"` with `protocol = "h2c"`: servers and clients of gRPC (Node.js, `@grpc/grpc-js`), with TLS
//! to clients and without.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::process::Process;
use lb_tests::tls::Authority;
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4};
use lb_tests::{node, wait};
use serde_json::Value;

/// The checks of the client, each of which must report success.
const CHECKS: [&str; 10] = [
    "unary",
    "large",
    "server streaming",
    "client streaming",
    "bidirectional",
    "error",
    "unimplemented",
    "deadline",
    "cancel",
    "many at once",
];

fn services(backends: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         backends = [{backends}]\n[service.http]\nprotocol = 'h2c'\n{more}\n"
    )
}

fn server(host: &Host, port: u16, dir: &Path) -> Process {
    node::serve(host, "grpc_server.js", ([127, 0, 0, 1], port).into(), dir)
}

fn client(host: &Host, port: u16, arguments: &[&Path], settings: &[(&str, &str)]) -> Command {
    let mut command = host.command("node");
    command.arg(node::apps_dir().join("grpc_client.js"));
    command.arg(format!("{}:{port}", SERVICE_V4.ip()));
    command.args(arguments).envs(settings.iter().copied());
    command
}

/// Every check of the client is good.
#[track_caller]
fn all_went_well(mut client: Command) {
    let output = client.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let good: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("good: "))
        .collect();
    assert_eq!(good, CHECKS, "{printed}");
    assert!(printed.ends_with("all went well\n"), "{printed}");
}

/// The report of a client at its end.
#[track_caller]
fn told(mut client: Command) -> Value {
    let output = client.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(printed.trim()).unwrap_or_else(|_| panic!("{printed}"))
}

#[test]
fn calls_of_every_kind_go_through_with_tls_and_without() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let files = authority.issue("a", &["a.test"]);
    let tls = format!(
        "[service.tls]\nlisten = ['0.0.0.0:443']\ncertificates = [{}]",
        files.toml()
    );
    let agent = Agent::start(&hosts.balancer, &services("'127.0.0.1:5000'", &tls));
    let _server = server(&hosts.balancer, 5000, agent.dir());
    all_went_well(client(&hosts.clients, 80, &[], &[]));
    let trust = authority.certificate();
    all_went_well(client(&hosts.clients, 443, &[&trust], &[]));
    // Nothing is left open.
    wait::until("no request is under way", || {
        let open = agent.backend("127.0.0.1:5000")["active"].as_u64();
        (open == Some(0)).then_some(())
    });
}

#[test]
fn calls_go_through_a_unix_socket() {
    let hosts = Hosts::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let path = path.to_str().unwrap();
    let agent = Agent::start(&hosts.balancer, &services(&format!("'unix:{path}'"), ""));
    let listen = [&format!("unix:{path}"), "unused"];
    let listen = listen.map(|text| text as &str);
    let _server = node::serve_as(&hosts.balancer, "grpc_server.js", listen, &[], agent.dir());
    all_went_well(client(&hosts.clients, 80, &[], &[]));
}

#[test]
fn a_client_stays_with_its_server() {
    let hosts = Hosts::new();
    let two = "'127.0.0.1:5000', '127.0.0.1:5001'";
    let agent = Agent::start(&hosts.balancer, &services(two, ""));
    let _servers = [5000, 5001].map(|port| server(&hosts.balancer, port, agent.dir()));
    // By address: all users of one client are on one server, over as many connections.
    let seen = told(client(&hosts.clients, 80, &[], &[("USERS", "10")]));
    assert_eq!(seen["ports"].as_array().unwrap().len(), 1, "{seen}");
    // By a header: each user stays, and they spread.
    agent.configure(&services(two, "stickiness = { header = 'X-User' }"));
    agent.ok(&["reload"]);
    let seen = told(client(&hosts.clients, 80, &[], &[("USERS", "20")]));
    assert_eq!(seen["ports"], serde_json::json!([5000, 5001]));
}

/// The outcome of eight users' calls, sticky to two servers, one of which is ended by `end` and started again
/// three times.
fn calls_while_a_server_restarts(end: fn(&mut Process)) -> Value {
    let hosts = Hosts::new();
    let two = "'127.0.0.1:5000', '127.0.0.1:5001'";
    let sticky = "stickiness = { header = 'X-User' }";
    let agent = Agent::start(&hosts.balancer, &services(two, sticky));
    let dir = agent.dir();
    let [mut first, _second] = [5000, 5001].map(|port| server(&hosts.balancer, port, dir));
    let calls = client(&hosts.clients, 80, &[], &[("HAMMER", "8")]);
    let mut calls = Process::start(calls, &dir.join("calls.log"));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(1));
        end(&mut first);
        first = server(&hosts.balancer, 5000, dir);
    }
    let line = calls.wait_for("{\"");
    serde_json::from_str(&line).unwrap()
}

#[test]
fn a_server_that_ends_as_it_should_fails_no_call() {
    let seen = calls_while_a_server_restarts(|server| {
        let pid = rustix::process::Pid::from_raw(server.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(server.wait().success());
    });
    assert_eq!(seen["errors"], serde_json::json!({}), "{seen}");
    assert!(seen["ports"]["5000"].as_u64() > Some(50), "{seen}");
    assert!(seen["ports"]["5001"].as_u64() > Some(50), "{seen}");
}

#[test]
fn a_server_that_is_killed_fails_what_it_was_doing_and_nothing_else() {
    let seen = calls_while_a_server_restarts(Process::kill);
    // Each of eight clients has one call under way, which may have arrived and is not sent again. Its answer
    // has begun or not.
    let errors = seen["errors"].as_object().unwrap();
    let is_of_this = |error: &String| {
        error.starts_with("14 UNAVAILABLE") || error.starts_with("13 INTERNAL: Received RST_STREAM")
    };
    assert!(errors.keys().all(is_of_this), "{seen}");
    let failed: u64 = errors.values().filter_map(Value::as_u64).sum();
    assert!(failed <= 3 * 8, "{seen}");
    assert!(seen["ports"]["5000"].as_u64() > Some(50), "{seen}");
}
