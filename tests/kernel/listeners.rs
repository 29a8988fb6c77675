//! An application's sockets are found in every case: started before the agent or after it, on a
//! specific address or a wildcard, alone or in a SO_REUSEPORT group. Sockets of other programs are not
//! taken for them.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{Host, Hosts, client_v4, client_v6, service_for};
use lb_tests::{http, wait};
use socket2::{Domain, Protocol, Socket, Type};

/// Listens on `host` and answers `GET` with `number`, until the socket is shut down.
fn listen(host: &Host, address: &str, number: u16, group: bool) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    host.run(|| {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )
        .unwrap();
        socket.set_reuse_port(group).unwrap();
        socket.set_reuse_address(true).unwrap();
        // The thread of a listener that has just been closed may still hold the port.
        wait::until("the port", || socket.bind(&address.into()).ok());
        socket.listen(128).unwrap();
        let listener = TcpListener::from(socket);
        let accepting = listener.try_clone().unwrap();
        std::thread::spawn(move || answer(&accepting, number));
        listener
    })
}

fn answer(listener: &TcpListener, number: u16) {
    while let Ok((mut stream, peer)) = listener.accept() {
        let _ = stream.read(&mut [0; 1024]);
        let body = format!(
            "{{\"port\":{number},\"pid\":0,\"remote\":\"{}\"}}",
            peer.ip()
        );
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
}

/// Closes a listening socket although a thread waits on it.
fn close(listener: TcpListener) {
    Socket::from(listener)
        .shutdown(std::net::Shutdown::Both)
        .unwrap();
}

fn service(backend: &str) -> String {
    format!(
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
         affinity = {{ timeout = '0s' }}\nbackends = ['{backend}']\n"
    )
}

/// The numbers that clients of both families get.
fn numbers(hosts: &Hosts) -> BTreeSet<u16> {
    hosts.clients.run(|| {
        let clients = (1..=15).map(client_v4).chain((1..=15).map(client_v6));
        clients
            .map(|client| {
                let answer = http::get(client, service_for(client));
                answer
                    .unwrap_or_else(|error| panic!("{client}: {error}"))
                    .port
            })
            .collect()
    })
}

#[test]
fn any_way_to_listen_is_found_before_and_after_the_agents_start() {
    let cases = [
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("0.0.0.0:5001", "127.0.0.1:5001"),
        ("[::]:5002", "127.0.0.1:5002"),
        ("[::1]:5003", "[::1]:5003"),
        ("[::]:5004", "[::1]:5004"),
        ("10.99.0.1:5005", "10.99.0.1:5005"),
    ];
    let hosts = Hosts::new();
    for (n, (bound, backend)) in (1..).zip(cases) {
        // There first: adopted.
        let before = listen(&hosts.balancer, bound, n, false);
        let agent = Agent::start(&hosts.balancer, &service(backend));
        assert_eq!(agent.backend(backend)["listening"], true, "{bound}");
        assert_eq!(
            numbers(&hosts),
            BTreeSet::from([n]),
            "{bound} before the agent"
        );
        // Gone, and there again while the agent runs.
        close(before);
        assert_eq!(agent.backend(backend)["listening"], false, "{bound}");
        let after = listen(&hosts.balancer, bound, n + 100, false);
        assert_eq!(
            numbers(&hosts),
            BTreeSet::from([n + 100]),
            "{bound} after the agent"
        );
        close(after);
        // There before the backend is added.
        agent.ok(&["remove-backend", backend]);
        let third = listen(&hosts.balancer, bound, n + 200, false);
        agent.ok(&["add-backend", backend]);
        assert_eq!(
            numbers(&hosts),
            BTreeSet::from([n + 200]),
            "{bound} before add-backend"
        );
        close(third);
    }
}

#[test]
fn a_reuseport_group_goes_on_when_any_of_its_members_closes() {
    let hosts = Hosts::new();
    for adopted in [false, true] {
        let members = || -> Vec<TcpListener> {
            (1..=4)
                .map(|n| listen(&hosts.balancer, "127.0.0.1:5000", n, true))
                .collect()
        };
        let early = adopted.then(members);
        let agent = Agent::start(&hosts.balancer, &service("127.0.0.1:5000"));
        let mut members = early.unwrap_or_else(members);
        assert!(
            numbers(&hosts).len() > 1,
            "the kernel spreads over the group"
        );
        while members.len() > 1 {
            close(members.remove(0));
            let left: BTreeSet<u16> = (5 - members.len() as u16..=4).collect();
            let seen = numbers(&hosts);
            assert!(
                seen.is_subset(&left) && !seen.is_empty(),
                "adopted {adopted}: {seen:?}"
            );
        }
        close(members.remove(0));
        assert_eq!(agent.backend("127.0.0.1:5000")["listening"], false);
    }
}

#[test]
fn a_listener_on_the_same_port_in_another_namespace_is_never_used() {
    let hosts = Hosts::new();
    let stranger = Host::new("stranger");
    let there_first = listen(&stranger, "127.0.0.1:5000", 99, false);
    let agent = Agent::start(&hosts.balancer, &service("127.0.0.1:5000"));
    let other_stranger = Host::new("other");
    let _there_later = listen(&other_stranger, "0.0.0.0:5000", 98, false);
    assert_eq!(agent.backend("127.0.0.1:5000")["listening"], false);
    let refused = hosts
        .clients
        .run(|| http::get(client_v4(1), service_for(client_v4(1))));
    assert!(refused.is_err(), "{refused:?}");
    let _ours = listen(&hosts.balancer, "127.0.0.1:5000", 1, false);
    assert_eq!(numbers(&hosts), BTreeSet::from([1]));
    close(there_first);
    assert_eq!(
        numbers(&hosts),
        BTreeSet::from([1]),
        "its end does not concern ours"
    );
}

/// An agent that may not look into other processes, started by `wrapper`, tells which listeners it could not
/// adopt.
fn hidden_listeners_are_told(wrapper: &[&str]) {
    let hosts = Hosts::new();
    let address = "127.0.0.1:5000";
    let mut agent = Agent::start(&hosts.balancer, &service(address));
    agent.kill();
    lb_agent::dataplane::bpf::purge(agent.pin_dir()).unwrap();
    let before = listen(&hosts.balancer, address, 1, false);
    let mut command = hosts.balancer.command(wrapper[0]);
    command.args(&wrapper[1..]).arg(lb_tests::agent::program());
    command.args(["run", "--config"]).arg(agent.config());
    command.env_remove("NOTIFY_SOCKET");
    agent.start_as(command);
    let notes = || agent.status()["agent"]["notes"].to_string();
    assert_eq!(agent.backend(address)["listening"], false, "{wrapper:?}");
    let told = notes();
    assert!(
        told.contains("the listener on 127.0.0.1:5000 cannot be adopted")
            && told.contains("restart that process")
            && told.contains("CAP_SYS_PTRACE"),
        "{wrapper:?}: {told}"
    );
    // Its restart helps.
    close(before);
    let _after = listen(&hosts.balancer, address, 2, false);
    assert_eq!(agent.backend(address)["listening"], true, "{wrapper:?}");
    assert_eq!(numbers(&hosts), BTreeSet::from([2]));
    wait::until("no note any more", || {
        (!notes().contains("adopted")).then_some(())
    });
}

#[test]
fn listeners_that_cannot_be_adopted_without_cap_sys_ptrace_are_told() {
    hidden_listeners_are_told(&["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all"]);
}

#[test]
fn listeners_that_cannot_be_adopted_from_a_pid_namespace_are_told() {
    hidden_listeners_are_told(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
}

/// Listens on all addresses of one family, in one way or the other that takes nothing of a service's.
fn listen_apart(host: &Host, address: &str, number: u16, set: fn(&Socket)) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    host.run(|| {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).unwrap();
        set(&socket);
        socket.bind(&address.into()).unwrap();
        socket.listen(128).unwrap();
        let listener = TcpListener::from(socket);
        let accepting = listener.try_clone().unwrap();
        std::thread::spawn(move || answer(&accepting, number));
        listener
    })
}

