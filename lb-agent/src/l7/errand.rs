//! One request as its service sees it: which lane it takes, who asks, by what it is known, and
//! what that means for its answer.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, SET_COOKIE};
use hyper::http::request::Parts as Head;
use hyper::http::uri::Uri;
use hyper::{Method, Response, StatusCode};
use lb_common::abi::{BackendId, ServiceId};

use super::answers;
use super::body::Body;
use super::forwarded::{self, Asker};
use super::parts::{Backends, Lane, Target};
use super::rules::{self, Context};
use super::settings::{Service, Snapshot};
use super::sticky::engineio::{self, Handshake};
use super::sticky::sessions::Sessions;
use super::sticky::{self, Known, Memory, Then};
use super::visit::Visit;
use crate::config::BackendAddress;

/// One request.
pub(super) struct Errand {
    visit: Rc<Visit>,
    service: Arc<Service>,
    place: usize,
    /// Who asks.
    pub(super) asker: Asker,
    /// By what it is known.
    pub(super) known: Known,
    /// Its backends' service.
    pub(super) target: ServiceId,
    /// No backend could be had.
    pub(super) all_down: Cell<bool>,
    accept: Option<HeaderValue>,
    /// What ends its session for the client, where it is a poll.
    farewell: Option<&'static str>,
    /// What rules for the answer need of the request.
    said: Option<Box<Said>>,
}

struct Said {
    method: Method,
    uri: Uri,
    host: HeaderValue,
}

/// A request, or the answer that it already has.
pub(super) enum Received {
    Forward(Errand),
    Answered(Response<Body>),
}

impl Errand {
    /// Takes up a request whose fields of one hop are gone, and whose lane is `place`: sets what
    /// its backend is told.
    pub(super) fn receive(
        visit: &Rc<Visit>,
        service: &Arc<Service>,
        place: usize,
        head: &mut Head,
    ) -> Result<Received, StatusCode> {
        let parts = &service.parts;
        let settings = &service.http.settings;
        if !settings.underscore_headers {
            forwarded::drop_underscores(&mut head.headers);
        }
        let lane = parts.lane(place);
        let mut asker = forwarded::forward(&mut head.headers, &visit.origin, settings);
        if let Some(adopted) = &*visit.adopted.borrow() {
            forwarded::rename(&mut head.headers, &mut asker, &adopted.id);
        }
        if !lane.request.is_empty() {
            let host = head.headers.get(HOST).cloned();
            let context = context(
                visit,
                service,
                &asker,
                &head.method,
                &head.uri,
                host.as_ref(),
            );
            lane.request.apply(&mut head.headers, &context);
        }
        let target = match &lane.target {
            Target::Backends(Backends { service, cookies }) => {
                service.map(|id| (id, cookies.as_ref()))
            }
            own => {
                let host = head.headers.get(HOST);
                let context = context(visit, service, &asker, &head.method, &head.uri, host);
                let answer = own_answer(own, &context)?;
                return Ok(Received::Answered(finished(lane, answer, &context)));
            }
        };
        let Some((target, cookies)) = target else {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        };
        if !parts.via.pass(&mut head.headers, head.version) {
            return Err(StatusCode::LOOP_DETECTED);
        }
        let snapshot = visit.worker.snapshot();
        let known = known(&snapshot, service, target, &asker, head, cookies);
        if known.then == Then::Learn {
            // The handshake is read on its way: it has to come as it is.
            head.headers.remove(hyper::header::ACCEPT_ENCODING);
        }
        let said = (!lane.response.is_empty()).then(|| {
            Box::new(Said {
                method: head.method.clone(),
                uri: head.uri.clone(),
                host: head.headers.get(HOST).cloned().unwrap_or(EMPTY),
            })
        });
        Ok(Received::Forward(Self {
            visit: Rc::clone(visit),
            service: Arc::clone(service),
            place,
            asker,
            target,
            all_down: Cell::new(false),
            accept: head.headers.get(ACCEPT).cloned(),
            farewell: farewell(&known, head),
            known,
            said,
        }))
    }

