//! The sums of all workers.

use super::blocks::{BackendBlock, ServiceBlock};
use super::count::add;
use super::histogram::HistogramFigures;
use super::labels::{
    AUTH_VERDICTS, CAUSES, CacheResult, GATEWAY_STATUSES, HANDSHAKES, LIMITS, METHODS, SOURCES,
    STATUSES,
};

/// The figures of one service since the agent's start, or since the service was added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFigures {
    /// Requests by [`METHODS`] and [`STATUSES`]. A tunnel counts when it ends.
    pub requests: [[u64; STATUSES.len()]; METHODS.len()],
    /// From the end of a request's head to the head of its answer.
    pub first_byte: HistogramFigures,
    /// From the end of a request's head to the end of its answer, without tunnels.
    pub duration: HistogramFigures,
    /// Bytes of bodies and tunnels from clients.
    pub received: u64,
    /// Bytes of bodies and tunnels to clients.
    pub sent: u64,
    /// WebSockets and other tunnels so far.
    pub tunnels: u64,
    /// Open ones.
    pub tunnels_active: u64,
    /// Answers that were cut off, by either side.
    pub aborted: u64,
    /// Answers by [`SOURCES`]. Requests without an answer are in none.
    pub answers: [u64; SOURCES.len()],
    /// Requests that came to the response cache, by [`CacheResult`].
    pub cache: [u64; CacheResult::ALL.len()],
    /// Requests without access: their authentication has refused them.
    pub denied: u64,
    /// Requests that were refused by [`LIMITS`].
    pub refused: [u64; LIMITS.len()],
    /// Gateway errors by [`GATEWAY_STATUSES`] and [`CAUSES`].
    pub gateway_errors: [[u64; CAUSES.len()]; GATEWAY_STATUSES.len()],
    /// TLS handshakes by [`HANDSHAKES`].
    pub handshakes: [u64; HANDSHAKES.len()],
    /// Requests about which a server was asked, by [`AUTH_VERDICTS`].
    pub auth: [u64; AUTH_VERDICTS.len()],
    /// The time that the server took.
    pub auth_time: HistogramFigures,
}

/// The figures of one backend: of the answers that came from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendFigures {
    /// Answers by [`STATUSES`]. A tunnel counts when it ends.
    pub requests: [u64; STATUSES.len()],
    /// From the end of a request's head to the head of its answer.
    pub first_byte: HistogramFigures,
    /// From the end of a request's head to the end of its answer, without tunnels.
    pub duration: HistogramFigures,
    /// Bytes of bodies and tunnels from clients.
    pub received: u64,
    /// Bytes of bodies and tunnels to clients.
    pub sent: u64,
}

/// The memory of Socket.IO sessions, of all services together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionFigures {
    /// How many are remembered.
    pub remembered: u64,
    /// How many there can be.
    pub capacity: u64,
    /// How many had to make room for others.
    pub evicted: u64,
}

impl ServiceFigures {
    pub(super) fn add(&mut self, more: &ServiceBlock) {
        for (sums, counts) in self.requests.iter_mut().zip(&more.requests) {
            add(sums, counts);
        }
        self.first_byte.add(&more.first_byte);
        self.duration.add(&more.duration);
        self.received += more.received.get();
        self.sent += more.sent.get();
        // The end first: a tunnel is never seen to end before it begins.
        let ended = more.tunnels_ended.get();
        let begun = more.tunnels_begun.get();
        self.tunnels += begun;
        self.tunnels_active += begun.saturating_sub(ended);
        self.aborted += more.aborted.get();
        add(&mut self.answers, &more.answers);
        add(&mut self.cache, &more.cache);
        self.denied += more.denied.get();
        add(&mut self.refused, &more.refused);
        for (sums, counts) in self.gateway_errors.iter_mut().zip(&more.gateway_errors) {
            add(sums, counts);
        }
        add(&mut self.handshakes, &more.handshakes);
        add(&mut self.auth, &more.auth);
        self.auth_time.add(&more.auth_time);
    }
}

impl BackendFigures {
    pub(super) fn add(&mut self, more: &BackendBlock) {
        add(&mut self.requests, &more.requests);
        self.first_byte.add(&more.first_byte);
        self.duration.add(&more.duration);
        self.received += more.received.get();
        self.sent += more.sent.get();
    }
}
