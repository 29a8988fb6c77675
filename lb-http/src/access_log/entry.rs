//! The log fields of a request, collected while the request is under way.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::{StatusCode, Version};
use lb_http1::{Name, RequestHead, buffer_pool};

use crate::trace::TraceContext;

/// The fields of a request's log line. Texts are copied into one buffer, which the next request of the
/// thread reuses. The log keeps nothing of the request itself alive.
pub(crate) struct Entry {
    texts: Vec<u8>,
    request: Spans,
    pub(super) version: Version,
    /// The client's address: the real one, behind trusted proxies.
    pub(crate) client: IpAddr,
    /// The version of TLS.
    pub(crate) tls: Option<&'static str>,
    /// The subject of the client's certificate.
    certificate: Option<Range<usize>>,
    /// The name of the backend, and why it was this one, or why there is none.
    backend: Option<Range<usize>>,
    why: Option<&'static str>,
    /// What the cache did.
    pub(crate) cache: Option<&'static str>,
    /// The limit that the request exceeds, and whether it was passed on.
    pub(crate) limit: Option<(Arc<str>, bool)>,
    pub(super) id: Option<Range<usize>>,
    /// Its trace.
    pub(crate) trace: Option<TraceContext>,
    /// How long the connection to the backend took; zero for one that was there.
    pub(crate) connect: Option<Duration>,
    /// How long the server of forward authentication took.
    pub(crate) auth: Option<Duration>,
}

/// The fields of a request that its line shows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogFields<'a> {
    pub(crate) method: &'a [u8],
    pub(crate) target: &'a [u8],
    pub(crate) host: Option<&'a [u8]>,
    pub(crate) referer: Option<&'a [u8]>,
    pub(crate) user_agent: Option<&'a [u8]>,
    pub(crate) authorization: Option<&'a [u8]>,
}

impl<'a> LogFields<'a> {
    /// The log fields from the head of a request.
    pub(crate) fn of(head: &'a RequestHead) -> Self {
        let field = |name| head.fields.get(name);
        Self {
            method: head.method.as_str().as_bytes(),
            target: head.target(),
            host: field(Name::Host),
            referer: field(Name::Referer),
            user_agent: field(Name::UserAgent),
            authorization: field(Name::Authorization),
        }
    }
}

/// Ranges of the texts in the buffer.
#[derive(Default)]
struct Spans {
    method: Range<usize>,
    target: Range<usize>,
    host: Option<Range<usize>>,
    referer: Option<Range<usize>>,
    user_agent: Option<Range<usize>>,
    user: Option<Range<usize>>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The answer was written to its end.
    Complete,
    /// The client or the backend went away before it.
    Aborted,
}

/// The outcome of a request.
pub(crate) struct Ended {
    pub(crate) status: Option<StatusCode>,
    /// The time from the request to the head of its answer.
    pub(crate) first_byte: Option<Duration>,
    /// The time from the request to its end.
    pub(crate) total: Duration,
    /// Bytes of the answer's body, or of a tunnel.
    pub(crate) bytes: u64,
    pub(crate) end: End,
}

impl Ended {
    /// The status, or 499 for a client that did not wait for one.
    pub(super) fn status(&self) -> u16 {
        self.status.map_or(499, |status| status.as_u16())
    }
}

impl Entry {
    /// Of a request as the client sent it.
    pub(super) fn begin(client: IpAddr, version: Version, log_fields: &LogFields<'_>) -> Self {
        let mut entry = Self {
            texts: buffer_pool::take(),
            request: Spans::default(),
            version,
            client,
            tls: None,
            certificate: None,
            backend: None,
            why: None,
            cache: None,
            limit: None,
            id: None,
            trace: None,
            connect: None,
            auth: None,
        };
        entry.copy(log_fields);
        entry
    }

    fn copy(&mut self, log_fields: &LogFields<'_>) {
        self.request.method = self.text(log_fields.method);
        self.request.target = self.text(log_fields.target);
        self.request.host = log_fields.host.map(|host| self.text(host));
        self.request.referer = log_fields.referer.map(|referer| self.text(referer));
        self.request.user_agent = log_fields.user_agent.map(|agent| self.text(agent));
        self.request.user = log_fields
            .authorization
            .and_then(user)
            .map(|user| self.text(&user));
    }

    fn text(&mut self, text: &[u8]) -> Range<usize> {
        let begin = self.texts.len();
        self.texts.extend_from_slice(text);
        begin..self.texts.len()
    }

    /// The backend that was chosen, and why; the last one counts.
    pub(crate) fn chose(&mut self, backend: &str, why: &'static str) {
        let name = self.text(backend.as_bytes());
        self.backend = Some(name);
        self.why = Some(why);
    }

    /// There is no backend, and this is why.
    pub(crate) fn because(&mut self, why: &'static str) {
        self.backend = None;
        self.why = Some(why);
    }

    /// The user of whom the server of forward authentication tells.
    pub(crate) fn known_as(&mut self, user: &[u8]) {
        self.request.user = Some(self.text(user));
    }

    /// The identity under which the request is known to the backend.
    pub(crate) fn identify(&mut self, id: &[u8]) {
        self.id = Some(self.text(id));
    }

    /// The subject of the client's certificate.
    pub(crate) fn certify(&mut self, subject: &str) {
        self.certificate = Some(self.text(subject.as_bytes()));
    }

    pub(super) fn certificate(&self) -> Option<&[u8]> {
        self.at(self.certificate.as_ref())
    }

    pub(super) fn method(&self) -> &[u8] {
        &self.texts[self.request.method.clone()]
    }

    pub(super) fn target(&self) -> &[u8] {
        &self.texts[self.request.target.clone()]
    }

    pub(super) fn host(&self) -> Option<&[u8]> {
        self.at(self.request.host.as_ref())
    }

    pub(super) fn referer(&self) -> Option<&[u8]> {
        self.at(self.request.referer.as_ref())
    }

    pub(super) fn user_agent(&self) -> Option<&[u8]> {
        self.at(self.request.user_agent.as_ref())
    }

    pub(super) fn user(&self) -> Option<&[u8]> {
        self.at(self.request.user.as_ref())
    }

    pub(super) fn request_id(&self) -> Option<&[u8]> {
        self.at(self.id.as_ref())
    }

    pub(super) fn backend(&self) -> Option<&[u8]> {
        self.at(self.backend.as_ref())
    }

    pub(super) const fn why(&self) -> Option<&'static str> {
        self.why
    }

    fn at(&self, span: Option<&Range<usize>>) -> Option<&[u8]> {
        span.map(|span| &self.texts[span.clone()])
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        buffer_pool::give(std::mem::take(&mut self.texts));
    }
}

/// The user of basic authentication (RFC 7617), without the password.
fn user(authorization: &[u8]) -> Option<Vec<u8>> {
    let (scheme, credentials) = std::str::from_utf8(authorization).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let mut user = STANDARD.decode(credentials.trim()).ok()?;
    let end = user.iter().position(|byte| *byte == b':')?;
    user.truncate(end);
    (!user.is_empty()).then_some(user)
}
