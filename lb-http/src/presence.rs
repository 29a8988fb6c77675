//! Whether the applications of the backends listen. The workers and the process around share the knowledge.
//!
//! The kernel tells of applications on this host. Of others an attempt to connect tells.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use lb_common::abi::BackendId;

use super::ids::IdMap;

/// Whether an application listens at the address of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A socket listens there.
    Listening,
    /// The last socket was closed about then.
    Gone(Instant),
    /// No socket was ever seen there.
    Never,
}

/// The presence of the backends. Clones share it.
#[derive(Clone, Default)]
pub struct Presences(Arc<RwLock<IdMap<BackendId, Known>>>);

#[derive(Default)]
struct Known {
    /// The last report of the kernel; `None` for a backend that the kernel does not know.
    reported: Option<Presence>,
    /// Whether the backend has ever listened or taken a connection.
    was_there: bool,
    /// Time of the first refusal since the last connection.
    refused_since: Option<Instant>,
}

impl Presences {
    /// Takes reports of the kernel about some backends.
    pub fn report(&self, found: impl IntoIterator<Item = (BackendId, Presence)>) {
        let mut all = self.write();
        for (id, presence) in found {
            let known = all.entry(id).or_default();
            // A refusal may be newer than a report that repeats the one before.
            if known.reported == Some(presence) {
                continue;
            }
            known.reported = Some(presence);
            known.was_there |= presence != Presence::Never;
            if presence == Presence::Listening {
                known.refused_since = None;
            }
        }
    }

    /// Forgets all backends but these.
    pub(super) fn keep_only(&self, is_known: impl Fn(BackendId) -> bool) {
        self.write().retain(|id, _| is_known(*id));
    }

    /// Notes that a backend has taken a connection.
    pub(super) fn connected(&self, id: BackendId) {
        let is_known = self
            .read()
            .get(&id)
            .is_some_and(|known| known.was_there && known.refused_since.is_none());
        if !is_known {
            let mut all = self.write();
            let known = all.entry(id).or_default();
            known.was_there = true;
            known.refused_since = None;
        }
    }

    /// Notes that a backend has refused a connection. Returns the time since it was there; `None` if it never
    /// was.
    pub(super) fn refused(&self, id: BackendId) -> Option<Duration> {
        let mut all = self.write();
        let known = all.entry(id).or_default();
        let refused = *known.refused_since.get_or_insert_with(Instant::now);
        let since = match known.reported {
            Some(Presence::Gone(since)) => since.min(refused),
            _ => refused,
        };
        known.was_there.then(|| since.elapsed())
    }

    fn read(&self) -> RwLockReadGuard<'_, IdMap<BackendId, Known>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, IdMap<BackendId, Known>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BackendId = BackendId::new(1, 0);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn port_that_never_listened_has_no_time_of_its_end() {
        let presences = Presences::default();
        assert_eq!(presences.refused(A), None);
        presences.report([(A, Presence::Never)]);
        assert_eq!(presences.refused(A), None);
        presences.connected(A);
        assert!(presences.refused(A).is_some_and(|away| away < HOUR));
    }

    #[test]
    fn time_of_the_end_is_the_kernels_or_that_of_an_earlier_refusal() {
        let presences = Presences::default();
        presences.report([(A, Presence::Listening)]);
        assert!(presences.refused(A).is_some_and(|away| away < HOUR));
        let long_ago = Instant::now() - HOUR;
        presences.report([(A, Presence::Gone(long_ago))]);
        assert!(presences.refused(A).is_some_and(|away| away >= HOUR));
        presences.report([(A, Presence::Listening)]);
        assert!(presences.refused(A).is_some_and(|away| away < HOUR));
    }

    #[test]
    fn repeated_report_does_not_take_a_refusal_back() {
        let presences = Presences::default();
        presences.report([(A, Presence::Listening)]);
        let first = presences.refused(A).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        presences.report([(A, Presence::Listening)]);
        assert!(presences.refused(A).unwrap() >= first + Duration::from_millis(5));
    }

    #[test]
    fn backend_that_is_removed_is_forgotten() {
        let presences = Presences::default();
        presences.report([(A, Presence::Listening)]);
        presences.keep_only(|_| false);
        assert_eq!(presences.refused(A), None);
    }
}
