//! An answer on its way from a backend: its body, piece by piece.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lb_http1::body::{BodyError, Decoder, Piece};
use lb_http1::{Fields, Framing, buffer_pool, hop};
use tokio::io::{AsyncRead as _, ReadBuf};

use super::cache::Copying;
use super::carrier::Carrier;
use super::compress::Coded;
use super::counts::Active;
use super::files::PartError;
use super::h2c::Received;
use super::sticky::sniffer::SessionSniffer;
use super::upstream::Upstream;

/// Most bytes that are read at once.
pub(super) const CHUNK: usize = 128 * 1024;
/// Coded bytes that are passed on as soon as there are so many.
const PIECE: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Why an answer does not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    /// The connection broke.
    #[error("the backend's connection broke")]
    Broken(#[source] io::Error),
    /// Its stream was reset, or the connection below broke.
    #[error("the backend's stream broke off")]
    Reset(#[source] h2::Error),
    /// It is not framed as it says, or cut short.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// It cannot be compressed.
    #[error("an answer cannot be compressed")]
    Compress(#[source] io::Error),
    /// It is a file that does not come to its end.
    #[error(transparent)]
    File(#[from] PartError),
}

/// An answer on its way.
pub(super) struct Download {
    pub(super) upstream: Upstream,
    decoder: Decoder,
    /// Bytes that were read; those from `at` on are not decoded yet.
    input: Vec<u8>,
    at: usize,
    coded: Option<Box<Coded>>,
    copying: Option<Box<Copying>>,
    sniffer: Option<Box<SessionSniffer>>,
    /// Counted until the end.
    _active: Active,
    /// The names of fields to remove from the trailers.
    named: Vec<Vec<u8>>,
    passes_trailers: bool,
    most: usize,
    is_over: bool,
    /// Bytes came behind the end, or the connection ended with it.
    is_spoilt: bool,
}

/// The terms for the body of an answer.
pub(super) struct Terms {
    pub(super) framing: Framing,
    pub(super) coded: Option<Box<Coded>>,
    /// The copy for the cache.
    pub(super) copying: Option<Box<Copying>>,
    pub(super) sniffer: Option<Box<SessionSniffer>>,
    pub(super) named: Vec<Vec<u8>>,
    pub(super) passes_trailers: bool,
    /// Most bytes that are read at once, up to [`CHUNK`].
    pub(super) most: usize,
}

impl Download {
    /// The body of an answer on `upstream`; the bytes of `input` behind `at` belong to it.
    pub(super) fn new(
        upstream: Upstream,
        active: Active,
        (input, at): (Vec<u8>, usize),
        terms: Terms,
    ) -> Self {
        let Terms {
            framing,
            coded,
            copying,
            sniffer,
            named,
            passes_trailers,
            most,
        } = terms;
        Self {
            upstream,
            decoder: Decoder::new(framing),
            input,
            at,
            coded,
            copying,
            sniffer,
            _active: active,
            named,
            passes_trailers,
            most: most.min(CHUNK),
            is_over: false,
            is_spoilt: framing == Framing::UntilClose,
        }
    }

    /// Whether the end was handed on.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether the connection is as it was before the request: the answer was read to its end, and
    /// nothing behind it.
    pub(super) const fn is_clean(&self) -> bool {
        self.is_over && !self.is_spoilt
    }

    /// Whether nothing is to be waited for any more.
    pub(super) fn is_at_hand(&self) -> bool {
        match &self.upstream.carrier {
            Carrier::Own(_) => false,
            Carrier::Shared(call) => call.is_over(),
        }
    }

    /// The connection.
    pub(super) fn into_upstream(self) -> Upstream {
        self.upstream
    }

    /// Hands the next pieces to `take`, at least one when it is ready. The last one is the end.
    pub(super) fn poll_pieces(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Piece<'_>),
    ) -> Poll<Result<(), DownloadError>> {
        let mut out = Vec::new();
        let mut taken = 0;
        let polled = self.poll_coded(context, take, &mut out, &mut taken);
        buffer_pool::give(out);
        polled
    }

    fn poll_coded(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Piece<'_>),
        out: &mut Vec<u8>,
        taken: &mut usize,
    ) -> Poll<Result<(), DownloadError>> {
        loop {
            let read = self.poll_decoded(context, &mut |piece, coded| match (piece, coded) {
                (Piece::Data(data), Some(coded)) => {
                    *taken += data.len();
                    if out.capacity() == 0 {
                        *out = buffer_pool::take();
                    }
                    coded.write(data, out)
                }
                (Piece::End(trailers), Some(coded)) => {
                    coded.finish(out)?;
                    if !out.is_empty() {
                        take(Piece::Data(out));
                    }
                    out.clear();
                    take(Piece::End(trailers));
                    Ok(())
                }
                (piece, None) => {
                    take(piece);
                    Ok(())
                }
                (Piece::More, _) => Ok(()),
            });
            let is_idle = read.is_pending();
            if let Poll::Ready(read) = read {
                read?;
            }
            let Some(coded) = &mut self.coded else {
                return if is_idle {
                    Poll::Pending
                } else {
                    Poll::Ready(Ok(()))
                };
            };
            if self.is_over {
                return Poll::Ready(Ok(()));
            }
            if is_idle {
                coded.idle(out).map_err(DownloadError::Compress)?;
            }
            if !out.is_empty() && (is_idle || out.len() >= PIECE || *taken >= CHUNK) {
                take(Piece::Data(out));
                out.clear();
                return Poll::Ready(Ok(()));
            }
            if is_idle {
                return Poll::Pending;
            }
            if *taken >= CHUNK {
                // Others on this thread have their turn.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Hands decoded pieces to `take`: from bytes that were read already, else from a new read.
    fn poll_decoded(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Piece<'_>, Option<&mut Coded>) -> io::Result<()>,
    ) -> Poll<Result<(), DownloadError>> {
        if self.at < self.input.len() || self.decoder.is_over() {
            let input = std::mem::take(&mut self.input);
            let decoded = self.decode(&input[self.at..], take);
            let handed_on = decoded.map(|(taken, handed_on)| {
                self.at += taken;
                handed_on
            });
            self.input = input;
            if self.at == self.input.len() {
                buffer_pool::give(std::mem::take(&mut self.input));
                self.at = 0;
            }
            if handed_on? {
                return Poll::Ready(Ok(()));
            }
        }
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                let mut room = ReadBuf::new(&mut scratch[..self.most]);
                let Carrier::Own(stream) = &mut self.upstream.carrier else {
                    return self.poll_shared(context, take);
                };
                let read = Pin::new(stream).poll_read(context, &mut room);
                ready!(read).map_err(DownloadError::Broken)?;
                let length = room.filled().len();
                if length == 0 {
                    self.is_spoilt = true;
                    self.decoder.end()?;
                    self.finish(None, take)?;
                    return Poll::Ready(Ok(()));
                }
                let handed_on = if self.input.is_empty() {
                    let (taken, handed_on) = self.decode(&scratch[..length], take)?;
                    self.input.extend_from_slice(&scratch[taken..length]);
                    handed_on
                } else {
                    // The rest of a trailer section.
                    let mut input = std::mem::take(&mut self.input);
                    input.drain(..std::mem::take(&mut self.at));
                    input.extend_from_slice(&scratch[..length]);
                    let (taken, handed_on) = self.decode(&input, take)?;
                    input.drain(..taken);
                    self.input = input;
                    handed_on
                };
                if handed_on {
                    return Poll::Ready(Ok(()));
                }
            }
        })
    }

    /// Hands the next piece of a stream of HTTP/2 to `take`.
    fn poll_shared(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Piece<'_>, Option<&mut Coded>) -> io::Result<()>,
    ) -> Poll<Result<(), DownloadError>> {
        let Carrier::Shared(call) = &mut self.upstream.carrier else {
            return Poll::Ready(Ok(()));
        };
        Poll::Ready(match ready!(call.poll_piece(context)) {
            Ok(Received::Data(data)) => self.hand_on(Piece::Data(&data), take),
            Ok(Received::End(trailers)) => self.finish(trailers, take),
            Err(error) => Err(DownloadError::Reset(error)),
        })
    }

    /// Takes all pieces out of `input`: how many bytes that were, and whether anything was handed on.
    fn decode(
        &mut self,
        input: &[u8],
        take: &mut dyn FnMut(Piece<'_>, Option<&mut Coded>) -> io::Result<()>,
    ) -> Result<(usize, bool), DownloadError> {
        // Beside the rest of this, which the pieces go through.
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Framing::None));
        let decoded = decoder.pieces(input, &mut |piece| self.hand_on(piece, take));
        self.decoder = decoder;
        let (taken, handed_on) = decoded?;
        self.is_spoilt |= self.is_over && taken < input.len();
        Ok((taken, handed_on))
    }

    fn hand_on(
        &mut self,
        piece: Piece<'_>,
        take: &mut dyn FnMut(Piece<'_>, Option<&mut Coded>) -> io::Result<()>,
    ) -> Result<(), DownloadError> {
        let data = match piece {
            Piece::Data(data) => data,
            Piece::End(trailers) => return self.finish(trailers, take),
            Piece::More => return Ok(()),
        };
        if let Some(sniffer) = &mut self.sniffer
            && !sniffer.look(data)
        {
            self.sniffer = None;
        }
        if let Some(copying) = &mut self.copying
            && !copying.data(data)
        {
            self.copying = None;
        }
        take(Piece::Data(data), self.coded.as_deref_mut()).map_err(DownloadError::Compress)
    }

    fn finish(
        &mut self,
        trailers: Option<Fields>,
        take: &mut dyn FnMut(Piece<'_>, Option<&mut Coded>) -> io::Result<()>,
    ) -> Result<(), DownloadError> {
        if let Some(copying) = self.copying.take()
            && trailers.is_none()
        {
            copying.finish();
        }
        let trailers = trailers.filter(|_| self.passes_trailers);
        let trailers = trailers.map(|trailers| hop::cleaned_trailers(trailers, &self.named));
        self.is_over = true;
        take(Piece::End(trailers), self.coded.as_deref_mut()).map_err(DownloadError::Compress)
    }
}
