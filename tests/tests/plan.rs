//! What a configuration would change is told before, as it then comes; `--max-moved` refuses more.

use lb_tests::agent::Agent;
use lb_tests::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::moody::Moody;
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

/// The port of each of the first hundred clients, of whom each is known afterwards.
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
        Moody::new(&hosts.balancer, &address)
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

    // One more: a third of the slots, nobody who is known.
    let more = plan(&agent, &services(&[5000, 5001, 5002]));
    let web = &more["services"][0];
    let slots = web["slots_moved"].as_f64().unwrap();
    assert!((0.3..0.37).contains(&slots), "{more:#}");
    assert_eq!(web["clients"], serde_json::json!({ "moved": 0, "of": 100 }));
    assert_eq!(more["moved"], 0.0);

    // Another one: whoever is on the one that goes, and the connection there.
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
