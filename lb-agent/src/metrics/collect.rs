//! Which metrics there are: from a snapshot to families with names by the Prometheus conventions.

use super::http;
use crate::control::stats::{Family, Kind, ProcessStats, Stats, TrafficStats};
use crate::control::status::{BackendStatus, ServiceStatus, Status};
use crate::network::status::PacketStatus;

/// States that a backend can be in, for the metric that says which.
const STATES: [&str; 5] = ["up", "no listener", "draining", "drained", "down"];

/// All metrics of a snapshot.
pub fn families(stats: &Stats) -> Vec<Family> {
    [
        agent(&stats.status),
        process(&stats.process),
        services(&stats.status.services),
        clients(stats),
        backends(&stats.status.services),
        traffic(&stats.traffic),
        tables(stats),
        http::families(stats),
        stats
            .status
            .agent
            .packets
            .iter()
            .flat_map(packets)
            .collect(),
        stats.families.clone(),
    ]
    .concat()
}

fn gauge(name: &str, help: &str) -> Family {
    Family::new(Kind::Gauge, name, help)
}

fn counter(name: &str, help: &str) -> Family {
    Family::new(Kind::Counter, name, help)
}

fn agent(status: &Status) -> Vec<Family> {
    let agent = &status.agent;
    let labels = [
        ("version", agent.version.as_str()),
        ("data_plane", agent.data_plane.as_str()),
    ];
    vec![
        gauge("lb_agent_build_info", "Version and data plane, always 1").with(&labels, 1.0),
        gauge(
            "lb_agent_uptime_seconds",
            "Time since the start of the agent; the kernel's tables may be older",
        )
        .with(&[], agent.uptime_seconds as f64),
        gauge(
            "lb_agent_notes",
            "Sentences in status that an operator should read",
        )
        .with(&[], agent.notes.len() as f64),
    ]
}

fn process(process: &ProcessStats) -> Vec<Family> {
    vec![
        gauge(
            "process_start_time_seconds",
            "Start of the process since the unix epoch",
        )
        .with(&[], process.start_unix_seconds),
        gauge("process_resident_memory_bytes", "Resident memory")
            .with(&[], process.resident_bytes as f64),
        counter("process_cpu_seconds", "User and system processor time")
            .with(&[], process.cpu_seconds),
        gauge("process_open_fds", "Open file descriptors").with(&[], process.open_fds as f64),
        gauge("process_max_fds", "Most file descriptors there can be")
            .with(&[], process.max_fds as f64),
        gauge("process_threads", "Threads").with(&[], process.threads as f64),
    ]
}

fn services(services: &[ServiceStatus]) -> Vec<Family> {
    let mut choices = counter(
        "lb_agent_choices",
        "Connections (UDP: datagrams) by the reason for their backend",
    );
    let mut backends = gauge("lb_agent_backends", "Backends by state");
    let mut bans = gauge(
        "lb_agent_bans",
        "Bans in force for the service, those for all services included",
    );
    for service in services {
        let name = service.name.as_str();
        let counters = &service.counters;
        for (reason, count) in [
            ("affinity", counters.affinity),
            ("slot", counters.slot),
            ("next", counters.next),
        ] {
            choices.add(&[("service", name), ("reason", reason)], count as f64);
        }
        if !service.listen.is_empty() {
            bans.add(&[("service", name)], service.guards.access.bans as f64);
        }
        for state in STATES {
            let count = service.backends.iter().filter(|b| b.state == state).count();
            backends.add(&[("service", name), ("state", state)], count as f64);
        }
    }
    vec![choices, backends, bans]
}

fn clients(stats: &Stats) -> Vec<Family> {
    let mut new = counter(
        "lb_agent_clients_new",
        "Clients that were not remembered when they came",
    );
    let mut moved = counter(
        "lb_agent_clients_moved",
        "Clients that were remembered with another backend than the one they went to",
    );
    for row in &stats.clients {
        let labels = [("service", row.service.as_str())];
        new.add(&labels, row.new as f64);
        moved.add(&labels, row.moved as f64);
    }
    let mut drops = counter(
        "lb_agent_drops",
        "Connections or packets that were not forwarded, by reason",
    );
    for row in &stats.drops {
        let labels = [("service", row.service.as_str()), ("reason", &row.reason)];
        drops.add(&labels, row.count as f64);
    }
    vec![new, moved, drops]
}

