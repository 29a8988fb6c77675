//! Changes at run time come back after a restart and after a reboot. A damaged file is named and left
//! alone, and the kernel goes on serving meanwhile.

use std::fs;

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node};
use serde_json::Value;

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

/// Address, state, weight and source of every backend, and the backend of some clients.
fn picture(agent: &Agent<'_>) -> Vec<Value> {
    let status = agent.status();
    let backends = status["services"][0]["backends"].as_array().unwrap().iter();
    let lines = backends.map(|b| {
        format!(
            "{} {} {} {}",
            b["address"], b["state"], b["weight"], b["source"]
        )
        .into()
    });
    let orders = (1..=20).map(|n| agent.lookup(client_v4(n))["order"].clone());
    lines.chain(orders).collect()
}

#[test]
fn changes_come_back_after_a_restart_and_after_a_reboot() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    agent.ok(&["add-backend", "127.0.0.1:5002", "--weight", "3"]);
    agent.ok(&["add-backend", "192.0.2.7:5000"]);
    agent.ok(&["remove-backend", "127.0.0.1:5000"]);
    agent.ok(&["drain-backend", "127.0.0.1:5001", "--timeout", "1h"]);
    let before = picture(&agent);
    agent.kill();
    agent.start_again();
    assert_eq!(picture(&agent), before, "after a restart");
    // A reboot leaves the state directory, and nothing in the kernel.
    agent.ok(&["stop", "--purge"]);
    agent.kill();
    agent.start_again();
    assert_eq!(picture(&agent), before, "after a reboot");
}

#[test]
fn a_state_file_cut_anywhere_is_named_and_left_alone_and_the_kernel_goes_on() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    agent.ok(&["add-backend", "127.0.0.1:5002"]);
    let _apps = node::copies(&hosts.balancer, [5000, 5001, 5002], agent.dir());
    agent.kill();
    let path = agent.dir().join("state/state.json");
    let whole = fs::read(&path).unwrap();
    for length in [0, 1, whole.len() / 2, whole.len() - 2] {
        fs::write(&path, &whole[..length]).unwrap();
        let outcome = lb_tests::agent::Outcome::from(agent.run_command().output().unwrap());
        assert_eq!(outcome.code, 1, "{outcome:?}");
        let last = outcome.stderr.lines().last().unwrap();
        assert!(
            last.contains("state.json") && last.contains("move it away"),
            "{last}"
        );
        assert_eq!(fs::read(&path).unwrap(), &whole[..length], "left alone");
        let served = hosts.clients.run(|| http::get(client_v4(1), SERVICE_V4));
        assert!(served.is_ok(), "the kernel goes on: {served:?}");
    }
    fs::write(&path, &whole).unwrap();
    agent.start_again();
    assert_eq!(agent.backend("127.0.0.1:5002")["source"], "runtime");
}

#[test]
fn a_size_that_comes_only_with_a_purge_is_told_until_then() {
    let hosts = Hosts::new();
    // A backend on another host: without one there is no flow table.
    let services = format!(
        "flow_table = 1000\n{SERVICES}\n[[service]]\nname = 'far'\nlisten = ['0.0.0.0:81']\n\
         backends = ['{}:80']\n",
        client_v4(1)
    );
    let mut agent = Agent::start(&hosts.balancer, &services);
    let notes = |agent: &Agent<'_>| agent.status()["agent"]["notes"].to_string();
    assert!(!notes(&agent).contains("in use"), "{}", notes(&agent));
    agent.kill();
    let config = fs::read_to_string(agent.config()).unwrap();
    let other = config.replace("max_clients = 4096", "max_clients = 8192");
    let other = other.replace("flow_table = 1000", "flow_table = 2000");
    fs::write(agent.config(), other).unwrap();
    agent.start_again();
    let told = notes(&agent);
    for what in [
        "max_clients is 8192 but the map in use holds 4096",
        "flow_table is 2000 but the map in use holds 1000",
    ] {
        assert!(told.contains(what), "{told}");
    }
    agent.ok(&["stop", "--purge"]);
    agent.kill();
    agent.start_again();
    assert!(!notes(&agent).contains("in use"), "{}", notes(&agent));
}
