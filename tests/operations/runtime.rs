//! Changes made at run time: the service that they concern, and how they end.

use lb_tests::agent::{Agent, program};
use lb_tests::topology::hosts::Hosts;

const SERVICES: &str = "[[service]]\nname = 'web'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n\
                        [[service.route]]\npath = '/api'\nbackends = ['127.0.0.1:6000', '127.0.0.1:5001']\n";

#[test]
fn service_follows_from_the_address_or_the_environment() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let drained = agent.ok(&["drain-backend", "127.0.0.1:6000"]);
    assert!(
        drained.starts_with("draining 127.0.0.1:6000 of web/api"),
        "{drained}"
    );
    let added = agent.ok(&["add-backend", "127.0.0.1:6000"]);
    assert!(
        added.starts_with("put back in service 127.0.0.1:6000 (web/api: 2 backends)"),
        "{added}"
    );
    let added = agent.ok(&["add-backend", "127.0.0.1:5002"]);
    assert!(
        added.starts_with("added 127.0.0.1:5002 (web: 3 backends)"),
        "{added}"
    );
    // The address of two services.
    let outcome = agent.run(&["drain-backend", "127.0.0.1:5001"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            2,
            "lb-agent: drain-backend: which service? 127.0.0.1:5001 is a backend of several: web, web/api (name it \
             with --service, or in the variable LB_SERVICE)\n"
        )
    );
    let mut command = hosts.balancer.command(program());
    command
        .args(["drain-backend", "127.0.0.1:5001"])
        .env("LB_AGENT_CONTROL", agent.control())
        .env("LB_SERVICE", "web/api");
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.starts_with("draining 127.0.0.1:5001 of web/api"),
        "{output:?}"
    );
}

#[test]
fn changes_are_named_by_plan_and_status_and_end_on_request() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    agent.ok(&["remove-backend", "127.0.0.1:5000"]);
    agent.ok(&["remove-backend", "127.0.0.1:6000"]);
    agent.ok(&["add-backend", "127.0.0.1:5002"]);
    let removed = [
        "1 of the file was removed at run time: 127.0.0.1:5000 (of web; ",
        "1 of the file was removed at run time: 127.0.0.1:6000 (of web/api; ",
    ];
    let added = "1 added at run time stays beside the file: 127.0.0.1:5002 (of web)";
    let (status, plan) = (agent.ok(&["status"]), agent.ok(&["plan"]));
    for note in removed {
        assert!(
            status.contains(note) && plan.contains(note),
            "{status}\n{plan}"
        );
    }
    assert!(plan.contains(added), "{plan}");

    let reset = agent.ok(&["reset-backend", "127.0.0.1:6000"]);
    assert_eq!(
        reset,
        "reset to the file: 127.0.0.1:6000 (web/api: 2 backends)\n"
    );
    let dry = agent.ok(&["reload", "--dry-run", "--forget-runtime"]);
    for line in ["+ 127.0.0.1:5000", "- 127.0.0.1:5002"] {
        assert!(dry.contains(line), "{dry}");
    }
    let reloaded = agent.ok(&["reload", "--forget-runtime"]);
    assert_eq!(
        reloaded,
        "reloaded: 2 services, 4 backends; forgot changes of 2 backends made at run time\n"
    );
    assert_eq!(agent.ok(&["plan"]), "nothing would change\n");
}
