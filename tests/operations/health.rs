//! Backends are checked, unhealthy ones get no clients, and `status` shows the reason.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::flaky_backend::{FlakyBackend, Mood};
use lb_tests::process::Process;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::topology::routed::{Bulk, CONTAINER, Net, VIP, bulk_server, client, connecting};
use lb_tests::{http, node, wait};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

const BACKENDS: [&str; 2] = ["127.0.0.1:5000", "127.0.0.1:5001"];

fn service(health: &str) -> String {
    format!(
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
         backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n[service.health]\n\
         interval = '100ms'\ntimeout = '1s'\n{health}\n"
    )
}

/// The same with one probe of each backend that counts: the first, which may take its time.
fn rarely(service: &str) -> String {
    service.replace("'100ms'", "'1h'").replace("'1s'", "'50s'")
}

fn two(hosts: &Hosts) -> [FlakyBackend; 2] {
    BACKENDS.map(|address| FlakyBackend::new(&hosts.balancer, address))
}

/// The ports that the clients with these numbers get to.
fn ports(hosts: &Hosts, clients: std::ops::RangeInclusive<u16>) -> Vec<u16> {
    let get = |n| http::get(client_v4(n), SERVICE_V4).map(|answer| answer.port);
    hosts
        .clients
        .run(|| clients.map(|n| get(n).unwrap()).collect())
}

fn health(agent: &Agent<'_>, address: &str) -> Value {
    agent.backend(address)["health"].clone()
}

#[track_caller]
fn wait_for_health(agent: &Agent<'_>, address: &str, state: &str) {
    wait::until(&format!("{address} {state}"), || {
        (health(agent, address)["state"] == state).then_some(())
    });
}

/// Waits until a backend is unhealthy and gets no clients: a check's result is put in force a moment
/// later.
fn wait_until_out(agent: &Agent<'_>, address: &str) {
    wait_for_health(agent, address, "down");
    wait::until(&format!("{address} out of service"), || {
        (agent.backend(address)["state"] == "down").then_some(())
    });
}

#[test]
fn a_backend_whose_check_fails_gets_nobody_and_status_says_why() {
    let hosts = Hosts::new();
    let apps = two(&hosts);
    let agent = Agent::start(
        &hosts.balancer,
        &service("path = '/healthz'\nbody = 'port'"),
    );
    BACKENDS
        .iter()
        .for_each(|address| wait_for_health(&agent, address, "up"));
    assert!(ports(&hosts, 1..=50).contains(&5001));

    apps[1].feel(Mood::Status(503));
    wait_until_out(&agent, BACKENDS[1]);
    assert_eq!(ports(&hosts, 1..=100), [5000; 100]);
    // One of many probes may find a machine too busy to answer in time.
    let found = wait::until("the reason", || {
        Some(agent.backend(BACKENDS[1]))
            .filter(|found| found["health"]["last_error"] == "status 503")
    });
    assert_eq!(found["down_because"], "unhealthy");
    assert_eq!(found["health"]["check"], "http GET /healthz");
    assert!(found["health"]["since_seconds"].is_u64(), "{found}");
    wait::until("the reason in words", || {
        let text = agent.ok(&["status"]);
        text.contains("http GET /healthz: status 503").then_some(())
    });

    apps[1].feel(Mood::Well);
    wait::until("state up", || {
        (agent.backend(BACKENDS[1])["state"] == "up").then_some(())
    });
    assert!(ports(&hosts, 101..=200).contains(&5001));
    assert!(
        ports(&hosts, 1..=100).iter().all(|port| *port == 5000),
        "who left stays away"
    );
}

