//! `mode = "http"` services over TLS: versions, HTTP/2, server names, sessions, certificates that
//! come and go.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use lb_tests::agent::Agent;
use lb_tests::tls::{Authority, Files, Kept, curl, is_same, s_client, shown};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4};
use lb_tests::{node, tls, wait};

const TLS: SocketAddr = SocketAddr::new(SERVICE_V4.ip(), 443);

fn services(certificates: &[&Files], more: &str) -> String {
    let certificates: Vec<String> = certificates.iter().map(|files| files.toml()).collect();
    format!(
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         backends = ['127.0.0.1:5000']\n[service.tls]\nlisten = ['0.0.0.0:443']\n\
         certificates = [{}]\n{more}\n",
        certificates.join(", ")
    )
}

#[test]
fn both_versions_and_both_protocols_are_spoken_and_the_application_knows() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let files = authority.issue("a", &["a.test"]);
    let agent = Agent::start(&hosts.balancer, &services(&[&files], ""));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let trust = authority.certificate();
    let get = |arguments: &[&str]| {
        let usual = [
            "--cacert",
            trust.to_str().unwrap(),
            "-w",
            "\n%{http_version}",
        ];
        let url = ["https://a.test/request?x=y"];
        curl(&hosts.clients, TLS, &[&usual, arguments, &url].concat())
    };
    for (arguments, http) in [
        (&["--tls-max", "1.2", "--http1.1"][..], "1.1"),
        (&["--tls-max", "1.2", "--http2"], "2"),
        (&["--tlsv1.3", "--http1.1"], "1.1"),
        (&["--tlsv1.3", "--http2"], "2"),
        (&["--http2", "-b", "a=1; b=2", "-d", "some text"], "2"),
    ] {
        let answer = get(arguments);
        let (body, version) = answer.stdout.rsplit_once('\n').unwrap_or_default();
        assert_eq!(version, http, "{arguments:?}: {answer:?}");
        let seen: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(seen["protocol"], "https", "{seen:#}");
        assert_eq!(seen["hostname"], "a.test", "{seen:#}");
        assert_eq!(seen["url"], "/request?x=y", "{seen:#}");
        assert_eq!(seen["headers"]["x-forwarded-port"], "443", "{seen:#}");
    }
    let newest = services(&[&files], "min_version = '1.3'\nhttp2 = false");
    agent.configure(&newest);
    agent.ok(&["reload"]);
    assert_eq!(get(&["--tls-max", "1.2"]).code, 35, "no TLS 1.2 any more");
    let answer = get(&["--http2"]);
    assert!(
        answer.stdout.ends_with("\n1.1"),
        "no HTTP/2 any more: {answer:?}"
    );
}

#[test]
fn the_server_name_picks_the_certificate() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let first = authority.issue("first", &["first.test"]);
    let wild = authority.issue("wild", &["*.many.test"]);
    let exact = authority.issue("exact", &["one.many.test"]);
    let agent = Agent::start(&hosts.balancer, &services(&[&first, &wild, &exact], ""));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    for (name, files) in [
        ("first.test", &first),
        ("any.many.test", &wild),
        ("ONE.many.test", &exact),
        ("stranger.test", &first),
    ] {
        let (pem, said) = shown(&hosts.clients, TLS, name, &[]);
        assert!(is_same(&pem, files), "{name}: {said}");
    }
    let trust = authority.certificate();
    let visit = |name: &str| {
        let url = format!("https://{name}/id");
        curl(
            &hosts.clients,
            TLS,
            &["--cacert", trust.to_str().unwrap(), &url],
        )
        .code
    };
    assert_eq!((visit("first.test"), visit("x.many.test")), (0, 0));
    assert_eq!(visit("stranger.test"), 60, "a client must refuse it");
}

#[test]
fn sessions_are_resumed_by_every_worker_and_after_a_reload() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let files = authority.issue("a", &["a.test"]);
    let agent = Agent::start(&hosts.balancer, &services(&[&files], ""));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    for version in ["-tls1_2", "-tls1_3"] {
        let session = dir.path().join(format!("session{version}"));
        let session = session.to_str().unwrap();
        let connect = |file: &[&str]| {
            let mut command = s_client(&hosts.clients, TLS, "a.test");
            command.args([version, "-ign_eof"]).args(file);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            // With TLS 1.3 tickets come after the handshake.
            let ask = b"GET /id HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
            child.stdin.take().unwrap().write_all(ask).unwrap();
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
            said
        };
        assert!(connect(&["-sess_out", session]).contains("\nNew, "));
        for _ in 0..8 {
            let said = connect(&["-sess_in", session]);
            assert!(said.contains("\nReused, "), "{version}: {said}");
        }
        agent.ok(&["reload"]);
        let said = connect(&["-sess_in", session]);
        assert!(said.contains("\nReused, "), "{version}: {said}");
    }
}

