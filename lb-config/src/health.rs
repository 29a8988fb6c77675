//! `[service.health]`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::choice::choice;
use super::error::Problems;
use super::http::Protocol;
use super::reader::{Table, Value};
use super::schema::fields::NoKey;
use super::schema::kinds::{Maybe, Text, Thousandths, one_of, text, time, whole};
use super::schema::{Field, Key, Kind, Section as _, Shape, Show, section};
use super::{Mode, value};

/// Longest text that a body is searched for, in bytes.
const MAX_BODY_MATCH: usize = 1024;

const SHORTEST: Duration = Duration::from_millis(10);
/// A time of at least [`SHORTEST`].
const SPAN: Text<Duration, String> = time("\"2s\"", |text| at_least(text, SHORTEST));
const JITTER: Thousandths = Thousandths {
    example: "0.1",
    range: 0.0..=0.5,
    remedy: "use 0.0 to 0.5",
    unit: "of the interval",
};

section! {
    Reload, "0.1";
    /// How the backends of a service are checked.
    #[derive(Eq)]
    pub struct Health {
        /// The type of the check.
        pub probe as "type": Probe = Probe::Tcp, CheckType;
        /// The port that is asked. Without it the backend's own.
        pub port: Option<u16> = None, Maybe(whole(1..=65_535, ""));
        /// Time from one check of a backend to the next, at least `"10ms"`.
        pub interval: Duration = Duration::from_secs(2), SPAN;
        /// Time for a whole check, at least `"10ms"`. The next check waits for the answer to the last.
        pub timeout: Duration = Duration::from_secs(1), SPAN;
        /// Time in which the weight of a backend that is back grows to its full value. `"0s"` is at once.
        pub slow_start: Duration = Duration::ZERO, time("\"2s\"", value::duration);
        /// Successes in a row that put a backend back in service.
        pub rise: u32 = 2, whole(1..=1000, "checks");
        /// Failures in a row that take a backend out of service.
        pub fall: u32 = 3, whole(1..=1000, "checks");
        /// By how much an interval may be longer or shorter.
        pub jitter_permille as "jitter": u32 = 100, JITTER;
        /// What happens while all backends are down. Without it `"serve"`, for HTTP `"refuse"`.
        pub all_down: Option<AllDown> = None, Maybe(one_of());
        /// Whether only a backend that has failed is asked, until it answers.
        pub passive: bool = false, NoKey;
    }
}

/// The question that a health check asks of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection, which the backend has to accept.
    Tcp,
    /// An HTTP request, which the backend has to answer well.
    Http(HttpProbe),
    /// No question, as there is none to ask. After an interval, clients try the backend again.
    Nothing,
}

section! {
    Reload, "0.1";
    /// A request, and what makes an answer a good one.
    #[derive(Eq)]
    pub struct HttpProbe {
        /// What is spoken.
        pub protocol: Protocol = Protocol::Http1, NoKey;
        /// Path and query of the request.
        pub path: String = "/".to_owned(), text("path", "\"/healthz\"", path);
        /// Method of the request.
        pub method: String = "GET".to_owned(), text("`GET`, `HEAD`, `OPTIONS` or `POST`", "\"GET\"", method);
        /// `Host` header of the request. Without it the address of the backend.
        pub host: Option<String> = None, Maybe(text("host name", "\"example.com\"", header_value));
        /// Text that the first 64 KiB of the body must contain.
        pub body: Option<String> = None, Maybe(text("1 to 1024 bytes", "\"ok\"", body));
        /// Good status codes.
        pub status: StatusSet = StatusSet(vec![200..=399]),
            text("status codes and ranges of them", "\"200-399\"", StatusSet::parse);
        /// More headers of the request.
        pub headers: BTreeMap<String, String> = BTreeMap::new(), Headers;
    }
}

/// Status codes, as in "200-399" or "200,204,301-302".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(Vec<RangeInclusive<u16>>);