fn signal(process: &Process, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(process.pid() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_frozen_process_is_found_by_either_kind_of_check() {
    for kind in ["type = 'tcp'", "type = 'http'\npath = '/id'"] {
        let hosts = Hosts::new();
        let agent = Agent::start(&hosts.balancer, &service(kind));
        let apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
        BACKENDS
            .iter()
            .for_each(|address| wait_for_health(&agent, address, "up"));
        signal(&apps[1], rustix::process::Signal::STOP);
        // The kernel goes on completing its handshakes: it listens.
        assert_eq!(agent.backend(BACKENDS[1])["listening"], true);
        wait_until_out(&agent, BACKENDS[1]);
        assert_eq!(ports(&hosts, 1..=50), [5000; 50], "{kind}");
        signal(&apps[1], rustix::process::Signal::CONT);
        wait_for_health(&agent, BACKENDS[1], "up");
    }
}

#[test]
fn when_all_are_down_they_serve_or_refuse_as_configured() {
    for (all_down, refused) in [("serve", false), ("refuse", true)] {
        let hosts = Hosts::new();
        let apps = two(&hosts);
        let text = format!("path = '/'\nstatus = '200'\nall_down = '{all_down}'");
        let agent = Agent::start(&hosts.balancer, &service(&text));
        apps.iter().for_each(|app| app.feel(Mood::Status(500)));
        BACKENDS
            .iter()
            .for_each(|address| wait_for_health(&agent, address, "down"));
        let get = |n| hosts.clients.run(|| http::get(client_v4(n), SERVICE_V4));
        let expected = if refused { "down" } else { "up" };
        wait::until(expected, || {
            let state = |address| agent.backend(address)["state"] == expected;
            BACKENDS.into_iter().all(state).then_some(())
        });
        match get(1) {
            Ok(_) => assert!(!refused),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                assert!(refused);
            }
        }
        apps.iter().for_each(|app| app.feel(Mood::Well));
        wait::until("service", || get(1).ok());
    }
}

#[test]
fn with_http_all_down_is_an_honest_503_unless_they_are_to_serve() {
    for (all_down, expected) in [("", 503), ("all_down = 'serve'", 500)] {
        let hosts = Hosts::new();
        let apps = two(&hosts);
        let text = service(&format!("path = '/'\nstatus = '200'\n{all_down}"));
        let text = text.replace("listen =", "mode = 'http'\nlisten =");
        let agent = Agent::start(&hosts.balancer, &text);
        apps.iter().for_each(|app| app.feel(Mood::Status(500)));
        BACKENDS
            .iter()
            .for_each(|address| wait_for_health(&agent, address, "down"));
        let ask = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let get = || -> std::io::Result<String> {
            let mut stream = http::connect(client_v4(1), SERVICE_V4)?;
            std::io::Write::write_all(&mut stream, ask.as_bytes())?;
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut stream, &mut answer)?;
            Ok(answer)
        };
        wait::until(&format!("an answer {expected}"), || {
            let answer = hosts.clients.run(get).ok()?;
            answer
                .starts_with(&format!("HTTP/1.1 {expected}"))
                .then_some(())
        });
    }
}

#[test]
fn an_agent_that_starts_again_goes_on_with_what_the_last_one_knew() {
    let hosts = Hosts::new();
    let apps = two(&hosts);
    let mut agent = Agent::start(&hosts.balancer, &service("path = '/'"));
    apps[1].feel(Mood::Slow(Duration::from_secs(5)));
    wait::until("state down", || {
        (agent.backend(BACKENDS[1])["state"] == "down").then_some(())
    });
    agent.kill();
    agent.start_again();
    // The probes of this agent have not failed yet: the first takes a second.
    assert_eq!(agent.backend(BACKENDS[1])["state"], "down");
    assert_eq!(ports(&hosts, 1..=50), [5000; 50]);
    apps[1].feel(Mood::Well);
    wait_for_health(&agent, BACKENDS[1], "up");
}

#[test]
fn a_backend_that_is_back_gets_its_share_step_by_step() {
    let hosts = Hosts::new();
    let apps = two(&hosts);
    let agent = Agent::start(&hosts.balancer, &service("path = '/'\nslow_start = '8s'"));
    apps[1].feel(Mood::Status(500));
    wait_until_out(&agent, BACKENDS[1]);
    apps[1].feel(Mood::Well);
    let mut shares: Vec<f64> = Vec::new();
    wait::until("its whole share", || {
        let backend = agent.backend(BACKENDS[1]);
        let share = backend["share"].as_f64().unwrap();
        if backend["state"] == "up" && shares.last().is_none_or(|last| share > last + 0.001) {
            shares.push(share);
        }
        (share > 0.49 && shares.len() > 1).then_some(())
    });
    assert!(shares[0] < 0.4, "it begins with less: {shares:?}");
    assert!(shares.len() > 2, "and grows: {shares:?}");
    assert_eq!(
        agent.backend(BACKENDS[1])["weight"],
        1,
        "its weight is what was configured"
    );
}

#[test]
fn failures_met_while_serving_take_a_backend_out_before_the_next_probe() {
    let hosts = Hosts::new();
    let [well, gone] = two(&hosts);
    let text = rarely(&service("type = 'tcp'"));
    let agent = Agent::start_on(&hosts.balancer, &text, "userspace");
    BACKENDS
        .iter()
        .for_each(|address| wait_for_health(&agent, address, "up"));
    drop(gone);
    let mut client = 0;
    wait::until("unhealthy", || {
        client = client % 200 + 1;
        assert_eq!(ports(&hosts, client..=client), [5000], "passed on at once");
        (health(&agent, BACKENDS[1])["state"] == "down").then_some(())
    });
    assert!(well.connections() > 0);
}

