//! The move from nginx and back: the agent takes a port on which nginx listens, and gives it back, while clients come.

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::time::Instant;

use lb_tests::agent::Agent;
use lb_tests::http::{ask_well, connect};
use lb_tests::load::{Load, Visit};
use lb_tests::node;
use lb_tests::process::Process;
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4, client_v4, client_v6};

const SERVICE: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\n";
const BACKENDS: &str = "backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";

const NGINX: &str = "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log warn;\n\
    events { worker_connections 512; }\n\
    http {\n  access_log off;\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n  \
    fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  \
    keepalive_timeout 600;\n  \
    upstream app { ip_hash; server 127.0.0.1:5000; server 127.0.0.1:5001; }\n  \
    server {\n    listen 80;\n    listen [::]:80;\n    location / { proxy_pass http://app; }\n  }\n}\n";

/// nginx on port 80, in front of both copies. It listens when this returns.
fn nginx(host: &Host, dir: &Path) -> Process {
    fs::write(dir.join("nginx.conf"), NGINX).unwrap();
    let mut command = host.command("nginx");
    command.arg("-p").arg(dir);
    command.args(["-c", "nginx.conf", "-e", "error.log"]);
    let process = Process::start(command, &dir.join("nginx.log"));
    lb_tests::wait::until("nginx to listen", || {
        let shown = host.command("ss").args(["-Hltn", "sport = :80"]).output();
        let text = String::from_utf8(shown.unwrap().stdout).unwrap();
        (text.lines().count() >= 2).then_some(())
    });
    process
}

/// nginx ends as by `nginx -s quit`: connections with a request under way are served.
fn quit(mut nginx: Process) {
    let pid = rustix::process::Pid::from_raw(nginx.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
    assert!(nginx.wait().success());
}

/// Every visit was answered. IPv4 clients that came at `since` or later were seen by their address if they came
/// directly, and by that of nginx if not. IPv6 clients come through nginx or the agent, as the copies listen on
/// IPv4.
#[track_caller]
fn check(visits: Vec<Visit>, since: Instant, directly: bool) {
    assert!(
        visits
            .iter()
            .any(|visit| visit.begun >= since && visit.client.is_ipv4())
    );
    for visit in visits {
        let (client, begun) = (visit.client, visit.begun);
        let answer = visit
            .answer
            .unwrap_or_else(|error| panic!("{client}: {error}"));
        if begun >= since && client.is_ipv4() {
            let remote: IpAddr = answer.remote.trim_start_matches("::ffff:").parse().unwrap();
            assert_eq!(remote == client, directly, "{client}: {answer:?}");
        }
    }
}

/// Waits for visits that begin from now on, and checks all since the last time.
#[track_caller]
fn look(load: &Load, directly: bool) {
    let since = Instant::now();
    load.more(150);
    check(load.so_far(), since, directly);
}

fn kept(hosts: &Hosts) -> TcpStream {
    hosts
        .clients
        .run(|| connect(client_v4(100), SERVICE_V4).unwrap())
}

#[test]
fn agent_takes_a_port_from_nginx_and_gives_it_back_without_a_refused_connection() {
    let hosts = Hosts::new();
    let dir = tempfile::tempdir().unwrap();
    // Sockets that listen before the agent starts are the ones that it has to adopt in time.
    let _apps = node::copies(&hosts.balancer, [5000, 5001], dir.path());
    let nginx_before = nginx(&hosts.balancer, dir.path());
    let mut agent = Agent::start(&hosts.balancer, SERVICE);
    let clients = (1..=60).flat_map(|n| [client_v4(n), client_v6(n)]);
    let clients: Vec<IpAddr> = clients.collect();
    let load = Load::start(&hosts.clients, &clients, 800);
    look(&load, false);
    // A first packet may be lost while the neighbour is looked for, and comes again after a second. Half a connection
    // to nginx would end with nginx.
    load.more(1200);
    let kept = kept(&hosts);
    ask_well(&kept).unwrap();
    agent.configure(&format!("{SERVICE}{BACKENDS}"));
    agent.ok(&["reload"]);
    look(&load, true);
    assert_eq!(
        ask_well(&kept).unwrap().remote,
        "127.0.0.1",
        "nginx has it still"
    );
    drop(kept);
    quit(nginx_before);
    look(&load, true);
    let _nginx = nginx(&hosts.balancer, dir.path());
    look(&load, true);
    agent.ok(&["stop", "--purge"]);
    agent.wait_for_end();
    let purged = Instant::now();
    load.more(150);
    check(load.finish(), purged, false);
}
