//! An answer on its way to the client, while the request may still be on its way to the backend.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use lb_http1::body::Piece;

use super::carrier::Carrier;
use super::connection::Connection;
use super::download::{Download, DownloadError};
use super::files::FileBody;
use super::peer::Peer;
use super::progress::Progress;
use super::upload::{Upload, UploadError};
use super::upstream::Pool;

/// An answer on its way.
pub(super) enum Transfer {
    /// From a backend.
    Proxied(Box<Proxied>),
    /// From a disk.
    File(FileBody),
}

/// Both ways of one exchange.
pub(super) struct Proxied {
    /// `None` if it goes by itself.
    upload: Option<Upload>,
    download: Download,
    pool: Rc<Pool>,
    /// Most idle connections to keep.
    most_idle: usize,
}

impl Transfer {
    /// The rest of an exchange. Its connection goes back to the thread's pool at its end, unless there
    /// are `most_idle` like it.
    pub(super) fn new(
        upload: Upload,
        download: Download,
        connection: &Connection,
        most_idle: usize,
    ) -> Self {
        Self::Proxied(Box::new(Proxied {
            upload: Some(upload),
            download,
            pool: Rc::clone(&connection.worker.pool),
            most_idle,
        }))
    }

    /// An answer made of files.
    pub(super) const fn of_file(body: FileBody) -> Self {
        Self::File(body)
    }

    /// Whether the answer was handed on to its end.
    pub(super) const fn is_over(&self) -> bool {
        match self {
            Self::Proxied(proxied) => proxied.download.is_over(),
            Self::File(body) => body.is_over(),
        }
    }

    /// Whether the rest of the answer is there already.
    pub(super) fn is_at_hand(&self) -> bool {
        match self {
            Self::Proxied(proxied) => proxied.download.is_at_hand(),
            Self::File(body) => body.is_at_hand(),
        }
    }

    /// Sends the available bytes of the request.
    pub(super) fn poll_upload(
        &mut self,
        peer: &mut impl Peer,
        progress: &Progress,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        // No file waits for the rest of a request.
        let Self::Proxied(proxied) = self else {
            return Poll::Ready(Ok(()));
        };
        let Some(upload) = &mut proxied.upload else {
            return Poll::Ready(Ok(()));
        };
        let backend = &mut proxied.download.upstream.carrier;
        let sent = ready!(upload.poll(peer, backend, progress, context));
        if sent.is_err() {
            backend.cancel();
        }
        Poll::Ready(sent)
    }

    /// Takes the request's way out, if it is not at its end and can go by itself.
    pub(super) fn split(&mut self) -> Option<Upward> {
        let Self::Proxied(proxied) = self else {
            return None;
        };
        let Carrier::Shared(call) = &mut proxied.download.upstream.carrier else {
            return None;
        };
        let upload = proxied.upload.take_if(|upload| !upload.is_over())?;
        let backend = Carrier::Shared(Box::new(call.split()));
        Some(Upward { upload, backend })
    }

    /// Hands the next pieces of the answer to `take`, at least one when it is ready.
    pub(super) fn poll_answer(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Piece<'_>),
    ) -> Poll<Result<(), DownloadError>> {
        match self {
            Self::Proxied(proxied) => proxied.download.poll_pieces(context, take),
            Self::File(body) => body.poll_pieces(context, take).map_err(DownloadError::from),
        }
    }

    /// The bytes are no answer: the backend is reported.
    pub(super) fn suspect(self, connection: &Connection) {
        let Self::Proxied(proxied) = self else {
            return;
        };
        let backend = proxied.download.upstream.backend;
        let snapshot = connection.worker.snapshot();
        snapshot.suspect(backend, "the body of an answer was malformed");
    }

    /// Ends the transfer. A connection whose request was sent and whose answer was read to its end carries
    /// the next request.
    pub(super) fn end(self) {
        let Self::Proxied(proxied) = self else {
            return;
        };
        let is_sent = proxied.upload.is_some_and(|upload| upload.is_over());
        if proxied.download.is_clean() && is_sent && proxied.most_idle > 0 {
            let upstream = proxied.download.into_upstream();
            proxied.pool.put(upstream, proxied.most_idle);
        }
    }
}

/// The way of a request whose answer goes its own: neither waits for the other.
pub(super) struct Upward {
    upload: Upload,
    backend: Carrier,
}

impl Upward {
    /// Sends the request to its end.
    pub(super) async fn run(mut self, mut peer: impl Peer, progress: Rc<Progress>) {
        let (upload, backend) = (&mut self.upload, &mut self.backend);
        let sent = poll_fn(|context| upload.poll(&mut peer, backend, &progress, context)).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a request comes to no end");
            self.backend.cancel();
        }
    }
}
