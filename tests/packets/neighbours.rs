//! Several balancers on one machine, each in a network namespace of its own. None sees, counts or
//! disturbs sockets of another, although the kernel shows the sockets of all of them to each.

use std::net::TcpStream;

use lb_tests::agent::Agent;
use lb_tests::http;
use lb_tests::stub_server::StubServer;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::wait;

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000']\n";

#[test]
fn two_balancers_with_the_same_addresses_serve_their_own_only() {
    let (left, right) = (Hosts::new(), Hosts::new());
    let agent_left = Agent::start(&left.balancer, SERVICES);
    let mut agent_right = Agent::start(&right.balancer, SERVICES);
    let get = |hosts: &Hosts| hosts.clients.run(|| http::get(client_v4(1), SERVICE_V4));
    let listening = |agent: &Agent<'_>| agent.backend("127.0.0.1:5000")["listening"] == true;

    let _app_left = StubServer::new(&left.balancer, "127.0.0.1:5000", 1);
    assert!(listening(&agent_left) && !listening(&agent_right));
    assert_eq!(get(&left).unwrap().port, 1);
    assert!(get(&right).is_err(), "the other's backend is not ours");

    let app_right = StubServer::new(&right.balancer, "127.0.0.1:5000", 2);
    assert_eq!(get(&right).unwrap().port, 2);
    assert_eq!(get(&left).unwrap().port, 1);

    // Connections are counted in the namespace of their own balancer.
    let connect = |hosts: &Hosts| -> Vec<TcpStream> {
        let connect = |n| http::connect(client_v4(n), SERVICE_V4).unwrap();
        hosts.clients.run(|| (1..=10).map(connect).collect())
    };
    let active = |agent: &Agent<'_>| agent.backend("127.0.0.1:5000")["active"].as_u64().unwrap();
    let on_the_left = connect(&left);
    wait::until("ten on the left", || {
        (active(&agent_left) == 10).then_some(())
    });
    assert_eq!(active(&agent_right), 0);
    drop(on_the_left);
    wait::until("none on the left", || {
        (active(&agent_left) == 0).then_some(())
    });

    // The end of one, of its backend, and its return do not concern the other.
    drop(app_right);
    assert!(get(&right).is_err());
    assert_eq!(get(&left).unwrap().port, 1);
    agent_right.ok(&["stop", "--purge"]);
    agent_right.kill();
    assert_eq!(get(&left).unwrap().port, 1);
    assert!(listening(&agent_left));
    agent_right.start_again();
    let _app_right = StubServer::new(&right.balancer, "127.0.0.1:5000", 3);
    assert_eq!(get(&right).unwrap().port, 3);
    assert_eq!(get(&left).unwrap().port, 1);
}
