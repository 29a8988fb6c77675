//! The answer about the response cache.

use serde::{Deserialize, Serialize};

/// The response cache: its size, what it did, and stored responses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheReport {
    /// Bytes that are taken.
    pub bytes: u64,
    /// Bytes that there may be.
    pub capacity: u64,
    /// Number of entries, indexes included.
    pub entries: u64,
    /// Requests that were answered from memory.
    pub hit: u64,
    /// Requests that a backend answered.
    pub miss: u64,
    /// Requests that were answered from memory after the lifetime of the response.
    pub stale: u64,
    /// Requests that were answered from memory, as the backend said that the response is still good.
    pub revalidated: u64,
    /// Stored responses, those with the most hits first.
    pub objects: Vec<CachedObject>,
}

/// One stored response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedObject {
    /// Scheme, host, path and query.
    pub url: String,
    /// Bytes of memory.
    pub bytes: u64,
    /// How often it was sent.
    pub hits: u64,
    /// Age of the response, in seconds.
    pub age_seconds: u64,
    /// Time for which it is fresh, in seconds.
    pub lifetime_seconds: u64,
}
