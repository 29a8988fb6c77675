//! The examples for systemd and PM2, by the very commands that are in them: a rolling restart of
//! four Socket.IO applications under load loses no request, and moves only the clients of the
//! process that is restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, Outcome, program};
use lb_tests::load::{Load, Visit};
use lb_tests::node::{Clients, apps_dir};
use lb_tests::pm2::{Pm2, examples};
use lb_tests::process::Process;
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, wait};

const PORTS: [u16; 4] = [5000, 5001, 5002, 5003];
const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n";

/// A line of the template for one copy.
struct UnitLine {
    words: Vec<String>,
    /// It begins with "-": its failure is none of the unit.
    may_fail: bool,
}

/// The commands that systemd would run for `key` (ExecStart and so on) of the unit's instance `port`.
fn unit_commands(key: &str, port: u16) -> Vec<UnitLine> {
    let unit = fs::read_to_string(examples().join("app@.service")).unwrap();
    let prefix = format!("{key}=");
    let lines = unit.lines().filter_map(|line| line.strip_prefix(&prefix));
    let command = |line: &str| {
        let text = line
            .trim_start_matches(['-', '+'])
            .replace("%i", &port.to_string())
            .replace("/usr/local/bin/lb-agent", program().to_str().unwrap())
            .replace("/usr/bin/node", "node")
            .replace("/srv/app", apps_dir().to_str().unwrap());
        UnitLine {
            words: text.split_whitespace().map(str::to_owned).collect(),
            may_fail: line.starts_with('-'),
        }
    };
    lines.map(command).collect()
}

/// The only command for `key`.
fn unit_command(key: &str, port: u16) -> Vec<String> {
    let mut commands = unit_commands(key, port);
    assert_eq!(commands.len(), 1, "{key}");
    commands.remove(0).words
}

fn command(host: &Host, words: &[String], agent: &Agent<'_>) -> Command {
    let mut command = host.command(&words[0]);
    command
        .args(&words[1..])
        .env("LB_AGENT_CONTROL", agent.control())
        .stdin(Stdio::null());
    command
}

/// As systemd does it: the process, then ExecStartPost to its end.
fn start(host: &Host, port: u16, agent: &Agent<'_>) -> Process {
    let words = unit_command("ExecStart", port);
    let log = agent.dir().join(format!("app-{port}.log"));
    let process = Process::start(command(host, &words, agent), &log);
    let post = unit_command("ExecStartPost", port);
    let outcome: Outcome = command(host, &post, agent).output().unwrap().into();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    process
}

/// ExecStop to its end, then SIGTERM.
fn stop(host: &Host, port: u16, process: &mut Process, agent: &Agent<'_>) {
    for line in unit_commands("ExecStop", port) {
        let outcome: Outcome = command(host, &line.words, agent).output().unwrap().into();
        // WebSockets may be left, in the line that may fail.
        let allowed: &[i32] = if line.may_fail { &[0, 1] } else { &[0] };
        assert!(allowed.contains(&outcome.code), "{outcome:?}");
    }
    let pid = rustix::process::Pid::from_raw(process.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(process.wait().success(), "it ends well");
}

/// Clients with a Socket.IO session each, and others that come again and again.
struct Visitors {
    sessions: Clients,
    load: Load,
    homes: BTreeMap<IpAddr, u16>,
}

fn visitors(hosts: &Hosts, agent: &Agent<'_>) -> Visitors {
    let coming: Vec<IpAddr> = (1..=60).map(client_v4).collect();
    let staying: Vec<IpAddr> = (101..=140).map(client_v4).collect();
    let mut sessions = Clients::new(&hosts.clients, agent.dir(), "sessions");
    sessions.open("websocket", SERVICE_V4, &staying);
    let home = |client: &IpAddr| (*client, http::get(*client, SERVICE_V4).unwrap().port);
    let homes = hosts.clients.run(|| coming.iter().map(home).collect());
    let load = Load::start(&hosts.clients, &coming, 100);
    Visitors {
        sessions,
        load,
        homes,
    }
}

impl Visitors {
    /// Checks after a restart of every application in this order. No client has lost a request, and
    /// only clients of a restarting process have moved.
    fn check(mut self, order: &[u16]) {
        self.load.more(100);
        self.sessions.echo(1000);
        let restarted: BTreeSet<u16> = order.iter().copied().collect();
        for (client, visits) in by_client(self.load.finish()) {
            let mut home = self.homes[&client];
            let mut moves = Vec::new();
            for visit in visits {
                let answer = visit
                    .answer
                    .unwrap_or_else(|error| panic!("{client}: {error}"));
                if answer.port != home {
                    moves.push(home);
                    home = answer.port;
                }
            }
            // It leaves a process when that is restarted, in the order in which they are, and at no
            // other time.
            let place = |port: &u16| order.iter().position(|other| other == port);
            let places: Vec<_> = moves.iter().map(place).collect();
            assert!(
                places.is_sorted(),
                "{client} left {moves:?}, but {order:?} were restarted"
            );
            assert!(
                moves.iter().all(|port| restarted.contains(port)),
                "{client}: {moves:?}"
            );
            let distinct: BTreeSet<&u16> = moves.iter().collect();
            assert_eq!(
                distinct.len(),
                moves.len(),
                "{client} left one twice: {moves:?}"
            );
        }
    }
}

fn by_client(visits: Vec<Visit>) -> BTreeMap<IpAddr, Vec<Visit>> {
    let mut sorted: BTreeMap<IpAddr, Vec<Visit>> = BTreeMap::new();
    for visit in visits {
        sorted.entry(visit.client).or_default().push(visit);
    }
    sorted
}

#[test]
fn a_rolling_restart_by_the_systemd_template_loses_no_request() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let mut processes = PORTS.map(|port| start(&hosts.balancer, port, &agent));
    let mut visitors = visitors(&hosts, &agent);
    let before = visitors.sessions.ports();
    // The first one alone: only its sessions end, and come back elsewhere.
    for (nth, port) in PORTS.into_iter().enumerate() {
        stop(&hosts.balancer, port, &mut processes[nth], &agent);
        processes[nth] = start(&hosts.balancer, port, &agent);
        if nth == 0 {
            let on_it = before.iter().filter(|(_, home)| **home == port);
            let on_it: Vec<IpAddr> = on_it.map(|(client, _)| *client).collect();
            let lost = wait::until("the sessions to be over", || {
                let mut lost = visitors.sessions.disconnects();
                lost.sort();
                (lost.len() >= on_it.len()).then_some(lost)
            });
            assert_eq!(lost, on_it, "no other session has ended");
        }
    }
    visitors.check(&PORTS);
    assert!(
        PORTS
            .iter()
            .all(|port| { agent.backend(&format!("127.0.0.1:{port}"))["state"] == "up" })
    );
}

