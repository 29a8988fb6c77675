//! One request with what is known of it: how its client wants it treated, who asks, by what it is known.
//! Filters and handlers work on it.

use std::rc::Rc;
use std::sync::Arc;

use hyper::{Method, StatusCode, Version};
use lb_common::abi::{BackendId, ServiceId};
use lb_http::{Framing, Name, RequestHead, hop};

use super::access_log::{Record, Said};
use super::answers::{self, Answer};
use super::compress::Asked;
use super::connection::Visit;
use super::forwarded::{self, Asker};
use super::parts::{Lane, Target};
use super::rules::{self, Values};
use super::settings::Service;
use super::sticky::cookie::Cookies;
use super::sticky::engineio;
use super::sticky::learner::{Learner, Tunnelled};
use super::sticky::sessions::Sessions;
use super::sticky::{self, Key, Known, Memory, Then};
use crate::config::BackendAddress;

/// One request.
pub(super) struct RequestContext {
    pub(super) visit: Rc<Visit>,
    pub(super) service: Arc<Service>,
    /// Of its lane.
    place: usize,
    /// As its backend gets it.
    pub(super) head: RequestHead,
    /// Of its body.
    pub(super) framing: Framing,
    /// What goes from its trailers.
    pub(super) named: Vec<Vec<u8>>,
    /// The client asks for trailers (`TE`).
    asks_for_trailers: bool,
    /// The protocol that the client wants to go on with.
    pub(super) upgrade: Option<String>,
    /// Who asks.
    pub(super) asker: Asker,
    /// How its answer may be compressed, if it may.
    pub(super) asked: Option<Asked>,
    /// By what it is known.
    pub(super) known: Known,
    /// The service of its backends; `None` for a request that none answers, or before they have tables.
    pub(super) target: Option<ServiceId>,
    /// What ends its session for the client, where it is a poll.
    farewell: Option<&'static str>,
    /// What is noted of it, if its service notes requests.
    pub(super) record: Option<Box<Record>>,
}

impl RequestContext {
    /// A request that was found to be one; `extended` is the protocol that a stream of HTTP/2 is to go on
    /// with (RFC 8441).
    pub(super) fn new(
        visit: &Rc<Visit>,
        service: Arc<Service>,
        mut head: RequestHead,
        framing: Framing,
        extended: Option<String>,
    ) -> Box<Self> {
        let mut record = record(visit, &service, head.version, &Said::of(&head));
        let host = std::str::from_utf8(head.host()).unwrap_or_default();
        let place = service
            .parts
            .find(host, &String::from_utf8_lossy(head.path()));
        let settings = &service.http.settings;
        let hop = hop::strip(&mut head.fields);
        let may_upgrade = head.version == Version::HTTP_11 && framing.is_empty() && hop.upgrade;
        let upgrade = extended.or_else(|| {
            let protocol = hop::upgrade_to(&head.fields, &settings.upgrade);
            protocol.filter(|_| may_upgrade).map(str::to_owned)
        });
        head.fields.remove(Name::Upgrade);
        if !settings.underscore_headers {
            forwarded::drop_underscores(&mut head.fields);
        }
        let asker = forwarded::forward(&mut head.fields, &visit.origin, settings);
        if let Some(record) = &mut record {
            record.client = asker.ip;
            record.identify(asker.request_id.as_bytes());
        }
        Box::new(Self {
            place,
            framing,
            named: hop.named,
            asks_for_trailers: hop.trailers,
            upgrade,
            ..Self::bare(visit, service, head, asker, record)
        })
    }

    /// A request that is refused as it is none; `said` is what can be noted of it.
    pub(super) fn refused(
        visit: &Rc<Visit>,
        service: Arc<Service>,
        head: RequestHead,
        said: &Said<'_>,
    ) -> Box<Self> {
        let record = record(visit, &service, head.version, said);
        let asker = Asker::of_connection(&visit.origin);
        Box::new(Self::bare(visit, service, head, asker, record))
    }

    fn bare(
        visit: &Rc<Visit>,
        service: Arc<Service>,
        head: RequestHead,
        asker: Asker,
        record: Option<Box<Record>>,
    ) -> Self {
        Self {
            visit: Rc::clone(visit),
            place: service.parts.without_route(),
            service,
            head,
            framing: Framing::None,
            named: Vec::new(),
            asks_for_trailers: false,
            upgrade: None,
            asked: None,
            known: Known {
                key: Key::Address(asker.ip),
                then: Then::Nothing,
            },
            asker,
            target: None,
            farewell: None,
            record,
        }
    }

    /// What holds on its route.
    pub(super) fn lane(&self) -> &Lane {
        self.service.parts.lane(self.place)
    }

