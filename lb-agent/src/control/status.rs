//! The answer to `status`, and its JSON.

pub mod guards;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::network::status::PacketStatus;
use guards::{CacheSize, GuardStatus};
use lb_config::BackendAddress;

/// Everything there is to tell of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// State of the agent process.
    pub agent: AgentStatus,
    /// In the order of the configuration.
    pub services: Vec<ServiceStatus>,
}

/// State of the agent process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Version of the agent's program.
    pub version: String,
    /// Process ID of the agent.
    pub pid: u32,
    /// Time since the start, in seconds.
    pub uptime_seconds: u64,
    /// Data plane in use: `bpf` or `userspace`.
    pub data_plane: String,
    /// Some listen address cannot be opened; the notes say which, and why.
    #[serde(default)]
    pub degraded: bool,
    /// Notes for the operator, one sentence each.
    pub notes: Vec<String>,
    /// Its configuration file; `None` for the built-in default.
    pub config: Option<String>,
    /// The response cache, if a service has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheSize>,
    /// The packet paths, if any are in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<PacketStatus>,
}

/// State of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name of the service.
    pub name: String,
    /// Mode of the service: `tcp`, `udp` or `http`.
    pub mode: String,
    /// Listen addresses of the service.
    pub listen: Vec<SocketAddr>,
    /// HTTPS, if the service has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,
    /// Hosts and paths that have a route of their own, in the order of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteStatus>,
    /// The property of a request or a connection that keeps a client with its backend.
    #[serde(default)]
    pub stickiness: StickinessStatus,
    /// Memory of the clients by their addresses.
    pub affinity: AffinityStatus,
    /// Greatest load of a backend as a multiple of its fair share.
    pub max_load: Option<f64>,
    /// The treatment of clients while no backend is healthy, `serve` or `refuse`; `None` at other times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_down: Option<String>,
    /// Reasons for the choice of backends, counted since the tables were created.
    pub counters: CounterStatus,
    /// Cache, limits, lists, bans and passwords.
    #[serde(flatten)]
    pub guards: GuardStatus,
    /// In the order of the configuration, then of their addition.
    pub backends: Vec<BackendStatus>,
}

/// HTTPS of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsStatus {
    /// Listen addresses for HTTPS, which `listen` of the service has too.
    pub listen: Vec<SocketAddr>,
    /// Certificates in force, in the order of the configuration; none if one of them cannot be used.
    pub certificates: Vec<CertificateStatus>,
    /// Verification of the certificates of clients; `None` if they are not asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<ClientCertificatesStatus>,
}

/// Verification of the certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificatesStatus {
    /// `require` or `optional`.
    pub policy: String,
    /// Server names whose clients are asked; empty for all.
    pub hosts: Vec<String>,
    /// File of the authorities.
    pub authorities: String,
    /// Revocation lists in force.
    pub revocation_lists: Vec<RevocationListStatus>,
    /// Why newer files are not in force, or why clients are refused.
    pub problems: Vec<String>,
}

/// A revocation list in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationListStatus {
    /// File that it was read from.
    pub file: String,
    /// Until when it is good, seconds since 1970; `None` if it does not say.
    pub next_update_unix_seconds: Option<u64>,
}

/// A certificate in force, or one whose files do not exist yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// File that it was read from.
    pub file: String,
    /// Host names that it is for.
    pub names: Vec<String>,
    /// When it ends, seconds since 1970; `None` as long as the files do not exist.
    pub not_after_unix_seconds: Option<u64>,
    /// Why newer files are not in force, or that it is out of its time.
    pub problem: Option<String>,
}

/// A route of an HTTP service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// Hosts of the requests; empty for all hosts.
    pub hosts: Vec<String>,
    /// Beginning of the paths of the requests, as `/api`; `/` for every path.
    pub path: String,
    /// Target of the requests: `backends of NAME`, `redirect to URL`, `answer STATUS` or `files of DIRECTORY`.
    pub to: String,
}

/// The property that keeps a client with its backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickinessStatus {
    /// `address`, `socketio`, `cookie`, `header` or `query`.
    pub by: String,
    /// Name of the cookie, header or key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Default for StickinessStatus {
    fn default() -> Self {
        Self {
            by: "address".to_owned(),
            name: None,
        }
    }
}

/// Memory of the clients of a service.
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
    /// A ban or the lists of the service refused the client.
    #[serde(default)]
    pub denied: u64,
    /// The client had `client_connections` open.
    #[serde(default)]
    pub capped: u64,
}

/// State of one backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Address of the application.
    pub address: BackendAddress,
    /// Backend state: `up`, `no listener`, `draining`, `drained` or `down`.
    pub state: String,
    /// Whether a socket listens on the address; `None` if the agent cannot tell.
    pub listening: Option<bool>,
    /// Processes of the application, if it is on this host; only in the answer to `status`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessStatus>,
    /// Address family of clients that reach the application through the agent, as its socket does not take them:
    /// `IPv4` or `IPv6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through_the_agent: Option<String>,
    /// `socket`, `nat`, `dsr` or `proxy`.
    pub path: String,
    /// Location of the backend on the packet paths: `local`, `container` or `remote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Why that path, in a few words.
    pub why: String,
    /// Weight of the backend.
    pub weight: u16,
    /// Fraction of the new clients that it gets, 0 to 1.
    pub share: f64,
    /// Origin of the backend: `file` or `runtime`.
    pub source: String,
    /// Number of open connections.
    pub active: u64,
    /// Number of open WebSockets and other tunnels; `None` if the mode is not `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websockets: Option<u64>,
    /// Number of connections so far.
    pub connections: u64,
    /// Time until the drain ends, in seconds.
    pub drain_seconds_left: Option<u64>,
    /// Which clients it gets: `all`, `known` or `none`.
    pub clients: String,
    /// Reason for the states `drained` (`drained`) and `down`: `unhealthy`, or `loop` if its connections would
    /// come back to the agent.
    pub down_because: Option<String>,
    /// Results of the health checks; `None` without health checks.
    pub health: Option<HealthStatus>,
}

impl BackendStatus {
    /// The part of the new clients in per cent; "-" for a backend that gets nobody at all.
    pub fn share_text(&self) -> String {
        match self.state.as_str() {
            "no listener" | "drained" | "down" => "-".to_owned(),
            _ => format!("{:.1}%", self.share * 100.0),
        }
    }
}

/// A process that has the socket of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Process ID.
    pub pid: u32,
    /// Name of the program.
    pub program: String,
}

/// Results of a backend's health checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// `unknown` until the first probe, then `up` or `down`.
    pub state: String,
    /// Time in this state, in seconds.
    pub since_seconds: u64,
    /// Outcomes in a row that contradict the state.
    pub against: u32,
    /// Description of the check, as in `http GET /healthz`.
    pub check: String,
    /// Error of the latest probe that failed.
    pub last_error: Option<String>,
    /// Age of that error, in seconds.
    pub last_error_seconds_ago: Option<u64>,
    /// How long the last good probe took.
    pub took_ms: Option<f64>,
}
