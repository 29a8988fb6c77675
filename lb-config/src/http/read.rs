//! `[service.http]` and `[service.tls]`.

use std::net::SocketAddr;
use std::time::Duration;

use super::sections::file_path;
use super::{
    AmbiguousPaths, CertificateFiles, Hsts, Protocol, SameSite, Settings, Stickiness, StickyCookie,
    TlsVersion, header, protocol, sections, value,
};
use crate::error::{Located, Place, Problems};
use crate::lists;
use crate::reader::{Table, Value};

/// `[service.tls]` as it was written.
pub(crate) struct RawTls {
    pub(super) place: Place,
    pub(crate) listen: Vec<Located<SocketAddr>>,
    pub(super) certificates: Vec<Located<CertificateFiles>>,
    pub(super) min_version: TlsVersion,
    pub(super) http2: bool,
    pub(super) redirect_http: Option<Located<bool>>,
    pub(super) hsts: Option<Hsts>,
}

pub(crate) fn http(mut table: Table<'_, '_>, problems: &mut Problems) -> Settings {
    let usual = Settings::default();
    let mut flag = |key, problems: &mut Problems| {
        let value = table.take(key)?;
        value.boolean(problems)
    };
    let proxy_protocol = flag("proxy_protocol", problems).unwrap_or(usual.proxy_protocol);
    let forwarded = flag("forwarded", problems).unwrap_or(usual.forwarded);
    let underscore_headers =
        flag("underscore_headers", problems).unwrap_or(usual.underscore_headers);
    let allow_client_headers = table.take("allow_client_headers").map(|value| {
        let items = value.list("[\"X-Client-IP\"]", problems);
        let one =
            |item: &Value<'_, '_>| item.string("\"X-Client-IP\"", problems, value::header_name);
        items.iter().filter_map(one).collect()
    });
    let ambiguous_paths = table.take("ambiguous_paths").and_then(|value| {
        let choices = [
            ("refuse", AmbiguousPaths::Refuse),
            ("forward", AmbiguousPaths::Forward),
        ];
        value.choice(&choices, &[], problems)
    });
    let trusted_proxies = table.take("trusted_proxies").map(|value| {
        let items = value.list("[\"10.0.0.0/8\"]", problems);
        let one = |item: &Value<'_, '_>| item.string("\"10.0.0.0/8\"", problems, value::cidr);
        items.iter().filter_map(one).collect()
    });
    let protocol = table
        .take("protocol")
        .and_then(|value| protocol::read(&value, problems));
    let send_proxy_protocol = table.take("send_proxy_protocol").and_then(|value| {
        if protocol
            .as_ref()
            .is_some_and(|protocol| protocol.value == Protocol::H2c)
        {
            problems.add(&value.place, protocol::INTRODUCED_AND_SHARED);
        }
        value.string("\"v2\"", problems, value::proxy_version)
    });
    let stickiness = table
        .take("stickiness")
        .and_then(|value| stickiness(&value, problems));
    let upgrade = table.take("upgrade").map(|value| {
        let items = value.list("[\"websocket\"]", problems);
        let one =
            |item: &Value<'_, '_>| item.string("\"websocket\"", problems, value::upgrade_token);
        items.iter().filter_map(one).collect()
    });
    let request_headers = table
        .take("request_headers")
        .map(|value| header::request_rules(&value, problems));
    let response_headers = table
        .take("response_headers")
        .map(|value| header::rules(&value, problems));
    let mut section = |key, example, problems: &mut Problems| {
        let value = table.take(key)?;
        value.table(example, problems)
    };
    let timeouts = section("timeouts", "{ first_byte = \"60s\" }", problems)
        .map(|table| sections::timeouts(table, problems));
    let limits = section("limits", "{ body = \"10MiB\" }", problems)
        .map(|table| sections::limits(table, problems));
    let compression = section("compression", "{ enabled = false }", problems)
        .map(|table| sections::compression(table, problems));
    let access_log = section("access_log", "{ file = \"stdout\" }", problems)
        .and_then(|table| sections::access_log(table, problems));
    let upstream = section("upstream", "{ keepalive = 512 }", problems)
        .map(|table| sections::upstream(table, problems));
    let errors = section(
        "errors",
        "{ maintenance = \"/etc/lb-agent/back-soon.html\" }",
        problems,
    )
    .map(|table| sections::errors(table, problems));
    table.finish(problems);
    Settings {
        trusted_proxies: trusted_proxies.unwrap_or_default(),
        proxy_protocol,
        protocol: protocol.map_or(usual.protocol, |protocol| protocol.value),
        send_proxy_protocol,
        forwarded,
        stickiness: stickiness.unwrap_or(usual.stickiness),
        request_headers: request_headers.unwrap_or_default(),
        response_headers: response_headers.unwrap_or_default(),
        underscore_headers,
        allow_client_headers: allow_client_headers.unwrap_or_default(),
        ambiguous_paths: ambiguous_paths.unwrap_or(usual.ambiguous_paths),
        upgrade: upgrade.unwrap_or(usual.upgrade),
        timeouts: timeouts.unwrap_or_default(),
        limits: limits.unwrap_or_default(),
        compression: compression.unwrap_or_default(),
        access_log,
        upstream: upstream.unwrap_or_default(),
        errors: errors.unwrap_or_default(),
    }
}

