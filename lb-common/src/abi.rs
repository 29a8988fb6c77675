//! The layouts that cross between the agent and the eBPF programs, and their limits.
//!
//! Every struct is `#[repr(C)]` with its padding spelled out and its size asserted beside it.
//! A change of one raises [`ABI_VERSION`]: the agent refuses pins of another version.
//! Integers are in host byte order; addresses are [`Addr`] in network byte order.

use crate::addr::{self, Addr};
use crate::hash::ClientHash;

pub mod access;
pub mod decap;
pub mod local;
pub mod packet;

/// Version of everything in this module, kept in the pinned `META` map.
pub const ABI_VERSION: u32 = 10;
/// First word of the pinned `META` map: "lbag".
pub const META_MAGIC: u32 = u32::from_be_bytes(*b"lbag");

/// Slots of a service's Maglev table. Prime, so that every stride visits every slot.
pub const TABLE_SLOTS: usize = 65_537;
/// Services an agent can hold; [`ServiceId`]s are below it.
pub const MAX_SERVICES: usize = 256;
/// Listen addresses an agent can hold, over all services.
pub const MAX_LISTEN: usize = 1024;
/// Backends an agent can hold, over all services; [`BackendId::index`] is below it. Index 0 is
/// never given out.
pub const MAX_BACKENDS: usize = 4096;
/// Backends one service can hold.
pub const MAX_MEMBERS: usize = 1024;
/// Listening sockets remembered, over the whole network namespace.
pub const MAX_LISTENERS: usize = 65_536;
/// Sockets of one `SO_REUSEPORT` group that are remembered. The kernel spreads connections over
/// the whole group from any one of them, so that one live socket suffices.
pub const MAX_GROUP: u8 = 8;
/// Longest service name, in bytes.
pub const MAX_NAME: usize = 63;

/// Index of a service in the `TABLES` map, below [`MAX_SERVICES`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Identity of a backend: its index in the `BACKENDS` map in the lower 16 bits, and in the upper
/// 16 how often that index has been given out. An id is not used again when its backend is
/// removed, so that a remembered id never means another backend. 0 is no backend.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub u32);

impl BackendId {
    /// No backend.
    pub const NONE: Self = Self(0);

    /// The id of `index` (below [`MAX_BACKENDS`]) when it is given out for the `generation`th time.
    pub const fn new(index: u16, generation: u16) -> Self {
        Self((generation as u32) << 16 | index as u32)
    }

    /// Index in the `BACKENDS` map.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & 0xffff
    }

    /// How often the index has been given out, modulo 65,536.
    pub const fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// IP protocol numbers of the transports that are balanced (IANA "Protocol Numbers").
pub mod protocol {
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
}

/// Value of [`Backend::state`].
pub mod state {
    /// The entry is free, or its backend has been removed.
    pub const REMOVED: u8 = 0;
    /// Gets new clients.
    pub const UP: u8 = 1;
    /// Keeps the clients it has, by affinity; gets no new ones.
    pub const DRAINING: u8 = 2;
    /// Gets nothing.
    pub const DOWN: u8 = 3;
}

/// Value of [`Backend::path`].
pub mod path {
    /// Hand the connection to the backend's own listening socket on this host.
    pub const SOCKET: u8 = 1;
    /// Hand the connection to the agent, which connects to the backend.
    pub const PROXY: u8 = 2;
    /// Rewrite the packets on their way to the backend and back.
    pub const NAT: u8 = 3;
    /// Send the packets to the backend as they are, wrapped or by its MAC address; it answers the
    /// client itself.
    pub const DSR: u8 = 4;
}

/// Key of the `SERVICES` map: a listen address. [`addr::ANY_V4`] and [`addr::ANY_V6`] match every
/// address of their family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// Listen address.
    pub addr: Addr,
    /// Listen port.
    pub port: u16,
    /// One of [`protocol`].
    pub protocol: u8,
    /// Padding, zero.
    pub pad: u8,
}
const _: () = assert!(size_of::<ServiceKey>() == 20);

