//! The rules for one value of `mode = "http"`.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ::http::{HeaderName, StatusCode};
use lb_common::addr;
use serde::{Deserialize, Serialize};

use super::ProxyVersion;
use crate::value::{self, BadValue, quoted};

pub(super) fn bad<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Result<T, BadValue> {
    Err(BadValue {
        problem: problem.into(),
        remedy: remedy.into(),
    })
}

/// A block of IP addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Cidr {
    /// The first address, IPv4 as `::ffff:a.b.c.d`.
    first: u128,
    /// A mask of the 128 bits that count.
    mask: u128,
}

impl Cidr {
    /// Whether `ip` is in it. An IPv4-mapped address counts as the IPv4 address.
    #[inline]
    pub fn contains(&self, ip: IpAddr) -> bool {
        u128::from_be_bytes(addr::from_ip(ip)) & self.mask == self.first
    }

    /// The first address, and the number of its 128 bits that count.
    pub fn prefix(&self) -> (addr::Addr, u32) {
        (self.first.to_be_bytes(), self.mask.count_ones())
    }
}

impl std::str::FromStr for Cidr {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        cidr(text)
    }
}

impl TryFrom<String> for Cidr {
    type Error = BadValue;

    fn try_from(text: String) -> Result<Self, BadValue> {
        cidr(&text)
    }
}

impl From<Cidr> for String {
    fn from(block: Cidr) -> Self {
        block.to_string()
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.first.to_be_bytes();
        let bits = self.mask.count_ones();
        let bits = if addr::is_v4(&bytes) { bits - 96 } else { bits };
        write!(f, "{}/{bits}", addr::to_ip(&bytes))
    }
}

/// A block of addresses, or one address.
pub(super) fn cidr(text: &str) -> Result<Cidr, BadValue> {
    const EXAMPLE: &str = "write it like \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.1\"";
    let (ip, bits) = match text.split_once('/') {
        Some((ip, bits)) => (ip, Some(bits)),
        None => (text, None),
    };
    let Ok(ip) = ip.parse::<IpAddr>() else {
        return bad(
            format!("{} is not a block of addresses", quoted(text)),
            EXAMPLE,
        );
    };
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let bits = match bits.map_or(Ok(most), str::parse::<u32>) {
        Ok(bits) if bits <= most => bits,
        _ => {
            return bad(
                format!("{} has no good prefix length", quoted(text)),
                format!("use /0 to /{most}"),
            );
        }
    };
    let ones = if ip.is_ipv4() { 96 + bits } else { bits };
    let mask = u128::MAX.checked_shl(128 - ones).unwrap_or(0);
    let address = u128::from_be_bytes(addr::from_ip(ip));
    let block = Cidr {
        first: address & mask,
        mask,
    };
    if block.first != address {
        return bad(
            format!("{} has bits after its prefix", quoted(text)),
            format!("write \"{block}\""),
        );
    }
    Ok(block)
}

/// A number of bytes: "10MiB", "64KiB", "512".
pub(super) fn size(text: &str) -> Result<u64, BadValue> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match text[digits.len()..].trim() {
        "" | "B" => Some(1),
        "KiB" | "K" | "k" => Some(1 << 10),
        "MiB" | "M" | "m" => Some(1 << 20),
        "GiB" | "G" | "g" => Some(1u64 << 30),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    match number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
    {
        Some(size) => Ok(size),
        None => bad(
            format!("{} is not a size", quoted(text)),
            "write it like \"10MiB\", \"64KiB\" or \"512\"",
        ),
    }
}

/// A duration that may be zero.
pub(super) fn duration(text: &str) -> Result<Duration, BadValue> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    value::duration(text)
}

/// A duration that may not be zero.
pub(super) fn some_time(text: &str) -> Result<Duration, BadValue> {
    match duration(text)? {
        Duration::ZERO => bad("0 is no time at all", "write it like \"60s\" or \"250ms\""),
        duration => Ok(duration),
    }
}

