//! http-cache-tests (npm), which cache-tests.fyi runs against other caches, against the response cache. The page
//! `docs/http-cache-tests.md` lists the tests that are not passed: this list is compared with the results.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use lb_tests::agent::Agent;
use lb_tests::node::apps_dir;
use lb_tests::process::Process;
use lb_tests::topology::hosts::{Host, Hosts};
use lb_tests::wait;

const PAGE: &str = include_str!("../../docs/http-cache-tests.md");
const SCRIPT: &str = "http_cache_tests.mjs";
/// Passed tests of the two kinds, at least.
const REQUIRED: usize = 148;
const OPTIMAL: usize = 75;

const SERVICES: &str = "[[service]]\nname = 'site'\nlisten = ['127.0.0.1:8080']\nmode = 'http'\n\
                        backends = ['127.0.0.1:8000']\n[service.http.cache]\nheuristic = true\n";

/// By test: its kind, its outcome and the reason.
type Outcomes = BTreeMap<String, (String, String, String)>;

fn node(host: &Host, arguments: &[&str]) -> Command {
    let mut command = host.command("node");
    command.arg(apps_dir().join(SCRIPT)).args(arguments);
    command
}

/// The outcomes of these tests, of all if none is named.
#[track_caller]
fn run(host: &Host, tests: &[&str]) -> Outcomes {
    let arguments = [&["http://127.0.0.1:8080"], tests].concat();
    let output = node(host, &arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
}

/// The tests in the page that are not passed.
fn known() -> Vec<&'static str> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next()).collect()
}

#[test]
fn cache_passes_all_tests_but_those_of_the_page() {
    let hosts = Hosts::new();
    let host = &hosts.balancer;
    let agent = Agent::start_on(host, SERVICES, "userspace");
    let _server = Process::start(node(host, &["serve", "8000"]), &agent.dir().join("server"));
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, 8000).into();
    wait::until("the server of the tests", || {
        host.run(|| TcpStream::connect(address)).ok()
    });

    let mut outcomes = run(host, &[]);
    let known = known();
    let is_passed = |outcomes: &Outcomes, test: &str| {
        let outcome = outcomes.get(test).map(|(_, outcome, _)| outcome.as_str());
        outcome == Some("pass")
    };
    let is_demand = |kind: &str| matches!(kind, "required" | "optimal");
    let unexpected = |outcomes: &Outcomes| -> Vec<String> {
        let tests = outcomes.iter().filter(|(test, (kind, outcome, _))| {
            is_demand(kind) && outcome != "pass" && !known.contains(&test.as_str())
        });
        tests.map(|(test, _)| test.clone()).collect()
    };
    let again = unexpected(&outcomes);
    if !again.is_empty() {
        // Some count seconds, and this machine may have been too busy for them.
        let again: Vec<&str> = again.iter().map(String::as_str).collect();
        outcomes.extend(run(host, &again));
    }
    let failed = unexpected(&outcomes);
    let told: Vec<_> = failed.iter().map(|test| (test, &outcomes[test])).collect();
    assert!(failed.is_empty(), "passed before: {told:#?}");

    for test in &known {
        assert!(outcomes.contains_key(*test), "{test} is no test");
        if is_passed(&outcomes, test) {
            println!("{test} is passed now: remove it from docs/http-cache-tests.md");
        }
    }
    let passed = |wanted: &str| {
        let tests = outcomes.iter().filter(|(_, (kind, _, _))| kind == wanted);
        tests.filter(|(test, _)| is_passed(&outcomes, test)).count()
    };
    let (required, optimal) = (passed("required"), passed("optimal"));
    println!("passed: {required} required, {optimal} optimal");
    assert!(required >= REQUIRED, "{required} required");
    assert!(optimal >= OPTIMAL, "{optimal} optimal");
}
