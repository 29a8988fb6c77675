//! `plan` shows the changes of a configuration beforehand, exactly as they then come. `--max-moved`
//! refuses more.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lb_tests::agent::Agent;
use lb_tests::flaky_backend::FlakyBackend;
use lb_tests::node::{self, Clients};
use lb_tests::topology::hosts::{CONTAINER, Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, wait};
use serde_json::Value;

fn services(backends: &[u16]) -> String {
    let backends: Vec<String> = backends
        .iter()
        .map(|port| format!("'127.0.0.1:{port}'"))
        .collect();
    format!(
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = [{}]\n",
        backends.join(", ")
    )
}

/// The port of each of the first hundred clients, all of which have affinity entries afterwards.
fn ports(hosts: &Hosts) -> Vec<u16> {
    let get = |n| http::get(client_v4(n), SERVICE_V4).unwrap().port;
    hosts.clients.run(|| (1..=100).map(get).collect())
}

/// `plan --json` for a file with these services, which is the agent's only if it is told so.
fn plan(agent: &Agent<'_>, services: &str) -> Value {
    let path = agent.dir().join("new.toml");
    std::fs::write(&path, services).unwrap();
    let text = agent.ok(&["plan", "--json", "--config", path.to_str().unwrap()]);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_plan_tells_who_would_move_and_a_reload_moves_just_them() {
    let hosts = Hosts::new();
    let _apps = [5000, 5001, 5002].map(|port| {
        let address = format!("127.0.0.1:{port}");
        FlakyBackend::new(&hosts.balancer, &address)
    });
    let agent = Agent::start(&hosts.balancer, &services(&[5000, 5001]));
    let before = ports(&hosts);
    let open = hosts.clients.run(|| {
        let on_5001 = (1..=100).find(|n| before[usize::from(*n) - 1] == 5001);
        http::connect(client_v4(on_5001.unwrap()), SERVICE_V4).unwrap()
    });
    http::ask(&open).unwrap();
    wait::until("all other connections to be over", || {
        let status = agent.status()["services"].clone();
        let active = |n: usize| status[0]["backends"][n]["active"].as_u64();
        (active(0)? + active(1)? == 1).then_some(())
    });
    let status = agent.status()["services"].clone();

    // One more backend: a third of the slots, and no known client.
    let more = plan(&agent, &services(&[5000, 5001, 5002]));
    let web = &more["services"][0];
    let slots = web["slots_moved"].as_f64().unwrap();
    assert!((0.3..0.37).contains(&slots), "{more:#}");
    assert_eq!(web["clients"], serde_json::json!({ "moved": 0, "of": 100 }));
    assert_eq!(more["moved"], 0.0);

    // Another one: the clients of the removed backend, and its connection.
    let other = plan(&agent, &services(&[5000, 5002]));
    let web = &other["services"][0];
    let on_5001 = before.iter().filter(|port| **port == 5001).count();
    let expected = serde_json::json!({ "moved": on_5001, "of": 100 });
    assert_eq!(web["clients"], expected, "{other:#}");
    assert_eq!(web["connections"]["moved"], 1, "{other:#}");
    assert_eq!(agent.status()["services"], status, "nothing has changed");
    assert_eq!(ports(&hosts), before);

    // It is as it was told.
    agent.configure(&services(&[5000, 5002]));
    let outcome = agent.run(&["reload", "--max-moved", "5%"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("and 5% may"), "{outcome:?}");
    assert_eq!(ports(&hosts), before, "refused");
    let outcome = agent.run(&["reload", "--dry-run", "--max-moved", "5%"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    for line in [
        "+ 127.0.0.1:5002",
        "- 127.0.0.1:5001",
        "of 100 known clients would move",
    ] {
        assert!(outcome.stdout.contains(line), "{outcome:?}");
    }
    agent.ok(&["reload", "--max-moved", "100%"]);
    let after = ports(&hosts);
    let moved = before.iter().zip(&after).filter(|(old, new)| old != new);
    assert_eq!(moved.count(), on_5001);
    http::ask(&open).expect("open connections go on");
    assert_eq!(agent.ok(&["plan"]), "nothing would change\n");
}

/// Connections through a container's path and through the agent, as `services` has them.
const WAYS: [(&str, u16); 2] = [("far", 90), ("app", 81)];

/// A service by packets and one that reads requests, each with the given ones of two backends.
fn two_ways(path: &str, far: &[u16], app: &[u16]) -> String {
    let list = |ip: IpAddr, ports: &[u16]| -> String {
        let all: Vec<String> = ports.iter().map(|port| format!("'{ip}:{port}'")).collect();
        all.join(", ")
    };
    format!(
        "[[service]]\nname = 'far'\nlisten = ['10.99.0.1:90']\npath = '{path}'\nbackends = [{}]\n\
         [[service]]\nname = 'app'\nmode = 'http'\nlisten = ['10.99.0.1:81']\nbackends = [{}]\n",
        list(CONTAINER[0], far),
        list([127, 0, 0, 1].into(), app),
    )
}

fn connections(preview: &Value, service: &str) -> Value {
    let services = preview["services"].as_array().unwrap();
    let found = services.iter().find(|one| one["name"] == service);
    found.unwrap_or_else(|| panic!("no {service}: {preview:#}"))["connections"].clone()
}

#[test]
fn open_connections_by_packets_and_through_the_agent_count_too() {
    let hosts = Hosts::new();
    let container = hosts.container();
    let both = two_ways("nat", &[5020, 5021], &[5010, 5011]);
    // Clients of both backends on each way.
    let seed = "hash_seed = '000102030405060708090a0b0c0d0e0f'\n";
    let agent = Agent::start(&hosts.balancer, &(seed.to_owned() + &both));
    let _apps = node::copies(&hosts.balancer, [5010, 5011], agent.dir());
    let _inside = [5020, 5021].map(|port| {
        let listen = SocketAddr::new(CONTAINER[0], port);
        node::serve(&container, "server.js", listen, agent.dir())
    });
    let from: Vec<IpAddr> = (1..=12).map(client_v4).collect();
    let mut sockets = WAYS.map(|(name, port)| {
        let mut clients = Clients::new(&hosts.clients, agent.dir(), name);
        let to = SocketAddr::new(SERVICE_V4.ip(), port);
        clients.open("ws", to, &from);
        clients
    });
    let [on_5021, on_5011] = [(0, 5021), (1, 5011)].map(|(way, port)| {
        let homes: Vec<IpAddr> = sockets[way]
            .ports()
            .into_iter()
            .filter(|(_, home)| *home == port)
            .map(|(client, _)| client)
            .collect();
        assert!((1..12).contains(&homes.len()), "{homes:?}");
        homes
    });
    wait::until("all of them to be counted", || {
        let preview = plan(&agent, &two_ways("nat", &[5020], &[5010]));
        let all = WAYS.map(|(name, _)| connections(&preview, name)["of"].clone());
        (all == [12, 12]).then_some(())
    });
    let fewer = two_ways("nat", &[5020], &[5010]);
    let preview = plan(&agent, &fewer);
    for (name, homes) in [("far", &on_5021), ("app", &on_5011)] {
        let expected = serde_json::json!({ "moved": homes.len(), "of": 12 });
        assert_eq!(connections(&preview, name), expected, "{preview:#}");
    }
    let other_path = plan(&agent, &two_ways("proxy", &[5020, 5021], &[5010, 5011]));
    let all = serde_json::json!({ "moved": 12, "of": 12 });
    assert_eq!(connections(&other_path, "far"), all, "{other_path:#}");

    // The result is as predicted: connections by packets end, connections through the agent go on.
    agent.configure(&(seed.to_owned() + &fewer));
    agent.ok(&["reload"]);
    wait::until("those to end that were told", || {
        let ended = sockets[0].disconnects();
        (ended.len() >= on_5021.len()).then_some(())
    });
    let ended: BTreeSet<IpAddr> = sockets[0].disconnects().into_iter().collect();
    assert_eq!(ended, on_5021.into_iter().collect());
    sockets[1].echo(1000);
    assert_eq!(sockets[1].disconnects(), Vec::<IpAddr>::new());
}

#[test]
fn a_bad_configuration_is_told_like_by_check_and_an_agent_is_needed() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, &services(&[5000]));
    let path = agent.dir().join("new.toml");
    std::fs::write(&path, "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:0']\n").unwrap();
    let plan = ["plan", "--config", path.to_str().unwrap()];
    let outcome = agent.run(&plan);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(
        outcome.stderr.contains("new.toml:3: service[0].listen[0]"),
        "{outcome:?}"
    );
    assert_eq!(agent.run(&["plan", "--max-moved", "5"]).code, 2);
    std::fs::write(&path, services(&[5000])).unwrap();
    agent.kill();
    assert_eq!(agent.run(&plan).code, 3);
}

#[test]
fn a_configuration_of_a_thousand_backends_can_be_planned() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &services(&[5000]));
    let ports: Vec<u16> = (5000..6000).collect();
    let comment = format!("# {}\n", "x".repeat(200_000));
    let preview = plan(&agent, &(comment + &services(&ports)));
    let backends = preview["services"][0]["backends"].as_array().unwrap();
    assert_eq!(backends.len(), 1000);
}
