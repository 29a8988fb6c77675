//! The connections of a small server, limited in number. Silent connections give way to new ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

/// For how long a connection may be silent while others wait for room.
const SILENT_TIME: Duration = Duration::from_millis(500);

/// What the agent does with connections to its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It accepts them.
    Serving,
    /// They wait: another agent may be about to take over.
    Waiting,
    /// It ends.
    Ending,
    /// It ends, and another agent has the sockets.
    TakenOver,
}

/// The connections of one listener.
pub struct Crowd {
    most: usize,
    connections: JoinSet<()>,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
}

/// A connection, since when it is there, and whether it is asking for something.
struct Waiting {
    task: AbortHandle,
    since: Instant,
    asking: Asking,
}

/// Whether a request is under way on a connection, which is not ended then.
#[derive(Clone, Debug, Default)]
pub struct Asking(Arc<AtomicBool>);

impl Asking {
    /// A request has come, or its answer has been made.
    pub fn set(&self, asking: bool) {
        self.0.store(asking, Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl Crowd {
    /// Of at most `most` connections.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            connections: JoinSet::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Whether one connection more can be accepted. If there are too many, the one that has been silent for
    /// longest is ended. Ten thousand silent connections must not keep out a client with a request.
    pub fn has_room(&mut self) -> bool {
        if self.connections.len() < self.most {
            return true;
        }
        self.forget_the_gone();
        let now = Instant::now();
        let is_silent =
            |one: &Waiting| !one.asking.is_set() && now.duration_since(one.since) >= SILENT_TIME;
        match self.waiting.iter().position(is_silent) {
            Some(place) => {
                if let Some(one) = self.waiting.remove(place) {
                    one.task.abort();
                }
                true
            }
            None => false,
        }
    }

    /// Serves a connection.
    pub fn serve<F>(&mut self, connection: impl FnOnce(Asking) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let asking = Asking::default();
        let task = self.connections.spawn(connection(asking.clone()));
        self.waiting.push_back(Waiting {
            task,
            since: Instant::now(),
            asking,
        });
        if self.waiting.len() > 2 * self.most {
            self.forget_the_gone();
        }
    }

    /// Ends all that are silent: something is scarce, and they have to give theirs back.
    pub fn give_back(&mut self) {
        self.forget_the_gone();
        self.waiting.retain(|one| {
            let asks = one.asking.is_set();
            if !asks {
                one.task.abort();
            }
            asks
        });
    }

    /// Waits for a change: a connection that ends, or one that may have been silent for long enough.
    pub async fn changed(&mut self) {
        let full = self.connections.len() >= self.most;
        tokio::select! {
            Some(_) = self.connections.join_next() => {}
            () = sleep(SILENT_TIME / 5), if full => {}
            else => std::future::pending().await,
        }
    }

    /// Waits until all are over.
    pub async fn over(&mut self) {
        while self.connections.join_next().await.is_some() {}
    }

    fn forget_the_gone(&mut self) {
        self.waiting.retain(|one| !one.task.is_finished());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_silent_give_way_and_whoever_asks_does_not() {
        let mut crowd = Crowd::new(2);
        let forever = |asks: bool| {
            move |asking: Asking| async move {
                asking.set(asks);
                std::future::pending::<()>().await;
            }
        };
        crowd.serve(forever(true));
        crowd.serve(forever(false));
        tokio::task::yield_now().await;
        assert!(!crowd.has_room(), "nobody has been silent for long");
        sleep(SILENT_TIME).await;
        assert!(crowd.has_room());
        crowd.changed().await;
        crowd.serve(forever(true));
        sleep(SILENT_TIME).await;
        assert!(!crowd.has_room(), "all are asking");
        assert_eq!(crowd.connections.len(), 2);
    }
}
