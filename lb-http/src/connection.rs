//! The state of a client's connection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_common::abi::{BackendId, ServiceId};
use lb_common::select::Reason;

use super::clock;
use super::forwarded::Origin;
use super::handshake::Agreed;
use super::metrics::ServiceMeter;
use super::progress::{Phase, Progress};
use super::settings::Service;
use super::sticky::Key;
use super::worker::Worker;
use lb_config::http::Timeouts;

/// How soon a client that goes on is remembered again.
const REMEMBER_MS: u64 = 60_000;

/// One connection of a client.
pub(super) struct Connection {
    /// The thread that it belongs to.
    pub(super) worker: Rc<Worker>,
    /// The address that it came to.
    pub(super) local: SocketAddr,
    /// How far it is, over HTTP/1.1.
    pub(super) progress: Rc<Progress>,
    /// The client of the connection, and its forwarding headers.
    pub(super) origin: Rc<Origin>,
    /// The backend of its last request.
    pub(super) chosen: Cell<Option<Chosen>>,
    /// The affinity that was last written for its client, and when.
    remembered: Cell<Option<(ServiceId, Key, BackendId, u64)>>,
    /// The service that its requests go to, with the generation of the settings.
    service: RefCell<Option<InForce>>,
    /// The result of the TLS handshake, if there was one.
    pub(super) tls: Option<Agreed>,
    /// HTTP/2 is spoken.
    http2: Cell<bool>,
    /// The streams of HTTP/2 that carry answers.
    streams: RefCell<Vec<Given>>,
    /// Requests under way: more than one with HTTP/2 alone.
    in_flight: Cell<u32>,
    idle: Cell<Duration>,
    head: Cell<Duration>,
    /// How long it may take to make room for more of an answer.
    pub(super) send: Cell<Option<Duration>>,
}

/// The service of a connection.
struct InForce {
    /// Of the settings that it comes from.
    generation: u64,
    service: Arc<Service>,
    meter: ServiceMeter,
}

/// When a stream was last given something that it has not made room behind, in milliseconds of the
/// thread's clock; [`NOTHING`] if it waits for nobody, or for the backend.
pub(super) type Given = Rc<Cell<u64>>;

/// Nothing was given.
pub(super) const NOTHING: u64 = u64::MAX;

/// A request on its way through this connection, until this is dropped.
pub(super) struct InFlight {
    connection: Rc<Connection>,
    pub(super) progress: Rc<Progress>,
}

impl InFlight {
    /// One more.
    pub(super) fn begin(connection: &Rc<Connection>) -> Self {
        connection.in_flight.set(connection.in_flight.get() + 1);
        connection.progress.exchange();
        let progress = if connection.is_http2() {
            let of_stream = Progress::new();
            of_stream.exchange();
            Rc::new(of_stream)
        } else {
            Rc::clone(&connection.progress)
        };
        Self {
            connection: Rc::clone(connection),
            progress,
        }
    }
}

impl InFlight {
    /// Notes a stream that carries an answer.
    pub(super) fn stream(&self) -> Given {
        let given = Given::new(Cell::new(NOTHING));
        self.connection.streams.borrow_mut().push(Rc::clone(&given));
        given
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let left = self.connection.in_flight.get() - 1;
        self.connection.in_flight.set(left);
        if left == 0 {
            self.connection.end();
        }
    }
}

/// A choice of a backend, and the input of that choice.
#[derive(Clone, Copy)]
pub(super) struct Chosen {
    pub(super) generation: u64,
    pub(super) service: ServiceId,
    pub(super) key: Key,
    pub(super) backend: BackendId,
    pub(super) reason: Reason,
}

impl Connection {
    /// A connection that carries nothing yet; `None` if no service listens at `local`.
    pub(super) fn new(
        worker: Rc<Worker>,
        local: SocketAddr,
        origin: Origin,
        tls: Option<Agreed>,
    ) -> Option<Rc<Self>> {
        let usual = Timeouts::default();
        let connection = Rc::new(Self {
            origin: Rc::new(origin),
            worker,
            local,
            progress: Rc::new(Progress::new()),
            chosen: Cell::new(None),
            remembered: Cell::new(None),
            service: RefCell::new(None),
            http2: Cell::new(tls.is_some_and(|agreed| agreed.http2)),
            tls,
            streams: RefCell::default(),
            in_flight: Cell::new(0),
            idle: Cell::new(usual.idle),
            head: Cell::new(usual.header),
            send: Cell::new(usual.send),
        });
        connection.service()?;
        Some(connection)
    }

    /// The first bytes of a request may have come.
    pub(super) fn begin_head(&self) {
        if self.progress.phase() == Phase::Idle {
            self.progress.head(self.head.get());
        }
    }

    /// How long the head of a request may take.
    pub(super) const fn head_timeout(&self) -> Duration {
        self.head.get()
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
    pub(super) const fn is_http2(&self) -> bool {
        self.http2.get()
    }

    /// HTTP/2 begins.
    pub(super) fn speak_http2(&self) {
        self.http2.set(true);
        self.end();
    }

    /// Writes the client's affinity, at the beginning and then every now and then.
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
        let known = known.as_ref().map(|known| known.generation);
        let snapshot = self.worker.snapshot();
        known != Some(snapshot.generation) && snapshot.service_at(self.local).is_none()
    }

    /// The service that this connection's requests go to. One that does not listen here any more
    /// answers under the settings that it had.
    pub(super) fn service(&self) -> Option<Arc<Service>> {
        let snapshot = self.worker.snapshot();
        let mut known = self.service.borrow_mut();
        if let Some(known) = &*known
            && (known.generation == snapshot.generation
                || snapshot.service_at(self.local).is_none())
        {
            return Some(Arc::clone(&known.service));
        }
        let service = Arc::clone(snapshot.service_at(self.local)?);
        let timeouts = &service.http.settings.timeouts;
        self.idle.set(timeouts.idle);
        self.head.set(timeouts.header);
        self.send.set(timeouts.send);
        *known = Some(InForce {
            generation: snapshot.generation,
            meter: self.worker.meters.service(&service.http.name),
            service: Arc::clone(&service),
        });
        Some(service)
    }

    /// The counters of `service`, which a request of this connection goes to.
    pub(super) fn meter(&self, service: &Service) -> ServiceMeter {
        match &*self.service.borrow() {
            Some(known) if std::ptr::eq(&*known.service, service) => known.meter.clone(),
            _ => self.worker.meters.service(&service.http.name),
        }
    }
}
