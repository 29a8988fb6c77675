//! Header fields on their way through: what is for one hop only goes, what the next one must know
//! is set.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

pub(super) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
pub(super) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What the fields for one hop said, before they went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hop {
    /// `Connection` named `upgrade`, and there was an `Upgrade`, which is left.
    pub(super) upgrade: bool,
    /// There was an `Expect`, which is left for the caller to see to.
    pub(super) expects: bool,
    /// `TE: trailers`.
    pub(super) trailers: bool,
    /// There was a `Transfer-Encoding`.
    pub(super) encoded: bool,
    /// What `Connection` named beside the usual: it goes from the trailers too.
    pub(super) named: Vec<HeaderName>,
}

/// Removes the fields that are for one hop: those that `Connection` names, and the well-known ones
/// (RFC 9110, section 7.6.1). `Transfer-Encoding` goes too: who sends the message frames it, and
/// with it a `Content-Length` that is overridden by it (RFC 9112, section 6.3).
///
/// One look at each field tells which of them there are; most requests have one.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) -> Hop {
    let mut hop = Hop::default();
    let (mut connection, mut te, mut upgrade, mut rare) = (false, false, false, false);
    for name in headers.keys() {
        match *name {
            header::CONNECTION => connection = true,
            header::TE => te = true,
            header::TRANSFER_ENCODING => hop.encoded = true,
            header::UPGRADE => upgrade = true,
            header::EXPECT => hop.expects = true,
            _ => rare |= *name == KEEP_ALIVE || *name == PROXY_CONNECTION,
        }
    }
    if connection {
        hop.upgrade = upgrade && has_token(headers, &header::CONNECTION, b"upgrade");
        hop.named = remove_named(headers);
    }
    if te {
        hop.trailers = has_token(headers, &header::TE, b"trailers");
        headers.remove(header::TE);
    }
    if hop.encoded {
        headers.remove(header::TRANSFER_ENCODING);
        headers.remove(header::CONTENT_LENGTH);
    }
    if upgrade && !hop.upgrade {
        headers.remove(header::UPGRADE);
    }
    if rare {
        headers.remove(KEEP_ALIVE);
        headers.remove(PROXY_CONNECTION);
    }
    hop
}

/// Removes `Connection` and what it names, which is returned. `Upgrade` is seen to elsewhere; `Host`
/// and what frames the message are no options, whoever says so.
fn remove_named(headers: &mut HeaderMap) -> Vec<HeaderName> {
    let mut named = Vec::new();
    let options = headers.get_all(header::CONNECTION).iter();
    let plain = options.into_iter().all(|value| {
        [&b"keep-alive"[..], b"close", b"upgrade"]
            .iter()
            .any(|plain| value.as_bytes().eq_ignore_ascii_case(plain))
    });
    if !plain {
        let kept = [
            header::HOST,
            header::UPGRADE,
            header::TE,
            header::TRANSFER_ENCODING,
            header::CONTENT_LENGTH,
            header::AUTHORIZATION,
            header::COOKIE,
        ];
        named = tokens(headers, &header::CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .filter(|name| !kept.contains(name))
            .collect();
        for name in &named {
            headers.remove(name);
        }
    }
    headers.remove(header::CONNECTION);
    named
}

/// The members of a list, over all its lines.
pub(super) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &[u8]) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// The protocol among `allowed` that `Upgrade` names first.
pub(super) fn upgrade_to<'a>(headers: &HeaderMap, allowed: &'a [String]) -> Option<&'a str> {
    let wanted = |token: &[u8]| {
        let is = |protocol: &&String| token.eq_ignore_ascii_case(protocol.as_bytes());
        allowed.iter().find(is).map(String::as_str)
    };
    tokens(headers, &header::UPGRADE).find_map(wanted)
}

/// Asks for another protocol, or grants it.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: &str) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    let protocol = HeaderValue::from_str(protocol);
    headers.insert(
        header::UPGRADE,
        protocol.unwrap_or_else(|_| HeaderValue::from_static("websocket")),
    );
}

