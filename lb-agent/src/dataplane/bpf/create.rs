//! Creates maps that aya cannot create as needed: arrays of maps, and their inner maps.
//!
//! The kernel accepts an inner map only if it equals the template of its array. In Linux 6.1 a template
//! with type information (BTF) does not equal a map without (`bpf_map_meta_equal`). aya creates templates
//! with BTF and inner maps without, so this module creates both.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use aya::maps::{Array, Map, MapData, MapError};
use lb_common::abi::local::{Asked, LocalDatagram, MAX_LOCAL_DATAGRAMS};
use lb_common::abi::packet::DsrTable;
use lb_common::abi::{Affinity, AffinityKey, MAX_SERVICES, ServiceTable};

use super::link::open_pin;
use super::sys::{self, Shape};

const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_LRU_HASH: u32 = 9;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

impl Shape {
    const fn array<V>() -> Self {
        Self {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: size_of::<V>() as u32,
        }
    }

    const fn lru<K, V>() -> Self {
        Self {
            map_type: BPF_MAP_TYPE_LRU_HASH,
            key_size: size_of::<K>() as u32,
            value_size: size_of::<V>() as u32,
        }
    }
}

/// An array of maps and the shape of its inner maps.
pub(super) struct Outer {
    name: &'static str,
    entries: u32,
    inner: Shape,
}

/// The tables of services, each replaced as a whole.
pub(super) const TABLES: Outer = Outer {
    name: "TABLES",
    entries: MAX_SERVICES as u32,
    inner: Shape::array::<ServiceTable>(),
};

/// The tables of services on the `dsr` path, each replaced as a whole.
pub(super) const DSR_TABLES: Outer = Outer {
    name: "DSR_TABLES",
    entries: MAX_SERVICES as u32,
    inner: Shape::array::<DsrTable>(),
};

/// Holds the map of UDP clients, once there is a UDP service.
pub(super) const UDP_CLIENTS: Outer = Outer {
    name: "UDP_CLIENTS",
    entries: 1,
    inner: Shape::lru::<AffinityKey, Affinity>(),
};

/// Holds the map of UDP sockets of this host, once there is a UDP service.
pub(super) const UDP_LOCAL: Outer = Outer {
    name: "UDP_LOCAL",
    entries: 1,
    inner: Shape::lru::<LocalDatagram, Asked>(),
};

/// Pin of the only inner map of [`UDP_CLIENTS`].
pub(super) const AFFINITY_UDP: &str = "AFFINITY_UDP";
/// Pin of the only inner map of [`UDP_LOCAL`].
const LOCAL_DATAGRAMS: &str = "LOCAL_DATAGRAMS";

impl Outer {
    /// Creates the array and pins it in `dir`, unless it exists. This must precede aya's creation of maps
    /// from the object.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn make(&self, dir: &Path) -> io::Result<()> {
        let pin = dir.join(self.name);
        if pin.exists() {
            return Ok(());
        }
        let template = sys::create_map(&self.inner, 1, "", None)?;
        let shape = Shape {
            map_type: BPF_MAP_TYPE_ARRAY_OF_MAPS,
            ..Shape::array::<u32>()
        };
        let outer = sys::create_map(&shape, self.entries, self.name, Some(template.as_fd()))?;
        sys::pin(outer.as_fd(), &pin)
    }

    /// Creates an inner map with one value.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub(super) fn inner_with<V: aya::Pod>(&self, value: &V) -> Result<OwnedFd, MapError> {
        let map = sys::create_map(&self.inner, 1, "", None).map_err(MapError::IoError)?;
        let data = MapData::from_fd(map.try_clone().map_err(MapError::IoError)?)?;
        let mut array: Array<MapData, V> = Map::Array(data).try_into()?;
        array.set(0, value, 0)?;
        Ok(map)
    }

    /// Puts maps of one value each into the array, at these indices, by one system call.
    ///
    /// # Errors
    /// The kernel refuses; some of the maps may be in the array then.
    pub(super) fn put_all<V: aya::Pod>(
        &self,
        dir: &Path,
        values: impl Iterator<Item = (u32, V)>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (mut indices, mut inner) = (Vec::new(), Vec::new());
        for (index, value) in values {
            indices.push(index);
            inner.push(self.inner_with(&value).map_err(Box::new)?);
        }
        let outer = open_pin(&dir.join(self.name))?;
        Ok(sys::put_inner_batch(outer.as_fd(), &indices, &inner)?)
    }

    /// Puts the first inner map into the array. It has `entries` entries, is pinned in `dir` as `name`, and
    /// is created unless it exists.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub(super) fn fill(&self, name: &str, entries: u32, dir: &Path) -> io::Result<()> {
        let pin = dir.join(name);
        let inner = if pin.exists() {
            open_pin(&pin)?
        } else {
            let inner = sys::create_map(&self.inner, entries, name, None)?;
            sys::pin(inner.as_fd(), &pin)?;
            inner
        };
        let outer = open_pin(&dir.join(self.name))?;
        sys::put_inner(outer.as_fd(), 0, inner.as_fd())
    }
}

/// Creates the maps that only UDP services need, pinned in `dir`, unless they exist.
///
/// # Errors
/// The kernel has no memory for them.
pub(super) fn make_udp(dir: &Path, clients: u32) -> io::Result<()> {
    UDP_CLIENTS.fill(AFFINITY_UDP, clients, dir)?;
    UDP_LOCAL.fill(LOCAL_DATAGRAMS, MAX_LOCAL_DATAGRAMS as u32, dir)
}
