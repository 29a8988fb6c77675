//! The systemd unit: its capabilities are enough for everything the agent does, and it is sound by
//! systemd's own judgement.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_tests::agent::Agent;
use lb_tests::process::Process;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6};
use lb_tests::{http, node};

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/lb-agent.service")
}

/// `+bpf,+net_admin,…` from the unit's CapabilityBoundingSet.
fn capabilities() -> String {
    let text = fs::read_to_string(unit()).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .unwrap();
    let name = |cap: &str| format!(",+{}", cap.strip_prefix("CAP_").unwrap().to_lowercase());
    line.split_whitespace().map(name).collect()
}

#[test]
fn the_units_capabilities_suffice() {
    let hosts = Hosts::new();
    // There before the agent, and of another user: it takes ptrace and a search of /proc.
    let dir = tempfile::tempdir().unwrap();
    let mut early = hosts.balancer.command("setpriv");
    early.args(["--reuid=65534", "--regid=65534", "--clear-groups", "node"]);
    let script = dir.path().join("server.js");
    fs::write(
        &script,
        "require('http').createServer((q, r) => r.end(JSON.stringify({ port: 5000, pid: 1 })))\n\
         .listen(5000, '127.0.0.1', () => console.log('listening'));\n",
    )
    .unwrap();
    assert!(
        Command::new("chmod")
            .args(["-R", "a+rX"])
            .arg(dir.path())
            .status()
            .unwrap()
            .success()
    );
    let mut early = Process::start(
        {
            early.arg(&script);
            early
        },
        &dir.path().join("early.log"),
    );
    early.wait_for("listening");

    let services = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
                    backends = ['127.0.0.1:5000']\n";
    let mut agent = Agent::start(&hosts.balancer, services);
    // Both a first start and the adoption of a previous agent's state.
    for purge in [true, false] {
        if purge {
            agent.ok(&["stop", "--purge"]);
        }
        agent.kill();
        let run = agent.run_command();
        let mut command = hosts.balancer.command("setpriv");
        command
            .arg(format!("--bounding-set=-all{}", capabilities()))
            .arg("--no-new-privs");
        command.arg(run.get_program()).args(run.get_args());
        agent.start_as(command);
        assert_eq!(agent.status()["agent"]["notes"], serde_json::json!([]));
        assert_eq!(
            agent.backend("127.0.0.1:5000")["listening"],
            true,
            "it is adopted"
        );
        for (client, service) in [(client_v4(1), SERVICE_V4), (client_v6(1), SERVICE_V6)] {
            assert_eq!(
                hosts
                    .clients
                    .run(|| http::get(client, service))
                    .unwrap()
                    .port,
                5000
            );
        }
        let [_app] = node::copies(&hosts.balancer, [5001], agent.dir());
        agent.ok(&["add-backend", "127.0.0.1:5001"]);
        agent.ok(&["remove-backend", "127.0.0.1:5001"]);
    }
    agent.ok(&["stop", "--purge"]);
    assert!(!agent.pin_dir().exists());
}

/// A thread of the agent, and fields of its /proc/PID/task/TID/status.
struct Thread {
    name: String,
    is_main: bool,
    permitted: u64,
    effective: u64,
    bounding: u64,
    ambient: u64,
    no_new_privs: bool,
}

fn threads(pid: u32) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: PathBuf| {
        let status = fs::read_to_string(task.join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim_start_matches(':').trim().to_owned())
        };
        let mask = |name: &str| u64::from_str_radix(&field(name)?, 16).ok();
        Some(Thread {
            name: field("Name")?,
            is_main: task.ends_with(pid.to_string()),
            permitted: mask("CapPrm")?,
            effective: mask("CapEff")?,
            bounding: mask("CapBnd")?,
            ambient: mask("CapAmb")?,
            no_new_privs: field("NoNewPrivs")? == "1",
        })
    };
    tasks.filter_map(|task| of(task.unwrap().path())).collect()
}

/// The capabilities of the unit, as a mask (include/uapi/linux/capability.h).
fn unit_mask() -> u64 {
    let number = |name: &str| match name {
        "CAP_DAC_READ_SEARCH" => 2,
        "CAP_NET_BIND_SERVICE" => 10,
        "CAP_NET_ADMIN" => 12,
        "CAP_NET_RAW" => 13,
        "CAP_SYS_PTRACE" => 19,
        "CAP_PERFMON" => 38,
        "CAP_BPF" => 39,
        other => panic!("{other} has no number here"),
    };
    let names = unit_has("CapabilityBoundingSet");
    names.iter().fold(0, |mask, name| mask | 1 << number(name))
}

