//! Clients on the balancer's own host are served like all others.

use std::net::IpAddr;

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::Host;
use lb_tests::{http, node};

#[test]
fn clients_on_the_same_host_are_served_on_every_address() {
    let host = Host::new("alone");
    host.ip(&["addr", "add", "10.98.0.1/24", "dev", "lo"]);
    let services = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
                    backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";
    let agent = Agent::start(&host, services);
    let _apps = node::copies(&host, [5000, 5001], agent.dir());
    for (from, to) in [
        ("127.0.0.1", "127.0.0.1:80"),
        ("127.0.0.7", "127.0.0.1:80"),
        ("10.98.0.1", "10.98.0.1:80"),
        ("::1", "[::1]:80"),
    ] {
        let from: IpAddr = from.parse().unwrap();
        let expected = agent.looked_up_port(from);
        for _ in 0..5 {
            let answer = host.run(|| http::get(from, to.parse().unwrap())).unwrap();
            assert_eq!(answer.port, expected, "{from} to {to}");
        }
    }
    // The applications' own ports are left alone.
    let direct = host.run(|| {
        http::get(
            "127.0.0.1".parse().unwrap(),
            "127.0.0.1:5001".parse().unwrap(),
        )
    });
    assert_eq!(direct.unwrap().port, 5001);
}