/// Clients over IPv4 of a backend at 127.0.0.1:5000 that is gone are refused, and reach no other
/// program.
fn nobody_answers(hosts: &Hosts, agent: &Agent<'_>) {
    nobody_answers_to(hosts, agent, client_v4);
}

fn nobody_answers_to(hosts: &Hosts, agent: &Agent<'_>, client: impl Fn(u16) -> IpAddr + Send) {
    hosts.clients.run(|| {
        for client in (1..=5).map(client) {
            let answer = http::get(client, service_for(client));
            assert!(answer.is_err(), "{}", agent.ok(&["status"]));
        }
    });
    let connections = agent.backend("127.0.0.1:5000")["connections"].clone();
    assert_eq!(connections, 0, "nothing went through the agent");
}

#[test]
fn listener_that_is_bound_to_an_interface_gets_no_clients_of_a_dead_backend() {
    let hosts = Hosts::new();
    // The thread that waits on the first one holds it for a moment longer.
    let bind: fn(&Socket) = |socket| {
        socket.bind_device(Some(b"lo")).unwrap();
        socket.set_reuse_port(true).unwrap();
    };
    let before = listen_apart(&hosts.balancer, "0.0.0.0:5000", 7, bind);
    let agent = Agent::start(&hosts.balancer, &service("127.0.0.1:5000"));
    nobody_answers(&hosts, &agent);
    close(before);
    let _after = listen_apart(&hosts.balancer, "0.0.0.0:5000", 7, bind);
    nobody_answers(&hosts, &agent);
}

