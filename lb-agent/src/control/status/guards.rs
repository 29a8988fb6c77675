//! The parts of a service that answer or refuse clients before a backend does.

use serde::{Deserialize, Serialize};

/// Cache, limits, lists, bans and passwords of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Results of the response cache, if the service has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheCounts>,
    /// Limits on the requests of a client, those of the service first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitStatus>,
    /// Lists and bans.
    #[serde(default)]
    pub access: AccessStatus,
    /// Authentication, if the service or one of its routes has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthStatus>,
}

/// Requests of one service by the result of the response cache, since the agent's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCounts {
    /// Answered by a stored response.
    pub hit: u64,
    /// Answered by a backend.
    pub miss: u64,
    /// Answered by a stored response after its lifetime.
    pub stale: u64,
    /// Answered by a stored response that a backend has confirmed.
    pub revalidated: u64,
}

/// A limit on the requests of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitStatus {
    /// Name of the limit.
    pub name: String,
    /// Beginning of the paths that count; `/` for every path.
    pub path: String,
    /// Property that requests are counted by: `client`, `session`, `header NAME` or `cookie NAME`.
    pub key: String,
    /// Requests in a time, as in `10/1m`.
    pub rate: Option<String>,
    /// Requests that may come at once after a pause, if there is a rate.
    pub burst: Option<u32>,
    /// Requests that may be under way at once.
    pub concurrent: Option<u32>,
    /// A request above the limit is only counted.
    pub dry_run: bool,
    /// Requests that got 429, since the agent's start.
    pub refused: u64,
    /// Requests that were passed on, as the limit has `dry_run`.
    pub would_refuse: u64,
}

/// Lists and bans of one service. The clients that they refused are `denied` among the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessStatus {
    /// Prefixes of the list `allow`.
    pub allow: usize,
    /// Prefixes of the list `deny`.
    pub deny: usize,
    /// Bans in force for the service, those for all services included.
    pub bans: usize,
}

/// Authentication of one service and its routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthStatus {
    /// Files of users, each once; none if another server is asked alone.
    pub users: Vec<String>,
    /// Requests that it refused, since the agent's start.
    pub refused: u64,
}

/// Size of the response cache, of all services together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSize {
    /// Bytes that are taken.
    pub bytes: u64,
    /// Bytes that there may be.
    pub capacity: u64,
    /// Number of entries, indexes included.
    pub entries: u64,
}

impl CacheCounts {
    /// Requests that were answered from memory.
    pub fn from_memory(&self) -> u64 {
        self.hit + self.stale + self.revalidated
    }

    /// The part of the requests that were answered from memory, in per cent; `None` without any request.
    pub fn percent(&self) -> Option<u64> {
        (self.from_memory() * 100).checked_div(self.from_memory() + self.miss)
    }
}
