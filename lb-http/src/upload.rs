//! A request on its way to a backend: its head, and its body as it comes from the client.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use lb_http1::body::{Encoder, Piece};
use lb_http1::{Fields, Framing, RequestHead, buffer_pool, hop};

use super::carrier::Carrier;
use super::compiled::RouteConfig;
use super::peer::{Peer, PeerError};
use super::progress::Progress;
use super::record::Counters;
use lb_config::http::Protocol;

/// A request up to this many bytes is kept until its answer begins, so that it can be sent again.
const KEPT: usize = 64 * 1024;

/// Bytes that are passed on before others on this thread have their turn.
const TURN: usize = 256 * 1024;

/// A request on its way.
pub(super) struct Upload {
    encoder: Encoder,
    /// Bytes to be written; those before `taken` are written already.
    kept: Vec<u8>,
    taken: usize,
    /// Bytes of the head in `kept`.
    head: usize,
    /// `kept` begins with the head, and has everything since.
    is_whole: bool,
    /// The body was read to its end.
    is_read: bool,
    /// The trailers behind the body, if they are no bytes of it.
    trailers: Option<Box<Fields>>,
    /// The backend takes no more. Its answer may be there all the same.
    is_broken: bool,
    /// Bytes that may still come; `None` for any number.
    left: Option<u64>,
    /// The names of fields to remove from the trailers.
    named: Vec<Vec<u8>>,
    /// How long the client may pause.
    pause: Option<Duration>,
    /// How long the answer may take after the end of the body.
    first_byte: Option<Duration>,
    /// For the bytes of the body; none are needed without one.
    counters: Option<Counters>,
}

/// Why a request cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// Because of the client.
    #[error(transparent)]
    Peer(PeerError),
    /// The body is larger than allowed.
    #[error("the body is larger than allowed")]
    TooLarge,
}

impl Upload {
    /// A request on `route` with a body of this framing, without the trailers that are `named`.
    pub(super) fn new(framing: Framing, route: &RouteConfig, named: Vec<Vec<u8>>) -> Self {
        Self {
            // Over HTTP/2 frames have the lengths.
            encoder: Encoder::new(match route.protocol {
                Protocol::Http1 => framing,
                Protocol::H2c => Framing::UntilClose,
            }),
            kept: buffer_pool::take(),
            taken: 0,
            head: 0,
            is_whole: true,
            is_read: framing.is_empty(),
            trailers: None,
            is_broken: false,
            left: route.body,
            named,
            pause: route.timeouts.body,
            first_byte: route.timeouts.first_byte,
            counters: None,
        }
    }

    /// From now on the bytes of the body are counted there.
    pub(super) fn counts_for(&mut self, counters: &Counters) {
        if !self.is_read {
            self.counters = Some(counters.clone());
        }
    }

    /// Sends `head`, and the retained part of the body, from the beginning.
    pub(super) fn begin(&mut self, head: &RequestHead, framing: Framing, backend: &mut Carrier) {
        let mut text = buffer_pool::take();
        let body = self.kept.get(self.head..).unwrap_or_default();
        let is_all = self.is_read && body.is_empty() && self.trailers.is_none();
        backend.begin(head, framing, is_all, &mut text);
        self.head = text.len();
        text.extend_from_slice(body);
        buffer_pool::give(std::mem::replace(&mut self.kept, text));
        self.taken = 0;
        self.is_broken = false;
    }

    /// Whether the request can be sent again.
    pub(super) const fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether a byte of it was written.
    pub(super) const fn is_begun(&self) -> bool {
        self.taken > 0 || !self.is_whole
    }

    /// Whether all of it was written.
    pub(super) fn is_over(&self) -> bool {
        self.is_read && self.taken == self.kept.len() && !self.is_broken
    }

    /// The answer has begun: nothing is sent again.
    pub(super) fn answered(&mut self) {
        self.is_whole = false;
        self.forget_written();
    }

    fn forget_written(&mut self) {
        if self.taken == self.kept.len() {
            buffer_pool::give(std::mem::take(&mut self.kept));
            self.taken = 0;
        }
    }

    /// Reads and writes the available bytes; ready when all of it was written, or the backend takes no
    /// more.
    pub(super) fn poll(
        &mut self,
        peer: &mut impl Peer,
        backend: &mut Carrier,
        progress: &Progress,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        // The available part of the body goes with the head.
        if !self.is_begun() && !self.is_read && self.kept.len() == self.head {
            let _ = self.poll_read(peer, backend, progress, context)?;
        }
        let mut moved = 0;
        loop {
            while self.taken < self.kept.len() && !self.is_broken {
                let rest = &self.kept[self.taken..];
                let is_last = self.is_read && self.trailers.is_none();
                match ready!(backend.poll_write(context, rest, is_last)) {
                    Ok(written) if written > 0 => self.taken += written,
                    _ => self.is_broken = true,
                }
            }
            if self.is_read || self.is_broken {
                if !self.is_broken {
                    backend.end(self.trailers.as_deref());
                }
                if !self.is_whole {
                    self.forget_written();
                }
                return Poll::Ready(Ok(()));
            }
            if !self.is_whole || self.kept.len() > KEPT {
                self.is_whole = false;
                self.forget_written();
            }
            if moved >= TURN {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            moved += ready!(self.poll_read(peer, backend, progress, context))?;
        }
    }

    /// Reads more of the body: how many bytes.
    fn poll_read(
        &mut self,
        peer: &mut impl Peer,
        backend: &mut Carrier,
        progress: &Progress,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, UploadError>> {
        let (mut too_large, mut length) = (false, 0);
        let goes_straight = self.encoder.is_plain() && !self.is_whole;
        let waker = context.waker();
        let polled = peer.poll_pieces(context, &mut |piece| match piece {
            Piece::Data(data) => {
                length += data.len();
                if let Some(left) = &mut self.left {
                    match left.checked_sub(data.len() as u64) {
                        Some(rest) => *left = rest,
                        None => too_large = true,
                    }
                }
                if too_large {
                    return;
                }
                let mut rest = data;
                if goes_straight && self.kept.is_empty() {
                    let mut context = Context::from_waker(waker);
                    match backend.poll_write(&mut context, data, false) {
                        Poll::Ready(Ok(written)) => rest = &data[written..],
                        Poll::Ready(Err(_)) => self.is_broken = true,
                        Poll::Pending => {}
                    }
                }
                self.encoder.data(rest, &mut self.kept);
            }
            Piece::End(trailers) => {
                let trailers =
                    trailers.map(|trailers| hop::cleaned_trailers(trailers, &self.named));
                self.encoder.end(trailers.as_ref(), &mut self.kept);
                if self.encoder.is_plain() {
                    let trailers = trailers.filter(|trailers| !trailers.is_empty());
                    self.trailers = trailers.map(Box::new);
                }
                self.is_read = true;
            }
            Piece::More => {}
        });
        if let Some(counters) = &self.counters {
            counters.received(length as u64);
        }
        if too_large {
            return Poll::Ready(Err(UploadError::TooLarge));
        }
        progress.set_awaits_body(polled.is_pending());
        ready!(polled).map_err(UploadError::Peer)?;
        progress.within(if self.is_read {
            self.first_byte
        } else {
            self.pause
        });
        Poll::Ready(Ok(length))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        buffer_pool::give(std::mem::take(&mut self.kept));
    }
}
