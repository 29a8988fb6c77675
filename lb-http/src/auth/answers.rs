//! Answers to credentials that have come before, by a keyed digest: no hash is computed twice for the same
//! credentials, and no password is kept.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::hmac;
use lru::LruCache;
use tokio::sync::oneshot;

/// Credentials of users that are remembered, and wrong ones. Wrong ones push out each other alone.
const MOST_GOOD: usize = 4096;
const MOST_WRONG: usize = 1024;

/// HMAC-SHA-256 of a name and a password.
pub(super) type Digest = [u8; 32];

/// The answers.
pub(super) struct Answers {
    key: hmac::Key,
    state: Mutex<State>,
}

struct State {
    good: LruCache<Digest, ()>,
    wrong: LruCache<Digest, ()>,
    /// Requests that wait for a hash under way.
    waiting: HashMap<Digest, Vec<oneshot::Sender<bool>>>,
}

/// The answer to credentials.
pub(super) enum Known {
    /// They came before.
    Answer(bool),
    /// Their hash is being computed; `true` if the caller has to see to that.
    Awaited(oneshot::Receiver<bool>, bool),
}

fn most<V>(count: usize) -> LruCache<Digest, V> {
    let mut cache = LruCache::unbounded();
    cache.resize(NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN));
    cache
}

impl Answers {
    pub(super) fn new() -> Self {
        let mut secret = [0; 32];
        // Without it the digests are as hard to find out as the memory of the process is to read.
        let _ = getrandom::fill(&mut secret);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            state: Mutex::new(State {
                good: most(MOST_GOOD),
                wrong: most(MOST_WRONG),
                waiting: HashMap::new(),
            }),
        }
    }

    /// The digest of credentials, in which the name has no colon.
    pub(super) fn digest(&self, credentials: &[u8]) -> Digest {
        let tag = hmac::sign(&self.key, credentials);
        *tag.as_ref().first_chunk().unwrap_or(&[0; 32])
    }

    pub(super) fn of(&self, digest: &Digest) -> Known {
        let mut state = self.state();
        if state.good.get(digest).is_some() {
            return Known::Answer(true);
        }
        if state.wrong.get(digest).is_some() {
            return Known::Answer(false);
        }
        let (sender, receiver) = oneshot::channel();
        let waiting = state.waiting.entry(*digest).or_default();
        waiting.push(sender);
        Known::Awaited(receiver, waiting.len() == 1)
    }

    /// Tells the answer to all that wait for it.
    pub(super) fn tell(&self, digest: &Digest, is_good: bool) {
        let waiting = {
            let mut state = self.state();
            let known = if is_good {
                &mut state.good
            } else {
                &mut state.wrong
            };
            known.put(*digest, ());
            state.waiting.remove(digest)
        };
        for sender in waiting.into_iter().flatten() {
            // A request may have ended meanwhile.
            let _ = sender.send(is_good);
        }
    }

    /// No hash is computed: those that wait for it get no answer.
    pub(super) fn give_up(&self, digest: &Digest) {
        self.state().waiting.remove(digest);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_request_with_the_same_credentials_waits_and_a_third_knows() {
        let answers = Answers::new();
        let digest = answers.digest(b"ann:secret");
        let Known::Awaited(first, true) = answers.of(&digest) else {
            panic!("nobody asked before");
        };
        let Known::Awaited(second, false) = answers.of(&digest) else {
            panic!("it is under way");
        };
        answers.tell(&digest, true);
        assert_eq!(
            (first.blocking_recv(), second.blocking_recv()),
            (Ok(true), Ok(true))
        );
        assert!(matches!(answers.of(&digest), Known::Answer(true)));
        let other = answers.digest(b"ann:wrong");
        assert!(matches!(answers.of(&other), Known::Awaited(_, true)));
        answers.give_up(&other);
        assert!(matches!(answers.of(&other), Known::Awaited(_, true)));
    }

    #[test]
    fn wrong_credentials_push_out_no_good_ones() {
        let answers = Answers::new();
        let good = answers.digest(b"ann:secret");
        answers.tell(&good, true);
        for number in 0..2 * MOST_GOOD {
            answers.tell(&answers.digest(number.to_string().as_bytes()), false);
        }
        assert!(matches!(answers.of(&good), Known::Answer(true)));
        assert!(answers.state().wrong.len() <= MOST_WRONG);
    }
}
