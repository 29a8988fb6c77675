//! The figures of the agent as metrics: made of one snapshot ([`Stats`]), never of a map.
//!
//! `collect` says which metrics there are, with `http` for those of HTTP. `text` writes them, `server` serves them
//! on a socket of their own, a `listener`. A part of the agent that counts something implements [`Source`] and is put into the
//! [`Sources`] at its start; its figures are then in `stats --json` and in the metrics.

mod admission;
pub mod cache;
pub mod collect;
#[cfg(test)]
mod documented;
pub mod events;
mod http;
pub mod listener;
pub mod process;
pub mod server;
pub mod spans;
pub mod syn_cookies;
pub mod text;

use std::sync::{Arc, Mutex, PoisonError};

use crate::control::stats::Family;
#[cfg(doc)]
use crate::control::stats::Stats;

/// A part of the agent that counts by itself.
pub trait Source: Send + Sync {
    /// Its metrics now. Called for every scrape: read figures from memory, and do not wait.
    fn families(&self) -> Vec<Family>;
}

/// Everything that counts by itself.
#[derive(Clone, Default)]
pub struct Sources(Arc<Mutex<Vec<Arc<dyn Source>>>>);

impl Sources {
    /// From now on the metrics of `source` are told, too.
    pub fn add(&self, source: Arc<dyn Source>) {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.push(source);
    }

    /// The metrics of all.
    pub fn families(&self) -> Vec<Family> {
        let sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources
            .iter()
            .flat_map(|source| source.families())
            .collect()
    }
}