    /// What holds on its lane.
    pub(super) fn lane(&self) -> &Lane {
        self.service.parts.lane(self.place)
    }

    /// Whether a rule for the request names the backend.
    pub(super) fn is_told_the_backend(&self) -> bool {
        !self.lane().late.is_empty()
    }

    /// Applies the rules that name the backend, now that it is chosen.
    pub(super) fn chosen<B>(&self, request: &mut hyper::Request<B>, backend: &BackendAddress) {
        let rules = &self.lane().late;
        let host = request.headers().get(HOST).cloned();
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let mut context = context(
            &self.visit,
            &self.service,
            &self.asker,
            &method,
            &uri,
            host.as_ref(),
        );
        context.backend = Some(backend);
        rules.apply(request.headers_mut(), &context);
    }

    /// The head of the answer of `backend`, as the client gets it; to be called before the body
    /// goes on.
    pub(super) fn answered(&self, status: StatusCode, headers: &mut HeaderMap, backend: BackendId) {
        match &self.known.then {
            Then::Cookie if self.known.key != sticky::Key::Backend(backend) => {
                let cookie = match &self.lane().target {
                    Target::Backends(backends) => backends.cookies.as_ref(),
                    _ => None,
                };
                if let Some(value) = cookie.and_then(|all| all.set(backend, self.asker.https)) {
                    headers.append(SET_COOKIE, value);
                }
            }
            // "Session ID unknown", or a request that does not fit it: either way what is
            // remembered is of no use.
            Then::Session(sid) if status == StatusCode::BAD_REQUEST => {
                self.sessions().forget(self.target, sid);
            }
            _ => {}
        }
        let Some(said) = &self.said else { return };
        let snapshot = self.visit.worker.snapshot();
        let address = snapshot.address(backend);
        let mut context = context(
            &self.visit,
            &self.service,
            &self.asker,
            &said.method,
            &said.uri,
            Some(&said.host),
        );
        context.backend = address.as_ref();
        self.lane().response.apply(headers, &context);
    }

    /// Reads the session out of the answer to a handshake on its way; `None` if it is none.
    pub(super) fn learner(&self, status: StatusCode, backend: BackendId) -> Option<Box<Learner>> {
        (self.known.then == Then::Learn && status == StatusCode::OK).then(|| {
            Box::new(Learner {
                sessions: self.sessions(),
                service: self.target,
                backend,
                begun: Vec::new(),
            })
        })
    }

    /// What ends with a tunnel of this request.
    pub(super) fn tunnelled(&self) -> Option<Box<Tunnelled>> {
        let Then::Session(sid) = &self.known.then else {
            return None;
        };
        Some(Box::new(Tunnelled {
            sessions: self.sessions(),
            service: self.target,
            sid: sid.clone(),
        }))
    }

    /// Whether a backend says of a session that it had that it does not know it any more.
    pub(super) fn is_refused_poll(&self, status: StatusCode) -> bool {
        self.farewell.is_some() && status == StatusCode::BAD_REQUEST
    }

    /// The answer to a request of a session that went with its backend. Whoever polls is told by the
    /// means of Engine.IO that it is over, and begins a new one.
    pub(super) fn farewell(&self) -> Response<Body> {
        if let Then::Session(sid) = &self.known.then {
            self.sessions().forget(self.target, sid);
        }
        match self.farewell {
            Some(packet) => answers::packet(packet),
            None => self.page(StatusCode::GONE),
        }
    }

    /// The page for a status that is not an application's.
    pub(super) fn page(&self, status: StatusCode) -> Response<Body> {
        let id = self.asker.request_id.to_str().unwrap_or_default();
        let all_down = self.all_down.get();
        // Where nobody is there, a page says so, whether they were asked or known to be away.
        let status = match status {
            StatusCode::BAD_GATEWAY if all_down => StatusCode::SERVICE_UNAVAILABLE,
            status => status,
        };
        let pages = &self.service.parts.pages;
        let shown = pages.show(status, all_down, self.accept.as_ref(), id);
        answers::page(status, shown)
    }

