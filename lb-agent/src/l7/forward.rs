//! One request from its head to the head of its answer.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use lb_common::abi::BackendId;
use tokio::time::sleep;

use super::answers;
use super::body::{Body, ClientBody, RequestBody};
use super::checks;
use super::clock;
use super::errand::{Errand, Received};
use super::extended::Extended;
use super::headers;
use super::kept::Kept;
use super::parts::Lane;
use super::passage::Passage;
use super::progress::{Progress, Tunnel};
use super::reach::{AGAIN, Reached, Way};
use super::rules;
use super::settings::Service;
use super::short::Sent;
use super::sticky::Key;
use super::upstream::{Driven, Failure};
use super::visit::{UnderWay, Visit};

/// How often one request is sent again, at most.
const MOST_REPEATS: u32 = 3;

/// One request under way.
struct Forward<'a> {
    visit: &'a Rc<Visit>,
    service: &'a Service,
    passage: &'a Passage,
    errand: &'a Errand,
    progress: &'a Rc<Progress>,
    /// The protocol that the client wants to go on with.
    upgrade: Option<String>,
    /// The stream of HTTP/2 that is to go on with it.
    extended: Option<Extended>,
    /// Whether it may be sent twice: nothing is changed by it that would not be by sending it once
    /// (RFC 9110, section 9.2.2), and all of it is at hand.
    repeatable: bool,
}

/// Answers a request.
pub(super) async fn handle(
    visit: Rc<Visit>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let extended = Extended::of(&mut request);
    let clean = visit.hand_over();
    let under_way = UnderWay::begin(&visit);
    let progress = Rc::clone(&under_way.progress);
    let Some(service) = visit.service() else {
        let answer = answers::plain(StatusCode::SERVICE_UNAVAILABLE);
        return Ok(answer.map(|body| body.ending(under_way, None)));
    };
    let (head, body) = request.into_parts();
    let passage = Passage::begin(&visit, Arc::clone(&service), under_way, &head);
    let answer = if clean {
        let request = Request::from_parts(head, body);
        answer(&visit, &service, &passage, extended, request).await
    } else {
        Err(StatusCode::BAD_REQUEST)
    };
    // One that was refused before it could go on is over all the same.
    drop(visit.adopted.take());
    let is_unsound = matches!(
        answer,
        Err(StatusCode::BAD_REQUEST | StatusCode::NOT_IMPLEMENTED)
    );
    let mut answer = answer.unwrap_or_else(answers::plain);
    // Where one that cannot be trusted ends is anybody's guess.
    let is_last = is_unsound || must_close(answer.status()) || visit.is_left_over();
    if !visit.is_http2() && is_last && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answers::close(&mut answer);
    }
    progress.answer();
    Ok(passage.finish(answer))
}

/// After these the rest of the request is not worth reading.
fn must_close(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE
    )
}

async fn answer(
    visit: &Rc<Visit>,
    service: &Arc<Service>,
    passage: &Passage,
    extended: Option<Extended>,
    request: Request<Incoming>,
) -> Result<Response<Body>, StatusCode> {
    let (mut head, body) = request.into_parts();
    let settings = &service.http.settings;
    let wishes = checks::check(&mut head, &settings.limits)?;
    if let Some(answer) = passage.redirect(&head) {
        return Ok(answer);
    }
    let host = rules::host_of(&head.uri, &head.headers);
    let place = service.parts.find(host, head.uri.path());
    let lane = service.parts.lane(place);
    checks::size(&head.headers, lane.body)?;
    if let Some(answer) = answers::max_forwards(&mut head)? {
        return Ok(answer);
    }
    let may_upgrade = head.version == Version::HTTP_11 && body.is_end_stream();
    let hop = headers::strip_hop_by_hop(&mut head.headers);
    let upgrade = match extended {
        Some(_) => Some(Extended::rewrite(&mut head, &settings.upgrade)?),
        None => headers::upgrade_to(&head.headers, &settings.upgrade)
            .filter(|_| hop.upgrade && may_upgrade)
            .map(str::to_owned),
    };
    if hop.upgrade {
        head.headers.remove(header::UPGRADE);
    }
    if hop.expects {
        head.headers.remove(header::EXPECT);
    }
    let errand = match Errand::receive(visit, service, place, &mut head)? {
        Received::Forward(errand) => errand,
        Received::Answered(answer) => return Ok(answer),
    };
    passage.note(|record| {
        record.client = errand.asker.ip;
        record.identify(errand.asker.request_id.as_bytes());
    });
    if let Some(protocol) = &upgrade {
        headers::set_upgrade(&mut head.headers, protocol);
    }
    if hop.trailers {
        headers::ask_for_trailers(&mut head.headers);
    }
    if wishes.chunked || is_unmeasured(&head, &body) {
        // Said aloud, as GET with a body of unknown length would be sent without it.
        let chunked = HeaderValue::from_static("chunked");
        head.headers.insert(header::TRANSFER_ENCODING, chunked);
    }
    head.version = Version::HTTP_11;
    let progress = passage.progress();
    let body = client_body(body, hop.named, progress, lane);
    let forward = Forward {
        visit,
        service,
        passage,
        progress,
        errand: &errand,
        extended,
        repeatable: is_idempotent(&head.method) && matches!(body, RequestBody::Empty),
        upgrade,
    };
    let answer = forward.run(Request::from_parts(head, body)).await;
    Ok(answer.unwrap_or_else(|status| match status {
        StatusCode::GONE => errand.farewell(),
        status => errand.page(status),
    }))
}

