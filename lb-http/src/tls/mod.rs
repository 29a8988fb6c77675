//! TLS for clients, by rustls: certificates, server names, session tickets.
//!
//! | file | owns |
//! | --- | --- |
//! | `load` | one certificate and its key: two files, whether they fit, until when |
//! | `names` | which certificate a server name (SNI) leads to |
//! | `store` | the certificates of a service, renewed when their files are |
//! | `authorities` | authorities and revocation lists for the certificates of clients |
//! | `clients` | the verification of clients' certificates of a service, renewed when its files are |
//! | `tickets` | keys of session tickets |
//! | `server` | versions, protocols (ALPN), by server names |
//! | `check` | the report of `lb-agent check` on certificates |
//!
//! Connections are accepted with what [`ServerConfigs`] gives. The cryptography is aws-lc: it takes half a minute longer
//! to compile than ring, needs no more than a C compiler either, and signs with RSA and agrees on keys in less than half
//! the time.

mod authorities;
mod check;
#[cfg(test)]
mod client_tests;
mod clients;
mod load;
mod names;
mod server;
mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod testing_clients;
#[cfg(test)]
mod tests;
mod tickets;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use check::{Absent, Findings, check_config};
pub(crate) use clients::ClientAuth;
pub use clients::ClientAuthStatus;
pub(crate) use server::ServerConfigs;
pub use store::CertificateStatus;
pub(crate) use store::Certificates;
pub(crate) use tickets::TicketKeys;

/// The cryptography of all connections.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    &PROVIDER
}