    fn sessions(&self) -> Arc<Sessions> {
        Arc::clone(&self.visit.worker.snapshot().sessions)
    }
}

const EMPTY: HeaderValue = HeaderValue::from_static("");

fn known(
    snapshot: &Snapshot,
    service: &Service,
    target: ServiceId,
    asker: &Asker,
    head: &Head,
    cookies: Option<&sticky::cookie::Cookies>,
) -> Known {
    let memory = Memory {
        cookies,
        sessions: &snapshot.sessions,
    };
    let stickiness = &service.http.settings.stickiness;
    match snapshot.observed.tables.get(&target) {
        Some(built) => sticky::known(
            stickiness,
            &built.table().head,
            asker.ip,
            &head.headers,
            head.uri.query(),
            memory,
        ),
        None => Known {
            key: sticky::Key::Address(asker.ip),
            then: Then::Nothing,
        },
    }
}

/// Kept from the head, for when its backend turns out to be gone.
fn farewell(known: &Known, head: &Head) -> Option<&'static str> {
    match known.key {
        sticky::Key::Session(_) if head.method == Method::GET => {
            engineio::farewell(head.uri.query()?)
        }
        _ => None,
    }
}

fn context<'a>(
    visit: &'a Visit,
    service: &'a Service,
    asker: &'a Asker,
    method: &'a Method,
    uri: &'a Uri,
    host: Option<&'a HeaderValue>,
) -> Context<'a> {
    Context {
        service: &service.http.name,
        origin: &visit.origin,
        asker,
        method,
        host: host.and_then(|host| host.to_str().ok()).unwrap_or_default(),
        target: uri.path_and_query().map_or("/", |target| target.as_str()),
        backend: None,
    }
}

/// A redirect, or a fixed answer.
fn own_answer(target: &Target, context: &Context<'_>) -> Result<Response<Body>, StatusCode> {
    let mut answer = Response::new(Body::empty());
    match target {
        Target::Redirect { to, status } => {
            let to = rules::location(to, context).ok_or(StatusCode::BAD_REQUEST)?;
            *answer.status_mut() = *status;
            answer.headers_mut().insert(LOCATION, to);
        }
        Target::Answer {
            status,
            body,
            content_type,
        } => {
            *answer.status_mut() = *status;
            if !matches!(status.as_u16(), 204 | 304) {
                *answer.body_mut() = Body::full(body.clone());
                answer
                    .headers_mut()
                    .insert(CONTENT_TYPE, content_type.clone());
            }
        }
        Target::Backends(_) => return Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
    Ok(answer)
}

fn finished(lane: &Lane, mut answer: Response<Body>, context: &Context<'_>) -> Response<Body> {
    lane.response.apply(answer.headers_mut(), context);
    answer
}

/// Learns which backend has a session from the answer to its handshake.
pub(super) struct Learner {
    sessions: Arc<Sessions>,
    service: ServiceId,
    backend: BackendId,
    begun: Vec<u8>,
}

impl Learner {
    /// Looks at a piece of the answer before the client gets it; `false` when no more is needed.
    pub(super) fn look(&mut self, piece: &[u8]) -> bool {
        let room = engineio::LONGEST.saturating_sub(self.begun.len());
        self.begun
            .extend_from_slice(&piece[..piece.len().min(room)]);
        match engineio::handshake(&self.begun) {
            Handshake::Of(sid) => {
                self.sessions.learn(self.service, &sid, self.backend);
                false
            }
            Handshake::Partial => self.begun.len() < engineio::LONGEST,
            Handshake::Other => false,
        }
    }
}

/// A session that has become a tunnel; with its end it is most likely over.
pub(super) struct Tunnelled {
    sessions: Arc<Sessions>,
    service: ServiceId,
    sid: String,
}

impl Drop for Tunnelled {
    fn drop(&mut self) {
        self.sessions.leave(self.service, &self.sid);
    }
}
