//! The data plane in the kernel: pinned maps, and the programs that read them. The only user of aya.
//!
//! The kernel goes on forwarding connections without a running agent.

mod access;
mod address_claims;
mod addresses;
mod adopt;
pub mod applications;
mod batch;
pub mod canary;
mod clients;
mod close;
mod connections;
mod count;
mod create;
pub mod decap;
mod figures;
pub mod holders;
mod inet_diag;
pub mod kernel;
pub mod leftover;
mod link;
mod listeners;
mod load;
mod local_hooks;
mod log;
mod maps;
mod mptcp;
mod open_error;
mod owners;
mod packet;
mod packet_paths;
mod pod;
pub mod probe;
mod programs;
mod reader;
mod slots;
pub mod strangers;
mod sys;
mod tables;
pub mod trial;
mod write;

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::MapError;
use lb_common::abi::{BackendId, MAX_BACKENDS, MAX_SERVICES, OwnerKey, ServiceId};

use access::AccessMaps;
pub use addresses::of_interfaces;
pub use adopt::listening_by_list;
use clients::KernelClients;
pub use close::close_clients;
pub use inet_diag::takes_datagrams;
pub use load::Settings;
use local_hooks::LocalHooks;
pub use log::KernelLog;
use maps::Maps;
pub use open_error::OpenError;
use owners::Claims;
pub use packet::FlowSettings;
use packet::LazyPackets;

use super::{Describe, Error, Listeners as _};
use crate::state::observed::Observed;

/// Error text of the packet paths if the kernel refuses their programs.
const REFUSED: &str = "the kernel refuses the packet programs";

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// The pinned maps and the agent's copy of their contents.
pub struct Bpf {
    maps: Maps,
    access: AccessMaps,
    clients: Arc<KernelClients>,
    observed: Observed,
    owners: HashMap<OwnerKey, BackendId>,
    /// The intended contents of `owners`; `None` before the first change.
    claims: Option<Claims>,
    /// Whether the kernel replaces many tables by one system call.
    puts_together: bool,
    pin_dir: PathBuf,
    packets: Arc<Mutex<LazyPackets>>,
    local_hooks: LocalHooks,
    /// The remembered TCP clients, and the UDP clients once there is a UDP service.
    remembered: Vec<Arc<count::Counted>>,
    max_clients: u32,
    mptcp: Arc<mptcp::MptcpListeners>,
    addresses: address_claims::AddressClaims,
    _lock: std::fs::File,
}

/// The result of [`Bpf::open`].
pub struct Opened {
    /// The opened data plane.
    pub plane: Bpf,
    /// Warnings for the operator.
    pub notes: Vec<String>,
    /// The log of the eBPF programs.
    pub log: KernelLog,
}

impl Bpf {
    /// Loads and attaches the programs, or takes over those of an earlier agent.
    pub fn open(settings: &Settings) -> Result<Opened, OpenError> {
        let mut loaded = load::load(settings)?;
        let log = KernelLog::of(&mut loaded.object).map_err(|source| OpenError::Io {
            what: "read the log of",
            path: settings.pin_dir.clone(),
            source,
        })?;
        let mut plane = Self {
            maps: loaded.maps,
            access: loaded.access,
            clients: Arc::new(KernelClients::new(loaded.clients)),
            observed: Observed::default(),
            owners: HashMap::new(),
            claims: None,
            puts_together: true,
            remembered: vec![count::Counted::open(&settings.pin_dir, maps::CLIENTS[0])?],
            max_clients: settings.max_clients,
            packets: Arc::new(Mutex::new(LazyPackets::new(
                &settings.pin_dir,
                &settings.flows,
            )?)),
            local_hooks: LocalHooks::new(loaded.object, loaded.cgroup, &settings.pin_dir),
            pin_dir: settings.pin_dir.clone(),
            mptcp: Arc::default(),
            addresses: address_claims::AddressClaims::new(settings.kept.clone()),
            _lock: loaded.lock,
        };
        plane.look_for_listeners();
        plane.read_back()?;
        plane.addresses.take_all(plane.observed.listen.keys())?;
        if maps::is_pinned(&plane.pin_dir, create::AFFINITY_UDP) {
            plane.remember_udp()?;
        }
        Ok(Opened {
            plane,
            notes: loaded.notes,
            log,
        })
    }

    /// Lets `lb_steer` hand connections to the agent's own listener. It replaces the listener of an earlier
    /// agent. `family` is AF_INET or AF_INET6, combined with [`lb_common::abi::PROXY_HTTP`] for the L7
    /// path.
    pub fn offer(&mut self, family: u32, listener: &TcpListener) -> Result<(), Error> {
        self.maps
            .proxy
            .insert(family, listener.as_raw_fd(), 0)
            .map_err(|error| Error::table("enter the agent's own listener", error))
    }

    fn read_back(&mut self) -> Result<(), MapError> {
        self.access.read_back()?;
        for index in 0..MAX_SERVICES as u32 {
            let name = self.maps.names.get(&index, 0)?.0;
            let text = name.bytes.get(..usize::from(name.len)).unwrap_or_default();
            if let (1.., Ok(text)) = (name.len, std::str::from_utf8(text)) {
                self.observed
                    .names
                    .insert(ServiceId(index), text.to_owned());
            }
        }
        for entry in self.maps.services.iter() {
            let (key, id) = entry?;
            self.observed.listen.insert(key.0, id.0);
        }
        for index in 0..MAX_BACKENDS {
            let backend = self.maps.backends.get(&(index as u32), 0)?.0;
            self.local_hooks.serve(&backend);
            self.observed.backends[index] = backend;
        }
        for entry in self.maps.owners.iter() {
            let (key, id) = entry?;
            self.owners.insert(key.0, id.0);
        }
        let left = Bpf::packets(self)
            .get()
            .map(|packets| packets.read_back(&self.observed.backends))
            .transpose()?;
        if let Some(left) = left {
            let targets = left.targets.into_iter().map(|target| (target.id, target));
            self.observed.targets.extend(targets);
            self.observed.vips.extend(left.vips);
        }
        Ok(())
    }

    fn packets(&self) -> MutexGuard<'_, LazyPackets> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Describe for Bpf {
    fn name(&self) -> &'static str {
        "bpf"
    }

    fn refusals(&self) -> Vec<String> {
        let hooks = self.local_hooks.refusal();
        hooks
            .into_iter()
            .chain(Bpf::packets(self).refusals())
            .collect()
    }
}

/// Removes every pin in `pin_dir`, and with them the programs and tables. Returns `false` if there was
/// none.
pub fn purge(pin_dir: &Path) -> Result<bool, OpenError> {
    load::purge(pin_dir)
}

/// Removes the programs that were attached to interfaces as filters, on kernels before 6.6.
pub fn remove_filters(interfaces: &[String]) {
    packet::remove_filters_of(interfaces);
}
