//! Keys of session tickets.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::ProducesTickets;

/// The keys that the session tickets of one service are sealed with: the same on every thread and over reloads, renewed
/// every six hours and taken for six more. A ticket serves only the server name that it was given to. A service has keys
/// of its own, as rustls takes everything that a ticket says about the client for true.
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

    /// What seals tickets and opens them.
    pub(super) fn producer(&self) -> Arc<dyn ProducesTickets> {
        Arc::clone(&self.0)
    }
}
