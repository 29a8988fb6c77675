//! A request's way through a service, from its head to the last byte of its answer: sent to TLS
//! where it should have come by TLS, noted in the access log, its answer compressed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HOST, HeaderValue, LOCATION, STRICT_TRANSPORT_SECURITY};
use hyper::http::request;
use hyper::{Response, StatusCode, Version};

use super::access_log::{Record, Said};
use super::answers::plain;
use super::body::Body;
use super::compress::Asked;
use super::edge::redirect_target;
use super::progress::Progress;
use super::settings::Service;
use super::short::Adopted;
use super::visit::{UnderWay, Visit};

/// One request under way.
pub(super) struct Passage {
    visit: Rc<Visit>,
    service: Arc<Service>,
    under_way: UnderWay,
    record: RefCell<Option<Box<Record>>>,
    asked: Option<Asked>,
}

impl Passage {
    /// A request with this head begins.
    pub(super) fn begin(
        visit: &Rc<Visit>,
        service: Arc<Service>,
        under_way: UnderWay,
        head: &request::Parts,
    ) -> Self {
        let edge = &service.edge;
        let begun = visit
            .adopted
            .borrow_mut()
            .as_mut()
            .and_then(Adopted::record);
        let record = begun.or_else(|| Self::record(visit, &service, head.version, &Said::of(head)));
        let compressor = edge.compressor.as_ref();
        let asked = compressor.map(|_| Asked::new(&head.method, &head.headers));
        Self {
            visit: Rc::clone(visit),
            under_way,
            record: RefCell::new(record),
            asked,
            service,
        }
    }

    /// What is noted of a request that begins, if it is noted.
    pub(super) fn record(
        visit: &Visit,
        service: &Service,
        version: Version,
        said: &Said<'_>,
    ) -> Option<Box<Record>> {
        let sink = service.edge.log.as_ref()?;
        let mut record = Record::begin(sink, visit.origin.peer.ip(), version, said);
        record.tls = visit.tls.map(|agreed| agreed.version);
        Some(Box::new(record))
    }

    /// The answer to a plain request that should have come by TLS (308, so that a POST stays one).
    pub(super) fn redirect(&self, head: &request::Parts) -> Option<Response<Body>> {
        let port = self.service.edge.redirect_port?;
        if self.visit.tls.is_some() || self.came_by_tls(head) {
            return None;
        }
        let authority = head
            .uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        let host = authority.or_else(|| head.headers.get(HOST).map(HeaderValue::as_bytes));
        let target = head
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let Some(to) = redirect_target(host.unwrap_or_default(), port, target) else {
            return Some(plain(StatusCode::BAD_REQUEST));
        };
        let mut answer = plain(StatusCode::PERMANENT_REDIRECT);
        answer.headers_mut().insert(LOCATION, to);
        Some(answer)
    }

    /// Whether a trusted proxy in front of us says that it took the request by TLS.
    fn came_by_tls(&self, head: &request::Parts) -> bool {
        let said = head.headers.get("x-forwarded-proto");
        self.visit.origin.is_trusted()
            && said.is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(b"https"))
    }

    /// How far it is.
    pub(super) fn progress(&self) -> &Rc<Progress> {
        &self.under_way.progress
    }

    /// Changes what is noted, if the request is noted.
    pub(super) fn note(&self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.record.borrow_mut().as_deref_mut() {
            change(record);
        }
    }

    /// A backend was chosen.
    pub(super) fn chose(&self, backend: &str, why: &'static str, connect: Duration) {
        self.note(|record| {
            record.chose(backend, why);
            record.connect = Some(connect);
        });
    }

    /// The answer as it goes to the client. Its end is the end of the request, unless it begins a
    /// tunnel.
    pub(super) fn finish(self, answer: Response<Body>) -> Response<Body> {
        let (mut head, mut body) = answer.into_parts();
        self.note(|record| record.answered(head.status));
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let record = self.record.into_inner();
            self.under_way.progress.set_tunnel_record(record);
            return Response::from_parts(head, body.ending(self.under_way, None));
        }
        let edge = &self.service.edge;
        if let (Some(hsts), Some(_)) = (&edge.hsts, self.visit.tls) {
            head.headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        if let (Some(compressor), Some(asked)) = (&edge.compressor, &self.asked)
            && let Some(algorithm) = compressor.plan(asked, &mut head)
        {
            body = body.compressed(algorithm);
        }
        Response::from_parts(head, body.ending(self.under_way, self.record.into_inner()))
    }
}
