//! What is noted of a request while it is under way.

use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, REFERER, USER_AGENT};
use hyper::http::request;
use hyper::{StatusCode, Version};

use super::sink::Sink;

/// A request under way. Its texts are copied into one buffer, which the next request of the thread
/// uses again: nothing of the request itself is kept alive for the log.
pub(in crate::l7) struct Record {
    sink: Arc<Sink>,
    texts: Vec<u8>,
    request: Spans,
    begun: Instant,
    pub(super) version: Version,
    /// The client's address: the real one, behind trusted proxies.
    pub(in crate::l7) client: IpAddr,
    /// The version of TLS.
    pub(in crate::l7) tls: Option<&'static str>,
    /// The name of the backend, and why it was this one.
    backend: Option<(Range<usize>, &'static str)>,
    pub(super) id: Option<Range<usize>>,
    /// How long the connection to the backend took; zero for one that was there.
    pub(in crate::l7) connect: Option<Duration>,
    pub(super) first_byte: Option<Duration>,
    status: Option<StatusCode>,
    /// Bytes of the answer's body so far.
    pub(in crate::l7) bytes: u64,
    written: bool,
}

/// Where texts are.
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
pub(in crate::l7) enum End {
    /// The answer was written to its end.
    Complete,
    /// The client or the backend went away before it.
    Aborted,
}

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Buffers that a thread keeps for further requests.
const SPARES: usize = 64;
/// Texts longer than this are not kept: one request must not cost memory for ever.
const LONGEST: usize = 4096;

impl Record {
    /// A request that begins now, as the client sent it.
    pub(in crate::l7) fn begin(sink: &Arc<Sink>, client: IpAddr, head: &request::Parts) -> Self {
        let texts = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        let mut record = Self {
            sink: Arc::clone(sink),
            texts,
            request: Spans::default(),
            begun: Instant::now(),
            version: head.version,
            client,
            tls: None,
            backend: None,
            id: None,
            connect: None,
            first_byte: None,
            status: None,
            bytes: 0,
            written: false,
        };
        record.copy(head);
        record
    }

    fn copy(&mut self, head: &request::Parts) {
        self.request.method = self.text(head.method.as_str().as_bytes());
        self.request.target = match head.uri.path_and_query() {
            Some(path) => self.text(path.as_str().as_bytes()),
            None => self.text(head.uri.to_string().as_bytes()),
        };
        let headers = &head.headers;
        let authority = head.uri.authority().map(|authority| authority.as_str());
        self.request.host = match authority {
            Some(authority) => Some(self.text(authority.as_bytes())),
            None => headers.get(HOST).map(|host| self.text(host.as_bytes())),
        };
        self.request.referer = headers
            .get(REFERER)
            .map(|value| self.text(value.as_bytes()));
        self.request.user_agent = headers
            .get(USER_AGENT)
            .map(|value| self.text(value.as_bytes()));
        self.request.user = user(headers).map(|user| self.text(&user));
    }

    fn text(&mut self, text: &[u8]) -> Range<usize> {
        let begin = self.texts.len();
        self.texts.extend_from_slice(text);
        begin..self.texts.len()
    }

    /// The backend that was chosen, and why; the last one counts.
    pub(in crate::l7) fn chose(&mut self, backend: &str, why: &'static str) {
        let name = self.text(backend.as_bytes());
        self.backend = Some((name, why));
    }

    /// The identity under which the request is known to the backend.
    pub(in crate::l7) fn identify(&mut self, id: &[u8]) {
        self.id = Some(self.text(id));
    }

    /// The head of the answer is there.
    pub(in crate::l7) fn answered(&mut self, status: StatusCode) {
        self.first_byte = Some(self.begun.elapsed());
        self.status = Some(status);
    }

    /// Writes the line.
    pub(in crate::l7) fn finish(mut self, end: End) {
        self.write(end);
    }

    fn write(&mut self, end: End) {
        if !std::mem::replace(&mut self.written, true) {
            self.sink.write(self, self.begun.elapsed(), end);
        }
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

    pub(super) fn backend(&self) -> Option<(&[u8], &'static str)> {
        let (name, why) = self.backend.as_ref()?;
        Some((&self.texts[name.clone()], why))
    }

    /// The status, or 499 for a client that did not wait for one.
    pub(super) fn status(&self) -> u16 {
        self.status.map_or(499, |status| status.as_u16())
    }

    fn at(&self, span: Option<&Range<usize>>) -> Option<&[u8]> {
        span.map(|span| &self.texts[span.clone()])
    }
}

impl Drop for Record {
    /// A request that nobody finished is noted too.
    fn drop(&mut self) {
        self.write(End::Aborted);
        let mut texts = std::mem::take(&mut self.texts);
        if texts.capacity() == 0 || texts.capacity() > LONGEST {
            return;
        }
        texts.clear();
        // A thread that ends has no use for it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES {
                spare.push(texts);
            }
        });
    }
}

/// The user of basic authentication (RFC 7617), without the password.
fn user(headers: &HeaderMap) -> Option<Vec<u8>> {
    let (scheme, credentials) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let mut user = STANDARD.decode(credentials.trim()).ok()?;
    let end = user.iter().position(|byte| *byte == b':')?;
    user.truncate(end);
    (!user.is_empty()).then_some(user)
}
