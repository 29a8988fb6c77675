//! Answers on their way into the store: requests for one of them wait together, and are woken at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// How far an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is awaited.
    Flying,
    /// It is stored.
    Stored,
    /// It cannot be stored: each request asks for its own.
    Passing,
    /// It did not come.
    Failed,
}

/// All that are on their way.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Box<[u8]>, Awaited>>);

#[derive(Debug)]
struct Awaited {
    state: watch::Receiver<State>,
    is_spoilt: Arc<AtomicBool>,
}

/// A request that wants an answer.
#[derive(Debug)]
pub(crate) enum Joined {
    /// It is the first, and brings it.
    Lead(Flight),
    /// It waits.
    Follow(Follower),
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Awaited>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn join(self: &Arc<Self>, key: &[u8]) -> Joined {
        let mut flights = self.lock();
        if let Some(awaited) = flights.get(key) {
            return Joined::Follow(Follower(awaited.state.clone()));
        }
        let (sender, state) = watch::channel(State::Flying);
        let is_spoilt = Arc::<AtomicBool>::default();
        let awaited = Awaited {
            state,
            is_spoilt: Arc::clone(&is_spoilt),
        };
        flights.insert(key.into(), awaited);
        Joined::Lead(Flight {
            key: key.into(),
            flights: Arc::clone(self),
            sender,
            is_spoilt,
        })
    }

    /// Has no answer stored that is on its way under `key`, or is a variant of it.
    pub(crate) fn spoil(&self, key: &[u8]) {
        let flights = self.lock();
        for (other, awaited) in flights.iter() {
            let rest = other.strip_prefix(key);
            // The key of a variant goes on behind a line break, which no URL has.
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"\n")) {
                awaited.is_spoilt.store(true, Relaxed);
            }
        }
    }
}

/// The request that brings an answer. When it is dropped before that, the others know that none comes.
#[derive(Debug)]
pub(crate) struct Flight {
    key: Box<[u8]>,
    flights: Arc<Flights>,
    sender: watch::Sender<State>,
    is_spoilt: Arc<AtomicBool>,
}

impl Flight {
    /// Whether the answer was invalidated before it came.
    pub(crate) fn is_spoilt(&self) -> bool {
        self.is_spoilt.load(Relaxed)
    }

    /// Wakes all that wait.
    pub(crate) fn land(self, state: State) {
        self.flights.lock().remove(&self.key);
        self.sender.send_replace(state);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if *self.sender.borrow() == State::Flying {
            self.flights.lock().remove(&self.key);
            self.sender.send_replace(State::Failed);
        }
    }
}

/// A request that waits for an answer.
#[derive(Debug)]
pub(crate) struct Follower(watch::Receiver<State>);

impl Follower {
    /// How it ended.
    pub(crate) async fn wait(mut self) -> State {
        match self.0.wait_for(|state| *state != State::Flying).await {
            Ok(state) => *state,
            Err(_) => State::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(flights: &Arc<Flights>) -> Flight {
        match flights.join(b"k") {
            Joined::Lead(flight) => flight,
            Joined::Follow(_) => panic!("somebody else leads"),
        }
    }

    fn follow(flights: &Arc<Flights>) -> Follower {
        match flights.join(b"k") {
            Joined::Lead(_) => panic!("nobody leads"),
            Joined::Follow(follower) => follower,
        }
    }

    #[tokio::test]
    async fn all_are_woken_with_the_outcome_and_the_next_one_leads() {
        let flights = Arc::<Flights>::default();
        for state in [State::Stored, State::Passing] {
            let leader = lead(&flights);
            let waiting = [follow(&flights), follow(&flights)];
            leader.land(state);
            for follower in waiting {
                assert_eq!(follower.wait().await, state);
            }
        }
        let leader = lead(&flights);
        let waiting = follow(&flights);
        drop(leader);
        assert_eq!(waiting.wait().await, State::Failed);
        drop(lead(&flights));
    }

    #[test]
    fn answer_on_its_way_is_spoilt_by_its_key_and_so_are_those_of_variants() {
        let flights = Arc::<Flights>::default();
        let leader = lead(&flights);
        let others = [&b"k\n1"[..], b"k1"].map(|key| match flights.join(key) {
            Joined::Lead(flight) => flight,
            Joined::Follow(_) => panic!("somebody else leads"),
        });
        flights.spoil(b"other");
        assert!(!leader.is_spoilt());
        flights.spoil(b"k");
        assert!(leader.is_spoilt());
        assert_eq!(others.map(|flight| flight.is_spoilt()), [true, false]);
    }
}
