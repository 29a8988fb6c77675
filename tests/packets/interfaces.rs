//! The packet programs are on the interfaces that clients use. They follow interfaces that come and go,
//! `status` shows each failed attachment, and nothing is left behind.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::topology::routed::{Bulk, CONTAINER, Net, VIP, bulk_server, client, udp_echo};
use lb_tests::{prog_run, wait};
use serde_json::Value;

fn services(agent: &str) -> String {
    format!(
        "{agent}\n[[service]]\nname = 'web'\nlisten = ['{}:80']\nbackends = ['{}:5000']\n",
        VIP[0], CONTAINER[0]
    )
}

/// The hook of the programs on `name`.
fn place(agent: &Agent<'_>, name: &str) -> Option<Value> {
    let status = agent.status();
    let interfaces = status["agent"]["packets"]["interfaces"].as_array()?.clone();
    interfaces
        .into_iter()
        .find(|interface| interface["name"] == name)
}

fn visit(net: &Net, n: u16) -> std::io::Result<()> {
    let to = SocketAddr::new(VIP[0], 80);
    let from = client(n)[0];
    let seen = net
        .clients
        .run(|| Bulk::connect(from, to)?.transfer(1000, 1000))?;
    assert_eq!(seen, from);
    Ok(())
}

#[test]
fn the_ways_to_clients_and_containers_are_found_by_themselves() {
    let net = Net::new();
    bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000));
    let agent = Agent::start(&net.balancer, &services(""));
    for name in ["eth0", "cont0"] {
        let found = place(&agent, name).unwrap_or_else(|| panic!("{:#}", agent.status()));
        assert_eq!(found["mode"], "tcx");
        assert_eq!(found["why"], "senders on this host leave out checksums");
    }
    visit(&net, 1).unwrap();
    let shown = agent.ok(&["status"]);
    assert!(shown.contains("packets at eth0: tcx"), "{shown}");
    assert!(shown.contains("container; behind this host"), "{shown}");
}

#[test]
fn an_interface_that_comes_later_is_used_and_one_that_goes_is_let_go() {
    let net = Net::new();
    bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000));
    let agent = Agent::start(&net.balancer, &services("interfaces = ['eth0', 'late0']"));
    let notes = agent.status()["agent"]["notes"].to_string();
    assert!(notes.contains("there is no interface late0"), "{notes}");
    assert_eq!(place(&agent, "late0"), None);
    net.balancer.ip(&[
        "link", "add", "late0", "type", "veth", "peer", "name", "late1",
    ]);
    net.balancer.ip(&["link", "set", "late0", "up"]);
    wait::until("the programs on late0", || place(&agent, "late0"));
    net.balancer.ip(&["link", "set", "late0", "name", "other0"]);
    wait::until("its new name to be noticed", || {
        place(&agent, "late0").is_none().then_some(())
    });
    net.balancer.ip(&["link", "del", "other0"]);
    visit(&net, 1).unwrap();
}

#[test]
fn a_program_of_somebody_else_stays_on_the_xdp_hook() {
    let net = Net::new();
    net.ready_for_xdp();
    bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000));
    let xdp = "interfaces = [{ name = 'eth0', attach = 'xdp' }]";
    // To the second agent, the programs of the first are foreign.
    let first = Agent::start(&net.balancer, &services(xdp));
    assert_eq!(place(&first, "eth0").unwrap()["mode"], "xdp");
    let other = services(xdp).replace(":80", ":81");
    let second = Agent::start(&net.balancer, &other);
    let found = place(&second, "eth0").unwrap();
    assert_eq!(found["mode"], "tcx");
    assert_eq!(
        found["why"],
        "another program is on its XDP hook, and stays there"
    );
    assert_eq!(place(&first, "eth0").unwrap()["mode"], "xdp");
    visit(&net, 1).unwrap();
}

/// The hook of the program on an interface for clients, after the driver of `name` was to take it.
fn refused(net: &Net, name: &str) -> String {
    let text = services(&format!(
        "interfaces = ['eth0', {{ name = '{name}', attach = 'xdp' }}]"
    ));
    let agent = Agent::start(&net.balancer, &text);
    let found = place(&agent, name).unwrap();
    assert_eq!(found["mode"], "tcx", "{found}");
    // Service goes on, and `status` says why not there.
    visit(net, 1).unwrap();
    let why = found["why"].as_str().unwrap().to_owned();
    assert!(agent.ok(&["status"]).contains(&why));
    why
}

#[test]
fn a_driver_that_refuses_the_program_is_told_why_and_it_runs_behind() {
    let net = Net::new();
    bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000));
    let ip = |words: &str| net.balancer.ip(&words.split(' ').collect::<Vec<_>>());
    for words in [
        "link add jumbo0 type veth peer name jumbo1",
        "link set jumbo0 mtu 9000 up",
        "link set jumbo1 mtu 9000 up",
        "link add bridge0 type bridge",
        "link set bridge0 up",
    ] {
        ip(words);
    }
    let why = refused(&net, "jumbo0");
    assert!(
        why.contains("its MTU of 9000 is too large for XDP"),
        "{why}"
    );
    let why = refused(&net, "bridge0");
    assert!(
        why.contains("no XDP, or large receive offload is on (ethtool -K bridge0 lro off)"),
        "{why}"
    );
}

