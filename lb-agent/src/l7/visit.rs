//! A client's connection: what is known of it, and its life from the first byte to the last.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::access_log::{self, Record};
use super::clock::Deadline;
use super::counts::Active;
use super::handshake::{self, Agreed};
use super::settings::{Service, Snapshot};
use super::stream::Stream;
use super::tunnel::{self, End};
use super::upstream::Tunnelled;
use super::worker::Worker;
use super::{forward, h2, headers};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between two requests.
    Idle,
    /// Some bytes of a request are there.
    Head,
    /// A request is under way; whoever carries it minds the time.
    Exchange,
    /// The answer is on its way to the client.
    Answer,
}

/// One connection of a client.
pub(super) struct Visit {
    /// The thread that it belongs to.
    pub(super) worker: Rc<Worker>,
    /// Whoever made the connection.
    pub(super) peer: SocketAddr,
    /// The address that it came to.
    pub(super) local: SocketAddr,
    /// The one deadline that is running.
    pub(super) deadline: Deadline,
    /// How far it is.
    pub(super) phase: Cell<Phase>,
    /// What was agreed on in the TLS handshake, if there was one.
    pub(super) tls: Option<Agreed>,
    /// Requests under way: more than one with HTTP/2 alone.
    under_way: Cell<u32>,
    /// The header values that are the same for each of its requests.
    pub(super) values: headers::Values,
    /// The service that its requests go to, with the generation of the settings.
    service: RefCell<Option<(u64, Arc<Service>)>>,
    /// The backend's side of a tunnel, while the answer that begins it is written.
    tunnel: RefCell<Option<(Tunnelled, Active)>>,
    /// What is noted of it.
    tunnel_record: RefCell<Option<Box<Record>>>,
}

/// A request on its way through this connection, until this is dropped.
pub(super) struct UnderWay(Rc<Visit>);

impl UnderWay {
    /// One more.
    pub(super) fn begin(visit: &Rc<Visit>) -> Self {
        visit.under_way.set(visit.under_way.get() + 1);
        visit.begin();
        Self(Rc::clone(visit))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let left = self.0.under_way.get() - 1;
        self.0.under_way.set(left);
        if left == 0 {
            self.0.end();
        }
    }
}

/// How long a client may take to read what was written to it.
const WRITE: Duration = Duration::from_secs(60);
/// Between two requests.
const IDLE: Duration = Duration::from_secs(75);
/// From the first byte of a request to the end of its head.
const HEAD: Duration = Duration::from_secs(60);

impl Visit {
    fn enter(&self, phase: Phase, within: Option<Duration>) {
        self.phase.set(phase);
        self.deadline.set(within);
    }

    /// A request is there.
    fn begin(&self) {
        self.enter(Phase::Exchange, None);
    }

    /// Its answer begins. Where several are on their way, what stands still is not to be told by
    /// the bytes that go over the connection: HTTP/2 has its own signs of life.
    pub(super) fn answer(&self) {
        if !self.tls.is_some_and(|agreed| agreed.http2) {
            self.enter(Phase::Answer, Some(WRITE));
        }
    }

    /// Its answer is over.
    fn end(&self) {
        self.enter(Phase::Idle, Some(IDLE));
    }

    /// The connection becomes a tunnel once the answer is written.
    pub(super) fn tunnel(&self, backend: Tunnelled, active: Active) {
        *self.tunnel.borrow_mut() = Some((backend, active));
    }

    /// What is noted of that tunnel.
    pub(super) fn tunnel_record(&self, record: Option<Box<Record>>) {
        *self.tunnel_record.borrow_mut() = record;
    }

