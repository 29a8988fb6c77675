//! WebSockets: connections that were HTTP and are bytes both ways from now on.
//!
//! A tunnel that is idle holds no buffer: all tunnels of the thread share one for reading. Only bytes that
//! the other side does not take at once are kept. While bytes are kept nothing more is read, so that the
//! slower side sets the pace.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::access_log;
use super::clock::Deadline;
use super::counts::Active;
use super::record::Record;
use super::stream::Stream;

/// Most bytes read at once, and so the most kept for one direction of a tunnel.
const CHUNK: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// One direction.
struct Direction {
    /// Read, but not yet taken by the other side.
    kept: Bytes,
    /// Something was written since the last flush.
    unflushed: bool,
    /// The end was read.
    ended: bool,
    /// And passed on.
    closed: bool,
    /// Bytes that the other side took and that are not counted yet.
    passed: u64,
}

impl Direction {
    /// One that begins with `early`, which was read before.
    const fn new(early: Bytes) -> Self {
        Self {
            kept: early,
            unflushed: false,
            ended: false,
            closed: false,
            passed: 0,
        }
    }

    /// Copies the available bytes; ready when the end has been passed on. `moved` tells of any byte.
    fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        moved: &mut bool,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.kept.is_empty() {
                let taken = ready!(Pin::new(&mut *to).poll_write(context, &self.kept))?;
                self.kept.advance(taken);
                self.passed += taken as u64;
                *moved = true;
                self.unflushed = true;
            }
            // An empty buffer holds no memory.
            self.kept = Bytes::new();
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            if self.poll_read(from, to, context)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(context))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            *moved = true;
        }
    }

    /// Reads once, and passes that on.
    fn poll_read(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(context, &mut buffer))?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            let taken = match Pin::new(to).poll_write(context, bytes)? {
                Poll::Ready(taken) => taken,
                Poll::Pending => 0,
            };
            self.unflushed = true;
            self.passed += taken as u64;
            self.kept = Bytes::copy_from_slice(&bytes[taken..]);
            Poll::Ready(Ok(()))
        })
    }
}

/// One end of a tunnel, with the bytes that were read from it before the tunnel began.
pub(super) struct End<S> {
    pub(super) stream: S,
    pub(super) early: Bytes,
}

/// A backend's end of a tunnel, before it is joined with its client's.
pub(super) struct Tunnel {
    pub(super) stream: Stream,
    /// The bytes behind the answer, which belong to the tunnel.
    pub(super) early: Vec<u8>,
    pub(super) active: Active,
    /// For how long it may be without a byte.
    pub(super) idle: Option<Duration>,
}

impl Tunnel {
    /// Copies both ways until both sides have ended, it was idle for too long, or its backend is drained.
    /// The streams are returned; an error means that one of them was reset, or is to be.
    pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        client: End<S>,
        mut record: Record,
    ) -> (S, Stream, io::Result<()>) {
        let backend = End {
            stream: self.stream,
            early: Bytes::from(self.early),
        };
        let stop = || self.active.is_to_end();
        record.becomes_tunnel();
        let count = |received, sent| {
            record.counters().received(received);
            record.sent(sent);
        };
        let (client, backend, ended) = copy(client, backend, self.idle, stop, count).await;
        record.finish(access_log::End::Complete);
        (client, backend, ended)
    }
}

/// Copies both ways until both sides have ended, nothing has moved for `idle`, or `stop` says so. `stop` is
/// asked whenever something happens or all deadlines are woken. `count` is told how many bytes each side has
/// taken since: the backend, then the client. An error means that one side was reset, or is to be.
async fn copy<A, B>(
    client: End<A>,
    backend: End<B>,
    idle: Option<Duration>,
    stop: impl Fn() -> bool,
    mut count: impl FnMut(u64, u64),
) -> (A, B, io::Result<()>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut a, mut b) = (client.stream, backend.stream);
    let mut there = Direction::new(client.early);
    let mut back = Direction::new(backend.early);
    let deadline = Deadline::new();
    deadline.set(idle);
    let ended = poll_fn(|context| {
        let mut moved = false;
        let polled_there = there.poll(&mut a, &mut b, &mut moved, context);
        let polled_back = back.poll(&mut b, &mut a, &mut moved, context);
        count(
            std::mem::take(&mut there.passed),
            std::mem::take(&mut back.passed),
        );
        let (there, back) = (polled_there?, polled_back?);
        if there.is_ready() && back.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if stop() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if moved && idle.is_some() {
            deadline.set(idle);
        }
        ready!(deadline.poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    })
    .await;
    (a, b, ended)
}
