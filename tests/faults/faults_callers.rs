//! Many callers that change the agent at once, and agents that get in each other's way.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use lb_tests::agent::{Agent, Outcome};
use lb_tests::flaky_backend::FlakyBackend;
use lb_tests::load::Load;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, wait};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

fn two(hosts: &Hosts) -> [FlakyBackend; 2] {
    [5000, 5001].map(|port| FlakyBackend::new(&hosts.balancer, &format!("127.0.0.1:{port}")))
}

#[test]
fn a_thousand_changes_by_eight_callers_at_once_are_all_made_and_move_nobody() {
    let hosts = Hosts::new();
    let _apps = two(&hosts);
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let clients: Vec<IpAddr> = (1..=50).map(client_v4).collect();
    let home = |client: &IpAddr| (*client, http::get(*client, SERVICE_V4).unwrap().port);
    let homes: BTreeMap<IpAddr, u16> = hosts.clients.run(|| clients.iter().map(home).collect());
    let load = Load::start(&hosts.clients, &clients, 100);
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let agent = &agent;
            scope.spawn(move || {
                let address = format!("127.0.0.1:{}", 6000 + caller);
                for round in 0..125 {
                    let verb = if round % 2 == 0 {
                        "add-backend"
                    } else {
                        "remove-backend"
                    };
                    // 126 changes, the last one undone below: each caller ends in its initial state.
                    agent.ok(&[verb, &address]);
                }
                agent.ok(&["remove-backend", &address]);
            });
        }
    });
    load.more(20);
    for visit in load.finish() {
        let answer = visit
            .answer
            .unwrap_or_else(|error| panic!("{}: {error}", visit.client));
        assert_eq!(answer.port, homes[&visit.client], "{} moved", visit.client);
    }
    let status = agent.status();
    let backends = status["services"][0]["backends"].as_array().unwrap();
    assert_eq!(backends.len(), 2, "{status:#}");
    let shares: f64 = backends.iter().map(|b| b["share"].as_f64().unwrap()).sum();
    assert!(
        (shares - 1.0).abs() < 1e-6,
        "every slot has its owner: {shares}"
    );
    let kept = std::fs::read_to_string(agent.dir().join("state/state.json")).unwrap();
    assert!(!kept.contains(":60"), "{kept}");
}

/// Starts another agent with a configuration of its own; returns its output.
fn second(agent: &Agent<'_>, hosts: &Hosts, state: &str, control: &str, pins: &str) -> Outcome {
    let dir = agent.dir().join("second");
    std::fs::create_dir_all(&dir).unwrap();
    let text = format!(
        "[agent]\nstate_dir = '{state}'\ncontrol = '{control}'\npin_dir = '{pins}'\n\
         data_plane = 'bpf'\nmax_clients = 4096\n{SERVICES}"
    );
    let path = dir.join("config.toml");
    std::fs::write(&path, text).unwrap();
    let mut command: Command = hosts.balancer.command(lb_tests::agent::program());
    command
        .arg("run")
        .arg("--config")
        .arg(path)
        .stdin(Stdio::null());
    command.output().unwrap().into()
}

#[test]
fn a_second_agent_that_shares_anything_is_refused_and_the_first_one_goes_on() {
    let hosts = Hosts::new();
    let _apps = two(&hosts);
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let clients: Vec<IpAddr> = (1..=20).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 100);
    let own = agent.dir().join("second");
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let theirs = (
        path(&agent.dir().join("state")),
        path(&agent.control()),
        path(agent.pin_dir()),
    );
    let other_pins = format!("{}-second", theirs.2);
    let (state, control) = (path(&own.join("state")), path(&own.join("control.sock")));
    let cases = [
        (&theirs.0, &theirs.1, &theirs.2),
        (&theirs.0, &control, &other_pins),
        (&state, &theirs.1, &other_pins),
        (&state, &control, &theirs.2),
    ];
    for (state, control, pins) in cases {
        let outcome = second(&agent, &hosts, state, control, pins);
        assert_eq!(outcome.code, 1, "{outcome:?}");
        let line = outcome.stderr.lines().last().unwrap();
        assert!(
            line.contains("another lb-agent") || line.contains("already"),
            "{line}"
        );
        assert_eq!(agent.backend("127.0.0.1:5000")["listening"], true);
    }
    load.more(20);
    let visits = load.finish();
    assert!(
        visits.iter().all(|visit| visit.answer.is_ok()),
        "{visits:?}"
    );
    assert!(
        !std::path::Path::new(&other_pins).exists(),
        "it has left nothing"
    );
}

#[test]
fn of_two_agents_started_at_the_same_moment_one_serves() {
    let hosts = Hosts::new();
    let _apps = two(&hosts);
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    agent.kill();
    for round in 0..5 {
        let start = || {
            let mut command = agent.run_command();
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let mut both = [start(), start()];
        let loser = wait::until("the end of one", || {
            both.iter_mut()
                .position(|agent| agent.try_wait().unwrap().is_some())
        });
        let [one, other] = both;
        let (loser, mut winner) = if loser == 0 {
            (one, other)
        } else {
            (other, one)
        };
        let outcome = Outcome::from(loser.wait_with_output().unwrap());
        assert_eq!(outcome.code, 1, "round {round}: {outcome:?}");
        assert!(
            outcome.stderr.contains("another lb-agent"),
            "round {round}: {outcome:?}"
        );
        wait::until("the other one", || {
            (agent.run(&["status"]).code == 0).then_some(())
        });
        let served = hosts.clients.run(|| http::get(client_v4(1), SERVICE_V4));
        assert!(served.is_ok(), "round {round}: {served:?}");
        winner.kill().unwrap();
        winner.wait().unwrap();
    }
}
