//! The bytes of plain requests and answers on their way. Those of backends are read into a buffer
//! of the thread; only what the client does not take at once is kept.

use std::cell::RefCell;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, ReadBuf};

use super::super::spare;
use super::super::stream::Stream;
use super::answer::{self, Known, Parsed, Plain};

/// Room for what a client says.
const PIECE: usize = 4 * 1024;
/// Most bytes of a backend that are read at once.
const CHUNK: usize = 128 * 1024;
/// Fewer bytes of a body are cheaper to copy behind the head than to write beside it.
const FEW: usize = 2 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Reads more of what a client says; 0 is the end of it.
pub(super) fn read_more(
    stream: &mut Stream,
    input: &mut Vec<u8>,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if input.capacity() == 0 {
        *input = spare::take();
    }
    input.reserve(PIECE);
    pin!(stream.read_buf(input)).poll(context)
}

/// What came of a request that was sent.
pub(super) enum Came {
    /// A plain answer, which is on its way to the client.
    Answer(Plain, Reply),
    /// Something else began with these bytes, or the connection is over.
    Other(Vec<u8>),
    /// The client has gone away.
    Gone,
    /// Nothing, in time.
    Late,
}

/// A request on its way to its backend, until its answer begins.
pub(super) struct Question<'a> {
    /// What is still to be written.
    head: &'a [u8],
    known: Known<'a>,
    /// What came of the head of the answer.
    early: Vec<u8>,
}

impl<'a> Question<'a> {
    /// Sends `head`.
    pub(super) const fn new(head: &'a [u8], known: Known<'a>) -> Self {
        Self {
            head,
            known,
            early: Vec::new(),
        }
    }

    /// Writes, and reads; `complete` is called with a plain answer and puts the end to its head.
    pub(super) fn poll(
        &mut self,
        backend: &mut Stream,
        client: &mut Stream,
        complete: impl FnOnce(&Plain, &mut Vec<u8>),
        context: &mut Context<'_>,
    ) -> Poll<Came> {
        while !self.head.is_empty() {
            match ready!(Pin::new(&mut *backend).poll_write(context, self.head)) {
                Ok(taken) if taken > 0 => self.head = &self.head[taken..],
                _ => return Poll::Ready(Came::Other(Vec::new())),
            }
        }
        let mut out = spare::take();
        let came = self.poll_answer(backend, client, &mut out, complete, context);
        spare::give(out);
        came
    }

    fn poll_answer(
        &mut self,
        backend: &mut Stream,
        client: &mut Stream,
        out: &mut Vec<u8>,
        complete: impl FnOnce(&Plain, &mut Vec<u8>),
        context: &mut Context<'_>,
    ) -> Poll<Came> {
        SCRATCH.with_borrow_mut(|scratch| {
            let (mut plain, bytes) = loop {
                let mut room = ReadBuf::new(scratch);
                let read = ready!(Pin::new(&mut *backend).poll_read(context, &mut room));
                let length = room.filled().len();
                if read.is_err() || length == 0 {
                    return Poll::Ready(Came::Other(std::mem::take(&mut self.early)));
                }
                let is_first = self.early.is_empty();
                if !is_first {
                    self.early.extend_from_slice(&scratch[..length]);
                }
                let bytes = if is_first {
                    &scratch[..length]
                } else {
                    &self.early[..]
                };
                out.clear();
                match answer::parse(bytes, self.known, out) {
                    Parsed::Plain(plain) if is_first => break (plain, &scratch[..length]),
                    Parsed::Plain(plain) => break (plain, &self.early[..]),
                    Parsed::Other => return Poll::Ready(Came::Other(bytes.to_vec())),
                    Parsed::Partial if is_first => self.early = bytes.to_vec(),
                    Parsed::Partial => {}
                }
            };
            let body = &bytes[plain.length..];
            let here = usize::try_from(plain.body).map_or(body.len(), |all| all.min(body.len()));
            // Nobody knows what more is about.
            plain.stays &= here == body.len();
            complete(&plain, out);
            let reply = Reply::begin(client, out, &body[..here], plain.body, context);
            Poll::Ready(Came::Answer(plain, reply))
        })
    }
}

