//! A client's connection: what is known of it, and its life from the first byte to the last.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use lb_common::abi::{BackendId, ServiceId};
use lb_common::select::Reason;

use super::access_log::{self, Record};
use super::body::{self, Given};
use super::exchange::Tunnel;
use super::forwarded::Origin;
use super::handshake::{self, Agreed};
use super::progress::{Phase, Progress};
use super::settings::{Service, Snapshot};
use super::sticky::Key;
use super::stream::Stream;
use super::tunnel::{self, End};
use super::worker::Worker;
use super::{client, clock, h2, proxied};
use crate::admission::listener::Client;
use crate::config::http::Timeouts;

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
    /// What was agreed on in the TLS handshake, if there was one.
    pub(super) tls: Option<Agreed>,
    /// The streams of HTTP/2 that carry answers.
    streams: RefCell<Vec<Given>>,
    /// Requests under way: more than one with HTTP/2 alone.
    under_way: Cell<u32>,
    idle: Cell<Duration>,
    head: Cell<Duration>,
    /// How long it may take to make room for more of an answer.
    pub(super) send: Cell<Option<Duration>>,
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

impl UnderWay {
    /// Notes a stream that carries an answer.
    pub(super) fn stream(&self) -> Given {
        let given = Given::new(Cell::new(body::NOTHING));
        self.visit.streams.borrow_mut().push(Rc::clone(&given));
        given
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
    /// The first bytes of a request may have come.
    pub(super) fn begin_head(&self) {
        if self.progress.phase() == Phase::Idle {
            self.progress.head(self.head.get());
        }
    }

    /// No request is under way any more.
    pub(super) fn end(&self) {
        self.progress.idle(self.idle.get());
    }

    /// Whether a stream of HTTP/2 has not made room for more of its answer in time.
    pub(super) fn is_stalled(&self) -> bool {
        let Some(send) = self.send.get() else {
            return false;
        };
        let mut streams = self.streams.borrow_mut();
        streams.retain(|given| Rc::strong_count(given) > 1);
        let now_ms = clock::now_ms();
        let since = |given: &Given| now_ms.saturating_sub(given.get());
        streams
            .iter()
            .any(|given| u128::from(since(given)) > send.as_millis())
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

    /// Goes on as a tunnel, in a task of its own, which is much smaller than that of a connection.
    /// `early` was read from the client.
    pub(super) fn become_tunnel(
        &self,
        stream: Stream,
        early: Vec<u8>,
        tunnel: Tunnel,
        record: Option<Box<Record>>,
    ) {
        let client = End {
            stream,
            early: Bytes::from(early),
        };
        let backend = End {
            stream: tunnel.stream,
            early: Bytes::from(tunnel.early),
        };
        let (active, idle) = (tunnel.active, tunnel.idle);
        self.worker.spawn(async move {
            let stop = || active.is_to_end();
            let (client, backend, ended, bytes) = tunnel::copy(client, backend, idle, stop).await;
            if let Some(mut record) = record {
                record.bytes = bytes;
                record.finish(access_log::End::Complete);
            }
            if ended.is_err() {
                client.reset_when_closed();
                backend.reset_when_closed();
            }
        });
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
        tls,
        streams: RefCell::default(),
        under_way: Cell::new(0),
        idle: Cell::new(usual.idle),
        head: Cell::new(usual.header),
        send: Cell::new(usual.send),
    });
    if visit.service().is_none() {
        return;
    }
    if visit.is_http2() {
        visit.end();
        return Box::pin(h2::converse(stream, &visit)).await;
    }
    visit.progress.head(visit.head.get());
    client::converse(stream, &visit).await;
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

/// The IPv4 address that an IPv4-mapped IPv6 address stands for; others as they are.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
