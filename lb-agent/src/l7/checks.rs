//! Which requests are refused before anything else: those that another reader of the same bytes
//! might take for something else, those that are none of a gateway's business, and those that are
//! too large.

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Method, StatusCode, Uri, Version};

use crate::config::http::Limits;

/// What a request asks for, beside its head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// The body comes in chunks.
    pub(super) chunked: bool,
}

/// Checks a request and puts its target into origin form (RFC 9112, section 3.2.1), its authority
/// into `Host`. The error is the status to refuse it with.
pub(super) fn check(head: &mut Parts, limits: &Limits) -> Result<Wishes, StatusCode> {
    method(head)?;
    target(head, limits)?;
    host(head)?;
    let chunked = transfer_encoding(head)?;
    expect(&head.headers)?;
    if head.headers.len() > limits.headers {
        return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    Ok(Wishes { chunked })
}

fn method(head: &Parts) -> Result<(), StatusCode> {
    // CONNECT never makes a tunnel to somewhere (RFC 9110, section 9.3.6); with `:protocol` it is
    // something else (RFC 8441). TRACE would show what the gateway adds (section 9.3.8).
    let extended = head.extensions.get::<hyper::ext::Protocol>().is_some();
    match head.method {
        Method::CONNECT if extended && head.version == Version::HTTP_2 => Ok(()),
        Method::CONNECT | Method::TRACE => Err(StatusCode::METHOD_NOT_ALLOWED),
        _ => Ok(()),
    }
}

/// `*` is for OPTIONS alone; everything else begins with a slash (RFC 9112, section 3.2).
fn target(head: &Parts, limits: &Limits) -> Result<(), StatusCode> {
    let path_and_query = head.uri.path_and_query();
    let length = path_and_query.map_or(0, |target| target.as_str().len());
    if length > limits.target {
        return Err(StatusCode::URI_TOO_LONG);
    }
    match head.uri.path() {
        "*" if head.method == Method::OPTIONS => Ok(()),
        path if path.starts_with('/') => Ok(()),
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

/// Exactly one good `Host` (RFC 9112, section 3.2). The authority of an absolute target, or of an
/// HTTP/2 request, takes its place (section 3.2.2; RFC 9113, section 8.3.1).
fn host(head: &mut Parts) -> Result<(), StatusCode> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() || first.is_some_and(|host| !is_host(host.as_bytes())) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let Some(authority) = head.uri.authority() else {
        return match (first, head.version) {
            (None, Version::HTTP_11 | Version::HTTP_2) => Err(StatusCode::BAD_REQUEST),
            _ => Ok(()),
        };
    };
    if !is_host(authority.as_str().as_bytes()) {
        return Err(StatusCode::BAD_REQUEST);
    }
    match first {
        None if head.version == Version::HTTP_11 => return Err(StatusCode::BAD_REQUEST),
        Some(host) if head.version == Version::HTTP_2 && !same_host(host, authority) => {
            return Err(StatusCode::BAD_REQUEST);
        }
        _ => {}
    }
    let value = HeaderValue::from_str(authority.as_str());
    let value = value.map_err(|_| StatusCode::BAD_REQUEST)?;
    head.headers.insert(header::HOST, value);
    let target = head.uri.path_and_query().cloned();
    let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(target);
    Ok(())
}

fn same_host(host: &HeaderValue, authority: &Authority) -> bool {
    host.as_bytes()
        .eq_ignore_ascii_case(authority.as_str().as_bytes())
}

/// `uri-host [ ":" port ]` of RFC 3986, section 3.2.2; a name that is empty is allowed there, and
/// no server has it. An IPv6 address without its brackets is what Socket.IO's client sends in
/// Node.js; it can be taken for nothing else.
pub(super) fn is_host(host: &[u8]) -> bool {
    let colons = host.iter().filter(|byte| **byte == b':').count();
    if colons > 1 && host.first() != Some(&b'[') {
        let text = std::str::from_utf8(host).unwrap_or_default();
        return text.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let (name, port) = match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !host[colon..].contains(&b']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, &[][..]),
    };
    let in_brackets = name
        .strip_prefix(b"[")
        .and_then(|name| name.strip_suffix(b"]"));
    let good_name = match in_brackets {
        Some(ip) => ip
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte)),
        None => name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte)),
    };
    !name.is_empty() && good_name && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// `chunked`, once, and nothing else (RFC 9112, sections 6.1 and 7). Of HTTP/2, `TE` is checked
/// instead, and what is for one connection (RFC 9113, section 8.2.2).
fn transfer_encoding(head: &Parts) -> Result<bool, StatusCode> {
    if head.version == Version::HTTP_2 {
        return one_connection_only(&head.headers).map(|()| false);
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(StatusCode::NOT_IMPLEMENTED),
    }
}

fn one_connection_only(headers: &HeaderMap) -> Result<(), StatusCode> {
    let wrong = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        super::headers::KEEP_ALIVE,
        super::headers::PROXY_CONNECTION,
    ];
    let te = headers.get_all(header::TE).iter();
    let bad_te = te.into_iter().any(|value| value != "trailers");
    if bad_te || wrong.iter().any(|name| headers.contains_key(name)) {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(())
}

/// Nothing but `100-continue` can be expected (RFC 9110, section 10.1.1).
fn expect(headers: &HeaderMap) -> Result<(), StatusCode> {
    let known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(header::EXPECT).iter().all(known) {
        Ok(())
    } else {
        Err(StatusCode::EXPECTATION_FAILED)
    }
}

/// A body that says how large it is, and is too large, is not even asked for.
pub(super) fn size(headers: &HeaderMap, most: Option<u64>) -> Result<(), StatusCode> {
    let Some(most) = most else {
        return Ok(());
    };
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > most) {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h7_2_hosts_are_names_or_addresses_with_a_port() {
        for good in [
            "a",
            "a.example:80",
            "[::1]:443",
            "192.0.2.1",
            "a_b:",
            "xn--a",
            "2001:db8::1",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:80:80", "[::1", "a,b c", "a:123456",
            "a\u{e9}",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
