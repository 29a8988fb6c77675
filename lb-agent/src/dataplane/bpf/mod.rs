//! The kernel's data plane: pinned maps, and the programs that read them. The only user of aya.
//!
//! Nothing in here has to be alive for connections to be forwarded.

mod address_claims;
mod addresses;
mod adopt;
mod batch;
pub mod canary;
mod clients;
mod close;
mod count;
mod create;
pub mod decap;
pub mod holders;
mod inet_diag;
pub mod kernel;
pub mod leftover;
mod link;
mod load;
mod local_hooks;
mod log;
mod maps;
mod mptcp;
mod open_error;
mod owners;
mod packet;
mod pod;
pub mod probe;
mod programs;
mod reader;
pub mod strangers;
mod sys;
mod tables;
pub mod trial;

use std::collections::{HashMap, HashSet};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, MapData, MapError, PerCpuValues};
use lb_common::abi::{
    self, BackendId, BackendStats, Counter, MAX_BACKENDS, MAX_LISTEN, MAX_LISTENERS, MAX_NAME,
    MAX_SERVICES, OwnerKey, ServiceId, path, state,
};

use clients::KernelClients;
pub use inet_diag::takes_datagrams;
pub use load::Settings;
use local_hooks::LocalHooks;
pub use log::KernelLog;
use maps::Maps;
pub use open_error::OpenError;
use owners::Claims;
pub use packet::FlowSettings;
use packet::LazyPackets;
use reader::KernelReader;

use super::packets::{InterfaceState, PacketFigures, Wanted};
use super::{BackendCounts, Clients, DataPlane, Error, Reader, ServiceCounts, TableCounts};
use crate::state::action::Action;
use crate::state::observed::Observed;
use crate::state::table::{Built, TableSpec};

/// Why there are no packet paths with BPF.
const REFUSED: &str = "the kernel refuses the packet programs";

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// The pinned maps and what is in them.
pub struct Bpf {
    maps: Maps,
    clients: Arc<KernelClients>,
    observed: Observed,
    owners: HashMap<OwnerKey, BackendId>,
    /// Who should be in there, once that was looked at.
    claims: Option<Claims>,
    /// Whether the kernel takes many tables at once.
    puts_together: bool,
    pin_dir: PathBuf,
    packets: Arc<Mutex<LazyPackets>>,
    local_hooks: LocalHooks,
    /// Those of TCP, and those of UDP once there is such a service.
    remembered: Vec<Arc<count::Counted>>,
    max_clients: u32,
    mptcp: Arc<mptcp::MptcpListeners>,
    addresses: address_claims::AddressClaims,
    _lock: std::fs::File,
}

/// What opening the data plane came with.
pub struct Opened {
    /// The data plane.
    pub plane: Bpf,
    /// What an operator should know.
    pub notes: Vec<String>,
    /// The log of the eBPF programs.
    pub log: KernelLog,
}

