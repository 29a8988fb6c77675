//! Socket.IO by long polling, by WebSocket and by both, and plain WebSockets, through port 80 to
//! applications on 127.0.0.1.

use std::net::IpAddr;

use lb_tests::agent::Agent;
use lb_tests::node::{self, Clients};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

#[test]
fn every_transport_works_and_stays_with_its_copy() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let v4: Vec<IpAddr> = (1..=20).map(client_v4).collect();
    let v6: Vec<IpAddr> = (1..=20).map(client_v6).collect();
    for kind in ["polling", "websocket", "both", "ws"] {
        for (to, from) in [(SERVICE_V4, &v4), (SERVICE_V6, &v6)] {
            let name = format!("{kind}-{}", to.is_ipv4());
            let mut clients = Clients::new(&hosts.clients, agent.dir(), &name);
            clients.open(kind, to, from);
            for size in [1, 125, 126, 65_536, 500_000] {
                clients.echo(size);
            }
            assert_eq!(clients.disconnects(), Vec::<IpAddr>::new(), "{name}");
            for (client, port) in clients.ports() {
                assert_eq!(port, agent.looked_up_port(client), "{name} {client}");
            }
            if to.is_ipv4() {
                for (client, remote) in clients.remotes() {
                    assert_eq!(
                        remote,
                        client.to_string(),
                        "{name}: the client's real address"
                    );
                }
            }
            clients.close();
        }
    }
}
