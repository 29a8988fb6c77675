//! A client, seen by one of its requests: the body that comes from it, and whether it is still there.

use std::task::{Context, Poll};

use lb_http1::ResponseHead;
use lb_http1::body::{BodyError, Piece};

/// Why a body does not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// The client has gone away.
    #[error("the client has gone away")]
    Gone,
    /// The client's bytes are no body.
    #[error(transparent)]
    Malformed(#[from] BodyError),
}

/// The client of a request.
pub(super) trait Peer {
    /// Hands the next pieces of the request's body to `take`, at least one when it is ready. Not to be
    /// called after the end.
    fn poll_pieces(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Piece<'_>),
    ) -> Poll<Result<(), PeerError>>;

    /// Ready when the client has gone away. Bytes that arrive meanwhile are kept for later.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// Passes an interim answer on, if the client understands it.
    fn interim(&mut self, head: &ResponseHead);
}