impl ServiceKey {
    /// The key of `addr`, `port` and `protocol`.
    #[inline(always)]
    pub const fn new(addr: Addr, port: u16, protocol: u8) -> Self {
        Self {
            addr,
            port,
            protocol,
            pad: 0,
        }
    }

    /// The key that matches every address of this one's family.
    #[inline(always)]
    pub const fn wildcard(&self) -> Self {
        Self::new(addr::wildcard_of(&self.addr), self.port, self.protocol)
    }
}

/// Key of the `LISTENERS` map: the address and port of a bound socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenKey {
    /// Bound address; a wildcard socket has its family's wildcard.
    pub addr: Addr,
    /// Bound port.
    pub port: u16,
    /// One of [`protocol`].
    pub protocol: u8,
    /// Which of the remembered sockets of a `SO_REUSEPORT` group, below [`MAX_GROUP`].
    pub member: u8,
}
const _: () = assert!(size_of::<ListenKey>() == 20);

/// Key of the `OWNERS` map: which backend of a service a socket bound to `addr` and `port` serves.
/// A backend is entered under its address and under the wildcards that would serve it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerKey {
    /// Address that the listening socket is bound to.
    pub addr: Addr,
    /// Port that the listening socket is bound to.
    pub port: u16,
    /// One of [`protocol`].
    pub protocol: u8,
    /// Padding, zero.
    pub pad: u8,
    /// The service through which the connection came.
    pub service: ServiceId,
}
const _: () = assert!(size_of::<OwnerKey>() == 24);

/// Value of the `BACKENDS` map, at [`BackendId::index`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address of the application.
    pub addr: Addr,
    /// Port of the application.
    pub port: u16,
    /// One of [`protocol`].
    pub protocol: u8,
    /// One of [`state`].
    pub state: u8,
    /// The id that this entry belongs to: an id of another generation is void. It stays when the
    /// backend is removed, so that the next owner of the index gets the next generation.
    pub id: BackendId,
    /// The service it belongs to.
    pub service: ServiceId,
    /// Weight, 1 to 65,535.
    pub weight: u16,
    /// One of [`path`].
    pub path: u8,
    /// Padding, zero.
    pub pad: u8,
}
const _: () = assert!(size_of::<Backend>() == 32);

/// Key of the `AFFINITY` maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// [`addr::client_prefix`] of the client.
    pub prefix: Addr,
    /// The service.
    pub service: ServiceId,
}
const _: () = assert!(size_of::<AffinityKey>() == 20);

/// What remembering a client changes, beside the memory itself.
#[inline(always)]
pub fn arrival(known: Option<&Affinity>, now: &Affinity, affinity_ns: u64) -> Option<Counter> {
    match known {
        None => Some(Counter::New),
        Some(known) if known.backend == now.backend => None,
        Some(known) if now.seen_ns.wrapping_sub(known.seen_ns) >= affinity_ns => None,
        Some(_) => Some(Counter::Moved),
    }
}

/// Value of the `AFFINITY` maps: the last backend of a client.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// When the client's last connection was established, CLOCK_BOOTTIME in nanoseconds.
    pub seen_ns: u64,
    /// The backend it went to.
    pub backend: BackendId,
    /// Padding, zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<Affinity>() == 16);

/// The input of [`crate::select::select`] about a service, beside its slots.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceHead {
    /// The hash that spreads its clients over slots: under the agent's secret, and salted with a digest of
    /// the service's name, so that two services spread the same clients differently.
    pub clients: ClientHash,
    /// The agent's secret, for its own hashes.
    pub hash_key: [u64; 2],
    /// How long a client is remembered after its last new connection, nanoseconds; 0 for not at
    /// all.
    pub affinity_ns: u64,
    /// Sum of the weights of the members.
    pub total_weight: u64,
    /// This service.
    pub id: ServiceId,
    /// Number of members, at most [`MAX_MEMBERS`]. With none the service does not take part: the
    /// kernel goes on as if it were not there.
    pub members: u32,
    /// Greatest load of a backend in thousandths of its fair share of active connections; 0 for
    /// no bound.
    pub max_load_permille: u32,
    /// Bits of an IPv4 client's address that count, 0 to 32.
    pub ipv4_prefix: u8,
    /// Bits of an IPv6 client's address that count, 0 to 128.
    pub ipv6_prefix: u8,
    /// [`ServiceHead::HTTP`] or nothing.
    pub flags: u16,
}
const _: () = assert!(size_of::<ServiceHead>() == 112);

