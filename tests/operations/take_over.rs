//! Another agent takes over without systemd. No client is refused meanwhile, and if the new agent cannot serve, the
//! running one goes on.

use std::fs;
use std::net::SocketAddr;

use lb_tests::agent::Agent;
use lb_tests::load::Load;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::topology::routed::{self, BALANCER, Bulk, CONTAINER, Net, bulk_server};
use lb_tests::{http, node, prog_run, wait};

const SERVICES: &str = "[[service]]\nname = 'web'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";
const MORE: &str =
    "[[service]]\nname = 'more'\nlisten = ['0.0.0.0:81']\nbackends = ['127.0.0.1:5000']\n";

fn pid(agent: &Agent<'_>) -> u64 {
    agent.status()["agent"]["pid"].as_u64().unwrap()
}

#[track_caller]
fn all_served(load: Load) {
    load.more(20);
    for visit in load.finish() {
        visit
            .answer
            .unwrap_or_else(|error| panic!("{}: {error}", visit.client));
    }
}

fn nobody_is_refused(data_plane: &'static str) {
    let hosts = Hosts::new();
    let agent = Agent::start_on(&hosts.balancer, SERVICES, data_plane);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let mut tunnels = node::Clients::new(&hosts.clients, agent.dir(), "tunnels");
    let from = [client_v4(200)];
    tunnels.open("websocket", SERVICE_V4, &from);
    let clients: Vec<_> = (1..=50).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 200);
    let first = pid(&agent);
    let mut before = first;
    for round in 0..3 {
        if round == 1 {
            agent.configure(&format!("{SERVICES}{MORE}"));
        }
        let said = agent.ok(&["upgrade"]);
        let now = pid(&agent);
        assert_ne!(now, before);
        assert!(
            said.contains(&format!("(pid {now}) has taken over")),
            "{said}"
        );
        before = now;
        // A tunnel of the first agent, which ends with its connections.
        if round == 0 {
            tunnels.echo(1000);
            assert!(tunnels.disconnects().is_empty());
        }
        load.more(50);
    }
    all_served(load);
    let more = SocketAddr::new(SERVICE_V4.ip(), 81);
    hosts.clients.run(|| http::get(client_v4(1), more).unwrap());
    tunnels.close();
    let alive = || fs::exists(format!("/proc/{first}/fd/0")).unwrap_or(false);
    wait::until("the end of the first agent", || (!alive()).then_some(()));
    assert!(agent.log().contains("taken over from the agent before"));
    tunnels.open("websocket", SERVICE_V4, &from);
    agent.ok(&["stop", "--purge"]);
    let lives = fs::exists(format!("/proc/{before}/fd/0")).unwrap_or(false);
    assert!(!lives, "stop waits for its end");
}

#[test]
fn no_client_is_refused_while_agents_change_on_the_kernels_data_plane() {
    nobody_is_refused("bpf");
}

#[test]
fn no_client_is_refused_while_agents_change_in_user_space() {
    nobody_is_refused("userspace");
}

/// Has another agent end when it has sockets and programs already.
#[track_caller]
fn upgrade_in_vain(agent: &Agent<'_>) {
    let state = agent.dir().join("state/state.json");
    let sound = fs::read(&state).ok();
    let programs = || {
        let mut pinned = prog_run::pinned(agent.pin_dir());
        pinned.sort();
        pinned
    };
    let before = programs();
    fs::write(&state, "{").unwrap();
    let outcome = agent.run(&["upgrade"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("state.json"), "{outcome:?}");
    match sound {
        Some(sound) => fs::write(&state, sound).unwrap(),
        None => fs::remove_file(&state).unwrap(),
    }
    assert!(agent.log().contains("another agent has not taken over"));
    wait::until("the programs of before", || {
        (programs() == before).then_some(())
    });
}

#[test]
fn flows_of_packets_go_on_whether_the_next_agent_serves_or_not() {
    let net = Net::new();
    bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000));
    let services = format!(
        "[[service]]\nname = 'web'\npath = 'nat'\nlisten = ['{}:80']\nbackends = ['{}:5000']\n",
        BALANCER[0], CONTAINER[0]
    );
    let agent = Agent::start(&net.balancer, &services);
    let [client, _] = routed::client(1);
    let to = SocketAddr::new(BALANCER[0], 80);
    let transfer = |flow: &mut Bulk| net.clients.run(|| flow.transfer(100_000, 100_000).unwrap());
    let begin = || net.clients.run(|| Bulk::connect(client, to).unwrap());
    let mut first = begin();
    transfer(&mut first);
    upgrade_in_vain(&agent);
    transfer(&mut first);
    let mut second = begin();
    transfer(&mut second);
    let before = pid(&agent);
    agent.ok(&["upgrade"]);
    assert_ne!(pid(&agent), before);
    for flow in [&mut first, &mut second, &mut begin()] {
        transfer(flow);
    }
}

#[test]
fn running_agent_goes_on_when_the_next_one_cannot_serve() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001, 5002], agent.dir());
    let clients: Vec<_> = (1..=20).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 100);
    let running = pid(&agent);

    agent.configure("[[service]]\nnam = 'web'\n");
    let outcome = agent.run(&["upgrade"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("nam"), "{outcome:?}");
    assert!(
        outcome.stderr.contains(&format!("{running} goes on")),
        "{outcome:?}"
    );

    agent.configure(&format!("{SERVICES}{MORE}"));
    agent.ok(&["add-backend", "127.0.0.1:5002"]);
    upgrade_in_vain(&agent);
    assert_eq!(pid(&agent), running);

    agent.ok(&[
        "drain-backend",
        "127.0.0.1:5002",
        "--timeout",
        "1s",
        "--now",
    ]);
    agent.ok(&["remove-backend", "127.0.0.1:5002"]);
    all_served(load);
    agent.ok(&["reload"]);
    let more = SocketAddr::new(SERVICE_V4.ip(), 81);
    hosts.clients.run(|| http::get(client_v4(1), more).unwrap());
}

#[test]
fn agent_of_a_supervisor_is_not_replaced_behind_its_back() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    agent.ok(&["stop"]);
    agent.wait_for_end();
    let mut command = agent.run_command();
    command.env("UPSTART_JOB", "lb-agent");
    agent.start_as(command);
    let running = pid(&agent);
    let outcome = agent.run(&["upgrade"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(
        outcome.stderr.contains("use restart lb-agent"),
        "{outcome:?}"
    );
    assert_eq!(pid(&agent), running);
}

#[test]
fn agent_that_is_to_take_over_starts_alone_when_none_is_running() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let mut first = agent.take_over();
    assert!(first.wait().success());
    agent.kill();
    let mut command = agent.run_command();
    command.arg("--take-over");
    agent.start_as(command);
    hosts
        .clients
        .run(|| http::get(client_v4(1), SERVICE_V4).unwrap());
    let another = agent.run_command().output().unwrap();
    let said = String::from_utf8_lossy(&another.stderr);
    assert!(said.contains("another lb-agent uses"), "{said}");
}
