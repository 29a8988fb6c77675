//! The line of a request, written into a buffer that is used again.

use std::io::Write as _;

use hyper::Version;

use super::entry::{End, Ended, Entry};
use super::stamp;
use lb_config::http::LogFormat;

/// Adds the line of `entry` to `out`.
pub(super) fn line(format: LogFormat, entry: &Entry, ended: &Ended, out: &mut Vec<u8>) {
    match format {
        LogFormat::Combined => combined(entry, ended, out),
        LogFormat::Json => json(entry, ended, out),
    }
    out.push(b'\n');
}

/// Apache's combined format, which every log reader knows. Fields that it lacks come after it.
fn combined(entry: &Entry, ended: &Ended, out: &mut Vec<u8>) {
    address(entry, out);
    out.extend_from_slice(b" - ");
    match entry.user() {
        Some(user) => escape(user, &TEXT, out),
        None => out.push(b'-'),
    }
    out.push(b' ');
    stamp::combined(out);
    out.extend_from_slice(b" \"");
    escape(entry.method(), &TEXT, out);
    out.push(b' ');
    escape(entry.target(), &TEXT, out);
    out.push(b' ');
    out.extend_from_slice(protocol(entry.version).as_bytes());
    out.extend_from_slice(b"\" ");
    number(u64::from(ended.status()), out);
    out.push(b' ');
    number(ended.bytes, out);
    for text in [entry.referer(), entry.user_agent()] {
        out.extend_from_slice(b" \"");
        escape(text.unwrap_or(b"-"), &TEXT, out);
        out.push(b'"');
    }
    out.extend_from_slice(b" backend=");
    escape(entry.backend().unwrap_or(b"-"), &TEXT, out);
    out.extend_from_slice(b" why=");
    out.extend_from_slice(entry.why().unwrap_or("-").as_bytes());
    if let Some(cache) = entry.cache {
        out.extend_from_slice(b" cache=");
        out.extend_from_slice(cache.as_bytes());
    }
    let times = [
        (" connect=", entry.connect),
        (" first_byte=", ended.first_byte),
        (" total=", Some(ended.total)),
    ];
    for (name, time) in times {
        out.extend_from_slice(name.as_bytes());
        match time {
            Some(time) => thousandths(time.as_millis() as u64, out),
            None => out.push(b'-'),
        }
    }
    out.extend_from_slice(b" id=");
    escape(entry.request_id().unwrap_or(b"-"), &TEXT, out);
    if let Some(context) = &entry.trace {
        out.extend_from_slice(b" trace=");
        out.extend_from_slice(context.trace.as_bytes());
    }
    out.extend_from_slice(b" tls=");
    out.extend_from_slice(entry.tls.unwrap_or("-").as_bytes());
    if let Some(subject) = entry.certificate() {
        out.extend_from_slice(b" client_cert=\"");
        escape(subject, &TEXT, out);
        out.push(b'"');
    }
    if let Some((limit, dry_run)) = &entry.limit {
        out.extend_from_slice(b" limit=");
        escape(limit.as_bytes(), &TEXT, out);
        if *dry_run {
            out.extend_from_slice(b" dry_run");
        }
    }
    if ended.end == End::Aborted {
        out.extend_from_slice(b" aborted");
    }
}

/// One JSON object. Times are in milliseconds.
fn json(entry: &Entry, ended: &Ended, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    stamp::iso(out);
    out.extend_from_slice(b"\",\"client\":\"");
    address(entry, out);
    out.push(b'"');
    text("user", entry.user(), out);
    text("method", Some(entry.method()), out);
    text("target", Some(entry.target()), out);
    text("protocol", Some(protocol(entry.version).as_bytes()), out);
    text("host", entry.host(), out);
    out.extend_from_slice(b",\"status\":");
    number(u64::from(ended.status()), out);
    out.extend_from_slice(b",\"bytes\":");
    number(ended.bytes, out);
    text("referer", entry.referer(), out);
    text("user_agent", entry.user_agent(), out);
    text("backend", entry.backend(), out);
    text("why", entry.why().map(str::as_bytes), out);
    text("cache", entry.cache.map(str::as_bytes), out);
    let times = [
        (",\"auth_ms\":", entry.auth),
        (",\"connect_ms\":", entry.connect),
        (",\"first_byte_ms\":", ended.first_byte),
        (",\"total_ms\":", Some(ended.total)),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            out.extend_from_slice(name.as_bytes());
            thousandths(time.as_micros() as u64, out);
        }
    }
    text("request_id", entry.request_id(), out);
    if let Some(context) = &entry.trace {
        text("trace_id", Some(context.trace.as_bytes()), out);
        text("span_id", Some(context.span.as_bytes()), out);
    }
    text("tls", entry.tls.map(str::as_bytes), out);
    text("client_cert", entry.certificate(), out);
    if let Some((limit, dry_run)) = &entry.limit {
        text("limit", Some(limit.as_bytes()), out);
        if *dry_run {
            out.extend_from_slice(b",\"dry_run\":true");
        }
    }
    if ended.end == End::Aborted {
        out.extend_from_slice(b",\"aborted\":true");
    }
    out.push(b'}');
}

