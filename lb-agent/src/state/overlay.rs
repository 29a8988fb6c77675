//! Changes made at run time, which outlive restarts and reloads until they are undone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::config::BackendAddress;

/// Version of the file that [`Overlay`] is kept in.
pub const VERSION: u32 = 1;

/// Everything that was changed at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// [`VERSION`].
    pub version: u32,
    /// Backends added.
    pub added: Vec<Added>,
    /// Backends of the configuration that were removed.
    pub removed: Vec<Target>,
    /// Backends being drained, and those whose drain is over.
    pub drained: Vec<Drained>,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name of the service.
    pub service: String,
    /// Address of the backend.
    pub address: BackendAddress,
}

/// A backend that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Added {
    /// Which.
    pub target: Target,
    /// Its weight.
    pub weight: u16,
}

/// A backend that was told to drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drained {
    /// Which.
    pub target: Target,
    /// When it loses the clients it still has, milliseconds since 1970 (UTC).
    pub until_unix_ms: u64,
}

impl Default for Overlay {
    fn default() -> Self {
        Self {
            version: VERSION,
            added: Vec::new(),
            removed: Vec::new(),
            drained: Vec::new(),
        }
    }
}

impl Overlay {
    /// The weight that `target` was added with, if it was added at run time.
    pub fn added(&self, target: &Target) -> Option<u16> {
        self.added
            .iter()
            .find(|added| added.target == *target)
            .map(|added| added.weight)
    }

    /// Adds a backend, or gives an added one another weight.
    pub fn add(&mut self, target: Target, weight: u16) {
        self.added.retain(|added| added.target != target);
        self.added.push(Added { target, weight });
    }

    /// Undoes whatever is noted of `target`.
    pub fn forget(&mut self, target: &Target) {
        self.added.retain(|added| added.target != *target);
        self.restore(target);
    }

    /// Puts `target` back in service: neither removed nor drained.
    pub fn restore(&mut self, target: &Target) {
        self.removed.retain(|removed| removed != target);
        self.drained.retain(|drained| drained.target != *target);
    }

    /// Drains `target` until then.
    pub fn drain(&mut self, target: Target, until_unix_ms: u64) {
        self.drained.retain(|drained| drained.target != target);
        self.drained.push(Drained {
            target,
            until_unix_ms,
        });
    }

    /// When the next drain ends after `now_ms`.
    pub fn next_drain_end(&self, now_ms: u64) -> Option<u64> {
        self.drained
            .iter()
            .map(|drained| drained.until_unix_ms)
            .filter(|end| *end > now_ms)
            .min()
    }
}

/// Milliseconds since 1970 (UTC), by the system's clock.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    since.as_millis() as u64
}
