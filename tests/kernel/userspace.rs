//! If BPF cannot serve, the agent serves in user space: the same choice, nothing lost, and `status`
//! says which feature is missing.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_tests::agent::Agent;
use lb_tests::node::{self, Clients};
use lb_tests::process::Process;
use lb_tests::topology::hosts::{
    Hosts, SERVICE_V4, SERVICE_V6, all_clients, client_v4, client_v6, service_for,
};
use lb_tests::{http, wait};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

#[test]
fn clients_stay_and_a_dead_backend_is_passed_over() {
    let hosts = Hosts::new();
    let agent = Agent::start_on(&hosts.balancer, SERVICES, "userspace");
    assert_eq!(agent.status()["agent"]["data_plane"], "userspace");
    let mut apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let visit = |clients: &[IpAddr]| -> BTreeMap<IpAddr, u16> {
        hosts.clients.run(|| {
            let port = |client: &IpAddr| http::get(*client, service_for(*client)).unwrap().port;
            clients
                .iter()
                .map(|client| (*client, port(client)))
                .collect()
        })
    };
    let clients = all_clients();
    let expected: BTreeMap<IpAddr, u16> = clients
        .iter()
        .step_by(10)
        .map(|client| (*client, agent.looked_up_port(*client)))
        .collect();
    let first = visit(&clients);
    assert!(expected.iter().all(|(client, port)| first[client] == *port));
    assert_eq!(visit(&clients), first);
    agent.ok(&["add-backend", "127.0.0.1:5002"]);
    assert_eq!(visit(&clients), first, "adding a backend moves nobody");
    let mut sockets = Clients::new(&hosts.clients, agent.dir(), "ws");
    sockets.open(
        "both",
        SERVICE_V4,
        &(1..=10).map(client_v4).collect::<Vec<_>>(),
    );
    sockets.echo(200_000);
    assert_eq!(
        agent.status()["services"][0]["backends"][0]["path"],
        "proxy"
    );
    wait::until("open connections are counted", || {
        let count = |n: usize| agent.status()["services"][0]["backends"][n]["active"].as_u64();
        (count(0)? + count(1)? >= 10).then_some(())
    });
    sockets.close();
    apps[0].kill();
    for (client, port) in visit(&clients) {
        assert_eq!(port, 5001, "{client}: the other one has died");
    }
}

#[test]
fn each_direction_of_a_connection_ends_by_itself() {
    let hosts = Hosts::new();
    let agent = Agent::start_on(&hosts.balancer, SERVICES, "userspace");
    agent.ok(&["remove-backend", "127.0.0.1:5001"]);
    let backend = hosts
        .balancer
        .run(|| TcpListener::bind("127.0.0.1:5000").unwrap());
    let sum = std::thread::spawn(move || {
        let (mut stream, _) = backend.accept().unwrap();
        // Answers only once the client has ended its side.
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let sent: Vec<u8> = (0..3_000_000u32)
        .flat_map(|n| (n as u8).to_le_bytes())
        .collect();
    let got = hosts.clients.run(|| {
        let mut stream = http::connect(client_v4(1), SERVICE_V4).unwrap();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got
    });
    sum.join().unwrap();
    assert!(
        got == sent,
        "{} of {} bytes came back",
        got.len(),
        sent.len()
    );
}

#[test]
fn an_ipv6_client_reaches_an_application_that_listens_on_ipv4_only() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    for client in (1..=20).map(client_v6) {
        let expected = agent.looked_up_port(client);
        let answer = hosts.clients.run(|| http::get(client, SERVICE_V6)).unwrap();
        assert_eq!(answer.port, expected, "{client}");
        assert_eq!(
            agent.lookup(client)["reason"],
            "affinity",
            "{client} is remembered"
        );
    }
}

/// An agent with these services that has no privileges, in a directory of its own under that of
/// `agent`, and the command that starts it.
fn unprivileged(hosts: &Hosts, agent: &Agent, name: &str, services: &str) -> (PathBuf, Command) {
    let dir = agent.dir().join(name);
    std::fs::create_dir(&dir).unwrap();
    let config = std::fs::read_to_string(agent.config()).unwrap();
    let (head, _) = config.split_once("[[service]]").unwrap();
    let head = head.replace("userspace", "auto").replace(
        &format!("'{}/", agent.dir().display()),
        &format!("'{}/", dir.display()),
    );
    std::fs::write(dir.join("config.toml"), head + services).unwrap();
    let mut chmod = Command::new("chmod");
    chmod.args(["-R", "a+rwX"]).arg(agent.dir());
    assert!(chmod.status().unwrap().success());
    let binary = dir.join("lb-agent");
    lb_tests::agent::copy_program(&binary);
    let mut command = hosts.balancer.command("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
    ]);
    command.arg(&binary).arg("run").arg("--config");
    command.arg(dir.join("config.toml"));
    (dir, command)
}

/// `status --json` of the agent in a directory.
fn status_in(dir: &Path) -> serde_json::Value {
    let mut status = Command::new(dir.join("lb-agent"));
    status.args(["status", "--json", "--control"]);
    let output = status.arg(dir.join("control.sock")).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn without_privileges_the_agent_says_what_is_missing_and_serves() {
    let hosts = Hosts::new();
    let services = SERVICES.replace(":80", ":8080");
    let agent = Agent::start_on(&hosts.balancer, &services, "userspace");
    agent.ok(&["stop", "--purge"]);
    let (dir, command) = unprivileged(&hosts, &agent, "unprivileged", &services);
    let mut process = Process::start(command, &dir.join("agent.log"));
    process.wait_for("ready");
    let status = status_in(&dir);
    assert_eq!(status["agent"]["data_plane"], "userspace", "{status:#}");
    assert_eq!(status["agent"]["degraded"], false, "{status:#}");
    let notes = status["agent"]["notes"].to_string();
    assert!(
        notes.contains("BPF cannot serve here") && notes.contains("root"),
        "{notes}"
    );
    let _app = node::serve(
        &hosts.balancer,
        "server.js",
        ([127, 0, 0, 1], 5000).into(),
        &dir,
    );
    let mut to = SERVICE_V4;
    to.set_port(8080);
    assert_eq!(
        hosts
            .clients
            .run(|| http::get(client_v4(1), to))
            .unwrap()
            .port,
        5000
    );
}

#[test]
fn an_agent_that_may_not_listen_where_it_should_is_no_success() {
    let hosts = Hosts::new();
    let agent = Agent::start_on(&hosts.balancer, SERVICES, "userspace");
    agent.ok(&["stop", "--purge"]);
    let log = |dir: &Path| std::fs::read_to_string(dir.join("agent.log")).unwrap();
    let (dir, command) = unprivileged(&hosts, &agent, "nothing", SERVICES);
    let mut process = Process::start(command, &dir.join("agent.log"));
    assert_eq!(process.wait().code(), Some(2));
    let said = log(&dir);
    assert!(
        said.contains("nothing can be served") && said.contains("CAP_NET_BIND_SERVICE"),
        "{said}"
    );
    let services = SERVICES.replace("[::]:80", "[::]:8080");
    let (dir, command) = unprivileged(&hosts, &agent, "half", &services);
    let mut process = Process::start(command, &dir.join("agent.log"));
    process.wait_for("ready, but degraded: 1 of 2");
    let status = status_in(&dir);
    assert_eq!(status["agent"]["degraded"], true, "{status:#}");
    assert!(status["agent"]["notes"].to_string().contains("0.0.0.0:80"));
}
