//! Getting a connection to the backend that a request belongs to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use lb_common::abi::{BackendId, ServiceId};
use lb_common::select::Reason;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};

use super::carrier::Carrier;
use super::connection::{Chosen, Connection};
use super::counts::Active;
use super::metrics::Cause;
use super::request::Backends as _;
use super::settings::{Service, Snapshot};
use super::sticky::Key;
use super::stream::Stream;
use super::upstream::Upstream;
use lb_config::BackendAddress;
use lb_config::http::Protocol;
use lb_net::admission::{is_scarcity, lacks_port};
use lb_net::proxy_protocol;

/// How soon a backend that refused a connection is tried again.
pub(super) const AGAIN: Duration = Duration::from_millis(50);

/// A connection, and the attempts that it took.
pub(super) struct Connected {
    pub(super) upstream: Upstream,
    pub(super) active: Active,
    /// Why it is this backend.
    pub(super) why: &'static str,
    /// How long it took to connect; nothing for one that was there.
    pub(super) connect: Duration,
}

/// No connection.
pub(super) struct Unreached {
    /// The status to answer with: 410 means that the session of the request is over.
    pub(super) status: StatusCode,
    pub(super) cause: Cause,
}

/// One request's way to a backend.
pub(super) struct UpstreamSelector<'a> {
    pub(super) connection: &'a Connection,
    pub(super) service: &'a Service,
    /// Its backends' service.
    pub(super) target: ServiceId,
    /// The protocol of the backends.
    pub(super) protocol: Protocol,
    /// The sticky key of the request.
    pub(super) key: Key,
    /// The client's address, for backends that get a PROXY header.
    pub(super) client: IpAddr,
    /// Backends that have failed this request.
    pub(super) passed: Vec<BackendId>,
    /// The last of them by not answering in time.
    pub(super) late: bool,
}

