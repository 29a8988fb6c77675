//! One stream of a connection of HTTP/2: a request and its answer.
//!
//! Nothing is buffered beyond the limits of flow control. A write waits for the backend's window, and the
//! backend gets a new one for data that the client has taken. A stream that is dropped before its end is
//! reset with CANCEL.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::Bytes;
use lb_http1::{Fields, Framing, RequestHead, ResponseHead};

use super::connection::Lease;
use super::head;

/// A place on a connection, and the stream that was opened there.
pub(crate) struct Call {
    lease: Rc<Lease>,
    sends: Option<SendStream<Bytes>>,
    receives: Receives,
    /// The end of the request was sent.
    is_ended: bool,
    /// Interim answers that came.
    interim: u32,
}

enum Receives {
    /// Nothing was sent, and why.
    Unsent(Unsent),
    /// The head of the answer is to come.
    Head(ResponseFuture),
    /// Its body is.
    Body(RecvStream),
    /// Another part of this stream receives.
    Elsewhere,
}

#[derive(Clone, Copy)]
enum Unsent {
    /// It was not tried, or the connection takes no more streams.
    Unopened,
    /// The request cannot be sent over HTTP/2.
    Unsendable,
}

/// Why there is no head of an answer.
pub(crate) enum Unanswered {
    /// The connection took no stream.
    Unsent,
    /// The request cannot be sent over HTTP/2.
    Unsendable,
    /// The backend did not look at the request, and says so (RFC 9113, section 8.7).
    Refused,
    /// The stream was reset with this reason.
    Reset(Reason),
    /// The connection broke.
    Broken,
    /// The backend's frames are no answer of HTTP/2; the text names the fault.
    Malformed(&'static str),
}

/// A part of an answer after its head.
pub(crate) enum Received {
    /// Bytes of its body; never none.
    Data(Bytes),
    /// The end, with the trailers if there are any.
    End(Option<Fields>),
}

impl Call {
    /// Nothing is sent yet.
    pub(super) fn new(lease: Lease) -> Self {
        Self {
            lease: Rc::new(lease),
            sends: None,
            receives: Receives::Unsent(Unsent::Unopened),
            is_ended: false,
            interim: 0,
        }
    }

    /// Opens the stream with the head of a request, which is all of it if `is_all` says so. Errors are
    /// reported by [`Call::poll_head`].
    pub(crate) fn begin(&mut self, head: &RequestHead, framing: Framing, is_all: bool) {
        let Some(request) = head::request(head, framing) else {
            self.receives = Receives::Unsent(Unsent::Unsendable);
            return;
        };
        let sent = self
            .lease
            .sender()
            .map(|mut sender| sender.send_request(request, is_all));
        match sent {
            Some(Ok((receives, sends))) => {
                self.receives = Receives::Head(receives);
                self.sends = Some(sends);
                self.is_ended = is_all;
            }
            // The connection was fine a moment ago.
            Some(Err(error)) => {
                tracing::debug!(%error, "a request cannot be sent over HTTP/2");
                self.receives = Receives::Unsent(Unsent::Unsendable);
            }
            None => {}
        }
    }

