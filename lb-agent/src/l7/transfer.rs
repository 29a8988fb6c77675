//! An answer on its way to the client, while the request may still be on its way to the backend.

use std::rc::Rc;
use std::task::{Context, Poll};

use lb_http::body::Piece;

use super::connection::Visit;
use super::download::{Download, DownloadError};
use super::peer::Peer;
use super::progress::Progress;
use super::upload::{Upload, UploadError};
use super::upstream::Pool;

/// Both ways of one exchange.
pub(super) struct Transfer {
    upload: Upload,
    download: Download,
    pool: Rc<Pool>,
    /// Most idle connections to keep.
    most_idle: usize,
}

impl Transfer {
    /// The rest of an exchange. Its connection goes back to the thread's pool at its end, unless there
    /// are `most_idle` like it.
    pub(super) fn new(upload: Upload, download: Download, visit: &Visit, most_idle: usize) -> Self {
        Self {
            upload,
            download,
            pool: Rc::clone(&visit.worker.pool),
            most_idle,
        }
    }

    /// Whether the answer was handed on to its end.
    pub(super) const fn is_over(&self) -> bool {
        self.download.is_over()
    }

    /// Sends what it can of the request.
    pub(super) fn poll_upload(
        &mut self,
        peer: &mut impl Peer,
        progress: &Progress,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        let backend = &mut self.download.upstream.stream;
        self.upload.poll(peer, backend, progress, context)
    }

    /// Hands the next pieces of the answer to `take`, at least one when it is ready.
    pub(super) fn poll_answer(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Piece<'_>),
    ) -> Poll<Result<(), DownloadError>> {
        self.download.poll_pieces(context, take)
    }

    /// What came is no answer: the backend is told on.
    pub(super) fn suspect(self, visit: &Visit) {
        let backend = self.download.upstream.backend;
        let snapshot = visit.worker.snapshot();
        snapshot.suspect(backend, "the body of an answer was malformed");
    }

    /// It is over: a connection whose request was sent and whose answer was read to its end carries
    /// the next request.
    pub(super) fn end(self) {
        if self.download.is_clean() && self.upload.is_over() && self.most_idle > 0 {
            let upstream = self.download.into_upstream();
            self.pool.put(upstream, self.most_idle);
        }
    }
}
