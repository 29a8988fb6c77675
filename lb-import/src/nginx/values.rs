//! Values of nginx in the notation of lb-agent.

use std::net::{IpAddr, SocketAddr};

/// A time of nginx (`30s`, `1h30m`, `500ms`, `60`) as a duration of lb-agent.
pub(super) fn time(text: &str) -> Option<String> {
    let seconds_alone = text.bytes().all(|byte| byte.is_ascii_digit());
    if seconds_alone && !text.is_empty() {
        return Some(format!("{text}s"));
    }
    let mut rest = text;
    let mut millis = 0u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        millis = millis.checked_add(number.checked_mul(*factor)?)?;
    }
    (!text.is_empty()).then(|| shown(millis))
}

/// Units with their milliseconds, `ms` before `m`.
const UNITS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 7 * 86_400_000),
    ("M", 30 * 86_400_000),
    ("y", 365 * 86_400_000),
];

fn shown(millis: u64) -> String {
    let whole = |unit: u64| millis >= unit && millis.is_multiple_of(unit);
    match millis {
        0 => "0s".to_owned(),
        _ if whole(86_400_000) => format!("{}d", millis / 86_400_000),
        _ if whole(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if whole(60_000) => format!("{}m", millis / 60_000),
        _ if whole(1_000) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

/// The seconds of a time of nginx.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let shown = time(text)?;
    let digits = shown.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = shown[..digits].parse().ok()?;
    Some(match &shown[digits..] {
        "d" => number * 86_400,
        "h" => number * 3_600,
        "m" => number * 60,
        "s" => number,
        _ => number / 1_000,
    })
}

/// A size of nginx (`10m`, `512k`, `1g`, `100`) in bytes.
pub(super) fn bytes(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: i64 = text[..digits].parse().ok()?;
    let factor = match &text[digits..] {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A size as lb-agent takes it: a text with a unit where one fits.
pub(super) fn size(bytes: i64) -> toml::Value {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let fitting = units
        .iter()
        .find(|(unit, _)| bytes > 0 && bytes % unit == 0);
    match fitting {
        Some((unit, name)) => format!("{}{name}", bytes / unit).into(),
        None => bytes.into(),
    }
}

/// The address of a `server` or `proxy_pass`, with `port` where it names none. A name other than `localhost` has no address here.
pub(super) fn address(text: &str, port: u16) -> Option<String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.trim_end_matches(':').trim_start_matches('/');
        return Some(format!("unix:/{path}"));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.to_string());
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port).to_string());
    }
    match text.strip_prefix("localhost") {
        Some("") => Some(format!("127.0.0.1:{port}")),
        Some(rest) => {
            let port: u16 = rest.strip_prefix(':')?.parse().ok()?;
            Some(format!("127.0.0.1:{port}"))
        }
        None => None,
    }
}

/// `text` with its variables renamed; the first one that has no counterpart as an error.
pub(super) fn template(text: &str, server_name: &str) -> Result<String, String> {
    // The query has no variable with its question mark, so the pair becomes the whole target.
    let text = text
        .replace("$uri$is_args$args", "$request_uri")
        .replace("$uri?$args", "$request_uri");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let braces = rest.starts_with('{');
        rest = rest.trim_start_matches('{');
        let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_';
        let end = rest.find(|char| !is_part(char)).unwrap_or(rest.len());
        let name = &rest[..end];
        rest = &rest[end..];
        if braces {
            rest = rest.strip_prefix('}').unwrap_or(rest);
        }
        match name {
            "server_name" if server_name.is_empty() => {
                return Err("$server_name is not known".to_owned());
            }
            "server_name" => out.push_str(server_name),
            _ => {
                let (_, ours) = VARIABLES
                    .iter()
                    .find(|(theirs, _)| *theirs == name)
                    .ok_or_else(|| format!("${name} has no counterpart"))?;
                let follows = rest.starts_with(is_part);
                out.push_str(&if follows {
                    format!("${{{ours}}}")
                } else {
                    format!("${ours}")
                });
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Variables of nginx, and ours with the same value.
const VARIABLES: &[(&str, &str)] = &[
    ("request_uri", "uri"),
    ("uri", "path"),
    ("document_uri", "path"),
    ("args", "query"),
    ("query_string", "query"),
    ("request_method", "method"),
    ("remote_addr", "client_ip"),
    ("proxy_protocol_addr", "client_ip"),
    ("http_host", "host"),
    ("host", "hostname"),
    ("scheme", "scheme"),
    ("server_port", "server_port"),
    ("remote_port", "remote_port"),
    ("request_id", "request_id"),
    ("upstream_addr", "backend"),
    ("ssl_client_verify", "client_cert_verify"),
    ("ssl_client_s_dn", "client_cert_subject"),
    ("ssl_client_i_dn", "client_cert_issuer"),
    ("ssl_client_serial", "client_cert_serial"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_keep_their_value() {
        for (theirs, ours) in [
            ("60", "60s"),
            ("30s", "30s"),
            ("1h30m", "90m"),
            ("500ms", "500ms"),
            ("86400s", "1d"),
            ("1w", "7d"),
            ("0", "0s"),
        ] {
            assert_eq!(time(theirs).as_deref(), Some(ours));
        }
        assert!(
            ["", "x", "1x", "off", "1h x"]
                .iter()
                .all(|bad| time(bad).is_none())
        );
        assert_eq!(seconds("30d"), Some(2_592_000));
        assert_eq!(bytes("10m").map(size), Some("10MiB".into()));
        assert_eq!(bytes("1500").map(size), Some(1500.into()));
        assert_eq!(bytes("0").map(size), Some(0.into()));
        assert_eq!(bytes("1t"), None);
    }

    #[test]
    fn addresses_get_their_port() {
        assert_eq!(
            address("127.0.0.1:5000", 80).as_deref(),
            Some("127.0.0.1:5000")
        );
        assert_eq!(address("10.0.0.1", 80).as_deref(), Some("10.0.0.1:80"));
        assert_eq!(address("[::1]", 80).as_deref(), Some("[::1]:80"));
        assert_eq!(
            address("localhost:3000", 80).as_deref(),
            Some("127.0.0.1:3000")
        );
        assert_eq!(address("unix:/run/a", 80).as_deref(), Some("unix:/run/a"));
        assert_eq!(address("app:3000", 80), None);
        assert_eq!(address("localhosts", 80), None);
    }

    #[test]
    fn variables_are_renamed() {
        let ours = |text: &str| template(text, "a.example");
        assert_eq!(
            ours("https://$host$request_uri").as_deref(),
            Ok("https://$hostname$uri")
        );
        assert_eq!(
            ours("https://${server_name}/x").as_deref(),
            Ok("https://a.example/x")
        );
        assert_eq!(ours("${scheme}s").as_deref(), Ok("${scheme}s"));
        assert_eq!(ours("$uri$is_args$args").as_deref(), Ok("$uri"));
        assert_eq!(ours("/$1").unwrap_err(), "$1 has no counterpart");
    }
}
