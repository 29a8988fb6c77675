//! Bodies: of requests on their way to a backend, and of answers on their way to a client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::HeaderName;

use super::access_log::{End, Record};
use super::compress::{CompressError, Compressed};
use super::counts::Active;
use super::errand::Learner;
use super::parts::Lane;
use super::progress::Progress;
use super::upstream::{Driven, clean};
use super::visit::UnderWay;
use crate::config::http::Algorithm;

/// Why a body ended before its end. Whoever gets it aborts the connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The other side failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// There was more of it than allowed.
    #[error("the body is larger than allowed")]
    TooLarge,
    /// It could not be compressed.
    #[error("compress an answer: {0}")]
    Compress(std::io::Error),
}

impl From<CompressError<Self>> for BodyError {
    fn from(error: CompressError<Self>) -> Self {
        match error {
            CompressError::Body(error) => error,
            CompressError::Encoder(error) => Self::Compress(error),
        }
    }
}

/// The body of an answer. Its end is the end of the request.
pub(super) struct Body {
    kind: Kind,
    /// Gone with the end.
    under_way: Option<UnderWay>,
    /// Written at the end.
    record: Option<Box<Record>>,
    /// Counted until then.
    _active: Option<Active>,
    /// Reads its beginning.
    learner: Option<Box<Learner>>,
}

enum Kind {
    Empty,
    Full(Bytes),
    Upstream(Driven),
    Compressed(Box<Compressed<Body>>),
}

impl Body {
    const fn new(kind: Kind, active: Option<Active>) -> Self {
        Self {
            kind,
            under_way: None,
            record: None,
            _active: active,
            learner: None,
        }
    }

    /// Nothing.
    pub(super) const fn empty() -> Self {
        Self::new(Kind::Empty, None)
    }

    /// A body that is there already.
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            Self::empty()
        } else {
            Self::new(Kind::Full(bytes), None)
        }
    }

    /// A body as it comes from a backend.
    pub(super) fn upstream(body: Driven, active: Active) -> Self {
        let active = Some(active);
        if body.is_end_stream() {
            Self::new(Kind::Empty, active)
        } else {
            Self::new(Kind::Upstream(body), active)
        }
    }

    /// The same in a content coding.
    pub(super) fn compressed(self, algorithm: Algorithm) -> Self {
        let compressed = Compressed::new(algorithm, self);
        Self::new(Kind::Compressed(Box::new(compressed)), None)
    }

    /// Has its beginning read by `learner` before the client gets it.
    pub(super) fn read_by(mut self, learner: Option<Box<Learner>>) -> Self {
        self.learner = learner;
        self
    }

    /// With its end the request is not under way any more, and what was noted of it is written.
    pub(super) fn ending(mut self, under_way: UnderWay, record: Option<Box<Record>>) -> Self {
        self.under_way = Some(under_way);
        self.record = record;
        self
    }

    fn poll_kind(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Upstream(body) => body.poll_frame(context),
            Kind::Compressed(body) => Pin::new(&mut **body)
                .poll_frame(context)
                .map_err(BodyError::from),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            let end = if self.is_end_stream() {
                End::Complete
            } else {
                End::Aborted
            };
            record.finish(end);
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = this.poll_kind(context);
        match (&polled, &mut this.record) {
            (Poll::Ready(Some(Ok(frame))), Some(record)) => {
                record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            // The end, which not every kind of body remembers.
            (Poll::Ready(None), _) => this.kind = Kind::Empty,
            _ => {}
        }
        if let Some(learner) = &mut this.learner
            && let Poll::Ready(Some(Ok(frame))) = &polled
            && !frame.data_ref().is_some_and(|piece| learner.look(piece))
        {
            this.learner = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Upstream(body) => body.is_end_stream(),
            Kind::Compressed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Upstream(body) => body.size_hint(),
            Kind::Compressed(body) => body.size_hint(),
        }
    }
}

/// The body of a request on its way to a backend.
pub(super) enum RequestBody {
    /// Nothing.
    Empty,
    /// As it comes from the client.
    Client(ClientBody),
}

/// The body of a request, with what it is held to.
pub(super) struct ClientBody {
    body: Incoming,
    /// What goes from the trailers.
    named: Vec<HeaderName>,
    progress: Rc<Progress>,
    /// Bytes that may still come; `None` for any number.
    left: Option<u64>,
    /// Between two pieces.
    pause: Option<Duration>,
    /// From its end to the answer.
    answer: Option<Duration>,
}

impl ClientBody {
    /// The body of a request on `lane`, without the trailers that are `named`.
    pub(super) fn new(
        body: Incoming,
        named: Vec<HeaderName>,
        progress: Rc<Progress>,
        lane: &Lane,
    ) -> Self {
        Self {
            body,
            named,
            progress,
            left: lane.body,
            pause: lane.timeouts.body,
            answer: lane.timeouts.first_byte,
        }
    }

    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.progress.set_awaits_body(frame.is_pending());
        let frame = match ready!(frame) {
            Some(frame) => clean(frame?, &self.named),
            None => {
                self.progress.within(self.answer);
                return Poll::Ready(None);
            }
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(left) = &mut self.left {
            match left.checked_sub(length) {
                Some(rest) => *left = rest,
                None => {
                    self.progress.set_too_large();
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
            }
        }
        let over = self.body.is_end_stream();
        self.progress
            .within(if over { self.answer } else { self.pause });
        Poll::Ready(Some(Ok(frame)))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Client(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(body) => body.body.size_hint(),
        }
    }
}
