//! Bodies: of requests on their way to a backend, and of answers on their way to a client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::counts::Active;
use super::upstream::Driven;
use super::visit::Visit;

/// Why a body ended before its end. Whoever gets it aborts the connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The other side failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error("no progress within the time allowed")]
    Timeout,
    /// There was more of it than allowed.
    #[error("the body is larger than allowed")]
    TooLarge,
}

/// The body of an answer. Its end is the end of the request.
pub(super) struct Body {
    kind: Kind,
    /// Told of the end.
    visit: Option<Rc<Visit>>,
    /// Counted until then.
    _active: Option<Active>,
}

enum Kind {
    Empty,
    Full(Bytes),
    Upstream(Driven),
}

impl Body {
    const fn new(kind: Kind, active: Option<Active>) -> Self {
        Self {
            kind,
            visit: None,
            _active: active,
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

    /// Tells `visit` of the end.
    pub(super) fn ending(mut self, visit: &Rc<Visit>) -> Self {
        self.visit = Some(Rc::clone(visit));
        self
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(visit) = &self.visit {
            visit.end();
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
        match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Upstream(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Upstream(body) => body.size_hint(),
        }
    }
}

/// The body of a request on its way to a backend.
pub(super) enum RequestBody {
    /// Nothing.
    Empty,
    /// As it comes from the client.
    Client(Incoming),
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
            Self::Client(body) => Pin::new(body).poll_frame(context).map_err(BodyError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(body) => body.size_hint(),
        }
    }
}
