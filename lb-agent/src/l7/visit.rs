//! A client's connection: what is known of it, and its life from the first byte to the last.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lb_common::abi::{BackendId, ServiceId};
use lb_common::select::Reason;
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;

use super::forwarded::Origin;
use super::handshake::{self, Agreed};
use super::progress::{Phase, Progress};
use super::sentry::Sentry;
use super::settings::{Service, Snapshot};
use super::short::{self, Adopted, Left};
use super::sticky::Key;
use super::stream::Stream;
use super::tunnel::{self, End};
use super::watched::Watched;
use super::worker::Worker;
use super::{access_log, clock, forward, h2, proxied};
use crate::admission::listener::Client;
use crate::config::http::{Limits, Timeouts};

/// How soon a client that goes on is remembered again.
const REMEMBER_MS: u64 = 60_000;

/// One connection of a client.
pub(super) struct Visit {
    /// The thread that it belongs to.
    pub(super) worker: Rc<Worker>,
    /// The address that it came to.
    pub(super) local: SocketAddr,
    /// How far it is, over HTTP/1.1.
    pub(super) progress: Rc<Progress>,
    /// Whoever made it, and what is told of that.
    pub(super) origin: Origin,
    /// Where its requests went last.
    pub(super) chosen: Cell<Option<Chosen>>,
    /// Where its client was remembered to be, and when.
    remembered: Cell<Option<(ServiceId, Key, BackendId, u64)>>,
    /// The service that its requests go to, with the generation of the settings.
    service: RefCell<Option<(u64, Arc<Service>)>>,
    sentry: RefCell<Sentry>,
    /// What was agreed on in the TLS handshake, if there was one.
    pub(super) tls: Option<Agreed>,
    /// Requests under way: more than one with HTTP/2 alone.
    under_way: Cell<u32>,
    idle: Cell<Duration>,
    head: Cell<Duration>,
    /// How long it may take to make room for more of an answer.
    pub(super) send: Cell<Option<Duration>>,
    /// The request that the short way has begun and handed over.
    pub(super) adopted: RefCell<Option<Adopted>>,
}

/// A request on its way through this connection, until this is dropped.
pub(super) struct UnderWay {
    visit: Rc<Visit>,
    pub(super) progress: Rc<Progress>,
}

impl UnderWay {
    /// One more.
    pub(super) fn begin(visit: &Rc<Visit>) -> Self {
        visit.under_way.set(visit.under_way.get() + 1);
        visit.progress.exchange();
        let progress = if visit.is_http2() {
            let of_stream = Progress::new();
            of_stream.exchange();
            Rc::new(of_stream)
        } else {
            Rc::clone(&visit.progress)
        };
        Self {
            visit: Rc::clone(visit),
            progress,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let left = self.visit.under_way.get() - 1;
        self.visit.under_way.set(left);
        if left == 0 {
            self.visit.end();
        }
    }
}

/// A choice of a backend, and what it was made for.
#[derive(Clone, Copy)]
pub(super) struct Chosen {
    pub(super) generation: u64,
    pub(super) service: ServiceId,
    pub(super) key: Key,
    pub(super) backend: BackendId,
    pub(super) reason: Reason,
}

impl Visit {
    /// Bytes of a client were read.
    pub(super) fn read(&self, bytes: &[u8]) {
        if self.is_http2() {
            return;
        }
        self.begin_head();
        self.sentry.borrow_mut().read(bytes);
    }

    /// The first bytes of a request may have come.
    pub(super) fn begin_head(&self) {
        if self.progress.phase() == Phase::Idle {
            self.progress.head(self.head.get());
        }
    }

    /// A request was handed over; false if hyper has mended what should be refused.
    pub(super) fn hand_over(&self) -> bool {
        self.is_http2() || !self.sentry.borrow_mut().hand_over()
    }

    /// No request is under way any more.
    pub(super) fn end(&self) {
        self.sentry.borrow_mut().resume();
        self.progress.idle(self.idle.get());
    }

    /// Whether it is HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.tls.is_some_and(|agreed| agreed.http2)
    }

