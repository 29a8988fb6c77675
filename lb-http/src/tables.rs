//! The engine's interface to the process around it.

use std::io;

use lb_common::abi::{Backend, BackendId, ServiceId, ServiceKey, ServiceTable};
use lb_config::BackendAddress;

/// The services in force with their backends, as one state that does not change.
pub trait ServiceTables: Send + Sync {
    /// The service called `name`.
    fn service(&self, name: &str) -> Option<ServiceId>;
    /// The name of a service.
    fn name(&self, service: ServiceId) -> Option<&str>;
    /// The first name of a service, if it was renamed: its clients and cookies are hashed by it.
    fn hash_name(&self, service: ServiceId) -> Option<&str>;
    /// The service that listens on an address, as such or on the wildcard of its family. With it comes the
    /// number of clients that it may have through the agent.
    fn limit(&self, key: &ServiceKey) -> Option<(ServiceId, Option<u32>)>;
    /// The table that a service's clients are spread by.
    fn table(&self, service: ServiceId) -> Option<&ServiceTable>;
    /// The entry at the index of `id`, which may be that of a later or a removed backend.
    fn entry(&self, id: BackendId) -> Option<&Backend>;
    /// The backends of a service that have not been removed.
    fn backends_of(&self, service: ServiceId) -> Vec<&Backend>;
    /// The address of a backend's application.
    fn address(&self, backend: &Backend) -> BackendAddress;
}

/// Hears of backends that could not be used.
pub trait PassiveHealth: Send + Sync {
    /// The backend at `address` of `service` could not be used; `error` says how that showed.
    fn failed(&self, service: &str, address: &BackendAddress, error: &str);
}

/// The role of a thread of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves clients. It does not begin if it cannot be confined.
    Worker,
    /// Writes access logs.
    AccessLog,
    /// Reads certificates with their keys, and files of users, which are for their owners alone.
    Certificates,
    /// Computes hashes of passwords.
    Passwords,
    /// Exports spans.
    Traces,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::AccessLog => "access log",
            Self::Certificates => "certificates",
            Self::Passwords => "passwords",
            Self::Traces => "traces",
        }
    }
}

/// Takes from the calling thread, which begins, the privileges that its role does not need.
pub type Confine = fn(Role) -> io::Result<()>;

/// Confines a thread that does its work in any case: a failure is logged.
pub(super) fn confine_or_warn(confine: Confine, role: Role) {
    if let Err(error) = confine(role) {
        let role = role.name();
        tracing::warn!(%error, role, "a thread keeps capabilities that it does not need");
    }
}
