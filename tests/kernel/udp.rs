//! UDP: clients stay with their backend, and answers come from the address that was asked. Datagrams go
//! through the agent or, with equal ports, straight to the application.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{Hosts, client_v4, client_v6, service_for};
use lb_tests::{node, wait};

/// Asks the service from an address; which backend answers, and whether from the right address.
fn ask(hosts: &Hosts, from: IpAddr, port: u16) -> Option<u16> {
    ask_for(Duration::from_secs(20), hosts, from, port)
}

/// The same, for first datagrams that may be lost.
fn ask_shortly(hosts: &Hosts, from: IpAddr, port: u16) -> Option<u16> {
    ask_for(Duration::from_secs(1), hosts, from, port)
}

fn ask_for(patience: Duration, hosts: &Hosts, from: IpAddr, port: u16) -> Option<u16> {
    let to = SocketAddr::new(service_for(from).ip(), port);
    hosts.clients.run(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send_to(b"hello", to).unwrap();
        let mut buffer = [0; 100];
        let (length, answered_by) = socket.recv_from(&mut buffer).ok()?;
        assert_eq!(
            answered_by, to,
            "an answer comes from the address that was asked"
        );
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let (backend, echo) = text.split_once(':').unwrap();
        assert_eq!(echo, "hello");
        Some(backend.parse().unwrap())
    })
}

#[test]
fn through_the_agent_clients_stay_and_answers_come_from_the_service() {
    let hosts = Hosts::new();
    let services = "[[service]]\nname = 'echo'\nmode = 'udp'\nlisten = ['0.0.0.0:7', '[::]:7']\n\
                    backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";
    let agent = Agent::start(&hosts.balancer, services);
    let serve = |port: u16| {
        node::serve(
            &hosts.balancer,
            "udp.js",
            ([127, 0, 0, 1], port).into(),
            agent.dir(),
        )
    };
    let mut apps = [5000, 5001].map(serve);
    assert_eq!(agent.backend("127.0.0.1:5000")["path"], "proxy");
    let mut seen = BTreeSet::new();
    for client in (1..=20).map(client_v4).chain((1..=20).map(client_v6)) {
        let expected = agent.looked_up_port(client);
        for _ in 0..3 {
            assert_eq!(ask(&hosts, client, 7), Some(expected), "{client}");
        }
        seen.insert(expected);
    }
    assert_eq!(seen, BTreeSet::from([5000, 5001]));
    let total = |port: u16| {
        let backend = agent.backend(&format!("127.0.0.1:{port}"));
        backend["connections"].as_u64().unwrap()
    };
    assert_eq!(
        total(5000) + total(5001),
        3 * 40,
        "each datagram counts once"
    );
    // A backend that is gone is left for the other, within a datagram or two.
    apps[0].kill();
    for client in (21..=30).map(client_v4) {
        wait::until("an answer from the other backend", || {
            (ask_shortly(&hosts, client, 7) == Some(5001)).then_some(())
        });
    }
}

#[test]
fn on_the_same_port_the_application_answers_itself() {
    let hosts = Hosts::new();
    let services = "[[service]]\nname = 'echo'\nmode = 'udp'\nlisten = ['10.99.0.1:5000']\n\
                    backends = ['127.0.0.1:5000']\n";
    let agent = Agent::start(&hosts.balancer, services);
    assert_eq!(agent.backend("127.0.0.1:5000")["path"], "socket");
    let listen: SocketAddr = "0.0.0.0:5000".parse().unwrap();
    let mut app = node::serve(&hosts.balancer, "udp.js", listen, agent.dir());
    let served = || (ask_shortly(&hosts, client_v4(1), 5000) == Some(5000)).then_some(());
    wait::until("the application is found", served);
    assert_eq!(agent.backend("127.0.0.1:5000")["listening"], true);
    let counted = agent.backend("127.0.0.1:5000")["connections"]
        .as_u64()
        .unwrap();
    assert!(counted >= 1, "datagrams are counted: {counted}");
    app.kill();
    assert_eq!(agent.backend("127.0.0.1:5000")["listening"], false);
    let _app = node::serve(&hosts.balancer, "udp.js", listen, agent.dir());
    wait::until("the application is found again", served);
}

