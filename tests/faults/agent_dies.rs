//! The kernel serves without the agent. While the agent is killed and started again under load, no
//! connection fails or moves, and counts stay right.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::flaky_backend::FlakyBackend;
use lb_tests::node::{self, Clients};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, wait};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

#[test]
fn kill_and_start_again_under_load_fails_and_moves_nothing() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    agent.ok(&["add-backend", "127.0.0.1:5002"]);
    let late = ([127, 0, 0, 1], 5002).into();
    let _late = node::serve(&hosts.balancer, "server.js", late, agent.dir());
    let mut sessions = Clients::new(&hosts.clients, agent.dir(), "sessions");
    let from: Vec<IpAddr> = (101..=150).map(client_v4).collect();
    sessions.open("websocket", SERVICE_V4, &from);

    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = || {
        let mut homes: BTreeMap<u16, u16> = BTreeMap::new();
        for n in (1..=100).cycle() {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let answer = http::get(client_v4(n), SERVICE_V4);
            let port = answer
                .unwrap_or_else(|error| panic!("client {n}: {error}"))
                .port;
            assert_eq!(*homes.entry(n).or_insert(port), port, "client {n} moved");
            made.fetch_add(1, Ordering::SeqCst);
        }
    };
    let some = || {
        let start = made.load(Ordering::SeqCst);
        wait::until("connections", || {
            (made.load(Ordering::SeqCst) >= start + 150).then_some(())
        });
    };
    std::thread::scope(|scope| {
        let stop = wait::Stop(&stop);
        let load = scope.spawn(|| hosts.clients.run(load));
        some();
        for _ in 0..5 {
            agent.kill();
            some();
            agent.start_again();
            some();
        }
        drop(stop);
        load.join().unwrap();
    });
    sessions.echo(1000);
    assert_eq!(sessions.disconnects(), Vec::<IpAddr>::new());
    assert_eq!(
        agent.backend("127.0.0.1:5002")["source"],
        "runtime",
        "it is kept"
    );
    let active = || {
        let status = agent.status();
        let backends = status["services"][0]["backends"]
            .as_array()
            .unwrap()
            .clone();
        backends
            .iter()
            .map(|backend| backend["active"].as_u64().unwrap())
            .sum::<u64>()
    };
    wait::until("50 open connections", || (active() == 50).then_some(()));
    sessions.close();
    wait::until("no open connection", || (active() == 0).then_some(()));
}

#[test]
fn a_stopped_agent_leaves_the_kernel_forwarding_and_purge_takes_everything_out() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let [_app] = node::copies(&hosts.balancer, [5000], agent.dir());
    let get = || hosts.clients.run(|| http::get(client_v4(1), SERVICE_V4));
    agent.ok(&["stop"]);
    agent.kill();
    assert_eq!(agent.run(&["status"]).code, 3);
    assert_eq!(get().unwrap().port, 5000, "the kernel goes on");
    agent.start_again();
    assert_eq!(get().unwrap().port, 5000);
    let state = format!("{}/state is left: ", agent.dir().display());
    let told = agent.ok(&["stop", "--purge"]);
    assert!(told.contains(&state), "{told}");
    assert!(!agent.pin_dir().exists(), "no pin is left");
    assert_eq!(
        get().unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    // Without an agent `stop --purge` does it itself.
    agent.kill();
    agent.start_again();
    agent.kill();
    assert!(agent.pin_dir().exists());
    let config = agent.config();
    let told = agent.ok(&["stop", "--purge", "--config", config.to_str().unwrap()]);
    assert!(told.contains(&state), "{told}");
    assert!(!agent.pin_dir().exists());
}

/// 250 services of 15 backends each, from ports 10000 and 20000 on.
fn large() -> String {
    let service = |n: u16| {
        let backend = |m: u16| format!("'127.0.0.1:{}'", 20_000 + 15 * n + m);
        let backends: Vec<String> = (0..15).map(backend).collect();
        format!(
            "[[service]]\nname = 's{n}'\nlisten = ['0.0.0.0:{}']\nbackends = [{}]\n",
            10_000 + n,
            backends.join(", ")
        )
    };
    (0..250).map(service).collect()
}

#[test]
fn agent_with_3750_backends_starts_within_seconds_and_each_service_has_its_table() {
    let hosts = Hosts::new();
    let begun = Instant::now();
    let mut agent = Agent::start(&hosts.balancer, &large());
    let first = begun.elapsed();
    agent.end();
    let begun = Instant::now();
    agent.start_again();
    let next = begun.elapsed();
    // 1.8 s and 1.5 s, of which most is spent on the CPU; it was 7.7 s.
    let most = Duration::from_secs(5);
    assert!(first < most && next < most, "{first:?}, {next:?}");
    // One of the middle, and the ends of the tables that are swapped in together.
    for service in [0, 31, 32, 100, 249] {
        let port = 20_000 + 15 * service + 7;
        let _app = FlakyBackend::new(&hosts.balancer, &format!("127.0.0.1:{port}"));
        let to = SocketAddr::new(SERVICE_V4.ip(), 10_000 + service);
        let answer = hosts.clients.run(|| http::get(client_v4(1), to));
        assert_eq!(answer.unwrap().port, port);
    }
}
