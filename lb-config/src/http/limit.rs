//! `[[service.limit]]` and `[[service.route.limit]]`: how many requests a client may make.

use std::fmt;
use std::time::Duration;

use ::http::HeaderName;

use super::value;
use crate::error::{Located, Place, Problems};
use crate::lists::{self, Texts};
use crate::reader::{Table, Value};
use crate::schema::fields::OnlyIf;
use crate::schema::kinds::{
    Flag, Given, List, Made, Maybe, Placed, Short, Sound, Sub, Text, sub, text, time, whole,
};
use crate::schema::{Kind, section};
use crate::value::{BadValue, quoted, service_name};

/// A limit on the requests that share a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The name, unique among the limits of a service and its routes.
    pub name: String,
    /// The beginning of the paths, in whole segments; empty for every path.
    pub path: String,
    /// The property that requests are counted by.
    pub key: LimitKey,
    /// How often requests may come.
    pub rate: Option<Rate>,
    /// Requests that may be under way at once.
    pub concurrent: Option<u32>,
    /// For how long a client above the limit is banned from the service.
    pub ban: Option<Duration>,
    /// Whether a request above the limit is counted and passed on.
    pub dry_run: bool,
}

/// A rate, with its burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests that may come in `per`.
    pub count: u32,
    /// The time that `count` is for.
    pub per: Duration,
    /// Requests that may come at once after a pause.
    pub burst: u32,
}

/// As the configuration has it, without the burst.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, per, .. } = *self;
        Frequency { count, per }.fmt(f)
    }
}

/// The property of requests that a limit counts them by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// The client: a prefix of its address, as long as `affinity` says.
    Client,
    /// The Socket.IO session; the client without one.
    Session,
    /// The value of a header; the client without one.
    Header(HeaderName),
    /// The value of a cookie; the client without one.
    Cookie(String),
}

/// A count and its time, as they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frequency {
    count: u32,
    per: Duration,
}

impl fmt::Display for Frequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = crate::schema::kinds::duration_text(self.per);
        write!(f, "{}/{per}", self.count)
    }
}

const EXAMPLE: &str = "{ path = \"/login\", rate = \"10/1m\" }";
const KEY_EXAMPLE: &str = "{ header = \"X-Api-Key\" }";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const NAME: Texts<String> = Text {
    example: "\"login\"",
    ..lists::NAME
};
const PATH: Texts<String> = Text {
    what: "beginning of a path",
    example: "\"/login\"",
    parse: value::path_prefix,
    print: |path| match path.as_str() {
        "" => "/".to_owned(),
        path => path.to_owned(),
    },
};
const RATE: Text<Frequency, String> = text("requests and a duration", "\"10/1m\"", frequency);
const HEADER: Texts<HeaderName> = text("name of a header", "\"X-Api-Key\"", value::header_name);
const COOKIE: Texts<String> = text("name of a cookie", "\"session\"", value::token);

section! {
    Reload, "0.1"; check = check;
    /// A limit on the requests of each client. At least one of `rate` and `concurrent` is given.
    struct RawLimit {
        /// Name of the limit, for metrics and the access log. Without it a name made of the path, as in `api-v1`,
        /// or `all`.
        name: Option<String> = None, Maybe(NAME);
        /// Beginning of the paths that count, in whole segments. Without it every path of the service or route.
        path: Option<String> = None, Maybe(PATH);
        /// What requests are counted by: `"client"`, `"session"`, or a table.
        key: LimitKey = LimitKey::Client, key();
        /// Requests in a time, as in `"10/1m"`. More get 429.
        rate: Option<Frequency> = None, Maybe(RATE);
        /// Requests that may come at once after a pause. Without it as many as `rate` has.
        burst: Option<u32> = None, of_rate(Maybe(whole(1..=1_000_000, "requests")));
        /// Requests under way at once, WebSockets included. More get 429.
        concurrent: Option<u32> = None, Maybe(whole(1..=1_000_000, "requests"));
        /// Time for which a client above the limit is banned, for `key = "client"`. Its next connections are refused
        /// at the SYN.
        ban: Option<Duration> = None, of_client(Maybe(time("\"10m\"", ban_time)));
        /// Whether a request above the limit is only counted and logged.
        dry_run: bool = false, Flag;
    }
}