    /// The service that this connection's requests go to.
    pub(super) fn service(&self) -> Option<Arc<Service>> {
        let snapshot = self.worker.snapshot();
        let mut known = self.service.borrow_mut();
        if let Some((generation, service)) = &*known
            && *generation == snapshot.generation
        {
            return Some(Arc::clone(service));
        }
        let service = Arc::clone(snapshot.service_at(self.local)?);
        *known = Some((snapshot.generation, Arc::clone(&service)));
        Some(service)
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let socket = SockRef::from(&stream);
    // A socket that is broken already says so when it is used.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_keepalive(true);
    let (peer, local) = (canonical(peer), canonical(local));
    let snapshot = worker.snapshot();
    let service = snapshot.service_at(local);
    let over_tls = service.filter(|service| Snapshot::is_tls(service, local));
    let (stream, tls) = match over_tls.map(|service| service.edge.tls.clone()) {
        None => (Stream::Tcp(stream), None),
        Some(config) => {
            drop(snapshot);
            // Boxed: those without TLS need not hold room for it.
            let Some(config) = config else { return };
            let accepted = Box::pin(handshake::accept(config, stream, HEAD)).await;
            let Some((stream, agreed)) = accepted else {
                return;
            };
            (stream, Some(agreed))
        }
    };
    let visit = Rc::new(Visit {
        values: headers::Values::new(peer, local, if tls.is_some() { "https" } else { "http" }),
        worker,
        peer,
        local,
        tls,
        under_way: Cell::new(0),
        deadline: Deadline::new(),
        phase: Cell::new(Phase::Idle),
        service: RefCell::new(None),
        tunnel: RefCell::new(None),
        tunnel_record: RefCell::new(None),
    });
    visit.end();
    let io = Watched {
        stream,
        visit: Rc::clone(&visit),
    };
    if visit.tls.is_some_and(|agreed| agreed.http2) {
        Box::pin(h2::converse(io, &visit)).await;
        return;
    }
    if let Some((io, early)) = converse(io, &visit).await {
        become_tunnel(io.stream, early, &visit);
    }
}

/// Answers requests until the connection ends. What is left of it is returned when it becomes a
/// tunnel.
async fn converse(io: Watched, visit: &Rc<Visit>) -> Option<(Watched, hyper::body::Bytes)> {
    let service = service_fn(|request| forward::handle(Rc::clone(visit), request));
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service);
    let mut told = false;
    let over = poll_fn(|context| {
        if visit.worker.is_stopping() && !told {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(over) = Pin::new(&mut connection).poll(context) {
            return Poll::Ready(over.is_ok());
        }
        if visit.deadline.poll(context).is_ready() && visit.phase.get() != Phase::Exchange {
            return Poll::Ready(false);
        }
        Poll::Pending
    })
    .await;
    if over && visit.tunnel.borrow().is_some() {
        let parts = connection.into_parts();
        return Some((parts.io.into_inner(), parts.read_buf));
    }
    None
}

/// Goes on in a task of its own, which is much smaller than that of a connection.
fn become_tunnel(stream: Stream, early: hyper::body::Bytes, visit: &Visit) {
    let Some((backend, active)) = visit.tunnel.take() else {
        return;
    };
    let record = visit.tunnel_record.take();
    let client = End { stream, early };
    let backend = End {
        stream: backend.stream,
        early: backend.early,
    };
    visit.worker.spawn(async move {
        let _active = active;
        let (client, backend, ended, bytes) = tunnel::copy(client, backend, None).await;
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

/// A client's stream, which notes when something moves.
pub(super) struct Watched {
    stream: Stream,
    visit: Rc<Visit>,
}

impl AsyncRead for Watched {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if this.visit.phase.get() == Phase::Idle && buffer.filled().len() > before {
            this.visit.enter(Phase::Head, Some(HEAD));
        }
        read
    }
}

impl Watched {
    fn written(&self, written: &Poll<io::Result<usize>>) {
        if self.visit.phase.get() == Phase::Answer && matches!(written, Poll::Ready(Ok(1..))) {
            self.visit.deadline.set(Some(WRITE));
        }
    }
}

impl AsyncWrite for Watched {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.written(&written);
        written
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
