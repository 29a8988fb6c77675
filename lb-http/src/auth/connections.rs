//! Connections to the servers of forward authentication: those of one worker, kept for the next request.

use std::cell::RefCell;
use std::collections::HashMap;

use lb_config::BackendAddress;

use crate::clock;
use crate::stream::Stream;

/// For how long an idle connection is kept when its server does not say: Node.js closes it after five seconds.
const IDLE_MS: u64 = 4000;
/// Idle connections to one server.
const MOST_IDLE: usize = 64;

/// The idle connections of a worker.
#[derive(Default)]
pub(crate) struct Connections {
    idle: RefCell<HashMap<BackendAddress, Vec<Idle>>>,
}

struct Idle {
    stream: Stream,
    until_ms: u64,
}

impl Connections {
    /// An idle connection, the one used last.
    pub(super) fn take(&self, address: &BackendAddress) -> Option<Stream> {
        let mut idle = self.idle.borrow_mut();
        let of_server = idle.get_mut(address)?;
        while let Some(mut last) = of_server.pop() {
            if last.until_ms > clock::now_ms() && last.stream.is_quiet() {
                return Some(last.stream);
            }
        }
        None
    }

    /// Keeps a connection whose answer was read to its end, for as long as its server says.
    pub(super) fn put(&self, address: &BackendAddress, mut stream: Stream, seconds: Option<u64>) {
        let idle_ms = seconds.map_or(IDLE_MS, |seconds| seconds.saturating_sub(1) * 1000);
        if idle_ms == 0 || !stream.is_quiet() {
            return;
        }
        let until_ms = clock::now_ms().saturating_add(idle_ms);
        let mut idle = self.idle.borrow_mut();
        let of_server = idle.entry(address.clone()).or_default();
        if of_server.len() < MOST_IDLE {
            of_server.push(Idle { stream, until_ms });
        }
    }

    /// Closes the idle connections to a server.
    pub(super) fn forget(&self, address: &BackendAddress) {
        self.idle.borrow_mut().remove(address);
    }

    /// Closes connections that were idle for too long, and those that the other side has closed.
    pub(crate) fn tidy(&self) {
        let now_ms = clock::now_ms();
        self.idle.borrow_mut().retain(|_, of_server| {
            of_server.retain_mut(|idle| idle.until_ms > now_ms && idle.stream.is_quiet());
            !of_server.is_empty()
        });
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}
