//! One request from its head to the head of its answer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use h2::Reason;
use hyper::{StatusCode, Version};
use lb_common::abi::{BackendId, ServiceId};
use lb_http1::response::Malformed;
use lb_http1::{Framing, Name, ResponseHead, framing, hop};
use tokio::time::sleep;

use super::answers::Answer;
use super::cache::{Fill, Seen};
use super::carrier::Carrier;
use super::clock;
use super::compiled::RouteConfig;
use super::compress::Coded;
use super::context::RequestContext;
use super::download::{self, Download, Terms};
use super::failure::Failure;
use super::filters::{Cleared, Permit, Source};
use super::head_reader::{HeadReader, ResponseStart};
use super::metrics::Cause;
use super::peer::{Peer, PeerError};
use super::progress::Progress;
use super::record::Record;
use super::selector::{AGAIN, Connected, Unreached, UpstreamSelector};
use super::settings::Service;
use super::sticky::Key;
use super::transfer::Transfer;
use super::tunnel::Tunnel;
use super::upload::{Upload, UploadError};
use super::upstream::Upstream;
use lb_config::http::Protocol;

/// How often one request of which nothing was written is sent again, at most.
const MOST_REPEATS: u32 = 3;
/// Most bytes of an answer over HTTP/2 that are read at once: they wait for the window of their stream.
pub(super) const OF_STREAM: usize = 32 * 1024;

/// The outcome of an exchange.
pub(super) enum Outcome {
    /// An answer that is at hand.
    Own(Cleared<Answer>),
    /// One that comes from a backend, or from a disk.
    Backend(Box<Reply>),
    /// The backend has reset the stream of a call, which gets the same reason.
    Reset(Reason),
    /// A backend has agreed to go on with another protocol.
    Tunnel(Cleared<ResponseHead>, Box<Tunnel>),
    /// The client has gone away.
    Gone,
}

/// An answer whose body is on its way, as the client gets it.
pub(super) struct Reply {
    pub(super) head: Cleared<ResponseHead>,
    /// Bytes of the body, if that is known; of that which is not sent for a HEAD.
    pub(super) length: Option<u64>,
    pub(super) has_body: bool,
    /// How long the backend may pause.
    pub(super) pause: Option<Duration>,
    pub(super) transfer: Transfer,
}

/// The place of a request: its service, its route, and the service of the route's backends.
pub(super) type Place<'a> = (&'a Service, &'a RouteConfig, Option<ServiceId>);

/// Has a backend answer a request.
pub(super) async fn proxy(
    permit: Permit,
    (context, record): (&mut RequestContext, &mut Record),
    place: Place<'_>,
    peer: &mut impl Peer,
    progress: &Progress,
) -> Outcome {
    let fetched = fetch(permit, (context, record), place, (peer, progress), None);
    match fetched.await {
        Ok(outcome) => outcome,
        Err(refusal) => refuse(context, refusal),
    }
}

/// Why no backend has answered.
pub(super) struct Refused {
    status: StatusCode,
    /// The service whose backends were asked.
    service: Option<ServiceId>,
    /// No backend could be had.
    all_down: bool,
}

/// Has a backend answer a request. With `fill`, the cache may take the answer: that is a refusal, too.
pub(super) async fn fetch(
    _permit: Permit,
    (context, record): (&mut RequestContext, &mut Record),
    (of_service, route, service): Place<'_>,
    (peer, progress): (&mut impl Peer, &Progress),
    fill: Option<&mut Fill>,
) -> Result<Outcome, Refused> {
    let refused = |status| Refused {
        status,
        service: None,
        all_down: false,
    };
    let Some(service) = service else {
        record.failed(Cause::NoBackend);
        return Err(refused(StatusCode::SERVICE_UNAVAILABLE));
    };
    if context.upgrade.is_some() && route.protocol == Protocol::H2c {
        // A WebSocket over HTTP/2 is another handshake (RFC 8441), which few backends know.
        return Err(refused(StatusCode::NOT_IMPLEMENTED));
    }
    let mut exchange = Exchange {
        route,
        service,
        progress,
        record,
        fill,
        all_down: false,
    };
    let outcome = exchange.run(context, of_service, peer).await;
    outcome.map_err(|status| Refused {
        status,
        service: Some(service),
        all_down: exchange.all_down,
    })
}

