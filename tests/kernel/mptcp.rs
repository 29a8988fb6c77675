//! An application that listens by MPTCP, as Go programs do since Go 1.24, is served through the agent: the
//! kernel hands no connection to such a socket.

use std::net::IpAddr;

use lb_tests::agent::Agent;
use lb_tests::stub_server::{StubServer, has_mptcp};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6};
use lb_tests::{http, wait};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
                        backends = ['127.0.0.1:5000']\n";

fn ask(hosts: &Hosts, client: IpAddr) -> std::io::Result<u16> {
    let to = if client.is_ipv4() {
        SERVICE_V4
    } else {
        SERVICE_V6
    };
    hosts
        .clients
        .run(|| http::get(client, to))
        .map(|answer| answer.port)
}

fn wait_for_path(agent: &Agent<'_>, path: &str) -> serde_json::Value {
    wait::until(&format!("path {path}"), || {
        let backend = agent.backend("127.0.0.1:5000");
        (backend["path"] == path && backend["listening"] == true).then_some(backend)
    })
}

#[test]
fn an_application_that_listens_by_mptcp_is_on_the_proxy_path_and_status_says_why() {
    let hosts = Hosts::new();
    if !has_mptcp(&hosts.balancer) {
        return;
    }
    // It listens before the agent starts.
    let app = StubServer::mptcp(&hosts.balancer, "127.0.0.1:5000", 1);
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let backend = agent.backend("127.0.0.1:5000");
    assert_eq!(backend["path"], "proxy", "{backend:#}");
    assert!(backend["why"].as_str().unwrap().contains("MPTCP"));
    assert_eq!(ask(&hosts, client_v4(1)).unwrap(), 1);
    assert_eq!(ask(&hosts, client_v6(1)).unwrap(), 1);
    // While it restarts, and once it listens by plain TCP.
    drop(app);
    agent.kill();
    agent.start_again();
    let app = StubServer::mptcp(&hosts.balancer, "0.0.0.0:5000", 2);
    let backend = wait_for_path(&agent, "proxy");
    assert!(backend["why"].as_str().unwrap().contains("MPTCP"));
    assert_eq!(ask(&hosts, client_v4(2)).unwrap(), 2);
    let notes = agent.status()["agent"]["notes"].to_string();
    assert!(!notes.contains("MPTCP"), "{notes}");
    drop(app);
    let _app = StubServer::new(&hosts.balancer, "127.0.0.1:5000", 3);
    wait_for_path(&agent, "socket");
    assert_eq!(ask(&hosts, client_v4(3)).unwrap(), 3);
}

#[test]
fn an_mptcp_listener_on_the_configured_socket_path_is_told_with_the_way_out() {
    let hosts = Hosts::new();
    if !has_mptcp(&hosts.balancer) {
        return;
    }
    let services = format!("{SERVICES}path = 'socket'\n");
    let agent = Agent::start(&hosts.balancer, &services);
    let app = StubServer::mptcp(&hosts.balancer, "127.0.0.1:5000", 1);
    wait::until("a note", || {
        let notes = agent.status()["agent"]["notes"].to_string();
        (notes.contains("127.0.0.1:5000 is MPTCP") && notes.contains("path = ")).then_some(())
    });
    assert_eq!(agent.backend("127.0.0.1:5000")["path"], "socket");
    drop(app);
    wait::until("no note", || {
        let notes = agent.status()["agent"]["notes"].to_string();
        (!notes.contains("MPTCP")).then_some(())
    });
}
