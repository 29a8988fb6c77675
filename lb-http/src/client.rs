//! The bytes of a client's connection of HTTP/1.1.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Version;
use lb_http1::body::{Decoder, Piece};
use lb_http1::{ResponseHead, buffer_pool};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, Interest, ReadBuf};

use super::clock::Deadline;
use super::peer::{Peer, PeerError};
use super::stream::Stream;

/// Bytes of room for one read from a client.
const PIECE: usize = 4 * 1024;
/// Most bytes of a body that are read at once.
const CHUNK: usize = 64 * 1024;
/// Bytes of further requests that are read while one is under way.
const MOST_AHEAD: usize = 16 * 1024;
/// A client that has closed its sending side, or has gone away, which look alike, is waited for so long
/// without a byte for it.
const HALF_CLOSED: Duration = Duration::from_secs(10);
/// Interval between checks whether a client with unread bytes is still there.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long, and for how many bytes, a client is listened to that is told to go.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 1 << 20;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// A client's connection.
pub(super) struct Conn {
    pub(super) stream: Stream,
    /// Bytes that were read; those from `at` on are not parsed yet.
    input: Vec<u8>,
    at: usize,
    /// The client says no more: for how long it is still answered.
    ended: Option<Deadline>,
    /// When it is looked again whether the client is there.
    again: Option<Deadline>,
    /// Bytes to be written; those before `taken` are written already.
    pub(super) out: Vec<u8>,
    pub(super) taken: usize,
}

impl Conn {
    /// A connection of which nothing was read.
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            at: 0,
            ended: None,
            again: None,
            out: Vec::new(),
            taken: 0,
        }
    }

    /// Bytes that were received and not parsed.
    pub(super) fn unread(&self) -> &[u8] {
        &self.input[self.at..]
    }

    /// The next `length` bytes are read.
    pub(super) fn read(&mut self, length: usize) {
        self.at += length;
    }

    /// Gives its buffer back if nothing is in it: a connection that waits holds no memory.
    pub(super) fn release(&mut self) {
        if self.is_drained() {
            buffer_pool::give(std::mem::take(&mut self.input));
            self.at = 0;
        }
    }

    /// Takes the bytes that were received and not parsed.
    pub(super) fn take_unread(&mut self) -> Vec<u8> {
        let mut input = std::mem::take(&mut self.input);
        input.drain(..std::mem::take(&mut self.at));
        input
    }

    /// Whether all that was read is used up.
    pub(super) fn is_drained(&self) -> bool {
        self.at == self.input.len()
    }

    /// Whether the client says no more.
    pub(super) const fn is_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// The client has taken bytes: its deadline starts anew.
    pub(super) fn moved(&self) {
        if let Some(deadline) = &self.ended {
            deadline.set(Some(HALF_CLOSED));
        }
    }

    /// Reads more; 0 is the end.
    pub(super) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() == 0 {
            self.input = buffer_pool::take();
        }
        if self.at > 0 {
            self.input.drain(..std::mem::take(&mut self.at));
        }
        self.input.reserve(PIECE);
        let length = ready!(pin!(self.stream.read_buf(&mut self.input)).poll(context))?;
        if length == 0 {
            self.end();
        }
        Poll::Ready(Ok(length))
    }

    /// Ready when the client has gone away behind bytes that are not read yet, and those are fewer than
    /// the `left` of its body. It has to be polled, as the kernel does not report this without a read.
    fn poll_cut_short(&mut self, left: Option<u64>, context: &mut Context<'_>) -> Poll<()> {
        let left = left.unwrap_or(0);
        let is_cut_short = self.stream.tcp().is_some_and(|stream| {
            let mut ready = pin!(stream.ready(Interest::READABLE));
            let Poll::Ready(Ok(ready)) = ready.as_mut().poll(context) else {
                return false;
            };
            let unread = rustix::io::ioctl_fionread(stream).unwrap_or(u64::MAX);
            let here = (self.input.len() - self.at) as u64;
            ready.is_read_closed() && unread.saturating_add(here) < left
        });
        if is_cut_short {
            return Poll::Ready(());
        }
        let again = self.again.get_or_insert_with(Deadline::new);
        if !again.is_set() || again.is_over() {
            again.set(Some(LOOK_AGAIN));
        }
        again.poll(context)
    }

    fn end(&mut self) {
        let deadline = Deadline::new();
        deadline.set(Some(HALF_CLOSED));
        self.ended = Some(deadline);
    }

    /// Writes the pending bytes; ready when all of them are written.
    pub(super) fn poll_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.out.len() {
            let rest = &self.out[self.taken..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.taken += written,
            }
        }
        if self.taken > 0 {
            // A client with nothing to write holds no memory.
            buffer_pool::give(std::mem::take(&mut self.out));
            self.taken = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the pending bytes and `body` behind them, which is not copied. Its first `sent` bytes are written already.
    pub(super) fn poll_out_with(
        &mut self,
        body: &[u8],
        sent: &mut usize,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while *sent < body.len() {
            let pending = &self.out[self.taken..];
            let parts = [IoSlice::new(pending), IoSlice::new(&body[*sent..])];
            let parts = &parts[usize::from(pending.is_empty())..];
            let of_pending = pending.len();
            let stream = Pin::new(&mut self.stream);
            match ready!(stream.poll_write_vectored(context, parts))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    self.taken += written.min(of_pending);
                    *sent += written.saturating_sub(of_pending);
                }
            }
        }
        self.poll_out(context)
    }

    /// Ends the connection. A TCP socket says so by being closed.
    pub(super) async fn close(mut self) {
        if matches!(self.stream, Stream::Client(_) | Stream::Tcp(_)) {
            return;
        }
        let deadline = Deadline::new();
        deadline.set(Some(LINGER));
        poll_fn(
            |context| match Pin::new(&mut self.stream).poll_shutdown(context) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => deadline.poll(context),
            },
        )
        .await;
    }

    /// Ends the connection in stages: closing a socket with unread bytes resets the connection, and takes
    /// the answer away from a client that is still sending (RFC 9112, section 9.6).
    pub(super) async fn linger(mut self) {
        let deadline = Deadline::new();
        deadline.set(Some(LINGER));
        let mut left = LINGER_BYTES;
        let mut is_shut = false;
        poll_fn(|context| {
            if !is_shut {
                match Pin::new(&mut self.stream).poll_shutdown(context) {
                    Poll::Ready(Ok(())) => is_shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            SCRATCH.with_borrow_mut(|scratch| {
                while left > 0 {
                    let mut room = ReadBuf::new(scratch);
                    match Pin::new(&mut self.stream).poll_read(context, &mut room) {
                        Poll::Ready(Ok(())) if !room.filled().is_empty() => {
                            left = left.saturating_sub(room.filled().len());
                        }
                        Poll::Ready(_) => return Poll::Ready(()),
                        Poll::Pending => return deadline.poll(context),
                    }
                }
                Poll::Ready(())
            })
        })
        .await;
    }
}

/// A client as one of its requests sees it.
pub(super) struct Asking<'a> {
    pub(super) conn: &'a mut Conn,
    pub(super) body: Decoder,
    /// The client waits to be told to go on (RFC 9110, section 10.1.1).
    pub(super) expects: bool,
    pub(super) version: Version,
}