impl UpstreamSelector<'_> {
    /// A connection to the backend of this client: an idle one, or a new one.
    pub(super) async fn reach(&mut self) -> Result<Connected, Unreached> {
        let worker = &self.connection.worker;
        loop {
            let snapshot = worker.snapshot();
            let Some((id, reason)) = self.choose() else {
                snapshot.counts.chosen(self.target, None);
                let (status, cause) = match self.passed.as_slice() {
                    _ if self.is_of_session() => (StatusCode::GONE, Cause::Other),
                    [] => (StatusCode::SERVICE_UNAVAILABLE, Cause::NoBackend),
                    _ if self.late => (StatusCode::GATEWAY_TIMEOUT, Cause::Timeout),
                    _ => (StatusCode::BAD_GATEWAY, Cause::Connect),
                };
                return Err(Unreached { status, cause });
            };
            let active = Active::new(&snapshot.counts, self.target, id);
            if let Some(upstream) = self.ready(id, &snapshot) {
                snapshot.counts.chosen(self.target, Some(reason));
                return Ok(Connected {
                    upstream,
                    active,
                    why: why(reason),
                    connect: Duration::ZERO,
                });
            }
            let Some(address) = snapshot.address(id) else {
                self.passed.push(id);
                continue;
            };
            let begun = Instant::now();
            // Boxed: most requests find a connection.
            match Box::pin(self.connect(id, &address)).await {
                Ok(upstream) => {
                    snapshot.counts.chosen(self.target, Some(reason));
                    return Ok(Connected {
                        upstream,
                        active,
                        why: why(reason),
                        connect: begun.elapsed(),
                    });
                }
                Err(error) if is_scarcity(&error) => {
                    tracing::debug!(%error, backend = %address, "cannot connect");
                    worker.pool.clear();
                    return Err(Unreached {
                        status: StatusCode::SERVICE_UNAVAILABLE,
                        cause: Cause::Resources,
                    });
                }
                Err(error) if lacks_port(&error) => self.passed.push(id),
                Err(error) => {
                    tracing::debug!(%error, backend = %address, "cannot connect");
                    snapshot.suspect(id, "a request found no connection");
                    worker
                        .breaker
                        .failed(id, &self.service.http.settings.upstream);
                    self.late = error.kind() == io::ErrorKind::TimedOut;
                    self.passed.push(id);
                }
            }
        }
    }

    /// A connection that is there.
    fn ready(&self, id: BackendId, snapshot: &Snapshot) -> Option<Upstream> {
        let pool = &self.connection.worker.pool;
        match self.protocol {
            // A connection that was introduced is one client's.
            Protocol::Http1 if self.introduces() => None,
            Protocol::Http1 => pool.take(id),
            Protocol::H2c => {
                let call = pool.shared.take(id)?;
                let name = snapshot.address(id)?.to_string().into();
                Some(Upstream::new(id, name, Carrier::Shared(Box::new(call))))
            }
        }
    }

    /// The backend of this client. Ejected backends are passed by, unless no other backend is left.
    fn choose(&self) -> Option<(BackendId, Reason)> {
        let worker = &self.connection.worker;
        let snapshot = worker.snapshot();
        let ejected = worker.breaker.ejected();
        if self.passed.is_empty() && ejected.is_empty() {
            return self.choose_as_before();
        }
        let passed = [&ejected[..], &self.passed].concat();
        let spread = &worker.spread;
        let choice = snapshot
            .choose(spread, self.target, self.key, &passed)
            .or_else(|| snapshot.choose(spread, self.target, self.key, &self.passed));
        choice.map(|choice| (choice.backend, choice.reason))
    }

    /// Until the settings change, the requests of a connection go to the backend of the first one.
    fn choose_as_before(&self) -> Option<(BackendId, Reason)> {
        let snapshot = self.connection.worker.snapshot();
        let (service, key) = (self.target, self.key);
        if let Some(chosen) = self.connection.chosen.get()
            && chosen.generation == snapshot.generation
            && (chosen.service, chosen.key) == (service, key)
            && key != Key::New
        {
            return Some((chosen.backend, chosen.reason));
        }
        let choice = snapshot.choose(&self.connection.worker.spread, service, key, &[])?;
        self.connection.chosen.set(Some(Chosen {
            generation: snapshot.generation,
            service,
            key,
            backend: choice.backend,
            reason: choice.reason,
        }));
        Some((choice.backend, choice.reason))
    }

    /// Whether it is of a session that one backend has: when that is gone, or another process, so is
    /// the session.
    fn is_of_session(&self) -> bool {
        matches!(self.key, Key::Session(_))
    }

    /// Whether connections begin with a PROXY header.
    fn introduces(&self) -> bool {
        self.service.http.settings.send_proxy_protocol.is_some()
    }

    /// Sends the client's address, if the backend wants it. Behind a trusted proxy the client's port is not
    /// known.
    async fn introduce(&self, stream: &mut Stream) -> io::Result<()> {
        let Some(version) = self.service.http.settings.send_proxy_protocol else {
            return Ok(());
        };
        let origin = &self.connection.origin;
        let client = if origin.peer.ip() == self.client {
            origin.peer
        } else {
            SocketAddr::new(self.client, 0)
        };
        let header = proxy_protocol::write(version, client, origin.local);
        stream.write_all(&header).await
    }

    /// A new connection, or a stream of one.
    async fn carrier(&self, id: BackendId, address: &BackendAddress) -> io::Result<Carrier> {
        let worker = &self.connection.worker;
        let admission = worker.snapshot().admission.clone();
        match self.protocol {
            Protocol::Http1 => Stream::open(address, &admission).await.map(Carrier::Own),
            Protocol::H2c => {
                let within = self.service.http.settings.timeouts.connect;
                let connect = || {
                    let (address, admission) = (address.clone(), admission.clone());
                    async move { Stream::open(&address, &admission).await }
                };
                let call = worker.pool.shared.open(id, within, connect).await?;
                Ok(Carrier::Shared(Box::new(call)))
            }
        }
    }

    /// A new connection. A backend that refuses may be restarting. It is waited for until `restart_grace` has
    /// passed since it was there. A backend that was never there is not waited for.
    async fn connect(&self, id: BackendId, address: &BackendAddress) -> io::Result<Upstream> {
        let settings = &self.service.http.settings;
        let timeouts = &settings.timeouts;
        let presences = self.connection.worker.snapshot().presences.clone();
        let begun = Instant::now();
        loop {
            let carrier = match timeout(timeouts.connect, self.carrier(id, address)).await {
                Ok(carrier) => carrier,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            };
            match carrier {
                Ok(mut carrier) => {
                    presences.connected(id);
                    if let Carrier::Own(stream) = &mut carrier {
                        self.introduce(stream).await?;
                    }
                    return Ok(Upstream::new(id, address.to_string().into(), carrier));
                }
                Err(error) if is_refusal(&error) => {
                    let snapshot = self.connection.worker.snapshot();
                    // It may have been removed meanwhile; a session is not there after a restart.
                    let is_there = snapshot.backend(id).is_some() && !self.is_of_session();
                    let may_restart = presences
                        .refused(id)
                        .is_some_and(|away| away.max(begun.elapsed()) < timeouts.restart_grace);
                    if !may_restart || !is_there {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
            sleep(AGAIN).await;
        }
    }
}

/// Why a backend was chosen, in the words of `lookup`.
const fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::Affinity => "affinity",
        Reason::Slot => "slot",
        Reason::Next => "next",
    }
}

/// No process listens there at the moment. If the listener closes while a connection waits to be accepted,
/// the kernel resets it.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    #[test]
    fn a_listener_that_goes_before_it_accepts_has_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().into();
        // As tokio connects: begun first, then asked for the result.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.connect(&address).unwrap();
        drop(listener);
        let error = socket.take_error().unwrap().expect("a reset");
        assert!(is_refusal(&error), "{error}");
        let again = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(is_refusal(&again.connect(&address).unwrap_err()));
    }
}