fn backends(services: &[ServiceStatus]) -> Vec<Family> {
    let mut up = gauge(
        "lb_agent_backend_up",
        "1 if the backend gets new clients, 0 while it drains, is down or has no listener",
    );
    let mut listening = gauge(
        "lb_agent_backend_listening",
        "1 if something listens at the backend's address on this host",
    );
    let mut healthy = gauge(
        "lb_agent_backend_healthy",
        "1 if the backend passes its health check, 0 if not; none before the first check",
    );
    let mut took = gauge(
        "lb_agent_backend_health_check_seconds",
        "How long the last good health check took",
    );
    let mut weight = gauge("lb_agent_backend_weight", "Weight of the backend");
    let mut share = gauge(
        "lb_agent_backend_share_ratio",
        "Fraction of the new clients that the backend gets",
    );
    for service in services {
        for backend in &service.backends {
            let address = backend.address.to_string();
            let labels = [("service", service.name.as_str()), ("backend", &address)];
            let BackendStatus { state, .. } = backend;
            up.add(&labels, f64::from(u8::from(state == "up")));
            if let Some(listens) = backend.listening {
                listening.add(&labels, f64::from(u8::from(listens)));
            }
            if let Some(health) = &backend.health {
                if health.state != "unknown" {
                    healthy.add(&labels, f64::from(u8::from(health.state == "up")));
                }
                if let Some(ms) = health.took_ms {
                    took.add(&labels, ms / 1000.0);
                }
            }
            weight.add(&labels, f64::from(backend.weight));
            share.add(&labels, backend.share);
        }
    }
    vec![up, listening, healthy, took, weight, share]
}

fn traffic(rows: &[TrafficStats]) -> Vec<Family> {
    let mut active = gauge("lb_agent_connections_active", "Open connections");
    let mut connections = counter(
        "lb_agent_connections",
        "Connections (UDP: datagrams on the socket path, flows on the proxy path; HTTP: requests)",
    );
    let mut failures = counter(
        "lb_agent_connect_failures",
        "Attempts that the backend refused or did not answer",
    );
    let mut bytes = counter(
        "lb_agent_bytes",
        "Bytes that passed by, in from clients and out to them",
    );
    let mut packets = counter(
        "lb_agent_packets",
        "Packets that passed by, in from clients and out to them",
    );
    for row in rows {
        let labels = [
            ("service", row.service.as_str()),
            ("backend", row.backend.as_str()),
            ("path", row.path.as_str()),
        ];
        active.add(&labels, row.active as f64);
        connections.add(&labels, row.connections as f64);
        if let Some(count) = row.failures {
            failures.add(&labels, count as f64);
        }
        let with = |direction| [labels.as_slice(), &[("direction", direction)]].concat();
        for (direction, count) in [("in", row.bytes_in), ("out", row.bytes_out)] {
            if let Some(count) = count {
                bytes.add(&with(direction), count as f64);
            }
        }
        for (direction, count) in [("in", row.packets_in), ("out", row.packets_out)] {
            if let Some(count) = count {
                packets.add(&with(direction), count as f64);
            }
        }
    }
    vec![active, connections, failures, bytes, packets]
}

fn tables(stats: &Stats) -> Vec<Family> {
    let mut entries = gauge("lb_agent_table_entries", "Entries of the table");
    let mut capacity = gauge("lb_agent_table_capacity", "Entries that the table can have");
    let mut evictions = counter(
        "lb_agent_table_evictions",
        "Entries that had to make room for others",
    );
    for row in &stats.tables {
        let labels = [("table", row.table.as_str())];
        entries.add(&labels, row.entries as f64);
        capacity.add(&labels, row.capacity as f64);
        if let Some(count) = row.evictions {
            evictions.add(&labels, count as f64);
        }
    }
    vec![entries, capacity, evictions]
}

/// The packet paths. Dropped packets are among the drops, the tables are among the tables.
fn packets(status: &PacketStatus) -> Vec<Family> {
    let PacketStatus {
        interfaces,
        figures,
    } = status;
    let mut attached = gauge(
        "lb_agent_interface_programs",
        "1 for each interface of the packet paths, by where the programs are",
    );
    for interface in interfaces {
        let labels = [
            ("interface", interface.name.as_str()),
            ("mode", interface.mode.as_str()),
        ];
        attached.add(&labels, 1.0);
    }
    let mut flows = counter(
        "lb_agent_flows",
        "Flows of the packet paths by what became of them",
    );
    let mut by_fate = counter(
        "lb_agent_packet_actions",
        "Packets by what the packet paths did with them",
    );
    for (name, count) in &figures.packets {
        if let Some(event) = name.strip_prefix("flow_") {
            flows.add(&[("event", event)], *count as f64);
        } else if !name.starts_with("drop_") {
            by_fate.add(&[("action", name.as_str())], *count as f64);
        }
    }
    for (event, count) in [("expired", figures.expired), ("orphaned", figures.orphaned)] {
        flows.add(&[("event", event)], count as f64);
    }
    vec![attached, flows, by_fate]
}
