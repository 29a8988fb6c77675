//! One request as its service sees it: which route it takes, who asks, by what it is known, and
//! what that means for its answer.

use std::rc::Rc;
use std::sync::Arc;

use hyper::{Method, StatusCode, Version};
use lb_common::abi::{BackendId, ServiceId};
use lb_http::{Fields, Framing, Name, RequestHead, ResponseHead, hop, list};

use super::access_log::Record;
use super::answers::{self, Answer};
use super::compress;
use super::connection::Visit;
use super::forwarded::{self, Asker};
use super::parts::{Backends, Lane, Target};
use super::rules::{self, Context};
use super::settings::{Service, Snapshot};
use super::sticky::engineio;
use super::sticky::learner::{Learner, Tunnelled};
use super::sticky::sessions::Sessions;
use super::sticky::{self, Known, Memory, Then};
use crate::config::BackendAddress;

/// One request on its way to a backend.
pub(super) struct Request {
    visit: Rc<Visit>,
    pub(super) service: Arc<Service>,
    place: usize,
    /// As its backend gets it.
    pub(super) head: RequestHead,
    /// Of its body.
    pub(super) framing: Framing,
    /// What goes from its trailers.
    pub(super) named: Vec<Vec<u8>>,
    /// The client takes trailers.
    pub(super) takes_trailers: bool,
    /// The protocol that the client wants to go on with.
    pub(super) upgrade: Option<String>,
    /// Who asks.
    pub(super) asker: Asker,
    /// By what it is known.
    pub(super) known: Known,
    /// Its backends' service.
    pub(super) target: ServiceId,
    /// What ends its session for the client, where it is a poll.
    farewell: Option<&'static str>,
}

/// A request as it came.
pub(super) struct Arrived {
    pub(super) head: RequestHead,
    pub(super) framing: Framing,
    /// The protocol that a stream of HTTP/2 is to go on with (RFC 8441).
    pub(super) extended: Option<String>,
}

/// A request, or the answer that it already has.
pub(super) enum Received {
    Forward(Box<Request>),
    Answered(Answer),
}

