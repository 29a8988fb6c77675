//! How a service speaks TLS: versions, protocols, certificates, session tickets.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::version::{TLS12, TLS13};

use super::store::Certificates;
use lb_config::http::TlsVersion;

/// The keys that session tickets are sealed with: made when the agent starts, the same on every
/// thread and over reloads, renewed every six hours and taken for six more. A ticket serves only
/// the server name that it was given to.
#[derive(Clone, Debug)]
pub(crate) struct TicketKeys(Arc<dyn ProducesTickets>);

impl TicketKeys {
    /// New keys.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        aws_lc_rs::Ticketer::new().map(Self)
    }
}

/// The TLS configuration for connections of a service. Of TLS 1.2 only suites with forward secrecy and AEAD
/// are spoken.
pub(crate) fn server_config(
    certificates: Arc<Certificates>,
    min_version: TlsVersion,
    http2: bool,
    tickets: &TicketKeys,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let versions: &[_] = match min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(super::provider()))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    let protocols: &[&[u8]] = if http2 {
        &[b"h2", b"http/1.1"]
    } else {
        &[b"http/1.1"]
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.ticketer = Arc::clone(&tickets.0);
    // Sessions live in tickets; a store would be a lock in every handshake.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}
