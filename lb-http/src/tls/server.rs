//! How a service speaks TLS: versions, protocols, certificates, by server names.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};

use super::clients::{ClientAuth, Terms};
use super::store::Certificates;
use super::tickets::TicketKeys;
use crate::client_cert::TermsId;
use lb_config::http::{Tls, TlsVersion};

/// The TLS configuration for connections of a service. Of TLS 1.2 only suites with forward secrecy and AEAD
/// are spoken.
fn server_config(
    certificates: Arc<Certificates>,
    tls: &Tls,
    tickets: &TicketKeys,
    client: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let versions: &[_] = match tls.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(super::provider()))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(client)
        .with_cert_resolver(certificates);
    let protocols: &[&[u8]] = if tls.http2 {
        &[b"h2", b"http/1.1"]
    } else {
        &[b"http/1.1"]
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.ticketer = tickets.producer();
    // Sessions live in tickets; a store would be a lock in every handshake.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The TLS configurations for connections of a service, by the server names (SNI) of the clients.
pub(crate) struct ServerConfigs {
    /// For clients that are not asked for a certificate; `None` if all are.
    usual: Option<Arc<ServerConfig>>,
    asked: Option<Asked>,
}

/// For clients that are asked for a certificate.
struct Asked {
    client: Arc<ClientAuth>,
    certificates: Arc<Certificates>,
    tls: Tls,
    /// The configuration under the terms that were last in force.
    made: ArcSwap<(TermsId, Arc<ServerConfig>)>,
}

/// A configuration for one connection, with the terms for the client's certificate if it is asked for one.
type Chosen = (Arc<ServerConfig>, Option<TermsId>);

impl ServerConfigs {
    /// Those of a service with `certificates`. `client` verifies the certificates of its clients.
    pub(crate) fn new(
        certificates: Arc<Certificates>,
        tls: &Tls,
        tickets: &TicketKeys,
        client: Option<Arc<ClientAuth>>,
    ) -> Result<Self, rustls::Error> {
        let asks_all = client.as_ref().is_some_and(|client| client.asks_all());
        let usual = (!asks_all).then(|| {
            let nobody = WebPkiClientVerifier::no_client_auth();
            server_config(Arc::clone(&certificates), tls, tickets, nobody)
        });
        let asked = client.map(|client| Asked::new(client, certificates, tls));
        Ok(Self {
            usual: usual.transpose()?,
            asked: asked.transpose()?,
        })
    }

    /// The configuration for all clients; `None` if it depends on their server names.
    pub(crate) fn for_all(&self) -> Option<Chosen> {
        match (&self.usual, &self.asked) {
            (Some(usual), None) => Some((Arc::clone(usual), None)),
            (None, Some(asked)) => Some(asked.config()),
            _ => None,
        }
    }

    /// The configuration for a client that asks for `name`.
    pub(crate) fn for_name(&self, name: Option<&str>) -> Option<Chosen> {
        let asked = self.asked.as_ref().filter(|asked| asked.client.asks(name));
        match asked {
            Some(asked) => Some(asked.config()),
            None => Some((Arc::clone(self.usual.as_ref()?), None)),
        }
    }

    /// Verifies the certificates of clients, if any is asked for one.
    pub(crate) fn client(&self) -> Option<&Arc<ClientAuth>> {
        self.asked.as_ref().map(|asked| &asked.client)
    }
}

impl Asked {
    fn new(
        client: Arc<ClientAuth>,
        certificates: Arc<Certificates>,
        tls: &Tls,
    ) -> Result<Self, rustls::Error> {
        let terms = client.terms();
        let made = under(&terms, &certificates, tls)?;
        Ok(Self {
            client,
            certificates,
            tls: tls.clone(),
            made: ArcSwap::from_pointee((terms.id(), made)),
        })
    }

    /// The configuration under the terms in force. It is made anew by the first handshake after a change.
    fn config(&self) -> Chosen {
        let terms = self.client.terms();
        let made = self.made.load();
        if made.0 == terms.id() {
            return (Arc::clone(&made.1), Some(made.0));
        }
        match under(&terms, &self.certificates, &self.tls) {
            Ok(config) => {
                let made = Arc::new((terms.id(), Arc::clone(&config)));
                self.made.store(made);
                (config, Some(terms.id()))
            }
            Err(error) => {
                tracing::error!(%error, "new authorities of clients are not in force");
                (Arc::clone(&made.1), Some(made.0))
            }
        }
    }
}

fn under(
    terms: &Terms,
    certificates: &Arc<Certificates>,
    tls: &Tls,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    server_config(
        Arc::clone(certificates),
        tls,
        &terms.tickets,
        terms.verifier(),
    )
}
