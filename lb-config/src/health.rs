//! Which keys there are, their types and their defaults: `[service.health]`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Problems;
use super::http::Protocol;
use super::reader::{Table, Value};
use super::{Mode, value};

/// Longest text that a body is searched for, in bytes.
const MAX_BODY_MATCH: usize = 1024;

/// How the backends of a service are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked of a backend.
    pub probe: Probe,
    /// The port that is asked, where it is not the backend's own.
    pub port: Option<u16>,
    /// From one probe to the next.
    pub interval: Duration,
    /// For a whole probe.
    pub timeout: Duration,
    /// Good probes in a row that put a backend back in service.
    pub rise: u32,
    /// Failures in a row that take it out.
    pub fall: u32,
    /// By how much an interval may be longer or shorter, in thousandths.
    pub jitter_permille: u32,
    /// For how long the weight of a backend grows that is back; zero for not at all.
    pub slow_start: Duration,
    /// What happens when all are down; by mode if not given.
    pub all_down: Option<AllDown>,
    /// Only a backend that has failed somebody is asked, until it answers.
    pub passive: bool,
}

/// What is asked of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It takes a connection.
    Tcp,
    /// It answers a request.
    Http(HttpProbe),
    /// Nothing, as there is nothing to ask: after an interval it is tried again by those who want it.
    Nothing,
}

/// A request, and what makes an answer a good one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// What is spoken.
    pub protocol: Protocol,
    /// Path and query.
    pub path: String,
    /// Method.
    pub method: String,
    /// `Host` header; the address of the backend if not given.
    pub host: Option<String>,
    /// Good status codes.
    pub status: StatusSet,
    /// Text that the first 64 KiB of the body must contain.
    pub body: Option<String>,
    /// More headers.
    pub headers: BTreeMap<String, String>,
}

/// Status codes, as in "200-399" or "200,204,301-302".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(Vec<RangeInclusive<u16>>);

/// What happens when no backend of a service is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllDown {
    /// Connections go to all of them, as if nothing were checked.
    Serve,
    /// Connections are refused.
    Refuse,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            port: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            jitter_permille: 100,
            slow_start: Duration::ZERO,
            all_down: None,
            passive: false,
        }
    }
}

impl Health {
    /// How backends elsewhere are checked where no check is configured: failures that are met while they
    /// serve take them out. `None` for services of HTTP, whose requests find another backend by themselves.
    pub fn passive(mode: Mode) -> Option<Self> {
        let (probe, interval) = match mode {
            Mode::Tcp => (Probe::Tcp, Duration::from_secs(1)),
            Mode::Udp => (Probe::Nothing, Duration::from_secs(5)),
            Mode::Http => return None,
        };
        Some(Self {
            probe,
            interval,
            rise: 1,
            fall: 1,
            passive: true,
            ..Self::default()
        })
    }

    /// For backends that speak `protocol`. What is asked at a port of its own speaks HTTP/1.1.
    pub(super) fn over(mut self, protocol: Protocol) -> Self {
        if let (Probe::Http(http), None) = (&mut self.probe, self.port) {
            http.protocol = protocol;
        }
        self
    }
}

impl StatusSet {
    /// Whether `code` is a good one.
    pub fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|range| range.contains(&code))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let code = |text: &str| text.trim().parse().ok();
            let range = code(first)?..=code(last)?;
            let valid = *range.start() >= 100 && *range.end() <= 599 && !range.is_empty();
            valid.then_some(range)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        ranges.map(Self).ok_or_else(|| {
            format!(
                "{} is no set of status codes (write it like \"200-399\" or \"200,204\")",
                value::quoted(text)
            )
        })
    }
}

impl std::fmt::Display for Probe {
    /// As `status` shows it: "tcp" or "http GET /healthz".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Http(http) => write!(f, "http {} {}", http.method, http.path),
            Self::Nothing => f.write_str("refusals"),
        }
    }
}