impl ServiceHead {
    /// Flag of a service: its connections all go to the agent's L7 path, which chooses a backend
    /// for each request; also while the service has no member.
    pub const HTTP: u16 = 1;
}

/// Bit of a key of the `PROXY` map, beside the address family: the listener of the L7 path.
pub const PROXY_HTTP: u32 = 1 << 16;

/// The one value of a service's inner map. It is built beside the live one and swapped in whole.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ServiceTable {
    /// Settings.
    pub head: ServiceHead,
    /// The members in order of their identity; those from `head.members` on are
    /// [`BackendId::NONE`].
    pub members: [BackendId; MAX_MEMBERS],
    /// The Maglev table.
    pub slots: [BackendId; TABLE_SLOTS],
    /// Padding, zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<ServiceTable>() == 112 + 4 * (MAX_MEMBERS + TABLE_SLOTS + 1));

/// Value of the `NAMES` map, at [`ServiceId`]: lets a new agent find out which service is which.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceName {
    /// Length of the name; 0 for a free entry.
    pub len: u8,
    /// UTF-8, the rest zero.
    pub bytes: [u8; MAX_NAME],
}
const _: () = assert!(size_of::<ServiceName>() == 64);

/// The one value of the `META` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// [`META_MAGIC`].
    pub magic: u32,
    /// [`ABI_VERSION`] of the agent that made the pins.
    pub abi_version: u32,
    /// Cookie of the network namespace that is served (SO_NETNS_COOKIE). `lb_listen` notes no
    /// socket of any other.
    pub netns_cookie: u64,
}
const _: () = assert!(size_of::<Meta>() == 16);

/// Value of the `SOCKET_OWNER` socket storage: on a listening socket its bound address. The kernel
/// clones it to each accepted connection, which also holds the backend it is counted for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    /// Address that the listening socket is bound to.
    pub addr: Addr,
    /// Port that the listening socket is bound to.
    pub port: u16,
    /// Padding, zero.
    pub pad: u16,
    /// The backend that this connection is counted for; [`BackendId::NONE`] on a listening socket
    /// and on a connection that came by no service.
    pub backend: BackendId,
}
const _: () = assert!(size_of::<SocketOwner>() == 24);

/// Value of the per-CPU `BACKEND_STATS` map, at [`BackendId::index`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendStats {
    /// TCP connections established, on the socket path.
    pub connections: u64,
    /// UDP datagrams handed over, on the socket path.
    pub datagrams: u64,
}
const _: () = assert!(size_of::<BackendStats>() == 16);

/// Counters of a service. Index into the per-CPU `SERVICE_STATS` map, for those below [`Counter::STORED`]:
/// `service * Counter::STORED + counter`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Connections (datagrams for UDP) chosen by affinity.
    Affinity = 0,
    /// Chosen by slot.
    Slot = 1,
    /// Passed on because the backend of the slot was away or overloaded.
    Next = 2,
    /// Refused because no backend was usable.
    Refused = 3,
    /// Clients that were not remembered when they came.
    New = 4,
    /// Clients that were remembered with another backend than the one they went to.
    Moved = 5,
    /// Refused by a ban or by the lists of the service. The kernel has it in the map `DENIED`.
    Denied = 6,
    /// Connections refused because their client has `client_connections` open. The kernel has it in the map `CAPPED`.
    Capped = 7,
}

impl Counter {
    /// Number of counters of a service.
    pub const COUNT: usize = 8;
    /// Number of those in `SERVICE_STATS`.
    pub const STORED: usize = 6;
}
