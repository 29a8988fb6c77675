//! The data plane and the userspace paths, opened at the start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use lb_common::abi::PROXY_HTTP;
use lb_common::abi::packet::PacketSettings;

use super::WillNotHelp;
use crate::dataplane::bpf::kernel::{Kernel, OLDEST_KERNEL};
use crate::dataplane::bpf::{self, Bpf, FlowSettings, KernelLog, OpenError, leftover};
use crate::dataplane::memory::Memory;
use crate::dataplane::{Connections as _, DataPlane};
use crate::errors::chain;
use crate::http;
use crate::proxy::listener_set::ListenerSet;
use lb_config::{Config, PacketConfig};
use lb_http::Engine;
use lb_net::admission::Admission;
use lb_net::handover::FdStore;

/// The data plane, and the userspace paths beside it.
pub(super) struct Planes {
    pub(super) plane: Box<dyn DataPlane>,
    pub(super) notes: Vec<String>,
    pub(super) log: Option<KernelLog>,
    pub(super) front: ListenerSet,
    pub(super) l7: Engine,
}

/// Opens the data plane that the configuration asks for, or the best that there is.
pub(super) fn open(
    config: &Config,
    kept: &FdStore,
    admission: &Admission,
) -> anyhow::Result<Planes> {
    let agent = &config.agent;
    let max_clients = agent.max_clients;
    let bounded = |mut planes: Planes| {
        planes
            .l7
            .bound_cache(agent.cache.memory, agent.cache.object);
        if let Some(collector) = &agent.otlp {
            planes.l7.export_spans_to(collector.clone());
        }
        planes
    };
    let userspace = |notes: Vec<String>| {
        let plane = Memory::new(max_clients);
        let front = ListenerSet::new(plane.clients(), false, kept.clone(), admission.clone());
        let workers = usize::from(agent.l7_workers);
        let l7 = http::engine(
            front.clients(),
            false,
            workers,
            kept.clone(),
            admission.clone(),
        );
        bounded(Planes {
            plane: Box::new(plane),
            notes,
            log: None,
            front,
            l7,
        })
    };
    if agent.data_plane == lb_config::DataPlane::Userspace {
        refuse_beside_pins(&agent.pin_dir, None)?;
        return Ok(userspace(Vec::new()));
    }
    let settings = bpf::Settings {
        pin_dir: agent.pin_dir.clone(),
        max_clients,
        cgroup: agent.cgroup.clone(),
        flows: flow_settings(&agent.packet),
        kept: kept.clone(),
    };
    match Bpf::open(&settings) {
        Ok(opened) => {
            let workers = usize::from(agent.l7_workers);
            with_bpf(opened, workers, kept, admission).map(bounded)
        }
        Err(error) if agent.data_plane == lb_config::DataPlane::Auto && error.may_fall_back() => {
            let missing = format!("BPF cannot serve here: {}", explain(&error));
            refuse_beside_pins(&agent.pin_dir, Some(&missing))?;
            tracing::warn!("{missing}; every connection goes through the agent");
            Ok(userspace(vec![missing]))
        }
        // The other agent may be about to end.
        Err(error @ OpenError::InUse { .. }) => Err(anyhow::anyhow!(explain(&error))),
        Err(error) if !error.may_fall_back() => Err(WillNotHelp(explain(&error)).into()),
        Err(error) => Err(anyhow::anyhow!(explain(&error))),
    }
}

/// Programs of an earlier agent would decide about the same connections by other tables.
fn refuse_beside_pins(pin_dir: &Path, missing: Option<&str>) -> Result<(), WillNotHelp> {
    leftover::check(pin_dir).map_err(|found| {
        let mend = match missing {
            Some(missing) => format!("give this agent what it lacks to take them over ({missing})"),
            None => "have it take them over by data_plane = \"auto\"".to_owned(),
        };
        WillNotHelp(format!(
            "{found}: {mend}, or remove them as root with `lb-agent stop --purge` and start again"
        ))
    })
}

/// An error with its causes in one line and, if there is one, the remedy.
fn explain(error: &OpenError) -> String {
    let text = chain(error);
    let kernel = Kernel::running();
    if kernel.is_too_old() && error.may_fall_back() {
        let (major, minor) = OLDEST_KERNEL;
        tracing::debug!("{text}");
        return format!(
            "Linux {} is older than {major}.{minor}, the first that takes the programs of the kernel path",
            kernel.release
        );
    }
    let no_privilege = text.contains("Operation not permitted") || text.contains("os error 1)");
    if no_privilege && !rustix::process::geteuid().is_root() {
        return format!(
            "{text} (run lb-agent as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)"
        );
    }
    text
}

/// The kernel's data plane, with the listeners for connections that it cannot join itself.
fn with_bpf(
    opened: bpf::Opened,
    l7_workers: usize,
    kept: &FdStore,
    admission: &Admission,
) -> anyhow::Result<Planes> {
    let bpf::Opened {
        mut plane,
        notes,
        log,
    } = opened;
    let mut front = ListenerSet::new(plane.clients(), true, kept.clone(), admission.clone());
    let mut l7 = http::engine(
        front.clients(),
        true,
        l7_workers,
        kept.clone(),
        admission.clone(),
    );
    let mut notes = notes;
    let loopbacks = [
        (libc::AF_INET, IpAddr::from(Ipv4Addr::LOCALHOST), "v4"),
        (libc::AF_INET6, IpAddr::from(Ipv6Addr::LOCALHOST), "v6"),
    ];
    for (family, ip, version) in loopbacks {
        let address = SocketAddr::new(ip, 0);
        let listener = match front.listen_handed_over(address, &format!("proxy-{version}")) {
            Ok(listener) => listener,
            // Without an address family there are no clients of it.
            Err(error) => {
                notes.push(format!("no userspace path for {}: {error}", address.ip()));
                continue;
            }
        };
        plane.offer(family as u32, &listener)?;
        let listener = l7.listen_handed_over(address, &format!("l7-{version}"))?;
        plane.offer(family as u32 | PROXY_HTTP, &listener)?;
    }
    Ok(Planes {
        plane: Box::new(plane),
        notes,
        log: Some(log),
        front,
        l7,
    })
}

fn flow_settings(packet: &PacketConfig) -> FlowSettings {
    let ages = packet.timeouts;
    FlowSettings {
        flows: packet.flow_table,
        ages: PacketSettings {
            syn_s: ages.syn_s,
            established_s: ages.established_s,
            closing_s: ages.closing_s,
            udp_s: ages.udp_s,
            syn_cookies: packet.syn_cookies.into(),
            ..PacketSettings::default()
        },
    }
}
