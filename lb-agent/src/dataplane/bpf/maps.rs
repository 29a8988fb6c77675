//! The pinned maps with their types and the paths of their pins.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{
    Array, ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, SkStorage,
    SockHash,
};
use lb_common::abi::{self, Counter, ServiceId};
use lb_common::addr::Addr;

use super::create::AFFINITY_UDP;
use super::link;
use super::pod;

/// Names of all pinned maps of the eBPF object. The map of the log is not pinned and lives as long as its
/// agent.
pub(super) const NAMES: [&str; 25] = [
    "META",
    "NAMES",
    "SERVICES",
    "TABLES",
    "BACKENDS",
    "LISTENERS",
    "PROXY",
    "OWNERS",
    "AFFINITY",
    "UDP_CLIENTS",
    "ACTIVE",
    "SERVICE_ACTIVE",
    "BACKEND_STATS",
    "SERVICE_STATS",
    "SOCKET_OWNER",
    "LOCAL_ADDRESSES",
    "LOCAL_PEER",
    "UDP_LOCAL",
    "RULES",
    "GUARDS",
    "DENIED",
    "CAPPED",
    "CLIENTS",
    "HANDSHAKES",
    "SOCKET_CLIENT",
];

/// Names of the maps that determine the choice of a backend, and who is let in. The packet programs use them, too.
pub(super) const CHOICES: [&str; 13] = [
    "TABLES",
    "BACKENDS",
    "AFFINITY",
    "UDP_CLIENTS",
    "ACTIVE",
    "SERVICE_ACTIVE",
    "SERVICE_STATS",
    "RULES",
    "GUARDS",
    "DENIED",
    "CAPPED",
    "CLIENTS",
    "HANDSHAKES",
];

/// Maps with counts by `lb_listen`. They are invalid after a time in which it was not attached.
pub(super) const COUNTED_BY_LISTEN: [&str; 6] = [
    "ACTIVE",
    "SERVICE_ACTIVE",
    "SOCKET_OWNER",
    "LISTENERS",
    "CLIENTS",
    "SOCKET_CLIENT",
];

/// The maps that the agent reads and writes.
pub(super) struct Maps {
    pub meta: Array<MapData, pod::Meta>,
    pub names: Array<MapData, pod::ServiceName>,
    pub services: HashMap<MapData, pod::ServiceKey, pod::ServiceId>,
    pub tables: ArrayOfMaps<MapData, Array<MapData, pod::ServiceTable>>,
    pub backends: Array<MapData, pod::Backend>,
    pub listeners: SockHash<MapData, pod::ListenKey>,
    pub proxy: SockHash<MapData, u32>,
    pub owners: HashMap<MapData, pod::OwnerKey, pod::BackendId>,
    pub active: Array<MapData, u64>,
    pub backend_stats: PerCpuArray<MapData, pod::BackendStats>,
    pub service_stats: PerCpuArray<MapData, u64>,
    pub socket_owner: SkStorage<MapData, pod::SocketOwner>,
}

/// Addresses of this host, each with the source address of a connection to it, in network byte order.
pub(super) type LocalAddresses = HashMap<MapData, Addr, Addr>;

/// Clients with the backends they were sent to.
pub(super) type Remembered = HashMap<MapData, pod::AffinityKey, pod::Affinity>;

/// The maps that the agent reads for its own choices.
pub(super) struct ClientMaps {
    pub tcp: Remembered,
    /// The UDP clients, once there is a UDP service.
    pub udp: Option<Remembered>,
    pub active: Array<MapData, u64>,
    pub service_active: Array<MapData, u64>,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            meta: take(object, "META")?.try_into()?,
            names: take(object, "NAMES")?.try_into()?,
            services: take(object, "SERVICES")?.try_into()?,
            tables: take(object, "TABLES")?.try_into()?,
            backends: take(object, "BACKENDS")?.try_into()?,
            listeners: take(object, "LISTENERS")?.try_into()?,
            proxy: take(object, "PROXY")?.try_into()?,
            owners: take(object, "OWNERS")?.try_into()?,
            active: take(object, "ACTIVE")?.try_into()?,
            backend_stats: take(object, "BACKEND_STATS")?.try_into()?,
            service_stats: take(object, "SERVICE_STATS")?.try_into()?,
            socket_owner: take(object, "SOCKET_OWNER")?.try_into()?,
        })
    }
}