    /// Remembers where the client went, at the beginning and then every now and then.
    pub(super) fn remember(&self, service: ServiceId, key: Key, backend: BackendId) {
        let now_ms = clock::now_ms();
        let known = self.remembered.get();
        let fresh = known.is_some_and(|(known, by, id, at_ms)| {
            (known, by, id) == (service, key, backend) && now_ms < at_ms + REMEMBER_MS
        });
        if !fresh {
            self.remembered.set(Some((service, key, backend, now_ms)));
            self.worker.snapshot().remember(service, key, backend);
        }
    }

    /// Whether its address is not listened on any more, so that it is to end.
    pub(super) fn is_left_over(&self) -> bool {
        let known = self.service.borrow();
        let known = known.as_ref().map(|(generation, _)| *generation);
        let snapshot = self.worker.snapshot();
        known != Some(snapshot.generation) && snapshot.service_at(self.local).is_none()
    }

    /// The service that this connection's requests go to. One that does not listen here any more
    /// answers under the settings that it had.
    pub(super) fn service(&self) -> Option<Arc<Service>> {
        let snapshot = self.worker.snapshot();
        let mut known = self.service.borrow_mut();
        if let Some((generation, service)) = &*known
            && (*generation == snapshot.generation || snapshot.service_at(self.local).is_none())
        {
            return Some(Arc::clone(service));
        }
        let service = Arc::clone(snapshot.service_at(self.local)?);
        let timeouts = &service.http.settings.timeouts;
        self.idle.set(timeouts.idle);
        self.head.set(timeouts.header);
        self.send.set(timeouts.send);
        *known = Some((snapshot.generation, Arc::clone(&service)));
        Some(service)
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, mut stream: Client, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let (peer, local) = (canonical(peer), canonical(local));
    if let Some((service, most)) = worker.snapshot().limit(local)
        && !stream.joins(service, most)
    {
        return stream.reset();
    }
    let Some(mut origin) = origin(&worker, &mut stream, peer, local).await else {
        return;
    };
    let usual = Timeouts::default();
    let snapshot = worker.snapshot();
    let service = snapshot.service_at(local);
    let over_tls = service.filter(|service| Snapshot::is_tls(service, local));
    let (stream, tls) = match over_tls.map(|service| service.edge.tls.clone()) {
        None => (Stream::Client(stream), None),
        Some(config) => {
            drop(snapshot);
            // Boxed: those without TLS need not hold room for it.
            let Some(config) = config else { return };
            let accepted = Box::pin(handshake::accept(config, stream, usual.header)).await;
            let Some((stream, agreed)) = accepted else {
                return;
            };
            (stream, Some(agreed))
        }
    };
    origin.https = tls.is_some();
    let visit = Rc::new(Visit {
        origin,
        worker,
        local,
        progress: Rc::new(Progress::new()),
        chosen: Cell::new(None),
        remembered: Cell::new(None),
        service: RefCell::new(None),
        sentry: RefCell::default(),
        tls,
        under_way: Cell::new(0),
        idle: Cell::new(usual.idle),
        head: Cell::new(usual.header),
        send: Cell::new(usual.send),
        adopted: RefCell::new(None),
    });
    let Some(service) = visit.service() else {
        return;
    };
    let watched = |stream| Watched {
        stream,
        visit: Rc::clone(&visit),
    };
    if visit.is_http2() {
        visit.end();
        Box::pin(h2::converse(watched(stream), &visit)).await;
        return;
    }
    visit.progress.head(visit.head.get());
    let io = match short::converse(stream, &visit).await {
        Left::Over => return,
        Left::Late(stream) => return too_late(stream).await,
        Left::Rest(stream) => watched(stream),
    };
    // Boxed: most connections never need it.
    let conversed = Box::pin(converse(io, &visit, &service.http.settings.limits)).await;
    if let Some((io, early)) = conversed {
        become_tunnel(io.stream.plain(), early, &visit);
    }
}

/// Who made the connection: whoever its PROXY header names, if a trusted proxy is to send one.
/// `None` if there is no service, or no header.
async fn origin(
    worker: &Worker,
    stream: &mut Client,
    peer: SocketAddr,
    local: SocketAddr,
) -> Option<Origin> {
    let snapshot = worker.snapshot();
    let settings = &snapshot.service_at(local)?.http.settings;
    let trusted = &settings.trusted_proxies;
    let is_proxy = || trusted.iter().any(|block| block.contains(peer.ip()));
    if !(settings.proxy_protocol && is_proxy()) {
        return Some(Origin::new(peer, local, false, trusted));
    }
    match Box::pin(proxied::read(stream.stream_mut(), settings.timeouts.header)).await {
        Ok(told) => {
            let (peer, local) = told.unwrap_or((peer, local));
            Some(Origin::new(peer, local, false, trusted))
        }
        Err(error) => {
            tracing::debug!(%error, %peer, "no PROXY header");
            None
        }
    }
}

/// Answers requests until the connection ends. What is left of it is returned when it becomes a
/// tunnel.
async fn converse(io: Watched, visit: &Rc<Visit>, limits: &Limits) -> Option<(Watched, Bytes)> {
    let service = service_fn(|request| forward::handle(Rc::clone(visit), request));
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes);
    if limits.headers > DEFAULT_HEADERS {
        builder.max_headers(limits.headers);
    }
    let mut connection = builder.serve_connection(TokioIo::new(io), service);
    let (mut told, mut hurried) = (false, false);
    let over = poll_fn(|context| {
        loop {
            let is_adopted = visit.adopted.borrow().is_some();
            let in_head = is_adopted || visit.progress.phase() == Phase::Head;
            if visit.worker.is_stopping() && !told && !in_head {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(over) = Pin::new(&mut connection).poll(context) {
                return Poll::Ready(if over.is_ok() {
                    Over::Done
                } else {
                    Over::Broken
                });
            }
            if !visit.worker.is_stopping() || told {
                break;
            }
            if visit.progress.phase() == Phase::Head {
                // Whoever has just connected is answered, if the request is on its way.
                if !hurried {
                    hurried = true;
                    visit.progress.head(LAST_HEAD);
                }
                break;
            }
        }
        if visit.progress.poll_deadline(context).is_ready() {
            match visit.progress.phase() {
                // The request itself minds the time.
                Phase::Exchange => {}
                Phase::Head => return Poll::Ready(Over::Late),
                Phase::Idle | Phase::Answer => return Poll::Ready(Over::Broken),
            }
        }
        Poll::Pending
    })
    .await;
    match over {
        Over::Done if visit.progress.is_tunnel() => {
            let parts = connection.into_parts();
            Some((parts.io.into_inner(), parts.read_buf))
        }
        Over::Late => {
            too_late(connection.into_parts().io.into_inner().stream).await;
            None
        }
        Over::Done | Over::Broken => None,
    }
}

/// How long the head of a request may take when the agent ends.
const LAST_HEAD: Duration = Duration::from_secs(1);
/// Header lines for which hyper needs no memory of its own.
const DEFAULT_HEADERS: usize = 100;

/// Why a connection is over.
enum Over {
    /// It came to its end, or becomes a tunnel.
    Done,
    /// The head of a request took too long.
    Late,
    /// The client went away, or does not read.
    Broken,
}

/// Answers 408 to a head that did not come to its end (RFC 9110, section 15.5.9).
async fn too_late(mut stream: Stream) {
    let answer = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

/// Goes on in a task of its own, which is much smaller than that of a connection.
fn become_tunnel(stream: Stream, early: Bytes, visit: &Visit) {
    let Some(tunnel) = visit.progress.take_tunnel() else {
        return;
    };
    let client = End { stream, early };
    let backend = End {
        stream: tunnel.backend.stream,
        early: tunnel.backend.early,
    };
    let (active, idle, record) = (tunnel.active, tunnel.idle, tunnel.record);
    visit.worker.spawn(async move {
        let stop = || active.is_to_end();
        let (client, backend, ended, bytes) = tunnel::copy(client, backend, idle, stop).await;
        if let Some(mut record) = record {
            record.bytes = bytes;
            record.finish(access_log::End::Complete);
        }
        if ended.is_err() {
            reset(&client);
            reset(&backend);
        }
    });
}

/// Makes closing the socket reset the connection.
fn reset(stream: &Stream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// The IPv4 address that an IPv4-mapped IPv6 address stands for; others as they are.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
