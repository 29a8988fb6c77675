//! Closes the remaining connections at the end of a drain.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::Reconciler;
use crate::errors::chain;
use crate::state::observed::address_of;
use crate::state::overlay::{self, AtEnd, Drained, Target};

/// The time between two looks at the remaining connections. One look is not enough: a handshake may
/// still complete that was under way when the clients moved.
pub(super) const AGAIN: Duration = Duration::from_millis(200);
/// The length of this phase, from this agent's first look on. The drain may have ended long before
/// that, while no agent was running.
const FOR: Duration = Duration::from_secs(5);

/// The time of this agent's first look at the remains of each drain. A drain is identified by its
/// backend and its end.
#[derive(Default)]
pub(super) struct Looks(HashMap<(Target, u64), Instant>);

impl Looks {
    /// Whether the remaining connections have had their time.
    fn are_over(&mut self, drained: &Drained) -> bool {
        let first = self.0.entry(key(drained)).or_insert_with(Instant::now);
        first.elapsed() >= FOR
    }

    /// Forgets all drains that are not in `due`.
    fn keep_only(&mut self, due: &[Drained]) {
        self.0
            .retain(|known, _| due.iter().any(|drained| key(drained) == *known));
    }
}

fn key(drained: &Drained) -> (Target, u64) {
    (drained.target.clone(), drained.until_unix_ms)
}

impl Reconciler {
    /// Whether a drain has connections to close.
    pub(super) fn closing(&self) -> bool {
        self.overlay.to_close(overlay::steady_ms()).next().is_some()
    }

    /// Closes the remaining connections of drained backends.
    pub(super) fn close_drained(&mut self) {
        let now_ms = overlay::steady_ms();
        let due: Vec<Drained> = self.overlay.to_close(now_ms).cloned().collect();
        self.looks.keep_only(&due);
        let mut ending = HashSet::new();
        let mut overlay = self.overlay.clone();
        for drained in due {
            let target = &drained.target;
            let entry = self.observed.service(&target.service).and_then(|id| {
                let mut backends = self.observed.backends_of(id);
                backends.find(|entry| address_of(entry) == target.address.key())
            });
            let give_up = self.looks.are_over(&drained);
            let Some(entry) = entry.filter(|_| !give_up) else {
                overlay.put_drain(Drained {
                    at_end: AtEnd::Leave,
                    ..drained
                });
                continue;
            };
            ending.insert(entry.id);
            let backend = &target.address;
            match self.plane.close_connections(entry) {
                Ok(0) => {}
                Ok(closed) => tracing::info!(%backend, closed, "closed at the end of its drain"),
                Err(error) => {
                    tracing::error!(%backend, error = %chain(&error), "at the end of a drain")
                }
            }
        }
        self.front.end(&ending);
        self.l7.end(&ending);
        if overlay != self.overlay {
            if let Err(error) = self.store.keep(&overlay) {
                tracing::error!(error = %chain(&error), "the end of a drain could not be kept");
            }
            self.overlay = overlay;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_drain_of_long_ago_has_left_is_looked_at_for_as_long_as_any() {
        let drained = Drained {
            target: Target {
                service: "web".to_owned(),
                address: "127.0.0.1:5000".parse().unwrap(),
            },
            until_unix_ms: 1,
            at_end: AtEnd::Close,
            moved: false,
        };
        let mut looks = Looks::default();
        assert!(!looks.are_over(&drained));
        for first in looks.0.values_mut() {
            *first = first.checked_sub(FOR).unwrap();
        }
        assert!(looks.are_over(&drained));
        // A later drain of the same backend is tracked separately.
        let again = Drained {
            until_unix_ms: 2,
            ..drained
        };
        looks.keep_only(std::slice::from_ref(&again));
        assert!(looks.0.is_empty() && !looks.are_over(&again));
    }
}