impl Bpf {
    /// Loads and attaches the programs, or takes over what another agent has left.
    pub fn open(settings: &Settings) -> Result<Opened, OpenError> {
        let mut loaded = load::load(settings)?;
        let log = KernelLog::of(&mut loaded.object).map_err(|source| OpenError::Io {
            what: "read the log of",
            path: settings.pin_dir.clone(),
            source,
        })?;
        let mut plane = Self {
            maps: loaded.maps,
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
            addresses: Default::default(),
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

    /// Lets `lb_steer` hand connections of an address family (AF_INET, AF_INET6; for the L7 path
    /// with [`abi::PROXY_HTTP`]) to the agent's own listener, in the place of that of an earlier
    /// agent.
    pub fn offer(&mut self, family: u32, listener: &TcpListener) -> Result<(), Error> {
        self.maps
            .proxy
            .insert(family, listener.as_raw_fd(), 0)
            .map_err(|error| Error::table("enter the agent's own listener", error))
    }

    fn read_back(&mut self) -> Result<(), MapError> {
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

    fn write(&mut self, action: &Action) -> Result<(), BoxedError> {
        match action {
            Action::NameService(id, name) => self.name_service(*id, name)?,
            Action::PutBackend(backend) => self.put_backend(backend)?,
            Action::PutTable(id, built) => self.put_table(*id, built.table())?,
            Action::Listen(key, id) => {
                self.addresses.take(key)?;
                if key.protocol == abi::protocol::UDP {
                    self.remember_udp()?;
                }
                self.maps
                    .services
                    .insert(pod::ServiceKey(*key), pod::ServiceId(*id), 0)?;
            }
            Action::PutTarget(target) => Bpf::packets(self).opened()?.put_target(target)?,
            Action::DropTarget(id) => self.drop_target(*id)?,
            Action::PutVip(key, vip) => Bpf::packets(self).opened()?.put_vip(key, vip)?,
            Action::DropVip(key) => {
                if let Some(packets) = Bpf::packets(self).get() {
                    packets.drop_vip(key)?;
                }
            }
            Action::Unlisten(key) => {
                self.maps.services.remove(&pod::ServiceKey(*key))?;
                self.addresses.give_up(key);
            }
            Action::RemoveBackend(id) => {
                let entry = self.observed.backends[id.index() as usize];
                let void = abi::Backend {
                    state: state::REMOVED,
                    ..entry
                };
                self.maps.backends.set(id.index(), pod::Backend(void), 0)?;
                if self.observed.targets.contains_key(id) {
                    self.drop_target(*id)?;
                }
            }
            Action::DropService(id) => self.drop_service(*id)?,
        }
        Ok(())
    }

    fn drop_target(&self, id: BackendId) -> Result<(), MapError> {
        let mut packets = Bpf::packets(self);
        packets.get().map_or(Ok(()), |p| p.drop_target(id))
    }

    /// Makes the maps that only UDP services need, unless that is done.
    fn remember_udp(&mut self) -> Result<(), MapError> {
        if self.remembered.len() == maps::CLIENTS.len() {
            return Ok(());
        }
        create::make_udp(&maps::dir(&self.pin_dir), self.max_clients).map_err(MapError::IoError)?;
        let clients = maps::remembered(&self.pin_dir, create::AFFINITY_UDP)?;
        let counted = count::Counted::open(&self.pin_dir, create::AFFINITY_UDP)?;
        self.clients.remember_udp(clients);
        self.remembered.push(counted);
        Ok(())
    }

    fn name_service(&mut self, id: ServiceId, name: &str) -> Result<(), MapError> {
        let mut entry = abi::ServiceName {
            len: 0,
            bytes: [0; MAX_NAME],
        };
        let bytes = &name.as_bytes()[..name.len().min(MAX_NAME)];
        entry.bytes[..bytes.len()].copy_from_slice(bytes);
        entry.len = bytes.len() as u8;
        self.maps.names.set(id.0, pod::ServiceName(entry), 0)
    }

    fn put_backend(&mut self, backend: &abi::Backend) -> Result<(), MapError> {
        let index = backend.id.index();
        if self.observed.backends[index as usize].id != backend.id {
            let zero = pod::BackendStats(BackendStats::default());
            self.maps.backend_stats.set(index, per_cpu(zero)?, 0)?;
        }
        self.local_hooks.serve(backend);
        self.maps.backends.set(index, pod::Backend(*backend), 0)?;
        match Bpf::packets(self).get() {
            Some(packets) if backend.state == state::DOWN => packets.out_of_service(),
            Some(packets) => packets.reopen(backend.id)?,
            None => {}
        }
        Ok(())
    }

    fn put_table(&mut self, id: ServiceId, table: &abi::ServiceTable) -> Result<(), MapError> {
        let mut inner: Array<MapData, pod::ServiceTable> = Array::create(1, 0)?;
        inner.set(0, pod::ServiceTable(*table), 0)?;
        // The kernel returns when nobody reads the old one any more.
        self.maps.tables.set(id.0, &inner, 0)
    }

    /// A table without members takes no part; an entry cannot be taken out of its map.
    fn drop_service(&mut self, id: ServiceId) -> Result<(), MapError> {
        let empty = self.observed.tables.get(&id).map(|built| {
            let mut head = built.spec().head;
            head.flags = 0;
            Built::new(TableSpec::new(head, Vec::new()))
        });
        if let Some(empty) = empty {
            self.put_table(id, empty.table())?;
        }
        for counter in 0..Counter::COUNT as u32 {
            self.maps
                .service_stats
                .set(counter_index(id, counter), per_cpu(0)?, 0)?;
        }
        self.name_service(id, "")
    }

    /// The service on the `dsr` path whose slots may have to change hands after `action`.
    fn dsr_touched(&self, action: &Action) -> Option<ServiceId> {
        let service = match action {
            Action::PutTable(id, _) => *id,
            Action::PutBackend(backend) => backend.service,
            Action::PutTarget(target) => self.observed.backends[target.id.index() as usize].service,
            Action::DropTarget(id) => self.observed.backends[id.index() as usize].service,
            _ => return None,
        };
        let mut backends = self.observed.backends_of(service);
        let dsr = backends.any(|backend| backend.path == path::DSR);
        (dsr && self.observed.tables.contains_key(&service)).then_some(service)
    }

    fn write_dsr(&self, service: ServiceId) -> Result<(), BoxedError> {
        let Some(built) = self.observed.tables.get(&service) else {
            return Ok(());
        };
        let observed = &self.observed;
        let there = |id| observed.targets.contains_key(&id);
        let usable = |id: BackendId| {
            let entry = &observed.backends[id.index() as usize];
            entry.id == id && entry.state == state::UP && there(id)
        };
        // UDP has no connections that could be left to a backend which is out of service.
        let known = |id: BackendId| {
            let entry = &observed.backends[id.index() as usize];
            let over = entry.protocol == abi::protocol::UDP && entry.state == state::DOWN;
            there(id) && !over
        };
        Bpf::packets(self)
            .opened()?
            .put_dsr(service, built.table(), &usable, &known)?;
        Ok(())
    }
}

fn refused(action: &Action, error: BoxedError) -> Error {
    Error::table(format!("change the kernel's tables ({action:?})"), error)
}

fn counter_index(service: ServiceId, counter: u32) -> u32 {
    service.0 * Counter::COUNT as u32 + counter
}

fn per_cpu<T: aya::Pod>(value: T) -> Result<PerCpuValues<T>, MapError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, io_error)| MapError::IoError(io_error))?;
    PerCpuValues::try_from(vec![value; cpus]).map_err(MapError::IoError)
}