#[test]
fn a_renewed_certificate_is_taken_over_without_a_connection_lost() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let files = authority.issue("a", &["a.test"]);
    let agent = Agent::start(&hosts.balancer, &services(&[&files], ""));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let mut kept = Kept::open(&hosts.clients, TLS, "a.test", &authority);
    kept.ask("a.test");
    let trust = authority.certificate();
    let (stop, visits) = (AtomicBool::new(false), AtomicUsize::new(0));
    let visit = || {
        while !stop.load(Ordering::Relaxed) {
            let arguments = ["--cacert", trust.to_str().unwrap(), "https://a.test/id"];
            let answer = curl(&hosts.clients, TLS, &arguments);
            assert_eq!(answer.code, 0, "{answer:?}");
            visits.fetch_add(1, Ordering::Relaxed);
        }
    };
    let in_force = |files: &Files| {
        wait::until("the new certificate", || {
            let (pem, _) = shown(&hosts.clients, TLS, "a.test", &[]);
            is_same(&pem, files).then_some(())
        });
    };
    std::thread::scope(|scope| {
        let stop = wait::Stop(&stop);
        let visitors = [scope.spawn(visit), scope.spawn(visit)];
        // By a change on disk, twice, and by a command.
        for _ in 0..2 {
            in_force(&authority.issue("a", &["a.test"]));
        }
        let new = authority.issue("a", &["a.test"]);
        agent.ok(&["reload"]);
        let (pem, _) = shown(&hosts.clients, TLS, "a.test", &[]);
        assert!(is_same(&pem, &new), "in force when reload returns");
        let seen = visits.load(Ordering::Relaxed);
        wait::until("more visits", || {
            (visits.load(Ordering::Relaxed) > seen + 5).then_some(())
        });
        drop(stop);
        visitors
            .into_iter()
            .for_each(|visitor| visitor.join().unwrap());
    });
    kept.ask("a.test");
}

#[test]
fn a_broken_certificate_is_named_and_does_no_harm() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let (good, other) = (
        authority.issue("a", &["a.test"]),
        authority.issue("b", &["b.test"]),
    );
    let agent = Agent::start(&hosts.balancer, &services(&[&good], ""));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let works = || {
        let trust = authority.certificate();
        let arguments = ["--cacert", trust.to_str().unwrap(), "https://a.test/id"];
        assert_eq!(curl(&hosts.clients, TLS, &arguments).code, 0);
    };
    // Found beforehand, all at once.
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let expired = authority.issue_for("old", &["c.test"], now - 2 * hour, now - hour);
    let mixed = Files {
        key: other.key.clone(),
        ..good.clone()
    };
    agent.configure(&services(&[&good, &mixed, &expired], ""));
    let config = agent.config();
    let text = fs::read_to_string(&config).unwrap();
    let line = text
        .lines()
        .position(|line| line.starts_with("certificates"));
    let line = 1 + line.unwrap();
    let check = agent.run(&["check", "--config", config.to_str().unwrap()]);
    assert_eq!(check.code, 2, "{check:?}");
    let lines: Vec<&str> = check.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{check:?}");
    assert!(
        lines[0].contains(&format!(":{line}: service[0].tls.certificates[1]: "))
            && lines[0].contains("does not fit the key"),
        "{check:?}"
    );
    assert!(lines[1].contains("certificates[2]") && lines[1].contains("expired on"));
    let reload = agent.run(&["reload"]);
    assert_eq!(reload.code, 2, "{reload:?}");
    assert!(reload.stderr.contains("does not fit the key"), "{reload:?}");
    works();
    // Found on disk, while it is served.
    let (before, _) = shown(&hosts.clients, TLS, "a.test", &[]);
    tls::replace(
        &good.certificate,
        &fs::read_to_string(&other.certificate).unwrap(),
    );
    let told = wait::until("status to tell", || {
        let status = agent.status().to_string();
        status.contains("stays in force").then_some(status)
    });
    assert!(told.contains("does not fit the key"), "{told}");
    assert_eq!(shown(&hosts.clients, TLS, "a.test", &[]).0, before);
    let mended = authority.issue("a", &["a.test"]);
    wait::until("the mended certificate", || {
        let (pem, _) = shown(&hosts.clients, TLS, "a.test", &[]);
        is_same(&pem, &mended).then_some(())
    });
    wait::until("status to be silent", || {
        (!agent.status().to_string().contains("stays in force")).then_some(())
    });
    works();
}

