//! Bodies of HTTP/2, as hyper has them.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use lb_http1::body::{BodyError, Piece};
use lb_http1::{Fields, ResponseHead};
use tokio::task::AbortHandle;

use super::access_log::End;
use super::clock;
use super::connection::{Given, InFlight, NOTHING};
use super::download::DownloadError;
use super::h2c::{fields_of, headers_of};
use super::peer::{Peer, PeerError};
use super::record::Record;
use super::transfer::Transfer;

/// The client of a request of HTTP/2.
pub(super) struct Asking {
    body: Incoming,
}

impl Asking {
    /// The client whose request has this body.
    pub(super) fn new(body: Incoming) -> Self {
        Self { body }
    }
}

impl Peer for Asking {
    fn poll_pieces(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Piece<'_>),
    ) -> Poll<Result<(), PeerError>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                tracing::debug!(%error, "the body of a request breaks off");
                return Poll::Ready(Err(BodyError::CutShort.into()));
            }
            None if self.body.is_end_stream() => {
                take(Piece::End(None));
                return Poll::Ready(Ok(()));
            }
            // hyper takes a reset with NO_ERROR for the end.
            None => return Poll::Ready(Err(PeerError::Gone)),
        };
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => take(Piece::Data(&data)),
            Err(frame) => {
                let trailers = frame.into_trailers().ok();
                take(Piece::End(trailers.as_ref().map(fields_of)));
                return Poll::Ready(Ok(()));
            }
        }
        if self.body.is_end_stream() {
            take(Piece::End(None));
        }
        Poll::Ready(Ok(()))
    }

    /// hyper drops the request of a stream that was reset.
    fn poll_gone(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// hyper has no interim answers.
    fn interim(&mut self, _head: &ResponseHead) {}
}

/// An answer that comes from a backend. Its end is the end of the request.
pub(super) struct Stream {
    request: Upload,
    transfer: Option<Transfer>,
    in_flight: InFlight,
    /// `None` once it is written.
    record: Option<Record>,
    trailers: Option<Fields>,
    /// How long the backend may pause.
    pause: Option<Duration>,
    /// Since when the client has not made room for more.
    given: Given,
    is_over: bool,
}

/// How the rest of a request goes.
enum Upload {
    /// Whenever the answer does.
    Beside(Asking),
    /// In a task of its own, until that is aborted: the client may take nothing of its answer before it
    /// has sent all of its request.
    Apart(AbortHandle),
    Over,
}

impl Stream {
    /// The rest of an exchange.
    pub(super) fn new(
        asking: Asking,
        mut transfer: Transfer,
        in_flight: InFlight,
        record: Record,
        pause: Option<Duration>,
    ) -> Self {
        let given = in_flight.stream();
        in_flight.progress.awaits(pause);
        let request = match transfer.split() {
            None => Upload::Beside(asking),
            Some(upward) => {
                let progress = Rc::clone(&in_flight.progress);
                let task = tokio::task::spawn_local(upward.run(asking, progress));
                Upload::Apart(task.abort_handle())
            }
        };
        Self {
            request,
            transfer: Some(transfer),
            in_flight,
            record: Some(record),
            trailers: None,
            pause,
            given,
            is_over: false,
        }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let Some(transfer) = &mut self.transfer else {
            let trailers = self.trailers.take();
            return Poll::Ready(trailers.map(|fields| Ok(Frame::trailers(headers_of(&fields)))));
        };
        if let Upload::Beside(asking) = &mut self.request {
            let progress = &self.in_flight.progress;
            if transfer.poll_upload(asking, progress, context).is_ready() {
                self.request = Upload::Over;
            }
        }
        let mut data = Vec::new();
        let trailers = &mut self.trailers;
        let polled = transfer.poll_answer(context, &mut |piece| match piece {
            Piece::Data(more) => data.extend_from_slice(more),
            Piece::End(fields) => *trailers = fields,
            Piece::More => {}
        });
        let progress = &self.in_flight.progress;
        if let Some(record) = &mut self.record
            && !transfer.is_over()
        {
            record.goes_on();
        }
        if polled.is_pending() {
            self.given.set(NOTHING);
            ready!(progress.poll_deadline(context));
            return Poll::Ready(Some(Err(BodyError::CutShort.into())));
        }
        ready!(polled)?;
        progress.awaits(self.pause);
        if transfer.is_over()
            && let Some(transfer) = self.transfer.take()
        {
            transfer.end();
            self.is_over = true;
        }
        self.given.set(if self.is_over {
            NOTHING
        } else {
            clock::now_ms()
        });
        if let Some(record) = &mut self.record {
            record.sent(data.len() as u64);
        }
        if data.is_empty() {
            return self.poll(context);
        }
        Poll::Ready(Some(Ok(Frame::data(data.into()))))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.given.set(NOTHING);
        if let Upload::Apart(task) = &self.request {
            task.abort();
        }
        if let Some(record) = self.record.take() {
            let end = match self.is_over {
                true => End::Complete,
                false => End::Aborted,
            };
            record.finish(end);
        }
    }
}

/// The body of an answer.
pub(super) struct Body {
    kind: Kind,
    /// Gone with the end.
    _in_flight: Option<InFlight>,
}

enum Kind {
    Empty,
    Full(Bytes),
    Streamed(Box<Stream>, Option<u64>),
}

impl Body {
    const fn new(kind: Kind) -> Self {
        Self {
            kind,
            _in_flight: None,
        }
    }

    /// Nothing.
    pub(super) const fn empty() -> Self {
        Self::new(Kind::Empty)
    }

    /// A body that is there already.
    pub(super) fn full(bytes: Bytes) -> Self {
        Self::new(if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Full(bytes)
        })
    }

    /// A body as it comes from a backend, of so many bytes if that is known.
    pub(super) fn streamed(mut stream: Stream, length: Option<u64>) -> Self {
        let is_at_hand = stream.transfer.as_ref().is_some_and(Transfer::is_at_hand);
        if length == Some(0) || is_at_hand {
            // It is over at once, which the frame of its head says.
            let mut quiet = Context::from_waker(Waker::noop());
            let _ = stream.poll(&mut quiet);
        }
        Self::new(Kind::Streamed(Box::new(stream), length))
    }

    /// With its end the request is not under way any more.
    pub(super) fn held(mut self, in_flight: InFlight) -> Self {
        self._in_flight = Some(in_flight);
        self
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let this = self.get_mut();
        match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Streamed(stream, _) => stream.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Streamed(stream, _) => stream.is_over && stream.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Streamed(_, Some(length)) => SizeHint::with_exact(*length),
            Kind::Streamed(_, None) => SizeHint::default(),
        }
    }
}
