//! Bounded load: new clients of a backend with more than its share go to another one, and stay there.

use std::net::{IpAddr, TcpStream};

use lb_tests::agent::Agent;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node};

#[test]
fn new_clients_pass_by_a_backend_that_has_its_share_and_stay_where_they_went() {
    let hosts = Hosts::new();
    let services = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nmax_load = 1.25\n\
                    backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";
    let agent = Agent::start(&hosts.balancer, services);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    // Only clients of one backend's slots come.
    let mut crowd: Vec<IpAddr> = (1..=200).map(client_v4).collect();
    let slot_owner = |client: IpAddr| agent.lookup(client)["order"][0] == "127.0.0.1:5000";
    crowd.retain(|client| slot_owner(*client));
    crowd.truncate(60);
    assert_eq!(crowd.len(), 60);
    let open: Vec<(TcpStream, u16)> = hosts.clients.run(|| {
        let connect = |client: &IpAddr| {
            let stream = http::connect(*client, SERVICE_V4).unwrap();
            let port = http::ask(&stream).unwrap().port;
            (stream, port)
        };
        crowd.iter().map(connect).collect()
    });
    let on_5000 = open.iter().filter(|(_, port)| *port == 5000).count();
    // 1.25 times the fair share of 60 is 37.5; the last connection may round it up.
    assert!((30..=38).contains(&on_5000), "{on_5000} of 60");
    assert!(agent.status()["services"][0]["counters"]["next"].as_u64() > Some(0));
    let again: Vec<u16> = hosts.clients.run(|| {
        crowd
            .iter()
            .map(|client| http::get(*client, SERVICE_V4).unwrap().port)
            .collect()
    });
    let before: Vec<u16> = open.iter().map(|(_, port)| *port).collect();
    assert_eq!(again, before, "affinity keeps them there");
}
