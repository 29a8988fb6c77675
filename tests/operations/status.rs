//! `status` names the application behind each backend and what a service does with its clients.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use lb_tests::agent::{Agent, program};
use lb_tests::node;
use lb_tests::process::Process;
use lb_tests::topology::hosts::Hosts;
use serde_json::{Value, json};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n\
                        backends = ['127.0.0.1:5000', '127.0.0.1:5001', '127.0.0.1:5002']\n\
                        [[service]]\nname = 'app'\nmode = 'http'\nlisten = ['0.0.0.0:81']\n\
                        backends = ['127.0.0.1:5000']\n\
                        [service.http]\nstickiness = { cookie = 'lb' }\n\
                        [[service.route]]\nhost = 'a.example'\npath = '/api'\n\
                        backends = ['127.0.0.1:5001']\n";

#[test]
fn processes_routes_stickiness_and_clients_through_the_agent_are_named() {
    for data_plane in ["bpf", "userspace"] {
        let hosts = Hosts::new();
        let agent = Agent::start_on(&hosts.balancer, SERVICES, data_plane);
        let [app] = node::copies(&hosts.balancer, [5000], agent.dir());
        let everywhere = hosts
            .balancer
            .run(|| TcpListener::bind("[::]:5001").unwrap());
        let of_node = json!([{ "pid": app.pid(), "program": "node" }]);
        let first = agent.backend("127.0.0.1:5000");
        let by_kernel = data_plane == "bpf";
        let missed = if by_kernel {
            json!("IPv6")
        } else {
            Value::Null
        };
        assert_eq!(first["processes"], of_node, "{data_plane}: {first}");
        assert_eq!(first["through_the_agent"], missed, "{data_plane}: {first}");
        let second = agent.backend("127.0.0.1:5001");
        assert_eq!(second["processes"][0]["pid"], std::process::id());
        assert_eq!(second["through_the_agent"], Value::Null);
        assert_eq!(agent.backend("127.0.0.1:5002")["processes"], Value::Null);
        let status = agent.status();
        let http = &status["services"][1];
        assert_eq!(http["stickiness"], json!({ "by": "cookie", "name": "lb" }));
        let routes =
            json!([{ "hosts": ["a.example"], "path": "/api", "to": "backends of app/api" }]);
        assert_eq!(http["routes"], routes);
        let shown = agent.ok(&["status"]);
        for part in [
            "sticky by cookie lb",
            "route  a.example  /api  backends of app/api",
            &format!("node (pid {})", app.pid()),
            "no listener",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(
            !agent.ok(&["stats", "--json"]).contains("\"processes\""),
            "figures do without"
        );
        drop(everywhere);
    }
}

#[test]
fn watch_repeats_until_it_is_interrupted() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let mut command = Command::new(program());
    command
        .args(["status", "--watch", "--json"])
        .env("LB_AGENT_CONTROL", agent.control())
        .stdin(Stdio::null());
    let mut watching = Process::start(command, &agent.dir().join("watch.log"));
    let _app = node::copies(&hosts.balancer, [5000], agent.dir());
    lb_tests::wait::until("two looks", || {
        let printed = watching.printed();
        let pages = printed.lines().map(serde_json::from_str::<Value>);
        let pages: Vec<Value> = pages.filter_map(Result::ok).collect();
        let state = |page: &Value| page["services"][0]["backends"][0]["state"] == "up";
        (pages.len() >= 2 && state(pages.last()?)).then_some(())
    });
    assert!(watching.ended().is_none());
}
