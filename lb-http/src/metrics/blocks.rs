//! The counters of one worker: a block for a service, and one for a backend.

use std::time::Duration;

use hyper::StatusCode;
use lb_common::abi::BackendId;

use super::count::Count;
use super::histogram::Histogram;
use super::labels::{
    AUTH_VERDICTS, AuthVerdict, CAUSES, CacheResult, Cause, GATEWAY_STATUSES, HANDSHAKES,
    Handshake, LIMITS, Limit, METHODS, Method, SOURCES, STATUSES, Source, Status,
};

/// One worker's counters of a service. Aligned, so that no cache line has those of two workers.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct ServiceBlock {
    pub(super) requests: [[Count; STATUSES.len()]; METHODS.len()],
    pub(crate) first_byte: Histogram,
    pub(crate) duration: Histogram,
    /// Bytes of bodies and tunnels from clients.
    pub(crate) received: Count,
    /// Bytes of bodies and tunnels to clients.
    pub(crate) sent: Count,
    pub(crate) tunnels_begun: Count,
    pub(crate) tunnels_ended: Count,
    /// Answers that were cut off.
    pub(crate) aborted: Count,
    pub(super) answers: [Count; SOURCES.len()],
    pub(super) cache: [Count; CacheResult::ALL.len()],
    /// Requests that their authentication has refused.
    pub(crate) denied: Count,
    pub(super) refused: [Count; LIMITS.len()],
    pub(super) gateway_errors: [[Count; CAUSES.len()]; GATEWAY_STATUSES.len()],
    pub(super) handshakes: [Count; HANDSHAKES.len()],
    pub(super) auth: [Count; AUTH_VERDICTS.len()],
    pub(super) auth_time: Histogram,
}

impl ServiceBlock {
    /// Counts a request that is over.
    pub(crate) fn request(&self, method: Method, status: Status) {
        self.requests[method.index()][status.index()].add(1);
    }

    /// Counts an answer that is over.
    pub(crate) fn answer(&self, source: Source) {
        self.answers[source as usize].add(1);
    }

    /// Counts what the response cache did with a request.
    pub(crate) fn cached(&self, result: CacheResult) {
        self.cache[result as usize].add(1);
    }

    /// Counts a page of the gateway, if it tells of a limit or of a backend.
    pub(crate) fn page(&self, status: StatusCode, cause: Cause) {
        if let Some(limit) = Limit::of(status) {
            self.refused[limit as usize].add(1);
        }
        if let code @ 502..=504 = status.as_u16() {
            self.gateway_errors[usize::from(code - 502)][cause as usize].add(1);
        }
    }

    /// Counts a request about which a server was asked, and the time that took.
    pub(crate) fn asked(&self, verdict: AuthVerdict, time: Duration) {
        self.auth[verdict as usize].add(1);
        self.auth_time.observe(time);
    }

    /// Counts a TLS handshake.
    pub(crate) fn handshake(&self, handshake: Handshake) {
        self.handshakes[handshake as usize].add(1);
    }
}

/// One worker's counters of a backend.
#[repr(align(128))]
pub(crate) struct BackendBlock {
    pub(super) id: BackendId,
    pub(super) requests: [Count; STATUSES.len()],
    pub(crate) first_byte: Histogram,
    pub(crate) duration: Histogram,
    /// Bytes of bodies and tunnels from clients.
    pub(crate) received: Count,
    /// Bytes of bodies and tunnels to clients.
    pub(crate) sent: Count,
}

impl BackendBlock {
    pub(super) fn new(id: BackendId) -> Self {
        Self {
            id,
            requests: Default::default(),
            first_byte: Histogram::default(),
            duration: Histogram::default(),
            received: Count::default(),
            sent: Count::default(),
        }
    }

    /// Counts an answer of the backend that is over.
    pub(crate) fn request(&self, status: Status) {
        self.requests[status.index()].add(1);
    }
}
