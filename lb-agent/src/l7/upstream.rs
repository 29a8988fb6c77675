//! Connections to backends: one request at a time on each, idle ones kept for the next.
//!
//! A connection has no task of its own. Whoever waits for the answer drives it, and then whoever
//! reads the body: one wake-up for one packet, and nothing at all happens on one that is idle. It
//! is looked at when it is taken again, and by the [`Pool`]'s own round, which ends old ones.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use hyper::body::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::HeaderName;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use lb_common::abi::BackendId;
use tokio::io::{AsyncRead as _, ReadBuf};

use super::body::{BodyError, RequestBody};
use super::clock;
use super::early::Early;
use super::headers;
use super::progress::Progress;
use super::stream::Stream;

/// For how long an idle connection is kept when its backend does not say: Node.js closes it after
/// five seconds, and a request must not meet the close.
const IDLE_MS: u64 = 4000;

/// A connection to a backend.
pub(super) struct Upstream {
    /// The backend.
    pub(super) backend: BackendId,
    /// Its name in the access log.
    pub(super) name: Rc<str>,
    /// Whether it has carried a request before.
    pub(super) reused: bool,
    /// For how long it may be idle, in milliseconds.
    pub(super) idle_ms: u64,
    link: Link,
}

/// Who speaks on a connection.
enum Link {
    /// Nobody, or the short way.
    Bare(Stream),
    /// hyper; without a connection once that is over.
    Http(SendRequest<RequestBody>, Option<Driver>),
    /// It is over.
    Over,
}

/// hyper's end of it: large, and handed on several times for each request.
type Driver = Box<Connection<TokioIo<Stream>, RequestBody>>;

/// What is left of a connection that has become a tunnel.
pub(super) struct Tunnelled {
    /// The connection.
    pub(super) stream: Stream,
    /// What came with the answer, and belongs to the tunnel.
    pub(super) early: Bytes,
}

/// Why there is no answer.
pub(super) enum Failure {
    /// The connection was over before anything was written.
    Unsent(Box<Request<RequestBody>>),
    /// The connection broke before any byte of the answer.
    Broken,
    /// What came is no HTTP.
    Malformed,
    /// The client's body did not come to its end.
    Client,
    /// It took too long.
    Timeout,
}

impl Failure {
    fn new(mut error: TrySendError<Request<RequestBody>>) -> Self {
        if let Some(unsent) = error.take_message() {
            return Self::Unsent(Box::new(unsent));
        }
        let error = error.into_error();
        tracing::debug!(%error, "no answer from a backend");
        if error.is_user() {
            Self::Client
        } else if error.is_parse() {
            Self::Malformed
        } else {
            Self::Broken
        }
    }
}

impl Upstream {
    /// A connection that has carried nothing yet.
    pub(super) fn new(backend: BackendId, name: Rc<str>, stream: Stream) -> Self {
        Self {
            backend,
            name,
            reused: false,
            idle_ms: IDLE_MS,
            link: Link::Bare(stream),
        }
    }

    /// Sends `request` and waits for the head of the answer, for as long as `progress` allows.
    pub(super) async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<Incoming>, Failure> {
        self.speak().await;
        let Link::Http(sender, connection) = &mut self.link else {
            return Err(Failure::Unsent(Box::new(request)));
        };
        let mut answer = pin!(sender.try_send_request(request));
        let outcome = poll_fn(|context| {
            let over = drive(connection, context);
            // Only the connection can make the answer ready, and it has just been driven: a waker
            // would be woken from within its own task.
            let mut quiet = Context::from_waker(Waker::noop());
            if let Poll::Ready(answer) = answer.as_mut().poll(&mut quiet) {
                return Poll::Ready(Some(answer));
            }
            if over {
                // Whatever it had not written comes back.
                *connection = None;
                return answer.as_mut().poll(&mut quiet).map(Some);
            }
            ready!(progress.poll_deadline(context));
            Poll::Ready(None)
        })
        .await;
        match outcome {
            Some(answer) => answer.map_err(Failure::new),
            None => Err(Failure::Timeout),
        }
    }

    /// Has hyper speak on it.
    async fn speak(&mut self) {
        self.link = match std::mem::replace(&mut self.link, Link::Over) {
            Link::Bare(stream) => {
                let handshake = http1::Builder::new().handshake(TokioIo::new(stream));
                match handshake.await {
                    Ok((sender, connection)) => Link::Http(sender, Some(Box::new(connection))),
                    Err(_) => Link::Over,
                }
            }
            link => link,
        };
    }

    /// The stream below, if nobody is speaking on it.
    pub(super) fn bare(&mut self) -> Option<&mut Stream> {
        self.link = match std::mem::replace(&mut self.link, Link::Over) {
            Link::Http(_, Some(connection)) => {
                let parts = connection.into_parts();
                if parts.read_buf.is_empty() {
                    Link::Bare(parts.io.into_inner().plain())
                } else {
                    Link::Over
                }
            }
            link => link,
        };
        match &mut self.link {
            Link::Bare(stream) => Some(stream),
            _ => None,
        }
    }

    /// Has the request that was written to [`Upstream::bare`] answered by the next exchange, which
    /// must begin with the same request. `early` was read of its answer.
    pub(super) fn ask_again(&mut self, early: Bytes) {
        self.link = match std::mem::replace(&mut self.link, Link::Over) {
            Link::Bare(stream) => Link::Bare(Early::asked(stream, early)),
            link => link,
        };
    }

