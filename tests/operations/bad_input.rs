//! Bad input gets one clear line with the remedy, and the right exit code. A running service is not
//! disturbed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lb_tests::agent::{Agent, Outcome, program};
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node};

const SERVICES: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                        backends = ['127.0.0.1:5000']\n";

/// The one line of an error, after checking that it is one.
fn one_line(outcome: &Outcome) -> &str {
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{outcome:?}");
    assert!(lines[0].starts_with("lb-agent: "), "{outcome:?}");
    lines[0]
}

#[test]
fn commands_that_make_no_sense_are_refused_and_nothing_changes() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let [_app] = node::copies(&hosts.balancer, [5000], agent.dir());
    let before = agent.status()["services"].clone();
    let cases: [(&[&str], i32, &str); 15] = [
        (&["add-backend", "127.0.0.1:0"], 2, "port"),
        (&["add-backend", "127.0.0.1"], 2, "127.0.0.1:"),
        (&["add-backend", "localhost:0"], 2, "port"),
        (
            &["add-backend", "app.example:5001"],
            2,
            "getent hosts app.example",
        ),
        (&["add-backend", "0.0.0.0:5001"], 2, "0.0.0.0"),
        (&["add-backend", "unix:/run/a.sock"], 2, "for HTTP"),
        (
            &["add-backend", "127.0.0.1:5001", "--weight", "0"],
            2,
            "weight",
        ),
        (
            &["add-backend", "127.0.0.1:5001", "--weight", "65536"],
            2,
            "65536",
        ),
        (
            &["add-backend", "127.0.0.1:5001", "--service", "shop"],
            1,
            "web",
        ),
        (&["add-backend", "127.0.0.1:5000"], 1, "already"),
        (&["add-backend", "localhost:5000"], 1, "already"),
        (&["add-backend", "5000"], 1, "already"),
        (&["remove-backend", "127.0.0.1:5009"], 1, "not a backend"),
        (
            &["drain-backend", "127.0.0.1:5000", "--timeout", "soon"],
            2,
            "soon",
        ),
        (&["lookup", "somebody"], 2, "somebody"),
    ];
    for (arguments, code, text) in cases {
        let outcome = agent.run(arguments);
        assert_eq!(outcome.code, code, "{arguments:?}: {outcome:?}");
        let line = one_line(&outcome);
        assert!(line.contains(text), "{arguments:?}: {line}");
    }
    assert_eq!(agent.status()["services"], before);
    assert_eq!(
        hosts
            .clients
            .run(|| http::get(client_v4(1), SERVICE_V4))
            .unwrap()
            .port,
        5000
    );
}

