//! `mode = "http"`: the engine of `lb_http` over the tables of the agent.

use std::io;
use std::sync::Arc;

use caps::Capability;
use lb_common::abi::{Backend, BackendId, ServiceId, ServiceKey, ServiceTable};
use lb_config::BackendAddress;
use lb_config::http::HttpService;
use lb_http::{Engine, PassiveHealth, RequestCounts, Role, ServiceTables};
use lb_net::Clients;
use lb_net::admission::Admission;
use lb_net::handover::FdStore;

use crate::dataplane::BackendCounts;
use crate::health::FailureReports;
use crate::privilege;
use crate::state::desired::Desired;
use crate::state::observed::Observed;

/// The engine, whose threads keep no privilege that they do not need. See [`Engine::new`].
pub fn engine(
    clients: Arc<dyn Clients>,
    steers: bool,
    workers: usize,
    kept: FdStore,
    admission: Admission,
) -> Engine {
    Engine::new(clients, steers, workers, kept, admission, confine)
}

/// Puts services and tables in force.
pub fn publish(engine: &mut Engine, desired: &Desired, observed: &Arc<Observed>) {
    let services = desired.services.iter();
    let services: Vec<Arc<HttpService>> = services.filter_map(|it| it.http.clone()).collect();
    engine.publish(&services, Arc::<Observed>::clone(observed));
}

fn confine(role: Role) -> io::Result<()> {
    let wanted: &[Capability] = match role {
        Role::Worker | Role::AccessLog | Role::Passwords | Role::Traces => &[],
        Role::Certificates => &[Capability::CAP_DAC_READ_SEARCH],
    };
    privilege::keep(wanted).map_err(io::Error::other)
}

impl ServiceTables for Observed {
    fn service(&self, name: &str) -> Option<ServiceId> {
        self.service(name)
    }

    fn name(&self, service: ServiceId) -> Option<&str> {
        self.names.get(&service).map(String::as_str)
    }

    fn hash_name(&self, service: ServiceId) -> Option<&str> {
        self.hash_names.get(&service).map(String::as_str)
    }

    fn limit(&self, key: &ServiceKey) -> Option<(ServiceId, Option<u32>)> {
        self.limit(key)
    }

    fn table(&self, service: ServiceId) -> Option<&ServiceTable> {
        Some(self.tables.get(&service)?.table())
    }

    fn entry(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.index() as usize)
    }

    fn backends_of(&self, service: ServiceId) -> Vec<&Backend> {
        self.backends_of(service).collect()
    }

    fn address(&self, backend: &Backend) -> BackendAddress {
        self.address(backend)
    }
}

impl PassiveHealth for FailureReports {
    fn failed(&self, service: &str, address: &BackendAddress, error: &str) {
        self.failed(service, address, error);
    }
}

impl From<RequestCounts> for BackendCounts {
    fn from(counts: RequestCounts) -> Self {
        let RequestCounts {
            active,
            total,
            failures,
            tunnels: _,
        } = counts;
        Self {
            active,
            total,
            failures,
            ..Self::default()
        }
    }
}