/// The name of a header.
pub(super) fn header_name(text: &str) -> Result<HeaderName, BadValue> {
    HeaderName::from_bytes(text.as_bytes()).or_else(|_| {
        bad(
            format!("{} is not the name of a header", quoted(text)),
            "use letters, digits and \"-\", as in \"X-Client\"",
        )
    })
}

/// Whether two names of headers are the same to an application that turns them into variables: equal without regard
/// to case once everything but letters and digits is `_` (RFC 3875, section 4.1.18, and its kin).
pub fn is_alike(one: &[u8], other: &[u8]) -> bool {
    let plain = |byte: &u8| match byte.is_ascii_alphanumeric() {
        true => byte.to_ascii_lowercase(),
        false => b'_',
    };
    one.len() == other.len() && one.iter().map(plain).eq(other.iter().map(plain))
}

/// The name of a cookie, or of a key in a query.
pub(super) fn token(text: &str) -> Result<String, BadValue> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(known) {
        return bad(
            format!("{} is not a name", quoted(text)),
            "use 1 to 64 letters, digits, \"_\", \"-\" and \".\"",
        );
    }
    Ok(text.to_owned())
}

/// The domain of a cookie (RFC 6265, section 5.2.3): a host name.
pub(super) fn cookie_domain(text: &str) -> Result<String, BadValue> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let name = text.strip_prefix('.').unwrap_or(text);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(known) {
        return bad(
            format!("{} is not a domain", quoted(text)),
            "write it like \"example.com\"",
        );
    }
    Ok(name.to_ascii_lowercase())
}

/// The path of a cookie (RFC 6265, section 4.1.1).
pub(super) fn cookie_path(text: &str) -> Result<String, BadValue> {
    let known = |byte: u8| byte.is_ascii_graphic() && byte != b';';
    if !text.starts_with('/') || !text.bytes().all(known) {
        return bad(
            format!("{} is not a path", quoted(text)),
            "write it like \"/\"",
        );
    }
    Ok(text.to_owned())
}

/// A protocol of the Upgrade header.
pub(super) fn upgrade_token(text: &str) -> Result<String, BadValue> {
    let token = token(text)?.to_ascii_lowercase();
    if token.starts_with("h2") || token == "http" {
        return bad(
            format!("{} cannot be upgraded to", quoted(text)),
            "HTTP/2 is offered with TLS; leave it out",
        );
    }
    Ok(token)
}

/// A server name, or many.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// One name, in lower case and without a port.
    Exact(String),
    /// Every name with this suffix, which begins with a dot.
    Wildcard(String),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(end) => write!(f, "*{end}"),
        }
    }
}

/// A server name: "example.com", or "*.example.com" for every name below it.
pub(super) fn host_pattern(text: &str) -> Result<HostPattern, BadValue> {
    const EXAMPLE: &str = "write it like \"example.com\" or \"*.example.com\"";
    if text.contains("://") || text.contains('/') {
        return bad(
            format!("{} is not a server name alone", quoted(text)),
            EXAMPLE,
        );
    }
    let (wildcard, name) = match text.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, text),
    };
    if !wildcard && let Ok(ip) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(HostPattern::Exact(match ip {
            IpAddr::V4(_) => ip.to_string(),
            IpAddr::V6(_) => format!("[{ip}]"),
        }));
    }
    if name.contains(':') {
        return bad(
            format!("{} has a port", quoted(text)),
            "leave the port out: names count, ports do not",
        );
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let good = |label: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len()) && label.bytes().all(known)
    };
    if name.len() > 253 || !name.split('.').all(good) {
        let remedy = if name.is_ascii() {
            EXAMPLE.to_owned()
        } else {
            "write the name as it is sent, in its \"xn--\" form".to_owned()
        };
        return bad(format!("{} is not a server name", quoted(text)), remedy);
    }
    Ok(if wildcard {
        HostPattern::Wildcard(format!(".{name}"))
    } else {
        HostPattern::Exact(name)
    })
}