#[test]
fn listener_for_ipv6_alone_gets_no_ipv4_clients_of_a_dead_backend() {
    let hosts = Hosts::new();
    let only_v6 = |socket: &Socket| socket.set_only_v6(true).unwrap();
    let _other = listen_apart(&hosts.balancer, "[::]:5000", 7, only_v6);
    let agent = Agent::start(&hosts.balancer, &service("127.0.0.1:5000"));
    nobody_answers(&hosts, &agent);
}

#[test]
fn listener_for_ipv6_alone_gets_no_ipv6_clients_of_a_dead_ipv4_backend() {
    let hosts = Hosts::new();
    let only_v6: fn(&Socket) = |socket| {
        socket.set_only_v6(true).unwrap();
        socket.set_reuse_port(true).unwrap();
    };
    let get = || {
        hosts
            .clients
            .run(|| http::get(client_v6(1), service_for(client_v6(1))))
    };
    // There first, and not adopted.
    let before = listen_apart(&hosts.balancer, "[::]:5000", 7, only_v6);
    let agent = Agent::start(&hosts.balancer, &service("127.0.0.1:5000"));
    nobody_answers_to(&hosts, &agent, client_v6);
    close(before);
    // There afterwards: noted by the kernel, and taken out when the agent looks.
    let _after = listen_apart(&hosts.balancer, "[::]:5000", 8, only_v6);
    wait::until("the agent to look", || get().is_err().then_some(()));
    // Those of before it had looked are counted.
    let refused = || (0..5).all(|_| get().is_err());
    assert!(refused(), "{}", agent.ok(&["status"]));
    assert_eq!(agent.backend("127.0.0.1:5000")["listening"], false);
    // As a backend it gets clients.
    agent.ok(&["add-backend", "[::1]:5000"]);
    wait::until("an answer", || (get().ok()?.port == 8).then_some(()));
}

#[test]
fn application_whose_port_a_service_takes_over_is_named() {
    let hosts = Hosts::new();
    let _other = listen(&hosts.balancer, "0.0.0.0:80", 7, false);
    let _own = listen(&hosts.balancer, "127.0.0.1:5000", 8, false);
    let empty = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n";
    let mut agent = Agent::start(&hosts.balancer, empty);
    let notes = |agent: &Agent<'_>| agent.status()["agent"]["notes"].to_string();
    assert!(
        !notes(&agent).contains("listens on"),
        "it still has the port"
    );
    let said = format!("(pid {}) listens on 0.0.0.0:80 too", std::process::id());
    let added = agent.ok(&["add-backend", "127.0.0.1:5000"]);
    assert!(added.contains(&said), "{added}");
    assert!(notes(&agent).contains(&said), "{}", notes(&agent));
    agent.kill();
    agent.start_again();
    assert!(agent.log().contains(&said), "{}", agent.log());
    assert_eq!(
        hosts
            .clients
            .run(|| http::get(client_v4(1), service_for(client_v4(1))))
            .unwrap()
            .port,
        8
    );
}
