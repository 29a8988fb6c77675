//! The tables under `[service.http]`: times, sizes, compression, log, upstream, errors.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::value;
use super::{
    AccessLog, Algorithm, Compression, ErrorPages, Limits, LogFormat, LogTarget, Timeouts, Upstream,
};
use crate::error::Problems;
use crate::reader::{Table, Value};
use crate::value::quoted;

/// A route's own times; `None` where the service's hold. Inside, `None` is for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// Between two pieces of a request's body.
    pub body: Option<Option<Duration>>,
    /// To the first byte of the answer.
    pub first_byte: Option<Option<Duration>>,
    /// Of a tunnel without a byte.
    pub tunnel: Option<Option<Duration>>,
}

/// A route's own sizes; `None` where the service's hold. Inside, `None` is for any number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteLimits {
    /// Bytes of a request's body.
    pub body: Option<Option<u64>>,
}

pub(super) fn timeouts(mut table: Table<'_, '_>, problems: &mut Problems) -> Timeouts {
    let usual = Timeouts::default();
    let read = Timeouts {
        header: some_time(&mut table, "header", problems).unwrap_or(usual.header),
        body: time(&mut table, "body", problems).map_or(usual.body, unless_zero),
        connect: some_time(&mut table, "connect", problems).unwrap_or(usual.connect),
        first_byte: time(&mut table, "first_byte", problems).map_or(usual.first_byte, unless_zero),
        response: time(&mut table, "response", problems).map_or(usual.response, unless_zero),
        send: time(&mut table, "send", problems).map_or(usual.send, unless_zero),
        idle: time(&mut table, "idle", problems).unwrap_or(usual.idle),
        tunnel: time(&mut table, "tunnel", problems).map_or(usual.tunnel, unless_zero),
        restart_grace: time(&mut table, "restart_grace", problems).unwrap_or(usual.restart_grace),
        drain: time(&mut table, "drain", problems).unwrap_or(usual.drain),
    };
    table.finish(problems);
    read
}

pub(super) fn route_timeouts(mut table: Table<'_, '_>, problems: &mut Problems) -> RouteTimeouts {
    let read = RouteTimeouts {
        body: time(&mut table, "body", problems).map(unless_zero),
        first_byte: time(&mut table, "first_byte", problems).map(unless_zero),
        tunnel: time(&mut table, "tunnel", problems).map(unless_zero),
    };
    table.finish(problems);
    read
}

/// A duration that may be zero.
fn time(table: &mut Table<'_, '_>, key: &'static str, problems: &mut Problems) -> Option<Duration> {
    let value = table.take(key)?;
    value.string("\"60s\"", problems, value::duration)
}

fn some_time(
    table: &mut Table<'_, '_>,
    key: &'static str,
    problems: &mut Problems,
) -> Option<Duration> {
    let value = table.take(key)?;
    value.string("\"60s\"", problems, value::some_time)
}

fn unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

pub(super) fn limits(mut table: Table<'_, '_>, problems: &mut Problems) -> Limits {
    let usual = Limits::default();
    let mut bytes = |key, range: std::ops::RangeInclusive<u64>, usual: usize| {
        let size = table
            .take(key)
            .and_then(|value| size(&value, range, problems));
        size.map_or(usual, |size| size as usize)
    };
    let header_bytes = bytes("header_bytes", 1024..=1 << 20, usual.header_bytes);
    let target = bytes("target", 64..=1 << 20, usual.target);
    let headers = table
        .take("headers")
        .and_then(|value| value.integer_in(1..=10_000, problems));
    let response_headers = table
        .take("response_headers")
        .and_then(|value| value.integer_in(1..=10_000, problems));
    let h2_streams = table
        .take("h2_streams")
        .and_then(|value| value.integer_in(1..=10_000, problems));
    let body = body(&mut table, problems);
    let place = table.place.clone();
    table.finish(problems);
    if target > header_bytes {
        problems.add(
            &place,
            format!("a target of {target} bytes does not fit into header_bytes = {header_bytes}"),
        );
    }
    Limits {
        header_bytes,
        headers: headers.unwrap_or(usual.headers),
        response_headers: response_headers.unwrap_or(usual.response_headers),
        target,
        body: body.unwrap_or(usual.body),
        h2_streams: h2_streams.unwrap_or(usual.h2_streams),
    }
}

pub(super) fn route_limits(mut table: Table<'_, '_>, problems: &mut Problems) -> RouteLimits {
    let body = body(&mut table, problems);
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
    table.finish(problems);
    RouteLimits { body }
}

fn body(table: &mut Table<'_, '_>, problems: &mut Problems) -> Option<Option<u64>> {
    let value = table.take("body")?;
    let size = size(&value, 0..=u64::MAX, problems)?;
    Some((size != 0).then_some(size))
}

/// A size: a number of bytes, or a text with a unit.
fn size(
    value: &Value<'_, '_>,
    range: std::ops::RangeInclusive<u64>,
    problems: &mut Problems,
) -> Option<u64> {
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
    if !range.contains(&size) {
        let message = format!(
            "{size} bytes are out of range (use {} to {})",
            range.start(),
            range.end()
        );
        problems.add(&value.place, message);
        return None;
    }
    Some(size)
}

