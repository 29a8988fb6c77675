//! A kernel that is too old for the programs: the agent serves nonetheless. Only a guest has such a
//! one (`cargo xtask test kernels 5.10`).

use lb_tests::agent::Agent;
use lb_tests::flaky_backend::FlakyBackend;
use lb_tests::http;
use lb_tests::topology::hosts::{Hosts, client_v4, client_v6, service_for};

#[test]
fn the_agent_says_what_is_missing_and_serves_from_user_space() {
    let hosts = Hosts::new();
    let _app = FlakyBackend::new(&hosts.balancer, "127.0.0.1:5000");
    let services = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
                    backends = ['127.0.0.1:5000']\n";
    let agent = Agent::start_on(&hosts.balancer, services, "auto");
    let status = agent.status();
    assert_eq!(status["agent"]["data_plane"], "userspace", "{status:#}");
    let notes = status["agent"]["notes"].as_array().unwrap();
    let note = notes
        .iter()
        .filter_map(|note| note.as_str())
        .find(|note| note.starts_with("BPF cannot serve here: "))
        .unwrap_or_else(|| panic!("{status:#}"));
    println!("{note}");
    assert!(
        note.contains("is older than 6.1"),
        "it names what is needed: {note}"
    );
    assert!(
        !note.contains('\n') && note.len() < 200,
        "one sentence: {note}"
    );
    for client in [client_v4(1), client_v6(1)] {
        let answer = hosts.clients.run(|| http::get(client, service_for(client)));
        assert_eq!(answer.unwrap().port, 5000, "{client}");
    }
}
