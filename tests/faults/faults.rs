//! Faults around an agent: descriptors and memory used up, clocks stepped, interfaces that change,
//! crowds and noise on its sockets. Clients that the kernel serves are not affected.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::clock::Clock;
use lb_tests::junk_traffic::{junk, shout};
use lb_tests::limited::Limited;
use lb_tests::load::Load;
use lb_tests::random::Random;
use lb_tests::tls::Authority;
use lb_tests::topology::hosts::{self, Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6};
use lb_tests::topology::routed::bulk_server;
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
    let mut homes = BTreeMap::new();
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
        // Each takes two descriptors of the agent, which closes connections that it cannot serve.
        let held: Vec<_> = hosts.clients.run(|| {
            (1..=150)
                .filter_map(|n| http::connect(client_v6(n), SERVICE_V6).ok())
                .collect()
        });
        wait::until("the agent to run out of descriptors", || {
            agent.log().contains("descriptors are scarce").then_some(())
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
    // Memory that it already has is not counted there; memory that it takes from now on is.
    let limited = Limited::new(512 << 10);
    fs::write(limited.members(), agent.pid().to_string()).unwrap();
    let mut held = Vec::new();
    under_load(&hosts, || {
        let mut next = (1..=200).cycle();
        wait::until("the agent to be killed", || {
            let from = client_v6(next.next().expect("a cycle"));
            // Clients of the other family come by the agent.
            held.extend(hosts.clients.run(|| http::connect(from, SERVICE_V6)));
            agent.has_ended().then_some(())
        });
        agent.kill();
        // Too little to start with.
        let join = format!("echo $$ > {} && exec \"$@\"", limited.members().display());
        let mut command = behind(&hosts, &agent, &["sh", "-c", &join, "sh"]);
        let status = command.status().unwrap();
        assert!(!status.success(), "{status}");
        agent.start_again();
    });
    println!("{} connections through the agent ended with it", held.len());
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
    let drained = || agent.backend("127.0.0.1:5001");
    under_load(&hosts, || {
        // Its clients stay until an hour has passed, even if the clock is stepped.
        agent.ok(&["drain-backend", "127.0.0.1:5001", "--timeout", "1h"]);
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
            assert_eq!(drained()["state"], "draining", "{step}");
            let left = drained()["drain_seconds_left"].as_u64();
            assert!((3000..=3600).contains(&left.unwrap()), "{step}: {left:?}");
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
    // Nor do they stay longer.
    agent.ok(&["drain-backend", "127.0.0.1:5001", "--timeout", "1s"]);
    clock.step("-400d");
    wait::until("the end of the drain", || {
        (drained()["state"] == "drained").then_some(())
    });
}

#[test]
fn an_interface_may_go_down_and_get_another_name_and_address() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let open: Vec<TcpStream> = hosts.clients.run(|| {
        let connect = |n| http::connect(client_v4(n), SERVICE_V4).unwrap();
        (41..=60).map(connect).collect()
    });
    let homes: Vec<u16> = open
        .iter()
        .map(|one| http::ask(one).unwrap().port)
        .collect();
    let clients: Vec<_> = (1..=40).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 100);
    load.more(50);
    let begun = Instant::now();
    let get = |to: SocketAddr| hosts.clients.run(|| http::get(client_v4(100), to));
    let home = get(SERVICE_V4).unwrap().port;
    let served_at = |to: SocketAddr| {
        wait::until("the wire", || (get(to).ok()?.port == home).then_some(()));
    };
    let link = |arguments: &[&str]| hosts.balancer.ip(&[&["link", "set"], arguments].concat());
    link(&["wire", "down"]);
    assert_eq!(agent.run(&["status"]).code, 0);
    link(&["wire", "up"]);
    served_at(SERVICE_V4);
    link(&["wire", "down"]);
    link(&["wire", "name", "cable"]);
    link(&["cable", "up"]);
    served_at(SERVICE_V4);
    // Another address: the service is on all of them.
    let address = |words: [&str; 2]| {
        let arguments = ["addr", words[0], words[1], "dev", "cable"];
        hosts.balancer.ip(&arguments);
    };
    address(["del", "10.99.0.1/16"]);
    address(["add", "10.99.0.77/16"]);
    served_at(([10, 99, 0, 77], 80).into());
    address(["add", "10.99.0.1/16"]);
    served_at(SERVICE_V4);
    let over = Instant::now();
    load.more(50);
    agent.ok(&["add-backend", "127.0.0.1:5002"]);
    // Open connections go on. Clients that could not get through meanwhile find the same copy.
    for (one, home) in open.iter().zip(homes) {
        assert_eq!(http::ask(one).unwrap().port, home);
    }
    let (mut at, mut lost) = (BTreeMap::new(), 0);
    let visits = load.finish();
    for visit in &visits {
        match &visit.answer {
            Ok(answer) => {
                let home = *at.entry(visit.client).or_insert(answer.port);
                assert_eq!(home, answer.port, "{} moved", visit.client);
            }
            Err(error) => {
                let cut_off = visit.begun <= over && visit.ended >= begun;
                assert!(cut_off, "{}: {error}", visit.client);
                lost += 1;
            }
        }
    }
    println!("interface: {lost} of {} connections lost", visits.len());
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
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let container = hosts.container();
    bulk_server(&container, SocketAddr::new(hosts::CONTAINER[0], 5000));
    let certificate = Authority::new(dir.path()).issue("a", &["a.test"]);
    let services = format!(
        "{SERVICES}[[service]]\nname = 'names'\nmode = 'udp'\nlisten = ['0.0.0.0:53']\n\
         backends = ['127.0.0.1:5353']\n\
         [[service]]\nname = 'app'\nmode = 'http'\nlisten = ['0.0.0.0:81']\n\
         backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n\
         [service.tls]\nlisten = ['0.0.0.0:443']\ncertificates = [{}]\n\
         [[service]]\nname = 'far'\nlisten = ['10.99.0.1:90']\nbackends = ['{}:5000']\n",
        certificate.toml(),
        hosts::CONTAINER[0],
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
                let v4 = [80, 81, 443, 90].map(|port| SocketAddr::new(SERVICE_V4.ip(), port));
                let v4 = v4.map(|to| (client_v4(n), to));
                for (from, to) in v4.into_iter().chain([(client_v6(n), SERVICE_V6)]) {
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
