//! `lb-agent config`: a configuration as the agent understands it, and the schema of configurations.

use std::path::Path;
use std::process::{Command, Output};

use lb_tests::agent::{Agent, program};
use lb_tests::topology::hosts::Host;

fn config(arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.arg("config").args(arguments).output().unwrap()
}

#[test]
fn effective_configuration_has_every_default_and_is_the_same_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/config.toml");
    let output = config(&["show", "--effective", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("flow_table = 65536"), "{shown}");
    let again = lb_config::parse(&shown, &file).unwrap();
    assert_eq!(again, lb_config::load(Some(&file)).unwrap());
}

#[test]
fn mistakes_are_told_as_by_check_and_nothing_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, "[agent]\nl7_workers = 'many'\n").unwrap();
    let output = config(&["show", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains(":2: agent.l7_workers: expected a whole number"),
        "{told}"
    );
}

#[test]
fn file_with_agent_alone_has_the_built_in_service() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, "[agent]\nl7_workers = 2\n").unwrap();
    let output = config(&["show", file.to_str().unwrap()]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.starts_with("# No [[service]]"), "{shown}");
    assert!(shown.contains("0.0.0.0:80"), "{shown}");
    let mut check = Command::new(program());
    let output = check.arg("check").arg("--config").arg(&file).output();
    let told = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(
        told.contains("1 service, 0 backends (built in, as"),
        "{told}"
    );
}

#[test]
fn schema_is_json_with_the_keys_and_their_meanings() {
    let output = config(&["schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let agent = &schema["properties"]["agent"];
    assert_eq!(agent["additionalProperties"], false);
    let workers = &agent["properties"]["l7_workers"];
    assert_eq!(
        (&workers["type"], &workers["maximum"]),
        (&"integer".into(), &1024.into())
    );
    assert!(workers["description"].as_str().unwrap().contains("threads"));
}

#[test]
fn file_of_the_running_agent_is_read_if_none_is_named() {
    let host = Host::new("balancer");
    let service = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = [5000]\n";
    let agent = Agent::start(&host, service);
    let file = agent.config();
    let of_agent = format!("({}, the file of the running agent)", file.display());
    assert!(agent.ok(&["check"]).contains(&of_agent));
    let shown = agent.ok(&["config", "show"]);
    let comment = format!("# {}, the file of the running agent\n", file.display());
    assert!(shown.starts_with(&comment), "{shown}");
    assert!(shown.contains("backends = [\"127.0.0.1:5000\"]"), "{shown}");

    let other = agent.dir().join("other.toml");
    let other = other.to_str().unwrap();
    std::fs::write(other, service.replace(":80'", "'")).unwrap();
    for arguments in [vec!["check", other], vec!["check", "--config", other]] {
        let outcome = agent.run(&arguments);
        assert_eq!(outcome.code, 2, "{outcome:?}");
        assert!(outcome.stderr.contains("other.toml:3: "), "{outcome:?}");
    }
    let both = agent.run(&["check", other, "--config", other]);
    assert_eq!(both.code, 2, "{both:?}");
    for arguments in [vec!["reload", "--config", other], vec!["reload", other]] {
        let outcome = agent.run(&arguments);
        assert_eq!(outcome.code, 2, "{outcome:?}");
        let told = format!("started with, {} (change that file", file.display());
        assert!(outcome.stderr.contains(&told), "{outcome:?}");
    }
}
