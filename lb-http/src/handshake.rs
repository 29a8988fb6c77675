//! TLS on a client's connection, from the first byte until HTTP can begin.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rustls::server::Acceptor;
use rustls::{CertificateError, Error, HandshakeKind, ProtocolVersion};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::client_cert::{ClientCertificate, Presented, TermsId};
use super::clock::Deadline;
use super::metrics::Handshake;
use super::stream::Stream;
use super::tls::ServerConfigs;
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

/// A connection after its handshake.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) agreed: Agreed,
    /// The client's certificate, if it was asked for one.
    pub(super) presented: Option<Rc<Presented>>,
}

/// Shakes hands. The error says why that came to nothing `within` the time.
pub(super) async fn accept(
    configs: &ServerConfigs,
    stream: Client,
    within: Duration,
) -> Result<Accepted, Handshake> {
    let deadline = Deadline::new();
    deadline.set(Some(within));
    let mut accept = pin!(shake_hands(configs, stream));
    let accepted = poll_fn(|context| {
        if let Poll::Ready(accepted) = accept.as_mut().poll(context) {
            return Poll::Ready(Some(accepted));
        }
        deadline.poll(context).map(|()| None)
    });
    let accepted = accepted.await.ok_or(Handshake::Failed)?;
    let (stream, terms) = accepted
        .inspect_err(|error| tracing::debug!(%error, "no TLS with a client"))
        .map_err(|error| cause(&error))?;
    let (_, connection) = stream.get_ref();
    let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    let agreed = Agreed {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        },
        http2: connection.alpn_protocol() == Some(b"h2"),
        is_resumed,
    };
    let presented = match terms {
        Some(terms) => Some(presented(&stream, terms, is_resumed)?),
        None => None,
    };
    Ok(Accepted {
        stream: Stream::Tls(Box::new(stream)),
        agreed,
        presented: presented.map(Rc::new),
    })
}

/// The handshake itself, under the configuration for the client's server name.
async fn shake_hands(
    configs: &ServerConfigs,
    stream: Client,
) -> io::Result<(TlsStream<Client>, Option<TermsId>)> {
    if let Some((config, terms)) = configs.for_all() {
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        return Ok((stream, terms));
    }
    let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let chosen = configs.for_name(begun.client_hello().server_name());
    let (config, terms) = chosen.ok_or(io::ErrorKind::InvalidData)?;
    Ok((begun.into_stream(config).await?, terms))
}

/// The reply of a client that was asked for a certificate under `terms`.
fn presented(
    stream: &TlsStream<Client>,
    terms: TermsId,
    is_resumed: bool,
) -> Result<Presented, Handshake> {
    let (_, connection) = stream.get_ref();
    let certificate = match connection.peer_certificates() {
        None | Some([]) => None,
        Some(chain) => {
            let read = ClientCertificate::new(chain);
            Some(read.ok_or(Handshake::CertificateInvalid)?)
        }
    };
    Ok(Presented {
        certificate,
        verified_by: Cell::new((!is_resumed).then_some(terms)),
    })
}

/// The outcome of a handshake that failed by `error`.
fn cause(error: &io::Error) -> Handshake {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(Error::NoCertificatesPresented) => Handshake::CertificateMissing,
        Some(Error::InvalidCertificate(error)) => match error {
            // An authority of the same name has another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Handshake::CertificateUnknownAuthority
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Handshake::CertificateExpired
            }
            CertificateError::Revoked => Handshake::CertificateRevoked,
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Handshake::RevocationUnknown,
            _ => Handshake::CertificateInvalid,
        },
        Some(Error::InvalidCertRevocationList(_)) => Handshake::RevocationUnknown,
        _ => Handshake::Failed,
    }
}