impl Asking<'_> {
    /// Whether the rest of the body is not worth reading.
    pub(super) fn is_cut_off(&self) -> bool {
        const FEW: u64 = 64 * 1024;
        !self.body.is_over() && (self.expects || self.body.left().is_none_or(|left| left > FEW))
    }

    /// Reads the rest of the body away; false if that does not come in time.
    pub(super) async fn discard(&mut self) -> bool {
        let deadline = Deadline::new();
        deadline.set(Some(LINGER));
        poll_fn(|context| {
            while !self.body.is_over() {
                match self.poll_pieces(context, &mut |_| {}) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => return deadline.poll(context).map(|()| false),
                }
            }
            Poll::Ready(true)
        })
        .await
    }
}

/// `take`, which cannot fail.
fn take_any(take: &mut dyn FnMut(Piece<'_>)) -> impl FnMut(Piece<'_>) -> Result<(), PeerError> {
    move |piece| {
        take(piece);
        Ok(())
    }
}

impl Peer for Asking<'_> {
    fn poll_pieces(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Piece<'_>),
    ) -> Poll<Result<(), PeerError>> {
        loop {
            let conn = &mut *self.conn;
            if !conn.is_drained() || self.body.is_over() {
                let input = &conn.input[conn.at..];
                let (taken, handed_on) = self.body.pieces(input, &mut take_any(take))?;
                conn.at += taken;
                self.expects = false;
                if handed_on {
                    return Poll::Ready(Ok(()));
                }
            }
            if conn.is_ended() {
                return Poll::Ready(Err(PeerError::Gone));
            }
            if std::mem::take(&mut self.expects) {
                conn.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            if let Poll::Ready(Err(_)) = conn.poll_out(context) {
                return Poll::Ready(Err(PeerError::Gone));
            }
            if !conn.is_drained() {
                // The rest of a trailer section.
                ready!(conn.poll_fill(context)).map_err(|_| PeerError::Gone)?;
                continue;
            }
            let handed_on = SCRATCH.with_borrow_mut(|scratch| {
                let mut room = ReadBuf::new(scratch);
                let read = Pin::new(&mut conn.stream).poll_read(context, &mut room);
                ready!(read).map_err(|_| PeerError::Gone)?;
                let length = room.filled().len();
                if length == 0 {
                    conn.end();
                    return Poll::Ready(Err(PeerError::Gone));
                }
                let read = &scratch[..length];
                let (taken, handed_on) = self.body.pieces(read, &mut take_any(take))?;
                if taken < length {
                    conn.input.clear();
                    conn.at = 0;
                    conn.input.extend_from_slice(&read[taken..]);
                }
                Poll::Ready(Ok(handed_on))
            });
            if ready!(handed_on)? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let conn = &mut *self.conn;
        if let Poll::Ready(Err(_)) = conn.poll_out(context) {
            return Poll::Ready(());
        }
        while !conn.is_ended() && conn.input.len() - conn.at < MOST_AHEAD {
            match conn.poll_fill(context) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        if conn.ended.is_none() {
            return conn.poll_cut_short(self.body.left(), context);
        }
        match &conn.ended {
            // A body that is cut short.
            Some(_) if !self.body.is_over() && conn.is_drained() => Poll::Ready(()),
            Some(deadline) => deadline.poll(context),
            None => Poll::Pending,
        }
    }

    fn interim(&mut self, head: &ResponseHead) {
        if self.version == Version::HTTP_11 {
            head.write(&mut self.conn.out);
            self.conn.out.extend_from_slice(b"\r\n");
        }
    }
}