fn text(name: &str, value: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some(value) = value else {
        return;
    };
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    match std::str::from_utf8(value) {
        Ok(_) => escape(value, &JSON, out),
        // JSON is UTF-8, even if the client sends other bytes.
        Err(_) => escape(String::from_utf8_lossy(value).as_bytes(), &JSON, out),
    }
    out.push(b'"');
}

fn address(entry: &Entry, out: &mut Vec<u8>) {
    // Writing to a vector does not fail.
    let _ = match entry.client {
        std::net::IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            for (index, part) in [a, b, c, d].into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                number(u64::from(part), out);
            }
            Ok(())
        }
        std::net::IpAddr::V6(ip) => write!(out, "{ip}"),
    };
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

fn number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// `12345` as `12.345`.
fn thousandths(count: u64, out: &mut Vec<u8>) {
    number(count / 1000, out);
    let rest = count % 1000;
    let digit = |n: u64| b'0' + n as u8;
    out.extend_from_slice(&[
        b'.',
        digit(rest / 100),
        digit(rest / 10 % 10),
        digit(rest % 10),
    ]);
}

/// Which bytes are not written as they are: 0 for as they are, `x` for in hexadecimal, and others
/// for themselves after a backslash.
type Escapes = [u8; 256];

/// A text in quotes: no client can end it, begin another line, or write to a terminal.
const TEXT: Escapes = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if byte < 0x20 || byte >= 0x7f {
            table[byte] = b'x';
        }
        byte += 1;
    }
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// RFC 8259, section 7.
const JSON: Escapes = {
    let mut table = TEXT;
    let mut byte = 0x80;
    while byte < 256 {
        table[byte] = 0;
        byte += 1;
    }
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x7f] = b'u';
    table
};

