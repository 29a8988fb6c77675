//! The carrier of a request to its backend and of the answer back: a connection or an HTTP/2 stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use lb_http1::{Fields, Framing, RequestHead};
use tokio::io::AsyncWrite as _;

use super::h2c::Call;
use super::stream::Stream;

/// The carrier of an exchange.
pub(super) enum Carrier {
    /// A connection of HTTP/1.1, which is its own for as long as it lasts.
    Own(Stream),
    /// A stream of a connection of HTTP/2, which others share.
    Shared(Box<Call>),
}

impl Carrier {
    /// Begins a request. The bytes of its head are added to `out`; `is_all` says that it has no body.
    pub(super) fn begin(
        &mut self,
        head: &RequestHead,
        framing: Framing,
        is_all: bool,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Own(_) => {
                head.write(out);
                framing.write(out);
            }
            Self::Shared(call) => call.begin(head, framing, is_all),
        }
    }

    /// Writes bytes: how many. `is_last` says that the request ends with them.
    #[inline]
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        is_last: bool,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Own(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Shared(call) => call.poll_write(context, bytes, is_last),
        }
    }

    /// All of the request was written but its trailers, which have bytes of their own over HTTP/1.1.
    #[inline]
    pub(super) fn end(&mut self, trailers: Option<&Fields>) {
        if let Self::Shared(call) = self {
            call.end(trailers);
        }
    }

    /// Abandons the exchange: the client does not wait for the answer any more.
    pub(super) fn abandon(&self) {
        match self {
            // Data in the kernel's queue is of no use any more.
            Self::Own(stream) => stream.reset_when_closed(),
            // Dropping it resets the stream.
            Self::Shared(_) => {}
        }
    }

    /// No answer came in time. A connection of HTTP/1.1 carries no other request after that.
    pub(super) fn doubt(&self) {
        if let Self::Shared(call) = self {
            call.retire_connection();
        }
    }

    /// The request comes to no end, while the answer may go on over HTTP/1.1.
    pub(super) fn cancel(&mut self) {
        if let Self::Shared(call) = self {
            call.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carrier_is_as_small_as_a_connection() {
        assert_eq!(size_of::<Carrier>(), size_of::<Stream>());
    }
}
