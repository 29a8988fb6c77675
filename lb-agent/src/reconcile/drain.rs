//! The end of a drain that closes what is left.

use std::collections::HashSet;
use std::time::Duration;

use super::{Reconciler, chain};
use crate::state::observed::address_of;
use crate::state::overlay::{self, AtEnd, Drained};

/// From one look at what is left to the next. A handshake that was under way when the clients
/// moved may still complete, so that one look is not enough.
pub(super) const AGAIN: Duration = Duration::from_millis(200);
/// For how long that is done.
const FOR: Duration = Duration::from_secs(5);

impl Reconciler {
    /// Whether connections are to be closed.
    pub(super) fn closing(&self) -> bool {
        self.overlay.to_close(overlay::steady_ms()).next().is_some()
    }

    /// Closes what is left of drained backends.
    pub(super) fn close_drained(&mut self) {
        let now_ms = overlay::steady_ms();
        let due: Vec<Drained> = self.overlay.to_close(now_ms).cloned().collect();
        let mut ending = HashSet::new();
        let mut overlay = self.overlay.clone();
        for drained in due {
            let target = &drained.target;
            let entry = self.observed.service(&target.service).and_then(|id| {
                let mut backends = self.observed.backends_of(id);
                backends.find(|entry| address_of(entry) == target.address.key())
            });
            let give_up = drained.until_unix_ms + FOR.as_millis() as u64 <= now_ms;
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