/// An answer on its way to the client.
pub(super) struct Reply {
    /// What the client has not taken yet, from `taken` on.
    kept: Vec<u8>,
    taken: usize,
    /// Bytes of the body that are still to be read.
    left: u64,
    /// Bytes of the body that were read.
    passed: u64,
    /// Goes up with everything that the client takes.
    moved: u64,
    error: Option<io::Error>,
}

impl Reply {
    /// Writes the head, and what there is of a body of `all` bytes.
    fn begin(
        client: &mut Stream,
        head: &mut Vec<u8>,
        body: &[u8],
        all: u64,
        context: &mut Context<'_>,
    ) -> Self {
        let passed = body.len() as u64;
        let body = if body.len() <= FEW {
            head.extend_from_slice(body);
            &[]
        } else {
            body
        };
        let written = if body.is_empty() {
            Pin::new(client).poll_write(context, head)
        } else {
            let parts = [IoSlice::new(head), IoSlice::new(body)];
            Pin::new(client).poll_write_vectored(context, &parts)
        };
        let mut reply = Self {
            kept: Vec::new(),
            taken: 0,
            left: all - passed,
            passed,
            moved: 0,
            error: None,
        };
        let taken = reply.note(written);
        if let Some(rest) = head.get(taken..) {
            reply.kept.extend_from_slice(rest);
        }
        let rest = body.get(taken.saturating_sub(head.len())..);
        reply.kept.extend_from_slice(rest.unwrap_or_default());
        reply
    }

    /// Bytes of the body so far.
    pub(super) const fn passed(&self) -> u64 {
        self.passed
    }

    /// A number that changes whenever the client has taken something.
    pub(super) const fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether the client does not take what there is for it.
    pub(super) const fn is_stuck(&self) -> bool {
        self.taken < self.kept.len()
    }

    /// Passes on what it can; ready at the end.
    pub(super) fn poll(
        &mut self,
        backend: &mut Stream,
        client: &mut Stream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(error) = self.error.take() {
                return Poll::Ready(Err(error));
            }
            if self.is_stuck() {
                let rest = &self.kept[self.taken..];
                let written = Pin::new(&mut *client).poll_write(context, rest);
                if written.is_pending() {
                    return Poll::Pending;
                }
                self.taken += self.note(written);
                continue;
            }
            // Who has nothing to write holds no memory.
            self.kept = Vec::new();
            self.taken = 0;
            if self.left == 0 {
                return Pin::new(client).poll_flush(context);
            }
            if self.poll_more(backend, client, context)?.is_pending() {
                let _ = Pin::new(client).poll_flush(context)?;
                return Poll::Pending;
            }
        }
    }

    /// Reads once, and passes that on.
    fn poll_more(
        &mut self,
        backend: &mut Stream,
        client: &mut Stream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let most = usize::try_from(self.left).map_or(CHUNK, |left| left.min(CHUNK));
            let mut room = ReadBuf::new(&mut scratch[..most]);
            ready!(Pin::new(backend).poll_read(context, &mut room))?;
            let bytes = room.filled();
            if bytes.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.left -= bytes.len() as u64;
            self.passed += bytes.len() as u64;
            let written = Pin::new(client).poll_write(context, bytes);
            let taken = self.note(written);
            self.kept.extend_from_slice(&bytes[taken..]);
            Poll::Ready(Ok(()))
        })
    }

    /// What a write took.
    fn note(&mut self, written: Poll<io::Result<usize>>) -> usize {
        match written {
            Poll::Pending => 0,
            Poll::Ready(Ok(taken)) if taken > 0 => {
                self.moved += 1;
                taken
            }
            Poll::Ready(Ok(_)) => self.fail(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Err(error)) => self.fail(error),
        }
    }

    fn fail(&mut self, error: io::Error) -> usize {
        self.error = Some(error);
        0
    }
}
