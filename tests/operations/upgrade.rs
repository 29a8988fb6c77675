//! Another agent takes over. Programs are tried before they are put in force, counts go on, and an
//! interrupted start does not block the next one. State that cannot be taken over is named with the
//! remedy.

use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::time::Duration;

use lb_agent::dataplane::bpf::canary::{self, CanaryError};
use lb_common::abi::{ABI_VERSION, META_MAGIC, ServiceKey, protocol};
use lb_common::addr;
use lb_tests::agent::Agent;
use lb_tests::load::Load;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, prog_run, random, wait};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

#[test]
fn a_program_that_would_turn_clients_away_is_not_let_in() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let running = agent.pin_dir().join("programs/lb_steer");
    let services = [ServiceKey::new(addr::ANY_V4, 80, protocol::TCP)];
    let check = |verdict| {
        let program = prog_run::careless_program(verdict).unwrap();
        // The trial looks up sockets in the namespace of its caller.
        hosts
            .balancer
            .run(|| canary::check(program.as_fd(), &running, &services))
    };
    // A program that passes all connections on finds no socket for some that the running one serves.
    let error = check(1).unwrap_err();
    assert!(
        matches!(&error, CanaryError::Worse { service } if service == "0.0.0.0:80"),
        "{error}"
    );
    // A program that drops all connections also drops those for no service.
    assert!(matches!(check(0).unwrap_err(), CanaryError::Worse { .. }));
}

#[test]
fn a_packet_program_that_would_drop_what_is_not_its_own_is_not_let_in() {
    let hosts = Hosts::new();
    let check = |verdict| {
        let program = prog_run::careless_packet_program(verdict).unwrap();
        hosts
            .balancer
            .run(|| canary::check_packets(program.as_fd(), "lb_xdp", canary::pass::XDP))
    };
    const XDP_DROP: u32 = 1;
    assert!(check(canary::pass::XDP).is_ok());
    let error = check(XDP_DROP).unwrap_err();
    assert!(
        matches!(error, CanaryError::Meddles { program: "lb_xdp" }),
        "{error}"
    );
}

#[test]
fn trials_are_not_counted_and_counts_go_on() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    for n in 1..=20 {
        hosts
            .clients
            .run(|| http::get(client_v4(n), SERVICE_V4).unwrap());
    }
    let figures = |agent: &Agent<'_>| {
        let text = agent.ok(&["stats", "--json"]);
        let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
        let counters = stats["status"]["services"][0]["counters"].clone();
        (counters, stats["clients"].clone(), stats["drops"].clone())
    };
    let before = figures(&agent);
    assert_eq!(before.0["slot"], 20);
    agent.kill();
    agent.start_again();
    agent.ok(&["stop"]);
    agent.start_again();
    assert_eq!(figures(&agent), before);
}

#[test]
fn starts_that_are_cut_short_leave_nothing_in_the_way() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let mut random = random::Random::new();
    let mut cut_short = |agent: &Agent<'_>| {
        let mut command = agent.run_command();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // At any moment of a start: the wait is for a point in time, not for a condition.
        std::thread::sleep(Duration::from_millis(random.below(700)));
        child.kill().unwrap();
        child.wait().unwrap();
    };
    // From nothing: the next start finishes any half-made state.
    for _ in 0..5 {
        agent.ok(&["stop", "--purge"]);
        agent.kill();
        cut_short(&agent);
        agent.start_again();
        hosts
            .clients
            .run(|| http::get(client_v4(1), SERVICE_V4).unwrap());
    }
    // Over a previous agent: no client is affected.
    agent.kill();
    let clients: Vec<_> = (1..=50).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 200);
    for _ in 0..10 {
        cut_short(&agent);
    }
    agent.start_again();
    load.more(20);
    for visit in load.finish() {
        visit
            .answer
            .unwrap_or_else(|error| panic!("{}: {error}", visit.client));
    }
}

#[test]
fn pins_of_another_version_are_named_with_the_way_out_and_go_on_serving() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    agent.kill();
    let words = [META_MAGIC, ABI_VERSION + 1, 0, 0];
    let other: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    prog_run::overwrite(&agent.pin_dir().join("maps/META"), &other).unwrap();

    let output = agent.run_command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(2),
        "no use in trying again: {said}"
    );
    assert!(said.contains("lb-agent stop --purge"), "{said}");
    let config = agent.config();
    let config = config.to_str().unwrap();
    let doctor = agent.run(&["doctor", "--config", config]);
    let pins = agent.pin_dir().display();
    let named = format!(
        "{pins} is of another version of lb-agent (layout {}",
        ABI_VERSION + 1
    );
    assert!(doctor.stdout.contains(&named), "{}", doctor.stdout);
    hosts
        .clients
        .run(|| http::get(client_v4(1), SERVICE_V4).unwrap());

    agent.ok(&["stop", "--purge", "--config", config]);
    agent.start_again();
    hosts
        .clients
        .run(|| http::get(client_v4(1), SERVICE_V4).unwrap());
}

#[test]
fn stop_leaves_the_kernel_forwarding_and_purge_leaves_no_trace() {
    let hosts = Hosts::new();
    let before = hosts.balancer.network_settings();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let objects = prog_run::pinned(agent.pin_dir());
    assert!(objects.len() > 10 && objects.iter().all(prog_run::Object::exists));
    agent.ok(&["stop"]);
    agent.wait_for_end();
    hosts
        .clients
        .run(|| http::get(client_v4(1), SERVICE_V4).unwrap());
    assert!(objects.iter().all(prog_run::Object::exists));

    agent.start_again();
    let all = prog_run::pinned(agent.pin_dir());
    agent.ok(&["stop", "--purge"]);
    agent.wait_for_end();
    assert!(!agent.pin_dir().exists());
    hosts
        .clients
        .run(|| http::get(client_v4(1), SERVICE_V4).unwrap_err());
    wait::until("the kernel to let go of everything", || {
        let left = objects.iter().chain(&all).filter(|object| object.exists());
        (left.count() == 0).then_some(())
    });
    let after = hosts.balancer.network_settings();
    let differences: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(differences.is_empty(), "{differences:?}");
}
