//! The processes of applications on this host, and the clients that their sockets do not take.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use lb_common::abi::{self, BackendId, path, state};

use crate::control::status::{BackendStatus, ProcessStatus, ServiceStatus, Status};
use crate::dataplane::bpf::applications::{Application, Applications};
use crate::state::desired::Desired;
use crate::state::observed::{Observed, address_of};

/// Adds to `status` what the kernel and `/proc` tell of the backends on this host.
pub fn add(
    status: &mut Status,
    applications: &mut Applications,
    desired: &Desired,
    observed: &Observed,
) {
    let here = desired.backends().filter(|backend| super::is_here(backend));
    let here: HashSet<SocketAddr> = here.map(|backend| backend.address.key()).collect();
    let is_asked =
        |entry: &&abi::Backend| entry.state != state::REMOVED && here.contains(&address_of(entry));
    let asked: Vec<&abi::Backend> = observed.backends.iter().filter(is_asked).collect();
    if asked.is_empty() {
        return;
    }
    let found = applications.find(&asked).unwrap_or_else(|error| {
        tracing::debug!(%error, "the processes of the backends are not known");
        HashMap::new()
    });
    for service in &mut status.services {
        add_to_service(service, observed, &found);
    }
}

fn add_to_service(
    service: &mut ServiceStatus,
    observed: &Observed,
    found: &HashMap<BackendId, Application>,
) {
    let Some(id) = observed.service(&service.name) else {
        return;
    };
    let entries: HashMap<SocketAddr, &abi::Backend> = observed
        .backends_of(id)
        .map(|entry| (address_of(entry), entry))
        .collect();
    let wants_ipv4 = service.listen.iter().any(SocketAddr::is_ipv4);
    let wants_ipv6 = service.listen.iter().any(SocketAddr::is_ipv6);
    for backend in &mut service.backends {
        let entry = entries.get(&backend.address.key());
        let Some(application) = entry.and_then(|entry| found.get(&entry.id)) else {
            continue;
        };
        add_to_backend(backend, application);
        let is_handed = entry.is_some_and(|entry| entry.path == path::SOCKET);
        let missed = match application {
            Application { ipv6: false, .. } if wants_ipv6 => Some("IPv6"),
            Application { ipv4: false, .. } if wants_ipv4 => Some("IPv4"),
            _ => None,
        };
        backend.through_the_agent = missed.filter(|_| is_handed).map(str::to_owned);
    }
}

fn add_to_backend(backend: &mut BackendStatus, application: &Application) {
    let processes = application.processes.iter();
    backend.processes = processes
        .map(|(pid, program)| ProcessStatus {
            pid: *pid,
            program: program.clone(),
        })
        .collect();
}
