//! How far a request is, and the one deadline that is running for it.

use std::cell::Cell;
use std::task::{Context, Poll};
use std::time::Duration;

use super::clock::Deadline;

/// How far a connection (over HTTP/2: one request) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between two requests.
    Idle,
    /// Some bytes of a request are there.
    Head,
    /// A request is under way; its carrier minds the time.
    Exchange,
    /// The answer is on its way to the client.
    Answer,
}

/// The state of one request at a time.
pub(super) struct Progress {
    phase: Cell<Phase>,
    deadline: Deadline,
    /// The backend waits for the client's body.
    body_awaited: Cell<bool>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            phase: Cell::new(Phase::Idle),
            deadline: Deadline::new(),
            body_awaited: Cell::new(false),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    fn enter(&self, phase: Phase, within: Option<Duration>) {
        self.phase.set(phase);
        self.deadline.set(within);
    }

    /// Waits for the next request.
    pub(super) fn idle(&self, within: Duration) {
        self.enter(Phase::Idle, Some(within));
    }

    /// The first bytes of a request are there.
    pub(super) fn head(&self, within: Duration) {
        self.enter(Phase::Head, Some(within));
    }

    /// The head of a request is there.
    pub(super) fn exchange(&self) {
        self.body_awaited.set(false);
        self.enter(Phase::Exchange, None);
    }

    /// The answer begins.
    pub(super) fn answer(&self) {
        self.enter(Phase::Answer, None);
    }

    /// Sets the deadline of an exchange.
    pub(super) fn within(&self, within: Option<Duration>) {
        if self.phase.get() == Phase::Exchange {
            self.deadline.set(within);
        }
    }

    /// Whether the client's body is waited for, and not the backend.
    pub(super) fn awaits_body(&self) -> bool {
        self.body_awaited.get()
    }

    pub(super) fn set_awaits_body(&self, awaited: bool) {
        self.body_awaited.set(awaited);
    }

    /// The rest of an answer is waited for, or for its client to take some of it: so long.
    pub(super) fn awaits(&self, within: Option<Duration>) {
        if self.phase.get() == Phase::Answer {
            self.deadline.set(within);
        }
    }

    /// Ready when the deadline is over.
    pub(super) fn poll_deadline(&self, context: &Context<'_>) -> Poll<()> {
        self.deadline.poll(context)
    }
}
