//! What should be.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path as FilePath;
use std::sync::Arc;

use super::overlay::AtEnd;
use super::route::{ByPackets, Route};
use super::table::HeadSettings;
use crate::network::survey::Way;
use lb_config::health::Health;
use lb_config::http::{HttpService, ProxyVersion};
use lb_config::value::BadValue;
use lb_config::{BackendAddress, Mode};

/// All services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// In the order of the configuration.
    pub services: Vec<Service>,
    /// The host's own addresses, where a packet path is in use.
    pub own: Vec<IpAddr>,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Former names, the latest first.
    pub was: Vec<String>,
    /// The name that its clients are hashed by: the first one that it had.
    pub hash_name: String,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// What it balances.
    pub mode: Mode,
    /// One of [`abi::protocol`].
    pub protocol: u8,
    /// The PROXY header that connections to its backends begin with.
    pub send_proxy_protocol: Option<ProxyVersion>,
    /// How many clients it may have that go through the agent.
    pub max_connections: Option<u32>,
    /// Settings of its table.
    pub settings: HeadSettings,
    /// How its backends are checked; those of a passive check only if they are [`Backend::elsewhere`].
    pub health: Option<Arc<Health>>,
    /// What the L7 path has to know, for a service that it serves.
    pub http: Option<Arc<HttpService>>,
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where the application is.
    pub address: BackendAddress,
    /// Its weight.
    pub weight: u16,
    /// Its weight in the table, where a slow start makes it another one.
    pub table_weight: u16,
    /// One of [`abi::state`].
    pub state: u8,
    /// Whether its health lets it serve.
    pub fit: bool,
    /// How its connections get there.
    pub route: Route,
    /// How packets get there, on the packet paths.
    pub packets: Option<ByPackets>,
    /// Where it comes from.
    pub source: Source,
    /// Its drain, if it has been told to.
    pub drain: Option<Drain>,
    /// Not on this host, so that nobody is told of its end.
    pub elsewhere: bool,
    /// Why it gets nobody: its connections would come back to the agent.
    pub comes_back: Option<BadValue>,
}

/// The drain of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When its time is over, milliseconds since 1970 (UTC).
    pub until_unix_ms: u64,
    /// Its time is over.
    pub over: bool,
    /// What becomes of what it still has then.
    pub at_end: AtEnd,
}

/// Where a backend comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The configuration.
    File,
    /// `add-backend`.
    Runtime,
}

impl Desired {
    /// The backends of all services.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.services.iter().flat_map(|service| &service.backends)
    }

    /// The ways by which packets leave for backends.
    pub fn ways(&self) -> impl Iterator<Item = &Way> {
        self.backends()
            .filter_map(|backend| Some(&backend.packets.as_ref()?.way))
    }

    /// The unix sockets among the backends, by what stands for each in the tables.
    pub fn unix_sockets(&self) -> HashMap<SocketAddr, Arc<FilePath>> {
        self.backends()
            .filter_map(|backend| Some((backend.address.key(), backend.address.unix()?.clone())))
            .collect()
    }

    /// The service called `name`.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }
}

impl Service {
    /// The backend at `address`.
    pub fn backend(&self, address: &BackendAddress) -> Option<&Backend> {
        self.backends
            .iter()
            .find(|backend| backend.address == *address)
    }
}