fn stickiness(value: &Value<'_, '_>, problems: &mut Problems) -> Option<Stickiness> {
    const EXAMPLE: &str = "{ cookie = \"lb\" }";
    if value.is_string() {
        return value.string("\"address\"", problems, |text| match text {
            "address" => Ok(Stickiness::Address),
            "socketio" => Ok(Stickiness::SocketIo),
            _ => Err(format!(
                "{} is unknown (use \"address\", \"socketio\", {EXAMPLE}, {{ header = \"X-User\" }} \
                 or {{ query = \"room\" }})",
                crate::value::quoted(text)
            )),
        });
    }
    let mut table = value.table(EXAMPLE, problems)?;
    let cookie = table.take("cookie");
    let header = table.take("header");
    let query = table.take("query");
    if cookie.is_none() {
        for key in ["max_age", "same_site", "secure", "domain", "path"] {
            if let Some(value) = table.take(key) {
                problems.add(&value.place, "only a cookie has this (leave it out)");
            }
        }
    }
    match (cookie, header, query) {
        (Some(cookie), None, None) => sticky_cookie(&cookie, table, problems),
        (None, Some(header), None) => {
            table.finish(problems);
            header
                .string("\"X-User\"", problems, value::header_name)
                .map(Stickiness::Header)
        }
        (None, None, Some(query)) => {
            table.finish(problems);
            query
                .string("\"room\"", problems, value::token)
                .map(Stickiness::Query)
        }
        _ => {
            table.finish(problems);
            problems.add(
                &value.place,
                format!("not one of cookie, header and query (write it like {EXAMPLE})"),
            );
            None
        }
    }
}

fn sticky_cookie(
    name: &Value<'_, '_>,
    mut table: Table<'_, '_>,
    problems: &mut Problems,
) -> Option<Stickiness> {
    let name = name.string("\"lb\"", problems, value::token);
    let max_age = table
        .take("max_age")
        .map(|value| value.string("\"12h\"", problems, value::some_time));
    let same_site = table.take("same_site").map(|value| {
        let choices = [
            ("lax", SameSite::Lax),
            ("strict", SameSite::Strict),
            ("none", SameSite::None),
        ];
        value.choice(&choices, &[], problems)
    });
    let secure = table.take("secure").map(|value| value.boolean(problems));
    let domain = table
        .take("domain")
        .map(|value| value.string("\"example.com\"", problems, value::cookie_domain));
    let path = table
        .take("path")
        .map(|value| value.string("\"/\"", problems, value::cookie_path));
    let place = table.place.clone();
    table.finish(problems);
    let cookie = StickyCookie {
        name: name?,
        max_age: max_age.map_or(Some(None), |value| value.map(Some))?,
        same_site: same_site.unwrap_or(Some(SameSite::Lax))?,
        secure: secure.map_or(Some(None), |value| value.map(Some))?,
        domain: domain.map_or(Some(None), |value| value.map(Some))?,
        path: path.map_or(Some(None), |value| value.map(Some))?,
    };
    if cookie.same_site == SameSite::None && cookie.secure == Some(false) {
        problems.add(
            &place,
            "browsers drop a cookie with same_site = \"none\" that is not secure (leave out secure)",
        );
    }
    Some(Stickiness::Cookie(cookie))
}

