//! `lb-agent doctor` finds each obstacle, and names its remedy.

use std::net::SocketAddr;
use std::process::Command;

use lb_tests::agent::{Agent, Outcome, program};
use lb_tests::topology::hosts::{CONTAINER, Host, Hosts, SERVICE_V4, client_v4};
use lb_tests::topology::routed::{Bulk, bulk_server};
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
    assert!(!lines.stdout.contains("ok       "), "{}", lines.stdout);
    // Agents of other tests come and go beside this one.
    let all = || -> Vec<String> {
        let outcome = agent.run(&["doctor", "--all"]);
        let lines = outcome
            .stdout
            .lines()
            .filter(|line| !line.contains("pins:"));
        let lines = lines.filter(|line| !line.contains(" checks: "));
        lines.map(str::to_owned).collect()
    };
    let found = all();
    let is_kernel = |line: &String| line.starts_with("ok       kernel: ");
    assert!(found.iter().any(is_kernel), "{found:?}");
    assert_eq!(all(), found, "the order is fixed");
}

#[test]
fn running_agent_has_its_own_file_and_pins_looked_at() {
    let host = Host::new("balancer");
    let agent = Agent::start(&host, SERVICES);
    let outcome = agent.run(&["doctor", "--json"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let config = agent.config().display().to_string();
    one(&outcome, "configuration", "ok", &config);
    one(&outcome, "agent", "ok", &agent.pid().to_string());
    let pins = format!("{}, layout", agent.pin_dir().display());
    one(&outcome, "pins", "ok", &pins);
    one(
        &outcome,
        "state directory",
        "ok",
        &agent.dir().display().to_string(),
    );
    one(&outcome, "port 8080/tcp", "ok", "free for web");
}

#[test]
fn user_without_privileges_gets_one_line_about_them() {
    let host = Host::new("balancer");
    let agent = Agent::start(&host, SERVICES);
    let mut command = host.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(program()).arg("doctor");
    command.arg("--control").arg(agent.control());
    let outcome: Outcome = command.output().unwrap().into();
    assert_eq!(outcome.code, 1, "{outcome:?}");
    let failures = |line: &&str| line.starts_with("FAILURE");
    let failures: Vec<&str> = outcome.stdout.lines().filter(failures).collect();
    let [line] = failures.as_slice() else {
        panic!("{outcome:?}");
    };
    assert!(line.contains("this is not root; not looked at: "), "{line}");
    assert!(line.contains("eBPF program, "), "{line}");
    assert!(
        line.ends_with("(run this as root: sudo lb-agent doctor)"),
        "{line}"
    );
    assert!(!outcome.stdout.contains("none is running"), "{outcome:?}");
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
fn what_is_missing_of_the_system_is_found() {
    let host = Host::new("balancer");
    // Without an agent, and with its state in memory.
    let mut agent = Agent::start(&host, SERVICES);
    agent.kill();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let text = std::fs::read_to_string(agent.config()).unwrap();
    let own = format!("state_dir = '{}/state'", agent.dir().display());
    let config = dir.path().join("config.toml");
    let in_memory = format!("state_dir = '{}/state'", dir.path().display());
    assert!(text.contains(&own));
    std::fs::write(&config, text.replace(&own, &in_memory)).unwrap();
    let doctor = |before: &[&str]| -> Outcome {
        let mut command = host.command(before[0]);
        command.args(&before[1..]).arg(program());
        command.args(["doctor", "--json", "--config"]).arg(&config);
        command.output().unwrap().into()
    };
    let outcome = doctor(&["prlimit", "--nofile=1024"]);
    assert_eq!(outcome.code, 0, "warnings only: {outcome:?}");
    one(&outcome, "open files", "warning", "at most 1024");
    one(&outcome, "state directory", "warning", "is in memory");
    let outcome = doctor(&["faketime", "2001-01-01 12:00:00"]);
    one(&outcome, "clock", "warning", "has not been set");
    let bare = "for type in bpf cgroup2; do \
                  grep \" $type \" /proc/mounts | cut -d ' ' -f 2 | sort -r | xargs -r umount -l; \
                done; exec \"$@\"";
    let outcome = doctor(&["unshare", "--mount", "sh", "-ec", bare, "sh"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    one(&outcome, "bpf file system", "failure", "is not in one");
    one(&outcome, "cgroup v2", "failure", "no hierarchy is mounted");
}

#[test]
fn two_agents_on_one_network_are_seen() {
    let host = Host::new("balancer");
    let first = Agent::start(&host, SERVICES);
    let _second = Agent::start(&host, &SERVICES.replace(":8080", ":8081"));
    let config = first.config();
    let outcome = first.run(&["doctor", "--json", "--config", config.to_str().unwrap()]);
    one(&outcome, "sk_lookup hook", "warning", "2 lb-agents");
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
    one(&outcome, "eBPF program", "skipped", "");
}

/// Rules that ban a client of the services, and one that concerns none of their packets.
const RULES: &str = "table inet ban {
  chain input { type filter hook input priority 0; ip saddr 10.99.1.9 drop; }
  chain forward { type filter hook forward priority 0; policy drop; }
  chain output { type filter hook output priority 0; counter; }
}
";

#[test]
fn firewall_rules_that_clients_of_packet_paths_do_not_meet_are_named() {
    let hosts = Hosts::new();
    let container = hosts.container();
    let backend = SocketAddr::new(CONTAINER[0], 5000);
    bulk_server(&container, backend);
    let services = format!(
        "{SERVICES}[[service]]\nname = 'far'\nlisten = ['{SERVICE_V4}']\npath = 'nat'\n\
         backends = ['{backend}']\n"
    );
    let agent = Agent::start(&hosts.balancer, &services);
    let doctor = || {
        let config = agent.config();
        agent.run(&["doctor", "--config", config.to_str().unwrap(), "--json"])
    };
    let visit = || {
        let from = client_v4(9);
        let visit = || Bulk::connect(from, SERVICE_V4)?.transfer(1000, 1000);
        assert_eq!(hosts.clients.run(visit).unwrap(), from);
    };
    visit();
    one(&doctor(), "firewall", "ok", "no rules");
    let rules = agent.dir().join("rules.nft");
    std::fs::write(&rules, RULES).unwrap();
    let nft = |arguments: &[&str]| {
        let mut nft = hosts.balancer.command("nft");
        assert!(nft.args(arguments).status().expect("nft").success());
    };
    nft(&["-f", rules.to_str().unwrap()]);
    // It is as doctor says.
    visit();
    let outcome = doctor();
    assert_eq!(outcome.code, 0, "a warning only: {outcome:?}");
    let told = "packets for far do not meet these rules: nftables: 1 on hook forward; nftables: 1 on hook input";
    one(&outcome, "firewall", "warning", told);
    assert!(!outcome.stdout.contains("hook output"), "{outcome:?}");
    nft(&["flush", "ruleset"]);
    one(&doctor(), "firewall", "ok", "no rules");
}