/// On the service's own port the kernel tells the application and the service apart, in either order of
/// start.
#[test]
fn a_service_on_every_address_has_its_application_on_the_same_port() {
    let hosts = Hosts::new();
    let services = "[[service]]\nname = 'echo'\nmode = 'udp'\n\
                    listen = ['0.0.0.0:5300', '[::]:5300']\nbackends = ['127.0.0.1:5300']\n";
    let dir = tempfile::tempdir().unwrap();
    let serve = |listen: &str| {
        node::serve(
            &hosts.balancer,
            "udp.js",
            listen.parse().unwrap(),
            dir.path(),
        )
    };
    let mut first = serve("0.0.0.0:5300");
    let agent = Agent::start(&hosts.balancer, services);
    let served = |client| (ask_shortly(&hosts, client, 5300) == Some(5300)).then_some(());
    wait::until("the application of before", || served(client_v4(1)));
    first.kill();
    let _later = serve("[::]:5300");
    wait::until("the one of later", || served(client_v4(1)));
    wait::until("both families", || served(client_v6(1)));
    assert_eq!(agent.status()["agent"]["notes"], serde_json::json!([]));
}

/// Without the kernel's help the agent holds the port itself. It says so before any client waits for an
/// answer.
#[test]
fn without_bpf_the_services_own_port_is_refused_with_the_way_out() {
    let hosts = Hosts::new();
    let service = |listen: &str, backend: &str| {
        format!(
            "[[service]]\nname = 'echo'\nmode = 'udp'\nlisten = ['{listen}']\n\
             backends = ['{backend}']\n"
        )
    };
    let agent = Agent::start_on(
        &hosts.balancer,
        &service("10.99.0.1:5300", "127.0.0.1:5301"),
        "userspace",
    );
    for (listen, backend) in [
        ("0.0.0.0:5300", "127.0.0.1:5300"),
        ("0.0.0.0:5300", "10.99.0.1:5300"),
    ] {
        agent.configure(&service(listen, backend));
        let config = agent.config();
        for command in [
            &["reload"][..],
            &["check", "--config", config.to_str().unwrap()],
        ] {
            let outcome = agent.run(command);
            assert_eq!(outcome.code, 2, "{outcome:?}");
            let way_out = "(let the application listen on another port)";
            assert!(outcome.stderr.contains(way_out), "{outcome:?}");
        }
    }
    // Another address of the host is another socket, if the application does not take them all.
    agent.configure(&service("10.99.0.1:5300", "127.0.0.1:5300"));
    let warned = agent.ok(&["check", "--config", agent.config().to_str().unwrap()]);
    assert!(warned.contains("listen on 127.0.0.1 alone"), "{warned}");
    agent.ok(&["reload"]);
    let _app = node::serve(
        &hosts.balancer,
        "udp.js",
        "127.0.0.1:5300".parse().unwrap(),
        agent.dir(),
    );
    assert_eq!(ask(&hosts, client_v4(1), 5300), Some(5300));
}

#[test]
fn an_application_that_was_first_on_every_address_is_named_as_what_is_in_the_way() {
    let hosts = Hosts::new();
    let dir = tempfile::tempdir().unwrap();
    let listen = "0.0.0.0:5300".parse().unwrap();
    let _app = node::serve(&hosts.balancer, "udp.js", listen, dir.path());
    let services = "[[service]]\nname = 'echo'\nmode = 'udp'\nlisten = ['10.99.0.1:5300']\n\
                    backends = ['127.0.0.1:5300']\n";
    let agent = Agent::start_on(&hosts.balancer, services, "userspace");
    let notes = agent.status()["agent"]["notes"].to_string();
    assert!(
        notes.contains("the application at 127.0.0.1:5300 has taken that")
            && notes.contains("let it listen on 127.0.0.1 alone"),
        "{notes}"
    );
}
