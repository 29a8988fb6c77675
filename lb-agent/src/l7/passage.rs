//! What a service does to every request and to every answer, whoever gives it: sends it to TLS where it
//! should have come by TLS, notes it in the access log, makes the answer smaller.

use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use lb_http::{Name, RequestHead, ResponseHead};

use super::access_log::{Record, Said};
use super::answers::{self, Answer};
use super::compress::{self, Asked};
use super::connection::Visit;
use super::edge::redirect_target;
use super::forwarded;
use super::settings::Service;
use crate::config::http::Algorithm;

/// What of a request matters for its answer.
pub(super) struct Passage {
    pub(super) service: Arc<Service>,
    is_tls: bool,
    is_head: bool,
    asked: Option<Asked>,
}

impl Passage {
    /// Of a request with this head, as the client sent it.
    pub(super) fn new(visit: &Visit, service: Arc<Service>, head: &RequestHead) -> Self {
        let compresses = service.edge.compressor.is_some();
        Self {
            is_tls: visit.tls.is_some(),
            is_head: head.method == Method::HEAD,
            asked: compresses.then(|| Asked::new(head)),
            service,
        }
    }

    /// Of a request whose head could not be read, but for what its `method` seems to be.
    pub(super) fn of_nothing(visit: &Visit, service: Arc<Service>, method: &[u8]) -> Self {
        Self {
            is_tls: visit.tls.is_some(),
            is_head: method == b"HEAD",
            asked: None,
            service,
        }
    }

    /// Whether the answer is to a HEAD.
    pub(super) const fn is_head(&self) -> bool {
        self.is_head
    }

    /// The answer to a plain request that should have come by TLS (308, so that a POST stays one).
    pub(super) fn redirect(&self, visit: &Visit, head: &RequestHead) -> Option<Answer> {
        let port = self.service.edge.redirect_port?;
        let came_by_tls =
            || visit.origin.is_trusted() && forwarded::says_https(&head.fields) == Some(true);
        if self.is_tls || came_by_tls() {
            return None;
        }
        let Some(to) = redirect_target(head.host(), port, head.target()) else {
            return Some(answers::plain(StatusCode::BAD_REQUEST));
        };
        let mut answer = answers::plain(StatusCode::PERMANENT_REDIRECT);
        answer.head.fields.append(Name::Location, to.as_bytes());
        Some(answer)
    }

    /// The head of an answer whose body has `length` bytes, if that is known, as the client gets it:
    /// the coding that its body is to get.
    pub(super) fn finish(&self, head: &mut ResponseHead, length: Option<u64>) -> Option<Algorithm> {
        let edge = &self.service.edge;
        if self.is_tls
            && let Some(hsts) = &edge.hsts
        {
            let name = Name::StrictTransportSecurity;
            head.fields.set(name, hsts.as_bytes());
        }
        let (compressor, asked) = edge.compressor.as_ref().zip(self.asked.as_ref())?;
        compressor.plan(asked, head, length)
    }

    /// An answer of our own as the client gets it.
    pub(super) fn finish_own(&self, answer: &mut Answer) {
        let length = Some(answer.body.len() as u64);
        let coding = self.finish(&mut answer.head, length);
        if let Some(algorithm) = coding
            && !answer.body.is_empty()
        {
            match compress::whole(algorithm, &answer.body) {
                Ok(coded) => answer.body = Bytes::from(coded),
                Err(error) => {
                    tracing::error!(%error, "an answer cannot be compressed");
                    answer.head.fields.remove(Name::ContentEncoding);
                }
            }
        }
    }
}

/// What is noted of a request that begins, if its service notes requests.
pub(super) fn record(
    visit: &Rc<Visit>,
    service: &Service,
    version: hyper::Version,
    said: &Said<'_>,
) -> Option<Box<Record>> {
    let sink = service.edge.log.as_ref()?;
    let mut record = Record::begin(sink, visit.origin.peer.ip(), version, said);
    record.tls = visit.tls.map(|agreed| agreed.version);
    Some(Box::new(record))
}