pub(crate) fn tls(mut table: Table<'_, '_>, problems: &mut Problems) -> RawTls {
    const LISTEN: &str = "[\"0.0.0.0:443\", \"[::]:443\"]";
    const CERTIFICATES: &str =
        "[{ certificate = \"/etc/lb-agent/fullchain.pem\", key = \"/etc/lb-agent/privkey.pem\" }]";
    let listen = table
        .require("listen", LISTEN, problems)
        .map(|value| lists::listen(&value, LISTEN, problems));
    let certificates = table
        .require("certificates", CERTIFICATES, problems)
        .map(|value| certificates(&value, CERTIFICATES, problems));
    let min_version = table.take("min_version").and_then(|value| {
        let choices = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
        value.choice(&choices, &[], problems)
    });
    let http2 = table
        .take("http2")
        .and_then(|value| value.boolean(problems));
    let redirect_http = table.take("redirect_http").and_then(|value| {
        let redirect = value.boolean(problems)?;
        Some(value.locate(redirect))
    });
    let hsts = table.take("hsts").and_then(|value| hsts(&value, problems));
    let place = table.place.clone();
    table.finish(problems);
    RawTls {
        place,
        listen: listen.unwrap_or_default(),
        certificates: certificates.unwrap_or_default(),
        min_version: min_version.unwrap_or(TlsVersion::V1_2),
        http2: http2.unwrap_or(true),
        redirect_http,
        hsts,
    }
}

fn certificates(
    value: &Value<'_, '_>,
    example: &str,
    problems: &mut Problems,
) -> Vec<Located<CertificateFiles>> {
    let found = problems.count();
    let items = value.list(example, problems);
    if items.is_empty() && problems.count() == found {
        let message = format!("no certificate (write certificates = {example})");
        problems.add(&value.place, message);
    }
    let one = |item: &Value<'_, '_>| {
        let mut table = item.table(&example[1..example.len() - 1], problems)?;
        let mut file = |key, example, problems: &mut Problems| {
            let value = table.require(key, example, problems)?;
            value.string(example, problems, file_path)
        };
        let certificate = file("certificate", "\"/etc/lb-agent/fullchain.pem\"", problems);
        let key = file("key", "\"/etc/lb-agent/privkey.pem\"", problems);
        table.finish(problems);
        Some(item.locate(CertificateFiles {
            certificate: certificate?,
            key: key?,
            line: item.place.offset.map_or(0, |offset| problems.line(offset)),
        }))
    };
    items.iter().filter_map(one).collect()
}

/// A duration, or a table.
fn hsts(value: &Value<'_, '_>, problems: &mut Problems) -> Option<Hsts> {
    const EXAMPLE: &str = "\"180d\"";
    let of = |max_age: Duration| Hsts {
        max_age,
        include_subdomains: false,
        preload: false,
    };
    if value.is_string() {
        return value.string(EXAMPLE, problems, value::duration).map(of);
    }
    let mut table = value.table(EXAMPLE, problems)?;
    let max_age = table
        .require("max_age", EXAMPLE, problems)
        .and_then(|value| value.string(EXAMPLE, problems, value::duration));
    let mut flag = |key| {
        let value = table.take(key);
        value
            .and_then(|value| value.boolean(problems))
            .unwrap_or(false)
    };
    let include_subdomains = flag("include_subdomains");
    let preload = flag("preload");
    table.finish(problems);
    Some(Hsts {
        include_subdomains,
        preload,
        ..of(max_age?)
    })
}
