//! Traces through `mode = "http"`: W3C Trace Context over every HTTP version, and spans for a collector.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::tls::{Authority, curl};
use lb_tests::topology::hosts::{Host, Hosts, SERVICE_V4};
use lb_tests::{node, wait};
use serde_json::Value;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const STATE: &str = "a=1,b=2";
const COLLECTOR: &str = "127.0.0.1:4318";

fn services(protocol: &str, log: &Path, more: &str) -> String {
    format!(
        "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\n\
         backends = ['127.0.0.1:5000']\n[service.http]\nprotocol = '{protocol}'\n\
         response_headers = [{{ set = 'x-trace', value = '$trace_id' }}]\n\
         access_log = {{ file = '{}', format = 'json' }}\n{more}\n",
        log.display()
    )
}

/// What the application says of a request: its headers.
fn headers(host: &Host, arguments: &[&str]) -> Value {
    let answer = curl(host, SERVICE_V4, arguments);
    assert_eq!(answer.code, 0, "{answer:?}");
    let told: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{answer:?}"));
    told["headers"].clone()
}

/// The last line of the access log, once there are so many.
fn line(log: &Path, count: usize) -> Value {
    let text = wait::until("a line in the access log", || {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        (text.lines().count() >= count && text.ends_with('\n')).then_some(text)
    });
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn trace_is_passed_on_over_every_version_and_begun_where_that_is_wanted() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let log = dir.path().join("access.log");
    let authority = Authority::new(dir.path());
    let tls = format!(
        "[service.tls]\nlisten = ['0.0.0.0:443']\ncertificates = [{}]",
        authority.issue("a", &["a.test"]).toml()
    );
    let agent = Agent::start(&hosts.balancer, &services("http1", &log, &tls));
    let (parent, state) = (
        format!("traceparent: 00-{TRACE}-{PARENT}-01"),
        format!("tracestate: {STATE}"),
    );
    let ca = authority.certificate();
    let mut lines = 0;
    for (protocol, script) in [("http1", "server.js"), ("h2c", "h2c_headers.js")] {
        let _app = node::serve(
            &hosts.balancer,
            script,
            ([127, 0, 0, 1], 5000).into(),
            agent.dir(),
        );
        agent.configure(&services(protocol, &log, &tls));
        agent.ok(&["reload"]);
        let plain = ["http://a.test/request"].as_slice();
        let ca = [
            "--cacert",
            ca.to_str().unwrap(),
            "--http2",
            "https://a.test/request",
        ];
        for version in [plain, &ca] {
            let traced = [&["-H", &parent, "-H", &state], version].concat();
            let seen = headers(&hosts.clients, &traced);
            assert_eq!(seen["traceparent"], parent["traceparent: ".len()..]);
            assert_eq!(seen["tracestate"], STATE);
            lines += 1;
            let logged = line(&log, lines);
            assert_eq!(
                (&logged["trace_id"], &logged["span_id"]),
                (&TRACE.into(), &PARENT.into())
            );
            let seen = headers(&hosts.clients, version);
            assert_eq!(
                (&seen["traceparent"], &seen["tracestate"]),
                (&Value::Null, &Value::Null)
            );
            lines += 1;
            assert_eq!(line(&log, lines)["trace_id"], Value::Null);
        }
        agent.configure(&services(
            protocol,
            &log,
            &format!("tracing = {{ sample = '100%' }}\n{tls}"),
        ));
        agent.ok(&["reload"]);
        for version in [plain, &ca] {
            let begun = [&["-H", "traceparent: 00-nonsense", "-H", &state], version].concat();
            let seen = headers(&hosts.clients, &begun);
            lines += 1;
            let logged = line(&log, lines);
            let (trace, span) = (
                logged["trace_id"].as_str().unwrap(),
                logged["span_id"].as_str().unwrap(),
            );
            assert_eq!(seen["traceparent"], format!("00-{trace}-{span}-01"));
            assert_eq!(seen["tracestate"], Value::Null);
        }
        let shown = ["-i", "-H", &parent, "http://a.test/request"];
        let shown = curl(&hosts.clients, SERVICE_V4, &shown).stdout;
        assert!(shown.contains(&format!("x-trace: {TRACE}")), "{shown}");
        lines += 1;
    }
}

/// A collector, which can freeze.
struct Collector {
    batches: Receiver<Value>,
    is_frozen: Arc<AtomicBool>,
}