section! {
    Reload, "0.1";
    /// What requests are counted by. One of `header` and `cookie` is given.
    struct KeyTable {
        /// Name of a request header. A request without it counts for its client.
        header: Option<Option<HeaderName>> = None, Given(HEADER);
        /// Name of a cookie. A request without it counts for its client.
        cookie: Option<Option<String>> = None, Given(COOKIE);
    }
}

/// A key that is allowed beside `rate` only.
fn of_rate<K>(key: K) -> OnlyIf<K> {
    OnlyIf {
        key,
        why_not: |table| {
            (!table.has("rate")).then_some("belongs to a rate (write rate = \"10/1m\")")
        },
        written: |table| table.contains_key("rate"),
    }
}

/// A key that is allowed for limits by client only: others may share a header or a cookie.
fn of_client<K>(key: K) -> OnlyIf<K> {
    OnlyIf {
        key,
        why_not: |table| {
            let other = table.has("key") && !table.says("key", "client");
            other.then_some("is for limits by client (write key = \"client\")")
        },
        written: |table| {
            let key = table.get("key");
            key.is_none_or(|key| key.as_str() == Some("client"))
        },
    }
}

/// A time of a second to a year.
fn ban_time(text: &str) -> Result<Duration, String> {
    let length = value::some_time(text).map_err(|error| error.to_string())?;
    if length < Duration::from_secs(1) || length > 366 * DAY {
        return Err(format!(
            "{} is not the time of a ban (use \"1s\" to \"366d\")",
            quoted(text)
        ));
    }
    Ok(length)
}

fn check(limit: &RawLimit, table: &mut Table<'_, '_>, problems: &mut Problems) {
    if !table.has("rate") && !table.has("concurrent") {
        problems.add(
            &table.place,
            "limits nothing (write rate = \"10/1m\" or concurrent = 10)",
        );
    }
    // Times of arrival are kept in nanoseconds of 64 bits.
    if let (Some(rate), Some(burst)) = (limit.rate, limit.burst)
        && rate.per.as_nanos() / u128::from(rate.count) * u128::from(burst) > DAY.as_nanos()
    {
        problems.add(
            &table.place,
            "a burst of more than a day at this rate is no limit (use a smaller burst)",
        );
    }
}

/// The limits of a service or a route.
pub(crate) fn limits() -> List<impl Kind<Value = Located<Limit>>> {
    let table: Sub<RawLimit> = sub(EXAMPLE);
    let item = Placed(Sound(Made {
        of: table,
        make: |raw: RawLimit, _: &Value<'_, '_>, _: &mut Problems| Some(raw.limit()),
        back: RawLimit::of,
    }));
    List("[[service.limit]]", item)
}

impl RawLimit {
    fn limit(self) -> Limit {
        let path = self.path.unwrap_or_default();
        Limit {
            name: self.name.unwrap_or_default(),
            path,
            key: self.key,
            rate: self.rate.map(|Frequency { count, per }| Rate {
                count,
                per,
                burst: self.burst.unwrap_or(count),
            }),
            concurrent: self.concurrent,
            ban: self.ban,
            dry_run: self.dry_run,
        }
    }

    fn of(limit: &Limit) -> Self {
        let Limit {
            name,
            path,
            key,
            rate,
            concurrent,
            ban,
            dry_run,
        } = limit.clone();
        Self {
            name: (!name.is_empty()).then_some(name),
            path: (!path.is_empty()).then_some(path),
            key,
            rate: rate.map(|Rate { count, per, .. }| Frequency { count, per }),
            burst: rate
                .filter(|rate| rate.burst != rate.count)
                .map(|rate| rate.burst),
            concurrent,
            ban,
            dry_run,
        }
    }
}

