//! The agent's log: sentences with their priority in the journal, fields in JSON, and no form of the source code.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::Hosts;
use serde_json::Value;

const SERVICES: &str =
    "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = ['127.0.0.1:5000']\n";
const REFUSED: &str = "add-backend 127.0.0.1:5000 refused: 127.0.0.1:5000 is already a backend of web (asked by uid 0, ";

/// Ends the agent and starts it again by `run` with these arguments, and its log as the stream of the journal.
fn start_again(agent: &mut Agent<'_>, arguments: &[&str]) {
    agent.kill();
    let log = agent.dir().join("agent.log");
    File::create(&log).unwrap();
    let stream = fs::metadata(&log).unwrap();
    let mut command = agent.run_command();
    command.args(arguments).env(
        "JOURNAL_STREAM",
        format!("{}:{}", stream.dev(), stream.ino()),
    );
    agent.start_as(command);
}

#[test]
fn refusal_is_a_warning_and_what_is_ensured_is_none() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    start_again(&mut agent, &[]);
    agent.ok(&["add-backend", "127.0.0.1:5000", "--ensure"]);
    let before = agent.log();
    assert!(before.contains("<6> INFO ready\n"), "{before}");
    assert!(!before.contains("add-backend"), "{before}");
    assert_eq!(agent.run(&["add-backend", "127.0.0.1:5000"]).code, 1);
    agent.ok(&["add-backend", "127.0.0.1:5001"]);
    let log = agent.log();
    let has = |begin: &str| log.lines().any(|line| line.starts_with(begin));
    assert!(has(&format!("<4> WARN {REFUSED}")), "{log}");
    assert!(
        has("<6> INFO added 127.0.0.1:5001 (web: 2 backends)"),
        "{log}"
    );
    assert!(
        !log.contains("AddBackend") && !log.contains("Some("),
        "{log}"
    );
    let stats: Value = serde_json::from_str(&agent.ok(&["stats", "--json"])).unwrap();
    let events = stats["events"].as_array().unwrap();
    let refused = |event: &Value| {
        let message = event["message"].as_str().unwrap();
        event["level"] == "WARN" && message.starts_with(REFUSED) && message.ends_with(')')
    };
    assert!(events.iter().any(refused), "{events:#?}");
}

/// Commands with every kind of option, refused ones too.
const COMMANDS: [&[&str]; 18] = [
    &["status"],
    &["stats"],
    &["bans"],
    &["plan"],
    &["lookup", "192.0.2.1"],
    &["add-backend", "127.0.0.1:5001", "--weight", "2"],
    &["add-backend", "127.0.0.1:5001"],
    &["drain-backend", "127.0.0.1:5001", "--timeout", "1h"],
    &["drain-backend", "127.0.0.1:5009", "--now"],
    &["remove-backend", "127.0.0.1:5001"],
    &["remove-backend", "127.0.0.1:5001"],
    &["reset-backend", "127.0.0.1:5001"],
    &["ban", "192.0.2.0/24", "--for", "1h", "--reason", "a test"],
    &["ban", "192.0.2.0/24", "--service", "none"],
    &["unban", "192.0.2.0/24"],
    &["unban", "192.0.2.0/24"],
    &["cache"],
    &["reload"],
];

#[test]
fn commands_are_logged_in_words() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    agent.kill();
    let mut command = agent.run_command();
    command.env("LB_AGENT_LOG", "lb_agent=debug,lb_http=debug,lb_net=debug");
    agent.start_as(command);
    for command in COMMANDS {
        agent.run(command);
    }
    agent.ok(&["stop"]);
    let log = agent.log();
    for logged in ["added 127.0.0.1:5001", "ban", "reload", "stopping"] {
        assert!(log.contains(logged), "{logged}: {log}");
    }
    let is_source = |line: &&str| {
        ["Some(", "None", " { ", " }", "Ok(", "Err("]
            .iter()
            .any(|form| line.contains(form))
    };
    let forms: Vec<&str> = log.lines().filter(is_source).collect();
    assert!(forms.is_empty(), "{forms:#?}");
}

#[test]
fn json_has_command_backend_service_and_error() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    start_again(&mut agent, &["--log", "json"]);
    agent.run(&["add-backend", "127.0.0.1:5000", "--service", "web"]);
    let log = agent.log();
    let line = log.lines().find_map(|line| line.strip_prefix("<4>"));
    let line: Value = serde_json::from_str(line.expect(&log)).unwrap();
    let fields =
        ["level", "command", "backend", "service", "error"].map(|name| line[name].as_str());
    let expected = [
        "WARN",
        "add-backend",
        "127.0.0.1:5000",
        "web",
        "127.0.0.1:5000 is already a backend of web",
    ];
    assert_eq!(fields, expected.map(Some), "{line:#}");
}
