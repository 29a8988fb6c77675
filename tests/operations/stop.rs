//! `stop` tells for each service whether it goes on, and what the agent waits for.

use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::http;
use lb_tests::node::{self, Clients};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};

const SERVICES: &str = "[[service]]\nname = 'web'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000']\n[service.http.timeouts]\ndrain = '3s'\n\
                        [[service]]\nname = 'app'\nlisten = ['0.0.0.0:81']\nbackends = ['127.0.0.1:5001']\n";

#[test]
fn each_service_is_told_and_the_kernel_goes_on_with_its_own() {
    let hosts = Hosts::new();
    let mut agent = Agent::start(&hosts.balancer, SERVICES);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let mut sockets = Clients::new(&hosts.clients, agent.dir(), "ws");
    sockets.open("ws", SERVICE_V4, &[client_v4(1), client_v4(2)]);
    let begun = Instant::now();
    let told = agent.ok(&["stop"]);
    let took = begun.elapsed();
    assert_eq!(
        told,
        "web (http) is served no more; waiting up to 3s for 2 requests and WebSockets\n\
         app (tcp, kernel): goes on without the agent\nstopped\n"
    );
    let range = Duration::from_millis(2500)..Duration::from_secs(15);
    assert!(range.contains(&took), "{took:?}");
    assert_eq!(agent.wait_for_end().code(), Some(4));
    let mut app = SERVICE_V4;
    app.set_port(81);
    let get = |address| hosts.clients.run(|| http::get(client_v4(3), address));
    assert_eq!(get(app).unwrap().port, 5001);
    assert!(get(SERVICE_V4).is_err());
    // The pins go with an agent that is there.
    agent.start_again();
    let purged = agent.ok(&["stop", "--purge"]);
    let expected = "web (http) is served no more\napp (tcp, kernel) is served no more\n\
                    stopped; everything is taken out of the kernel\n";
    assert!(purged.starts_with(expected), "{purged}");
    agent.wait_for_end();
}
