//! Commands that the agent accepts, its answers, and the JSON of both.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cache::CacheReport;
use super::facts::RequestFacts;
use super::stats::Stats;
use super::status::{Status, StickinessStatus};
use crate::state::overlay::AtEnd;
pub use crate::state::preview::Preview;
use lb_config::BackendAddress;
use lb_config::http::Cidr;
use lb_http::Purge;

/// A command to the agent. `service: None` means the only service; for a backend, the one that its address tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Report the state of the agent, its services and backends.
    Status,
    /// Report every counter and gauge.
    Stats,
    /// Report the backend that a client or a request would get.
    Lookup {
        /// Client address, without a port.
        client: IpAddr,
        /// Service name; `None` for the only service.
        service: Option<String>,
        /// Parts of the request, for services that are sticky by more than the address.
        request: RequestFacts,
    },
    /// Add a backend, or put one back in service.
    AddBackend {
        /// Address of the backend to add or change.
        address: BackendAddress,
        /// Service name; `None` for the one that has or had the address, else the only one.
        service: Option<String>,
        /// Weight, at least 1. `None` keeps the present weight, or 1 for a new backend.
        weight: Option<u16>,
        /// A backend that is in service already is no reason to refuse.
        ensure: bool,
    },
    /// Take a backend out at once.
    RemoveBackend {
        /// Address of the backend to remove.
        address: BackendAddress,
        /// Service name; `None` for the only service.
        service: Option<String>,
    },
    /// Forget what was changed at run time for a backend.
    ResetBackend {
        /// Address of the backend to reset.
        address: BackendAddress,
        /// Service name; `None` for the only one with changes of this backend.
        service: Option<String>,
    },
    /// Give a backend no new clients; let the known ones stay for a while.
    DrainBackend {
        /// Address of the backend to drain.
        address: BackendAddress,
        /// Service name; `None` for the only service.
        service: Option<String>,
        /// For how long; the agent's default if not given.
        timeout: Option<Duration>,
        /// Treatment of connections that are still open at the end of the drain.
        at_end: AtEnd,
        /// Its clients move at once, not at the end.
        now: bool,
    },
    /// Refuse clients of a prefix.
    Ban(BanRequest),
    /// Lift a ban.
    Unban {
        /// The banned prefix, exactly.
        prefix: Cidr,
        /// Service of the ban; `None` for a ban of all services.
        service: Option<String>,
    },
    /// Report the bans.
    Bans,
    /// Read the configuration file again and apply it.
    Reload {
        /// Refuse if a greater part than this of a service's clients or connections would move.
        max_moved: Option<Part>,
        /// Forget what was changed at run time in services of the file.
        forget_runtime: bool,
    },
    /// Report the changes that a configuration would make, without making them.
    Plan {
        /// Which; the agent's own file, read again, if not given.
        config: Option<Submitted>,
        /// As if what was changed at run time in its services were forgotten.
        forget_runtime: bool,
    },
    /// Report the size of the response cache, what it did, and stored responses.
    Cache {
        /// Responses whose URL begins so.
        prefix: String,
        /// Most of them, those with the most hits first.
        most: u32,
    },
    /// Remove stored responses.
    PurgeCache {
        /// Which.
        what: Purge,
    },
    /// Stop the agent process.
    Stop {
        /// Also take everything out of the kernel.
        purge: bool,
    },
}

/// A ban that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanRequest {
    /// The clients.
    pub prefix: Cidr,
    /// Service name; `None` for all services.
    pub service: Option<String>,
    /// For how long; `None` for ever.
    pub length: Option<Duration>,
    /// Why, for `bans`.
    pub reason: Option<String>,
    /// Also loopback, this host's own addresses, and everything.
    pub force: bool,
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
    /// Full text of the configuration file.
    pub text: String,
    /// Origin of the text, such as a path, for messages.
    pub source: String,
}

impl std::fmt::Debug for Submitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