impl ClientMaps {
    /// Takes the maps out of the loaded object. `ACTIVE` is opened by its pin, because [`Maps`] has taken
    /// it already.
    pub(super) fn take(object: &mut Ebpf, pin_dir: &Path) -> Result<Self, MapError> {
        let active = MapData::from_pin(pin_of(pin_dir, "ACTIVE"))?;
        Ok(Self {
            tcp: take(object, "AFFINITY")?.try_into()?,
            udp: None,
            active: Map::Array(active).try_into()?,
            service_active: take(object, "SERVICE_ACTIVE")?.try_into()?,
        })
    }
}

/// Takes the map of this host's addresses, for the thread that updates it.
pub(super) fn local_addresses(object: &mut Ebpf) -> Result<LocalAddresses, MapError> {
    take(object, "LOCAL_ADDRESSES")?.try_into()
}

/// Takes the map `name` out of the loaded object.
pub(super) fn take(object: &mut Ebpf, name: &str) -> Result<Map, MapError> {
    object.take_map(name).ok_or_else(|| MapError::InvalidName {
        name: name.to_owned(),
    })
}

/// Reads the `META` map of the pins in `pin_dir`; `None` when there is none.
pub(super) fn pinned_meta(pin_dir: &Path) -> Result<Option<abi::Meta>, MapError> {
    let pin = pin_of(pin_dir, "META");
    if !pin.try_exists().map_err(MapError::IoError)? {
        return Ok(None);
    }
    let map = MapData::from_fd(link::open_map_to_read(&pin).map_err(MapError::IoError)?)?;
    let meta: Array<MapData, pod::Meta> = Map::Array(map).try_into()?;
    Ok(Some(meta.get(&0, 0)?.0))
}

/// Names of the maps of clients; the second exists once there is a UDP service.
pub(super) const CLIENTS: [&str; 2] = ["AFFINITY", AFFINITY_UDP];

/// Opens the map of clients `name` by its pin.
pub(super) fn remembered(pin_dir: &Path, name: &str) -> Result<Remembered, MapError> {
    Map::LruHashMap(MapData::from_pin(pin_of(pin_dir, name))?).try_into()
}

/// Whether the map `name` is pinned.
pub(super) fn is_pinned(pin_dir: &Path, name: &str) -> bool {
    pin_of(pin_dir, name).exists()
}

/// All entries of the maps of clients. Entries that are added or removed meanwhile may be missing.
pub(super) fn known_clients(
    pin_dir: &Path,
) -> Result<Vec<(abi::AffinityKey, abi::Affinity)>, MapError> {
    let mut known = Vec::new();
    for name in CLIENTS.into_iter().filter(|name| is_pinned(pin_dir, name)) {
        let map = remembered(pin_dir, name)?;
        for key in map.keys() {
            let key = key?;
            match map.get(&key, 0) {
                Ok(affinity) => known.push((key.0, affinity.0)),
                // The kernel has evicted the entry since.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(known)
}

/// Directory of the maps' pins.
pub(super) fn dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join("maps")
}

/// Path of the pin of the map `name`.
pub(super) fn pin_of(pin_dir: &Path, name: &str) -> PathBuf {
    dir(pin_dir).join(name)
}

/// Removes the pins of the maps `names`; a missing pin is no error.
pub(super) fn unpin(pin_dir: &Path, names: &[&str]) -> io::Result<()> {
    names
        .iter()
        .try_for_each(|name| match fs::remove_file(pin_of(pin_dir, name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
}

/// A copy of `value` for each possible CPU.
pub(super) fn per_cpu<T: aya::Pod>(value: T) -> Result<PerCpuValues<T>, MapError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, io_error)| MapError::IoError(io_error))?;
    PerCpuValues::try_from(vec![value; cpus]).map_err(MapError::IoError)
}

/// Index of a service's counter in `SERVICE_STATS`.
pub(super) fn counter_index(service: ServiceId, counter: u32) -> u32 {
    service.0 * Counter::STORED as u32 + counter
}