impl DataPlane for Bpf {
    fn name(&self) -> &'static str {
        "bpf"
    }

    fn steers(&self) -> bool {
        true
    }

    fn observe(&self) -> Result<Observed, Error> {
        Ok(self.observed.clone())
    }

    fn busy(&self, index: u32) -> bool {
        self.maps
            .active
            .get(&index, 0)
            .is_ok_and(|active| active != 0)
    }

    fn apply(&mut self, action: &Action) -> Result<(), Error> {
        let failed = |error| refused(action, error);
        let backend = match action {
            Action::PutBackend(backend) => Some(backend.id.index()),
            Action::RemoveBackend(id) => Some(id.index()),
            _ => None,
        };
        let before = backend.map(|index| (self.observed.backends[index as usize], index));
        self.write(action).map_err(failed)?;
        self.observed.note(action);
        if let Some((before, index)) = before {
            self.write_owners(&before, index)
                .map_err(|error| failed(error.into()))?;
        }
        self.follow_dsr(action)
    }

    fn apply_all(
        &mut self,
        actions: &[Action],
        done: &mut dyn FnMut(&Action),
    ) -> Result<(), Error> {
        self.apply_in_rows(actions, done)
    }

    fn purge(&mut self) -> Result<(), Error> {
        if let Some(packets) = Bpf::packets(self).get() {
            packets.follow(&[], false);
        }
        purge(&self.pin_dir)
            .map(drop)
            .map_err(|error| Error::table("remove the pins", error))
    }

    fn clients(&self) -> Arc<dyn Clients> {
        Arc::clone(&self.clients) as Arc<dyn Clients>
    }

    fn adopt_listeners(&mut self, observed: &Observed) -> Vec<String> {
        adopt::adopt(&mut self.maps, &observed.backends)
    }

    fn look_for_listeners(&mut self) -> bool {
        Arc::make_mut(&mut self.mptcp)
            .look()
            .unwrap_or_else(|error| {
                tracing::debug!(%error, "list the listening sockets");
                false
            })
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(KernelReader {
            pin_dir: self.pin_dir.clone(),
            packets: Arc::clone(&self.packets),
            mptcp: Arc::clone(&self.mptcp),
        })
    }

    fn listening(&self) -> Result<Option<HashSet<BackendId>>, Error> {
        adopt::listening(&self.maps, &self.observed.backends, &self.mptcp).map(Some)
    }

    fn close_connections(&self, backend: &abi::Backend) -> Result<usize, Error> {
        if backend.path == path::NAT {
            let mut packets = Bpf::packets(self);
            let open = packets.get().map_or(Ok(0), |p| p.close(backend.id));
            return open
                .map(|open| open as usize)
                .map_err(|error| Error::table("close the flows of a backend", error));
        }
        close::close(&self.pin_dir, backend.id).map_err(|error| {
            let what = "close the connections of a backend (it takes CAP_NET_ADMIN and a kernel with \
                        CONFIG_INET_DIAG_DESTROY, or CAP_SYS_PTRACE)";
            Error::table(what, error)
        })
    }

    fn backend_counts(&self, backend: &abi::Backend) -> Result<BackendCounts, Error> {
        let failed = |error| Error::table("read the counters of a backend", error);
        let index = backend.id.index();
        let stats = self.maps.backend_stats.get(&index, 0).map_err(failed)?;
        // On the packet paths these are clients on this host, who are connected directly.
        let mut counts = BackendCounts {
            active: self.maps.active.get(&index, 0).map_err(failed)?,
            total: stats
                .iter()
                .map(|cpu| cpu.0.connections + cpu.0.datagrams)
                .sum(),
            ..BackendCounts::default()
        };
        if matches!(backend.path, path::NAT | path::DSR)
            && let Some(packets) = Bpf::packets(self).get()
        {
            counts += packets.backend_counts(backend.id).map_err(failed)?;
        }
        Ok(counts)
    }

    fn service_counts(&self, service: ServiceId) -> Result<ServiceCounts, Error> {
        let mut counts = [0; Counter::COUNT];
        for (counter, count) in (0..).zip(&mut counts) {
            let values = self
                .maps
                .service_stats
                .get(&counter_index(service, counter), 0)
                .map_err(|error| Error::table("read the counters of a service", error))?;
            *count = values.iter().sum();
        }
        Ok(counts)
    }

    fn tables(&self) -> Result<Vec<TableCounts>, Error> {
        let failed = |error| Error::table("count the remembered clients", error);
        let noted = adopt::noted(&self.maps)
            .map_err(|error| Error::table("list the listening sockets", error))?;
        let used = self
            .observed
            .backends
            .iter()
            .filter(|backend| backend.state != state::REMOVED);
        let table = |table, entries: usize, capacity: usize| TableCounts {
            table,
            entries: entries as u64,
            capacity: capacity as u64,
        };
        let mut tables = vec![
            table("services", self.observed.names.len(), MAX_SERVICES),
            table("listen", self.observed.listen.len(), MAX_LISTEN),
            table("backends", used.count(), MAX_BACKENDS),
            table("owners", self.owners.len(), MAX_BACKENDS * 4),
            table("listeners", noted.len(), MAX_LISTENERS),
        ];
        for (table, map) in ["affinity", "affinity_udp"]
            .into_iter()
            .zip(&self.remembered)
        {
            tables.push(TableCounts {
                table,
                entries: map.entries().map_err(failed)?,
                capacity: map.capacity,
            });
        }
        if let Some(packets) = Bpf::packets(self).get() {
            tables.extend(packets.tables());
        }
        Ok(tables)
    }

    fn packets(&self) -> Result<(), &'static str> {
        let loaded = match Bpf::packets(self).opened() {
            Ok(packets) => packets.check(),
            Err(_) => false,
        };
        loaded.then_some(()).ok_or(REFUSED)
    }

    fn refusals(&self) -> Vec<String> {
        let hooks = self.local_hooks.refusal();
        hooks
            .into_iter()
            .chain(Bpf::packets(self).refusals())
            .collect()
    }

    fn follow(&mut self, wanted: &[Wanted], has_rules: bool) -> Vec<InterfaceState> {
        let mut packets = Bpf::packets(self);
        packets
            .get()
            .map_or(Vec::new(), |p| p.follow(wanted, has_rules))
    }

    fn linger(&mut self) -> Vec<InterfaceState> {
        let mut packets = Bpf::packets(self);
        packets.get().map_or(Vec::new(), |p| p.linger())
    }

    fn distrust_routes(&mut self) -> Result<(), Error> {
        let mut packets = Bpf::packets(self);
        packets
            .get()
            .map_or(Ok(()), |p| p.distrust_routes())
            .map_err(|error| Error::table("tell the programs that routes have changed", error))
    }

    fn packet_figures(&self) -> Result<Option<PacketFigures>, Error> {
        let mut packets = Bpf::packets(self);
        let figures = packets.get().map(|packets| packets.figures());
        figures
            .transpose()
            .map_err(|error| Error::table("read the counters of packets", error))
    }

    fn clean_slots(&mut self) -> Result<(), Error> {
        let mut packets = Bpf::packets(self);
        packets
            .get()
            .map_or(Ok(()), |p| p.clean_slots())
            .map_err(|error| Error::table("clean the slots of dsr", error))
    }
}

/// Removes every pin in `pin_dir`, and with them the programs and tables. `false` when there was
/// none.
pub fn purge(pin_dir: &Path) -> Result<bool, OpenError> {
    load::purge(pin_dir)
}

/// Removes what was attached to interfaces without links, on kernels before 6.6.
pub fn remove_filters(interfaces: &[String]) {
    packet::remove_filters_of(interfaces);
}
