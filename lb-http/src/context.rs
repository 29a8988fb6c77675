//! One request with its connection, its service and its route: the input of handlers.

use std::io;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::{StatusCode, Version};
use lb_common::abi::{BackendId, ServiceId};
use lb_http1::{Framing, Name, RequestHead, ResponseHead, hop};

use super::access_log::{Line, LogFields};
use super::answers::{self, Answer};
use super::auth::Servers;
use super::compiled::RouteConfig;
use super::compress;
use super::connection::Connection;
use super::filters::{Cleared, Permit, Refusal, Source, Stopped};
use super::forwarded::{self, Asker};
use super::h2c::is_grpc;
use super::limits::Limited;
use super::metrics::Method;
use super::record::Record;
use super::request::Request;
use super::settings::Service;
use super::sticky::engineio;
use super::sticky::sessions::Sessions;
use super::sticky::sniffer::{SessionSniffer, TunnelledSession};
use super::sticky::{Key, StickyAction, StickyKey};
use super::trace::{self, Facts, OpenSpans, TraceContext};
use lb_config::http::Algorithm;

/// One request.
pub(super) struct RequestContext {
    pub(super) connection: Rc<Connection>,
    pub(super) service: Arc<Service>,
    /// The place of its route.
    place: usize,
    /// As filters see it.
    request: Request,
    /// The names of fields to remove from its trailers.
    pub(super) named: Vec<Vec<u8>>,
    /// The client asks for trailers (`TE`).
    asks_for_trailers: bool,
}

impl Deref for RequestContext {
    type Target = Request;

    fn deref(&self) -> &Request {
        &self.request
    }
}

impl DerefMut for RequestContext {
    fn deref_mut(&mut self) -> &mut Request {
        &mut self.request
    }
}

impl RequestContext {
    /// A request that was found to be one; `extended` is the protocol that a stream of HTTP/2 is to go on
    /// with (RFC 8441).
    pub(super) fn new(
        connection: &Rc<Connection>,
        service: Arc<Service>,
        mut head: RequestHead,
        framing: Framing,
        extended: Option<String>,
    ) -> (Box<Self>, Record) {
        let mut record = record(connection, &service, head.version, &LogFields::of(&head));
        let place = match service.compiled.is_plain() {
            true => service.compiled.without_route(),
            false => {
                let host = std::str::from_utf8(head.host()).unwrap_or_default();
                let path = String::from_utf8_lossy(head.path());
                service.compiled.find(host, &path)
            }
        };
        let settings = &service.http.settings;
        let hop = hop::strip(&mut head.fields);
        let may_upgrade = head.version == Version::HTTP_11 && framing.is_empty() && hop.upgrade;
        let upgrade = extended.or_else(|| {
            let protocol = hop::upgrade_to(&head.fields, &settings.upgrade);
            protocol.filter(|_| may_upgrade).map(str::to_owned)
        });
        head.fields.remove(Name::Upgrade);
        forwarded::drop_disguised(&mut head.fields, settings.underscore_headers);
        let asker = match service.compiled.route(place).is_passed_on() {
            true => forwarded::forward(&mut head.fields, &connection.origin, settings),
            false => forwarded::read(&mut head.fields, &connection.origin, settings),
        };
        if let Some(line) = &mut record.line {
            line.client = asker.ip;
            line.identify(asker.request_id.as_bytes());
        }
        let trace = followed(connection, &service, place, &mut head, &asker, &mut record);
        let mut request = request(connection, head, framing, asker, upgrade);
        request.trace = trace;
        let context = Box::new(Self {
            connection: Rc::clone(connection),
            service,
            place,
            request,
            named: hop.named,
            asks_for_trailers: hop.trailers,
        });
        (context, record)
    }

    /// The same request, to be made again by the gateway itself.
    pub(super) fn again(&self) -> Box<Self> {
        Box::new(Self {
            connection: Rc::clone(&self.connection),
            service: Arc::clone(&self.service),
            place: self.place,
            request: self.request.clone(),
            named: self.named.clone(),
            asks_for_trailers: self.asks_for_trailers,
        })
    }

    /// A request that is refused as it is none. `log_fields` is what can be noted of one whose head could not be
    /// read; the others are noted by their head.
    pub(super) fn refused(
        connection: &Rc<Connection>,
        service: Arc<Service>,
        head: RequestHead,
        log_fields: Option<&LogFields<'_>>,
    ) -> (Box<Self>, Record) {
        let of_head = LogFields::of(&head);
        let log_fields = log_fields.unwrap_or(&of_head);
        let record = record(connection, &service, head.version, log_fields);
        let asker = Asker::of_connection(&connection.origin);
        let context = Box::new(Self {
            connection: Rc::clone(connection),
            place: service.compiled.without_route(),
            service,
            request: request(connection, head, Framing::None, asker, None),
            named: Vec::new(),
            asks_for_trailers: false,
        });
        (context, record)
    }

