//! The desired state: services and backends as the agent wants them in force.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path as FilePath;
use std::sync::Arc;

use super::overlay::{AtEnd, Ban};
use super::route::{ByPackets, Route};
use crate::network::survey::Way;
use lb_common::table::HeadSettings;
use lb_config::health::Health;
use lb_config::http::{Cidr, HttpService, ProxyVersion};
use lb_config::value::BadValue;
use lb_config::{BackendAddress, Mode};

/// The desired state of all services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// The services in the order of the configuration.
    pub services: Vec<Service>,
    /// The bans in force.
    pub bans: Vec<Ban>,
    /// The host's own addresses; empty if no packet path is in use.
    pub own: Vec<IpAddr>,
}

/// The desired state of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Name of the service in the configuration.
    pub name: String,
    /// Former names, the latest first.
    pub was: Vec<String>,
    /// The name that its clients are hashed by, which is the service's first one.
    pub hash_name: String,
    /// Addresses on which the service listens.
    pub listen: Vec<SocketAddr>,
    /// The kind of traffic that the service balances.
    pub mode: Mode,
    /// Transport protocol, one of [`abi::protocol`].
    pub protocol: u8,
    /// The PROXY header that connections to its backends begin with.
    pub send_proxy_protocol: Option<ProxyVersion>,
    /// Clients that may come in, and those that may not, by the configuration.
    pub allow: Vec<Cidr>,
    /// See `allow`.
    pub deny: Vec<Cidr>,
    /// Most open connections of one client.
    pub client_connections: Option<u32>,
    /// Limit on the clients of the service that go through the agent.
    pub max_connections: Option<u32>,
    /// Settings of the service's table.
    pub settings: HeadSettings,
    /// Health check of the backends. A passive check covers only backends with
    /// [`Backend::elsewhere`].
    pub health: Option<Arc<Health>>,
    /// Settings of the L7 path, if the service uses it.
    pub http: Option<Arc<HttpService>>,
    /// Backends of the service, including those added at run time.
    pub backends: Vec<Backend>,
}

/// The desired state of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address or unix socket of the application.
    pub address: BackendAddress,
    /// Weight as configured or as given at run time.
    pub weight: u16,
    /// Weight in the table. It differs from `weight` during a slow start.
    pub table_weight: u16,
    /// State of the backend, one of [`abi::state`].
    pub state: u8,
    /// Whether the health verdict lets the backend serve.
    pub fit: bool,
    /// The path that connections take to the backend.
    pub route: Route,
    /// The way by which packets reach the backend, on the packet paths.
    pub packets: Option<ByPackets>,
    /// The origin of the backend.
    pub source: Source,
    /// The drain of the backend, if there is one.
    pub drain: Option<Drain>,
    /// The backend is not on this host, so the agent gets no notice of the end of its application.
    pub elsewhere: bool,
    /// Set if connections to the backend would come back to the agent. Such a backend gets no
    /// connections.
    pub comes_back: Option<BadValue>,
}

/// The drain of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The end of the drain, milliseconds since 1970 (UTC).
    pub until_unix_ms: u64,
    /// Whether the end of the drain has passed.
    pub over: bool,
    /// The treatment of the clients and connections that remain at the end.
    pub at_end: AtEnd,
}

/// The origin of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The backend is in the configuration file.
    File,
    /// The backend was added by the command `add-backend`.
    Runtime,
}

impl Desired {
    /// The backends of all services.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.services.iter().flat_map(|service| &service.backends)
    }

    /// The routes by which packets leave for backends.
    pub fn ways(&self) -> impl Iterator<Item = &Way> {
        self.backends()
            .filter_map(|backend| Some(&backend.packets.as_ref()?.way))
    }

    /// The unix sockets among the backends, by their placeholder address in the tables.
    pub fn unix_sockets(&self) -> HashMap<SocketAddr, Arc<FilePath>> {
        self.backends()
            .filter_map(|backend| Some((backend.address.key(), backend.address.unix()?.clone())))
            .collect()
    }

    /// The service called `name`; `None` if there is none.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }
}

impl Service {
    /// The backend of the service at `address`; `None` if there is none.
    pub fn backend(&self, address: &BackendAddress) -> Option<&Backend> {
        self.backends
            .iter()
            .find(|backend| backend.address == *address)
    }
}