impl Collector {
    fn start(host: &Host) -> Self {
        let listener = host.run(|| TcpListener::bind(COLLECTOR).unwrap());
        let (sender, batches) = channel();
        let is_frozen = Arc::<AtomicBool>::default();
        let freezes = Arc::clone(&is_frozen);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (sender, freezes) = (sender.clone(), Arc::clone(&freezes));
                std::thread::spawn(move || collect(&stream, &sender, &freezes));
            }
        });
        Self { batches, is_frozen }
    }

    /// The spans of the next batch.
    fn spans(&self) -> Vec<Value> {
        let batch = self.batches.recv_timeout(Duration::from_secs(60)).unwrap();
        let spans = &batch["resourceSpans"][0]["scopeSpans"][0]["spans"];
        spans.as_array().unwrap().clone()
    }
}

/// Takes batches, until it freezes with one.
fn collect(stream: &TcpStream, batches: &Sender<Value>, freezes: &AtomicBool) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        let lower = head.to_ascii_lowercase();
        let (_, length) = lower.split_once("content-length: ").unwrap();
        let mut body = vec![0; length.lines().next().unwrap().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        while freezes.load(Relaxed) {
            std::thread::park();
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        (&mut &*stream).write_all(answer).unwrap();
        batches
            .send(serde_json::from_slice(&body).unwrap())
            .unwrap();
    }
}

/// The value of an attribute.
fn attribute(span: &Value, key: &str) -> String {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    let value = &found.unwrap_or_else(|| panic!("{key} of {span:#}"))["value"];
    let text = value.get("stringValue").or_else(|| value.get("intValue"));
    text.unwrap().as_str().unwrap().to_owned()
}

/// Sampled requests so far, by the outcome of the export.
fn exports(agent: &Agent<'_>, result: &str) -> u64 {
    let stats: Value = serde_json::from_str(&agent.ok(&["stats", "--json"])).unwrap();
    let families = stats["families"].as_array().unwrap();
    let family = families
        .iter()
        .find(|family| family["name"] == "lb_agent_trace_requests");
    let samples = family.unwrap()["samples"].as_array().unwrap();
    let of_result = |sample: &&Value| sample["labels"].to_string().contains(result);
    samples.iter().find(of_result).unwrap()["value"]
        .as_f64()
        .unwrap() as u64
}

#[test]
fn collector_gets_the_spans_of_sampled_requests_and_no_request_waits_for_it() {
    let (hosts, dir) = (Hosts::new(), tempfile::tempdir().unwrap());
    let log = dir.path().join("access.log");
    let collector = Collector::start(&hosts.balancer);
    let more = "tracing = { sample = '100%' }\n\
                [[service.route]]\npath = '/fixed'\nname = 'fixed'\nanswer = { body = 'x' }\n";
    let config = format!(
        "otlp = 'http://{COLLECTOR}'\n{}",
        services("http1", &log, more)
    );
    let agent = Agent::start(&hosts.balancer, &config);
    let _app = node::serve(
        &hosts.balancer,
        "server.js",
        ([127, 0, 0, 1], 5000).into(),
        agent.dir(),
    );
    let parent = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let seen = headers(
        &hosts.clients,
        &["-H", &parent, "http://a.test/request?secret=1"],
    );
    let spans = collector.spans();
    let [server, client] = &spans[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(
        (&server["traceId"], &server["parentSpanId"]),
        (&TRACE.into(), &PARENT.into())
    );
    assert_eq!(line(&log, 1)["span_id"], server["spanId"]);
    let child = client["spanId"].as_str().unwrap();
    assert_eq!(seen["traceparent"], format!("00-{TRACE}-{child}-01"));
    assert_eq!(client["parentSpanId"], server["spanId"]);
    assert_eq!(client["events"][0]["name"], "http.response.first_byte");
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/request"),
        ("http.response.status_code", "200"),
        ("lb.service", "app"),
        ("lb.backend", "127.0.0.1:5000"),
    ] {
        assert_eq!(attribute(server, key), value);
    }
    let fixed = curl(&hosts.clients, SERVICE_V4, &["http://a.test/fixed"]);
    assert_eq!(fixed.stdout, "x");
    let spans = collector.spans();
    assert_eq!(
        (spans.len(), attribute(&spans[0], "lb.route")),
        (1, "fixed".to_owned())
    );
    let unsampled = format!("traceparent: 00-{TRACE}-{PARENT}-00");
    headers(&hosts.clients, &["-H", &unsampled, "http://a.test/request"]);
    wait::until("the figures of both", || {
        (exports(&agent, "exported") == 2).then_some(())
    });

    collector.is_frozen.store(true, Relaxed);
    let codes = [
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}\n",
        "http://a.test/fixed?[1-6000]",
    ];
    let answers = curl(&hosts.clients, SERVICE_V4, &codes);
    let good = answers.stdout.lines().filter(|code| *code == "200").count();
    assert_eq!(good, 6000, "{}", answers.stderr);
    wait::until("the full queue", || {
        (exports(&agent, "dropped") > 0).then_some(())
    });
    assert_eq!(exports(&agent, "exported"), 2);
    agent.ok(&["stop"]);
}