impl Request {
    /// Takes up a request: finds its route, and sets what its backend is told. The error is the status
    /// to answer with.
    pub(super) fn receive(
        visit: &Rc<Visit>,
        service: &Arc<Service>,
        arrived: Arrived,
        record: &mut Option<Box<Record>>,
    ) -> Result<Received, StatusCode> {
        let Arrived {
            mut head,
            framing,
            extended,
        } = arrived;
        let parts = &service.parts;
        let settings = &service.http.settings;
        let host = std::str::from_utf8(head.host()).unwrap_or_default();
        let path = String::from_utf8_lossy(head.path());
        let place = parts.find(host, &path);
        if parts.is_evasive(host, &path, place) {
            return Err(StatusCode::BAD_REQUEST);
        }
        let lane = parts.lane(place);
        // A body that says how large it is, and is too large, is not even asked for.
        if let (Framing::Length(length), Some(most)) = (framing, lane.body)
            && length > most
        {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        if let Some(answer) = answers::max_forwards(&mut head)? {
            return Ok(Received::Answered(answer));
        }
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
        if service.edge.compressor.is_some() {
            compress::give_back_tags(&mut head.fields);
        }
        let asker = forwarded::forward(&mut head.fields, &visit.origin, settings);
        if let Some(record) = record {
            record.client = asker.ip;
            record.identify(asker.request_id.as_bytes());
        }
        let asks_for_trailers = hop.trailers;
        let mut request = Self {
            visit: Rc::clone(visit),
            service: Arc::clone(service),
            place,
            framing,
            named: hop.named,
            takes_trailers: hop.trailers || head.version == Version::HTTP_2,
            upgrade,
            known: Known {
                key: sticky::Key::Address(asker.ip),
                then: Then::Nothing,
            },
            asker,
            target: ServiceId(0),
            farewell: None,
            head,
        };
        request.apply(&lane.request, None);
        let target = match &lane.target {
            Target::Backends(Backends { service, cookies }) => {
                service.map(|id| (id, cookies.as_ref()))
            }
            own => return request.own_answer(own).map(Received::Answered),
        };
        let Some((target, cookies)) = target else {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        };
        request.target = target;
        let version = request.head.version;
        if !parts.via.pass(&mut request.head.fields, version) {
            return Err(StatusCode::LOOP_DETECTED);
        }
        let snapshot = visit.worker.snapshot();
        request.known = known(&snapshot, service, &request, cookies);
        if request.known.then == Then::Learn {
            // The handshake is read on its way: it has to come as it is.
            request.head.fields.remove(Name::AcceptEncoding);
        }
        request.farewell = request.find_farewell();
        if let Some(protocol) = &request.upgrade {
            hop::set_upgrade(&mut request.head.fields, protocol);
        }
        if asks_for_trailers {
            hop::ask_for_trailers(&mut request.head.fields);
        }
        Ok(Received::Forward(Box::new(request)))
    }

    /// What holds on its route.
    pub(super) fn lane(&self) -> &Lane {
        self.service.parts.lane(self.place)
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

    fn apply(&mut self, rules: &rules::Rules, backend: Option<&BackendAddress>) {
        if rules.is_empty() {
            return;
        }
        let (host, target) = (self.head.host().to_vec(), self.head.target().to_vec());
        let context = Context {
            service: &self.service.http.name,
            origin: &self.visit.origin,
            asker: &self.asker,
            method: &self.head.method,
            host: &host,
            target: &target,
            backend,
        };
        rules.apply(&mut self.head.fields, &context);
    }

    /// Applies the rules that name the backend, now that it is chosen.
    pub(super) fn chosen(&mut self, backend: BackendId) {
        let service = Arc::clone(&self.service);
        let rules = &service.parts.lane(self.place).late;
        if !rules.is_empty() {
            let address = self.visit.worker.snapshot().address(backend);
            self.apply(rules, address.as_ref());
        }
    }

    /// The head of the answer of `backend`, as the client gets it; to be called before the body
    /// goes on.
    pub(super) fn answered(&self, head: &mut ResponseHead, backend: BackendId) {
        match &self.known.then {
            // An answer that a shared cache may keep would bring everybody to one backend.
            Then::Cookie
                if self.known.key != sticky::Key::Backend(backend) && !is_shared(&head.fields) =>
            {
                let cookies = match &self.lane().target {
                    Target::Backends(backends) => backends.cookies.as_ref(),
                    _ => None,
                };
                if let Some(value) = cookies.and_then(|all| all.set(backend, self.asker.https)) {
                    head.fields.append(Name::SetCookie, value.as_bytes());
                }
            }
            // "Session ID unknown", or a request that does not fit it: either way what is
            // remembered is of no use.
            Then::Session(sid) if head.status == StatusCode::BAD_REQUEST => {
                self.sessions().forget(self.target, sid);
            }
            _ => {}
        }
        let rules = &self.lane().response;
        if rules.is_empty() {
            return;
        }
        let address = self.visit.worker.snapshot().address(backend);
        rules.apply(&mut head.fields, &self.context(address.as_ref()));
    }

    fn context<'a>(&'a self, backend: Option<&'a BackendAddress>) -> Context<'a> {
        Context {
            service: &self.service.http.name,
            origin: &self.visit.origin,
            asker: &self.asker,
            method: &self.head.method,
            host: self.head.host(),
            target: self.head.target(),
            backend,
        }
    }

    /// Reads the session out of the answer to a handshake on its way; `None` if it is none.
    pub(super) fn learner(&self, status: StatusCode, backend: BackendId) -> Option<Box<Learner>> {
        (self.known.then == Then::Learn && status == StatusCode::OK)
            .then(|| Box::new(Learner::new(self.sessions(), self.target, backend)))
    }

    /// What ends with a tunnel of this request.
    pub(super) fn tunnelled(&self) -> Option<Box<Tunnelled>> {
        let Then::Session(sid) = &self.known.then else {
            return None;
        };
        let tunnelled = Tunnelled::new(self.sessions(), self.target, sid.clone());
        Some(Box::new(tunnelled))
    }

    /// Whether a backend says of a session that it had that it does not know it any more.
    pub(super) fn is_refused_poll(&self, status: StatusCode) -> bool {
        self.farewell.is_some() && status == StatusCode::BAD_REQUEST
    }

    /// The answer to a request of a session that went with its backend. Whoever polls is told by the
    /// means of Engine.IO that it is over, and begins a new one.
    pub(super) fn farewell(&self) -> Answer {
        if let Then::Session(sid) = &self.known.then {
            self.sessions().forget(self.target, sid);
        }
        match self.farewell {
            Some(packet) => answers::packet(packet),
            None => self.page(StatusCode::GONE, false),
        }
    }

    /// The page for a status that is not an application's. `all_down` says that no backend could be
    /// had.
    pub(super) fn page(&self, status: StatusCode, all_down: bool) -> Answer {
        // Where nobody is there, a page says so, whether they were asked or known to be away.
        let status = match status {
            StatusCode::BAD_GATEWAY if all_down => StatusCode::SERVICE_UNAVAILABLE,
            status => status,
        };
        let pages = &self.service.parts.pages;
        let accept = self.head.fields.get(Name::Accept);
        let shown = pages.show(status, all_down, accept, self.asker.request_id.as_str());
        answers::page(status, shown)
    }

    /// A redirect, or a fixed answer.
    fn own_answer(&self, target: &Target) -> Result<Answer, StatusCode> {
        let context = self.context(None);
        let mut answer = match target {
            Target::Redirect { to, status } => {
                let to = rules::location(to, &context).ok_or(StatusCode::BAD_REQUEST)?;
                let mut answer = Answer::empty(*status);
                answer.head.fields.append(Name::Location, &to);
                answer
            }
            Target::Answer {
                status,
                body,
                content_type,
            } => match status.as_u16() {
                204 | 304 => Answer::empty(*status),
                _ => Answer::new(*status, content_type, body.clone()),
            },
            Target::Backends(_) => return Err(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let rules = &self.lane().response;
        rules.apply(&mut answer.head.fields, &context);
        Ok(answer)
    }

    /// Kept from the head, for when its backend turns out to be gone.
    fn find_farewell(&self) -> Option<&'static str> {
        match self.known.key {
            sticky::Key::Session(_) if self.head.method == Method::GET => {
                engineio::farewell(std::str::from_utf8(self.head.query()?).ok()?)
            }
            _ => None,
        }
    }

    fn sessions(&self) -> Arc<Sessions> {
        Arc::clone(&self.visit.worker.snapshot().sessions)
    }
}

/// Whether a shared cache may store an answer because it says so (RFC 9111, section 3).
fn is_shared(fields: &Fields) -> bool {
    let has = |wanted| list::has(fields.all(Name::CacheControl), wanted);
    let is_fresh = || {
        list::members(fields.all(Name::CacheControl)).any(|directive| {
            let starts = |name: &[u8]| {
                let start = directive.get(..name.len());
                start.is_some_and(|start| start.eq_ignore_ascii_case(name))
            };
            (starts(b"max-age=") && directive != b"max-age=0") || starts(b"s-maxage=")
        })
    };
    fields.has(Name::CacheControl)
        && !(has("private") || has("no-store") || has("no-cache"))
        && (has("public") || is_fresh())
}

fn known(
    snapshot: &Snapshot,
    service: &Service,
    request: &Request,
    cookies: Option<&sticky::cookie::Cookies>,
) -> Known {
    let memory = Memory {
        cookies,
        sessions: &snapshot.sessions,
    };
    let ip = request.asker.ip;
    match snapshot.observed.tables.get(&request.target) {
        Some(built) => sticky::known(
            &service.http.settings.stickiness,
            &built.table().head,
            ip,
            &request.head.fields,
            request.head.query(),
            memory,
        ),
        None => Known {
            key: sticky::Key::Address(ip),
            then: Then::Nothing,
        },
    }
}
