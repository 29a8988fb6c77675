//! Bans and the lists of services: the kernel refuses clients at their first packet, with and without an agent.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::process::Process;
use lb_tests::topology::hosts::{CONTAINER, Hosts, SERVICE_V4, client_v4, client_v6, service_for};
use lb_tests::{http, node, wait};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
     backends = ['127.0.0.1:5000', '[::1]:5000']\n\
     [[service]]\nname = 'site'\nmode = 'http'\nlisten = ['0.0.0.0:81', '[::]:81']\n\
     backends = ['127.0.0.1:5000']\n\
     [[service]]\nname = 'echo'\nmode = 'udp'\nlisten = ['0.0.0.0:7']\nbackends = ['127.0.0.1:5000']\n";

fn at(from: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(service_for(from).ip(), port)
}

fn connects(hosts: &Hosts, from: IpAddr, port: u16) -> bool {
    let connected = hosts.clients.run(|| http::connect(from, at(from, port)));
    match connected {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
            false
        }
    }
}

fn is_echoed(hosts: &Hosts, from: IpAddr) -> bool {
    hosts.clients.run(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        socket.connect(at(from, 7)).unwrap();
        socket.send(b"hello").unwrap();
        socket.recv(&mut [0; 100]).is_ok()
    })
}

fn denied(agent: &Agent<'_>, service: usize) -> u64 {
    let counters = &agent.status()["services"][service]["counters"];
    counters["denied"].as_u64().unwrap()
}

/// An application for TCP and one for datagrams, both on port 5000.
fn applications(hosts: &Hosts, agent: &Agent<'_>) -> [Process; 2] {
    let [tcp] = node::copies(&hosts.balancer, [5000], agent.dir());
    let listen = ([127, 0, 0, 1], 5000).into();
    [
        tcp,
        node::serve(&hosts.balancer, "udp.js", listen, agent.dir()),
    ]
}

#[test]
fn ban_refuses_ends_and_outlives_the_agent() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = applications(&hosts, &agent);
    let (bad, good) = (client_v4(1), client_v4(2));
    wait::until("the datagrams arrive", || {
        is_echoed(&hosts, bad).then_some(())
    });
    let open: Vec<TcpStream> = hosts.clients.run(|| {
        let connect = |port| http::connect(bad, at(bad, port)).unwrap();
        [80, 81].map(connect).into()
    });
    let said = agent.ok(&["ban", &bad.to_string(), "--for", "1h", "--reason", "a test"]);
    assert!(
        said.ends_with("for 1h; 2 open connections closed\n"),
        "{said}"
    );
    for mut stream in open {
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let refused = |hosts: &Hosts| {
        assert!(!connects(hosts, bad, 80) && !connects(hosts, bad, 81) && !is_echoed(hosts, bad));
        assert!(connects(hosts, good, 80) && connects(hosts, good, 81));
    };
    refused(&hosts);
    assert_eq!([0, 1, 2].map(|service| denied(&agent, service)), [1; 3]);
    let listed = agent.ok(&["bans"]);
    assert!(
        listed.contains("all services") && listed.contains("a test"),
        "{listed}"
    );
    agent.ok(&["reload"]);
    assert!(!connects(&hosts, bad, 80));
    agent.kill();
    assert!(!connects(&hosts, bad, 80), "without an agent");
    agent.start_again();
    refused(&hosts);
    agent.ok(&["unban", &bad.to_string()]);
    assert!(connects(&hosts, bad, 80) && connects(&hosts, bad, 81) && is_echoed(&hosts, bad));
    assert_eq!(agent.ok(&["bans"]), "nobody is banned\n");
}

#[test]
fn ban_ends_in_the_kernel_without_an_agent() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let bad = client_v4(1);
    wait::until("the application listens", || {
        connects(&hosts, bad, 80).then_some(())
    });
    let before = Instant::now();
    agent.ok(&["ban", "2001:db8::/32", "--service", "site"]);
    agent.ok(&["ban", &bad.to_string(), "--for", "4s"]);
    agent.kill();
    assert!(!connects(&hosts, bad, 80));
    wait::until("the ban is over", || {
        connects(&hosts, bad, 80).then_some(())
    });
    assert!(before.elapsed() >= Duration::from_secs(4));
}

#[test]
fn lists_of_the_configuration_hold_for_their_service_alone() {
    let hosts = Hosts::new();
    let (one, other) = (client_v4(1), client_v4(2));
    let services = SERVICES.replacen(
        "name = 'web'\n",
        &format!("name = 'web'\nallow = ['{one}']\n"),
        1,
    );
    let agent = Agent::start(&hosts.balancer, &services);
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    wait::until("the application listens", || {
        connects(&hosts, one, 80).then_some(())
    });
    assert!(!connects(&hosts, other, 80) && connects(&hosts, other, 81));
    assert!(!connects(&hosts, client_v6(1), 80));
    let services = SERVICES.replacen(
        "name = 'web'\n",
        &format!("name = 'web'\ndeny = ['{one}']\n"),
        1,
    );
    agent.configure(&services);
    agent.ok(&["reload"]);
    assert!(!connects(&hosts, one, 80) && connects(&hosts, other, 80));
    agent.configure(SERVICES);
    agent.ok(&["reload"]);
    assert!(connects(&hosts, one, 80) && connects(&hosts, other, 80));
}