/// The beginning of a path, without a slash at the end ("" for every path).
pub(super) fn path_prefix(text: &str) -> Result<String, BadValue> {
    let visible = |byte: u8| (0x21..0x7f).contains(&byte);
    if !text.starts_with('/') || !text.bytes().all(visible) {
        return bad(
            format!("{} is not the beginning of a path", quoted(text)),
            "start it with \"/\", and write other than visible ASCII as %XX",
        );
    }
    if text.contains(['?', '#', '*']) {
        return bad(
            format!("{} is more than a path", quoted(text)),
            "write a plain prefix: every path below it is meant",
        );
    }
    let written = super::path::as_of_routes(text);
    if written != text && super::path::normal(text) == text {
        return bad(
            format!("{} has another spelling", quoted(text)),
            format!("write {}", quoted(&written)),
        );
    }
    let normal = super::path::normal(text);
    let trimmed = normal.trim_end_matches('/');
    if normal != text {
        return bad(
            format!("{} is never seen by routes", quoted(text)),
            format!(
                "paths are compared in their plain form: write {}",
                quoted(&normal)
            ),
        );
    }
    Ok(trimmed.to_owned())
}

/// The status of an answer.
pub(super) fn status(number: i128) -> Result<StatusCode, BadValue> {
    let code = u16::try_from(number)
        .ok()
        .filter(|code| (200..600).contains(code));
    match code.and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(status) => Ok(status),
        None => bad(
            format!("{number} is not the status of an answer"),
            "use 200 to 599",
        ),
    }
}

/// The status of a redirect.
pub(super) fn redirect_status(number: i128) -> Result<StatusCode, BadValue> {
    match number {
        301 | 302 | 303 | 307 | 308 => status(number),
        _ => bad(
            format!("{number} is not the status of a redirect"),
            "use 308 (for good) or 307 (for now); 301, 302 and 303 may change the method",
        ),
    }
}

/// A version of the PROXY protocol.
pub(super) fn proxy_version(text: &str) -> Result<ProxyVersion, BadValue> {
    match text {
        "v1" => Ok(ProxyVersion::V1),
        "v2" => Ok(ProxyVersion::V2),
        _ => bad(
            format!("{} is not a version of the PROXY protocol", quoted(text)),
            "use \"v1\" or \"v2\"",
        ),
    }
}

/// A media type, perhaps with `*` after the slash.
pub(super) fn media_type(text: &str) -> Result<String, BadValue> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
    let part = |text: &str| !text.is_empty() && text.bytes().all(known);
    match text.split_once('/') {
        Some((main, sub)) if part(main) && (sub == "*" || part(sub)) => {
            Ok(text.to_ascii_lowercase())
        }
        _ => bad(
            format!("{} is not a media type", quoted(text)),
            "write it like \"application/json\" or \"text/*\"",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_its_addresses_of_either_spelling() {
        let holds = |block: &str, ip: &str| cidr(block).unwrap().contains(ip.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("0.0.0.0/0", "11.0.0.1"));
        assert!(!holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("::/0", "2001:db8::1"));
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(holds("192.0.2.1", "192.0.2.1"));
        assert!(!holds("192.0.2.1", "192.0.2.2"));
    }

    #[test]
    fn a_block_is_shown_as_it_was_written() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "192.0.2.1/32"] {
            assert_eq!(cidr(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("10MiB"), Ok(10 << 20));
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("512"), Ok(512));
        assert!(size("ten").is_err());
        assert!(size("10MB").is_err());
        assert!(size("99999999999GiB").is_err());
    }

    #[test]
    fn server_names_are_in_lower_case_and_without_the_last_dot() {
        let exact = |text: &str| HostPattern::Exact(text.to_owned());
        assert_eq!(host_pattern("Example.COM."), Ok(exact("example.com")));
        assert_eq!(
            host_pattern("*.example.com"),
            Ok(HostPattern::Wildcard(".example.com".to_owned()))
        );
        assert_eq!(host_pattern("192.0.2.1"), Ok(exact("192.0.2.1")));
        assert_eq!(host_pattern("2001:db8::1"), Ok(exact("[2001:db8::1]")));
        for wrong in [
            "",
            "a..b",
            "*",
            "*.*.com",
            "https://a",
            "a:80",
            "a/b",
            "bücher.de",
        ] {
            assert!(host_pattern(wrong).is_err(), "{wrong}");
        }
    }
}