#[test]
fn every_error_of_a_configuration_is_reported_at_once_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    let text = "\
[agent]
stat_dir = '/x'
[[service]]
name = 'web'
listen = ['0.0.0.0:80', '10.0.0.1']
backends = ['127.0.0.1:5000', '127.0.0.1:5000', { address = '127.0.0.1:5001', weight = 0 }, '127.0.0.1:0']
[[service]]
name = 'web'
listen = ['0.0.0.0:80']
mode = 'sctp'
[service.http]
forwarded = true
";
    fs::write(&path, text).unwrap();
    let outcome: Outcome = std::process::Command::new(program())
        .arg("check")
        .arg("--config")
        .arg(&path)
        .output()
        .unwrap()
        .into();
    assert_eq!(outcome.code, 2, "{outcome:?}");
    for (line, what) in [
        (2, "stat_dir"),
        (5, "listen[1]"),
        (6, "backends[1]"),
        (6, "weight"),
        (6, "backends[3]"),
        (8, "name"),
        (9, "listen[0]"),
        (10, "mode"),
        (11, "http"),
    ] {
        let place = format!("config.toml:{line}");
        let named = |text: &str| text.contains(&place) && text.contains(what);
        assert!(
            outcome.stderr.lines().any(named),
            "line {line}, {what}:\n{}",
            outcome.stderr
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_and_an_agent_that_is_not_there_are_named() {
    let host = Host::new("alone");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let run = |arguments: &[&str]| -> Outcome {
        host.command(program())
            .args(arguments)
            .output()
            .unwrap()
            .into()
    };
    for (arguments, code, text) in [
        (
            vec!["check", "--config", &path("none.toml")],
            2,
            "none.toml",
        ),
        (vec!["run", "--config", &path("none.toml")], 2, "none.toml"),
        (vec!["check", "--config", &path("")], 2, "directory"),
        (
            vec!["status", "--control", &path("none.sock")],
            3,
            "none.sock",
        ),
        (
            vec![
                "add-backend",
                "127.0.0.1:1",
                "--control",
                &path("none.sock"),
            ],
            3,
            "none.sock",
        ),
        (vec!["frobnicate"], 2, "frobnicate"),
        (vec!["status", "--frob"], 2, "--frob"),
    ] {
        let outcome = run(&arguments);
        assert_eq!(outcome.code, code, "{arguments:?}: {outcome:?}");
        assert!(
            one_line(&outcome).contains(text),
            "{arguments:?}: {outcome:?}"
        );
    }
}

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let [_app] = node::copies(&hosts.balancer, [5000], agent.dir());
    let outcome = Outcome::from(agent.run_command().output().unwrap());
    assert_eq!(outcome.code, 1, "{outcome:?}");
    let last = outcome.stderr.lines().last().unwrap();
    assert!(last.contains("another lb-agent"), "{last}");
    // With a state directory and socket of its own, but in another namespace on the same pins.
    let stranger = Host::new("stranger");
    let other = agent.dir().join("other");
    fs::create_dir(&other).unwrap();
    let config = fs::read_to_string(agent.config()).unwrap();
    let config = config.replace(
        &format!("'{}/", agent.dir().display()),
        &format!("'{}/", other.display()),
    );
    fs::write(other.join("config.toml"), config).unwrap();
    let mut command = stranger.command(program());
    command
        .arg("run")
        .arg("--config")
        .arg(other.join("config.toml"));
    let outcome = Outcome::from(command.output().unwrap());
    // Not the exit code of a configuration that no retry would help: the other agent may be about to
    // end.
    assert_eq!(outcome.code, 1, "{outcome:?}");
    let last = outcome.stderr.lines().last().unwrap();
    assert!(
        last.contains("another lb-agent") && last.contains("pin_dir"),
        "{last}"
    );
    assert!(agent.ok(&["status"]).contains("127.0.0.1:5000"));
    assert_eq!(
        hosts
            .clients
            .run(|| http::get(client_v4(1), SERVICE_V4))
            .unwrap()
            .port,
        5000
    );
}

#[test]
fn junk_on_the_control_socket_hurts_nobody() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let before = agent.status()["services"].clone();
    let ask = |request: &[u8]| {
        let mut stream = UnixStream::connect(agent.control()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // The agent may answer and hang up before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let post = |body: &[u8]| {
        let head = format!(
            "POST /v1/backends HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        ask(&[head.as_bytes(), body].concat())
    };
    let big = post(&vec![b'x'; 10 << 20]);
    assert!(
        big.starts_with("HTTP/1.1 413") && big.contains("\"error\""),
        "{big}"
    );
    for body in [
        "",
        "{",
        "[]",
        "{\"address\":1}",
        "{\"address\":\"127.0.0.1:5001\",\"wieght\":2}",
    ] {
        let answer = post(body.as_bytes());
        assert!(
            answer.starts_with("HTTP/1.1 400") && answer.contains("\"error\""),
            "{body}: {answer}"
        );
    }
    assert!(ask(b"\x16\x03\x01 junk\r\n\r\n").starts_with("HTTP/1.1 400"));
    let mut idle: Vec<UnixStream> = (0..200)
        .map_while(|_| UnixStream::connect(agent.control()).ok())
        .collect();
    idle.truncate(50);
    assert_eq!(agent.status()["services"], before);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(agent.control()).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o660);
}
