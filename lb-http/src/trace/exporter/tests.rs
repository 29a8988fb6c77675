//! The exporter with collectors that take batches, refuse them, or freeze.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use lb_config::parse;
use serde_json::Value;

use super::*;
use crate::trace::{Facts, OpenSpans, SpanIds, TraceContext};

const PARENT: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// An exporter to a collector that listens here.
fn exporter() -> (Exporter, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "[agent]\notlp = \"http://{}\"\n",
        listener.local_addr().unwrap()
    );
    let config = parse(&text, std::path::Path::new("f")).unwrap();
    let url = config.agent.otlp.unwrap();
    let exporter = Exporter::start(&url, &Admission::default(), |_| Ok(())).unwrap();
    (exporter, listener)
}

/// A request to `path` of a backend, which is over.
fn record(queue: &Arc<SpanQueue>, path: &str, status: StatusCode) -> SpanIds {
    let mut head = RequestHead::new(Method::GET, path.as_bytes(), Version::HTTP_2);
    head.fields.append(Name::Host, b"a.test");
    head.fields.append(Name::Tracestate, b"a=1");
    let context = TraceContext::parse(PARENT).unwrap();
    let ids = SpanIds {
        server: SpanId::generate(),
        parent: Some(SpanId::generate()),
    };
    let facts = Facts {
        context,
        ids,
        scheme: "https",
        client: "203.0.113.9".parse().unwrap(),
        service: "app",
        route: None,
    };
    let mut spans = OpenSpans::begin(queue, &head, &facts);
    spans.reached("127.0.0.1:5000", "slot", Duration::from_millis(1));
    spans.first_byte(Duration::from_millis(3));
    spans.end(Some(status), false, Duration::from_millis(5));
    ids
}

/// Reads a request, and answers it.
fn answer(stream: &TcpStream, answer: &str) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap() == 0 {
            return None;
        }
    }
    let lower = head.to_ascii_lowercase();
    let (_, length) = lower.split_once("content-length: ").unwrap();
    let mut body = vec![0; length.lines().next().unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (&*stream).write_all(answer.as_bytes()).unwrap();
    Some((lower, serde_json::from_slice(&body).unwrap()))
}

const TAKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/// Waits for figures.
fn figures(exporter: &Exporter, is_it: impl Fn(&SpanFigures) -> bool) -> SpanFigures {
    let end = Instant::now() + LONG;
    loop {
        let figures = exporter.figures();
        if is_it(&figures) || Instant::now() > end {
            return figures;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    found.map_or(&Value::Null, |found| &found["value"])
}

#[test]
fn batch_has_both_spans_of_a_request_with_ids_in_hex() {
    let (exporter, collector) = exporter();
    let ids = record(&exporter.queue(), "/a?secret=1", StatusCode::OK);
    let (stream, _) = collector.accept().unwrap();
    let (head, body) = answer(&stream, TAKEN).unwrap();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(
        head.contains("content-type: application/json\r\n"),
        "{head}"
    );
    let resource = &body["resourceSpans"][0];
    assert_eq!(
        attribute(&resource["resource"], "service.name")["stringValue"],
        "lb-agent"
    );
    let spans = &resource["scopeSpans"][0]["spans"];
    let [server, client] = [&spans[0], &spans[1]];
    for span in [server, client] {
        assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(span["traceState"], "a=1");
    }
    assert_eq!(server["spanId"], ids.server.as_str());
    assert_eq!(server["parentSpanId"], ids.parent.unwrap().as_str());
    assert_eq!(
        (&server["name"], &server["kind"]),
        (&"GET".into(), &2.into())
    );
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/a"),
        ("url.scheme", "https"),
        ("server.address", "a.test"),
        ("client.address", "203.0.113.9"),
        ("network.protocol.version", "2"),
        ("lb.service", "app"),
        ("lb.backend", "127.0.0.1:5000"),
    ] {
        assert_eq!(attribute(server, key)["stringValue"], value, "{key}");
    }
    assert_eq!(
        attribute(server, "http.response.status_code")["intValue"],
        "200"
    );
    assert!(!body.to_string().contains("secret"));
    assert_eq!(client["spanId"], "b7ad6b7169203331");
    assert_eq!(client["parentSpanId"], ids.server.as_str());
    assert_eq!(
        (&client["kind"], &client["status"]["code"]),
        (&3.into(), &0.into())
    );
    let nanos = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let begun = nanos(&server["startTimeUnixNano"]);
    let after = |value: &Value| nanos(value) - begun;
    assert_eq!(after(&client["startTimeUnixNano"]), 1_000_000);
    assert_eq!(after(&client["events"][0]["timeUnixNano"]), 3_000_000);
    assert_eq!(after(&server["endTimeUnixNano"]), 5_000_000);
    assert_eq!(figures(&exporter, |it| it.exported == 1).failed, 0);
    // The connection is kept for the next batch.
    record(&exporter.queue(), "/b", StatusCode::BAD_GATEWAY);
    let (_, body) = answer(&stream, TAKEN).unwrap();
    let server = &body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(server["status"]["code"], 2);
    assert_eq!(attribute(server, "error.type")["stringValue"], "502");
}

#[test]
fn batch_is_sent_again_where_the_collector_asks_for_that_and_never_after_a_refusal() {
    let (exporter, collector) = exporter();
    record(&exporter.queue(), "/again", StatusCode::OK);
    let (stream, _) = collector.accept().unwrap();
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let later = format!("HTTP/1.1 {status}\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n");
        answer(&stream, &later).unwrap();
    }
    let (_, body) = answer(&stream, TAKEN).unwrap();
    assert!(body.to_string().contains("/again"));
    assert_eq!(figures(&exporter, |it| it.exported == 1).failed, 0);
    record(&exporter.queue(), "/refused", StatusCode::OK);
    answer(
        &stream,
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    )
    .unwrap();
    assert_eq!(figures(&exporter, |it| it.failed == 1).failed, 1);
    record(&exporter.queue(), "/next", StatusCode::OK);
    let partial = r#"{"partialSuccess":{"rejectedSpans":"1","errorMessage":"no"}}"#;
    let length = partial.len();
    let partial = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{partial}");
    let (_, body) = answer(&stream, &partial).unwrap();
    assert!(body.to_string().contains("/next"));
    assert_eq!(figures(&exporter, |it| it.failed == 2).exported, 1);
}

#[test]
fn full_queue_drops_and_the_end_waits_for_no_frozen_collector() {
    let (exporter, collector) = exporter();
    let queue = exporter.queue();
    record(&queue, "/first", StatusCode::OK);
    let (stream, _) = collector.accept().unwrap();
    // The collector has the connection, and says nothing.
    let more = super::super::queue::WAITING + BATCH + 10;
    for _ in 0..more {
        record(&queue, "/more", StatusCode::OK);
    }
    let figures = exporter.figures();
    assert!(figures.dropped >= 10, "{figures:?}");
    assert_eq!((figures.exported, figures.failed), (0, 0));
    drop(queue);
    exporter.finish(Duration::from_millis(50));
    drop(stream);
}

#[test]
fn end_exports_the_last_spans() {
    let (exporter, collector) = exporter();
    record(&exporter.queue(), "/last", StatusCode::OK);
    let taken = std::thread::spawn(move || {
        let (stream, _) = collector.accept().unwrap();
        answer(&stream, TAKEN).unwrap().1.to_string()
    });
    exporter.finish(LONG);
    assert!(taken.join().unwrap().contains("/last"));
}

#[test]
fn pause_is_in_seconds_or_until_a_date() {
    let with = |value: &str| {
        let mut head = ResponseHead::new(StatusCode::SERVICE_UNAVAILABLE);
        head.fields.append_called(b"retry-after", value.as_bytes());
        retry_after(&head)
    };
    assert_eq!(with("7"), Some(Duration::from_secs(7)));
    assert_eq!(with("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
    assert_eq!(with("soon"), None);
    let pause = spread(Duration::from_secs(4));
    assert!((3..=5).contains(&pause.as_secs()), "{pause:?}");
}