/// The answer to a request that no backend has answered.
pub(super) fn refuse(context: &RequestContext, refused: Refused) -> Outcome {
    let answer = match (refused.status, refused.service) {
        (StatusCode::GONE, Some(service)) => context.session_closed(service),
        (status, _) if refused.all_down => context.page_all_down(status),
        (status, _) => context.page(status),
    };
    Outcome::Own(context.clear(Source::Gateway, answer))
}

struct Exchange<'a> {
    route: &'a RouteConfig,
    /// That of the backends.
    service: ServiceId,
    progress: &'a Progress,
    record: &'a mut Record,
    /// What the cache wants of the answer.
    fill: Option<&'a mut Fill>,
    /// No backend could be had.
    all_down: bool,
}

impl Exchange<'_> {
    async fn run(
        &mut self,
        request: &mut RequestContext,
        service: &Service,
        peer: &mut impl Peer,
    ) -> Result<Outcome, StatusCode> {
        let connection = Rc::clone(&request.connection);
        let worker = &connection.worker;
        let settings = &service.http.settings;
        request.ask_next_hop();
        worker.budget.earn(settings.upstream.retry_budget_permille);
        let mut selector = UpstreamSelector {
            connection: &connection,
            service,
            target: self.service,
            protocol: self.route.protocol,
            key: request.sticky.key,
            client: request.asker.ip,
            passed: Vec::new(),
            late: false,
        };
        let named = std::mem::take(&mut request.named);
        let mut upload = Upload::new(request.framing, self.route, named);
        let mut repeats = 0;
        loop {
            let mut connected = match unless_gone(peer, selector.reach()).await {
                None => return Ok(Outcome::Gone),
                Some(Ok(connected)) => connected,
                Some(Err(Unreached { status, cause })) => {
                    self.all_down = status != StatusCode::GONE;
                    self.record.failed(cause);
                    return Err(status);
                }
            };
            let id = connected.upstream.backend;
            self.record.chose(&worker.meters, id);
            let name = &connected.upstream.name;
            self.record.reached(name, connected.why, connected.connect);
            request.backend_chosen(id);
            upload.counts_for(self.record.counters());
            let carrier = &mut connected.upstream.carrier;
            upload.begin(&request.head, request.framing, carrier);
            let begun_ms = clock::now_ms();
            let asked = self.ask(request, &mut connected.upstream, &mut upload, peer);
            let failure = match asked.await {
                Ok(start) => {
                    worker.breaker.answered(id);
                    if request.is_refused_poll(start.head.status) {
                        return Err(StatusCode::GONE);
                    }
                    connection.remember(self.service, request.sticky.key, id);
                    return self.finish(request, connected, start, upload);
                }
                Err(Failure::Gone | Failure::Upload(UploadError::Peer(PeerError::Gone))) => {
                    if !upload.is_over() {
                        connected.upstream.carrier.abandon();
                    }
                    return Ok(Outcome::Gone);
                }
                Err(failure) => failure,
            };
            let reused = connected.upstream.reused;
            // A connection that its backend closed while it was idle: nothing was written.
            if matches!(failure, Failure::Unsent) && reused {
                worker.pool.forget(id);
                continue;
            }
            // The method does not matter: the backend has not processed the request (RFC 9113, section
            // 8.7).
            if matches!(failure, Failure::Refused)
                && upload.is_whole()
                && repeats < MOST_REPEATS
                && worker.budget.spend()
            {
                repeats += 1;
                sleep(AGAIN).await;
                continue;
            }
            if matches!(failure, Failure::Timeout) && !self.progress.awaits_body() {
                connected.upstream.carrier.doubt();
            }
            self.record.failed(failure.cause());
            let status = self.failed(request, &failure, id, begun_ms);
            let may_repeat = match &failure {
                Failure::Unsent => repeats < MOST_REPEATS && worker.budget.spend(),
                // No byte of an answer came; over a connection that had been idle the request most
                // likely never arrived.
                Failure::Broken | Failure::Reset(_) => {
                    let is_harmless = request.is_idempotent() && upload.is_whole();
                    let most = settings.upstream.retries;
                    is_harmless && repeats < most && (reused || worker.budget.spend())
                }
                _ => false,
            };
            if !may_repeat {
                return match failure.reason() {
                    Some(reason) if request.is_call() => Ok(Outcome::Reset(reason)),
                    _ => Err(status),
                };
            }
            // The backend may be on its way out, with its other connections.
            worker.pool.forget(id);
            if !reused {
                sleep(AGAIN).await;
            }
            repeats += 1;
        }
    }

    /// Sends the request, and waits for the head of the final answer.
    async fn ask(
        &self,
        request: &RequestContext,
        upstream: &mut Upstream,
        upload: &mut Upload,
        peer: &mut impl Peer,
    ) -> Result<ResponseStart, Failure> {
        let route = self.route;
        self.progress.within(if request.framing.is_empty() {
            route.timeouts.first_byte
        } else {
            route.timeouts.body
        });
        let mut answer = HeadReader::new(request.service.http.settings.limits.response_headers);
        poll_fn(|context| {
            let carrier = &mut upstream.carrier;
            let sent = upload.poll(peer, carrier, self.progress, context);
            if let Poll::Ready(Err(error)) = sent {
                return Poll::Ready(Err(Failure::Upload(error)));
            }
            // Also of a request that could not be written: it may have been refused.
            let start = match carrier {
                Carrier::Own(stream) => {
                    answer
                        .poll(stream, peer, context)
                        .map_err(|failure| match failure {
                            Failure::Broken if !upload.is_begun() => Failure::Unsent,
                            failure => failure,
                        })
                }
                Carrier::Shared(call) => answer.poll_shared(call, peer, context),
            };
            if start.is_ready() {
                return start;
            }
            if peer.poll_gone(context).is_ready() {
                return Poll::Ready(Err(Failure::Gone));
            }
            ready!(self.progress.poll_deadline(context));
            Poll::Ready(Err(Failure::Timeout))
        })
        .await
    }

    /// Maps a failure to its effect on the backend and to the client's outcome.
    fn failed(
        &self,
        request: &RequestContext,
        failure: &Failure,
        id: BackendId,
        begun_ms: u64,
    ) -> StatusCode {
        let worker = &request.connection.worker;
        let breaker = &worker.breaker;
        let settings = &request.service.http.settings.upstream;
        let suspect = |error| worker.snapshot().suspect(id, error);
        match failure {
            Failure::Upload(UploadError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::Upload(UploadError::Peer(_)) | Failure::Gone => StatusCode::BAD_REQUEST,
            Failure::Timeout if self.progress.awaits_body() => StatusCode::REQUEST_TIMEOUT,
            Failure::Timeout => {
                suspect("a request was not answered in time");
                breaker.failed(id, settings);
                StatusCode::GATEWAY_TIMEOUT
            }
            Failure::Unsendable => StatusCode::BAD_REQUEST,
            Failure::Refused => {
                suspect("a request was refused");
                breaker.failed(id, settings);
                StatusCode::SERVICE_UNAVAILABLE
            }
            Failure::Unsent | Failure::Broken | Failure::Reset(_) => {
                if breaker.broke(id, begun_ms, settings) {
                    suspect("a request got no answer that makes sense");
                }
                // A session lives in one process: one that drops a request of it has most likely
                // ended, and to the client the session is over in any case.
                match request.sticky.key {
                    Key::Session(_) => StatusCode::GONE,
                    _ => StatusCode::BAD_GATEWAY,
                }
            }
            Failure::Malformed(problem) => {
                suspect(problem);
                breaker.failed(id, settings);
                StatusCode::BAD_GATEWAY
            }
        }
    }

    /// The answer as the client gets it.
    fn finish(
        &mut self,
        request: &mut RequestContext,
        connected: Connected,
        start: ResponseStart,
        mut upload: Upload,
    ) -> Result<Outcome, StatusCode> {
        let Connected {
            mut upstream,
            mut active,
            ..
        } = connected;
        let ResponseStart {
            mut head,
            input,
            at,
        } = start;
        let backend = upstream.backend;
        let is_shared = matches!(upstream.carrier, Carrier::Shared(_));
        if head.status == StatusCode::SWITCHING_PROTOCOLS
            && let Carrier::Own(stream) = upstream.carrier
        {
            active.becomes_tunnel();
            active.session = request.tunnelled(self.service);
            return self.upgrade(request, head, backend, |idle| Tunnel {
                stream,
                early: input[at..].to_vec(),
                active,
                idle,
            });
        }
        if request.head.version == Version::HTTP_2
            && request.upgrade.is_some()
            && head.status.is_success()
        {
            // To CONNECT that would be consent.
            self.record.failed(Cause::Malformed);
            return Err(StatusCode::BAD_GATEWAY);
        }
        let framing = head.framing(&request.head.method);
        let framing = framing.map_err(|Malformed(what)| {
            self.record.failed(Cause::Malformed);
            self.failed(request, &Failure::Malformed(what), backend, 0);
            StatusCode::BAD_GATEWAY
        })?;
        let declared = head.fields.get(Name::ContentLength);
        let mut length = match framing {
            Framing::Length(length) => Some(length),
            Framing::None => declared.and_then(lb_http1::list::number),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let stays = head.stays();
        if let Some(seconds) = head.idle_seconds() {
            upstream.idle_ms = Duration::from_secs(seconds.saturating_sub(1)).as_millis() as u64;
        }
        let hop = hop::strip(&mut head.fields);
        head.fields.remove(Name::Upgrade);
        let status = head.status;
        let mut copying = None;
        match self.fill.as_deref_mut() {
            None => {}
            Some(fill) => match fill.answered(&request.head, &mut head, length) {
                Seen::Pass => {}
                Seen::Copy(copy) => copying = Some(copy),
                Seen::Taken => {
                    let is_clean = framing.is_empty() && at == input.len() && stays && !is_shared;
                    let settings = &request.service.http.settings;
                    if is_clean && settings.send_proxy_protocol.is_none() {
                        let pool = &request.connection.worker.pool;
                        pool.put(upstream, settings.upstream.keepalive);
                    }
                    return Err(status);
                }
            },
        }
        let source = Source::Backend(backend);
        let (head, coding) = request.clear_head(source, head, length);
        let mut coded = None;
        if let Some(algorithm) = coding {
            length = None;
            if !framing.is_empty() {
                coded = Some(Box::new(Coded::new(algorithm)));
            }
        }
        let upstreams = &request.service.http.settings;
        // A connection that was introduced is one client's.
        let most_idle = match upstreams.send_proxy_protocol {
            None if stays && !is_shared => upstreams.upstream.keepalive,
            _ => 0,
        };
        let sniffer = request.sniffer(self.service, status, backend);
        upload.answered();
        let terms = Terms {
            // A stream marks its end by itself, and may have trailers there.
            framing: match framing {
                Framing::None => Framing::None,
                _ if is_shared => Framing::UntilClose,
                framing => framing,
            },
            coded,
            copying,
            sniffer,
            named: hop.named,
            passes_trailers: request.takes_trailers(),
            most: if request.head.version == Version::HTTP_2 {
                OF_STREAM
            } else {
                download::CHUNK
            },
        };
        let has_body = framing::may_have_body(&request.head.method, status);
        Ok(Outcome::Backend(Box::new(Reply {
            head,
            length,
            has_body,
            pause: self.route.timeouts.response,
            transfer: Transfer::new(
                upload,
                Download::new(upstream, active, (input, at), terms),
                &request.connection,
                most_idle,
            ),
        })))
    }

    /// The client gets another protocol, if it has asked for the one that was granted.
    fn upgrade(
        &mut self,
        request: &RequestContext,
        mut head: ResponseHead,
        backend: BackendId,
        tunnel: impl FnOnce(Option<Duration>) -> Tunnel,
    ) -> Result<Outcome, StatusCode> {
        let hop = hop::strip(&mut head.fields);
        let granted = hop::upgrade_to(&head.fields, request.upgrade.as_slice());
        let Some(protocol) = granted.filter(|_| hop.upgrade) else {
            self.record.failed(Cause::Malformed);
            return Err(StatusCode::BAD_GATEWAY);
        };
        if request.head.version == Version::HTTP_2 {
            head.set_status(StatusCode::OK);
            head.fields.remove(Name::Upgrade);
            head.fields.remove(Name::SecWebsocketAccept);
        } else {
            hop::set_upgrade(&mut head.fields, protocol);
        }
        let source = Source::Backend(backend);
        let (head, _) = request.clear_head(source, head, None);
        let idle = self.route.timeouts.tunnel;
        Ok(Outcome::Tunnel(head, Box::new(tunnel(idle))))
    }
}

/// Waits for `what`; `None` if the client goes away.
pub(super) async fn unless_gone<T>(
    peer: &mut impl Peer,
    what: impl Future<Output = T>,
) -> Option<T> {
    let mut what = pin!(what);
    poll_fn(|context| {
        if let Poll::Ready(done) = what.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        peer.poll_gone(context).map(|()| None)
    })
    .await
}
