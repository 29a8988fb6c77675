//! The access log of `mode = "http"` services: every request has its line, with everything that
//! one wants to know, also while the file is moved away.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use lb_tests::agent::Agent;
use lb_tests::load::Load;
use lb_tests::tls::{Authority, curl};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{node, wait};
use serde_json::Value;

fn services(log: &Path, format: &str) -> String {
    format!(
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n\
         [service.http.access_log]\nfile = '{}'\nformat = '{format}'\n",
        log.display()
    )
}

/// The lines, once there are at least `count`.
fn lines(path: &Path, count: usize) -> Vec<String> {
    wait::until("lines in the access log", || {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    })
}

#[test]
fn a_line_tells_who_asked_for_what_and_what_came_of_it() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let log = dir.path().join("access.log");
    let authority = Authority::new(dir.path());
    let tls = format!(
        "[service.tls]\nlisten = ['0.0.0.0:443']\ncertificates = [{}]\n",
        authority.issue("a", &["a.test"]).toml()
    );
    let json = services(&log, "json") + &tls;
    let agent = Agent::start(&hosts.balancer, &json);
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let client = client_v4(9);
    let from = client.to_string();
    let trust = authority.certificate();
    let to = SocketAddr::new(SERVICE_V4.ip(), 443);
    let answer = curl(
        &hosts.clients,
        to,
        &[
            "--http2",
            "--interface",
            &from,
            "-u",
            "ann:secret",
            "-A",
            "tool \"1\"",
            "-e",
            "https://b.test/",
            "--cacert",
            trust.to_str().unwrap(),
            "https://a.test/id?x=y",
        ],
    );
    assert_eq!(answer.code, 0, "{answer:?}");
    let line: Value = serde_json::from_str(&lines(&log, 1)[0]).unwrap();
    let port = agent.looked_up_port(client);
    for (field, value) in [
        ("client", from.as_str().into()),
        ("user", "ann".into()),
        ("method", "GET".into()),
        ("target", "/id?x=y".into()),
        ("protocol", "HTTP/2.0".into()),
        ("host", "a.test".into()),
        ("status", 200.into()),
        ("bytes", answer.stdout.len().into()),
        ("referer", "https://b.test/".into()),
        ("user_agent", "tool \"1\"".into()),
        ("backend", format!("127.0.0.1:{port}").into()),
        ("why", "slot".into()),
        ("tls", "TLSv1.3".into()),
    ] {
        let value: Value = value;
        assert_eq!(line[field], value, "{field} of {line:#}");
    }
    let ms = |name: &str| line[name].as_f64().unwrap();
    assert!(ms("connect_ms") <= ms("first_byte_ms"), "{line:#}");
    assert!(ms("first_byte_ms") <= ms("total_ms"), "{line:#}");
    assert!(line.get("aborted").is_none() && !line.to_string().contains("secret"));
    agent.configure(&services(&log, "combined"));
    agent.ok(&["reload"]);
    let again = ["--interface", &from, "http://a.test/id"];
    assert_eq!(curl(&hosts.clients, SERVICE_V4, &again).code, 0);
    let line = &lines(&log, 2)[1];
    assert!(line.starts_with(&format!("{from} - - [")), "{line}");
    let known = format!(
        "\"GET /id HTTP/1.1\" 200 {} \"-\" \"curl/",
        answer.stdout.len()
    );
    assert!(line.contains(&known), "{line}");
    assert!(
        line.contains(&format!(" backend=127.0.0.1:{port} why=affinity connect=")),
        "{line}"
    );
}

#[test]
fn no_line_is_lost_or_torn_while_the_file_is_moved_away() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let log = dir.path().join("access.log");
    let agent = Agent::start(&hosts.balancer, &services(&log, "json"));
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let clients: Vec<_> = (1..=20).map(client_v4).collect();
    let load = Load::start(&hosts.clients, &clients, 400);
    let mut files = vec![log.clone()];
    for turn in 0..5 {
        load.more(100);
        wait::until("the file", || log.exists().then_some(()));
        let moved = dir.path().join(format!("access.log.{turn}"));
        fs::rename(&log, &moved).unwrap();
        let pid = agent.pid().to_string();
        let sent = Command::new("kill").args(["-USR1", &pid]).status().unwrap();
        assert!(sent.success());
        files.push(moved);
    }
    load.more(100);
    wait::until("the last file", || log.exists().then_some(()));
    let visits = load.finish();
    assert!(visits.iter().all(|visit| visit.answer.is_ok()));
    let all = || -> Vec<String> {
        let text = files.iter().map(|file| fs::read_to_string(file).unwrap());
        // A write may be under way: bytes after the last line break are not a line yet.
        let whole = text.map(|text| {
            text.rsplit_once('\n')
                .map_or("", |(lines, _)| lines)
                .to_owned()
        });
        whole
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    };
    let lines = wait::until("the last lines", || {
        let lines = all();
        (lines.len() >= visits.len()).then_some(lines)
    });
    assert_eq!(lines.len(), visits.len());
    let seen: HashSet<String> = lines
        .iter()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["status"], 200, "{line:#}");
            line["client"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(seen.len(), clients.len());
    assert!(!agent.status().to_string().contains("access log"));
}

#[test]
fn a_log_that_cannot_be_written_is_told_and_nobody_waits_for_it() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let folder = dir.path().join("folder");
    let log = folder.join("access.log");
    let agent = Agent::start(&hosts.balancer, &services(&log, "combined"));
    let _apps = node::copies(&hosts.balancer, [5000, 5001], agent.dir());
    let visit = || curl(&hosts.clients, SERVICE_V4, &["http://a.test/id"]).code;
    assert_eq!(visit(), 0);
    wait::until("status to tell", || {
        let status = agent.status().to_string();
        (status.contains("No such file") && status.contains("1 lines dropped")).then_some(())
    });
    fs::create_dir(&folder).unwrap();
    assert_eq!(visit(), 0);
    lines(&log, 1);
}