#[test]
fn a_certificate_that_does_not_exist_yet_is_waited_for() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let files = Files {
        certificate: dir.path().join("a.pem"),
        key: dir.path().join("a.key"),
    };
    let agent = Agent::start(&hosts.balancer, &services(&[&files], ""));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let is_told =
        |text: &str| text.contains("a.pem: does not exist yet; until then TLS handshakes fail");
    assert!(is_told(&agent.log()), "{}", agent.log());
    let config = agent.config();
    let check = agent.ok(&["check", "--config", config.to_str().unwrap()]);
    assert!(is_told(&check), "{check}");
    let reload = agent.ok(&["reload"]);
    assert!(is_told(&reload), "{reload}");
    assert!(agent.status().to_string().contains("does not exist yet"));
    let trust = authority.certificate();
    let secure = ["--cacert", trust.to_str().unwrap(), "https://a.test/id"];
    let visit = || curl(&hosts.clients, TLS, &secure).code;
    assert_eq!(visit(), 35, "the handshake fails");
    let plain = ["-f", "http://a.test:80/id"];
    assert_eq!(curl(&hosts.clients, SERVICE_V4, &plain).code, 0);
    assert_eq!(
        authority.issue("a", &["a.test"]).certificate,
        files.certificate
    );
    wait::until("the first certificate", || (visit() == 0).then_some(()));
    assert!(!agent.status().to_string().contains("does not exist yet"));
    // A certificate in force is not given up for files that do not exist.
    let mistyped = Files {
        key: dir.path().join("b.key"),
        ..files
    };
    agent.configure(&services(&[&mistyped], ""));
    let reload = agent.run(&["reload"]);
    assert_eq!(reload.code, 2, "{reload:?}");
    assert!(
        reload.stderr.contains("b.key: does not exist yet"),
        "{reload:?}"
    );
    assert_eq!(visit(), 0);
}

#[test]
fn plain_requests_are_sent_to_tls_and_browsers_are_told_to_stay_there() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let files = authority.issue("a", &["a.test"]);
    let more = "redirect_http = true\nhsts = '180d'";
    let agent = Agent::start(&hosts.balancer, &services(&[&files], more));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let plain = ["-i", "-d", "body", "http://a.test:80/shop?x=y"];
    let plain = curl(&hosts.clients, SERVICE_V4, &plain)
        .stdout
        .to_ascii_lowercase();
    assert!(plain.starts_with("http/1.1 308 "), "{plain}");
    assert!(
        plain.contains("\r\nlocation: https://a.test/shop?x=y\r\n"),
        "{plain}"
    );
    assert!(!plain.contains("strict-transport-security"), "{plain}");
    let claim = [
        "-w",
        "%{http_code}",
        "-H",
        "X-Forwarded-Proto: https",
        "http://a.test:80/id",
    ];
    let visit = || curl(&hosts.clients, SERVICE_V4, &claim).stdout;
    assert!(
        visit().ends_with("308"),
        "a stranger's claim is not believed"
    );
    let trusted = "[service.http]\ntrusted_proxies = ['10.99.0.0/16']";
    agent.configure(&services(&[&files], &format!("{more}\n{trusted}")));
    agent.ok(&["reload"]);
    assert!(
        visit().ends_with("200"),
        "no loop behind a proxy that speaks TLS"
    );
    let trust = authority.certificate();
    for protocol in ["--http1.1", "--http2"] {
        let secure = [
            "-i",
            protocol,
            "--cacert",
            trust.to_str().unwrap(),
            "https://a.test/id",
        ];
        let secure = curl(&hosts.clients, TLS, &secure)
            .stdout
            .to_ascii_lowercase();
        let hsts = "\r\nstrict-transport-security: max-age=15552000\r\n";
        assert!(secure.contains(hsts), "{secure}");
    }
}

/// HTTP/2 frames (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET https://a.test/id` in HPACK (RFC 7541).
fn request_fields() -> Vec<u8> {
    let mut fields = vec![0x82, 0x87, 0x04, 3];
    fields.extend(b"/id");
    fields.extend([0x01, 6]);
    fields.extend(b"a.test");
    fields
}

#[test]
fn h2_floods_end_the_connection_and_nobody_else_notices() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let authority = Authority::new(dir.path());
    let files = authority.issue("a", &["a.test"]);
    let agent = Agent::start(&hosts.balancer, &services(&[&files], ""));
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let begin = [PREFACE, &frame(4, 0, 0, &[])].concat();
    // Streams opened and reset at once (CVE-2023-44487).
    let mut resets = begin.clone();
    for stream in (1..20_000).step_by(2) {
        resets.extend(frame(1, 5, stream, &request_fields()));
        resets.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
    }
    // A header section that never ends.
    let mut headers = begin.clone();
    headers.extend(frame(1, 1, 1, &request_fields()));
    for _ in 0..1000 {
        let mut field = vec![0x00, 1, b'x', 0x7f, 0x81, 0x7f];
        field.resize(16_000, b'y');
        headers.extend(frame(9, 0, 1, &field));
    }
    for (name, flood) in [("resets", resets), ("headers", headers)] {
        let mut command = s_client(&hosts.clients, TLS, "a.test");
        command.args(["-alpn", "h2", "-quiet"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let pour = std::thread::spawn(move || {
            // It fails when the connection is closed, as it should be.
            let _ = input.write_all(&flood);
            input
        });
        let ended = wait::until("the end of the connection", || child.try_wait().unwrap());
        assert_ne!(
            ended.code(),
            Some(124),
            "{name}: still open after fifty seconds"
        );
        drop(pour.join().unwrap());
        let trust = authority.certificate();
        let arguments = [
            "--http2",
            "--cacert",
            trust.to_str().unwrap(),
            "https://a.test/id",
        ];
        let answer = curl(&hosts.clients, TLS, &arguments);
        assert_eq!(answer.code, 0, "{name}: {answer:?}");
    }
}
