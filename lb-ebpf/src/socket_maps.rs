//! The maps of the socket path and of clients on this host. See `maps`.

use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, SockHash};
use aya_ebpf::helpers::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use core::ptr;
use lb_common::abi::local::{Asked, LocalDatagram, LocalPeer, MAX_LOCAL_ADDRESSES};
use lb_common::abi::{
    BackendId, BackendStats, ListenKey, MAX_BACKENDS, MAX_LISTEN, MAX_LISTENERS, MAX_SERVICES,
    Meta, OwnerKey, ServiceId, ServiceKey, ServiceName, SocketOwner,
};
use lb_common::addr::Addr;
use lb_common::clients::Counted;

use crate::atomic::atomic_add;

/// The agent that made the pins, and its network namespace.
#[btf_map]
pub static META: Array<Meta, 1> = Array::new();

/// Names of the services, for the agent alone.
#[btf_map]
pub static NAMES: Array<ServiceName, MAX_SERVICES> = Array::new();

/// Listen addresses of the services.
#[btf_map]
pub static SERVICES: HashMap<ServiceKey, ServiceId, MAX_LISTEN> = HashMap::new();

/// Listening sockets of the network namespace. The kernel takes out a socket that is closed.
#[btf_map]
pub static LISTENERS: SockHash<ListenKey, MAX_LISTENERS> = SockHash::new();

/// The agent's own listening sockets, by address family number (AF_INET, AF_INET6).
#[btf_map]
pub static PROXY: SockHash<u32, 16> = SockHash::new();

/// Which backend of a service a listening socket serves.
#[btf_map]
pub static OWNERS: HashMap<OwnerKey, BackendId, { MAX_BACKENDS * 4 }, AS_NEEDED> = HashMap::new();

/// Totals per backend.
#[btf_map]
pub static BACKEND_STATS: PerCpuArray<BackendStats, MAX_BACKENDS> = PerCpuArray::new();

/// The bound address of a socket and the backend it is counted for; cloned to accepted sockets.
#[btf_map]
pub static SOCKET_OWNER: SocketStorage<SocketOwner, CLONED> = SocketStorage::new();

/// The cell in `CLIENTS` that a connection is counted in.
#[btf_map]
pub static SOCKET_CLIENT: SocketStorage<Counted, OWN> = SocketStorage::new();

/// Addresses of this host, and the source address that a connection to each has when the client
/// has not bound one.
#[btf_map]
pub static LOCAL_ADDRESSES: HashMap<Addr, Addr, MAX_LOCAL_ADDRESSES, AS_NEEDED> = HashMap::new();

/// The address that a client on this host asked for, when its socket was connected to a backend instead.
#[btf_map]
pub static LOCAL_PEER: SocketStorage<LocalPeer, OWN> = SocketStorage::new();

/// The same for the datagrams of unconnected UDP sockets, each of which may ask many services: one inner
/// map, which the agent makes (and pins as `LOCAL_DATAGRAMS`) when there is a UDP service.
#[btf_map]
static UDP_LOCAL: ArrayOfMaps<LruHashMap<LocalDatagram, Asked, 1>, 1> = ArrayOfMaps::new();

/// The address that a socket asked for when it was sent to a backend.
#[inline(always)]
pub fn asked_by(key: &LocalDatagram) -> Option<Asked> {
    let asked = UDP_LOCAL.get_value_ptr_mut(0, key)?;
    // SAFETY: the kernel returned a valid, aligned value, an entry of this socket's own; only a send
    // from it at the same moment changes it, and then to another address of the same backend.
    Some(unsafe { *asked })
}

/// Remembers that. `false` when there is no room for it.
#[inline(always)]
pub fn remember_asked(key: &LocalDatagram, asked: &Asked) -> bool {
    let sockets = UDP_LOCAL.get(0);
    sockets.is_some_and(|sockets| sockets.insert(key, asked, 0).is_ok())
}

/// Flags of a hash map that only the agent writes to, and that takes memory as entries come.
const AS_NEEDED: usize = BPF_F_NO_PREALLOC as usize;
/// Flags of a socket storage whose values stay with their socket.
const OWN: usize = BPF_F_NO_PREALLOC as usize;
/// The same of one whose values an accepted socket inherits from its listener.
const CLONED: usize = OWN | BPF_F_CLONE as usize;

/// A BPF_MAP_TYPE_SK_STORAGE. (`aya_ebpf::btf_maps::SkStorage` cannot express BPF_F_CLONE.)
#[repr(C)]
pub struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the fields are placeholders for the loader and are never read.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SocketStorage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The value of `socket`, if it has one.
    ///
    /// # Safety
    ///
    /// `socket` is a socket that the kernel gave to this run of the program.
    #[inline(always)]
    pub unsafe fn of<'s>(&self, socket: *mut bpf_sock) -> Option<&'s mut T> {
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the map is one of socket storage, and the caller vouches for the socket.
        let value = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0) };
        // SAFETY: the kernel returns null or a value that lives as long as the socket; programs
        // run for one socket one after the other.
        unsafe { value.cast::<T>().as_mut() }
    }

    /// The value of `socket`, all zero if it had none. `None` when the kernel has no memory for it.
    ///
    /// # Safety
    ///
    /// `socket` is a socket that the kernel gave to this run of the program.
    #[inline(always)]
    pub unsafe fn made<'s>(&self, socket: *mut bpf_sock) -> Option<&'s mut T> {
        let map = ptr::from_ref(self).cast_mut().cast();
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // SAFETY: the map is one of socket storage, and the caller vouches for the socket.
        let value = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), create) };
        // SAFETY: as in `of`.
        unsafe { value.cast::<T>().as_mut() }
    }

    /// Gives `socket` a value. Fails when the kernel has no memory for it.
    ///
    /// # Safety
    ///
    /// `socket` is a socket that the kernel gave to this run of the program.
    #[inline(always)]
    pub unsafe fn set(&self, socket: *mut bpf_sock, value: T) -> Result<(), ()> {
        // SAFETY: the caller vouches for the socket.
        *unsafe { self.made(socket) }.ok_or(())? = value;
        Ok(())
    }
}

/// Adds to a counter that all CPUs share.
#[inline(always)]
pub fn add<const N: usize>(counters: &Array<u64, N>, index: u32, amount: i64) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the kernel returned a valid, aligned element of the map.
        unsafe { atomic_add(counter, amount) };
    }
}

/// The service that listens on an address: as such, else on the wildcard of its family.
#[inline(always)]
pub fn service_at(key: &ServiceKey) -> Option<ServiceId> {
    // SAFETY: the agent is the only writer; a service id is one aligned word, read whole.
    let exact = unsafe { SERVICES.get(key) };
    if let Some(service) = exact {
        return Some(*service);
    }
    // SAFETY: as above.
    unsafe { SERVICES.get(key.wildcard()) }.copied()
}