    /// The same, of `service`, which is its own.
    pub(super) fn lane_of<'a>(&self, service: &'a Service) -> &'a Lane {
        service.parts.lane(self.place)
    }

    /// Whether it came by TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.visit.tls.is_some()
    }

    /// Whether it is a HEAD.
    pub(super) fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }

    /// Whether its client takes trailers.
    pub(super) fn takes_trailers(&self) -> bool {
        self.asks_for_trailers || self.head.version == Version::HTTP_2
    }

    /// Whether sending it twice changes nothing that sending it once would not (RFC 9110, section
    /// 9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        [
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::PUT,
            Method::DELETE,
        ]
        .contains(&self.head.method)
    }

    /// Whether a backend may read its path as one of another route (see [`Parts::is_evasive`]).
    ///
    /// [`Parts::is_evasive`]: super::parts::Parts::is_evasive
    pub(super) fn is_evasive(&self) -> bool {
        let host = std::str::from_utf8(self.head.host()).unwrap_or_default();
        let path = String::from_utf8_lossy(self.head.path());
        self.service.parts.is_evasive(host, &path, self.place)
    }

    /// What is for the next hop only: to be set after all filters.
    pub(super) fn ask_next_hop(&mut self) {
        if let Some(protocol) = &self.upgrade {
            hop::set_upgrade(&mut self.head.fields, protocol);
        }
        if self.asks_for_trailers {
            hop::ask_for_trailers(&mut self.head.fields);
        }
    }

    /// Applies rules to the request.
    pub(super) fn apply(&mut self, rules: &rules::Rules, backend: Option<&BackendAddress>) {
        if rules.is_empty() {
            return;
        }
        // Variables mean the request as it was before the rules.
        let (host, target) = (self.head.host().to_vec(), self.head.target().to_vec());
        let values = Values {
            service: &self.service.http.name,
            origin: &self.visit.origin,
            asker: &self.asker,
            method: &self.head.method,
            host: &host,
            target: &target,
            backend,
        };
        rules.apply(&mut self.head.fields, &values);
    }

    /// What variables in rules stand for.
    pub(super) fn values<'a>(&'a self, backend: Option<&'a BackendAddress>) -> Values<'a> {
        Values {
            service: &self.service.http.name,
            origin: &self.visit.origin,
            asker: &self.asker,
            method: &self.head.method,
            host: self.head.host(),
            target: self.head.target(),
            backend,
        }
    }

    /// Where a backend listens.
    pub(super) fn address_of(&self, backend: BackendId) -> Option<BackendAddress> {
        self.visit.worker.snapshot().address(backend)
    }

    /// Finds out by what it is known.
    pub(super) fn recognize(&mut self) {
        let lane = self.service.parts.lane(self.place);
        let Target::Backends(backends) = &lane.target else {
            return;
        };
        self.target = backends.service;
        let snapshot = self.visit.worker.snapshot();
        let built = self.target.and_then(|id| snapshot.observed.tables.get(&id));
        if let Some(built) = built {
            let memory = Memory {
                cookies: backends.cookies.as_ref(),
                sessions: &snapshot.sessions,
            };
            self.known = sticky::known(
                &self.service.http.settings.stickiness,
                &built.table().head,
                self.asker.ip,
                &self.head.fields,
                self.head.query(),
                memory,
            );
        }
        self.farewell = self.find_farewell();
    }

    /// Kept from the head, for when its backend turns out to be gone.
    fn find_farewell(&self) -> Option<&'static str> {
        match self.known.key {
            Key::Session(_) if self.head.method == Method::GET => {
                engineio::farewell(std::str::from_utf8(self.head.query()?).ok()?)
            }
            _ => None,
        }
    }

    fn cookies(&self) -> Option<&Cookies> {
        match &self.lane().target {
            Target::Backends(backends) => backends.cookies.as_ref(),
            _ => None,
        }
    }

    /// The cookie by which clients of a backend are known.
    pub(super) fn cookie_of(&self, backend: BackendId) -> Option<String> {
        self.cookies()?.set(backend, self.asker.https)
    }

    /// What is remembered of its session is of no use any more.
    pub(super) fn forget_session(&self) {
        if let (Then::Session(sid), Some(target)) = (&self.known.then, self.target) {
            self.sessions().forget(target, sid);
        }
    }

    /// Reads the session out of the answer to a handshake on its way; `None` if it is none.
    pub(super) fn learner(&self, status: StatusCode, backend: BackendId) -> Option<Box<Learner>> {
        let target = self.target.filter(|_| status == StatusCode::OK)?;
        let learns = self.known.then == Then::Learn;
        learns.then(|| Box::new(Learner::new(self.sessions(), target, backend)))
    }

    /// What ends with a tunnel of this request.
    pub(super) fn tunnelled(&self) -> Option<Box<Tunnelled>> {
        match (&self.known.then, self.target) {
            (Then::Session(sid), Some(target)) => {
                let tunnelled = Tunnelled::new(self.sessions(), target, sid.clone());
                Some(Box::new(tunnelled))
            }
            _ => None,
        }
    }

    /// Whether a backend says of a session that it had that it does not know it any more.
    pub(super) fn is_refused_poll(&self, status: StatusCode) -> bool {
        self.farewell.is_some() && status == StatusCode::BAD_REQUEST
    }

    /// The answer to a request of a session that went with its backend. Whoever polls is told by the
    /// means of Engine.IO that it is over, and begins a new one.
    pub(super) fn farewell(&self) -> Answer {
        self.forget_session();
        match self.farewell {
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
        let pages = &self.service.parts.pages;
        let accept = self.head.fields.get(Name::Accept);
        let id = self.asker.request_id.as_str();
        answers::page(status, pages.show(status, all_down, accept, id))
    }

    fn sessions(&self) -> Arc<Sessions> {
        Arc::clone(&self.visit.worker.snapshot().sessions)
    }
}

/// What is noted of a request that begins, if its service notes requests.
fn record(
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
