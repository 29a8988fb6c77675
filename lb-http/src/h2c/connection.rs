//! One connection of HTTP/2 to a backend. It lives in a task of its own, which reads and writes for all
//! of its streams.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::client::{Builder, SendRequest};
use hyper::body::Bytes;
use socket2::{SockRef, TcpKeepalive};

use crate::clock;
use crate::stream::Stream;

/// Bytes of an answer that a backend may send before its client has taken them.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams together: the largest there is (RFC 9113, section 6.9.1), as a client that
/// takes nothing would stop the others otherwise.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Bytes of a request that wait to be written.
const SEND_BUFFER: usize = 64 * 1024;
/// Longest header section of an answer, bytes.
const LONGEST_HEAD: u32 = 256 * 1024;
/// Stands for a limit on streams that the backend has not told yet. None that it tells is as large: they
/// have 32 bits, and none at all is `usize::MAX`.
const UNTOLD: usize = usize::MAX - 1;
/// How long the kernel waits for a backend to acknowledge data.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// A connection without a sign of life is asked for one by the kernel: when, how often, how many times. A
/// PING would be taken amiss: servers of gRPC end connections that send one within five minutes.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// A connection that has told its limits. It ends when its last holder is gone and its streams are over.
pub(super) struct Connection {
    send: SendRequest<Bytes>,
    /// Streams that are open.
    streams: Cell<usize>,
    /// Since when there is none, in milliseconds of the thread's clock.
    idle_since_ms: Cell<u64>,
    /// It takes no more streams.
    is_over: Rc<Cell<bool>>,
}

/// The rest of a connection's life.
pub(super) struct Driver {
    connection: h2::client::Connection<Stream, Bytes>,
    is_over: Rc<Cell<bool>>,
}

impl Connection {
    /// Speaks HTTP/2 on `stream`, until the backend has told its limits.
    pub(super) async fn begin(stream: Stream) -> io::Result<(Self, Driver)> {
        if let Some(tcp) = stream.tcp() {
            watch(&SockRef::from(tcp));
        }
        let begun = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(LONGEST_HEAD)
            .max_send_buffer_size(SEND_BUFFER)
            .initial_max_send_streams(UNTOLD)
            .handshake(stream)
            .await;
        let (send, mut connection) = begun.map_err(as_io)?;
        poll_fn(|context| match Pin::new(&mut connection).poll(context) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(as_io(error))),
            Poll::Pending if connection.max_concurrent_send_streams() == UNTOLD => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await?;
        if connection.max_concurrent_send_streams() == 0 {
            return Err(io::Error::other("the backend takes no stream of HTTP/2"));
        }
        let is_over = Rc::new(Cell::new(false));
        let driver = Driver {
            connection,
            is_over: Rc::clone(&is_over),
        };
        let begun = Self {
            send,
            streams: Cell::new(0),
            idle_since_ms: Cell::new(clock::now_ms()),
            is_over,
        };
        Ok((begun, driver))
    }

    /// The handle that opens streams. `None` if the connection takes no more of them: it broke, or the
    /// backend has said GOAWAY.
    pub(super) fn sender(&self) -> Option<SendRequest<Bytes>> {
        if self.is_over.get() {
            return None;
        }
        let mut send = self.send.clone();
        let mut quiet = Context::from_waker(Waker::noop());
        match send.poll_ready(&mut quiet) {
            Poll::Ready(Ok(())) => Some(send),
            _ => None,
        }
    }

    /// Whether the backend takes one more stream beside those that are open.
    pub(super) fn has_room(&self) -> bool {
        self.streams.get() < self.send.current_max_send_streams()
    }

    /// Whether no stream is open.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.get() == 0
    }

    /// Since when there is none, in milliseconds of the thread's clock.
    pub(super) fn idle_since_ms(&self) -> u64 {
        self.idle_since_ms.get()
    }
}

/// A place for one stream, until this is dropped.
pub(super) struct Lease(Rc<Connection>);

impl Lease {
    /// On `connection`.
    pub(super) fn new(connection: &Rc<Connection>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self(Rc::clone(connection))
    }

    /// Has no further stream opened on the connection. Those that are open go on.
    pub(super) fn retire(&self) {
        self.0.is_over.set(true);
    }

    /// The handle that opens its stream, as of [`Connection::sender`].
    pub(super) fn sender(&self) -> Option<SendRequest<Bytes>> {
        self.0.sender()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let left = self.0.streams.get() - 1;
        self.0.streams.set(left);
        if left == 0 {
            self.0.idle_since_ms.set(clock::now_ms());
        }
    }
}

impl Driver {
    /// Reads and writes until the connection ends.
    pub(super) async fn run(self) {
        if let Err(error) = self.connection.await {
            tracing::debug!(%error, "a connection of HTTP/2 to a backend broke");
        }
        self.is_over.set(true);
    }
}

/// Has the kernel find out that a backend is gone without a word.
fn watch(socket: &SockRef<'_>) {
    let (after, every, times) = KEEP_ALIVE;
    let keepalive = TcpKeepalive::new()
        .with_time(after)
        .with_interval(every)
        .with_retries(times);
    // A socket that is broken already says so when it is used.
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

/// Why a connection cannot be used. Bytes that are no HTTP/2 are invalid data. An end before the first
/// frame means that the backend's process is stopping.
fn as_io(error: h2::Error) -> io::Error {
    if error.is_library() {
        let text = format!("the backend does not speak HTTP/2: {error}");
        return io::Error::new(io::ErrorKind::InvalidData, text);
    }
    if error.is_go_away() {
        return io::ErrorKind::ConnectionReset.into();
    }
    match error.into_io() {
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            io::ErrorKind::ConnectionReset.into()
        }
        Some(error) => error,
        None => io::Error::other("the backend does not speak HTTP/2"),
    }
}
