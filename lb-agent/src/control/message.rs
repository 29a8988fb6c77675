//! What can be asked of the agent, what it answers, and the JSON of both.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::stats::Stats;
use super::status::Status;
use crate::state::overlay::AtEnd;
pub use crate::state::preview::Preview;
use lb_config::BackendAddress;

/// What can be asked of the agent. Where `service` is `None`, the only service is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Tell everything.
    Status,
    /// Tell every figure.
    Stats,
    /// Tell where a client would go.
    Lookup {
        /// Address of the client.
        client: IpAddr,
        /// Name of the service.
        service: Option<String>,
    },
    /// Add a backend, or put one back in service.
    AddBackend {
        /// Address of the backend.
        address: BackendAddress,
        /// Name of the service.
        service: Option<String>,
        /// Its weight, at least 1; 1, or what it has, if not given.
        weight: Option<u16>,
    },
    /// Take a backend out at once.
    RemoveBackend {
        /// Address of the backend.
        address: BackendAddress,
        /// Name of the service.
        service: Option<String>,
    },
    /// Give a backend no new clients; let the known ones stay for a while.
    DrainBackend {
        /// Address of the backend.
        address: BackendAddress,
        /// Name of the service.
        service: Option<String>,
        /// For how long; the agent's default if not given.
        timeout: Option<Duration>,
        /// What becomes of what it still has then.
        at_end: AtEnd,
        /// Its clients move at once, not at the end.
        now: bool,
    },
    /// Read the configuration again.
    Reload {
        /// Refuse if a greater part than this of a service's clients or connections would move.
        max_moved: Option<Part>,
    },
    /// Tell what a configuration would change.
    Plan {
        /// Which; the agent's own file, read again, if not given.
        config: Option<Submitted>,
    },
    /// End the agent.
    Stop {
        /// Also take everything out of the kernel.
        purge: bool,
    },
}

/// A part of something, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part(pub u32);

impl Part {
    /// The same as a number from 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

/// A configuration that is sent along.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submitted {
    /// Its text.
    pub text: String,
    /// Where it is from, for messages.
    pub source: String,
}

impl std::fmt::Debug for Submitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

impl Command {
    /// Whether it changes anything, which not everybody may.
    pub fn changes(&self) -> bool {
        !matches!(
            self,
            Self::Status | Self::Stats | Self::Lookup { .. } | Self::Plan { .. }
        )
    }
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// A change is in force.
    Changed {
        /// One line of what changed.
        message: String,
    },
    /// Answer to [`Command::Status`].
    Status(Status),
    /// Answer to [`Command::Lookup`].
    Lookup(Lookup),
    /// Answer to [`Command::Plan`].
    Plan(Preview),
    /// Answer to [`Command::Stats`].
    Stats(Box<Stats>),
}

/// Why the agent did not do what it was asked. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of reason it is.
    pub kind: RefusalKind,
    /// What was tried, and the cause.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Kinds of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The command, or the configuration it named, makes no sense.
    BadRequest,
    /// It is about something that does not exist.
    NotFound,
    /// It contradicts what is in force.
    Conflict,
    /// It could not be carried out.
    Failed,
}

/// A refusal as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalDocument {
    /// [`Refusal::error`].
    pub error: String,
    /// [`Refusal::hint`].
    #[serde(default)]
    pub hint: Option<String>,
}

/// Where a client would go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// Address of the client.
    pub client: IpAddr,
    /// The part of it that counts.
    pub prefix: String,
    /// Name of the service.
    pub service: String,
    /// Where it would go; `None` when no backend could take it.
    pub backend: Option<BackendAddress>,
    /// `affinity`, `slot` or `next`; `None` like `backend`.
    pub reason: Option<String>,
    /// Its slot.
    pub slot: u32,
    /// All backends in the order in which they would be tried, affinity aside.
    pub order: Vec<BackendAddress>,
    /// What is remembered of the client.
    pub affinity: Option<AffinityFound>,
}

/// What is remembered of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffinityFound {
    /// Where it was sent last.
    pub backend: BackendAddress,
    /// How long ago.
    pub age_seconds: u64,
    /// For how long that is remembered yet.
    pub expires_in_seconds: u64,
}
