//! Changes made at run time. They outlive restarts and reloads until they are undone.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use lb_config::BackendAddress;
use lb_config::http::Cidr;

/// Version of the file that [`Overlay`] is kept in.
pub const VERSION: u32 = 1;

/// All changes made at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// Format version of the file; see [`VERSION`].
    pub version: u32,
    /// Backends added at run time.
    pub added: Vec<Added>,
    /// Backends of the configuration that were removed.
    pub removed: Vec<Target>,
    /// Backends with a drain, under way or over.
    pub drained: Vec<Drained>,
    /// Bans of clients, in the order in which they were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bans: Vec<Ban>,
    /// Services that have had another name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renamed: Vec<Renamed>,
}

/// A ban of clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ban {
    /// The clients.
    pub prefix: Cidr,
    /// Name of the service; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Its end in milliseconds since 1970 (UTC), by [`steady_ms`]; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_ms: Option<u64>,
    /// Why, as the command was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Ban {
    /// Whether the ban is in force at the time `now_ms`.
    pub fn lasts(&self, now_ms: u64) -> bool {
        self.until_unix_ms.is_none_or(|until| until > now_ms)
    }
}

/// A service that has had another name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renamed {
    /// The present name of the service.
    pub service: String,
    /// The name that its clients are hashed by, which may be its own.
    pub first: String,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name of the service in the configuration.
    pub service: String,
    /// Address or unix socket of the backend.
    pub address: BackendAddress,
}

/// A backend that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Added {
    /// The service and the address of the added backend.
    pub target: Target,
    /// Weight of the added backend.
    pub weight: u16,
}

/// A backend that was told to drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drained {
    /// The service and the address of the drained backend.
    pub target: Target,
    /// The end of the drain in milliseconds since 1970 (UTC), by [`steady_ms`]. The backend then
    /// loses its remaining clients.
    pub until_unix_ms: u64,
    /// The treatment of the remaining clients at the end of the drain.
    #[serde(default, skip_serializing_if = "AtEnd::is_leave")]
    pub at_end: AtEnd,
    /// The clients move at once, not at the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
}

/// The treatment of the clients that a backend still has at the end of its drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AtEnd {
    /// Clients move to other backends. Open connections go on.
    #[default]
    Leave,
    /// Clients move to other backends. Open connections are closed.
    Close,
    /// The backend keeps its known clients.
    Keep,
}

impl AtEnd {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_leave(&self) -> bool {
        *self == Self::Leave
    }
}

impl Drained {
    /// Whether known clients still go to the backend at the time `now_ms`.
    pub fn keeps_clients(&self, now_ms: u64) -> bool {
        !self.moved && (self.until_unix_ms > now_ms || self.at_end == AtEnd::Keep)
    }
}

impl Default for Overlay {
    fn default() -> Self {
        Self {
            version: VERSION,
            added: Vec::new(),
            removed: Vec::new(),
            drained: Vec::new(),
            bans: Vec::new(),
            renamed: Vec::new(),
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

    /// The backends that were added, removed or drained. Some come more than once.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let added = self.added.iter().map(|added| &added.target);
        let drained = self.drained.iter().map(|drained| &drained.target);
        added.chain(&self.removed).chain(drained)
    }

    /// Undoes all changes of `target`.
    pub fn forget(&mut self, target: &Target) {
        self.added.retain(|added| added.target != *target);
        self.restore(target);
    }

    /// Puts `target` back in service: neither removed nor drained.
    pub fn restore(&mut self, target: &Target) {
        self.removed.retain(|removed| removed != target);
        self.drained.retain(|drained| drained.target != *target);
    }

    /// The name that the clients of `service` are hashed by, if one is recorded.
    pub fn hash_name(&self, service: &str) -> Option<&str> {
        let mut renamed = self.renamed.iter();
        let renamed = renamed.find(|renamed| renamed.service == service)?;
        Some(&renamed.first)
    }

    /// Moves the changes of the backends of the service `from`, and its bans, to the service `to`.
    pub fn rename(&mut self, from: &str, to: &str) {
        let added = self.added.iter_mut().map(|added| &mut added.target);
        let drained = self.drained.iter_mut().map(|drained| &mut drained.target);
        let targets = added.chain(&mut self.removed).chain(drained);
        for target in targets.filter(|target| target.service == from) {
            to.clone_into(&mut target.service);
        }
        let bans = self.bans.iter_mut().filter_map(|ban| ban.service.as_mut());
        for service in bans.filter(|service| *service == from) {
            to.clone_into(service);
        }
    }

    /// Bans a prefix, and replaces an earlier ban of it.
    pub fn ban(&mut self, ban: Ban) {
        self.unban(ban.prefix, ban.service.as_deref());
        self.bans.push(ban);
    }

    /// Refuses the clients of a prefix, unless a ban of the same prefix lasts longer.
    pub fn ban_for_longer(&mut self, ban: Ban) {
        let until = |ban: &Ban| ban.until_unix_ms.unwrap_or(u64::MAX);
        let lasts = |old: &Ban| {
            (old.prefix, &old.service) == (ban.prefix, &ban.service) && until(old) >= until(&ban)
        };
        if !self.bans.iter().any(lasts) {
            self.ban(ban);
        }
    }

    /// Lifts a ban; false if there is none.
    pub fn unban(&mut self, prefix: Cidr, service: Option<&str>) -> bool {
        let before = self.bans.len();
        self.bans
            .retain(|ban| (ban.prefix, ban.service.as_deref()) != (prefix, service));
        self.bans.len() != before
    }

    /// Forgets bans that have ended at the time `now_ms`.
    pub fn forget_ended(&mut self, now_ms: u64) {
        self.bans.retain(|ban| ban.lasts(now_ms));
    }

    /// Drains `target` until `until_unix_ms`, with [`AtEnd::Leave`].
    #[cfg(test)]
    pub fn drain(&mut self, target: Target, until_unix_ms: u64) {
        self.put_drain(Drained {
            target,
            until_unix_ms,
            at_end: AtEnd::Leave,
            moved: false,
        });
    }

    /// Drains a backend, and replaces its earlier drain.
    pub fn put_drain(&mut self, drained: Drained) {
        let target = &drained.target;
        self.drained.retain(|before| before.target != *target);
        self.drained.push(drained);
    }

    /// The drains with connections to close: those that have ended at the time `now_ms`, with
    /// [`AtEnd::Close`].
    pub fn to_close(&self, now_ms: u64) -> impl Iterator<Item = &Drained> {
        self.drained.iter().filter(move |drained| {
            drained.at_end == AtEnd::Close && drained.until_unix_ms <= now_ms
        })
    }
}

/// Milliseconds since 1970, the clock of drains. It is the system's clock at the first call plus
/// the time since. Setting the system's clock neither ends nor prolongs a drain.
pub fn steady_ms() -> u64 {
    static FIRST: OnceLock<(u64, Instant)> = OnceLock::new();
    let (first_ms, at) = FIRST.get_or_init(|| (unix_ms(), Instant::now()));
    first_ms.saturating_add(at.elapsed().as_millis() as u64)
}

/// Milliseconds since 1970 (UTC), by the system's clock.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    since.as_millis() as u64
}
