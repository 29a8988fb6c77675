//! The tables under `[service.http]`: times, sizes, compression, log, upstream, errors.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::http::StatusCode;

use super::value;
use crate::choice::choice;
use crate::error::{Line, Problems};
use crate::lists::Texts;
use crate::reader::{Table, Value};
use crate::schema::fields::{Found, Required};
use crate::schema::kinds::{
    Flag, List, Maybe, OneOf, Text, Thousandths, UnlessZero, one_of, path, text, time, whole,
};
use crate::schema::{Kind, Shape, Show, section};
use crate::value::{BadValue, percent, quoted};

const ANY_TIME: Texts<Duration> = time("\"60s\"", value::duration);
const SOME_TIME: Texts<Duration> = time("\"60s\"", value::some_time);
/// A duration; "0" means for ever.
const FOR_EVER: UnlessZero<Texts<Duration>> = UnlessZero(ANY_TIME);
const MINUTE: Duration = Duration::from_secs(60);

section! {
    Reload, "0.1";
    /// How long things may take.
    #[derive(Eq)]
    pub struct Timeouts {
        /// From the first byte of a request to the end of its headers.
        pub header: Duration = MINUTE, SOME_TIME;
        /// Between two pieces of a request's body. `"0"` is for ever.
        pub body: Option<Duration> = Some(MINUTE), FOR_EVER;
        /// For a connection to a backend to be made.
        pub connect: Duration = Duration::from_secs(5), SOME_TIME;
        /// From the end of a request to the first byte of the response. `"0"` is for ever.
        pub first_byte: Option<Duration> = Some(MINUTE), FOR_EVER;
        /// Between two pieces of a response. `"0"` is for ever.
        pub response: Option<Duration> = None, FOR_EVER;
        /// For a client to take more of its response. Then it is cut off. `"0"` is for ever.
        pub send: Option<Duration> = Some(MINUTE), FOR_EVER;
        /// Of a client's connection between two requests. `"0"` is one request a connection.
        pub idle: Duration = Duration::from_secs(75), ANY_TIME;
        /// Of a WebSocket or another tunnel without a byte in either direction. `"0"` is for ever.
        pub tunnel: Option<Duration> = None, FOR_EVER;
        /// How long after its end a backend that refuses connections is waited for. `"0"` is not at all.
        pub restart_grace: Duration = Duration::from_secs(3), ANY_TIME;
        /// How long WebSockets and requests may go on when the agent ends.
        pub drain: Duration = Duration::from_secs(30), ANY_TIME;
    }
}

section! {
    Reload, "0.1";
    /// A route's own times. Without a key that of the service holds. Inside, `None` is for ever.
    #[derive(Eq)]
    pub struct RouteTimeouts {
        /// Between two pieces of a request's body. `"0"` is for ever.
        pub body: Option<Option<Duration>> = None, Maybe(FOR_EVER);
        /// From the end of a request to the first byte of the response. `"0"` is for ever.
        pub first_byte: Option<Option<Duration>> = None, Maybe(FOR_EVER);
        /// Of a tunnel without a byte in either direction. `"0"` is for ever.
        pub tunnel: Option<Option<Duration>> = None, Maybe(FOR_EVER);
    }
}

const HEADER_LINES: RangeInclusive<usize> = 1..=10_000;

section! {
    Reload, "0.1"; check = check_target;
    /// How much of anything there may be.
    #[derive(Eq)]
    pub struct Limits {
        /// Size of a request's header section. A larger one gets 431. Node.js takes as much.
        pub header_bytes: usize = 16_384, size(1024..=1 << 20);
        /// Size of a request's target, path and query. A larger one gets 414.
        pub target: usize = 8192, size(64..=1 << 20);
        /// Header lines of a request. More get 431.
        pub headers: usize = 100, whole(HEADER_LINES, "lines");
        /// Header lines of a response. More get 502.
        pub response_headers: usize = 1000, whole(HEADER_LINES, "lines");
        /// Requests at once on one HTTP/2 connection.
        pub h2_streams: u32 = 128, whole(1..=10_000, "requests");
        /// Size of a request's body. A larger one gets 413. 0 is any size.
        pub body: Option<u64> = None, UnlessZero(size(0..=u64::MAX));
    }
}

/// A target is a part of the header section.
fn check_target(limits: &Limits, table: &mut Table<'_, '_>, problems: &mut Problems) {
    let (target, header_bytes) = (limits.target, limits.header_bytes);
    if target > header_bytes {
        problems.add(
            &table.place,
            format!("a target of {target} bytes does not fit into header_bytes = {header_bytes}"),
        );
    }
}

section! {
    Reload, "0.1"; check = check_route_limits;
    /// A route's own sizes. Without a key that of the service holds. Inside, `None` is for any size.
    #[derive(Eq)]
    pub struct RouteLimits {
        /// Size of a request's body. A larger one gets 413. 0 is any size.
        pub body: Option<Option<u64>> = None, Maybe(UnlessZero(size(0..=u64::MAX)));
    }
}