#[test]
fn main_thread_alone_holds_capabilities_and_nothing_can_be_gained_by_execve() {
    const READS: u64 = 1 << 2;
    let hosts = Hosts::new();
    let services = "l7_workers = 2\n[[service]]\nname = 'web'\nmode = 'http'\n\
                    listen = ['0.0.0.0:80', '[::]:80']\nbackends = ['127.0.0.1:5000']\n";
    for data_plane in ["bpf", "userspace"] {
        let agent = Agent::start_on(&hosts.balancer, services, data_plane);
        let [_app] = node::copies(&hosts.balancer, [5000], agent.dir());
        // Also on a port below 1024 that is listened on later.
        agent.configure(&services.replace(":80'", ":81'"));
        agent.ok(&["plan"]);
        agent.ok(&["reload"]);
        let service = std::net::SocketAddr::new(SERVICE_V4.ip(), 81);
        let get = || hosts.clients.run(|| http::get(client_v4(1), service));
        assert_eq!(get().unwrap().port, 5000);
        let all = threads(agent.pid());
        let workers = all.iter().filter(|thread| thread.name.starts_with("l7-"));
        assert_eq!(workers.count(), 2);
        for thread in &all {
            let name = &thread.name;
            let expected = match name.as_str() {
                _ if thread.is_main => unit_mask(),
                "certificates" => READS,
                _ => 0,
            };
            assert_eq!(thread.permitted, expected, "{name}");
            assert_eq!(thread.effective, expected, "{name}");
            assert_eq!(
                (thread.bounding, thread.ambient),
                (unit_mask(), 0),
                "{name}"
            );
            assert!(thread.no_new_privs, "{name}");
        }
        // No user can read its memory, not even its own user.
        let mut cat = hosts.balancer.command("setpriv");
        cat.args(["--bounding-set=-all", "--no-new-privs", "cat"]);
        let maps = cat.arg(format!("/proc/{}/maps", agent.pid())).output();
        assert!(!maps.unwrap().status.success());
    }
}

/// The values of a key of the unit, from all its lines.
fn unit_has(key: &str) -> Vec<String> {
    let text = fs::read_to_string(unit()).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let values = lines.filter(|(name, _)| *name == key);
    values
        .flat_map(|(_, value)| {
            value
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn an_agent_that_was_told_to_stop_is_not_started_again_and_any_other_is() {
    let hosts = Hosts::new();
    let services = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n";
    let mut agent = Agent::start(&hosts.balancer, services);
    let stays_stopped = unit_has("RestartPreventExitStatus");
    assert_eq!(unit_has("Restart"), ["always"]);
    for purge in [&["stop"][..], &["stop", "--purge"]] {
        agent.ok(purge);
        let code = agent.wait_for_end().code().unwrap().to_string();
        assert!(stays_stopped.contains(&code), "{code}");
        assert!(unit_has("SuccessExitStatus").contains(&code), "{code}");
        agent.start_again();
    }
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
        let pid = rustix::process::Pid::from_raw(agent.pid() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        let ended = agent.wait_for_end();
        let code = ended.code().map(|code| code.to_string());
        assert!(
            !code.is_some_and(|code| stays_stopped.contains(&code)),
            "{ended}"
        );
        agent.start_again();
    }
}

#[test]
fn the_unit_is_sound_by_systemds_own_judgement() {
    let analyze = |arguments: &[&str], path: &Path| {
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .arg(path)
            .output();
        let output = output.expect("systemd-analyze");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    // `verify` needs the program at the path in the unit.
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(unit())
        .unwrap()
        .replace("/usr/local/bin/lb-agent", "/bin/true");
    let copy = dir.path().join("lb-agent.service");
    fs::write(&copy, text).unwrap();
    let (good, text) = analyze(&["verify"], &copy);
    let complaints: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("lb-agent"))
        .collect();
    assert!(good && complaints.is_empty(), "{text}");
    let (good, text) = analyze(&["security", "--offline=true", "--threshold=25"], &copy);
    assert!(good, "{text}");
}
