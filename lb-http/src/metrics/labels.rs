//! The values of labels. Each set is bounded: no client can add a value.

use hyper::StatusCode;

/// Methods by their number; the last stands for all others.
pub const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other",
];

/// Classes of status codes by their number; the last stands for a client that went before its answer.
pub const STATUSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

/// The statuses of gateway errors by their number.
pub const GATEWAY_STATUSES: [&str; 3] = ["502", "503", "504"];

/// Causes of gateway errors by their number.
pub const CAUSES: [&str; 8] = [
    "no_backend",
    "connect",
    "resources",
    "broken",
    "malformed",
    "refused",
    "timeout",
    "other",
];

/// Limits that requests are refused by, by their number.
pub const LIMITS: [&str; 6] = ["time", "body", "target", "headers", "loop", "requests"];

/// The origins of answers by their number.
pub const SOURCES: [&str; 5] = ["backend", "cache", "files", "route", "gateway"];

/// Verdicts of forward authentication by their number.
pub const AUTH_VERDICTS: [&str; 3] = ["granted", "denied", "failed"];

/// Outcomes of TLS handshakes by their number.
pub const HANDSHAKES: [&str; 9] = [
    "full",
    "resumed",
    "failed",
    "certificate_missing",
    "certificate_unknown_authority",
    "certificate_expired",
    "certificate_revoked",
    "revocation_unknown",
    "certificate_invalid",
];

/// A method, as the index of its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method(u8);

impl Method {
    /// The method of a request. Methods are case-sensitive (RFC 9110, section 9.1).
    pub(crate) fn of(method: &[u8]) -> Self {
        let last = METHODS.len() - 1;
        let known = &METHODS[..last];
        let index = known.iter().position(|name| name.as_bytes() == method);
        Self(index.unwrap_or(last) as u8)
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A class of status codes, as the index of its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(u8);

impl Status {
    /// The class of a status; `None` is a client that went before its answer.
    pub(crate) fn of(status: Option<StatusCode>) -> Self {
        let none = STATUSES.len() - 1;
        Self(match status.map(|status| status.as_u16() / 100) {
            Some(class @ 1..=5) => (class - 1) as u8,
            _ => none as u8,
        })
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Why the gateway has answered in the place of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No backend is up.
    NoBackend,
    /// No connection to a backend.
    Connect,
    /// The agent lacks descriptors or memory.
    Resources,
    /// The connection or stream broke before the answer.
    Broken,
    /// The backend's bytes are no answer.
    Malformed,
    /// The backend has refused the stream of HTTP/2.
    Refused,
    /// The backend did not answer in time.
    Timeout,
    /// None of these.
    Other,
}

/// A limit that a request has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Time for its head or its body.
    Time,
    /// Bytes of its body.
    Body,
    /// Bytes of its target.
    Target,
    /// Bytes or number of its header lines.
    Headers,
    /// Times that it may pass through the same gateway.
    Loop,
    /// Requests of its client.
    Requests,
}

impl Limit {
    /// The limit that the gateway refuses a request by with `status`.
    pub(crate) fn of(status: StatusCode) -> Option<Self> {
        Some(match status {
            StatusCode::REQUEST_TIMEOUT => Self::Time,
            StatusCode::PAYLOAD_TOO_LARGE => Self::Body,
            StatusCode::URI_TOO_LONG => Self::Target,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Self::Headers,
            StatusCode::LOOP_DETECTED => Self::Loop,
            StatusCode::TOO_MANY_REQUESTS => Self::Requests,
            _ => return None,
        })
    }
}

/// The origin of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A backend.
    Backend,
    /// The response cache.
    Cache,
    /// Files.
    Files,
    /// The configuration: a redirect, or a fixed answer.
    Route,
    /// A page of the gateway: there is no other answer.
    Gateway,
}

/// What the cache did with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheResult {
    /// A stored answer was sent.
    Hit,
    /// A backend answered.
    Miss,
    /// A stored answer was sent after its lifetime.
    Stale,
    /// A stored answer was sent because a backend said that it is still good.
    Revalidated,
}

impl CacheResult {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hit, Self::Miss, Self::Stale, Self::Revalidated];

    /// As logs and metrics have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
        }
    }
}

/// A verdict of forward authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthVerdict {
    /// The request is let in.
    Granted,
    /// It is not.
    Denied,
    /// The server did not say.
    Failed,
}

/// The outcome of a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// Done, with a certificate.
    Full,
    /// Done, by a ticket of an earlier one.
    Resumed,
    /// Not done, for another reason than the client's certificate.
    Failed,
    /// The client has no certificate.
    CertificateMissing,
    /// None of the authorities has signed the client's certificate.
    CertificateUnknownAuthority,
    /// The client's certificate is out of its time.
    CertificateExpired,
    /// The client's certificate is revoked.
    CertificateRevoked,
    /// No revocation list says anything about the client's certificate now.
    RevocationUnknown,
    /// The client's certificate is of no use for another reason.
    CertificateInvalid,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_without_a_label_is_other() {
        let label = |method: &[u8]| METHODS[Method::of(method).index()];
        assert_eq!(label(b"GET"), "GET");
        assert_eq!(label(b"OPTIONS"), "OPTIONS");
        for method in [&b"get"[..], b"PROPFIND", b"", b"other"] {
            assert_eq!(label(method), "other");
        }
    }

    #[test]
    fn status_belongs_to_its_class() {
        let label = |status: u16| STATUSES[Status::of(StatusCode::from_u16(status).ok()).index()];
        assert_eq!([101, 200, 304, 499, 599].map(label), STATUSES[..5]);
        assert_eq!(label(999), "none");
        assert_eq!(STATUSES[Status::of(None).index()], "none");
    }

    #[test]
    fn labels_stand_in_the_order_of_their_numbers() {
        assert_eq!(CAUSES[Cause::NoBackend as usize], "no_backend");
        assert_eq!(CAUSES[Cause::Other as usize], "other");
        assert_eq!(LIMITS[Limit::Time as usize], "time");
        assert_eq!(LIMITS[Limit::Requests as usize], "requests");
        assert_eq!(SOURCES[Source::Backend as usize], "backend");
        assert_eq!(SOURCES[Source::Gateway as usize], "gateway");
        assert_eq!(HANDSHAKES[Handshake::Failed as usize], "failed");
        let last = Handshake::CertificateInvalid as usize;
        assert_eq!(HANDSHAKES[last], "certificate_invalid");
    }
}