pub(super) fn read(mut table: Table<'_, '_>, problems: &mut Problems) -> Health {
    let usual = Health::default();
    let http = kind(&mut table, problems);
    let port = table
        .take("port")
        .and_then(|value| value.integer_in(1..=65_535_u16, problems));
    let mut span = |key, least: Duration, problems: &mut Problems| {
        let value = table.take(key)?;
        value.string("\"2s\"", problems, |text| at_least(text, least))
    };
    let shortest = Duration::from_millis(10);
    let interval = span("interval", shortest, problems).unwrap_or(usual.interval);
    // Probes of one backend do not overlap: the next waits for the answer to the last.
    let timeout = span("timeout", shortest, problems).unwrap_or(usual.timeout);
    let slow_start = span("slow_start", Duration::ZERO, problems).unwrap_or(usual.slow_start);
    let mut count = |key, problems: &mut Problems| {
        let value = table.take(key)?;
        value.integer_in(1..=1000_u32, problems)
    };
    let rise = count("rise", problems).unwrap_or(usual.rise);
    let fall = count("fall", problems).unwrap_or(usual.fall);
    let jitter = table
        .take("jitter")
        .and_then(|value| jitter(&value, problems));
    let all_down = table.take("all_down").and_then(|value| {
        let choices = [("serve", AllDown::Serve), ("refuse", AllDown::Refuse)];
        value.choice(&choices, &[], problems)
    });
    table.finish(problems);
    Health {
        probe: http.map_or(Probe::Tcp, Probe::Http),
        port,
        interval,
        timeout,
        rise,
        fall,
        jitter_permille: jitter.unwrap_or(usual.jitter_permille),
        slow_start,
        all_down,
        passive: false,
    }
}

/// The type of the check, with the request if there is one. A path alone says "http", too.
fn kind(table: &mut Table<'_, '_>, problems: &mut Problems) -> Option<HttpProbe> {
    let wanted = table
        .take("type")
        .and_then(|value| value.choice(&[("tcp", false), ("http", true)], &[], problems));
    const KEYS: [&str; 6] = ["path", "method", "host", "status", "body", "headers"];
    let given: Vec<&str> = KEYS.into_iter().filter(|key| table.has(key)).collect();
    if wanted == Some(false)
        && let [key, ..] = given[..]
        && let Some(value) = table.take(key)
    {
        let message = format!("{key} is for type = \"http\" (change the type, or leave it out)");
        problems.add(&value.place, message);
    }
    // Reading them makes them known, whichever type it is.
    let http = request(table, problems);
    (wanted.unwrap_or(!given.is_empty())).then_some(http)
}

fn request(table: &mut Table<'_, '_>, problems: &mut Problems) -> HttpProbe {
    let mut text = |key, example: &str, check: fn(&str) -> Result<String, String>| {
        let value = table.take(key)?;
        value.string(example, problems, check)
    };
    let path = text("path", "\"/healthz\"", path);
    let method = text("method", "\"GET\"", method);
    let host = text("host", "\"example.com\"", header_value);
    let body = text("body", "\"ok\"", body);
    let status = table
        .take("status")
        .and_then(|value| value.string("\"200-399\"", problems, StatusSet::parse));
    let headers = table
        .take("headers")
        .and_then(|value| value.table("{ \"X-Probe\" = \"lb-agent\" }", problems))
        .map(|table| headers(table, problems));
    HttpProbe {
        protocol: Protocol::Http1,
        path: path.unwrap_or_else(|| "/".to_owned()),
        method: method.unwrap_or_else(|| "GET".to_owned()),
        host,
        status: status.unwrap_or_else(|| StatusSet(vec![200..=399])),
        body,
        headers: headers.unwrap_or_default(),
    }
}

fn headers(table: Table<'_, '_>, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    for (name, value) in table.entries() {
        if ::http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let message = format!("{} is no name of a header", value::quoted(name));
            problems.add(&value.place, message);
        } else if let Some(text) = value.string("\"lb-agent\"", problems, header_value) {
            headers.insert(name.to_owned(), text);
        }
    }
    headers
}

fn path(text: &str) -> Result<String, String> {
    let parsed = text.starts_with('/').then(|| text.parse::<::http::Uri>());
    match parsed {
        Some(Ok(_)) => Ok(text.to_owned()),
        _ => Err(format!(
            "{} is no path (write it like \"/healthz\")",
            value::quoted(text)
        )),
    }
}

fn method(text: &str) -> Result<String, String> {
    match text {
        "GET" | "HEAD" | "OPTIONS" | "POST" => Ok(text.to_owned()),
        _ => Err(format!(
            "{} cannot be used here (use \"GET\", \"HEAD\", \"OPTIONS\" or \"POST\")",
            value::quoted(text)
        )),
    }
}

fn header_value(text: &str) -> Result<String, String> {
    match ::http::HeaderValue::from_str(text) {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(format!(
            "{} cannot be sent in a header (use printable ASCII)",
            value::quoted(text)
        )),
    }
}

