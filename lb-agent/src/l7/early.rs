//! A stream that has been read from before by somebody who did not go on with it: the bytes come
//! again, to whoever does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use hyper::body::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// A stream, and what was read from it.
pub(super) struct Early {
    stream: Stream,
    early: Bytes,
    /// What is written first has been sent already. Nothing is read before.
    sent: Option<Waker>,
}

impl Early {
    /// A client's stream from which `early` was read.
    pub(super) fn read(stream: Stream, early: Bytes) -> Stream {
        if early.is_empty() {
            return stream;
        }
        Self::over(stream, early, None)
    }

    /// A backend's stream to which a request was written, and from which `early` was read. Whoever
    /// writes the head of that request again, at once, gets the answer to the first one.
    pub(super) fn asked(stream: Stream, early: Bytes) -> Stream {
        Self::over(stream, early, Some(Waker::noop().clone()))
    }

    fn over(stream: Stream, early: Bytes, sent: Option<Waker>) -> Stream {
        Stream::Early(Box::new(Self {
            stream,
            early,
            sent,
        }))
    }

    /// The stream without this, if there is nothing left of it.
    pub(super) fn into_rest(self: Box<Self>) -> Stream {
        if self.early.is_empty() && self.sent.is_none() {
            self.stream
        } else {
            Stream::Early(self)
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether this write is the one that has been made before.
    fn is_sent(&mut self) -> bool {
        self.sent.take().map(Waker::wake).is_some()
    }
}

impl AsyncRead for Early {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(reader) = &mut this.sent {
            reader.clone_from(context.waker());
            return Poll::Pending;
        }
        if this.early.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let length = this.early.len().min(buffer.remaining());
        buffer.put_slice(&this.early[..length]);
        this.early.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Early {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_sent() {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_sent() {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        Pin::new(&mut this.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
