//! Header fields on their way through: what is for one hop only goes, what the next one must know
//! is set.

use std::net::SocketAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Header values that are the same for each request of a connection.
pub(super) struct Values {
    client: HeaderValue,
    scheme: HeaderValue,
    port: HeaderValue,
}

impl Values {
    /// For a connection from `peer` to `local`.
    pub(super) fn new(peer: SocketAddr, local: SocketAddr, scheme: &'static str) -> Self {
        Self {
            client: text(&peer.ip().to_string()),
            scheme: HeaderValue::from_static(scheme),
            port: HeaderValue::from(local.port()),
        }
    }
}

/// An address and the like is always a good value.
fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Tells the backend who asks for what (the client's own claims are replaced).
pub(super) fn forwarded(headers: &mut HeaderMap, values: &Values) {
    headers.insert(X_FORWARDED_FOR, values.client.clone());
    headers.insert(X_REAL_IP, values.client.clone());
    headers.insert(X_FORWARDED_PROTO, values.scheme.clone());
    headers.insert(X_FORWARDED_PORT, values.port.clone());
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

/// Removes the fields that are for one hop: those that Connection names, and the well-known ones
/// (RFC 9110, section 7.6.1). `Transfer-Encoding` goes too: who sends the message frames it.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(header::TE);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
}

/// Whether the message asks for (or grants) WebSockets.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let has_token = |name, wanted: &[u8]| {
        headers
            .get_all(name)
            .iter()
            .flat_map(|value: &HeaderValue| value.as_bytes().split(|byte| *byte == b','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted))
    };
    has_token(header::UPGRADE, b"websocket") && has_token(header::CONNECTION, b"upgrade")
}

/// Asks for WebSockets, or grants them.
pub(super) fn set_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// The seconds of `Keep-Alive: timeout=N`.
pub(super) fn keep_alive_seconds(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    value.split(',').find_map(|parameter| {
        let (name, seconds) = parameter.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        is_timeout.then(|| seconds.trim().parse().ok()).flatten()
    })
}
