//! The README's sixty-second start, its commands as they stand there, on a host of its own.

use std::fs;
use std::path::Path;

use lb_tests::agent::{Agent, program};
use lb_tests::node;
use lb_tests::topology::hosts::Host;

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap()
}

/// The lines of the shell blocks of the section called `title`, without comments.
fn commands(readme: &str, title: &str) -> Vec<String> {
    let section = readme
        .split_once(&format!("\n## {title}\n"))
        .expect("the section")
        .1;
    let section = section.split("\n## ").next().unwrap();
    let blocks = section
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    blocks
        .flat_map(str::lines)
        .map(|line| line.split(" #").next().unwrap().trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
fn the_sixty_second_start_does_what_it_says() {
    let host = Host::new("readme");
    // `cargo xtask install` would have started the built-in default configuration.
    let agent = Agent::start(
        &host,
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n",
    );
    let _apps = node::copies(&host, [5000, 5001], agent.dir());
    let commands = commands(&readme(), "The sixty-second start");
    let (install, rest): (Vec<_>, Vec<_>) = commands
        .iter()
        .partition(|line| line.contains("git clone") || line.contains("xtask"));
    assert_eq!(install.len(), 2, "{install:?}");
    assert!(rest.len() >= 6, "{rest:?}");
    let bin = agent.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(fs::canonicalize(program()).unwrap(), bin.join("lb-agent")).unwrap();
    for line in rest {
        // Root needs no sudo; /id is the path that the test application answers.
        let line = line
            .replace("sudo ", "")
            .replace("http://127.0.0.1:80/", "-sf http://127.0.0.1:80/id");
        let mut shell = host.command("sh");
        shell
            .args(["-ec", &line])
            .env("LB_AGENT_CONTROL", agent.control());
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let output = shell.env("PATH", path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {output:?}");
        let expected = match line.split(' ').nth(1).unwrap_or_default() {
            "add-backend" => "added",
            "status" => "127.0.0.1:5001",
            "lookup" => "127.0.0.1:500",
            "drain-backend" => "draining",
            "remove-backend" => "removed",
            _ => "\"port\":500",
        };
        assert!(text.contains(expected), "{line}: {text}");
    }
}

#[test]
fn the_example_configuration_is_one() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/services.md");
    let text = fs::read_to_string(page).unwrap();
    let example = text
        .split("```toml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, example).unwrap();
    let config = lb_config::load(Some(&path)).unwrap();
    assert_eq!(config.services[0].backends.len(), 2);
    let usual = lb_config::AgentConfig::default();
    assert_eq!(config.agent.state_dir, usual.state_dir);
    assert_eq!(config.agent.control, usual.control);
    assert_eq!(config.agent.pin_dir, usual.pin_dir);
    assert_eq!(config.agent.max_clients, usual.max_clients);
}

#[test]
fn the_packaged_configuration_is_the_built_in_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/config.toml");
    let mut config = lb_config::load(Some(&path)).unwrap();
    config.source = None;
    config.is_built_in = true;
    assert_eq!(config, lb_config::Config::default());
}

#[test]
fn the_configuration_page_is_accepted_by_check() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() >= 4, "{blocks:?}");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    fs::write(&config, blocks.concat()).unwrap();
    let mut check = std::process::Command::new(program());
    let output = check.arg("check").arg("--config").arg(&config).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
}
