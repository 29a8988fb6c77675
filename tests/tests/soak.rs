//! Everything at once and at random, from a seed that is printed: changes, crashes, restarts and
//! noise under load, with invariants that hold at every step and at the end. Twenty seconds, or as
//! long as LB_SOAK_SECONDS says (`cargo xtask test soak --minutes 10`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::hosts::{Host, Hosts, SERVICE_V4, client_v4};
use lb_tests::load::{Load, Visit};
use lb_tests::node::{self, Clients};
use lb_tests::process::Process;
use lb_tests::random::Random;
use lb_tests::{http, prog_run, wait};
use serde_json::Value;

const PORTS: [u16; 4] = [5000, 5001, 5002, 5003];
/// How long before and after a disruption what it broke may show.
const AROUND: Duration = Duration::from_secs(3);

fn services(weight: u64) -> String {
    format!(
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = ['127.0.0.1:5000', \
         '127.0.0.1:5001', '127.0.0.1:5002', {{ address = '127.0.0.1:5003', weight = {weight} }}]\n"
    )
}

/// When something happened that may move clients or break their connections, and what.
#[derive(Default)]
struct Disruptions(Vec<(Instant, String)>);

impl Disruptions {
    fn note(&mut self, what: impl Into<String>) {
        self.0.push((Instant::now(), what.into()));
    }

    fn between(&self, from: Instant, to: Instant) -> bool {
        let fits = |at: Instant| at + AROUND >= from && at <= to + AROUND;
        self.0.iter().any(|(at, _)| fits(*at))
    }
}

/// Counters that never go backwards, over restarts of the agent too: the kernel has them.
fn counters(stats: &Value) -> BTreeMap<&'static str, u64> {
    let counters = &stats["status"]["services"][0]["counters"];
    let clients = &stats["clients"][0];
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{stats:#}"));
    BTreeMap::from([
        ("affinity", number(&counters["affinity"])),
        ("slot", number(&counters["slot"])),
        ("next", number(&counters["next"])),
        ("refused", number(&counters["refused"])),
        ("new", number(&clients["new"])),
        ("moved", number(&clients["moved"])),
    ])
}

struct Soak<'a> {
    host: &'a Host,
    clients: &'a Host,
    agent: Agent<'a>,
    apps: BTreeMap<u16, Process>,
    random: Random,
    disruptions: Disruptions,
    last: BTreeMap<&'static str, u64>,
    did: BTreeMap<&'static str, u32>,
}

impl Soak<'_> {
    fn stats(&self) -> Value {
        serde_json::from_str(&self.agent.ok(&["stats", "--json"])).unwrap()
    }

    /// One thing at random.
    fn step(&mut self) {
        let port = PORTS[self.random.below(4) as usize];
        let address = format!("127.0.0.1:{port}");
        let what = match self.random.below(14) {
            0 => {
                self.agent.kill();
                self.agent.start_again();
                "agent killed"
            }
            1 => {
                self.agent.ok(&["stop"]);
                self.agent.wait_for_end();
                self.agent.start_again();
                "agent restarted"
            }
            2 => {
                self.disruptions.note(format!("{address} killed"));
                drop(self.apps.remove(&port));
                let listen = ([127, 0, 0, 1], port).into();
                let dir = self.agent.dir();
                self.apps
                    .insert(port, node::serve(self.host, "server.js", listen, dir));
                self.disruptions.note(format!("{address} back"));
                "backend killed"
            }
            3 => {
                self.disruptions.note(format!("{address} removed"));
                self.agent.ok(&["remove-backend", &address]);
                self.agent.ok(&["add-backend", &address]);
                self.disruptions.note(format!("{address} added"));
                "backend removed and added"
            }
            4 => {
                self.disruptions.note(format!("{address} draining"));
                self.agent
                    .ok(&["drain-backend", &address, "--timeout", "200ms"]);
                wait::until("the end of the drain", || {
                    (self.agent.backend(&address)["state"] == "down").then_some(())
                });
                self.agent.ok(&["add-backend", &address]);
                self.disruptions.note(format!("{address} back in service"));
                "backend drained"
            }
            5 | 6 => {
                let weight = 1 + self.random.below(3);
                self.agent.configure(&services(weight));
                self.agent.ok(&["reload"]);
                "reload"
            }
            7 => {
                self.agent
                    .configure("[[service]]\nname = 'web'\nlisten = ['nowhere']\n");
                assert_eq!(self.agent.run(&["reload"]).code, 2);
                self.agent.configure(&services(1));
                "bad reload"
            }
            8 => {
                let bytes: Vec<u8> = (0..2000).map(|_| self.random.number() as u8).collect();
                for _ in 0..20 {
                    // The agent may hang up on noise.
                    let mut stream = UnixStream::connect(self.agent.control()).unwrap();
                    let _ = stream.write_all(&bytes);
                }
                "noise"
            }
            9 => {
                self.disruptions.note(format!("{address} frozen"));
                let pid = self.apps[&port].pid().to_string();
                let signal = |name: &str| {
                    let mut kill = std::process::Command::new("kill");
                    assert!(kill.args([name, &pid]).status().unwrap().success());
                };
                signal("-STOP");
                self.agent.ok(&["status"]);
                signal("-CONT");
                self.disruptions.note(format!("{address} thawed"));
                "backend frozen"
            }
            10 => {
                self.disruptions.note("the wire down");
                self.host.ip(&["link", "set", "wire", "down"]);
                self.agent.ok(&["status"]);
                self.host.ip(&["link", "set", "wire", "up"]);
                self.disruptions.note("the wire up");
                "interface down"
            }
            11 => {
                let second = self.agent.run_command().output().unwrap();
                assert!(!second.status.success(), "{second:?}");
                "second agent"
            }
            12 => {
                let bytes: Vec<u8> = (0..500).map(|_| self.random.number() as u8).collect();
                for n in 0..10 {
                    let from = client_v4(141 + n);
                    // Applications may hang up on noise; or there may be no wire yet.
                    let _ = self.clients.run(|| {
                        http::connect(from, SERVICE_V4).and_then(|mut s| s.write_all(&bytes))
                    });
                }
                "noise on the service"
            }
            _ => {
                let silent: Vec<_> = (0..200)
                    .map(|_| UnixStream::connect(self.agent.control()).unwrap())
                    .collect();
                self.agent.ok(&["status"]);
                drop(silent);
                "silent crowd"
            }
        };
        *self.did.entry(what).or_default() += 1;
    }

    /// What must hold after every step.
    fn check(&mut self) {
        let now = counters(&self.stats());
        for (name, value) in &now {
            let before = self.last.get(name).copied().unwrap_or(0);
            assert!(*value >= before, "{name} went from {before} to {value}");
        }
        self.last = now;
        assert!(
            !self.agent.log().contains("panicked"),
            "{}",
            self.agent.log()
        );
    }

    /// Open files, resident bytes and pinned objects.
    fn size(&self) -> (u64, u64, usize) {
        let process = &self.stats()["process"];
        let number = |name: &str| process[name].as_u64().unwrap();
        let pinned = prog_run::pinned(self.agent.pin_dir()).len();
        (number("open_fds"), number("resident_bytes"), pinned)
    }
}

