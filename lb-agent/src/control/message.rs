//! What can be asked of the agent, what it answers, and the JSON of both.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::stats::Stats;
use crate::config::BackendAddress;
use crate::network::status::PacketStatus;
use crate::state::overlay::AtEnd;
pub use crate::state::preview::Preview;

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

/// Everything there is to tell of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent itself.
    pub agent: AgentStatus,
    /// In the order of the configuration.
    pub services: Vec<ServiceStatus>,
}

/// The agent itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since its start.
    pub uptime_seconds: u64,
    /// `bpf` or `userspace`.
    pub data_plane: String,
    /// Some listen address cannot be opened; the notes say which, and why.
    #[serde(default)]
    pub degraded: bool,
    /// What its operator should know, a sentence each.
    pub notes: Vec<String>,
    /// Its configuration file; `None` for the built-in default.
    pub config: Option<String>,
    /// The packet paths, where they are in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<PacketStatus>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// `tcp`, `udp` or `http`.
    pub mode: String,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Stickiness.
    pub affinity: AffinityStatus,
    /// Greatest load of a backend as a multiple of its fair share.
    pub max_load: Option<f64>,
    /// Why connections went where they went, since the tables were made.
    pub counters: CounterStatus,
    /// In the order of the configuration, then of their addition.
    pub backends: Vec<BackendStatus>,
}

/// Stickiness of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffinityStatus {
    /// How long a client is remembered; 0 for not at all.
    pub timeout_seconds: u64,
    /// Bits of an IPv4 address that count.
    pub ipv4_prefix: u8,
    /// Bits of an IPv6 address that count.
    pub ipv6_prefix: u8,
}

/// Connections of a service by the reason for their backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStatus {
    /// The client was there before.
    pub affinity: u64,
    /// It owns the client's slot.
    pub slot: u64,
    /// The owner of the slot was away or overloaded.
    pub next: u64,
    /// No backend could take it.
    pub refused: u64,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Where the application is.
    pub address: BackendAddress,
    /// `up`, `draining` or `down`.
    pub state: String,
    /// Whether something listens there; `None` where the agent cannot tell.
    pub listening: Option<bool>,
    /// `socket`, `nat`, `dsr` or `proxy`.
    pub path: String,
    /// Where it is, on the packet paths: `local`, `container` or `remote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Why that path, in a few words.
    pub why: String,
    /// Its weight.
    pub weight: u16,
    /// Fraction of the new clients that it gets, 0 to 1.
    pub share: f64,
    /// `file` or `runtime`.
    pub source: String,
    /// Open connections.
    pub active: u64,
    /// Connections so far.
    pub connections: u64,
    /// Until a drain ends.
    pub drain_seconds_left: Option<u64>,
    /// Which clients it gets: `all`, `known` or `none`.
    pub clients: String,
    /// Why it is down, if it is: `drained`, `unhealthy`, or `loop` where its connections would come
    /// back to the agent.
    pub down_because: Option<String>,
    /// What the checks of its health say; `None` where there are none.
    pub health: Option<HealthStatus>,
}

/// What the checks of a backend's health say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// `unknown` until the first probe, then `up` or `down`.
    pub state: String,
    /// For how long.
    pub since_seconds: u64,
    /// Outcomes in a row that contradict the state.
    pub against: u32,
    /// What is asked of it, as in `http GET /healthz`.
    pub check: String,
    /// What was wrong the last time that something was.
    pub last_error: Option<String>,
    /// How long ago.
    pub last_error_seconds_ago: Option<u64>,
    /// How long the last good probe took.
    pub took_ms: Option<f64>,
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
