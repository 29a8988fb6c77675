//! A user-space agent does not serve beside programs that an earlier agent has left in force: both would
//! answer, and its changes would not reach the programs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_tests::agent::{Agent, copy_program, program};
use lb_tests::process::Process;
use lb_tests::topology::hosts::Host;

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:8080']\n\
                        backends = ['127.0.0.1:5000']\n";

/// A second agent on the pins of `agent`, with files of its own. Returns its directory.
fn beside(agent: &Agent<'_>, pin_dir: &Path, data_plane: &str) -> PathBuf {
    let dir = agent.dir().join(data_plane);
    fs::create_dir_all(&dir).unwrap();
    let shown = dir.display();
    let config = format!(
        "[agent]\nstate_dir = '{shown}/state'\ncontrol = '{shown}/control.sock'\n\
         pin_dir = '{}'\ndata_plane = '{data_plane}'\nmax_clients = 4096\n{SERVICES}",
        pin_dir.display()
    );
    fs::write(dir.join("config.toml"), config).unwrap();
    dir
}

/// `lb-agent run` in `dir`, started by `wrapper` ("setpriv" and its options) unless that is empty.
fn run(host: &Host, wrapper: &[&str], dir: &Path) -> Process {
    // An agent takes no state directory of another user.
    let _ = fs::remove_dir_all(dir.join("state"));
    let _ = fs::remove_file(dir.join("control.sock"));
    for dir in [dir.parent().unwrap(), dir] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let binary = dir.join("lb-agent");
    copy_program(&binary);
    let mut command = host.command(wrapper.first().map_or(binary.as_os_str(), |w| w.as_ref()));
    if let [_, options @ ..] = wrapper {
        command.args(options).arg(&binary);
    }
    command.arg("run").arg("--config");
    command
        .arg(dir.join("config.toml"))
        .env_remove("NOTIFY_SOCKET");
    let _ = fs::remove_file(dir.join("agent.log"));
    Process::start(command, &dir.join("agent.log"))
}

/// Root, but without the right to load programs.
const NO_BPF: [&str; 3] = [
    "setpriv",
    "--bounding-set=-bpf,-sys_admin",
    "--inh-caps=-all",
];
/// A user without any privilege.
const NOBODY: [&str; 5] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
];

#[track_caller]
fn is_refused(host: &Host, wrapper: &[&str], dir: &Path, parts: &[&str]) {
    let code = run(host, wrapper, dir).wait().code();
    let said = fs::read_to_string(dir.join("agent.log")).unwrap();
    assert_eq!(code, Some(2), "{wrapper:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{wrapper:?}: no {part:?} in {said}");
    }
}

#[test]
fn a_userspace_agent_does_not_start_over_programs_that_steer() {
    let host = Host::new("balancer");
    let mut agent = Agent::start(&host, SERVICES);
    agent.kill();
    let old = "go on steering by their old tables";
    let remedy = "lb-agent stop --purge";
    let dir = beside(&agent, agent.pin_dir(), "userspace");
    is_refused(&host, &[], &dir, &[old, remedy, "data_plane = \"auto\""]);
    let config = dir.join("config.toml");
    let told = agent.run(&["doctor", "--config", config.to_str().unwrap()]);
    assert!(
        told.stdout.contains("does not start beside"),
        "{}",
        told.stdout
    );
    let dir = beside(&agent, agent.pin_dir(), "auto");
    let lacks = "BPF cannot serve here";
    is_refused(&host, &NO_BPF, &dir, &[old, remedy, lacks]);
    is_refused(&host, &NOBODY, &dir, &[old, remedy, lacks]);
    let config = agent.config();
    agent.ok(&["stop", "--purge", "--config", config.to_str().unwrap()]);
    run(&host, &NO_BPF, &dir).wait_for("ready");
    run(&host, &NOBODY, &dir).wait_for("ready");
    let dir = beside(&agent, agent.pin_dir(), "userspace");
    run(&host, &[], &dir).wait_for("ready");
}

#[test]
fn pins_of_other_namespaces_do_not_keep_a_userspace_agent_from_starting() {
    let (host, other) = (Host::new("balancer"), Host::new("other"));
    let agent = Agent::start_on(&host, SERVICES, "userspace");
    agent.ok(&["stop", "--purge"]);
    let dir = beside(&agent, agent.pin_dir(), "bpf");
    run(&other, &[], &dir).wait_for("ready");
    assert!(agent.pin_dir().join("links/lb_steer").exists());
    let userspace = beside(&agent, agent.pin_dir(), "userspace");
    run(&host, &[], &userspace).wait_for("ready");
    drop(other);
    let auto = beside(&agent, agent.pin_dir(), "auto");
    run(&host, &NOBODY, &auto).wait_for("ready");
    run(&host, &[], &userspace).wait_for("ready");
}

/// A bpf file system of its own, which can be made read-only.
struct Bpffs(tempfile::TempDir);

impl Bpffs {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount(&["-t", "bpf", "bpf"], dir.path());
        Self(dir)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn mount(options: &[&str], dir: &Path) {
    let status = Command::new("mount").args(options).arg(dir).status();
    assert!(
        status.unwrap().success(),
        "mount {options:?} {}",
        dir.display()
    );
}

#[test]
fn an_agent_on_a_read_only_bpf_file_system_does_not_serve_beside_its_pins() {
    let host = Host::new("balancer");
    let agent = Agent::start_on(&host, SERVICES, "userspace");
    agent.ok(&["stop", "--purge"]);
    let bpffs = Bpffs::mount();
    let pin_dir = bpffs.0.path().join("pins");
    let dir = beside(&agent, &pin_dir, "auto");
    run(&host, &[], &dir).wait_for("ready");
    mount(&["-o", "remount,ro"], bpffs.0.path());
    is_refused(
        &host,
        &[],
        &dir,
        &["go on steering", "Read-only file system"],
    );
    mount(&["-o", "remount,rw"], bpffs.0.path());
    let purge = Command::new(program())
        .args(["stop", "--purge", "--config"])
        .arg(dir.join("config.toml"))
        .status();
    assert!(purge.unwrap().success());
}

#[test]
fn agent_does_not_steer_an_address_that_another_living_one_steers() {
    let host = Host::new("two");
    let service = |port: u16| {
        format!(
            "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:{port}']\nbackends = ['127.0.0.1:5000']\n"
        )
    };
    let mut first = Agent::start(&host, &service(80));
    let second = Agent::start(&host, &service(81));
    second.configure(&service(80));
    let refused = second.run(&["reload"]);
    let pid = first.pid().to_string();
    let said = "0.0.0.0:80 is steered by another lb-agent, process ";
    assert_ne!(refused.code, 0, "{}", refused.stdout);
    assert!(
        refused.stderr.contains(&format!("{said}{pid} ")),
        "{}",
        refused.stderr
    );
    assert_eq!(
        second.status()["services"][0]["listen"][0],
        "0.0.0.0:81",
        "as before"
    );
    first.end();
    second.ok(&["reload"]);
    assert_eq!(second.status()["services"][0]["listen"][0], "0.0.0.0:80");
}