    /// Sends bytes of the body as far as the backend takes them: how many. `is_last` says that nothing
    /// comes behind them.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        is_last: bool,
    ) -> Poll<io::Result<usize>> {
        let Some(sends) = self.sends.as_mut().filter(|_| !self.is_ended) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        sends.reserve_capacity(bytes.len());
        let mut room = sends.capacity();
        if room == 0 {
            room = match ready!(sends.poll_capacity(context)) {
                Some(Ok(room)) => room,
                _ => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let length = room.min(bytes.len());
        let is_end = is_last && length == bytes.len();
        let data = Bytes::copy_from_slice(&bytes[..length]);
        if sends.send_data(data, is_end).is_err() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.is_ended = is_end;
        Poll::Ready(Ok(length))
    }

    /// Ends the request, if that was not done. A stream that takes nothing any more says so by its answer.
    pub(crate) fn end(&mut self, trailers: Option<&Fields>) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        if let Some(sends) = &mut self.sends {
            let _ = match trailers {
                Some(trailers) => sends.send_trailers(head::headers_of(trailers)),
                None => sends.send_data(Bytes::new(), true),
            };
        }
    }

    /// The request comes to no end: the backend is told.
    pub(crate) fn cancel(&mut self) {
        if let Some(sends) = &mut self.sends {
            sends.send_reset(Reason::CANCEL);
        }
    }

    /// Nothing came in time, for which the connection may be the reason: others get another one.
    pub(crate) fn retire_connection(&self) {
        self.lease.retire();
    }

    /// Splits off the sending half. Both halves together are one stream.
    pub(crate) fn split(&mut self) -> Self {
        Self {
            lease: Rc::clone(&self.lease),
            sends: self.sends.take(),
            receives: Receives::Elsewhere,
            is_ended: self.is_ended,
            interim: 0,
        }
    }

    /// The head of the final answer, with at most `most_lines`. Interim ones, up to `most_interim`, go to
    /// `interim`.
    pub(crate) fn poll_head(
        &mut self,
        (most_lines, most_interim): (usize, u32),
        interim: &mut dyn FnMut(ResponseHead),
        context: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Unanswered>> {
        let answer = match &mut self.receives {
            Receives::Head(answer) => answer,
            Receives::Unsent(Unsent::Unsendable) => {
                return Poll::Ready(Err(Unanswered::Unsendable));
            }
            _ => return Poll::Ready(Err(Unanswered::Unsent)),
        };
        while let Some(Ok(head)) = ready!(answer.poll_informational(context)) {
            self.interim += 1;
            if self.interim > most_interim {
                let many = "a request got interim answers without end";
                return Poll::Ready(Err(Unanswered::Malformed(many)));
            }
            interim(head::answer(&head));
        }
        let response = match ready!(Pin::new(answer).poll(context)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(Unanswered::of(&error))),
        };
        if response.headers().len() > most_lines {
            return Poll::Ready(Err(Unanswered::Malformed(
                "an answer has more header lines than limits.response_headers allows",
            )));
        }
        let head = head::answer(&response);
        self.receives = Receives::Body(response.into_body());
        Poll::Ready(Ok(head))
    }

    /// Whether the received part is the last one.
    pub(crate) fn is_over(&self) -> bool {
        match &self.receives {
            Receives::Body(body) => body.is_end_stream(),
            _ => false,
        }
    }

    /// The next piece of the answer behind its head. The backend may send as much again.
    pub(crate) fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Received, h2::Error>> {
        let Receives::Body(body) = &mut self.receives else {
            return Poll::Ready(Err(Reason::INTERNAL_ERROR.into()));
        };
        while let Some(data) = ready!(body.poll_data(context)) {
            let data = data.map_err(an_error)?;
            // An error is one of the stream, and comes again.
            let _ = body.flow_control().release_capacity(data.len());
            if !data.is_empty() {
                return Poll::Ready(Ok(Received::Data(data)));
            }
        }
        let trailers = ready!(body.poll_trailers(context)).map_err(an_error)?;
        let trailers = trailers.map(|trailers| head::fields_of(&trailers));
        Poll::Ready(Ok(Received::End(trailers)))
    }
}

impl Unanswered {
    fn of(error: &h2::Error) -> Self {
        tracing::debug!(%error, "no answer over HTTP/2 from a backend");
        match error.reason() {
            // Streams above the last one that GOAWAY names end so, for any reason code.
            Some(_) if error.is_go_away() && error.is_remote() => Self::Refused,
            Some(Reason::REFUSED_STREAM) if error.is_remote() => Self::Refused,
            Some(reason) if error.is_reset() && error.is_remote() => Self::Reset(telling(reason)),
            Some(_) => Self::Malformed("a request got an answer that is no HTTP/2"),
            None => Self::Broken,
        }
    }
}

/// A reason that says that something went wrong, which a reset before the end has to.
fn telling(reason: Reason) -> Reason {
    match reason {
        Reason::NO_ERROR => Reason::INTERNAL_ERROR,
        reason => reason,
    }
}

/// The same error with a reason that can be passed on.
fn an_error(error: h2::Error) -> h2::Error {
    match error.reason() {
        Some(Reason::NO_ERROR) => Reason::INTERNAL_ERROR.into(),
        _ => error,
    }
}
