//! Spans as OTLP has them in JSON (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>): ids in
//! hexadecimal, 64-bit numbers as texts. Attributes follow the semantic conventions for HTTP, stable since 1.23.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Version;
use serde_json::{Value, json};

use super::span::{Spans, UpstreamPart};

/// `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT`.
const SERVER: u8 = 2;
const CLIENT: u8 = 3;
/// `STATUS_CODE_UNSET` and `STATUS_CODE_ERROR`.
const UNSET: u8 = 0;
const ERROR: u8 = 2;
/// Methods whose names a span may have.
const METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// The body of a request that exports `batch`.
pub(super) fn body(batch: &[Spans]) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let spans: Vec<Value> = batch.iter().flat_map(of_request).collect();
    let resource = [
        text("service.name", "lb-agent"),
        text("service.version", version),
    ];
    let scope = json!({"name": "lb-agent", "version": version});
    let message = json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }]});
    message.to_string().into_bytes()
}

/// How many spans an answer of a collector rejects, and why: a partial success.
pub(super) fn rejected(answer: &[u8]) -> Option<(u64, String)> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let partial = &answer["partialSuccess"];
    let count = &partial["rejectedSpans"];
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok())?;
    let why = partial["errorMessage"].as_str().unwrap_or_default();
    (count > 0).then(|| (count, why.to_owned()))
}

fn of_request(spans: &Spans) -> Vec<Value> {
    let mut all = vec![of_server(spans)];
    if let Some(upstream) = &spans.upstream {
        all.push(of_backend(spans, upstream));
    }
    all
}

fn of_server(spans: &Spans) -> Value {
    let (method, original) = method(spans);
    let name = match (&spans.route, original) {
        (_, Some(_)) => "HTTP".to_owned(),
        (Some(route), None) => format!("{method} {route}"),
        (None, None) => method.to_owned(),
    };
    let status = spans.status.map(|status| status.as_u16());
    let mut attributes = vec![
        text("http.request.method", method),
        text("url.path", &spans.path),
        text("url.scheme", spans.scheme),
        text("client.address", &spans.client.to_string()),
        text("network.protocol.name", "http"),
        text("network.protocol.version", version(spans.version)),
        text("lb.service", &spans.service),
    ];
    let optional = [
        ("http.request.method_original", original),
        (
            "server.address",
            Some(spans.host.as_str()).filter(|host| !host.is_empty()),
        ),
        ("http.route", spans.route.as_deref()),
        ("lb.route", spans.route_name.as_deref()),
    ];
    let optional = optional.into_iter();
    attributes.extend(optional.filter_map(|(key, value)| value.map(|value| text(key, value))));
    if let Some(upstream) = &spans.upstream {
        attributes.push(text("lb.backend", &upstream.backend));
        attributes.push(text("lb.why", upstream.why));
    }
    attributes.extend(status.map(|status| number("http.response.status_code", status.into())));
    let error = match status {
        Some(status) if status >= 500 => Some(status.to_string()),
        _ if spans.is_aborted => Some("aborted".to_owned()),
        _ => None,
    };
    attributes.extend(error.as_deref().map(|error| text("error.type", error)));
    let mut span = json!({
        "traceId": spans.context.trace.as_str(),
        "spanId": spans.ids.server.as_str(),
        "name": name,
        "kind": SERVER,
        "startTimeUnixNano": nanos(spans.begun, Duration::ZERO),
        "endTimeUnixNano": nanos(spans.begun, spans.total),
        "attributes": attributes,
        "status": {"code": if status.is_some_and(|status| status >= 500) { ERROR } else { UNSET }},
    });
    if let Some(parent) = &spans.ids.parent {
        span["parentSpanId"] = parent.as_str().into();
    }
    with_state(span, spans)
}

/// The part of a backend, from the attempt to reach it to the end of its answer.
fn of_backend(spans: &Spans, upstream: &UpstreamPart) -> Value {
    let (method, _) = method(spans);
    let mut attributes = vec![
        text("http.request.method", method),
        text("lb.service", &spans.service),
        text("lb.backend", &upstream.backend),
    ];
    match upstream.backend.rsplit_once(':') {
        Some((address, port)) if port.parse::<u16>().is_ok() => {
            let address = address.trim_matches(['[', ']']);
            attributes.push(text("server.address", address));
            attributes.push(number("server.port", port.parse().unwrap_or_default()));
        }
        _ => attributes.push(text("server.address", &upstream.backend)),
    }
    let status = spans.status.filter(|_| upstream.first_byte.is_some());
    let status = status.map(|status| status.as_u16());
    attributes.extend(status.map(|status| number("http.response.status_code", status.into())));
    let error = match status {
        Some(status) if status >= 400 => Some(status.to_string()),
        None => Some("no_response".to_owned()),
        Some(_) => None,
    };
    attributes.extend(error.as_deref().map(|error| text("error.type", error)));
    let first_byte = upstream.first_byte.map(
        |after| json!({"timeUnixNano": nanos(spans.begun, after), "name": "http.response.first_byte"}),
    );
    let span = json!({
        "traceId": spans.context.trace.as_str(),
        "spanId": spans.context.span.as_str(),
        "parentSpanId": spans.ids.server.as_str(),
        "name": method,
        "kind": CLIENT,
        "startTimeUnixNano": nanos(spans.begun, upstream.begun),
        "endTimeUnixNano": nanos(spans.begun, spans.total),
        "attributes": attributes,
        "events": first_byte.into_iter().collect::<Vec<_>>(),
        "status": {"code": if error.is_some() { ERROR } else { UNSET }},
    });
    with_state(span, spans)
}

fn with_state(mut span: Value, spans: &Spans) -> Value {
    if !spans.state.is_empty() {
        span["traceState"] = spans.state.as_str().into();
    }
    span
}

/// The method as an attribute, and as it came if that is another.
fn method(spans: &Spans) -> (&str, Option<&str>) {
    let method = spans.method.as_str();
    match METHODS.contains(&method) {
        true => (method, None),
        false => ("_OTHER", Some(method)),
    }
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

/// Nanoseconds since 1970.
fn nanos(begun: SystemTime, after: Duration) -> String {
    let since = begun.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since + after).as_nanos().to_string()
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn number(key: &str, value: i64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}
