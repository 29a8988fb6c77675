//! The Debian package for 64-bit Arm, in a Debian of that processor under an emulator. The emulator has no
//! bpf(2): the agent itself is tried on kernels for Arm (`cargo xtask test kernels arm64`).

use std::path::PathBuf;

use lb_tests::root::Root;
use lb_tests::topology::hosts::Hosts;

/// Names a variable that `cargo xtask test` sets.
fn given(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    value
        .unwrap_or_else(|| panic!("{name} is not set (run `cargo xtask test distributions`)"))
        .into()
}

#[test]
fn the_package_for_arm_is_installed_runs_and_is_purged() {
    let hosts = Hosts::new();
    let debian = Root::copy_of(&given("LB_TEST_ROOT_ARM64"), &hosts.balancer);
    assert_eq!(debian.ok(&["uname", "-m"]).trim(), "aarch64");
    let package = debian.take(&given("LB_TEST_ARM64_DEB"));
    debian.ok(&["dpkg", "-i", &package]);
    let architecture = ["dpkg-query", "-W", "-f", "${Architecture}", "lb-agent"];
    assert_eq!(debian.ok(&architecture), "arm64");
    debian.ok(&["getent", "passwd", "lb-agent"]);
    let version = debian.ok(&["lb-agent", "--version"]);
    assert!(version.starts_with("lb-agent "), "{version}");
    let checked = debian.ok(&["lb-agent", "check"]);
    assert!(checked.contains("configuration ok"), "{checked}");
    debian.ok(&["dpkg", "-P", "lb-agent"]);
    assert!(!debian.has("usr/bin/lb-agent") && !debian.has("etc/lb-agent"));
    let user = debian.run(&["getent", "passwd", "lb-agent"]);
    assert!(!user.status.success(), "its user is gone");
}