/// Gives each limit of a service a name of its own. `all` has those of the service first, then those of its
/// routes, each with the path of its route.
pub(super) fn named<'a>(
    all: impl Iterator<Item = (&'a mut Located<Limit>, &'a str)>,
    problems: &mut Problems,
) {
    let mut seen: Vec<(String, Place)> = Vec::new();
    for (limit, route) in all {
        let Located {
            value: limit,
            place,
        } = limit;
        if limit.path.is_empty() {
            route.clone_into(&mut limit.path);
        } else if !is_below(&limit.path, route) {
            let message = format!("no request of the route has this path (it is for {route})");
            problems.add(place, message);
        }
        if limit.name.is_empty() {
            limit.name = derived_name(&limit.path);
        }
        if let Some((_, before)) = seen.iter().find(|(name, _)| *name == limit.name) {
            let line = before.offset.map_or(0, |offset| problems.line(offset));
            problems.add(
                place,
                format!(
                    "the limit of line {line} is called {} too (write another name)",
                    quoted(&limit.name)
                ),
            );
        }
        seen.push((limit.name.clone(), place.clone()));
    }
}

/// Whether `path` is `above`, or lies below it.
fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn derived_name(path: &str) -> String {
    let name = path.trim_start_matches('/').replace('/', "-");
    service_name(&name).unwrap_or_else(|_: BadValue| "all".to_owned())
}

/// A word, or a table.
fn key() -> impl Kind<Value = LimitKey> {
    let word: Text<LimitKey, String> = Text {
        what: "`\"client\"` or `\"session\"`",
        example: "\"client\"",
        parse: |text| match text {
            "client" => Ok(LimitKey::Client),
            "session" => Ok(LimitKey::Session),
            _ => Err(format!(
                "{} is unknown (use \"client\", \"session\", {KEY_EXAMPLE} or {{ cookie = \"session\" }})",
                quoted(text)
            )),
        },
        print: |key| match key {
            LimitKey::Session => "session".to_owned(),
            _ => "client".to_owned(),
        },
    };
    Short {
        text: word,
        table: Sound(Made {
            of: sub(KEY_EXAMPLE),
            make: of_table,
            back: KeyTable::of,
        }),
        brief: |key| matches!(key, LimitKey::Client | LimitKey::Session),
        else_text: false,
    }
}

fn of_table(table: KeyTable, value: &Value<'_, '_>, problems: &mut Problems) -> Option<LimitKey> {
    match (table.header, table.cookie) {
        (Some(name), None) => name.map(LimitKey::Header),
        (None, Some(name)) => name.map(LimitKey::Cookie),
        _ => {
            problems.add(
                &value.place,
                format!("not one of header and cookie (write it like {KEY_EXAMPLE})"),
            );
            None
        }
    }
}

impl KeyTable {
    fn of(key: &LimitKey) -> Self {
        let (header, cookie) = match key.clone() {
            LimitKey::Header(name) => (Some(Some(name)), None),
            LimitKey::Cookie(name) => (None, Some(Some(name))),
            LimitKey::Client | LimitKey::Session => (None, None),
        };
        Self { header, cookie }
    }
}

fn frequency(text: &str) -> Result<Frequency, String> {
    let example = "write it like \"10/1m\", which is ten in a minute";
    let (count, per) = text
        .split_once('/')
        .ok_or_else(|| format!("{} has no time ({example})", quoted(text)))?;
    let count = match count.trim().parse() {
        Ok(count @ 1..=1_000_000) => count,
        _ => {
            return Err(format!(
                "{} is not a number of requests (use 1 to 1000000, as in \"10/1m\")",
                quoted(count)
            ));
        }
    };
    let per = value::some_time(per.trim()).map_err(|error| error.to_string())?;
    if per > DAY || per < Duration::from_millis(1) {
        return Err(format!(
            "{} is not the time of a rate (use \"1ms\" to \"24h\")",
            quoted(text)
        ));
    }
    Ok(Frequency { count, per })
}
