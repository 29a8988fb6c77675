//! The configuration file, from text to checked values.
//!
//! | file | owns |
//! | --- | --- |
//! | `error` | problems, each with its line and key path; all of them are reported at once |
//! | `foreign` | words of nginx, HAProxy and Caddy, for messages |
//! | `hints` | remedies for unknown keys |
//! | `choice` | values among some that have names |
//! | `reader` | walking the parsed TOML with typed fields and known keys |
//! | `schema` | how sections are declared; reading, writing, the reference and the JSON schema follow from that |
//! | `show` | a configuration as it could be written |
//! | `address` | the address of a backend |
//! | `value` | the rules for one value: an address, a weight, a duration, a name |
//! | `raw`, `agent`, `lists` | the sections `[agent]` and `[[service]]`, and backends |
//! | [`health`] | the section `[service.health]` |
//! | [`loops`] | backends with connections that come back to the agent |
//! | [`http`] | everything for `mode = "http"` |
//! | `metrics` | the address that serves metrics |
//! | `otlp` | the collector of spans |
//! | `packet` | everything for the paths `nat` and `dsr` |
//! | `validate` | rules between values: duplicates, clashes, limits |
//! | `memory` | the memory that the machine and cgroups leave to the agent |
//! | `warnings` | settings that are allowed and still likely to surprise |
//!
//! Nothing here looks at the machine beyond its memory and the one file: the same text gives the same result on
//! every machine that has enough of it.

#![forbid(unsafe_code)]

mod address;
mod agent;
mod choice;
mod error;
mod foreign;
pub mod health;
mod hints;
pub mod http;
mod lists;
pub mod loops;
mod memory;
mod metrics;
mod otlp;
mod packet;
mod raw;
mod reader;
mod schema;
mod show;
mod validate;
pub mod value;
mod warnings;

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use address::BackendAddress;
pub use agent::{AgentConfig, DataPlane};
pub use error::{ConfigError, Line, Problem};
pub use metrics::MetricsAddress;
pub use otlp::OtlpUrl;
pub use packet::{
    Attach, Encapsulation, FlowTimeouts, InterfaceConfig, PacketConfig, Prefix, ServicePaths,
};
pub use schema::{Reference, Show};
pub use show::show;
pub use validate::{check_backend, check_path};
pub use warnings::warnings;

use choice::choice;
use schema::kinds::{time, whole};
use schema::section;

/// The file that is read if none is named.
pub const DEFAULT_FILE: &str = "/etc/lb-agent/config.toml";
/// The control socket if none is named.
pub const DEFAULT_CONTROL: &str = "/run/lb-agent/control.sock";
/// Longest configuration that is read, in bytes: several times the size that the limits on services
/// and backends allow.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// A whole, checked configuration. Its values agree with each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Settings of the agent itself.
    pub agent: AgentConfig,
    /// The services in the order of the file; at least one.
    pub services: Vec<Service>,
    /// Whether the services are the built-in ones, as there is no file or the file has none.
    pub is_built_in: bool,
    /// The file it was read from; `None` for the built-in default.
    pub source: Option<PathBuf>,
}

choice! {
    /// What a service balances.
    #[derive(Hash)]
    pub enum Mode {
        /// TCP connections.
        Tcp = "tcp",
        /// UDP flows.
        Udp = "udp",
        /// HTTP requests, over TCP.
        Http = "http",
    }
}

choice! {
    /// How connections reach a backend.
    pub enum Path {
        /// The path that fits best.
        Auto = "auto",
        /// By the backend's listening socket on this host, to which the kernel hands them.
        Socket = "socket",
        /// By rewriting packets there and back.
        Nat = "nat",
        /// By sending packets on as they are. The backend answers its clients itself.
        Dsr = "dsr",
        /// Through the agent.
        Proxy = "proxy",
    }
}

section! {
    Reload, "0.1";
    /// How clients are recognised, and for how long they are remembered.
    pub struct Affinity {
        /// Time from a client's last new connection until it is forgotten, `"0s"` or at least `"1s"`. With `"0s"` no
        /// client is remembered, and the hash of its address decides.
        pub timeout: Duration = Duration::from_secs(3 * 3600), time("\"3h\"", raw::affinity_timeout);
        /// Bits of an IPv4 address that make a client.
        pub ipv4_prefix: u8 = 32, whole(0..=32, "bits");
        /// Bits of an IPv6 address that make a client.
        pub ipv6_prefix: u8 = 64, whole(0..=128, "bits");
    }
}

