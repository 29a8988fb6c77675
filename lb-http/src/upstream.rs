//! Connections to backends: over HTTP/1.1 one request at a time on each, idle ones kept for the next.
//!
//! A connection has no task of its own. The task that waits for the answer reads it: one wake-up for one
//! packet, and nothing at all happens on one that is idle. It is looked at when it is taken again, and
//! by the [`Pool`]'s own round, which ends old ones.

use std::cell::RefCell;
use std::rc::Rc;

use lb_common::abi::BackendId;

use super::auth::Connections as AuthConnections;
use super::carrier::Carrier;
use super::clock;
use super::h2c::Connections;
use super::ids::IdMap;

/// For how long an idle connection is kept when its backend does not say: Node.js closes it after
/// five seconds, and a request must not meet the close.
const IDLE_MS: u64 = 4000;

/// A connection to a backend.
pub(super) struct Upstream {
    /// The backend.
    pub(super) backend: BackendId,
    /// Its name in the access log.
    pub(super) name: Rc<str>,
    /// Whether it has carried a request before, and was idle since.
    pub(super) reused: bool,
    /// For how long it may be idle, in milliseconds.
    pub(super) idle_ms: u64,
    pub(super) carrier: Carrier,
}

impl Upstream {
    /// A connection that has carried nothing yet.
    pub(super) fn new(backend: BackendId, name: Rc<str>, carrier: Carrier) -> Self {
        Self {
            backend,
            name,
            reused: false,
            idle_ms: IDLE_MS,
            carrier,
        }
    }

    /// Whether another request can be sent. An end or a byte that comes before it is not its answer.
    fn is_ready(&mut self) -> bool {
        match &mut self.carrier {
            Carrier::Own(stream) => stream.is_quiet(),
            Carrier::Shared(_) => false,
        }
    }
}

/// The idle connections of a thread, and those that its requests share.
#[derive(Default)]
pub(super) struct Pool {
    /// Connections of HTTP/2.
    pub(super) shared: Connections,
    /// Those to the servers of forward authentication.
    pub(super) auth: Rc<AuthConnections>,
    idle: RefCell<IdMap<BackendId, Vec<Idle>>>,
}

struct Idle {
    upstream: Upstream,
    until_ms: u64,
}

impl Pool {
    /// An idle connection to `backend`, the one used last.
    pub(super) fn take(&self, backend: BackendId) -> Option<Upstream> {
        let mut idle = self.idle.borrow_mut();
        let of_backend = idle.get_mut(&backend)?;
        while let Some(mut last) = of_backend.pop() {
            if last.until_ms > clock::now_ms() && last.upstream.is_ready() {
                last.upstream.reused = true;
                return Some(last.upstream);
            }
        }
        None
    }

    /// Keeps a connection whose answer was read to its end, if it can be used again and there are fewer
    /// than `most` like it.
    pub(super) fn put(&self, mut upstream: Upstream, most: usize) {
        if upstream.idle_ms == 0 || !upstream.is_ready() {
            return;
        }
        let until_ms = clock::now_ms() + upstream.idle_ms;
        let mut idle = self.idle.borrow_mut();
        let of_backend = idle.entry(upstream.backend).or_default();
        if of_backend.len() < most {
            of_backend.push(Idle { upstream, until_ms });
        }
    }

    /// Closes the idle connections to a backend.
    pub(super) fn forget(&self, backend: BackendId) {
        self.idle.borrow_mut().remove(&backend);
    }

    /// Closes connections that were idle for too long, and those that the other side has closed.
    pub(super) fn tidy(&self) {
        self.shared.tidy();
        self.auth.tidy();
        let now_ms = clock::now_ms();
        self.idle.borrow_mut().retain(|_, of_backend| {
            of_backend.retain_mut(|idle| idle.until_ms > now_ms && idle.upstream.is_ready());
            !of_backend.is_empty()
        });
    }

    /// Closes everything that carries no request.
    pub(super) fn clear(&self) {
        self.shared.clear();
        self.auth.clear();
        self.idle.borrow_mut().clear();
    }
}
