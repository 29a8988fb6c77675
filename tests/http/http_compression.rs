//! Answers of `mode = "http"` services are compressed for clients that accept it, with the right
//! header. They are never compressed twice, and never held back.

use std::collections::BTreeMap;

use lb_tests::agent::Agent;
use lb_tests::process::Process;
use lb_tests::topology::hosts::{Hosts, SERVICE_V4};
use lb_tests::{node, tls};

const SERVICES: &str = "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
                        backends = ['127.0.0.1:5000']\n";

/// An answer as it came over the wire.
struct Answer {
    status: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn get(hosts: &Hosts, path: &str, arguments: &[&str]) -> Answer {
    let mut command = tls::curl_command(&hosts.clients, SERVICE_V4);
    command.args(["-i", "--raw"]).args(arguments);
    command.arg(format!("http://a.test{path}"));
    let output = command.output().unwrap();
    let end = output
        .stdout
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("{path} {arguments:?}: {output:?}"));
    let head = std::str::from_utf8(&output.stdout[..end]).unwrap();
    let (status, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let fields = fields.lines().filter_map(|line| line.split_once(": "));
    Answer {
        status: status.to_owned(),
        headers: fields
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: output.stdout[end + 4..].to_vec(),
    }
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

const GZIP: &[&str] = &["-H", "Accept-Encoding: gzip"];

#[test]
fn every_coding_is_read_back_by_curl_and_the_best_one_is_taken() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let listen = "127.0.0.1:5000".parse().unwrap();
    let _app = node::serve(&hosts.balancer, "content.js", listen, agent.dir());
    let plain = get(&hosts, "/text?size=100000", &[]);
    assert_eq!(plain.body.len(), 100_000);
    assert_eq!(plain.header("content-encoding"), "");
    assert_eq!(plain.header("vary"), "accept-encoding");
    for (accepted, coding) in [
        ("gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1, br;q=0.5", "gzip"),
        ("*, zstd;q=0", "br"),
    ] {
        let accept = format!("Accept-Encoding: {accepted}");
        let coded = get(&hosts, "/text?size=100000", &["-H", &accept]);
        assert_eq!(coded.header("content-encoding"), coding, "{accepted}");
        assert_eq!(coded.header("etag"), "W/\"v1\"", "{accepted}");
        assert_eq!(coded.header("accept-ranges"), "", "{accepted}");
        assert_eq!(coded.header("content-length"), "", "{accepted}");
        assert!(coded.body.len() < 5000, "{accepted}");
        let read = tls::curl(
            &hosts.clients,
            SERVICE_V4,
            &[
                "--compressed",
                "-H",
                &accept,
                "http://a.test/text?size=100000",
            ],
        );
        assert!(
            read.stdout.as_bytes() == plain.body,
            "{accepted}: {}",
            read.stderr
        );
    }
}

#[test]
fn what_must_not_be_compressed_is_left_alone() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let listen = "127.0.0.1:5000".parse().unwrap();
    let _app = node::serve(&hosts.balancer, "content.js", listen, agent.dir());
    for path in ["/text?size=100", "/picture", "/fixed", "/nothing"] {
        let answer = get(&hosts, path, GZIP);
        assert_eq!(answer.header("content-encoding"), "", "{path}");
    }
    let coded = get(&hosts, "/coded", GZIP);
    assert_eq!(coded.headers["content-encoding"], "gzip");
    let read = ["--compressed", "http://a.test/coded"];
    let read = tls::curl(&hosts.clients, SERVICE_V4, &read);
    assert_eq!(read.stdout.len(), 5000, "compressed once: {}", read.stderr);
    let head = get(&hosts, "/text?size=5000", &["--head", GZIP[0], GZIP[1]]);
    assert_eq!(head.header("content-encoding"), "gzip");
    assert_eq!(head.header("content-length"), "");
    let tag = "If-None-Match: W/\"v1\"";
    let known = get(&hosts, "/text?size=5000", &["-H", tag, GZIP[0], GZIP[1]]);
    assert!(known.status.contains("304"), "{}", known.status);
    assert_eq!(known.header("etag"), "W/\"v1\"");
    let broken = tls::curl(
        &hosts.clients,
        SERVICE_V4,
        &["--compressed", "http://a.test/broken"],
    );
    assert_ne!(broken.code, 0, "an answer that broke off must not end well");
}

#[test]
fn a_stream_is_passed_on_whenever_the_application_pauses() {
    let hosts = Hosts::new();
    let agent = Agent::start(&hosts.balancer, SERVICES);
    let listen = "127.0.0.1:5000".parse().unwrap();
    let _app = node::serve(&hosts.balancer, "content.js", listen, agent.dir());
    for (path, coding) in [
        ("/drip", "gzip"),
        ("/drip", "br"),
        ("/drip", "zstd"),
        ("/events", ""),
    ] {
        let mut command = tls::curl_command(&hosts.clients, SERVICE_V4);
        command.args(["-N", "--compressed", "-D", "-"]);
        if !coding.is_empty() {
            command.args(["-H", &format!("Accept-Encoding: {coding}")]);
        }
        command.arg(format!("http://a.test{path}"));
        let log = agent.dir().join(format!("drip-{coding}.log"));
        let mut client = Process::start(command, &log);
        client.wait_for("one");
        let said = client.printed().to_ascii_lowercase();
        let compressed = said.contains("content-encoding:");
        assert_eq!(compressed, !coding.is_empty(), "{said}");
        let go = tls::curl(&hosts.clients, SERVICE_V4, &["http://a.test/go"]);
        assert_eq!(go.code, 0, "{go:?}");
        client.wait_for("two");
        assert!(client.wait().success());
    }
}

#[test]
fn nothing_is_compressed_where_that_is_configured() {
    let hosts = Hosts::new();
    let services = format!("{SERVICES}[service.http.compression]\nenabled = false\n");
    let agent = Agent::start(&hosts.balancer, &services);
    let listen = "127.0.0.1:5000".parse().unwrap();
    let _app = node::serve(&hosts.balancer, "content.js", listen, agent.dir());
    let answer = get(&hosts, "/text?size=5000", GZIP);
    assert_eq!(answer.header("content-encoding"), "");
    assert_eq!(answer.header("vary"), "");
    assert_eq!(answer.header("etag"), "\"v1\"");
    let types = "[service.http.compression]\ntypes = ['image/png']\nalgorithms = ['br', 'gzip']\n";
    agent.configure(&format!("{SERVICES}{types}"));
    agent.ok(&["reload"]);
    let all = &["-H", "Accept-Encoding: gzip, br, zstd"];
    assert_eq!(
        get(&hosts, "/text?size=5000", all).header("content-encoding"),
        ""
    );
    assert_eq!(
        get(&hosts, "/picture", all).header("content-encoding"),
        "br"
    );
}