/// A service, or the backends of a route inside one.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The name, which is unique.
    pub name: String,
    /// Former names, the latest first.
    pub was: Vec<String>,
    /// Addresses that it listens on, HTTPS included; none of them IPv4-mapped.
    pub listen: Vec<SocketAddr>,
    /// The protocol that it balances.
    pub mode: Mode,
    /// The stickiness of its clients.
    pub affinity: Affinity,
    /// Clients that may come in, by address.
    pub allow: Vec<http::Cidr>,
    /// Clients that may not.
    pub deny: Vec<http::Cidr>,
    /// Most open connections of one client, refused at the SYN; none for UDP and on the `dsr` path.
    pub client_connections: Option<u32>,
    /// Greatest load of a backend in thousandths of its fair share, at least 1000.
    pub max_load_permille: Option<u32>,
    /// Most connections of clients that go through the agent; for UDP most flows.
    pub max_connections: Option<u32>,
    /// The health check of its backends, if there is one.
    pub health: Option<health::Health>,
    /// The paths that its backends may be reached by.
    pub paths: ServicePaths,
    /// The backends; there may be none yet.
    pub backends: Vec<Backend>,
    /// The PROXY header that connections to its backends begin with, for TCP.
    pub send_proxy_protocol: Option<http::ProxyVersion>,
    /// The settings of HTTP, for [`Mode::Http`]. `None` also for the services inside one: these
    /// hold the backends of its routes and have no listen addresses themselves.
    pub http: Option<Arc<http::HttpService>>,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// The address of the application.
    pub address: BackendAddress,
    /// The weight, at least 1.
    pub weight: u16,
    /// The path of its connections.
    pub path: Path,
}

impl Service {
    /// Whether it holds the backends of a route of another service.
    pub fn is_inside(&self) -> bool {
        self.name.contains('/')
    }
}

/// The usual number of remembered clients on a machine with so much memory: one for every 64 KiB.
/// Each takes some 110 bytes, and the map of all of them is made when the agent starts.
fn clients_for(memory_bytes: u64) -> u32 {
    const FEWEST: u64 = 8_192;
    const MOST: u64 = 65_536;
    // At most 65,536.
    (memory_bytes / 65_536).clamp(FEWEST, MOST) as u32
}

/// The text that reads as [`Config::default`].
pub(crate) const BUILT_IN: &str = "[agent]\n";

/// The configuration in force without a file: one service `web` on port 80, with no backend yet.
impl Default for Config {
    fn default() -> Self {
        let web = Service {
            name: "web".to_owned(),
            was: Vec::new(),
            listen: vec![
                (Ipv4Addr::UNSPECIFIED, 80).into(),
                (Ipv6Addr::UNSPECIFIED, 80).into(),
            ],
            mode: Mode::Tcp,
            affinity: Affinity::default(),
            max_load_permille: None,
            allow: Vec::new(),
            deny: Vec::new(),
            client_connections: None,
            max_connections: None,
            health: None,
            paths: ServicePaths::default(),
            backends: Vec::new(),
            send_proxy_protocol: None,
            http: None,
        };
        Self {
            agent: AgentConfig::default(),
            services: vec![web],
            is_built_in: true,
            source: None,
        }
    }
}

/// The result of reading a configuration for inspection.
pub struct Inspected {
    /// The part of the configuration that could be read. If there is an error, it serves only to
    /// find more problems.
    pub config: Option<Config>,
    /// The problems of the text.
    pub error: Option<ConfigError>,
}

impl Inspected {
    fn failed(error: ConfigError) -> Self {
        Self {
            config: None,
            error: Some(error),
        }
    }

    fn sound(self) -> Result<Config, ConfigError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.config.unwrap_or_default()),
        }
    }
}

/// Reads and checks the file at `path`; without one, [`DEFAULT_FILE`], or [`Config::default`] when
/// there is no such file.
pub fn load(path: Option<&FilePath>) -> Result<Config, ConfigError> {
    inspect(path).sound()
}

/// The same with every problem, also of the files that the configuration names.
pub fn inspect(path: Option<&FilePath>) -> Inspected {
    inspect_or_default(path, FilePath::new(DEFAULT_FILE))
}

fn inspect_or_default(path: Option<&FilePath>, usual: &FilePath) -> Inspected {
    let source = path.unwrap_or(usual);
    match text(source) {
        Ok(Some(text)) => inspect_text(&text, source),
        Ok(None) if path.is_none() => Inspected {
            config: Some(Config::default()),
            error: None,
        },
        Ok(None) => {
            let error = std::io::ErrorKind::NotFound.into();
            Inspected::failed(ConfigError::unreadable(source, &error))
        }
        Err(error) => Inspected::failed(error),
    }
}

/// The content of the file `source`; `None` if there is no such file.
fn text(source: &FilePath) -> Result<Option<String>, ConfigError> {
    let unreadable = |error| ConfigError::unreadable(source, &error);
    let file = match File::open(source) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long from one that just fits.
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::too_long(source));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        ConfigError::not_utf8(source, &error.as_bytes()[..good])
    })
}

/// The JSON schema of configurations (draft 7), for editors.
pub fn json_schema() -> String {
    schema::json_schema::<raw::Raw>()
}

/// Every table of the configuration with its keys, once, each before those inside it.
pub fn reference() -> Vec<Reference> {
    schema::reference::<raw::Raw>()
}

/// Checks `text`, which came from `source`.
pub fn parse(text: &str, source: &FilePath) -> Result<Config, ConfigError> {
    inspect_text(text, source).sound()
}

fn inspect_text(text: &str, source: &FilePath) -> Inspected {
    let mut problems = error::Problems::new(text, hints::of_key);
    let config = reader::document(text, &mut problems)
        .map(|document| raw::read(&document, &mut problems))
        .map(|raw| validate::checked(raw, &mut problems))
        .map(|config| Config {
            source: Some(source.to_owned()),
            ..config
        });
    let is_sound = problems.is_empty() && config.is_some();
    Inspected {
        config,
        error: (!is_sound).then(|| problems.into_error(source)),
    }
}

#[cfg(test)]
pub(crate) mod tests;
