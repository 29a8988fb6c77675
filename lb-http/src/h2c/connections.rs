//! The connections of HTTP/2 of a thread: one for each backend, and a further one if all of its streams are
//! in use.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use lb_common::abi::BackendId;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::call::Call;
use super::connection::{Connection, Lease};
use crate::clock;
use crate::ids::IdMap;
use crate::stream::Stream;

/// For how long a connection without a stream is kept, in milliseconds.
const IDLE_MS: u64 = 60_000;

/// The connections of a thread.
#[derive(Clone, Default)]
pub(crate) struct Connections(Rc<RefCell<IdMap<BackendId, OfBackend>>>);

#[derive(Default)]
struct OfBackend {
    made: Vec<Rc<Connection>>,
    /// The attempt to make a connection, for all requests that wait for it.
    attempt: Option<Rc<Attempt>>,
}

/// A connection that is being made.
#[derive(Default)]
struct Attempt {
    outcome: RefCell<Option<Result<(), io::Error>>>,
    done: Notify,
}

impl Connections {
    /// A place on a connection to `backend` that is there and takes one more stream.
    pub(crate) fn take(&self, backend: BackendId) -> Option<Call> {
        let mut all = self.0.borrow_mut();
        let made = &mut all.get_mut(&backend)?.made;
        // Streams of those that take no more go on; each of them holds its connection.
        made.retain(|connection| connection.sender().is_some());
        let free = made.iter().find(|connection| connection.has_room())?;
        Some(Call::new(Lease::new(free)))
    }

    /// A place on a connection to `backend`, which is made by `connect` if need be, within that time. All
    /// requests that need one meanwhile wait for the same.
    pub(crate) async fn open<F>(
        &self,
        backend: BackendId,
        within: Duration,
        connect: impl Fn() -> F,
    ) -> io::Result<Call>
    where
        F: Future<Output = io::Result<Stream>> + 'static,
    {
        loop {
            if let Some(call) = self.take(backend) {
                return Ok(call);
            }
            self.attempt(backend, within, &connect).wait().await?;
        }
    }

    fn attempt<F>(
        &self,
        backend: BackendId,
        within: Duration,
        connect: impl Fn() -> F,
    ) -> Rc<Attempt>
    where
        F: Future<Output = io::Result<Stream>> + 'static,
    {
        let mut all = self.0.borrow_mut();
        let of_backend = all.entry(backend).or_default();
        if let Some(attempt) = &of_backend.attempt {
            return Rc::clone(attempt);
        }
        let attempt = Rc::new(Attempt::default());
        of_backend.attempt = Some(Rc::clone(&attempt));
        let (connections, stream) = (self.clone(), connect());
        tokio::task::spawn_local(connections.make(backend, within, stream));
        attempt
    }

    /// Makes a connection, and stays with it until its end.
    async fn make(
        self,
        backend: BackendId,
        within: Duration,
        stream: impl Future<Output = io::Result<Stream>>,
    ) {
        let begun = timeout(within, async { Connection::begin(stream.await?).await });
        let begun = begun.await;
        let begun = begun.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (outcome, driver) = match begun {
            Ok((connection, driver)) => (Ok(connection), Some(driver)),
            Err(error) => (Err(error), None),
        };
        self.settle(backend, outcome);
        if let Some(driver) = driver {
            driver.run().await;
        }
    }

    fn settle(&self, backend: BackendId, outcome: io::Result<Connection>) {
        let mut all = self.0.borrow_mut();
        let of_backend = all.entry(backend).or_default();
        let outcome = outcome.map(|connection| of_backend.made.push(Rc::new(connection)));
        if let Some(attempt) = of_backend.attempt.take() {
            *attempt.outcome.borrow_mut() = Some(outcome);
            attempt.done.notify_waiters();
        }
    }

    /// Ends connections that were idle for too long, and forgets those that take no more streams.
    pub(crate) fn tidy(&self) {
        let now_ms = clock::now_ms();
        self.keep(|connection| {
            let is_old = connection.is_idle() && connection.idle_since_ms() + IDLE_MS <= now_ms;
            !is_old && connection.sender().is_some()
        });
    }

    /// Ends idle connections.
    pub(crate) fn clear(&self) {
        self.keep(|connection| !connection.is_idle());
    }

    fn keep(&self, is_kept: impl Fn(&Connection) -> bool) {
        self.0.borrow_mut().retain(|_, of_backend| {
            of_backend.made.retain(|connection| is_kept(connection));
            !of_backend.made.is_empty() || of_backend.attempt.is_some()
        });
    }
}

impl Attempt {
    /// Waits for its end. Every waiter gets a copy of its error.
    async fn wait(&self) -> io::Result<()> {
        loop {
            if let Some(outcome) = &*self.outcome.borrow() {
                return outcome.as_ref().copied().map_err(copy_of);
            }
            self.done.notified().await;
        }
    }
}

fn copy_of(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