    /// Whether another request can be sent.
    fn is_ready(&mut self) -> bool {
        let mut quiet = Context::from_waker(Waker::noop());
        let is_ready = match &mut self.link {
            // Whatever comes, the end or a byte, is not an answer.
            Link::Bare(stream) => {
                let mut byte = [0];
                let mut room = ReadBuf::new(&mut byte);
                Pin::new(stream)
                    .poll_read(&mut quiet, &mut room)
                    .is_pending()
            }
            Link::Http(sender, connection) => !drive(connection, &mut quiet) && sender.is_ready(),
            Link::Over => false,
        };
        if !is_ready {
            self.link = Link::Over;
        }
        is_ready
    }

    /// The stream below, after an answer that was 101.
    pub(super) fn into_tunnel(self) -> Option<Tunnelled> {
        let Link::Http(_, Some(connection)) = self.link else {
            return None;
        };
        let parts = connection.into_parts();
        Some(Tunnelled {
            stream: parts.io.into_inner().plain(),
            early: parts.read_buf,
        })
    }
}

/// Lets the connection do what it can; true when it is over.
fn drive(connection: &mut Option<Driver>, context: &mut Context<'_>) -> bool {
    match connection {
        Some(connection) => connection.poll_without_shutdown(context).is_ready(),
        None => true,
    }
}

/// The body of an answer, together with the connection that it comes from.
pub(super) struct Driven {
    body: Incoming,
    upstream: Option<Box<Upstream>>,
    over: bool,
    /// The end of the body was read. `Incoming` does not remember that of a chunked one.
    read: bool,
    /// What goes from the trailers.
    named: Vec<HeaderName>,
    pool: Rc<Pool>,
    /// Most idle connections to keep.
    most_idle: usize,
}

impl Driven {
    /// The rest of the answer on `upstream`, without the trailers that are `named`. The connection
    /// goes back to `pool` at its end, unless there are `most_idle` like it.
    pub(super) fn new(
        body: Incoming,
        named: Vec<HeaderName>,
        upstream: Upstream,
        pool: Rc<Pool>,
        most_idle: usize,
    ) -> Self {
        Self {
            body,
            upstream: Some(Box::new(upstream)),
            over: false,
            read: false,
            named,
            pool,
            most_idle,
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut quiet = Context::from_waker(Waker::noop());
        let mut frame = Pin::new(&mut self.body).poll_frame(&mut quiet);
        if frame.is_pending()
            && !self.over
            && let Some(upstream) = &mut self.upstream
        {
            self.over = match &mut upstream.link {
                Link::Http(_, connection) => drive(connection, context),
                Link::Bare(_) | Link::Over => true,
            };
            frame = Pin::new(&mut self.body).poll_frame(&mut quiet);
        }
        self.read |= matches!(frame, Poll::Ready(None));
        frame
            .map_ok(|frame| clean(frame, &self.named))
            .map_err(BodyError::from)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A frame as it is passed on: trailers without what the head has `named`.
pub(super) fn clean(frame: Frame<Bytes>, named: &[HeaderName]) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::clean_trailers(&mut trailers, named);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// A connection whose answer was read to its end carries the next request; any other is closed.
impl Drop for Driven {
    fn drop(&mut self) {
        if let Some(upstream) = self.upstream.take()
            && (self.read || self.body.is_end_stream())
            && !self.over
        {
            self.pool.put(*upstream, self.most_idle);
        }
    }
}

/// The idle connections of a thread.
#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<BackendId, Vec<Idle>>>,
}

struct Idle {
    upstream: Upstream,
    until_ms: u64,
}

impl Pool {
    /// An idle connection to `backend`, the one used last.
    pub(super) fn take(&self, backend: BackendId) -> Option<Upstream> {
        let mut idle = self.idle.borrow_mut();
        let of_backend = idle.get_mut(&backend)?;
        while let Some(mut last) = of_backend.pop() {
            if last.until_ms > clock::now_ms() && last.upstream.is_ready() {
                last.upstream.reused = true;
                return Some(last.upstream);
            }
        }
        None
    }

    /// Keeps a connection whose answer is over, if it can be used again.
    pub(super) fn put(&self, mut upstream: Upstream, most: usize) {
        if upstream.idle_ms == 0 || !upstream.is_ready() {
            return;
        }
        let until_ms = clock::now_ms() + upstream.idle_ms;
        let mut idle = self.idle.borrow_mut();
        let of_backend = idle.entry(upstream.backend).or_default();
        if of_backend.len() < most {
            of_backend.push(Idle { upstream, until_ms });
        }
    }

    /// Closes the idle connections to a backend.
    pub(super) fn forget(&self, backend: BackendId) {
        self.idle.borrow_mut().remove(&backend);
    }

    /// Closes what has been idle for too long, and what the other side has closed.
    pub(super) fn tidy(&self) {
        let now_ms = clock::now_ms();
        self.idle.borrow_mut().retain(|_, of_backend| {
            of_backend.retain_mut(|idle| idle.until_ms > now_ms && idle.upstream.is_ready());
            !of_backend.is_empty()
        });
    }

    /// Closes everything.
    pub(super) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}
