//! Which backend has which Socket.IO session: bounded, aged, and shared by the workers. Only
//! requests of Socket.IO come here, so a lock, of one part of sixteen, is no matter.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lb_common::abi::{BackendId, ServiceId};
use lb_common::hash;
use lru::LruCache;

/// Parts, each with a lock of its own.
const PARTS: usize = 16;
/// A session without a request in this time is over: one that polls asks twice a minute,
/// and one that is a WebSocket ends with it.
const AGE: Duration = Duration::from_secs(30 * 60);
/// How long a session is remembered after its WebSocket has ended.
const AFTER_TUNNEL: Duration = Duration::from_secs(2 * 60);

/// The memory of sessions.
pub(crate) struct Sessions {
    secret: [u64; 2],
    parts: [Mutex<LruCache<u128, Session>>; PARTS],
    evicted: AtomicU64,
}

#[derive(Clone, Copy)]
struct Session {
    backend: BackendId,
    until: Instant,
}

/// A cache of so many entries that takes memory as they come. (`LruCache::new` makes room for all.)
fn growing<K: std::hash::Hash + Eq, V>(most: NonZeroUsize) -> LruCache<K, V> {
    let mut cache = LruCache::unbounded();
    cache.resize(most);
    cache
}

impl Sessions {
    /// Room for `most` sessions; the one unseen for longest goes first.
    pub(crate) fn new(most: usize) -> Self {
        let each = NonZeroUsize::new(most.div_ceil(PARTS)).unwrap_or(NonZeroUsize::MIN);
        let mut secret = [0; 16];
        // It keeps others from choosing ids that collide; without it they could only harm
        // themselves.
        let _ = getrandom::fill(&mut secret);
        let words = u128::from_ne_bytes(secret);
        Self {
            secret: [(words >> 64) as u64, words as u64],
            parts: std::array::from_fn(|_| Mutex::new(growing(each))),
            evicted: AtomicU64::new(0),
        }
    }

    /// Remembers that `backend` has the session.
    pub(crate) fn learn(&self, service: ServiceId, sid: &str, backend: BackendId) {
        let session = Session {
            backend,
            until: Instant::now() + AGE,
        };
        let key = self.key(service, sid);
        let pushed_out = self.part(key).push(key, session);
        if pushed_out.is_some_and(|(other, _)| other != key) {
            self.evicted.fetch_add(1, Relaxed);
        }
    }

    /// How many are remembered, those included that are over since the last [`Sessions::tidy`].
    pub(crate) fn remembered(&self) -> usize {
        self.parts.iter().map(|part| locked(part).len()).sum()
    }

    /// How many had to make room for others.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// Which backend has it, if that is known.
    pub(crate) fn backend_of(&self, service: ServiceId, sid: &str) -> Option<BackendId> {
        self.backend_at(service, sid, Instant::now())
    }

    fn backend_at(&self, service: ServiceId, sid: &str, now: Instant) -> Option<BackendId> {
        let key = self.key(service, sid);
        let mut part = self.part(key);
        let session = part.get_mut(&key)?;
        if now > session.until {
            part.pop(&key);
            return None;
        }
        session.until = now + AGE;
        Some(session.backend)
    }

    /// The session is over.
    pub(crate) fn forget(&self, service: ServiceId, sid: &str) {
        let key = self.key(service, sid);
        self.part(key).pop(&key);
    }

    /// The session's WebSocket has ended, and the session with it; unless that was only tried,
    /// and it goes on polling.
    pub(crate) fn leave(&self, service: ServiceId, sid: &str) {
        let key = self.key(service, sid);
        if let Some(session) = self.part(key).get_mut(&key) {
            session.until = Instant::now() + AFTER_TUNNEL;
        }
    }

    /// Drops those that are over, which else would stay until their place is wanted.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        for part in &self.parts {
            let mut part = locked(part);
            while let Some((_, oldest)) = part.peek_lru()
                && now > oldest.until
            {
                part.pop_lru();
            }
        }
    }

    /// A digest of 128 bits: the memory is the same for any length of an id.
    fn key(&self, service: ServiceId, sid: &str) -> u128 {
        let [first, second] = self.secret;
        let salt = u64::from(service.0);
        let high = hash::bytes([first, second ^ salt], sid.as_bytes());
        let low = hash::bytes([second, first ^ salt], sid.as_bytes());
        u128::from(high) << 64 | u128::from(low)
    }

    fn part(&self, key: u128) -> MutexGuard<'_, LruCache<u128, Session>> {
        locked(&self.parts[key as usize % PARTS])
    }
}

fn locked<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: ServiceId = ServiceId(1);

    #[test]
    fn a_session_is_remembered_for_its_service_alone() {
        let sessions = Sessions::new(100);
        sessions.learn(WEB, "a", BackendId(5));
        assert_eq!(sessions.backend_of(WEB, "a"), Some(BackendId(5)));
        assert_eq!(sessions.backend_of(ServiceId(2), "a"), None);
        sessions.forget(WEB, "a");
        assert_eq!(sessions.backend_of(WEB, "a"), None);
    }

    #[test]
    fn a_session_that_is_asked_for_does_not_age() {
        let sessions = Sessions::new(100);
        sessions.learn(WEB, "a", BackendId(5));
        sessions.learn(WEB, "b", BackendId(6));
        let later = |minutes: u64| Instant::now() + Duration::from_secs(minutes * 60);
        assert!(sessions.backend_at(WEB, "a", later(20)).is_some());
        assert!(sessions.backend_at(WEB, "a", later(40)).is_some());
        assert!(sessions.backend_at(WEB, "b", later(40)).is_none());
    }

    #[test]
    fn there_are_never_more_than_there_is_room_for() {
        let sessions = Sessions::new(160);
        for n in 0..10_000 {
            sessions.learn(WEB, &n.to_string(), BackendId(1));
        }
        let remembered = sessions.remembered();
        assert!(remembered <= 160);
        assert_eq!(sessions.evicted(), 10_000 - remembered as u64);
        sessions.learn(WEB, "9999", BackendId(2));
        assert_eq!(sessions.remembered(), remembered, "learnt again");
        assert!(sessions.backend_of(WEB, "9999").is_some());
    }
}
