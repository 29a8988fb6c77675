//! The installed service under systemd itself, with all restrictions of its unit: started, reloaded,
//! restarted and killed under load, watched, stopped. A restart loses no connection through the agent
//! either.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lb_tests::load::Load;
use lb_tests::node::apps_dir;
use lb_tests::process::Process;
use lb_tests::stub_server::StubServer;
use lb_tests::systemd::Systemd;
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4, client_v4};
use lb_tests::topology::routed::udp_echo;
use lb_tests::{http, wait};
use serde_json::Value;

/// Names a variable that `cargo xtask test` sets.
fn given(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    value
        .unwrap_or_else(|| panic!("{name} is not set (run `cargo xtask test e2e`)"))
        .into()
}

/// A copy of the clean Debian root, with the package ready to be installed.
fn debian(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    let template = given("LB_TEST_DEBIAN_ROOT");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(template)
        .arg(&root)
        .status();
    assert!(copied.unwrap().success());
    fs::copy(given("LB_TEST_DEB"), root.join("opt/lb-agent.deb")).unwrap();
    root
}

const SERVICES: &str = "[agent]\nmax_clients = 4096\nl7_workers = 1\n\
    [[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
    backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n\
    [service.health]\ninterval = '200ms'\n\
    [[service]]\nname = 'app'\nmode = 'http'\nlisten = ['0.0.0.0:81']\n\
    backends = ['127.0.0.1:5000']\n\
    [service.http.access_log]\nfile = '/var/log/lb-agent/access.log'\n\
    [[service]]\nname = 'through'\nlisten = ['0.0.0.0:84']\npath = 'proxy'\n\
    backends = ['127.0.0.1:5000']\n\
    [[service]]\nname = 'names'\nmode = 'udp'\nlisten = ['0.0.0.0:53']\n\
    backends = ['127.0.0.1:5353']\n\
    [[service]]\nname = 'inside'\nlisten = ['10.99.0.1:82']\n\
    backends = ['10.98.0.2:5009']\n";

