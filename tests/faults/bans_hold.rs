//! A banned client tries a thousand times a second while the agent is killed, started and replaced. Not one of its connections
//! stands, on any path.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{CONTAINER, Host, Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, wait};
use socket2::{Domain, Socket, Type};

/// A service on each path; that on port 82 is in a container.
const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
     backends = ['127.0.0.1:5000']\n\
     [[service]]\nname = 'site'\nmode = 'http'\nlisten = ['0.0.0.0:81']\n\
     backends = ['127.0.0.1:5000']\n\
     [[service]]\nname = 'packets'\nlisten = ['10.99.0.1:82']\npath = 'nat'\n\
     backends = ['10.98.0.2:5000']\n";

/// Ports of the services: `socket`, HTTP, `nat`.
const PORTS: [u16; 3] = [80, 81, 82];
/// Attempts on each port in each state of the agent.
const ATTEMPTS: u64 = 20;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(1);
/// For a connection that is neither made nor refused, as the packet path drops its packets.
const DROPPED: Duration = Duration::from_millis(100);

/// Whether a connection from `from` stands.
fn stands(from: IpAddr, port: u16) -> bool {
    let to = SocketAddr::new(SERVICE_V4.ip(), port);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    match socket.connect_timeout(&to.into(), wait::slowed(DROPPED)) {
        Ok(()) => true,
        Err(error) => {
            let kind = error.kind();
            let known = [ErrorKind::ConnectionRefused, ErrorKind::TimedOut];
            assert!(known.contains(&kind), "{error}");
            false
        }
    }
}

/// The clients of an application that notes each and answers none.
fn noted(host: &Host, at: SocketAddr) -> Arc<Mutex<Vec<IpAddr>>> {
    let clients = Arc::new(Mutex::new(Vec::new()));
    let (seen, listener) = (
        Arc::clone(&clients),
        host.run(|| TcpListener::bind(at).unwrap()),
    );
    host.spawn(move || {
        while let Ok((_, peer)) = listener.accept() {
            seen.lock().unwrap().push(peer.ip());
        }
    });
    clients
}

/// A client on each port that tries again and again.
struct Attempts<'a> {
    stop: &'a AtomicBool,
    made: &'a [AtomicU64; 3],
    stood: &'a [AtomicU64; 3],
}

impl Attempts<'_> {
    fn go_on(&self, from: IpAddr, at: usize) {
        while !self.stop.load(Ordering::SeqCst) {
            if stands(from, PORTS[at]) {
                self.stood[at].fetch_add(1, Ordering::SeqCst);
            }
            self.made[at].fetch_add(1, Ordering::SeqCst);
            // The agent needs a processor, too.
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits for more of them on each port.
    fn more(&self) {
        let goals = self
            .made
            .each_ref()
            .map(|made| made.load(Ordering::SeqCst) + ATTEMPTS);
        wait::until("attempts", || {
            let mut made = self.made.iter().zip(goals);
            made.all(|(made, goal)| made.load(Ordering::SeqCst) >= goal)
                .then_some(())
        });
    }
}

/// Runs `change` while the client tries on all ports, and says how many connections stood on each.
fn stood_during(hosts: &Hosts, from: IpAddr, change: impl FnOnce(&Attempts<'_>)) -> [u64; 3] {
    let (stop, made, stood) = (
        AtomicBool::new(false),
        Default::default(),
        Default::default(),
    );
    let attempts = Attempts {
        stop: &stop,
        made: &made,
        stood: &stood,
    };
    std::thread::scope(|scope| {
        let _stop = wait::Stop(&stop);
        for at in 0..PORTS.len() {
            let (attempts, clients) = (&attempts, &hosts.clients);
            scope.spawn(move || clients.run(|| attempts.go_on(from, at)));
        }
        attempts.more();
        change(&attempts);
        attempts.more();
    });
    stood.each_ref().map(|stood| stood.load(Ordering::SeqCst))
}

/// Each path serves this client.
fn is_served(hosts: &Hosts, from: IpAddr) {
    for port in PORTS {
        wait::until("a connection", || {
            hosts.clients.run(|| stands(from, port)).then_some(())
        });
    }
}

/// A banned client has no connection on any path while `change` goes on. Another one has them after it.
fn ban_holds_during(change: impl FnOnce(&mut Agent<'_>, &Attempts<'_>)) {
    let hosts = Hosts::new();
    let container = hosts.container();
    let seen = noted(&container, SocketAddr::new(CONTAINER[0], 5000));
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let (bad, good) = (client_v4(1), client_v4(2));
    is_served(&hosts, bad);
    agent.ok(&["ban", &bad.to_string()]);
    seen.lock().unwrap().clear();
    let stood = stood_during(&hosts, bad, |attempts| change(&mut agent, attempts));
    assert_eq!(stood, [0; 3], "connections on the ports {PORTS:?}");
    assert!(!seen.lock().unwrap().contains(&bad));
    is_served(&hosts, good);
}

#[test]
fn banned_client_has_no_connection_while_agents_die_and_change() {
    ban_holds_during(|agent, attempts| {
        for _ in 0..2 {
            agent.kill();
            attempts.more();
            agent.start_again();
            attempts.more();
        }
        for _ in 0..2 {
            agent.ok(&["upgrade"]);
            attempts.more();
        }
        agent.ok(&["reload"]);
    });
}

#[test]
fn banned_client_has_no_connection_when_an_agent_starts_from_its_state_alone() {
    ban_holds_during(|agent, attempts| {
        for _ in 0..2 {
            // As after a reboot: no map and no program is left.
            agent.ok(&["stop", "--purge"]);
            agent.kill();
            agent.start_again();
            attempts.more();
        }
    });
}

/// Without BPF the agent accepts a connection before it refuses it: no request is answered.
#[test]
fn banned_client_gets_no_answer_while_agents_of_user_space_change() {
    let hosts = Hosts::new();
    let services = SERVICES
        .split("[[service]]\nname = 'packets'")
        .next()
        .unwrap();
    let mut agent = Agent::start_on(&hosts.balancer, services, "userspace");
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let (bad, good) = (client_v4(1), client_v4(2));
    let get = |from: IpAddr, port| -> io::Result<http::Answer> {
        http::get(from, SocketAddr::new(SERVICE_V4.ip(), port))
    };
    agent.ok(&["ban", &bad.to_string()]);
    let (stop, made, answered) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let more = || {
        let goal = made.load(Ordering::SeqCst) + 2 * ATTEMPTS;
        wait::until("attempts", || {
            (made.load(Ordering::SeqCst) >= goal).then_some(())
        });
    };
    let attempt = |port| {
        while !stop.load(Ordering::SeqCst) {
            let is_answered = get(bad, port).is_ok();
            answered.fetch_add(u64::from(is_answered), Ordering::SeqCst);
            made.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(PAUSE);
        }
    };
    std::thread::scope(|scope| {
        let _stop = wait::Stop(&stop);
        for port in [80, 81] {
            let (attempt, clients) = (&attempt, &hosts.clients);
            scope.spawn(move || clients.run(|| attempt(port)));
        }
        for _ in 0..2 {
            agent.kill();
            agent.start_again();
            more();
        }
        for _ in 0..2 {
            agent.ok(&["upgrade"]);
            more();
        }
    });
    assert_eq!(answered.load(Ordering::SeqCst), 0);
    for port in [80, 81] {
        hosts.clients.run(|| get(good, port)).unwrap();
    }
}
