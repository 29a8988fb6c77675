//! A backend that is the agent itself is refused, under any of its addresses. A backend that becomes
//! the agent later gets no clients.

use std::fs;
use std::io::Read as _;
use std::net::UdpSocket;

use lb_tests::agent::Agent;
use lb_tests::process::Process;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, wait};

fn service(backends: &str) -> String {
    format!("[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = [{backends}]\n")
}

/// Descriptors that the agent has open.
fn descriptors(agent: &Agent) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", agent.pid()));
    open.unwrap().count()
}

#[test]
fn check_start_reload_and_add_backend_refuse_an_address_of_this_host() {
    let hosts = Hosts::new();
    let mut agent = Agent::start_on(&hosts.balancer, &service("'127.0.0.1:5000'"), "userspace");
    let itself = "10.99.0.1:80 is this service itself, which listens on 0.0.0.0:80";
    let added = agent.run(&["add-backend", "10.99.0.1:80"]);
    assert_eq!(added.code, 2, "{added:?}");
    assert!(added.stderr.contains(itself), "{added:?}");
    assert!(added.stderr.contains("another port"), "{added:?}");
    agent.configure(&service("'127.0.0.1:5000', '10.99.0.1:80'"));
    for command in [
        &["reload"][..],
        &["plan"],
        &["check", "--config", agent.config().to_str().unwrap()],
    ] {
        let outcome = agent.run(command);
        assert_eq!(outcome.code, 2, "{command:?}: {outcome:?}");
        assert!(outcome.stderr.contains(itself), "{command:?}: {outcome:?}");
    }
    assert_eq!(
        agent.status()["services"][0]["backends"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    agent.kill();
    let output = agent.dir().join("refused.log");
    let mut refused = Process::start(agent.run_command(), &output);
    assert_eq!(refused.wait().code(), Some(2));
    let log = fs::read_to_string(output).unwrap();
    assert!(log.contains(itself), "{log}");
}

#[test]
fn an_address_that_the_host_gets_later_brings_no_loop() {
    let hosts = Hosts::new();
    let services = service("'10.99.7.7:80'");
    let agent = Agent::start_on(&hosts.balancer, &services, "userspace");
    assert_eq!(agent.backend("10.99.7.7:80")["state"], "up");
    hosts
        .balancer
        .ip(&["addr", "add", "10.99.7.7/32", "dev", "lo"]);
    wait::until("the backend to be out", || {
        let backend = agent.backend("10.99.7.7:80");
        (backend["state"] == "down" && backend["down_because"] == "loop").then_some(())
    });
    let notes = agent.status()["agent"]["notes"].to_string();
    assert!(
        notes.contains("10.99.7.7:80 is this service itself"),
        "{notes}"
    );
    let refused = hosts.clients.run(|| http::get(client_v4(1), SERVICE_V4));
    assert!(refused.is_err());
    assert!(descriptors(&agent) < 60, "{}", descriptors(&agent));
    hosts
        .balancer
        .ip(&["addr", "del", "10.99.7.7/32", "dev", "lo"]);
    wait::until("the backend to be back", || {
        (agent.backend("10.99.7.7:80")["state"] == "up").then_some(())
    });
}

/// Neither agent can know the destination of the other.
#[test]
fn two_agents_that_lead_to_each_other_refuse_after_a_few_rounds() {
    let hosts = Hosts::new();
    let lead = |name: &str, mode: &str, port: u16, to: u16| {
        format!(
            "metrics = '127.0.0.1:96{port}'\n\
             [[service]]\nname = '{name}'\nmode = '{mode}'\nlisten = ['0.0.0.0:{port}']\n\
             backends = ['127.0.0.1:{to}']\n"
        )
    };
    for mode in ["tcp", "udp"] {
        let one = Agent::start_on(&hosts.balancer, &lead("one", mode, 80, 81), "userspace");
        let two = Agent::start_on(&hosts.balancer, &lead("two", mode, 81, 80), "userspace");
        hosts.clients.run(|| match mode {
            "tcp" => {
                let mut stream = http::connect(client_v4(1), SERVICE_V4).unwrap();
                assert!(stream.read(&mut [0]).is_err(), "a reset");
            }
            _ => {
                let socket = UdpSocket::bind((client_v4(1), 0)).unwrap();
                socket.send_to(b"hello", SERVICE_V4).unwrap();
            }
        });
        wait::until("the loop to be counted", || {
            let counted = |agent: &Agent, service: &str| {
                let stats = agent.ok(&["stats", "--json"]);
                let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
                let drops = stats["drops"].as_array().unwrap();
                let of = |drop: &&serde_json::Value| {
                    drop["reason"] == "loop" && drop["service"] == service
                };
                drops.iter().find(of).unwrap()["count"].as_u64().unwrap()
            };
            (counted(&one, "one") + counted(&two, "two") >= 1).then_some(())
        });
        assert!(descriptors(&one) < 60 && descriptors(&two) < 60);
        let logs = one.log() + &two.log();
        assert!(logs.contains("come back to lb-agent"), "{logs}");
    }
}

#[test]
fn the_kernel_tells_an_application_on_the_services_own_port_apart() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &service("'127.0.0.1:80'"));
    let listen = "0.0.0.0:80".parse().unwrap();
    let _app = node::serve(&hosts.balancer, "server.js", listen, agent.dir());
    let answer = hosts.clients.run(|| http::get(client_v4(1), SERVICE_V4));
    assert_eq!(answer.unwrap().port, 80);
    assert_eq!(agent.backend("127.0.0.1:80")["path"], "socket");
}
