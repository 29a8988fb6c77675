//! TLS handshakes: a connection, one request, its end, and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Counts of handshakes, and their times.
#[derive(Default)]
struct Tally {
    full: u64,
    resumed: u64,
    errors: u64,
}

/// Makes handshakes for `time`.
pub(crate) async fn run(
    to: SocketAddr,
    time: Duration,
    connections: usize,
    resume: bool,
) -> anyhow::Result<Value> {
    let mut connectors = Vec::new();
    for _ in 0..connections {
        // Each connector has a session of its own, as tickets are used once.
        let connector = TlsConnector::from(Arc::new(client(resume)?));
        // The first connection brings the first ticket.
        once(&connector, to).await?;
        connectors.push(connector);
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for connector in connectors {
        tasks.spawn(async move {
            let mut tally = Tally::default();
            while begun.elapsed() < time {
                match once(&connector, to).await {
                    Ok(HandshakeKind::Resumed) => tally.resumed += 1,
                    Ok(_) => tally.full += 1,
                    Err(_) => tally.errors += 1,
                }
            }
            tally
        });
    }
    let mut sum = Tally::default();
    while let Some(tally) = tasks.join_next().await {
        let tally = tally?;
        sum.full += tally.full;
        sum.resumed += tally.resumed;
        sum.errors += tally.errors;
    }
    let (wanted, other) = if resume {
        (sum.resumed, sum.full)
    } else {
        (sum.full, sum.resumed)
    };
    let per_second = wanted as f64 / begun.elapsed().as_secs_f64();
    let errors = sum.errors + other;
    Ok(json!({ "per_second": per_second, "count": wanted, "errors": errors }))
}

async fn once(connector: &TlsConnector, to: SocketAddr) -> anyhow::Result<HandshakeKind> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("bench.test")?;
    let mut stream = connector.connect(name, stream).await?;
    let request = b"GET / HTTP/1.1\r\nHost: bench.test\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    // Not every server says goodbye before it closes.
    let read = stream.read_to_end(&mut answer).await;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{read:?}");
    let kind = stream.get_ref().1.handshake_kind();
    Ok(kind.unwrap_or(HandshakeKind::Full))
}

fn client(resume: bool) -> Result<ClientConfig, Error> {
    let mut provider = aws_lc_rs::default_provider();
    // A key exchange that all compared servers can do. One that a server lacks would make it
    // another measurement.
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth();
    config.resumption = if resume {
        Resumption::in_memory_sessions(64)
    } else {
        Resumption::disabled()
    };
    Ok(config)
}

/// Accepts every certificate. The server is known, and checking it would be work of the client.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_does_not_speak_tls_is_an_error() {
        let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let to = silent.local_addr().unwrap();
        drop(silent);
        assert!(run(to, Duration::from_secs(1), 1, false).await.is_err());
    }
}