#[test]
fn syns_that_nobody_answers_take_a_backend_out_before_the_next_probe() {
    let net = Net::new();
    let [well, hung] = [5000, 5001].map(|port| SocketAddr::new(CONTAINER[0], port));
    bulk_server(&net.container, well);
    let listener = net.container.run(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        listener.bind(&hung.into()).unwrap();
        listener.listen(16).unwrap();
        listener
    });
    let to = SocketAddr::new(VIP[0], 80);
    // A probe that gets no answer is no failure for an hour either.
    let agent = Agent::start(
        &net.balancer,
        &format!(
            "hash_seed = '00112233445566778899aabbccddeeff'\n[[service]]\nname = 'web'\n\
             listen = ['{to}']\npath = 'nat'\nbackends = ['{well}', '{hung}']\n\
             [service.health]\ntype = 'tcp'\ninterval = '2h'\ntimeout = '1h'\nfall = 3\n"
        ),
    );
    let (well, hung) = (well.to_string(), hung.to_string());
    for address in [&well, &hung] {
        wait_for_health(&agent, address, "up");
    }
    let its: Vec<IpAddr> = (1..=20)
        .map(|n| client(n)[0])
        .filter(|client| agent.lookup(*client)["backend"] == hung.as_str())
        .collect();
    assert!(its.len() >= 3, "{its:?}");
    // The probe is in its queue, as the listener accepts no connection. From now on the queue is full,
    // and the kernel drops all other SYNs.
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    for (n, from) in its.iter().take(3).enumerate() {
        assert_eq!(agent.backend(&hung)["state"], "up", "after {n} clients");
        waiting.push(net.clients.run(|| connecting(*from, to)));
    }
    wait_until_out(&agent, &hung);
    let error = health(&agent, &hung)["last_error"].clone();
    assert_eq!(error, "it has refused a connection, or not answered");
    for from in its {
        let visit = || Bulk::connect(from, to)?.transfer(1000, 1000);
        assert_eq!(
            net.clients.run(visit).unwrap(),
            from,
            "its clients leave it"
        );
    }
    assert_eq!(agent.backend(&well)["state"], "up");
    drop((waiting, listener));
}

#[test]
fn a_thousand_backends_are_checked_without_a_rush() {
    let hosts = Hosts::new();
    let app = FlakyBackend::new(&hosts.balancer, "0.0.0.0:5000");
    let addresses: Vec<String> = (0..1000)
        .map(|n| format!("'127.1.{}.{}:5000'", n / 250, n % 250 + 1))
        .collect();
    let services = format!(
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = [{}]\n\
         [service.health]\ntype = 'tcp'\ninterval = '10s'\ntimeout = '10s'\n",
        addresses.join(", ")
    );
    let begun = Instant::now();
    let agent = Agent::start(&hosts.balancer, &services);
    let up = || {
        let status = agent.status();
        let backends = status["services"][0]["backends"]
            .as_array()
            .unwrap()
            .clone();
        let up = |backend: &&Value| backend["health"]["state"] == "up";
        backends.iter().filter(up).count()
    };
    wait::until("a thousand checks", || (up() == 1000).then_some(()));
    // One connection for each in every interval, not one for each and each moment.
    let intervals = begun.elapsed().as_secs() as usize / 9 + 1;
    let made = app.connections();
    assert!(
        made < 1000 * (intervals + 1),
        "{made} in {intervals} intervals"
    );
    let served = hosts.clients.run(|| http::get(client_v4(1), SERVICE_V4));
    assert_eq!(served.unwrap().port, 5000);
}

#[test]
fn requests_that_fail_count_like_failed_checks() {
    let hosts = Hosts::new();
    let [_well, bad] = two(&hosts);
    let text = rarely(&service("type = 'tcp'")).replace("listen =", "mode = 'http'\nlisten =");
    let agent = Agent::start(&hosts.balancer, &text);
    BACKENDS
        .iter()
        .for_each(|address| wait_for_health(&agent, address, "up"));
    // Connections are taken, so that a TCP check finds nothing wrong. Requests do.
    bad.feel(Mood::Resetting);
    let mut client = 0;
    wait::until("a suspicion", || {
        client = client % 200 + 1;
        let _ = hosts
            .clients
            .run(|| http::get(client_v4(client), SERVICE_V4));
        let error = health(&agent, BACKENDS[1])["last_error"].clone();
        // A reset may come before the agent has seen that it was connected.
        let told = [
            "a request got no answer that makes sense",
            "a request found no connection",
        ];
        told.contains(&error.as_str()?).then_some(())
    });
}