#[test]
fn a_rolling_restart_by_pm2_loses_no_request() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let pm2 = Pm2::start(&hosts.balancer, &agent, "server.js");
    PORTS.iter().for_each(|port| is_in_service(&agent, *port));
    let visitors = visitors(&hosts, &agent);
    for port in PORTS {
        pm2.restart(port);
    }
    visitors.check(&PORTS);
}

#[test]
fn pm2_drains_beside_a_route_and_tells_when_it_cannot() {
    let hosts = Hosts::new();
    let services = "[[service]]\nname = 'web'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
                    [[service.route]]\npath = '/api'\nbackends = ['127.0.0.1:6000']\n";
    let agent = Agent::start(&hosts.balancer, services);
    let pm2 = Pm2::start(&hosts.balancer, &agent, "server.js");
    pm2.restart(5000);
    let log = agent.log();
    assert!(log.contains("draining 127.0.0.1:5000 of web"), "{log}");
    assert_eq!(pm2.errors(5000), "");
    // There is nothing to drain, which the hook takes for a refusal like any other.
    agent.ok(&["remove-backend", "127.0.0.1:5001"]);
    pm2.restart(5001);
    let errors = pm2.errors(5001);
    for text in [
        "127.0.0.1:5001 is not a backend of any service",
        "127.0.0.1:5001 stops WITHOUT A DRAIN",
    ] {
        assert!(errors.contains(text), "{errors}");
    }
    let events = pm2.events();
    assert!(
        events.contains("App [app-5001:1] exited with code [1]"),
        "{events}"
    );
    assert_eq!(agent.backend("127.0.0.1:5001")["state"], "up");
}

#[track_caller]
fn is_in_service(agent: &Agent<'_>, port: u16) {
    let backend = agent.backend(&format!("127.0.0.1:{port}"));
    assert_eq!(
        (&backend["state"], &backend["listening"]),
        (&"up".into(), &true.into())
    );
}

#[test]
fn an_application_written_for_pm2_alone_is_drained_before_its_handler_of_sigint_runs() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let pm2 = Pm2::start(&hosts.balancer, &agent, "pm2.js");
    PORTS.iter().for_each(|port| is_in_service(&agent, *port));
    let mut sessions = Clients::new(&hosts.clients, agent.dir(), "sessions");
    let clients: Vec<IpAddr> = (101..=140).map(client_v4).collect();
    sessions.open("websocket", SERVICE_V4, &clients);
    assert!(sessions.ports().values().any(|port| *port == PORTS[0]));
    let begun = Instant::now();
    pm2.restart(PORTS[0]);
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(3),
        "WebSockets kept it: {took:?}"
    );
    is_in_service(&agent, PORTS[0]);
}

#[test]
fn systemd_finds_the_template_sound() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(examples().join("app@.service")).unwrap();
    let text = text
        .replace("/usr/local/bin/lb-agent", "/bin/true")
        .replace("/usr/bin/node", "/bin/true");
    let unit = dir.path().join("app@5000.service");
    fs::write(&unit, text).unwrap();
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&unit)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let about_it = text.lines().filter(|line| line.contains("app@"));
    assert_eq!(about_it.collect::<Vec<_>>(), Vec::<&str>::new());
}
