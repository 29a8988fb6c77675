//! `mode = "http"`: Express, Socket.IO and plain WebSockets behind the L7 path, which passes the
//! client's address on.

use std::io::{Read as _, Write as _};
use std::net::IpAddr;

use lb_tests::agent::Agent;
use lb_tests::http;
use lb_tests::node::{self, Clients};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, SERVICE_V6, client_v4, client_v6};

const SERVICES: &str = "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
                        mode = 'http'\nbackends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

#[test]
fn every_transport_works_and_stays_with_its_copy() {
    for data_plane in ["bpf", "userspace"] {
        let hosts = Hosts::new();
        let agent = Agent::start_on(&hosts.balancer, SERVICES, data_plane);
        let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
        let v4: Vec<IpAddr> = (1..=10).map(client_v4).collect();
        let v6: Vec<IpAddr> = (1..=10).map(client_v6).collect();
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
                clients.close();
            }
        }
    }
}

#[test]
fn express_is_told_who_asks_for_what() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    for (client, to) in [(client_v4(7), SERVICE_V4), (client_v6(7), SERVICE_V6)] {
        let answer = hosts.clients.run(|| {
            let mut stream = http::connect(client, to).unwrap();
            let request = "GET /request?a=b HTTP/1.1\r\nHost: shop.example\r\n\
                           X-Forwarded-For: 192.0.2.66\r\nX-Forwarded-Proto: https\r\n\
                           Connection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let seen: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(seen["ip"], client.to_string(), "{seen:#}");
        assert_eq!(seen["protocol"], "http", "{seen:#}");
        assert_eq!(seen["hostname"], "shop.example", "{seen:#}");
        assert_eq!(seen["url"], "/request?a=b", "{seen:#}");
        assert_eq!(seen["headers"]["x-real-ip"], client.to_string(), "{seen:#}");
        assert_eq!(seen["headers"]["x-forwarded-port"], "80", "{seen:#}");
    }
}