fn check_route_limits(_: &RouteLimits, table: &mut Table<'_, '_>, problems: &mut Problems) {
    for key in [
        "header_bytes",
        "headers",
        "response_headers",
        "target",
        "h2_streams",
    ] {
        if let Some(value) = table.take(key) {
            problems.add(
                &value.place,
                "counts before the route is known (set it under [service.http.limits])",
            );
        }
    }
}

/// A size within a range: a number of bytes, or a text with a unit.
pub(crate) struct Size<T>(RangeInclusive<u64>, PhantomData<T>);

/// A size of at least and at most so many bytes.
pub(crate) const fn size<T>(range: RangeInclusive<u64>) -> Size<T> {
    Size(range, PhantomData)
}

impl<T: TryFrom<u64> + Copy + TryInto<u64>> Kind for Size<T> {
    type Value = T;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<T> {
        let size = if value.is_string() {
            value.string("\"10MiB\"", problems, value::size)?
        } else {
            let number = value.integer("\"10MiB\"", problems)?;
            let size = u64::try_from(number);
            problems.keep(
                &value.place,
                size.map_err(|_| format!("{number} is not a size (write it like \"10MiB\")")),
            )?
        };
        let Self(range, _) = self;
        if !range.contains(&size) {
            let message = format!(
                "{size} bytes are out of range (use {} to {})",
                range.start(),
                range.end()
            );
            problems.add(&value.place, message);
        }
        T::try_from(size).ok().filter(|_| range.contains(&size))
    }

    fn write(&self, value: &T, _: Show) -> Option<toml::Value> {
        let size: u64 = (*value).try_into().ok()?;
        // A size beyond TOML's numbers is written with a unit.
        Some(match i64::try_from(size) {
            Ok(size) => size.into(),
            Err(_) => format!("{size}B").into(),
        })
    }

    fn shape(&self) -> Shape {
        let Self(range, _) = self;
        let bytes = Shape::Whole {
            least: i64::try_from(*range.start()).unwrap_or(i64::MAX),
            most: i64::try_from(*range.end()).unwrap_or(i64::MAX),
            unit: "bytes",
        };
        let with_unit = Shape::Text {
            what: "size with `KiB`, `MiB` or `GiB`",
            example: "\"10MiB\"",
        };
        Shape::Either(vec![bytes, with_unit])
    }
}

const MEDIA_TYPE: Texts<String> = text("media type", "\"text/*\"", value::media_type);
const MEDIA_TYPES: List<Texts<String>> = List("[\"text/*\", \"application/json\"]", MEDIA_TYPE);
pub(super) const ALGORITHMS: List<OneOf<Algorithm>> =
    List("[\"zstd\", \"br\", \"gzip\"]", one_of());

section! {
    Reload, "0.1";
    /// Compression of responses.
    #[derive(Eq)]
    pub struct Compression {
        /// Whether responses are compressed.
        pub enabled: bool = true, Flag;
        /// Media types that are compressed. `"text/*"` is every text but server-sent events.
        pub types: Vec<String> = usual_types(), MEDIA_TYPES;
        /// Responses that are known to have fewer bytes are left alone.
        pub min_size: u64 = 1024, size(0..=u64::MAX);
        /// Algorithms, in the order of preference among those that a client likes equally.
        pub algorithms: Vec<Algorithm> = vec![Algorithm::Zstd, Algorithm::Brotli, Algorithm::Gzip], ALGORITHMS;
    }
}

fn usual_types() -> Vec<String> {
    let types = [
        "text/*",
        "application/javascript",
        "application/json",
        "application/ld+json",
        "application/manifest+json",
        "application/wasm",
        "application/xhtml+xml",
        "application/xml",
        "image/svg+xml",
        "image/x-icon",
    ];
    types.map(str::to_owned).to_vec()
}

choice! {
    /// Content codings.
    pub enum Algorithm {
        /// Zstandard (RFC 8878).
        Zstd = "zstd",
        /// Brotli (RFC 7932).
        Brotli = "br",
        /// gzip (RFC 1952).
        Gzip = "gzip",
    }
}

/// The target of an access log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// Standard output of the agent.
    Stdout,
    /// A file, by its path.
    File(PathBuf),
}

const LOG_FILE: Text<LogTarget, String> = Text {
    what: "path of a file, or `\"stdout\"`",
    example: "\"/var/log/lb-agent/access.log\"",
    parse: |text| match text {
        "stdout" => Ok(LogTarget::Stdout),
        _ => file_path(text).map(LogTarget::File),
    },
    print: |target| match target {
        LogTarget::Stdout => "stdout".to_owned(),
        LogTarget::File(path) => path.display().to_string(),
    },
};

section! {
    Reload, "0.1";
    /// The access log.
    #[derive(Eq)]
    pub struct AccessLog {
        /// Where it goes. SIGUSR1 opens the file anew, for rotation.
        pub target as "file": LogTarget = LogTarget::Stdout, Required(LOG_FILE.example, LOG_FILE);
        /// What a line looks like.
        pub format: LogFormat = LogFormat::Combined, one_of();
    }
}