/// Asks the next hop for trailers, which this one passes on.
pub(super) fn ask_for_trailers(headers: &mut HeaderMap) {
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let option = match headers.get(header::CONNECTION) {
        Some(_) => HeaderValue::from_static("upgrade, te"),
        None => HeaderValue::from_static("te"),
    };
    headers.insert(header::CONNECTION, option);
}

/// Removes from trailers what must not come there: what frames or routes the message, who asks,
/// and what is for one hop (RFC 9110, section 6.5.1), by what its head has `named` too (section 7.6.1).
pub(super) fn clean_trailers(trailers: &mut HeaderMap, named: &[HeaderName]) {
    strip_hop_by_hop(trailers);
    for name in named {
        trailers.remove(name);
    }
    for name in [
        header::CONTENT_LENGTH,
        header::HOST,
        header::AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        header::TRAILER,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::UPGRADE,
        header::FORWARDED,
        HeaderName::from_static("x-real-ip"),
    ] {
        trailers.remove(name);
    }
    let claims: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| name.as_str().starts_with("x-forwarded-"))
        .cloned()
        .collect();
    for name in claims {
        trailers.remove(name);
    }
}

/// The seconds of `Keep-Alive: timeout=N`.
pub(super) fn keep_alive_seconds(headers: &HeaderMap) -> Option<u64> {
    seconds_in(headers.get(KEEP_ALIVE)?.to_str().ok()?)
}

/// The seconds in a value of `Keep-Alive`.
pub(super) fn seconds_in(keep_alive: &str) -> Option<u64> {
    keep_alive.split(',').find_map(|parameter| {
        let (name, seconds) = parameter.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        is_timeout.then(|| seconds.trim().parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn h7_6_1_what_any_connection_line_names_goes() {
        let mut headers = map(&[
            ("connection", "x-a, close"),
            ("connection", "X-B"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-c", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
        ]);
        let hop = strip_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["x-c"]);
        assert_eq!(
            (hop.trailers, hop.encoded, hop.upgrade),
            (true, true, false)
        );
    }

    #[test]
    fn h7_6_1_nobody_can_have_host_or_credentials_removed() {
        let mut headers = map(&[
            ("connection", "host, authorization, cookie, content-length"),
            ("host", "a"),
            ("authorization", "b"),
            ("cookie", "c"),
            ("content-length", "0"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(
            names(&headers),
            ["authorization", "content-length", "cookie", "host"]
        );
    }

    #[test]
    fn h6_5_1_trailers_cannot_say_who_asks_or_how_long_the_message_is() {
        let mut trailers = map(&[
            ("content-length", "5"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-real-ip", "192.0.2.1"),
            ("host", "a"),
            ("authorization", "b"),
            ("connection", "x-sum"),
            ("x-sum", "1"),
            ("x-secret", "1"),
            ("server-timing", "a"),
        ]);
        clean_trailers(&mut trailers, &[HeaderName::from_static("x-secret")]);
        assert_eq!(names(&trailers), ["server-timing"]);
    }

    #[test]
    fn keep_alive_says_for_how_long() {
        assert_eq!(
            keep_alive_seconds(&map(&[("keep-alive", "timeout=5")])),
            Some(5)
        );
        assert_eq!(
            keep_alive_seconds(&map(&[("keep-alive", "max=3, Timeout = 72")])),
            Some(72)
        );
        assert_eq!(
            keep_alive_seconds(&map(&[("keep-alive", "timeout=x")])),
            None
        );
    }

    #[test]
    fn only_protocols_that_are_allowed_are_upgraded_to() {
        let allowed = ["websocket".to_owned()];
        let wanted = |value| upgrade_to(&map(&[("upgrade", value)]), &allowed);
        assert_eq!(wanted("WebSocket"), Some("websocket"));
        assert_eq!(wanted("h2c, websocket"), Some("websocket"));
        assert_eq!(wanted("h2c"), None);
    }
}