choice! {
    /// What happens when no backend of a service is healthy.
    pub enum AllDown {
        /// Connections go to all of them, as if nothing were checked.
        Serve = "serve",
        /// Connections are refused.
        Refuse = "refuse",
    }
}

choice! {
    /// The type of a check.
    enum CheckKind {
        /// The application accepts a connection, so that a frozen process is found too.
        Tcp = "tcp",
        /// A request gets a good answer.
        Http = "http",
    }
}

impl Health {
    /// The passive health check of services without a configured one: failed connections take a
    /// backend out. `None` for HTTP, as its requests find another backend by themselves.
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

    /// For backends that speak `protocol`. A check on a port of its own speaks HTTP/1.1.
    pub(super) fn over(mut self, protocol: Protocol) -> Self {
        if let (Probe::Http(http), None) = (&mut self.probe, self.port) {
            http.protocol = protocol;
        }
        self
    }
}

impl StatusSet {
    /// Whether `code` counts as healthy.
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

impl std::fmt::Display for StatusSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match (range.start(), range.end()) {
                (only, last) if only == last => write!(f, "{comma}{only}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
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

/// The keys of [`Probe`]: `type`, and those of [`HttpProbe`].
struct CheckType;

impl Field<Probe> for CheckType {
    /// A key of the request alone says "http", too.
    fn take(
        &self,
        key: &'static str,
        table: &mut Table<'_, '_>,
        problems: &mut Problems,
    ) -> Option<Probe> {
        let wanted: Option<CheckKind> = Field::take(&one_of(), key, table, problems);
        let mut given = HttpProbe::keys().into_iter().map(|key| key.name);
        let first = given.find(|name| table.has(name));
        if wanted == Some(CheckKind::Tcp)
            && let Some(key) = first
            && let Some(value) = table.peek(key)
        {
            let message =
                format!("{key} is for type = \"http\" (change the type, or leave it out)");
            problems.add(&value.place, message);
        }
        // Both types read these keys, so that they are known.
        let http = HttpProbe::take(table, problems);
        let is_http = wanted.map_or(first.is_some(), |wanted| wanted == CheckKind::Http);
        is_http.then_some(Probe::Http(http))
    }

    fn put(
        &self,
        key: &'static str,
        value: &Probe,
        _: &Probe,
        show: Show,
        table: &mut toml::Table,
    ) {
        if let Probe::Http(http) = value {
            table.insert(key.to_owned(), "http".into());
            http.put(show, table);
        } else if show == Show::Effective {
            table.insert(key.to_owned(), "tcp".into());
        }
    }

    fn describe(&self, key: Key, _: &Probe, keys: &mut Vec<Key>) {
        keys.push(Key {
            shape: one_of::<CheckKind>().shape(),
            default_in_words: Some("`\"http\"` with any key of the request, else `\"tcp\"`"),
            ..key
        });
        keys.extend(HttpProbe::keys());
    }
}

/// A table of header names with their values.
struct Headers;

impl Kind for Headers {
    type Value = BTreeMap<String, String>;

    fn read(
        &self,
        value: &Value<'_, '_>,
        problems: &mut Problems,
    ) -> Option<BTreeMap<String, String>> {
        let table = value.table("{ \"X-Probe\" = \"lb-agent\" }", problems)?;
        let mut headers = BTreeMap::new();
        for (name, value) in table.entries() {
            if ::http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                let message = format!("{} is no name of a header", value::quoted(name));
                problems.add(&value.place, message);
            } else if let Some(text) = value.string("\"lb-agent\"", problems, header_value) {
                headers.insert(name.to_owned(), text);
            }
        }
        Some(headers)
    }

    fn write(&self, value: &BTreeMap<String, String>, _: Show) -> Option<toml::Value> {
        let headers = value
            .iter()
            .map(|(name, text)| (name.clone(), text.clone().into()));
        Some(toml::Value::Table(headers.collect()))
    }

    fn shape(&self) -> Shape {
        Shape::Map {
            keys: "names of headers",
            values: Box::new(text("text", "\"lb-agent\"", header_value).shape()),
        }
    }
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
