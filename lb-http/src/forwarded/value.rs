//! The `Forwarded` header (RFC 7239), read and written.

use std::net::IpAddr;

/// The content of a `Forwarded` header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ForwardedInfo {
    /// The nodes of `for`, the client's first; `None` for one that is hidden or unknown.
    pub hops: Vec<Option<IpAddr>>,
    /// The first `proto`.
    pub proto: Option<String>,
    /// The first `host`.
    pub host: Option<String>,
}

/// Reads the values of all `Forwarded` lines. A malformed element stands for a hidden node, and the
/// elements to its left are ignored.
pub(crate) fn read<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> ForwardedInfo {
    let mut told = ForwardedInfo::default();
    for value in values {
        let mut rest = value;
        while !rest.is_empty() {
            let element = Element::read(&mut rest);
            told.proto = told.proto.or(element.proto);
            told.host = told.host.or(element.host);
            told.hops.push(element.node);
        }
    }
    told
}

#[derive(Default)]
struct Element {
    node: Option<IpAddr>,
    proto: Option<String>,
    host: Option<String>,
}

impl Element {
    /// Reads up to the next comma outside of quotes, and takes it too.
    fn read(rest: &mut &[u8]) -> Self {
        let mut element = Self::default();
        loop {
            let name = token(rest).to_ascii_lowercase();
            let mut value = None;
            if rest.first() == Some(&b'=') {
                *rest = &rest[1..];
                value = Some(if rest.first() == Some(&b'"') {
                    quoted(rest)
                } else {
                    token(rest)
                });
            }
            match (name.as_str(), value) {
                ("for", Some(value)) => element.node = node(&value),
                ("proto", Some(value)) => element.proto = Some(value),
                ("host", Some(value)) if !value.is_empty() => element.host = Some(value),
                _ => {}
            }
            skip_spaces(rest);
            match rest.split_first() {
                Some((b';', after)) => *rest = after,
                Some((b',', after)) => {
                    *rest = after;
                    return element;
                }
                None => return element,
                // Not well-formed: go on after the next comma, knowing nothing of this one.
                Some(_) => {
                    let comma = rest.iter().position(|byte| *byte == b',');
                    *rest = comma.map_or(&[][..], |at| &rest[at + 1..]);
                    return Self::default();
                }
            }
        }
    }
}

fn skip_spaces(rest: &mut &[u8]) {
    while let [b' ' | b'\t', after @ ..] = *rest {
        *rest = after;
    }
}

fn token(rest: &mut &[u8]) -> String {
    skip_spaces(rest);
    let ends = |byte: &u8| b"=;,\" \t".contains(byte);
    let end = rest.iter().position(ends).unwrap_or(rest.len());
    let (token, after) = rest.split_at(end);
    *rest = after;
    String::from_utf8_lossy(token).into_owned()
}

/// A quoted string (RFC 9110, section 5.6.4), from its opening quote. Without an end it goes to
/// the end of the line.
fn quoted(rest: &mut &[u8]) -> String {
    let mut value = Vec::new();
    let mut bytes = rest.iter().enumerate().skip(1);
    let mut end = rest.len();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                end = at + 1;
                break;
            }
            b'\\' => value.extend(bytes.next().map(|(_, escaped)| *escaped)),
            _ => value.push(*byte),
        }
    }
    *rest = &rest[end..];
    String::from_utf8_lossy(&value).into_owned()
}

/// The address of a node: `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    // An IPv6 address without brackets is not well-formed, and clear all the same.
    super::address(text.as_bytes())
}

/// The header for a request that came by `hops`, the client's address first. Host and scheme are
/// those that the client asked for, so they are told with it.
pub(crate) fn write(hops: &[IpAddr], host: Option<&[u8]>, scheme: &str) -> String {
    let mut text = String::with_capacity(64);
    for (place, hop) in hops.iter().enumerate() {
        if place > 0 {
            text.push_str(", ");
        }
        text.push_str("for=");
        match hop {
            IpAddr::V4(ip) => text.push_str(&ip.to_string()),
            // Brackets and colons are no part of a token (RFC 7239, section 6).
            IpAddr::V6(ip) => text.push_str(&format!("\"[{ip}]\"")),
        }
        if place == 0 {
            if let Some(host) = host.and_then(|host| std::str::from_utf8(host).ok()) {
                text.push_str(";host=\"");
                for c in host.chars() {
                    if matches!(c, '"' | '\\') {
                        text.push('\\');
                    }
                    text.push(c);
                }
                text.push('"');
            }
            text.push_str(";proto=");
            text.push_str(scheme);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(text: &str) -> ForwardedInfo {
        read([text.as_bytes()])
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_examples_of_rfc_7239_are_read() {
        assert_eq!(told("for=\"_gazonk\"").hops, [None]);
        assert_eq!(
            told("For=\"[2001:db8:cafe::17]:4711\"").hops,
            [ip("2001:db8:cafe::17")]
        );
        let one = told("for=192.0.2.60;proto=http;by=203.0.113.43");
        assert_eq!(one.hops, [ip("192.0.2.60")]);
        assert_eq!(one.proto.as_deref(), Some("http"));
        assert_eq!(
            told("for=192.0.2.43, for=198.51.100.17").hops,
            [ip("192.0.2.43"), ip("198.51.100.17")]
        );
        assert_eq!(told("for=unknown").hops, [None]);
    }

    #[test]
    fn a_comma_in_quotes_ends_nothing() {
        let one = told("for=192.0.2.1;host=\"a,b\\\"c\";proto=https, for=192.0.2.2");
        assert_eq!(one.hops, [ip("192.0.2.1"), ip("192.0.2.2")]);
        assert_eq!(one.host.as_deref(), Some("a,b\"c"));
    }

    #[test]
    fn what_is_not_well_formed_hides_its_element_alone() {
        assert_eq!(
            told("for=192.0.2.1 x, for=192.0.2.2").hops,
            [None, ip("192.0.2.2")]
        );
        assert_eq!(told("for=\"192.0.2.1").hops, [ip("192.0.2.1")]);
        assert_eq!(told(";;,=,\"").hops, [None, None, None]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(v6: [u8; 16], v4: [u8; 4], host in "[a-z\\\\\",;=.:]{1,12}") {
            let hops = [IpAddr::from(v6).to_canonical(), IpAddr::from(v4)];
            let told = read([write(&hops, Some(host.as_bytes()), "https").as_bytes()]);
            prop_assert_eq!(told.hops, hops.map(Some));
            prop_assert_eq!(told.proto.as_deref(), Some("https"));
            prop_assert_eq!(told.host.as_deref(), Some(host.as_str()));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            read([&bytes[..]]);
        }
    }
}
