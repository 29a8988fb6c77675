//! The packages on distributions other than the one that they were made on: the Debian package on each
//! Debian, and the RPM with Debian's RPM tools.

use std::fs;
use std::path::PathBuf;

use lb_tests::process::Process;
use lb_tests::root::Root;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, wait};

/// Names a variable that `cargo xtask test` sets.
fn given(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    value
        .unwrap_or_else(|| panic!("{name} is not set (run `cargo xtask test distributions`)"))
        .into()
}

/// An administrator's configuration, with pins of its own: this kernel is not the test's alone.
fn configure(root: &Root, name: &str) -> (PathBuf, String) {
    let pins = format!("/sys/fs/bpf/lbt-{}-{name}", std::process::id());
    let text = format!(
        "[agent]\npin_dir = '{pins}'\nmax_clients = 4096\n[[service]]\nname = 'web'\n\
         listen = ['0.0.0.0:80']\nbackends = ['127.0.0.1:5000']\n"
    );
    fs::write(root.path("etc/lb-agent/config.toml"), &text).unwrap();
    (pins.into(), text)
}

/// The packaged agent, when it serves.
fn start(root: &Root) -> Process {
    let words = ["lb-agent", "run", "--config", "/etc/lb-agent/config.toml"];
    let mut agent = Process::start(root.command(&words), &root.path("tmp/agent.log"));
    agent.wait_for("ready");
    agent
}

fn assert_serves(hosts: &Hosts) {
    let get = || http::get(client_v4(1), SERVICE_V4).unwrap();
    assert_eq!(hosts.clients.run(get).port, 5000);
}

#[test]
fn the_debian_package_serves_on_each_debian() {
    for name in ["BOOKWORM", "TRIXIE", "SID"] {
        let hosts = Hosts::new();
        let root = Root::copy_of(&given(&format!("LB_TEST_ROOT_{name}")), &hosts.balancer);
        let package = root.take(&given("LB_TEST_DEB"));
        root.ok(&["dpkg", "-i", &package]);
        let (pins, _) = configure(&root, name);
        let _app = node::copies(&hosts.balancer, [5000], &root.path("tmp"));
        let mut agent = start(&root);
        assert_serves(&hosts);
        root.ok(&["dpkg", "-r", "lb-agent"]);
        wait::until("the end of the agent", || agent.ended());
        assert!(!pins.exists(), "{name}");
    }
}

#[test]
fn the_rpm_is_installed_used_upgraded_and_removed() {
    let hosts = Hosts::new();
    let root = Root::copy_of(&given("LB_TEST_ROOT_RPM"), &hosts.balancer);
    // Debian's rpm knows nothing of the packages that dpkg has installed.
    let rpm = |option: &str, file: &str| root.ok(&["rpm", option, "--nodeps", "--noplugins", file]);
    let package = root.take(&given("LB_TEST_RPM"));
    rpm("--install", &package);
    for path in [
        "usr/bin/lb-agent",
        "usr/lib/systemd/system/lb-agent.service",
        "usr/share/man/man1/lb-agent-add-backend.1",
        "usr/share/bash-completion/completions/lb-agent",
        "usr/share/lb-agent/config.schema.json",
        "etc/logrotate.d/lb-agent",
    ] {
        assert!(root.has(path), "{path}");
    }
    root.ok(&["getent", "group", "lb-agent"]);
    root.ok(&["getent", "passwd", "lb-agent"]);
    let needs = root.ok(&["rpm", "--query", "--requires", "lb-agent"]);
    assert!(needs.contains("glibc >= 2.34"), "{needs}");
    let (pins, config) = configure(&root, "rpm");
    let _app = node::copies(&hosts.balancer, [5000], &root.path("tmp"));
    let mut agent = start(&root);
    assert_serves(&hosts);

    let newer = root.take(&given("LB_TEST_NEWER_RPM"));
    rpm("--upgrade", &newer);
    assert!(root.ok(&["rpm", "--query", "lb-agent"]).contains("0.1.1"));
    let kept = fs::read_to_string(root.path("etc/lb-agent/config.toml")).unwrap();
    assert_eq!(kept, config, "it is the administrator's");
    assert_serves(&hosts);
    agent.kill();
    let mut agent = start(&root);
    assert_serves(&hosts);

    rpm("--erase", "lb-agent");
    wait::until("the end of the agent", || agent.ended());
    assert!(!pins.exists(), "nothing nobody looks after is left");
    assert!(!root.has("usr/bin/lb-agent"));
    let kept = root.path("etc/lb-agent/config.toml.rpmsave");
    assert_eq!(fs::read_to_string(kept).unwrap(), config);
}