/// Adds `text`, most of which needs no escape, in runs.
fn escape(text: &[u8], escapes: &Escapes, out: &mut Vec<u8>) {
    // Without an early end the loop takes many bytes at once, and nearly every text passes.
    let is_plain = |byte: u8| (b' '..0x7f).contains(&byte) & (byte != b'"') & (byte != b'\\');
    if text.iter().fold(true, |all, byte| all & is_plain(*byte)) {
        return out.extend_from_slice(text);
    }
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| escapes[*byte as usize] != 0) {
        let byte = rest[at];
        out.extend_from_slice(&rest[..at]);
        let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
        match escapes[byte as usize] {
            b'x' => out.extend_from_slice(&[b'\\', b'x', high, low]),
            b'u' => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]),
            itself => out.extend_from_slice(&[b'\\', itself]),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::access_log::LogFields;
    use crate::trace::TraceContext;
    use hyper::{Method, StatusCode};
    use lb_http1::RequestHead;

    fn entry(headers: &[(&str, &[u8])], target: &str) -> Entry {
        let mut head = RequestHead::new(Method::GET, target.as_bytes(), Version::HTTP_11);
        for (name, value) in headers {
            head.fields.append_called(name.as_bytes(), value);
        }
        let client = "203.0.113.9".parse().unwrap();
        Entry::begin(client, head.version, &LogFields::of(&head))
    }

    fn written(format: LogFormat, entry: &Entry, end: End) -> String {
        let is_complete = end == End::Complete;
        let ended = Ended {
            status: is_complete.then_some(StatusCode::OK),
            first_byte: is_complete.then_some(Duration::from_micros(2_500)),
            total: Duration::from_micros(12_345),
            bytes: if is_complete { 5120 } else { 0 },
            end,
        };
        let mut out = Vec::new();
        line(format, entry, &ended, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The line with the time, which is another each time, taken out.
    fn without_time(line: &str) -> String {
        let (before, rest) = line.split_once('[').unwrap();
        format!("{before}[]{}", rest.split_once(']').unwrap().1)
    }

    fn whole() -> Entry {
        let mut entry = entry(
            &[
                ("host", b"example.com"),
                ("referer", b"https://a.test/"),
                ("user-agent", b"curl/8"),
                ("authorization", b"Basic YW5uOnNlY3JldA=="),
            ],
            "/path?q=1",
        );
        entry.chose("127.0.0.1:5000", "slot");
        entry.identify(b"abc123");
        entry.connect = Some(Duration::from_micros(400));
        entry.tls = Some("TLSv1.3");
        entry
    }

    #[test]
    fn a_combined_line_has_the_known_fields_first_and_ours_after_them() {
        assert_eq!(
            without_time(&written(LogFormat::Combined, &whole(), End::Complete)),
            "203.0.113.9 - ann [] \"GET /path?q=1 HTTP/1.1\" 200 5120 \"https://a.test/\" \"curl/8\" \
             backend=127.0.0.1:5000 why=slot connect=0.000 first_byte=0.002 total=0.012 id=abc123 \
             tls=TLSv1.3\n"
        );
    }

    #[test]
    fn subject_of_a_client_certificate_is_in_quotes() {
        let mut certified = whole();
        certified.certify("CN=a\\,b \"c\"");
        let line = written(LogFormat::Combined, &certified, End::Complete);
        let end = r#"tls=TLSv1.3 client_cert="CN=a\\,b \"c\"""#;
        assert!(line.trim_end().ends_with(end), "{line}");
        let line = written(LogFormat::Json, &certified, End::Complete);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["client_cert"], "CN=a\\,b \"c\"");
    }

    #[test]
    fn what_is_not_there_is_a_dash_and_a_client_that_left_is_a_499() {
        let line = written(LogFormat::Combined, &entry(&[], "/"), End::Aborted);
        assert_eq!(
            without_time(&line),
            "203.0.113.9 - - [] \"GET / HTTP/1.1\" 499 0 \"-\" \"-\" backend=- why=- connect=- \
             first_byte=- total=0.012 id=- tls=- aborted\n"
        );
    }

    #[test]
    fn a_json_line_is_one_object_with_everything() {
        let line = written(LogFormat::Json, &whole(), End::Complete);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        let mut object = object.as_object().unwrap().clone();
        let time = object.remove("time").unwrap();
        assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok());
        let expected = serde_json::json!({
            "client": "203.0.113.9", "user": "ann", "method": "GET", "target": "/path?q=1",
            "protocol": "HTTP/1.1", "host": "example.com", "status": 200, "bytes": 5120,
            "referer": "https://a.test/", "user_agent": "curl/8",
            "backend": "127.0.0.1:5000", "why": "slot", "connect_ms": 0.4, "first_byte_ms": 2.5,
            "total_ms": 12.345, "request_id": "abc123", "tls": "TLSv1.3",
        });
        assert_eq!(serde_json::Value::Object(object), expected);
    }

    #[test]
    fn lines_have_the_trace_of_a_request() {
        let mut entry = whole();
        let parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        entry.trace = TraceContext::parse(parent);
        let combined = written(LogFormat::Combined, &entry, End::Complete);
        let traced = " id=abc123 trace=0af7651916cd43dd8448eb211c80319c tls=TLSv1.3\n";
        assert!(combined.ends_with(traced), "{combined}");
        let json = written(LogFormat::Json, &entry, End::Complete);
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(object["span_id"], "b7ad6b7169203331");
    }

    #[test]
    fn nobody_writes_a_line_of_his_own_or_to_the_terminal() {
        let agent = b"a\" 200 \\ \t \xff \xc3\xa9";
        let entry = entry(&[("user-agent", agent)], "/");
        let combined = written(LogFormat::Combined, &entry, End::Complete);
        assert!(
            combined.contains(r#""a\" 200 \\ \x09 \xff \xc3\xa9""#),
            "{combined}"
        );
        let json = written(LogFormat::Json, &entry, End::Complete);
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["user_agent"], "a\" 200 \\ \t \u{fffd} é");
        assert_eq!(json.trim_end().lines().count(), 1);
    }
}
