//! The control socket: permissions to read and to change, and the caller in the log.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use lb_tests::agent::{Agent, Outcome, copy_program};
use lb_tests::topology::hosts::Host;

const GROUP: u32 = 54_321;
const SERVICES: &str =
    "control_mode = '0666'\n[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n";

/// An agent for which there is a group `lb-agent` with the number [`GROUP`], regardless of this
/// machine's /etc/group. All users can enter its directory.
fn agent(host: &Host) -> Agent<'_> {
    let mut agent = Agent::start(host, SERVICES);
    agent.kill();
    let groups = fs::read_to_string("/etc/group").unwrap();
    let others = groups.lines().filter(|line| !line.starts_with("lb-agent:"));
    let mut text: String = others.map(|line| format!("{line}\n")).collect();
    text += &format!("lb-agent:x:{GROUP}:\n");
    let file = agent.dir().join("group");
    fs::write(&file, text).unwrap();
    fs::set_permissions(agent.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = agent.run_command();
    let mut command = host.command("unshare");
    command
        .args([
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$0\" /etc/group && exec \"$@\"",
        ])
        .arg(&file)
        .arg(run.get_program())
        .args(run.get_args());
    agent.start_as(command);
    agent
}

/// `lb-agent ARGUMENTS` as another user than root.
fn as_nobody(host: &Host, agent: &Agent<'_>, groups: &str, arguments: &[&str]) -> Outcome {
    let mut command = host.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", groups]);
    // The program itself may be in a directory that only root can enter.
    let copy = agent.dir().join("lb-agent");
    if !copy.exists() {
        copy_program(&copy);
    }
    command.arg(copy).args(arguments);
    command.env("LB_AGENT_CONTROL", agent.control());
    command.output().unwrap().into()
}

#[test]
fn everybody_reads_and_only_the_group_changes_anything() {
    let host = Host::new("balancer");
    let agent = agent(&host);
    let socket = fs::metadata(agent.control()).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.gid()), (0o666, GROUP));

    let reads: [&[&str]; 3] = [&["status"], &["stats"], &["lookup", "192.0.2.1"]];
    for arguments in reads {
        let outcome = as_nobody(&host, &agent, "--clear-groups", arguments);
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }
    let changes: [&[&str]; 5] = [
        &["add-backend", "127.0.0.1:5000"],
        &["remove-backend", "127.0.0.1:5000"],
        &["drain-backend", "127.0.0.1:5000"],
        &["reload"],
        &["stop", "--purge"],
    ];
    for arguments in changes {
        let outcome = as_nobody(&host, &agent, "--clear-groups", arguments);
        assert_eq!(outcome.code, 1, "{outcome:?}");
        let way_out = "only root and members of the group lb-agent";
        assert!(outcome.stderr.contains(way_out), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
    assert_eq!(
        agent.status()["services"][0]["backends"],
        serde_json::json!([])
    );
    assert!(
        agent
            .log()
            .contains("may change anything (asked by uid 65534, gid 65534, pid "),
        "{}",
        agent.log()
    );

    let member = format!("--groups={GROUP}");
    let outcome = as_nobody(&host, &agent, &member, changes[0]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    agent.ok(&["remove-backend", "127.0.0.1:5000"]);
    let log = agent.log();
    let said = |text: &str| log.lines().any(|line| line.contains(text));
    assert!(
        said(
            "added 127.0.0.1:5000 (web: 1 backend) (nothing listens there yet) (asked by uid 65534, gid 65534, pid "
        ),
        "{log}"
    );
    assert!(
        said("removed 127.0.0.1:5000 (web: 0 backends) (asked by uid 0, gid 0, pid "),
        "{log}"
    );
}

/// 250 services of 15 backends each, at ports from 20000 on.
fn large() -> String {
    let service = |n: u16| {
        let backend = |m: u16| format!("'127.0.0.1:{}'", 20_000 + 15 * n + m);
        let backends: Vec<String> = (0..15).map(backend).collect();
        format!(
            "[[service]]\nname = 's{n}'\nlisten = ['127.0.0.1:{}']\nbackends = [{}]\n",
            10_000 + n,
            backends.join(", ")
        )
    };
    let services: String = (0..250).map(service).collect();
    format!("control_mode = '0666'\n{services}")
}

#[test]
fn plans_of_a_reader_do_not_hold_up_a_change_and_the_second_at_a_time_is_refused() {
    let host = Host::new("balancer");
    let agent = Agent::start(&host, &large());
    fs::set_permissions(agent.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    as_nobody(&host, &agent, "--clear-groups", &["status"]);
    let other = agent.dir().join("other.toml");
    // Other weights: every table is built anew.
    let text = large().replace(
        "backends = [",
        "backends = [{ address = '127.0.0.2:1', weight = 7 }, ",
    );
    fs::write(&other, text.replace("control_mode = '0666'\n", "")).unwrap();
    let arguments = ["plan", "--config", other.to_str().unwrap()];
    let (plans, took) = std::thread::scope(|scope| {
        let plan = || as_nobody(&host, &agent, "--clear-groups", &arguments);
        let plans: Vec<_> = (0..16).map(|_| scope.spawn(plan)).collect();
        std::thread::sleep(std::time::Duration::from_millis(300));
        let begun = std::time::Instant::now();
        agent.ok(&["add-backend", "127.0.0.1:9", "--service", "s0"]);
        let took = begun.elapsed();
        let plans: Vec<Outcome> = plans.into_iter().map(|plan| plan.join().unwrap()).collect();
        (plans, took)
    });
    let refused = |outcome: &&Outcome| outcome.code != 0;
    assert!(plans.iter().any(|outcome| outcome.code == 0), "{plans:?}");
    assert!(plans.iter().any(|outcome| outcome.code != 0), "{plans:?}");
    for outcome in plans.iter().filter(refused) {
        let said = "a plan for user 65534 is being made already";
        assert!(outcome.stderr.contains(said), "{outcome:?}");
        assert!(
            outcome.stderr.contains("wait until it is done"),
            "{outcome:?}"
        );
    }
    assert!(took < std::time::Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_socket_that_is_not_for_all_is_not_open_to_all() {
    let host = Host::new("balancer");
    let agent = Agent::start(&host, &SERVICES.replace("control_mode = '0666'\n", ""));
    fs::set_permissions(agent.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let outcome = as_nobody(&host, &agent, "--clear-groups", &["status"]);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(outcome.stderr.contains("permission denied"), "{outcome:?}");
    let mode = Command::new("stat")
        .args(["-c", "%a"])
        .arg(agent.control())
        .output()
        .unwrap();
    assert_eq!(mode.stdout, b"660\n");
}

#[test]
fn a_stopped_agent_is_told_from_a_busy_one_within_seconds() {
    let host = Host::new("stopped");
    let agent = Agent::start(&host, SERVICES);
    let signal = |signal| {
        let pid = rustix::process::Pid::from_raw(agent.pid() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    signal(rustix::process::Signal::STOP);
    let begun = std::time::Instant::now();
    let outcome = agent.run(&["status"]);
    let took = begun.elapsed();
    signal(rustix::process::Signal::CONT);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(took < std::time::Duration::from_secs(8), "{took:?}");
    let remedy = format!("kill -CONT {}", agent.pid());
    assert!(
        outcome.stderr.contains("does not answer") && outcome.stderr.contains(&remedy),
        "{outcome:?}"
    );
    agent.ok(&["status"]);
}