    /// The configuration of its route.
    pub(super) fn route(&self) -> &RouteConfig {
        self.service.compiled.route(self.place)
    }

    /// The same, of `service`, which is its own.
    pub(super) fn route_of<'a>(&self, service: &'a Service) -> &'a RouteConfig {
        service.compiled.route(self.place)
    }

    /// Whether its client takes trailers.
    pub(super) fn takes_trailers(&self) -> bool {
        self.asks_for_trailers || self.head.version == Version::HTTP_2
    }

    /// Whether it is a call of gRPC over HTTP/2, whose client knows the reasons of resets.
    pub(super) fn is_call(&self) -> bool {
        self.head.version == Version::HTTP_2 && is_grpc(&self.head.fields)
    }

    /// Whether sending it twice changes nothing that sending it once would not (RFC 9110, section
    /// 9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        [
            hyper::Method::GET,
            hyper::Method::HEAD,
            hyper::Method::OPTIONS,
            hyper::Method::PUT,
            hyper::Method::DELETE,
        ]
        .contains(&self.head.method)
    }

    /// Sets the fields for the next hop only, after all filters.
    pub(super) fn ask_next_hop(&mut self) {
        let Request { head, upgrade, .. } = &mut self.request;
        if let Some(protocol) = upgrade {
            hop::set_upgrade(&mut head.fields, protocol);
        }
        if self.asks_for_trailers {
            hop::ask_for_trailers(&mut head.fields);
        }
    }

    /// Has the filters of its route look at the request.
    pub(super) async fn admit(&mut self, route: &RouteConfig) -> Result<Permit, Stopped> {
        let snapshot = self.connection.worker.snapshot();
        let filters = &route.filters;
        let servers = Servers {
            connections: &self.connection.worker.pool.auth,
            admission: &snapshot.admission,
        };
        filters.admit(&mut self.request, &**snapshot, servers).await
    }

    /// Whether its answer is for one user, as far as is known.
    pub(super) fn is_of_user(&self) -> bool {
        self.auth.is_some()
            || self.origin.certificate().is_some()
            || self.head.fields.has(Name::Authorization)
    }

    /// Tells the filters which backend was chosen.
    pub(super) fn backend_chosen(&mut self, backend: BackendId) {
        let snapshot = self.connection.worker.snapshot();
        let route = self.service.compiled.route(self.place);
        route
            .filters
            .backend_chosen(&mut self.request, &**snapshot, backend);
    }

    /// Has the filters look at the head of an answer whose body has `length` bytes, if that is known; with
    /// it comes the coding that the body is to get.
    pub(super) fn clear_head(
        &self,
        source: Source,
        head: ResponseHead,
        length: Option<u64>,
    ) -> (Cleared<ResponseHead>, Option<Algorithm>) {
        let snapshot = self.connection.worker.snapshot();
        let filters = &self.route().filters;
        filters.clear(&self.request, &**snapshot, source, head, length)
    }

    /// Has the filters look at an answer that is at hand.
    pub(super) fn clear(&self, source: Source, answer: Answer) -> Cleared<Answer> {
        let code = |algorithm, body: &Bytes| compress::whole(algorithm, body).map(Bytes::from);
        self.clear_coded(source, answer, &code)
    }

    /// The same, with `code` to compress its body.
    pub(super) fn clear_coded(
        &self,
        source: Source,
        answer: Answer,
        code: &dyn Fn(Algorithm, &Bytes) -> io::Result<Bytes>,
    ) -> Cleared<Answer> {
        let snapshot = self.connection.worker.snapshot();
        let filters = &self.route().filters;
        filters.clear_answer(&self.request, &**snapshot, source, answer, code)
    }

    /// A page for `status`, which the filters have seen.
    pub(super) fn refuse(&self, status: StatusCode) -> Cleared<Answer> {
        self.clear(Source::Gateway, self.page(status))
    }

    /// The page of a refusal.
    pub(super) fn refuse_for(&self, refusal: Refusal) -> Cleared<Answer> {
        let mut page = self.page(refusal.status);
        if let Some((name, value)) = refusal.field {
            let fields = &mut page.head.fields;
            fields.append_called(name.as_bytes(), value.as_bytes());
        }
        self.clear(Source::Gateway, page)
    }

    /// Kept from the head, for when its backend turns out to be gone.
    fn closing_packet(&self) -> Option<&'static str> {
        match self.sticky.key {
            Key::Session(_) if self.head.method == hyper::Method::GET => {
                engineio::farewell(self.head.query()?)
            }
            _ => None,
        }
    }

    /// Reads the session out of the answer of a backend of `service` to a handshake on its way; `None` if
    /// it is none.
    pub(super) fn sniffer(
        &self,
        service: ServiceId,
        status: StatusCode,
        backend: BackendId,
    ) -> Option<Box<SessionSniffer>> {
        let learns = self.sticky.action == StickyAction::Learn && status == StatusCode::OK;
        learns.then(|| Box::new(SessionSniffer::new(self.sessions(), service, backend)))
    }

    /// The session that ends with a tunnel of this request to a backend of `service`.
    pub(super) fn tunnelled(&self, service: ServiceId) -> Option<Box<TunnelledSession>> {
        match &self.sticky.action {
            StickyAction::Session(sid) => {
                let tunnelled = TunnelledSession::new(self.sessions(), service, sid.clone());
                Some(Box::new(tunnelled))
            }
            _ => None,
        }
    }

    /// Whether a backend says of a session that it had that it does not know it any more.
    pub(super) fn is_refused_poll(&self, status: StatusCode) -> bool {
        status == StatusCode::BAD_REQUEST && self.closing_packet().is_some()
    }

    /// The answer to a request of a session of `service` whose backend is gone. A polling client is told by
    /// the means of Engine.IO that the session is over, and begins a new one.
    pub(super) fn session_closed(&self, service: ServiceId) -> Answer {
        if let StickyAction::Session(sid) = &self.sticky.action {
            self.sessions().forget(service, sid);
        }
        match self.closing_packet() {
            Some(packet) => answers::packet(packet),
            None => self.page(StatusCode::GONE),
        }
    }

    /// The page for a status that is not an application's.
    pub(super) fn page(&self, status: StatusCode) -> Answer {
        self.page_of(status, false)
    }

    /// The page for a request of which no backend could be had, known to be away or found to be.
    pub(super) fn page_all_down(&self, status: StatusCode) -> Answer {
        let status = match status {
            StatusCode::BAD_GATEWAY => StatusCode::SERVICE_UNAVAILABLE,
            status => status,
        };
        self.page_of(status, true)
    }

    fn page_of(&self, status: StatusCode, all_down: bool) -> Answer {
        let pages = &self.service.compiled.pages;
        let accept = self.head.fields.get(Name::Accept);
        let id = self.asker.request_id.as_str();
        answers::page(status, pages.show(status, all_down, accept, id))
    }

    fn sessions(&self) -> Arc<Sessions> {
        Arc::clone(&self.connection.worker.snapshot().sessions)
    }
}