/// One datagram, which waits for its answer as long as a request would.
fn ask_udp(client: IpAddr, to: SocketAddr) -> io::Result<http::Answer> {
    let socket = UdpSocket::bind((client, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.send(b"?")?;
    socket.recv(&mut [0; 100])?;
    Ok(http::Answer {
        port: 5353,
        pid: 0,
        remote: String::new(),
    })
}

/// Requests over HTTP, over TCP through the agent, and datagrams, while the agent is restarted.
struct Restarts {
    loads: Vec<(&'static str, Load)>,
}

impl Restarts {
    fn begin(hosts: &Hosts) -> Self {
        let clients: Vec<_> = (1..=20).map(client_v4).collect();
        let at = |port| SocketAddr::new(SERVICE_V4.ip(), port);
        let get = |port| move || move |client| http::get(client, at(port));
        let ask = move || move |client| ask_udp(client, at(53));
        let loads = vec![
            (
                "HTTP",
                Load::visiting(&hosts.clients, &clients, 50, get(81)),
            ),
            ("TCP", Load::visiting(&hosts.clients, &clients, 50, get(84))),
            ("UDP", Load::visiting(&hosts.clients, &clients, 50, ask)),
        ];
        let restarts = Self { loads };
        restarts.more();
        restarts
    }

    fn more(&self) {
        for (_, load) in &self.loads {
            load.more(10);
        }
    }

    /// Checks that no client was lost.
    fn end(self) {
        for (what, load) in self.loads {
            for visit in load.finish() {
                let client = visit.client;
                let answer = visit.answer;
                answer.unwrap_or_else(|error| panic!("{what}: {client} got no answer: {error}"));
            }
        }
    }
}

/// The port of the backend that the first client gets at a port of the balancer.
fn visit(hosts: &Hosts, port: u16) -> std::io::Result<u16> {
    let to = SocketAddr::new(SERVICE_V4.ip(), port);
    let answer = hosts.clients.run(|| http::get(client_v4(1), to));
    answer.map(|answer| answer.port)
}

#[test]
fn the_service_does_everything_within_what_its_unit_allows() {
    let hosts = Hosts::new();
    let target = given("LB_TEST_DEBIAN_ROOT");
    let dir = tempfile::tempdir_in(target.parent().unwrap()).unwrap();
    let root = debian(dir.path());
    let config = root.join("etc/lb-agent/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, SERVICES).unwrap();
    let system = Systemd::boot(&hosts.balancer, &root);
    let container = Host::new("container");
    hosts.balancer.wire("cont0", &container, "eth0");
    hosts.balancer.address("10.98.0.1/24", "cont0");
    container.address("10.98.0.2/24", "eth0");
    container.ip(&["route", "add", "default", "via", "10.98.0.1"]);
    let _inside = StubServer::new(&container, "10.98.0.2:5009", 5009);

    // Installing starts the service; the installing user needs no further command.
    system.ok(&["dpkg", "--force-confold", "-i", "/opt/lb-agent.deb"]);
    system.ok(&["systemctl", "enable", "--now", "lb-agent"]);
    // After the agent, which cannot see them in /proc: they are outside of the system.
    let _apps = [5000, 5001].map(|port: u16| {
        let script = apps_dir().join("server.js");
        let arguments = [script.to_str().unwrap(), "127.0.0.1", &port.to_string()];
        let command = system.beside("node", &arguments);
        let mut app = Process::start(command, &dir.path().join(format!("{port}.log")));
        app.wait_for("listening");
        app
    });
    let status = || -> Value {
        serde_json::from_str(&system.ok(&["lb-agent", "status", "--json"])).unwrap()
    };
    udp_echo(&hosts.balancer, "127.0.0.1:5353".parse().unwrap());
    assert_eq!(status()["agent"]["notes"], serde_json::json!([]));
    let serves = |port| {
        wait::until(&format!("an answer at port {port}"), || {
            visit(&hosts, port).ok()
        })
    };
    for port in [80, 81] {
        assert!([5000, 5001].contains(&serves(port)));
    }
    assert_eq!(serves(82), 5009, "{:#}", status());
    let doctor = system.ok(&["lb-agent", "doctor"]);
    assert!(
        doctor.contains("0 failures") || doctor.contains("all ok"),
        "{doctor}"
    );
    let log = root.join("var/log/lb-agent/access.log");
    wait::until("a line in the access log", || {
        fs::read_to_string(&log)
            .ok()
            .filter(|log| log.contains("GET /"))
    });

    // The service has a user of its own, also after an agent of root, whose pins and files it is given.
    let status_file = format!("/proc/{}/status", system.main_pid());
    let uids = system.ok(&["grep", "^Uid:", &status_file]);
    let own = system.ok(&["id", "-u", "lb-agent"]);
    assert_eq!(uids.split_whitespace().nth(1), Some(own.trim()), "{uids}");
    system.ok(&["systemctl", "stop", "lb-agent"]);
    for path in [
        "/sys/fs/bpf/lb-agent",
        "/var/lib/lb-agent",
        "/var/log/lb-agent",
    ] {
        system.ok(&["chown", "-R", "root:root", path]);
    }
    system.ok(&["systemctl", "start", "lb-agent"]);
    serves(80);
    assert_eq!(status()["agent"]["notes"], serde_json::json!([]));

    // A reload is all or nothing.
    fs::write(&config, SERVICES.replace(":82'", ":83'")).unwrap();
    system.ok(&["systemctl", "reload", "lb-agent"]);
    assert_eq!(serves(83), 5009);
    fs::write(
        &config,
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:0']\n",
    )
    .unwrap();
    assert_ne!(system.run(&["systemctl", "reload", "lb-agent"]).code, 0);
    assert_eq!(serves(83), 5009);
    fs::write(&config, SERVICES).unwrap();

    // Clients that the kernel serves are not affected by the agent's end.
    let quick = root.join("etc/systemd/system/lb-agent.service.d");
    fs::create_dir_all(&quick).unwrap();
    fs::write(quick.join("quick.conf"), "[Service]\nWatchdogSec=10s\n").unwrap();
    system.ok(&["systemctl", "daemon-reload"]);
    let clients: Vec<_> = (1..=20).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 50);
    load.more(10);
    let next = |before: u32, how: &str| {
        let restarted = || {
            let pid = system.main_pid();
            let active = system.run(&["systemctl", "is-active", "lb-agent"]).code == 0;
            (active && pid != 0 && pid != before).then_some(pid)
        };
        let pid = wait::until(&format!("the next agent after {how}"), restarted);
        load.more(10);
        pid
    };
    let mut agent = system.main_pid();
    let restarts = Restarts::begin(&hosts);
    let mut restart = |how: &str| {
        system.ok(&["systemctl", "restart", "lb-agent"]);
        agent = next(agent, how);
        restarts.more();
    };
    restart("a restart");
    // The sockets that the first left are those that the second leaves.
    restart("another restart");
    restarts.end();
    system.ok(&["systemctl", "kill", "--signal=KILL", "lb-agent"]);
    let third = next(agent, "a kill");
    system.ok(&["systemctl", "kill", "--signal=STOP", "lb-agent"]);
    next(third, "the watchdog");
    assert_eq!(serves(82), 5009);
    serves(81);
    all_answered(load);

    // At the end of a drain the remaining connections are closed, for which the agent needs the
    // kernel's permission. (A request in that moment is cut off, too.)
    let to = SocketAddr::new(SERVICE_V4.ip(), 80);
    let open = hosts
        .clients
        .run(|| http::connect(client_v4(1), to).unwrap());
    let answered = http::ask(&open).unwrap().port;
    let address = format!("127.0.0.1:{answered}");
    let drain = ["lb-agent", "drain-backend", &address, "--service", "web"];
    system.ok(&[
        &drain[..],
        &["--timeout", "1s", "--at-end", "close", "--wait"],
    ]
    .concat());
    assert!(http::ask(&open).is_err(), "it is closed");
    system.ok(&["lb-agent", "add-backend", &address, "--service", "web"]);

    // After a stop the kernel goes on; after a purge it does not, and the service stays stopped.
    let load = Load::start(&hosts.clients, &clients, 50);
    load.more(10);
    system.ok(&["systemctl", "stop", "lb-agent"]);
    load.more(20);
    system.ok(&["systemctl", "start", "lb-agent"]);
    load.more(20);
    all_answered(load);
    system.ok(&["lb-agent", "stop", "--purge"]);
    wait::until("the service to be over", || {
        let state = system.run(&["systemctl", "is-active", "lb-agent"]).stdout;
        (state == "inactive\n").then_some(())
    });
    assert!(visit(&hosts, 80).is_err());
    let pins = system.ok(&["ls", "/sys/fs/bpf"]);
    assert!(!pins.contains("lb-agent"), "{pins}");
    assert_eq!(system.run(&["systemctl", "is-failed", "lb-agent"]).code, 1);
    // If the kernel does not serve, the sockets of the services themselves are kept.
    let userspace = "[agent]\ndata_plane = 'userspace'\n";
    fs::write(&config, SERVICES.replacen("[agent]\n", userspace, 1)).unwrap();
    system.ok(&["systemctl", "start", "lb-agent"]);
    let restarts = Restarts::begin(&hosts);
    for _ in 0..2 {
        system.ok(&["systemctl", "restart", "lb-agent"]);
        restarts.more();
    }
    restarts.end();
    let notes = &status()["agent"]["notes"];
    assert!(notes.as_array().unwrap().is_empty(), "{notes:#}");
    system.ok(&["systemctl", "stop", "lb-agent"]);
    assert!(visit(&hosts, 84).is_err(), "nobody keeps them then");

    let journal = system.journal();
    for complaint in ["denied", "not permitted", "ERROR"] {
        assert!(!journal.contains(complaint), "{journal}");
    }
}

/// Ends a load of which no visit has failed.
fn all_answered(load: Load) {
    for visit in load.finish() {
        visit
            .answer
            .unwrap_or_else(|error| panic!("{}: {error}", visit.client));
    }
}
