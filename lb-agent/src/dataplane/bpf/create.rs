//! Maps that aya does not make as they have to be: arrays of maps, and what is put into them.
//!
//! The kernel takes a map into an array of maps only if it is like the template that the array was made
//! with. In Linux 6.1 a template with type information (BTF) is unlike a map without
//! (`bpf_map_meta_equal`), and aya makes templates with it, inner maps without. So both are made here.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use lb_common::abi::local::{Asked, LocalDatagram, MAX_LOCAL_DATAGRAMS};
use lb_common::abi::packet::DsrTable;
use lb_common::abi::{Affinity, AffinityKey, MAX_SERVICES, ServiceTable};

use super::link::{bpf, open_pin};

/// What an array of maps is made of.
#[derive(Clone, Copy)]
struct Shape {
    /// `enum bpf_map_type` in `linux/bpf.h`.
    map_type: u32,
    key_size: u32,
    value_size: u32,
}

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

/// An array of maps.
pub(super) struct Outer {
    name: &'static str,
    entries: u32,
    inner: Shape,
}

/// The tables of services, which are swapped in whole.
pub(super) const TABLES: Outer = Outer {
    name: "TABLES",
    entries: MAX_SERVICES as u32,
    inner: Shape::array::<ServiceTable>(),
};

/// The same of those on the `dsr` path.
pub(super) const DSR_TABLES: Outer = Outer {
    name: "DSR_TABLES",
    entries: MAX_SERVICES as u32,
    inner: Shape::array::<DsrTable>(),
};

/// The one map of UDP clients, once there is a UDP service.
pub(super) const UDP_CLIENTS: Outer = Outer {
    name: "UDP_CLIENTS",
    entries: 1,
    inner: Shape::lru::<AffinityKey, Affinity>(),
};

/// The same of UDP sockets of this host.
pub(super) const UDP_LOCAL: Outer = Outer {
    name: "UDP_LOCAL",
    entries: 1,
    inner: Shape::lru::<LocalDatagram, Asked>(),
};

/// What [`UDP_CLIENTS`] has, where its only map is pinned.
pub(super) const AFFINITY_UDP: &str = "AFFINITY_UDP";
/// The same of [`UDP_LOCAL`].
const LOCAL_DATAGRAMS: &str = "LOCAL_DATAGRAMS";

impl Outer {
    /// Makes and pins it in `dir`, before aya would make it from the object, unless it is there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn make(&self, dir: &Path) -> io::Result<()> {
        let pin = dir.join(self.name);
        if pin.exists() {
            return Ok(());
        }
        let template = create(&self.inner, 1, "", None)?;
        let shape = Shape {
            map_type: BPF_MAP_TYPE_ARRAY_OF_MAPS,
            ..Shape::array::<u32>()
        };
        let outer = create(&shape, self.entries, self.name, Some(&template))?;
        pin_at(&outer, &pin)
    }

    /// Puts its first map in, with so many entries, which is pinned in `dir` as `name`; it is made unless it
    /// is there.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub(super) fn fill(&self, name: &str, entries: u32, dir: &Path) -> io::Result<()> {
        let pin = dir.join(name);
        let inner = if pin.exists() {
            open_pin(&pin)?
        } else {
            let inner = create(&self.inner, entries, name, None)?;
            pin_at(&inner, &pin)?;
            inner
        };
        let outer = open_pin(&dir.join(self.name))?;
        let (index, fd) = (0u32, inner.as_raw_fd() as u32);
        let mut attr = MapUpdate {
            map_fd: outer.as_raw_fd() as u32,
            pad: 0,
            key: &raw const index as u64,
            value: &raw const fd as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
    }
}

/// Makes the maps that only UDP services need, pinned in `dir`, unless they are there.
///
/// # Errors
/// When the kernel has no memory for them.
pub(super) fn make_udp(dir: &Path, clients: u32) -> io::Result<()> {
    UDP_CLIENTS.fill(AFFINITY_UDP, clients, dir)?;
    UDP_LOCAL.fill(LOCAL_DATAGRAMS, MAX_LOCAL_DATAGRAMS as u32, dir)
}

/// The kernel's `union bpf_attr` for BPF_MAP_CREATE, as of Linux 4.15.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// The same for BPF_OBJ_PIN (`pathname`, `bpf_fd`, `file_flags`).
#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The same for BPF_MAP_UPDATE_ELEM (`map_fd`, `key`, `value`, `flags`).
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_PIN: libc::c_long = 6;

fn create(
    shape: &Shape,
    max_entries: u32,
    name: &str,
    template: Option<&OwnedFd>,
) -> io::Result<OwnedFd> {
    let mut map_name = [0; 16];
    let len = name.len().min(map_name.len() - 1);
    map_name[..len].copy_from_slice(&name.as_bytes()[..len]);
    let mut attr = MapCreate {
        map_type: shape.map_type,
        key_size: shape.key_size,
        value_size: shape.value_size,
        max_entries,
        inner_map_fd: template.map_or(0, |fd| fd.as_raw_fd() as u32),
        map_name,
        ..MapCreate::default()
    };
    let fd = bpf(BPF_MAP_CREATE, &mut attr)?;
    // SAFETY: the kernel has just made it, for this process alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn pin_at(map: &OwnedFd, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjPin {
        pathname: path.as_ptr() as u64,
        bpf_fd: map.as_raw_fd() as u32,
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}
