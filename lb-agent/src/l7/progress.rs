//! How far a request is, and the one deadline that is running for it.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll};
use std::time::Duration;

use super::access_log::Record;
use super::clock::Deadline;
use super::counts::Active;
use super::upstream::Tunnelled;

/// How far a connection (over HTTP/2: one request) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between two requests.
    Idle,
    /// Some bytes of a request are there.
    Head,
    /// A request is under way; whoever carries it minds the time.
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
    /// The client has sent more than it may.
    too_large: Cell<bool>,
    /// The client does not take what is written.
    stalled: Cell<bool>,
    /// The backend's side of a tunnel, while the answer that begins it is written.
    tunnel: RefCell<Option<Tunnel>>,
}

/// What a connection is to become once the answer is written.
pub(super) struct Tunnel {
    pub(super) backend: Tunnelled,
    pub(super) active: Active,
    /// For how long it may be without a byte.
    pub(super) idle: Option<Duration>,
    /// What is noted of it.
    pub(super) record: Option<Box<Record>>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            phase: Cell::new(Phase::Idle),
            deadline: Deadline::new(),
            body_awaited: Cell::new(false),
            too_large: Cell::new(false),
            stalled: Cell::new(false),
            tunnel: RefCell::new(None),
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
        self.too_large.set(false);
        self.enter(Phase::Exchange, None);
    }

    /// The answer begins.
    pub(super) fn answer(&self) {
        self.stalled.set(false);
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

    /// Whether the client has sent more than it may.
    pub(super) fn is_too_large(&self) -> bool {
        self.too_large.get()
    }

    pub(super) fn set_too_large(&self) {
        self.too_large.set(true);
    }

    /// A write to the client was taken, or was not: then it has to be within this time.
    pub(super) fn wrote(&self, taken: bool, within: Option<Duration>) {
        if self.phase.get() != Phase::Answer {
            return;
        }
        if !taken && !self.stalled.replace(true) {
            self.deadline.set(within);
        } else if taken && self.stalled.replace(false) {
            self.deadline.set(None);
        }
    }

    /// Ready when the deadline is over.
    pub(super) fn poll_deadline(&self, context: &Context<'_>) -> Poll<()> {
        self.deadline.poll(context)
    }

    /// The connection becomes a tunnel once the answer is written.
    pub(super) fn set_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    /// What is noted of that tunnel.
    pub(super) fn set_tunnel_record(&self, record: Option<Box<Record>>) {
        if let Some(tunnel) = &mut *self.tunnel.borrow_mut() {
            tunnel.record = record;
        }
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.borrow().is_some()
    }

    pub(super) fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.borrow_mut().take()
    }
}
