//! TLS on a client's connection, from the first byte until HTTP can begin.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::clock::Deadline;
use super::stream::Stream;
use lb_net::admission::listener::Client;

/// The result of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// The version of TLS, as the access log has it.
    pub(super) version: &'static str,
    /// Whether HTTP/2 is spoken (ALPN, RFC 7301).
    pub(super) http2: bool,
    /// Whether a ticket of an earlier connection was taken.
    pub(super) is_resumed: bool,
}

/// Shakes hands; `None` if that came to nothing `within` the time.
pub(super) async fn accept(
    config: Arc<ServerConfig>,
    stream: Client,
    within: Duration,
) -> Option<(Stream, Agreed)> {
    let deadline = Deadline::new();
    deadline.set(Some(within));
    let mut accept = pin!(TlsAcceptor::from(config).accept(stream));
    let accepted = poll_fn(|context| {
        if let Poll::Ready(accepted) = Pin::new(&mut accept).poll(context) {
            return Poll::Ready(Some(accepted));
        }
        deadline.poll(context).map(|()| None)
    })
    .await?;
    let stream = accepted
        .inspect_err(|error| tracing::debug!(%error, "no TLS with a client"))
        .ok()?;
    let (_, connection) = stream.get_ref();
    let agreed = Agreed {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        },
        http2: connection.alpn_protocol() == Some(b"h2"),
        is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    };
    Some((Stream::Tls(Box::new(stream)), agreed))
}
