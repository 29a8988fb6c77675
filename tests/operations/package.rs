//! The Debian package, in a clean Debian root: installed, used, upgraded, removed and purged.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use lb_tests::load::Load;
use lb_tests::process::Process;
use lb_tests::root::Root;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, wait};

/// Names a variable that `cargo xtask test` sets.
fn given(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    value
        .unwrap_or_else(|| panic!("{name} is not set (run `cargo xtask test e2e`)"))
        .into()
}

fn install(debian: &Root, package: &Path) {
    let package = debian.take(package);
    debian.ok(&["dpkg", "--force-confold", "-i", &package]);
}

/// The agent as the unit starts it.
fn start(debian: &Root) -> Process {
    let places = ["lib/systemd/system", "usr/lib/systemd/system"];
    let read = |place: &str| fs::read_to_string(debian.path(place).join("lb-agent.service")).ok();
    let unit = places.into_iter().find_map(read).unwrap();
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    let words: Vec<&str> = start.split(' ').collect();
    let mut process = Process::start(debian.command(&words), &debian.path("tmp/agent.log"));
    process.wait_for("ready");
    process
}

/// The commands that `lb-agent --help` tells of.
fn commands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let words = list.map_while(|line| line.split_whitespace().next());
    let all: Vec<String> = words
        .filter(|word| *word != "help")
        .map(str::to_owned)
        .collect();
    assert!(all.len() > 10, "{help}");
    all
}

#[test]
fn the_package_is_installed_used_upgraded_removed_and_purged() {
    let hosts = Hosts::new();
    let debian = Root::copy_of(&given("LB_TEST_DEBIAN_ROOT"), &hosts.balancer);
    install(&debian, &given("LB_TEST_DEB"));
    for path in [
        "usr/bin/lb-agent",
        "usr/share/man/man1/lb-agent.1.gz",
        "usr/share/man/man1/lb-agent-add-backend.1.gz",
        "usr/share/bash-completion/completions/lb-agent",
        "usr/share/zsh/vendor-completions/_lb-agent",
        "usr/share/fish/vendor_completions.d/lb-agent.fish",
        "usr/share/doc/lb-agent/examples/grafana/lb-agent.json",
        "usr/share/lb-agent/config.schema.json",
        "etc/lb-agent/config.toml",
    ] {
        assert!(debian.has(path), "{path}");
    }
    debian.ok(&[
        "bash",
        "-n",
        "/usr/share/bash-completion/completions/lb-agent",
    ]);
    for command in commands(&debian.ok(&["lb-agent", "--help"])) {
        let page = format!("usr/share/man/man1/lb-agent-{command}.1.gz");
        assert!(debian.has(&page), "{page}");
        for file in [
            "bash-completion/completions/lb-agent",
            "zsh/vendor-completions/_lb-agent",
            "fish/vendor_completions.d/lb-agent.fish",
        ] {
            let text = fs::read_to_string(debian.path("usr/share").join(file)).unwrap();
            assert!(text.contains(&command), "{command} is not in {file}");
        }
    }
    debian.ok(&["getent", "group", "lb-agent"]);
    debian.ok(&["getent", "passwd", "lb-agent"]);
    let conffiles = debian.ok(&["cat", "/var/lib/dpkg/info/lb-agent.conffiles"]);
    assert!(
        conffiles
            .lines()
            .any(|line| line == "/etc/lb-agent/config.toml"),
        "{conffiles}"
    );
    assert!(
        debian
            .ok(&["lb-agent", "check"])
            .contains("configuration ok")
    );

    // An administrator's configuration, with pins of its own: this kernel is not the test's alone.
    let pins = format!("/sys/fs/bpf/lbt-{}-package", std::process::id());
    let config = debian.path("etc/lb-agent/config.toml");
    let own = format!(
        "[agent]\npin_dir = '{pins}'\nmax_clients = 4096\n[[service]]\nname = 'web'\n\
         listen = ['0.0.0.0:80']\nbackends = ['127.0.0.1:5000']\n"
    );
    fs::write(&config, &own).unwrap();
    let doctor = debian.ok(&["lb-agent", "doctor"]);
    assert!(
        doctor.contains(" 0 failures,") || doctor.contains("all ok"),
        "{doctor}"
    );
    let mut agent = start(&debian);
    let dir = tempfile::tempdir().unwrap();
    let _app = node::copies(&hosts.balancer, [5000], dir.path());
    hosts
        .clients
        .run(|| http::get(client_v4(1), SERVICE_V4).unwrap());

    // The new version is put in its place while the old one serves; then the agent is replaced.
    let clients: Vec<_> = (1..=20).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 50);
    load.more(10);
    install(&debian, &given("LB_TEST_NEWER_DEB"));
    load.more(10);
    agent.kill();
    let mut agent = start(&debian);
    load.more(10);
    for visit in load.finish() {
        visit
            .answer
            .unwrap_or_else(|error| panic!("{}: {error}", visit.client));
    }
    assert_eq!(
        fs::read_to_string(&config).unwrap(),
        own,
        "it is the administrator's"
    );
    let version = debian.ok(&["dpkg-query", "-W", "-f", "${Version}", "lb-agent"]);
    assert!(version.starts_with("0.1.1"), "{version}");

    debian.ok(&["dpkg", "-r", "lb-agent"]);
    let ended = wait::until("the end of the agent", || agent.ended());
    assert_eq!((ended.code(), ended.signal()), (Some(4), None));
    assert!(
        !Path::new(&pins).exists(),
        "nothing nobody looks after is left in the kernel"
    );
    assert!(!debian.has("usr/bin/lb-agent") && debian.has("etc/lb-agent/config.toml"));
    assert!(
        debian.has("var/lib/lb-agent"),
        "what was changed at run time is kept"
    );
    hosts
        .clients
        .run(|| http::get(client_v4(1), SERVICE_V4).unwrap_err());

    debian.ok(&["dpkg", "-P", "lb-agent"]);
    for path in ["etc/lb-agent", "var/lib/lb-agent", "var/log/lb-agent"] {
        assert!(!debian.has(path), "{path}");
    }
    assert!(
        !debian
            .run(&["getent", "group", "lb-agent"])
            .status
            .success()
    );
}