fn body(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_BODY_MATCH {
        return Err(format!(
            "{} bytes to look for in the body (use 1 to {MAX_BODY_MATCH})",
            text.len()
        ));
    }
    Ok(text.to_owned())
}

fn at_least(text: &str, least: Duration) -> Result<Duration, String> {
    match value::duration(text) {
        Ok(span) if span < least => Err(format!(
            "{} is too short (use \"{}\" and more)",
            value::quoted(text),
            humantime::format_duration(least)
        )),
        span => span.map_err(|error| error.to_string()),
    }
}

/// A part of the interval, 0 to 0.5, in thousandths.
fn jitter(value: &Value<'_, '_>, problems: &mut Problems) -> Option<u32> {
    let number = value.number("0.1", problems)?;
    if !(0.0..=0.5).contains(&number) {
        let message = format!("{number} is out of range (use 0.0 to 0.5)");
        problems.add(&value.place, message);
        return None;
    }
    Some((number * 1000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(text: &str) -> Result<Health, Vec<String>> {
        let text = format!("[[service]]\nname = 'a'\nlisten = ['0.0.0.0:80']\n{text}");
        match crate::parse(&text, std::path::Path::new("test.toml")) {
            Ok(config) => Ok(config.services[0].health.clone().unwrap()),
            Err(error) => Err(error.problems().iter().map(|p| p.to_string()).collect()),
        }
    }

    #[test]
    fn an_empty_table_is_a_tcp_check_with_the_defaults() {
        assert_eq!(health("health = {}"), Ok(Health::default()));
    }

    #[test]
    fn everything_can_be_set() {
        let text = "[service.health]\ntype = 'http'\npath = '/up?x=1'\nmethod = 'HEAD'\n\
                    host = 'example.com'\nstatus = '200,301-302'\nbody = 'ok'\n\
                    headers = { 'X-A' = 'b' }\nport = 8081\ninterval = '5s'\ntimeout = '250ms'\n\
                    rise = 4\nfall = 5\njitter = 0.25\nslow_start = '30s'\nall_down = 'refuse'\n";
        let health = health(text).unwrap();
        assert_eq!(health.probe.to_string(), "http HEAD /up?x=1");
        let Probe::Http(http) = &health.probe else {
            panic!("{health:?}")
        };
        let good: Vec<u16> = (100..600).filter(|c| http.status.contains(*c)).collect();
        assert_eq!(good, [200, 301, 302]);
        assert_eq!(http.host.as_deref(), Some("example.com"));
        assert_eq!(http.body.as_deref(), Some("ok"));
        assert_eq!(http.headers["X-A"], "b");
        assert_eq!((health.rise, health.fall, health.port), (4, 5, Some(8081)));
        assert_eq!(health.timeout, Duration::from_millis(250));
        assert_eq!(health.jitter_permille, 250);
        assert_eq!(health.all_down, Some(AllDown::Refuse));
    }

    #[test]
    fn a_path_alone_makes_an_http_check() {
        let health = health("health = { path = '/healthz' }").unwrap();
        assert_eq!(health.probe.to_string(), "http GET /healthz");
    }

    #[test]
    fn each_mistake_is_named_with_its_key() {
        let cases = [
            ("type = 'icmp'", "type: \"icmp\" is unknown"),
            ("type = 'tcp'\npath = '/x'", "path: path is for type"),
            ("path = 'x'", "path: \"x\" is no path"),
            ("method = 'BREW'", "method: \"BREW\" cannot be used"),
            ("status = '99'", "status: \"99\" is no set"),
            ("status = '300-200'", "status: \"300-200\" is no set"),
            ("body = ''", "body: 0 bytes"),
            ("host = ''", "host: \"\" cannot be sent"),
            ("headers = { 'a b' = 'c' }", "\"a b\" is no name"),
            ("interval = '1ms'", "interval: \"1ms\" is too short"),
            ("timeout = 'soon'", "timeout: \"soon\" is not a duration"),
            ("fall = 0", "fall: 0 is out of range"),
            ("jitter = 0.6", "jitter: 0.6 is out of range"),
            ("all_down = 'panic'", "all_down: \"panic\" is unknown"),
            ("ports = 1", "unknown key (did you mean port?)"),
        ];
        for (text, expected) in cases {
            let problems = health(&format!("[service.health]\n{text}")).unwrap_err();
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            let problem = &problems[0];
            assert!(problem.contains("service[0].health"), "{problem}");
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }
}
