//! Open connections are counted exactly, whether the agent, application or connection came first.

use std::net::TcpStream;

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{CLIENTS, Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, wait};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

#[test]
fn status_counts_open_connections_exactly() {
    let hosts = Hosts::new();
    // One application is there before the agent, one comes after it.
    let dir = tempfile::tempdir().unwrap();
    let serve = |port: u16| {
        node::serve(
            &hosts.balancer,
            "server.js",
            ([127, 0, 0, 1], port).into(),
            dir.path(),
        )
    };
    let _first = serve(5000);
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _second = serve(5001);
    let active = |port: u16| {
        agent.backend(&format!("127.0.0.1:{port}"))["active"]
            .as_u64()
            .unwrap()
    };

    // A connection that comes by no service does not count.
    let direct = hosts.balancer.run(|| {
        http::connect(
            "127.0.0.1".parse().unwrap(),
            "127.0.0.1:5000".parse().unwrap(),
        )
        .unwrap()
    });
    let mut open: Vec<(TcpStream, u16)> = hosts.clients.run(|| {
        let connect = |n: u16| {
            let stream = http::connect(client_v4(1 + n % CLIENTS), SERVICE_V4).unwrap();
            let port = http::ask(&stream).unwrap().port;
            (stream, port)
        };
        (0..500).map(connect).collect()
    });
    let mine = |open: &[(TcpStream, u16)], port: u16| {
        open.iter().filter(|(_, on)| *on == port).count() as u64
    };
    assert!(mine(&open, 5000) > 0 && mine(&open, 5001) > 0);
    assert_eq!(
        [active(5000), active(5001)],
        [mine(&open, 5000), mine(&open, 5001)]
    );
    open.truncate(123);
    wait::until("closed connections are taken off", || {
        let counted = [active(5000), active(5001)];
        (counted == [mine(&open, 5000), mine(&open, 5001)]).then_some(())
    });
    drop(open);
    wait::until("none is left", || {
        ([active(5000), active(5001)] == [0, 0]).then_some(())
    });
    drop(direct);
}