#[test]
fn client_above_a_limit_is_banned_and_a_trusted_proxy_is_not() {
    let hosts = Hosts::new();
    let (bad, proxy, good) = (client_v4(1), client_v4(2), client_v4(3));
    let limit = |service: &str, port: u16, more: &str| {
        format!(
            "[[service]]\nname = '{service}'\nmode = 'http'\nlisten = ['0.0.0.0:{port}']\n\
             backends = ['127.0.0.1:5000']\n[service.http]\ntrusted_proxies = ['{proxy}']\n\
             [[service.limit]]\nname = 'few'\nrate = '2/1h'\nban = '1h'\n{more}\n"
        )
    };
    let services = limit("site", 80, "") + &limit("tried", 81, "dry_run = true");
    let agent = Agent::start(&hosts.balancer, &services);
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let is_served = |from: IpAddr, port: u16| {
        hosts
            .clients
            .run(|| http::get(from, at(from, port)))
            .is_ok()
    };
    wait::until("the application answers", || {
        is_served(good, 80).then_some(())
    });
    // The third request is one too many: of a proxy, in a dry run, and of a client.
    assert_eq!([0, 1, 2].map(|_| is_served(proxy, 80)), [true, true, false]);
    assert_eq!([0, 1, 2].map(|_| is_served(bad, 81)), [true; 3]);
    assert_eq!([0, 1, 2].map(|_| is_served(bad, 80)), [true, true, false]);
    wait::until("the client is banned", || {
        (!connects(&hosts, bad, 80)).then_some(())
    });
    assert!(connects(&hosts, proxy, 80) && connects(&hosts, good, 80));
    assert!(connects(&hosts, bad, 81));
    let listed = agent.ok(&["bans"]);
    assert!(
        listed.contains("limit few") && listed.contains("site"),
        "{listed}"
    );
    assert_eq!(listed.matches("limit few").count(), 1, "{listed}");
    agent.ok(&["unban", &bad.to_string(), "--service", "site"]);
    assert!(connects(&hosts, bad, 80));
}

#[test]
fn client_on_the_host_of_the_balancer_is_refused_on_the_way_to_a_container() {
    let hosts = Hosts::new();
    let container = hosts.container();
    let listen = SocketAddr::new(CONTAINER[0], 5000);
    let services = format!(
        "[[service]]\nname = 'web'\nlisten = ['{SERVICE_V4}']\npath = 'nat'\nbackends = ['{listen}']\n"
    );
    let agent = Agent::start(&hosts.balancer, &services);
    let _app = node::serve(&container, "server.js", listen, agent.dir());
    let here = SERVICE_V4.ip();
    let connects = || hosts.balancer.run(|| http::connect(here, SERVICE_V4));
    wait::until("the container is reached", || connects().ok());
    agent.ok(&["ban", &here.to_string(), "--force"]);
    let error = connects().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    agent.ok(&["unban", &here.to_string()]);
    assert!(connects().is_ok());
}

#[test]
fn user_space_refuses_the_same_clients() {
    let hosts = Hosts::new();
    let agent = Agent::start_on(&hosts.balancer, SERVICES, "userspace");
    let _apps = applications(&hosts, &agent);
    let bad = client_v4(1);
    wait::until("the datagrams arrive", || {
        is_echoed(&hosts, bad).then_some(())
    });
    agent.ok(&["ban", &bad.to_string()]);
    let is_served = |port| {
        let answer = hosts.clients.run(|| http::get(bad, at(bad, port)));
        answer.is_ok()
    };
    assert!(!is_served(80) && !is_served(81) && !is_echoed(&hosts, bad));
    assert!((0..3).all(|service| denied(&agent, service) >= 1));
    agent.ok(&["unban", &bad.to_string()]);
    assert!(is_served(80) && is_served(81) && is_echoed(&hosts, bad));
}

#[test]
fn mistakes_are_refused_with_the_way_out() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let own = service_for(client_v4(1)).ip().to_string();
    for (prefix, problem) in [
        ("0.0.0.0/0", "everybody"),
        ("::/0", "everybody"),
        ("127.0.0.2", "loopback"),
        ("::1", "loopback"),
        (own.as_str(), "an address of this host"),
    ] {
        let outcome = agent.run(&["ban", prefix]);
        assert_ne!(outcome.code, 0, "{prefix}");
        let told = &outcome.stderr;
        assert!(told.contains(problem) && told.contains("--force"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    for bad in ["nonsense", "10.0.0.1/8", "10.0.0.0/33"] {
        assert_ne!(agent.run(&["ban", bad]).code, 0, "{bad}");
    }
    assert_ne!(agent.run(&["unban", "192.0.2.1"]).code, 0);
    assert_eq!(agent.ok(&["bans"]), "nobody is banned\n");
    agent.ok(&["ban", "127.0.0.2", "--force"]);
}