/// Visits in the order of each client: no failure and no move without a disruption.
fn judge(visits: Vec<Visit>, disruptions: &Disruptions) {
    let mut homes: BTreeMap<IpAddr, (Instant, u16)> = BTreeMap::new();
    for visit in visits {
        let Visit {
            client,
            begun,
            answer,
            ..
        } = visit;
        match answer {
            Err(error) => {
                // It may have taken some time to fail.
                let excused = disruptions.between(begun, begun + Duration::from_secs(10));
                assert!(excused, "{client} without a reason: {error}");
            }
            Ok(answer) => {
                if let Some((since, port)) = homes.insert(client, (begun, answer.port))
                    && port != answer.port
                {
                    let excused = disruptions.between(since, begun);
                    assert!(
                        excused,
                        "{client} moved from {port} to {} without a reason",
                        answer.port
                    );
                }
            }
        }
    }
}

#[test]
fn everything_at_random_keeps_every_promise() {
    let seconds = std::env::var("LB_SOAK_SECONDS").ok();
    let seconds = seconds.map_or(20, |text| {
        text.parse().expect("LB_SOAK_SECONDS is a number")
    });
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &services(1));
    let apps = node::copies(&hosts.balancer, PORTS, agent.dir());
    let dir = tempfile::tempdir().unwrap();
    let mut sessions = Clients::new(&hosts.clients, dir.path(), "sessions");
    let from: Vec<IpAddr> = (101..=140).map(client_v4).collect();
    let mut soak = Soak {
        host: &hosts.balancer,
        clients: &hosts.clients,
        agent,
        apps: PORTS.into_iter().zip(apps).collect(),
        random: Random::new(),
        disruptions: Disruptions::default(),
        last: BTreeMap::new(),
        did: BTreeMap::new(),
    };
    sessions.open("websocket", SERVICE_V4, &from);
    let clients: Vec<IpAddr> = (1..=60).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 100);
    load.more(120);
    let begun = Instant::now();
    let before = soak.size();
    while begun.elapsed() < Duration::from_secs(seconds) {
        soak.step();
        soak.check();
        load.more(20);
    }
    judge(load.finish(), &soak.disruptions);
    if !soak.did.contains_key("backend killed") {
        assert_eq!(sessions.disconnects(), Vec::<IpAddr>::new());
    }
    println!("{:?}", soak.did);

    // An agent that has been through it is as large as one that has just been started.
    wait::until("the agent to be as small as before", || {
        let (fds, bytes, pinned) = soak.size();
        assert_eq!(pinned, before.2, "pins are left over");
        let fits = fds <= before.0 + 8 && bytes <= before.1 + (32 << 20);
        fits.then_some(())
    });
}
