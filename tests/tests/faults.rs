//! What goes wrong around an agent: descriptors and memory used up, clocks stepped, interfaces that
//! change, crowds and noise on its sockets. Whom the kernel serves notices nothing.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::clock::Clock;
use lb_tests::hosts::{Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6};
use lb_tests::limited::Limited;
use lb_tests::load::Load;
use lb_tests::noise::{junk, shout};
use lb_tests::random::Random;
use lb_tests::{http, node, wait};

const SERVICES: &str = "metrics = '127.0.0.1:9600'\n\
    [[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
    backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

/// The agent's command behind another that changes its surroundings.
fn behind(hosts: &Hosts, agent: &Agent<'_>, words: &[&str]) -> Command {
    let run = agent.run_command();
    let mut command = hosts.balancer.command(words[0]);
    command
        .args(&words[1..])
        .arg(run.get_program())
        .args(run.get_args());
    command
}

/// Clients that come all the time while `work` is done; none may fail, none may move.
fn under_load(hosts: &Hosts, work: impl FnOnce()) {
    let clients: Vec<_> = (1..=40).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 100);
    load.more(50);
    work();
    load.more(50);
    let mut homes = std::collections::BTreeMap::new();
    for visit in load.finish() {
        let answer = visit
            .answer
            .unwrap_or_else(|error| panic!("{}: {error}", visit.client));
        let home = *homes.entry(visit.client).or_insert(answer.port);
        assert_eq!(home, answer.port, "{} moved", visit.client);
    }
}

#[test]
fn without_descriptors_the_kernel_serves_and_the_agent_comes_back() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    agent.kill();
    agent.start_as(behind(&hosts, &agent, &["prlimit", "--nofile=160:160"]));
    under_load(&hosts, || {
        // Each takes two descriptors of the agent, which hangs up on whom it cannot serve.
        let held: Vec<_> = hosts.clients.run(|| {
            (1..=150)
                .filter_map(|n| http::connect(client_v6(n), SERVICE_V6).ok())
                .collect()
        });
        wait::until("the agent to run out of descriptors", || {
            agent
                .log()
                .contains("cannot accept connections, trying on")
                .then_some(())
        });
        drop(held);
    });
    wait::until("the agent to come back", || {
        let served = hosts
            .clients
            .run(|| http::get(client_v6(1), SERVICE_V6))
            .is_ok();
        (served && agent.run(&["status"]).code == 0).then_some(())
    });
    agent.ok(&["add-backend", "127.0.0.1:5002"]);
}

#[test]
fn killed_for_its_memory_the_agent_leaves_the_kernel_serving_and_comes_back() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    agent.kill();
    // Too little to start with.
    let limited = Limited::new(6 << 20);
    let join = format!("echo $$ > {} && exec \"$@\"", limited.members().display());
    under_load(&hosts, || {
        let mut command = behind(&hosts, &agent, &["sh", "-c", &join, "sh"]);
        let status = command.status().unwrap();
        assert!(!status.success(), "{status}");
    });
    agent.start_again();
    agent.ok(&["add-backend", "127.0.0.1:5002"]);
    under_load(&hosts, || {});
}

#[test]
fn a_clock_that_is_stepped_moves_nobody() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    agent.kill();
    let clock = Clock::new(agent.dir());
    let mut command = agent.run_command();
    clock.rule(&mut command);
    agent.start_as(command);
    let at = || {
        let stats: serde_json::Value =
            serde_json::from_str(&agent.ok(&["stats", "--json"])).unwrap();
        stats["at_unix_ms"].as_u64().unwrap()
    };
    let before = at();
    let home = agent.looked_up_port(client_v4(1));
    under_load(&hosts, || {
        for step in ["+400d", "-400d", "+0"] {
            clock.step(step);
            let now = at();
            if step != "+0" {
                let days = now.abs_diff(before) / 86_400_000;
                assert!(
                    (399..=401).contains(&days),
                    "the agent's clock is stepped: {days} days"
                );
            }
            assert_eq!(agent.looked_up_port(client_v4(1)), home);
            // Clients that come by the agent are remembered on the same clock as the others.
            hosts
                .clients
                .run(|| http::get(client_v6(1), SERVICE_V6).unwrap());
            let known = agent.lookup(client_v6(1));
            assert!(
                known["affinity"]["age_seconds"].as_u64() < Some(60),
                "{known}"
            );
        }
    });
}