/// A body of HTTP/2 need not say its length (RFC 9113, section 8.1).
fn is_unmeasured(head: &Parts, body: &Incoming) -> bool {
    head.version == Version::HTTP_2
        && !body.is_end_stream()
        && !head.headers.contains_key(header::CONTENT_LENGTH)
}

fn client_body(
    body: Incoming,
    named: Vec<HeaderName>,
    progress: &Rc<Progress>,
    lane: &Lane,
) -> RequestBody {
    if body.is_end_stream() {
        return RequestBody::Empty;
    }
    RequestBody::Client(ClientBody::new(body, named, Rc::clone(progress), lane))
}

fn is_idempotent(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::DELETE,
    ]
    .contains(method)
}

impl Forward<'_> {
    async fn run(&self, request: Request<RequestBody>) -> Result<Response<Body>, StatusCode> {
        let settings = &self.service.http.settings;
        let lane = self.errand.lane();
        let worker = &self.visit.worker;
        let mut adopted = self.visit.adopted.take();
        if adopted.is_none() {
            worker.budget.earn(settings.upstream.retry_budget_permille);
        }
        let mut way = Way {
            visit: self.visit,
            service: self.service,
            target: self.errand.target,
            key: self.errand.known.key,
            client: self.errand.asker.ip,
            passed: Vec::new(),
            late: false,
        };
        let mut request = request;
        let mut repeats = 0;
        loop {
            let (reached, sent) = match adopted.take() {
                Some(adopted) => (adopted.reached, Some(adopted.sent)),
                None => (way.reach().await, None),
            };
            let mut reached = reached.inspect_err(|status| {
                self.errand.all_down.set(*status != StatusCode::GONE);
            })?;
            let id = reached.upstream.backend;
            self.passage
                .chose(&reached.upstream.name, reached.why, reached.connect);
            if self.errand.is_told_the_backend()
                && let Some(address) = worker.snapshot().address(id)
            {
                self.errand.chosen(&mut request, &address);
            }
            let kept = (self.repeatable && repeats < MOST_REPEATS).then(|| Kept::new(&request));
            self.progress.within(match request.body() {
                RequestBody::Empty => lane.timeouts.first_byte,
                RequestBody::Client(_) => lane.timeouts.body,
            });
            let begun_ms = sent.map_or_else(clock::now_ms, |sent| sent.at_ms);
            let outcome = match sent {
                Some(Sent { is_late: true, .. }) => Err(Failure::Timeout),
                _ => reached.upstream.exchange(request, self.progress).await,
            };
            match outcome {
                Ok(answer) => {
                    worker.faults.answered(id);
                    if self.errand.is_refused_poll(answer.status()) {
                        return Err(StatusCode::GONE);
                    }
                    self.visit
                        .remember(self.errand.target, self.errand.known.key, id);
                    return Ok(self.finish(reached, answer));
                }
                // A connection that its backend closed while it was idle: nothing was written.
                Err(Failure::Unsent(unsent)) if reached.upstream.reused => {
                    worker.pool.forget(id);
                    request = *unsent;
                }
                Err(failure) => {
                    let status = self.failed(&failure, id, begun_ms);
                    let reused = reached.upstream.reused;
                    let again = match failure {
                        Failure::Unsent(unsent) => {
                            (repeats < MOST_REPEATS && worker.budget.spend()).then_some(*unsent)
                        }
                        // No byte of an answer came; over a connection that had been idle the
                        // request most likely never arrived.
                        Failure::Broken => kept
                            .filter(|_| reused || worker.budget.spend())
                            .map(|kept| kept.request()),
                        Failure::Malformed | Failure::Client | Failure::Timeout => None,
                    };
                    request = again.ok_or(status)?;
                    // The backend may be on its way out, with its other connections.
                    worker.pool.forget(id);
                    if !reused {
                        sleep(AGAIN).await;
                    }
                    repeats += 1;
                }
            }
        }
    }

    /// What a failure means for the backend, and for the client.
    fn failed(&self, failure: &Failure, id: BackendId, begun_ms: u64) -> StatusCode {
        if self.progress.is_too_large() {
            return StatusCode::PAYLOAD_TOO_LARGE;
        }
        let faults = &self.visit.worker.faults;
        let settings = &self.service.http.settings.upstream;
        let suspect = |error| self.visit.worker.snapshot().suspect(id, error);
        match failure {
            Failure::Timeout if self.progress.awaits_body() => StatusCode::REQUEST_TIMEOUT,
            Failure::Timeout => {
                suspect("a request was not answered in time");
                faults.failed(id, settings);
                StatusCode::GATEWAY_TIMEOUT
            }
            Failure::Client => StatusCode::BAD_REQUEST,
            Failure::Unsent(_) | Failure::Broken => {
                if faults.broke(id, begun_ms, settings) {
                    suspect("a request got no answer that makes sense");
                }
                // A session lives in one process: one that drops a request of it has most likely
                // ended, and to the client the session is over in any case.
                match self.errand.known.key {
                    Key::Session(_) => StatusCode::GONE,
                    _ => StatusCode::BAD_GATEWAY,
                }
            }
            Failure::Malformed => {
                suspect("a request got no answer that makes sense");
                faults.failed(id, settings);
                StatusCode::BAD_GATEWAY
            }
        }
    }

    /// The answer as the client gets it.
    fn finish(&self, reached: Reached, answer: Response<Incoming>) -> Response<Body> {
        let Reached {
            mut upstream,
            mut active,
            ..
        } = reached;
        let backend = upstream.backend;
        let (mut head, body) = answer.into_parts();
        let seconds = headers::keep_alive_seconds(&head.headers);
        let hop = headers::strip_hop_by_hop(&mut head.headers);
        head.version = Version::HTTP_11;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let granted = headers::upgrade_to(&head.headers, self.upgrade.as_slice());
            let granted = granted.filter(|_| hop.upgrade).map(str::to_owned);
            let Some((protocol, tunnel)) = granted.zip(upstream.into_tunnel()) else {
                return answers::plain(StatusCode::BAD_GATEWAY);
            };
            active.session = self.errand.tunnelled();
            let idle = self.errand.lane().timeouts.tunnel;
            if let Some(extended) = &self.extended {
                Extended::clean(&mut head.headers);
                head.status = StatusCode::OK;
                self.errand
                    .answered(head.status, &mut head.headers, backend);
                extended.join(self.visit, tunnel, active, idle);
                return Response::from_parts(head, Body::empty());
            }
            headers::set_upgrade(&mut head.headers, &protocol);
            self.errand
                .answered(head.status, &mut head.headers, backend);
            self.progress.set_tunnel(Tunnel {
                backend: tunnel,
                active,
                idle,
                record: None,
            });
            return Response::from_parts(head, Body::empty());
        }
        if self.extended.is_some() && head.status.is_success() {
            // To CONNECT that would be consent.
            return answers::plain(StatusCode::BAD_GATEWAY);
        }
        head.headers.remove(header::UPGRADE);
        self.errand
            .answered(head.status, &mut head.headers, backend);
        if let Some(seconds) = seconds {
            upstream.idle_ms = Duration::from_secs(seconds.saturating_sub(1)).as_millis() as u64;
        }
        let pool = Rc::clone(&self.visit.worker.pool);
        let upstreams = &self.service.http.settings;
        // A connection that was introduced is one client's.
        let most = match upstreams.send_proxy_protocol {
            None => upstreams.upstream.keepalive,
            Some(_) => 0,
        };
        let learner = self.errand.learner(head.status, backend);
        let driven = Driven::new(body, hop.named, upstream, pool, most);
        Response::from_parts(head, Body::upstream(driven, active).read_by(learner))
    }
}
