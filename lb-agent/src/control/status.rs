//! What `status` tells, and its JSON.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::network::status::PacketStatus;
use lb_config::BackendAddress;

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