#[test]
fn an_interface_may_go_down_and_get_another_name_and_address() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let get = |to: SocketAddr| hosts.clients.run(|| http::get(client_v4(1), to));
    let home = get(SERVICE_V4).unwrap().port;
    let link = |arguments: &[&str]| hosts.balancer.ip(&[&["link", "set"], arguments].concat());
    link(&["wire", "down"]);
    assert_eq!(agent.run(&["status"]).code, 0);
    link(&["wire", "up"]);
    wait::until("the wire", || {
        (get(SERVICE_V4).ok()?.port == home).then_some(())
    });
    link(&["wire", "down"]);
    link(&["wire", "name", "cable"]);
    link(&["cable", "up"]);
    wait::until("the wire", || {
        (get(SERVICE_V4).ok()?.port == home).then_some(())
    });
    // Another address: the service is on all of them.
    let address = |words: [&str; 2]| {
        let arguments = ["addr", words[0], words[1], "dev", "cable"];
        hosts.balancer.ip(&arguments);
    };
    address(["del", "10.99.0.1/16"]);
    address(["add", "10.99.0.77/16"]);
    let moved: SocketAddr = ([10, 99, 0, 77], 80).into();
    wait::until("the other address", || {
        (get(moved).ok()?.port == home).then_some(())
    });
    agent.ok(&["add-backend", "127.0.0.1:5002"]);
}

#[test]
fn ten_thousand_silent_clients_on_the_control_socket_keep_nobody_out() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    under_load(&hosts, || {
        let silent: Vec<UnixStream> = (0..10_000)
            .map(|_| UnixStream::connect(agent.control()).unwrap())
            .collect();
        agent.ok(&["status"]);
        agent.ok(&["add-backend", "127.0.0.1:5002"]);
        agent.ok(&["remove-backend", "127.0.0.1:5002"]);
        drop(silent);
    });
    agent.ok(&["status"]);
}

#[test]
fn noise_on_every_listening_socket_disturbs_nobody() {
    let hosts = Hosts::new();
    let services = format!(
        "{SERVICES}[[service]]\nname = 'names'\nmode = 'udp'\nlisten = ['0.0.0.0:53']\n\
         backends = ['127.0.0.1:5353']\n"
    );
    let agent = Agent::start(&hosts.balancer, &services);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let pid = agent.pid();
    let patience = Some(Duration::from_millis(20));
    let mut random = Random::new();
    under_load(&hosts, || {
        for n in 1..=100 {
            let bytes = junk(&mut random);
            let control = UnixStream::connect(agent.control()).unwrap();
            control.set_read_timeout(patience).unwrap();
            shout(control, &bytes);
            hosts.balancer.run(|| {
                let metrics = TcpStream::connect("127.0.0.1:9600").unwrap();
                metrics.set_read_timeout(patience).unwrap();
                shout(metrics, &bytes);
            });
            hosts.clients.run(|| {
                for (from, to) in [(client_v4(n), SERVICE_V4), (client_v6(n), SERVICE_V6)] {
                    let stream = http::connect(from, to).unwrap();
                    stream.set_read_timeout(patience).unwrap();
                    shout(stream, &bytes);
                }
                let socket = std::net::UdpSocket::bind((client_v4(n), 0)).unwrap();
                let to: SocketAddr = ([10, 99, 0, 1], 53).into();
                let end = bytes.len().min(1400);
                let _ = socket.send_to(&bytes[..end], to);
            });
        }
    });
    assert_eq!(agent.status()["agent"]["pid"], pid);
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    let backends = agent.status()["services"][0]["backends"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(backends, 2, "nothing was changed by noise");
}
