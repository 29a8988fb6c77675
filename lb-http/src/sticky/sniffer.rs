//! Sessions that are learnt from the answers to their handshakes, and that end with their tunnels.

use std::sync::Arc;

use lb_common::abi::{BackendId, ServiceId};

use super::engineio::{self, Handshake};
use super::sessions::Sessions;

/// Learns which backend has a session from the answer to its handshake.
pub(crate) struct SessionSniffer {
    sessions: Arc<Sessions>,
    service: ServiceId,
    backend: BackendId,
    begun: Vec<u8>,
}

impl SessionSniffer {
    /// Of an answer that `backend` of `service` gives.
    pub(crate) const fn new(
        sessions: Arc<Sessions>,
        service: ServiceId,
        backend: BackendId,
    ) -> Self {
        Self {
            sessions,
            service,
            backend,
            begun: Vec::new(),
        }
    }

    /// Looks at a piece of the answer before the client gets it; `false` when no more is needed.
    pub(crate) fn look(&mut self, piece: &[u8]) -> bool {
        let room = engineio::LONGEST.saturating_sub(self.begun.len());
        self.begun
            .extend_from_slice(&piece[..piece.len().min(room)]);
        match engineio::handshake(&self.begun) {
            Handshake::Of(sid) => {
                self.sessions.learn(self.service, &sid, self.backend);
                false
            }
            Handshake::Partial => self.begun.len() < engineio::LONGEST,
            Handshake::Other => false,
        }
    }
}

/// A session that has become a tunnel; with its end it is most likely over.
pub(crate) struct TunnelledSession {
    sessions: Arc<Sessions>,
    service: ServiceId,
    sid: String,
}

impl TunnelledSession {
    /// The session `sid` of `service`.
    pub(crate) const fn new(sessions: Arc<Sessions>, service: ServiceId, sid: String) -> Self {
        Self {
            sessions,
            service,
            sid,
        }
    }
}

impl Drop for TunnelledSession {
    fn drop(&mut self) {
        self.sessions.leave(self.service, &self.sid);
    }
}