#[test]
fn a_purge_leaves_nothing_behind() {
    let net = Net::new();
    bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000));
    let now = || net.balancer.network_settings();
    let before = now();
    let mut agent = Agent::start(&net.balancer, &services(""));
    assert_ne!(now(), before, "forwarding is needed, and turned on");
    visit(&net, 1).unwrap();
    agent.kill();
    agent.start_again();
    let objects = prog_run::pinned(agent.pin_dir());
    assert!(objects.len() > 20 && objects.iter().all(prog_run::Object::exists));
    agent.ok(&["stop", "--purge"]);
    agent.wait_for_end();
    let after = now();
    let differences: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(differences.is_empty(), "{differences:#?}");
    wait::until("the kernel to let go of everything", || {
        let left = objects.iter().filter(|object| object.exists());
        (left.count() == 0).then_some(())
    });
    assert!(!agent.pin_dir().exists());
}

#[test]
fn a_backend_that_is_added_moves_from_the_agent_to_packets_when_an_interface_comes_up() {
    let net = Net::new();
    bulk_server(&net.container, SocketAddr::new(CONTAINER[0], 5000));
    net.balancer.ip(&["link", "set", "cont0", "down"]);
    let agent = Agent::start(&net.balancer, &services(""));
    let address = SocketAddr::new(CONTAINER[0], 5000).to_string();
    let path = || agent.backend(&address)["class"].clone();
    // Over the default route, it is some other host.
    assert_eq!(path(), "remote");
    net.balancer.ip(&["link", "set", "cont0", "up"]);
    net.container.ip(&["link", "set", "eth0", "up"]);
    wait::until("the container is known as one", || {
        (path() == "container").then_some(())
    });
    wait::until("a visit", || visit(&net, 2).ok());
}

/// Packet programs that are attached.
fn attached(agent: &Agent<'_>) -> usize {
    let pins = fs::read_dir(agent.pin_dir().join("links")).unwrap();
    let names = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.starts_with("lb_xdp_") || name.starts_with("lb_tc_"))
        .count()
}

#[track_caller]
fn wait_until_all_is_off(agent: &Agent<'_>) {
    wait::until("the programs to be off", || {
        let told = &agent.status()["agent"]["packets"];
        told.is_null().then_some(())
    });
    assert_eq!(attached(agent), 0);
}

#[test]
fn clients_of_the_last_backend_are_told_that_it_is_gone_and_then_the_programs_go() {
    let net = Net::new();
    let backend = SocketAddr::new(CONTAINER[0], 5000);
    bulk_server(&net.container, backend);
    let agent = Agent::start(&net.balancer, &services(""));
    let to = SocketAddr::new(VIP[0], 80);
    let mut open: Vec<Bulk> = net.clients.run(|| {
        let connect = |n| Bulk::connect(client(n)[0], to).unwrap();
        (1..=8).map(connect).collect()
    });
    // The flow table's state of them is behind within the same second.
    for bulk in &mut open {
        bulk.transfer(1000, 1000).unwrap();
        bulk.transfer(5000, 5000).unwrap();
    }
    agent.ok(&["remove-backend", &backend.to_string()]);
    for bulk in &mut open {
        assert_eq!(bulk.end().kind(), std::io::ErrorKind::ConnectionReset);
    }
    wait_until_all_is_off(&agent);
    agent.ok(&["add-backend", &backend.to_string()]);
    visit(&net, 9).unwrap();
}

/// An agent without a backend any more, and a client that has not heard of it.
fn bereft<'a>(net: &'a Net) -> (Agent<'a>, UdpSocket) {
    let backend = SocketAddr::new(CONTAINER[0], 5000);
    udp_echo(&net.container, backend);
    let services = services("").replace("name = 'web'", "name = 'web'\nmode = 'udp'");
    let agent = Agent::start(&net.balancer, &services);
    let socket = net.clients.run(|| UdpSocket::bind((client(1)[0], 0)));
    let socket = socket.unwrap();
    socket.connect(SocketAddr::new(VIP[0], 80)).unwrap();
    // An answer that comes late would be taken for that to the next question.
    let patience = Some(Duration::from_secs(5));
    socket.set_read_timeout(patience).unwrap();
    wait::until("an answer", || ask(&socket).ok());
    agent.ok(&["remove-backend", &backend.to_string()]);
    (agent, socket)
}

fn ask(socket: &UdpSocket) -> std::io::Result<usize> {
    socket.send(b"hello")?;
    socket.recv(&mut [0; 100])
}

#[test]
fn the_next_agent_too_waits_for_clients_of_the_last_backend_to_be_told() {
    let net = Net::new();
    let (mut agent, socket) = bereft(&net);
    agent.kill();
    agent.start_again();
    let found = place(&agent, "eth0").unwrap_or_else(|| panic!("{:#}", agent.status()));
    assert_eq!(found["why"], "until flows of before are over");
    assert!(attached(&agent) > 0);
    let refused = ask(&socket).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    wait_until_all_is_off(&agent);
}

#[test]
fn a_purge_waits_for_no_client() {
    let net = Net::new();
    let (mut agent, _socket) = bereft(&net);
    assert!(attached(&agent) > 0);
    agent.ok(&["stop", "--purge"]);
    agent.wait_for_end();
    assert!(!agent.pin_dir().exists());
}