fn request(
    connection: &Connection,
    head: RequestHead,
    framing: Framing,
    asker: Asker,
    upgrade: Option<String>,
) -> Request {
    let sticky = StickyKey {
        key: Key::Address(asker.ip),
        action: StickyAction::Nothing,
    };
    Request {
        head,
        framing,
        origin: Rc::clone(&connection.origin),
        asker,
        trace: None,
        upgrade,
        meta: None,
        sticky,
        auth: None,
        limited: Limited::default(),
    }
}

/// The trace of a request. Its record gets the spans, if they are exported.
fn followed(
    connection: &Connection,
    service: &Service,
    place: usize,
    head: &mut RequestHead,
    asker: &Asker,
    record: &mut Record,
) -> Option<TraceContext> {
    let tracing = service.http.settings.tracing.as_ref();
    let queue = tracing.and_then(|_| connection.worker.snapshot().spans.clone());
    let followed = trace::follow(&mut head.fields, tracing, queue.is_some())?;
    if let Some(line) = &mut record.line {
        line.trace = Some(followed.own());
    }
    if let (Some(ids), Some(queue)) = (followed.ids, &queue) {
        let facts = Facts {
            context: followed.context,
            ids,
            scheme: forwarded::scheme(asker.https),
            client: asker.ip,
            service: &service.http.name,
            route: service.http.routes.get(place),
        };
        record.spans = Some(Box::new(OpenSpans::begin(queue, head, &facts)));
    }
    Some(followed.context)
}

/// The record of a request that begins now.
fn record(
    connection: &Connection,
    service: &Service,
    version: Version,
    log_fields: &LogFields<'_>,
) -> Record {
    let line = service.listener.log.as_ref().map(|sink| {
        let client = connection.origin.peer.ip();
        let mut line = Box::new(Line::begin(sink, client, version, log_fields));
        line.tls = connection.tls.map(|agreed| agreed.version);
        if let Some(certificate) = connection.origin.certificate() {
            line.certify(&certificate.subject);
        }
        line
    });
    let method = Method::of(log_fields.method);
    Record::begin(connection.meter(service), method, line)
}
