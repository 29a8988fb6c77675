//! A reload puts a new configuration in force whole, or nothing of it; open connections are not
//! affected.

use std::net::IpAddr;

use lb_tests::agent::Agent;
use lb_tests::flaky_backend::FlakyBackend;
use lb_tests::node::{self, Clients};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, wait};

fn services(backends: &str, port: u16) -> String {
    format!(
        "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '0.0.0.0:{port}']\nbackends = [{backends}]\n"
    )
}

#[test]
fn open_connections_live_through_fifty_reloads() {
    let hosts = Hosts::new();
    let two = "'127.0.0.1:5000', '127.0.0.1:5001'";
    let three = "'127.0.0.1:5000', '127.0.0.1:5001', '127.0.0.1:5002'";
    let agent = Agent::start(&hosts.balancer, &services(two, 81));
    let _apps = node::copies(&hosts.balancer, [5000, 5001, 5002], agent.dir());
    let mut sockets = Clients::new(&hosts.clients, agent.dir(), "ws");
    let from: Vec<IpAddr> = (1..=100).map(client_v4).collect();
    sockets.open("ws", SERVICE_V4, &from);
    let before = sockets.ports();
    for round in 0..50 {
        let (backends, port) = if round % 2 == 0 {
            (three, 82)
        } else {
            (two, 81)
        };
        agent.configure(&services(backends, port));
        agent.ok(&["reload"]);
        let mut here = SERVICE_V4;
        here.set_port(port);
        let mut gone = SERVICE_V4;
        gone.set_port(163 - port);
        hosts.clients.run(|| {
            let client = client_v4(1 + round);
            assert_eq!(
                http::get(client, here).unwrap().port,
                before[&client],
                "round {round}"
            );
            assert!(
                http::get(client, gone).is_err(),
                "round {round}: not its address any more"
            );
        });
    }
    sockets.echo(1000);
    assert_eq!(sockets.disconnects(), Vec::<IpAddr>::new());
}

#[test]
fn a_bad_file_is_refused_and_changes_nothing() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &services("'127.0.0.1:5000'", 81));
    let _app = node::serve(
        &hosts.balancer,
        "server.js",
        ([127, 0, 0, 1], 5000).into(),
        agent.dir(),
    );
    let before = agent.status()["services"].clone();
    agent.configure("[[service]]\nname = 'web'\nlisten = ['0.0.0.0:0']\nbackend = []\n");
    let outcome = agent.run(&["reload"]);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    for problem in ["listen[0]", "backend"] {
        assert!(outcome.stderr.contains(problem), "{outcome:?}");
    }
    let after = agent.status()["services"].clone();
    assert_eq!(after, before);
    assert_eq!(
        hosts
            .clients
            .run(|| http::get(client_v4(1), SERVICE_V4))
            .unwrap()
            .port,
        5000
    );
}

#[test]
fn sighup_reloads_too() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, &services("'127.0.0.1:5000'", 81));
    agent.configure(&services("'127.0.0.1:5007'", 81));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(agent.pid() as i32).unwrap(),
        rustix::process::Signal::HUP,
    )
    .unwrap();
    wait::until("the new backend", || {
        (agent.status()["services"][0]["backends"][0]["address"] == "127.0.0.1:5007").then_some(())
    });
}

/// One service of this name, without affinity so that slots decide alone, with another line.
fn named(name: &str, line: &str) -> String {
    format!(
        "[[service]]\nname = '{name}'\n{line}\nlisten = ['0.0.0.0:80']\n\
         affinity = {{ timeout = '0s' }}\nbackends = ['127.0.0.1:5000', '127.0.0.1:5001']\n"
    )
}

#[test]
fn renamed_service_keeps_clients_counts_and_backends_added_at_run_time() {
    for data_plane in ["bpf", "userspace"] {
        let hosts = Hosts::new();
        let _apps = [5000, 5001, 5002]
            .map(|port| FlakyBackend::new(&hosts.balancer, &format!("127.0.0.1:{port}")));
        let mut agent = Agent::start_on(&hosts.balancer, &named("app", ""), data_plane);
        agent.ok(&["add-backend", "127.0.0.1:5002"]);
        let ports = || -> Vec<u16> {
            let get = |n| http::get(client_v4(n), SERVICE_V4).unwrap().port;
            hosts.clients.run(|| (1..=40).map(get).collect())
        };
        let before = ports();
        let open = hosts
            .clients
            .run(|| http::connect(client_v4(1), SERVICE_V4).unwrap());
        http::ask(&open).unwrap();
        let active = |agent: &Agent<'_>| {
            let status = agent.status()["services"][0]["backends"].clone();
            let backends = status.as_array().unwrap();
            backends
                .iter()
                .map(|b| b["active"].as_u64().unwrap())
                .sum::<u64>()
        };
        wait::until("all other connections to be over", || {
            (active(&agent) == 1).then_some(())
        });

        // Without the key it is told, and how to do better.
        agent.configure(&named("web", ""));
        let plan = agent.ok(&["plan"]);
        assert!(plan.contains("write was = \"app\""), "{plan}");
        assert!(
            plan.contains("127.0.0.1:5002 of app, added at run time"),
            "{plan}"
        );

        agent.configure(&named("web", "was = 'app'"));
        let plan = agent.ok(&["plan", "--max-moved", "0%"]);
        assert!(plan.contains("web (now app) changes"), "{plan}");
        let said = agent.ok(&["reload", "--max-moved", "0%"]);
        assert!(said.contains("app is web from now on"), "{said}");
        assert_eq!(ports(), before, "{data_plane}");
        wait::until("the open connection to be counted", || {
            (active(&agent) == 1).then_some(())
        });
        http::ask(&open).unwrap();

        // The key may go again, and so may the agent.
        agent.configure(&named("web", ""));
        agent.ok(&["reload"]);
        assert_eq!(ports(), before, "{data_plane}");
        drop(open);
        agent.end();
        agent.start_again();
        assert_eq!(ports(), before, "{data_plane}");
        assert_eq!(agent.backend("127.0.0.1:5002")["source"], "runtime");
    }
}
