//! slowhttptest (Debian): headers, bodies and answers that go byte by byte. Others are served meanwhile, and the time
//! limits of the service end the slow connections.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use lb_tests::agent::Agent;
use lb_tests::process::Process;
use lb_tests::skip::skip;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node};

/// Slow connections at a time.
const SLOW: &str = "300";

fn services(root: &Path) -> String {
    format!(
        "[[service]]\nname = 'web'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
         backends = ['127.0.0.1:5000']\n[service.http]\n\
         timeouts = {{ header = '2s', body = '2s', send = '2s', idle = '2s' }}\n\
         [[service.route]]\npath = '/files'\nfiles = {{ root = '{}', strip = true }}\n",
        root.display()
    )
}

/// Runs an attack to its end while other clients are served.
fn attack(hosts: &Hosts, dir: &Path, path: &str, arguments: &[&str]) {
    let mut command = hosts.clients.command("slowhttptest");
    let url = format!("http://{}{path}", SERVICE_V4.ip());
    command
        .args(arguments)
        .args(["-c", SLOW, "-r", SLOW, "-l", "50", "-p", "10", "-u", &url]);
    let mut attack = Process::start(command, &dir.join("slowhttptest.log"));
    let to = SocketAddr::new(SERVICE_V4.ip(), 80);
    let mut served = 0u32;
    while attack.ended().is_none() {
        let client = client_v4(2 + (served % 100) as u16);
        hosts.clients.run(|| http::get(client, to)).unwrap();
        served += 1;
    }
    let printed = attack.printed();
    // It ends before its time only when the other side has closed all of its connections.
    assert!(printed.contains("No open connections left"), "{printed}");
    assert!(served > 10, "{served} requests");
}

#[test]
fn slow_clients_are_ended_and_others_are_served() {
    let mut known = Command::new("slowhttptest");
    if known.arg("-h").output().is_err() {
        skip("slowhttptest: it is not installed");
        return;
    }
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("large.bin"), vec![b'a'; 4 << 20]).unwrap();
    let agent = Agent::start(&hosts.balancer, &services(dir.path()));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    attack(&hosts, agent.dir(), "/id", &["-H", "-i", "1"]);
    attack(&hosts, agent.dir(), "/echo", &["-B", "-i", "4"]);
    let slow_read = ["-X", "-n", "5", "-w", "512", "-y", "1024", "-z", "32"];
    attack(&hosts, agent.dir(), "/files/large.bin", &slow_read);
}
