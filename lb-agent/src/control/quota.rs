//! Limits on commands under way, for each user and for all users together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::StatusCode;

use super::api::No;
use super::message::Command;
use super::peer::Peer;

/// Queries under way at a time for one user with read access only.
const QUESTIONS: usize = 8;
/// Plans under way at a time for all users with read access only. Each plan builds the tables of every
/// service.
const PLANS: usize = 2;

/// The limits of one agent. Copies are the same.
#[derive(Clone, Debug)]
pub(super) struct Quotas {
    questions: Arc<Quota>,
    plans: Arc<Quota>,
    /// Plans of users that may change. Their limit is separate, so readers cannot use it up.
    plans_of_changers: Arc<Quota>,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            questions: Quota::new(QUESTIONS, usize::MAX),
            plans: Quota::new(1, PLANS),
            plans_of_changers: Quota::new(1, usize::MAX),
        }
    }
}

impl Quotas {
    /// Takes the share of a limit that `command` needs; `None` if no limit applies.
    ///
    /// # Errors
    /// The refusal, when the limit is reached.
    pub(super) fn take(&self, command: &Command, peer: &Peer) -> Result<Option<Share>, No> {
        let plan = matches!(command, Command::Plan { .. });
        let quota = match (plan, peer.may_change()) {
            (true, true) => &self.plans_of_changers,
            (true, false) => &self.plans,
            (false, true) => return Ok(None),
            (false, false) => &self.questions,
        };
        quota
            .take(peer.uid())
            .map(Some)
            .map_err(|full| refusal(plan, full, peer.uid()))
    }
}

/// The limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    OfUser,
    OfAll,
}

fn refusal(plan: bool, full: Full, uid: u32) -> No {
    let (error, hint) = match (plan, full) {
        (true, Full::OfUser) => (
            format!(
                "a plan for user {uid} is being made already, and each user may have one at a time"
            ),
            "wait until it is done, then ask again",
        ),
        (true, Full::OfAll) => (
            format!(
                "{PLANS} plans for other users are being made, and there may be no more at a time"
            ),
            "ask again in some seconds, or as root or a member of the group lb-agent: theirs are not \
             counted among these",
        ),
        (false, _) => (
            format!(
                "{QUESTIONS} questions of user {uid} are under way, and there may be no more at a time"
            ),
            "wait for their answers, then ask again",
        ),
    };
    No::new(StatusCode::TOO_MANY_REQUESTS, error, hint)
}

/// So many at a time for each user, and for all together.
#[derive(Debug)]
struct Quota {
    each: usize,
    all: usize,
    taken: Mutex<HashMap<u32, usize>>,
}

/// One of those, until it is dropped.
#[derive(Debug)]
pub struct Share {
    quota: Arc<Quota>,
    uid: u32,
}

impl Quota {
    fn new(each: usize, all: usize) -> Arc<Self> {
        let taken = Mutex::default();
        Arc::new(Self { each, all, taken })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, uid: u32) -> Result<Share, Full> {
        let mut taken = self.taken();
        let own = taken.get(&uid).copied().unwrap_or(0);
        if own >= self.each {
            return Err(Full::OfUser);
        }
        if taken.values().sum::<usize>() >= self.all {
            return Err(Full::OfAll);
        }
        taken.insert(uid, own + 1);
        Ok(Share {
            quota: Arc::clone(self),
            uid,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.quota.taken();
        if let Some(own) = taken.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Command {
        Command::Plan {
            config: None,
            forget_runtime: false,
        }
    }

    #[test]
    fn each_user_has_one_plan_at_a_time_and_readers_two_together() {
        let quotas = Quotas::default();
        let reader = |uid| Peer::for_test(uid, false);
        let first = quotas.take(&plan(), &reader(1000)).unwrap();
        let again = quotas.take(&plan(), &reader(1000)).unwrap_err();
        assert_eq!(again.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(again.document.error.contains("for user 1000 is being made"));
        let _second = quotas.take(&plan(), &reader(1001)).unwrap();
        let third = quotas.take(&plan(), &reader(1002)).unwrap_err();
        assert!(third.document.error.starts_with("2 plans for other users"));
        // Readers do not keep root from its plan, nor does a plan keep any user from a query.
        let root = Peer::for_test(0, true);
        let _of_root = quotas.take(&plan(), &root).unwrap();
        assert!(quotas.take(&plan(), &root).is_err());
        assert!(quotas.take(&Command::Status, &reader(1000)).is_ok());
        drop(first);
        assert!(quotas.take(&plan(), &reader(1002)).is_ok());
    }

    #[test]
    fn questions_of_a_reader_are_limited_and_those_of_root_are_not() {
        let quotas = Quotas::default();
        let take = |peer: &Peer| quotas.take(&Command::Stats, peer);
        let (reader, root) = (Peer::for_test(1000, false), Peer::for_test(0, true));
        let mut shares: Vec<_> = (0..QUESTIONS).map(|_| take(&reader).unwrap()).collect();
        let refused = take(&reader).unwrap_err();
        assert!(refused.document.error.contains("questions of user 1000"));
        assert!(take(&Peer::for_test(1001, false)).is_ok());
        assert!(take(&root).unwrap().is_none());
        shares.pop();
        assert!(take(&reader).is_ok());
    }
}