impl Command {
    /// Name of the command on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Stats => "stats",
            Self::Lookup { .. } => "lookup",
            Self::AddBackend { .. } => "add-backend",
            Self::RemoveBackend { .. } => "remove-backend",
            Self::ResetBackend { .. } => "reset-backend",
            Self::DrainBackend { .. } => "drain-backend",
            Self::Ban(_) => "ban",
            Self::Unban { .. } => "unban",
            Self::Bans => "bans",
            Self::Reload { .. } => "reload",
            Self::Plan { .. } => "plan",
            Self::Cache { .. } => "cache",
            Self::PurgeCache { .. } => "purge",
            Self::Stop { .. } => "stop",
        }
    }

    /// The backend that the command is about, and the service that it names.
    pub fn subject(&self) -> (Option<&BackendAddress>, Option<&str>) {
        match self {
            Self::AddBackend {
                address, service, ..
            }
            | Self::RemoveBackend { address, service }
            | Self::ResetBackend { address, service }
            | Self::DrainBackend {
                address, service, ..
            } => (Some(address), service.as_deref()),
            Self::Lookup { service, .. } | Self::Unban { service, .. } => {
                (None, service.as_deref())
            }
            Self::Ban(ban) => (None, ban.service.as_deref()),
            Self::Bans
            | Self::Status
            | Self::Stats
            | Self::Reload { .. }
            | Self::Plan { .. }
            | Self::Cache { .. }
            | Self::PurgeCache { .. }
            | Self::Stop { .. } => (None, None),
        }
    }

    /// Whether the command changes anything. Only some users may send such a command.
    pub fn changes(&self) -> bool {
        !matches!(
            self,
            Self::Status
                | Self::Stats
                | Self::Lookup { .. }
                | Self::Plan { .. }
                | Self::Bans
                | Self::Cache { .. }
        )
    }
}

/// An answer of the agent to a command that succeeded.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// A change is in force.
    Changed {
        /// Summary of the change, one line.
        message: String,
    },
    /// Nothing had to be changed.
    Unchanged {
        /// The state in force, one line.
        message: String,
    },
    /// Answer to a [`Command::Stop`] request.
    Stopping(Stopping),
    /// Answer to a [`Command::Status`] request.
    Status(Status),
    /// Answer to a [`Command::Lookup`] request.
    Lookup(Lookup),
    /// Answer to a [`Command::Bans`] request.
    Bans(Bans),
    /// Answer to a [`Command::Cache`] request.
    Cache(CacheReport),
    /// Answer to a [`Command::Plan`] request.
    Plan(Preview),
    /// Answer to a [`Command::Stats`] request.
    Stats(Box<Stats>),
}

/// The end of the agent, which comes after this answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// Summary of the end, one line.
    pub message: String,
    /// A sentence for each service: whether it goes on, and what is waited for.
    #[serde(default)]
    pub services: Vec<String>,
    /// Longest time that the agent waits for open connections, in seconds.
    #[serde(default)]
    pub wait_seconds: u64,
}

/// The bans in force, in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bans {
    /// One for each.
    pub bans: Vec<BanStatus>,
}

/// A ban in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanStatus {
    /// The clients.
    pub prefix: Cidr,
    /// Name of the service; `None` for all services.
    pub service: Option<String>,
    /// Time until its end, in seconds; `None` for a ban without end.
    pub left_seconds: Option<u64>,
    /// Why, as the command was told.
    pub reason: Option<String>,
}

/// The reason for which the agent refused a command. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Kind of the reason.
    pub kind: RefusalKind,
    /// The attempted action and the cause of the failure.
    pub error: String,
    /// Suggested remedy.
    pub hint: Option<String>,
}

/// Kinds of reasons in a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The command, or the configuration it named, makes no sense.
    BadRequest,
    /// It is about something that does not exist.
    NotFound,
    /// The command contradicts the state in force.
    Conflict,
    /// It could not be carried out.
    Failed,
}

/// A refusal as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalDocument {
    /// Same text as [`Refusal::error`].
    pub error: String,
    /// Same text as [`Refusal::hint`].
    #[serde(default)]
    pub hint: Option<String>,
}

/// The backend that a client or a request would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// Client address, without a port.
    pub client: IpAddr,
    /// Name of the service asked about.
    pub service: String,
    /// The property that keeps a client of the service with its backend.
    pub stickiness: StickinessStatus,
    /// `address`, `header`, `query`, `cookie` or `session`; `None` if nothing decides, and the request goes to one of
    /// `candidates`.
    pub decided_by: Option<String>,
    /// Selected backend; `None` when no backend could take the client, when its session is over, and when nothing
    /// decides.
    pub backend: Option<BackendAddress>,
    /// `affinity`, `slot` or `next`; `None` like `backend`.
    pub reason: Option<String>,
    /// The part of the address that counts, if the address decides.
    pub prefix: Option<String>,
    /// Index of the slot in that table, if address, header or query decide.
    pub slot: Option<u32>,
    /// All backends in the order in which they would be tried, affinity aside; empty without a slot.
    pub order: Vec<BackendAddress>,
    /// Affinity entry of the client, if there is one.
    pub affinity: Option<AffinityFound>,
    /// The backends that get new sessions in turn, by weight: where nothing decides, and with Socket.IO beside the
    /// address, which then decides about other requests.
    pub candidates: Vec<BackendAddress>,
}

/// The affinity entry of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffinityFound {
    /// Backend that served the client last.
    pub backend: BackendAddress,
    /// Age of the entry, in seconds.
    pub age_seconds: u64,
    /// For how long that is remembered yet.
    pub expires_in_seconds: u64,
}