pub(super) fn compression(mut table: Table<'_, '_>, problems: &mut Problems) -> Compression {
    let usual = Compression::default();
    let enabled = table
        .take("enabled")
        .and_then(|value| value.boolean(problems));
    let types = table.take("types").map(|value| {
        let items = value.list("[\"text/*\", \"application/json\"]", problems);
        let one = |item: &Value<'_, '_>| item.string("\"text/*\"", problems, value::media_type);
        items.iter().filter_map(one).collect()
    });
    let min_size = table
        .take("min_size")
        .and_then(|value| size(&value, 0..=u64::MAX, problems));
    let algorithms = table.take("algorithms").map(|value| {
        let choices = [
            ("zstd", Algorithm::Zstd),
            ("br", Algorithm::Brotli),
            ("gzip", Algorithm::Gzip),
        ];
        let items = value.list("[\"zstd\", \"br\", \"gzip\"]", problems);
        let one = |item: &Value<'_, '_>| item.choice(&choices, &[], problems);
        items.iter().filter_map(one).collect()
    });
    table.finish(problems);
    Compression {
        enabled: enabled.unwrap_or(usual.enabled),
        types: types.unwrap_or(usual.types),
        min_size: min_size.unwrap_or(usual.min_size),
        algorithms: algorithms.unwrap_or(usual.algorithms),
    }
}

pub(super) fn access_log(mut table: Table<'_, '_>, problems: &mut Problems) -> Option<AccessLog> {
    const FILE: &str = "\"/var/log/lb-agent/access.log\"";
    let target = table.require("file", FILE, problems).and_then(|value| {
        value.string(FILE, problems, |text| match text {
            "stdout" => Ok(LogTarget::Stdout),
            _ => file_path(text).map(LogTarget::File),
        })
    });
    let format = table.take("format").and_then(|value| {
        let choices = [("combined", LogFormat::Combined), ("json", LogFormat::Json)];
        value.choice(&choices, &[], problems)
    });
    table.finish(problems);
    Some(AccessLog {
        target: target?,
        format: format.unwrap_or(LogFormat::Combined),
    })
}

pub(super) fn upstream(mut table: Table<'_, '_>, problems: &mut Problems) -> Upstream {
    let usual = Upstream::default();
    let max_fails = table
        .take("max_fails")
        .and_then(|value| value.integer_in(0..=1_000_000, problems));
    let fail_timeout = some_time(&mut table, "fail_timeout", problems);
    let retry_budget = table.take("retry_budget").and_then(|value| {
        let number = value.number("0.2", problems)?;
        if !(0.0..=1.0).contains(&number) {
            let message = format!("{number} is out of range (use 0.0 to 1.0 of the requests)");
            problems.add(&value.place, message);
            return None;
        }
        Some((number * 1000.0).round() as u32)
    });
    let retries = table
        .take("retries")
        .and_then(|value| value.integer_in(0..=10, problems));
    let keepalive = table
        .take("keepalive")
        .and_then(|value| value.integer_in(0..=10_000, problems));
    table.finish(problems);
    Upstream {
        max_fails: max_fails.unwrap_or(usual.max_fails),
        fail_timeout: fail_timeout.unwrap_or(usual.fail_timeout),
        retries: retries.unwrap_or(usual.retries),
        retry_budget_permille: retry_budget.unwrap_or(usual.retry_budget_permille),
        keepalive: keepalive.unwrap_or(usual.keepalive),
    }
}

pub(super) fn errors(mut table: Table<'_, '_>, problems: &mut Problems) -> ErrorPages {
    const PAGE: &str = "\"/etc/lb-agent/502.html\"";
    let mut pages = BTreeMap::new();
    let mut lines = BTreeMap::new();
    let mut file = |value: &Value<'_, '_>, problems: &mut Problems| {
        let path = value.string(PAGE, problems, file_path)?;
        let line = value.place.offset.map_or(0, |offset| problems.line(offset));
        lines.insert(path.clone(), line);
        Some(path)
    };
    let written = table
        .take("pages")
        .and_then(|value| value.table(&format!("{{ 502 = {PAGE} }}"), problems));
    for (status, value) in written.iter().flat_map(Table::entries) {
        let status = status
            .parse()
            .map_err(|_| format!("{status:?} is not a status (write it like 502 = {PAGE})"))
            .and_then(|number| match number {
                400..600 => value::status(number).map_err(|error| error.to_string()),
                _ => Err(format!("{number} is not an error (use 400 to 599)")),
            });
        let page = file(&value, problems);
        if let Some((status, page)) = problems.keep(&value.place, status).zip(page) {
            pages.insert(status, page);
        }
    }
    let maintenance = table
        .take("maintenance")
        .and_then(|value| file(&value, problems));
    table.finish(problems);
    ErrorPages {
        pages,
        maintenance,
        lines,
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