choice! {
    /// What a line of an access log looks like.
    pub enum LogFormat {
        /// The "combined" format of Apache and nginx, with some fields after it.
        Combined = "combined",
        /// One JSON object.
        Json = "json",
    }
}

const SAMPLE: Text<u32, BadValue> = Text {
    what: "part in percent",
    example: "\"1%\"",
    parse: percent,
    print: |millionths| format!("{}%", f64::from(*millionths) / 1e4),
};

section! {
    Reload, "0.1";
    /// Traces. With this table each request without a valid `traceparent` gets one (W3C Trace Context).
    #[derive(Eq)]
    pub struct Tracing {
        /// How many of the traces that begin here have the sampled flag. A trace that a request brings along keeps its
        /// own.
        pub sample_millionths as "sample": u32 = 0, SAMPLE;
    }
}

const RETRY_BUDGET: Thousandths = Thousandths {
    example: "0.2",
    range: 0.0..=1.0,
    remedy: "use 0.0 to 1.0 of the requests",
    unit: "of the requests",
};

section! {
    Reload, "0.1";
    /// Connections to backends.
    #[derive(Eq)]
    pub struct Upstream {
        /// Failures within `fail_timeout` after which a backend is passed by. 0 is never.
        pub max_fails: u32 = 5, whole(0..=1_000_000, "failures");
        /// For how long a backend is passed by then.
        pub fail_timeout: Duration = Duration::from_secs(10), SOME_TIME;
        /// Retries as a part of the requests.
        pub retry_budget_permille as "retry_budget": u32 = 200, RETRY_BUDGET;
        /// How often one request is sent again after a connection broke that may have carried it.
        pub retries: u32 = 1, whole(0..=10, "retries");
        /// Idle connections of HTTP/1.1 that each worker keeps open to a backend.
        pub keepalive: usize = 512, whole(0..=10_000, "connections");
    }
}

const PAGE: Text<PathBuf, String> = path("path of a file", "\"/etc/lb-agent/502.html\"", file_path);

section! {
    Reload, "0.1";
    /// Pages for errors of lb-agent's own, at most 1 MiB each. They are read with the configuration.
    #[derive(Eq)]
    pub struct ErrorPages {
        /// Files by status, 400 to 599.
        pub pages: BTreeMap<StatusCode, PathBuf> = BTreeMap::new(), Pages;
        /// The file that is shown with 503 while no backend can be used.
        pub maintenance: Option<PathBuf> = None, Maybe(PAGE);
        /// The lines of the configuration that name these files, for messages.
        pub lines: BTreeMap<PathBuf, Line> = BTreeMap::new(), Found(lines);
    }
}

/// The line of each file that `table` names.
fn lines(table: &Table<'_, '_>, problems: &Problems) -> BTreeMap<PathBuf, Line> {
    let line = |value: Value<'_, '_>| {
        let path = file_path(value.text()?).ok()?;
        Some((path, Line(problems.line(value.place.offset?))))
    };
    let pages = table.peek("pages");
    let pages = pages.iter().flat_map(Value::entries).map(|(_, page)| page);
    pages
        .chain(table.peek("maintenance"))
        .filter_map(line)
        .collect()
}

/// A table of files by status.
struct Pages;

impl Kind for Pages {
    type Value = BTreeMap<StatusCode, PathBuf>;

    fn read(
        &self,
        value: &Value<'_, '_>,
        problems: &mut Problems,
    ) -> Option<BTreeMap<StatusCode, PathBuf>> {
        let table = value.table(&format!("{{ 502 = {} }}", PAGE.example), problems)?;
        let mut pages = BTreeMap::new();
        for (status, value) in table.entries() {
            let page = PAGE.read(&value, problems);
            let status = problems.keep(&value.place, error_status(status));
            pages.extend(status.zip(page));
        }
        Some(pages)
    }

    fn write(&self, value: &BTreeMap<StatusCode, PathBuf>, _: Show) -> Option<toml::Value> {
        let pages = value.iter().map(|(status, page)| {
            let page = Path::display(page).to_string();
            (status.as_str().to_owned(), page.into())
        });
        Some(toml::Value::Table(pages.collect()))
    }

    fn shape(&self) -> Shape {
        Shape::Map {
            keys: "status codes",
            values: Box::new(PAGE.shape()),
        }
    }
}

fn error_status(text: &str) -> Result<StatusCode, String> {
    let number = text.parse().map_err(|_| {
        let example = PAGE.example;
        format!("{text:?} is not a status (write it like 502 = {example})")
    })?;
    match number {
        400..600 => value::status(number).map_err(|error| error.to_string()),
        _ => Err(format!("{number} is not an error (use 400 to 599)")),
    }
}

/// An absolute path of a file.
pub(super) fn file_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if !path.is_absolute() || text.contains(|c: char| c.is_control()) {
        return Err(format!(
            "{} is not an absolute path (start it with \"/\")",
            quoted(text)
        ));
    }
    Ok(path)
}
