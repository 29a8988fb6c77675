//! Facts about services and backends in words.

use super::span;
use crate::control::status::{BackendStatus, CounterStatus, RouteStatus, ServiceStatus};

/// Processes that a note names; of more it tells the number.
const NAMED: usize = 2;

/// The property that keeps a client with its backend, and the time for which it is remembered.
pub(super) fn stickiness(service: &ServiceStatus) -> String {
    let affinity = &service.affinity;
    let address = format!(
        "address (/{}, /{})",
        affinity.ipv4_prefix, affinity.ipv6_prefix
    );
    let time = match affinity.timeout_seconds {
        0 => ", not remembered".to_owned(),
        seconds => format!(" for {}", span(seconds)),
    };
    let by = service.stickiness.by.as_str();
    let name = service.stickiness.name.as_deref().unwrap_or_default();
    match by {
        "address" => format!("sticky by {address}{time}"),
        "cookie" => format!("sticky by cookie {name}"),
        "socketio" => format!("sticky by socketio, else by {address}{time}"),
        _ => format!("sticky by {by} {name}, else by {address}{time}"),
    }
}

/// Hosts, path and target of a route.
pub(super) fn route(route: &RouteStatus) -> [String; 4] {
    let hosts = match route.hosts.as_slice() {
        [] => "any host".to_owned(),
        hosts => hosts.join(", "),
    };
    [
        "route".to_owned(),
        hosts,
        route.path.clone(),
        route.to.clone(),
    ]
}

/// The treatment of clients while no backend is healthy, or none is in service.
pub(super) fn nobody(service: &ServiceStatus) -> Option<String> {
    if let Some(treatment) = service.all_down.as_deref() {
        let clients = match treatment {
            "serve" => "all serve as if nothing were checked",
            _ => "clients are refused",
        };
        return Some(format!(
            "no backend is healthy: {clients} (all_down = \"{treatment}\")"
        ));
    }
    let is_out = |backend: &BackendStatus| backend.state == "drained";
    let first = service.backends.first().filter(|first| is_out(first))?;
    service.backends.iter().all(is_out).then(|| {
        let address = &first.address;
        format!(
            "every backend is drained: clients are refused (lb-agent add-backend {address} puts one back)"
        )
    })
}

/// The clients of a service by the reason for their backend, without those refused.
pub(super) fn clients(counters: &CounterStatus, max_load: Option<f64>) -> [String; 3] {
    let CounterStatus {
        affinity,
        slot,
        next,
        ..
    } = counters;
    let its = if *next == 1 { "its" } else { "their" };
    let full = if max_load.is_some() { " or full" } else { "" };
    [
        format!("clients: {affinity} returning,"),
        format!("{slot} new,"),
        format!("{next} moved on because {its} backend was away{full};"),
    ]
}

/// The processes of an application, as in "node (pid 4711)".
pub(super) fn processes(backend: &BackendStatus) -> Option<String> {
    let processes = backend.processes.iter();
    let named = processes.map(|process| format!("{} (pid {})", process.program, process.pid));
    let mut named: Vec<String> = named.collect();
    if named.len() > NAMED {
        let more = named.len() - NAMED;
        named.truncate(NAMED);
        named.push(format!("{more} more"));
    }
    (!named.is_empty()).then(|| named.join(", "))
}

/// The clients that the application's socket does not take.
pub(super) fn through_the_agent(backend: &BackendStatus) -> Option<String> {
    let missed = backend.through_the_agent.as_deref()?;
    let own = if missed == "IPv6" { "IPv4" } else { "IPv6" };
    Some(format!(
        "{missed} clients through the agent: it listens on {own} only"
    ))
}
