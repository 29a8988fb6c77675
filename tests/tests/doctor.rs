//! `lb-agent doctor` finds what stands in the way, and says what to do about it.

use std::process::Command;

use lb_tests::agent::{Agent, Outcome, program};
use lb_tests::hosts::Host;
use lb_tests::{node, wait};
use serde_json::Value;

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:8080']\n";

/// The findings about `check` of `doctor --json`.
fn findings(outcome: &Outcome, check: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    let all = report["findings"].as_array().unwrap().clone();
    let bad = |finding: &&Value| finding["level"] != "ok";
    for finding in all.iter().filter(bad) {
        assert!(finding["remedy"].is_string(), "{finding}");
    }
    all.into_iter()
        .filter(|finding| finding["check"] == check)
        .collect()
}

#[track_caller]
fn one(outcome: &Outcome, check: &str, level: &str, part: &str) {
    let found = findings(outcome, check);
    let fits = |finding: &Value| {
        finding["level"] == level && finding["found"].as_str().unwrap().contains(part)
    };
    assert!(found.iter().any(fits), "{check}: {found:#?}");
}

#[test]
fn on_a_good_machine_nothing_fails() {
    let host = Host::new("balancer");
    let agent = Agent::start(&host, SERVICES);
    let config = agent.config();
    let arguments = ["doctor", "--config", config.to_str().unwrap(), "--json"];
    let outcome = agent.run(&arguments);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    one(&outcome, "agent", "ok", &agent.pid().to_string());
    one(&outcome, "sk_lookup hook", "ok", "lb_steer");
    one(&outcome, "eBPF program", "ok", "lb_steer");
    one(&outcome, "kernel feature", "ok", "sk_storage");
    let lines = agent.run(&arguments[..3]);
    assert_eq!(lines.code, 0);
    assert!(
        lines.stdout.contains("ok       kernel: "),
        "{}",
        lines.stdout
    );
}

#[test]
fn what_stands_in_the_way_is_found() {
    let host = Host::new("balancer");
    let mut agent = Agent::start(&host, SERVICES);
    let config = agent.config();
    let config = config.to_str().unwrap().to_owned();
    let doctor = |agent: &Agent<'_>| agent.run(&["doctor", "--config", &config, "--json"]);
    agent.kill();
    let dir = tempfile::tempdir().unwrap();
    let _app = node::copies(&host, [8080], dir.path());
    host.ip(&[
        "link", "add", "wire", "type", "veth", "peer", "name", "other",
    ]);
    host.ip(&["link", "set", "wire", "mtu", "9000"]);
    let mut sysctl = host.command("sysctl");
    sysctl.args([
        "-qw",
        "net.core.somaxconn=128",
        "net.ipv4.conf.wire.rp_filter=1",
    ]);
    sysctl.arg("net.ipv4.ip_local_port_range=50000 50100");
    assert!(sysctl.status().unwrap().success());
    let outcome = doctor(&agent);
    assert_eq!(outcome.code, 0, "warnings only: {outcome:?}");
    one(&outcome, "agent", "warning", "none is running");
    one(&outcome, "pins", "warning", "no agent runs");
    one(&outcome, "port 8080/tcp", "warning", "node (pid ");
    one(&outcome, "interface wire", "warning", "MTU of 9000");
    one(&outcome, "somaxconn", "warning", "128");
    one(&outcome, "rp_filter", "warning", "wire");
    one(&outcome, "ip_local_port_range", "warning", "101 ports");
}

#[test]
fn a_state_directory_that_others_can_write_to_is_a_failure() {
    let host = Host::new("balancer");
    let agent = Agent::start(&host, SERVICES);
    let state = agent.dir().join("state");
    assert!(
        Command::new("chmod")
            .arg("a+w")
            .arg(&state)
            .status()
            .unwrap()
            .success()
    );
    let config = agent.config();
    let outcome = agent.run(&["doctor", "--config", config.to_str().unwrap(), "--json"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    one(
        &outcome,
        "state directory",
        "failure",
        "written to by others",
    );
}

#[test]
fn without_privileges_it_says_what_is_missing() {
    let host = Host::new("balancer");
    let mut command = host.command("setpriv");
    command.args([
        "--bounding-set=-all,+net_admin,+dac_read_search",
        "--no-new-privs",
    ]);
    command.arg(program()).args(["doctor", "--json"]);
    let outcome: Outcome = wait::until("doctor", || Some(command.output().unwrap())).into();
    assert_eq!(outcome.code, 1, "{outcome:?}");
    one(&outcome, "privileges", "failure", "CAP_BPF (loads programs");
    one(&outcome, "eBPF program", "failure", "");
}
