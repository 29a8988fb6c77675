//! Layouts of the connect hooks: the addresses that clients on this host asked for, and their backends.

use super::{BackendId, ServiceId};
use crate::addr::Addr;

/// Addresses of this host that are known to the connect hooks.
pub const MAX_LOCAL_ADDRESSES: usize = 4096;
/// Pairs of an unconnected UDP socket and a backend that are remembered; the one unused for
/// longest goes first.
pub const MAX_LOCAL_DATAGRAMS: usize = 65_536;

/// An [`Addr`](crate::addr::Addr) as two numbers in memory order, which the programs can hold in
/// registers.
pub type Halves = [u64; 2];

/// The halves of an address.
#[inline(always)]
pub const fn halves(a: &Addr) -> Halves {
    [
        u64::from_ne_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_ne_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    ]
}

/// The address with these halves.
#[inline(always)]
pub const fn whole([high, low]: Halves) -> Addr {
    let (h, l) = (high.to_ne_bytes(), low.to_ne_bytes());
    [
        h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], l[0], l[1], l[2], l[3], l[4], l[5], l[6],
        l[7],
    ]
}

/// Value of the `LOCAL_PEER` socket storage, on a client's socket that has been connected to a
/// backend in the place of a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPeer {
    /// Address that the client asked for.
    pub asked: Halves,
    /// Source address that the client had bound, or the wildcard.
    pub bound: Halves,
    /// Address of the backend.
    pub addr: Halves,
    /// Port that the client asked for.
    pub asked_port: u16,
    /// Port of the backend.
    pub port: u16,
    /// The backend; [`BackendId::NONE`] when the socket has been connected to something else since.
    pub backend: BackendId,
    /// Its service.
    pub service: ServiceId,
    /// Padding, zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<LocalPeer>() == 64);

/// Key of the `LOCAL_DATAGRAMS` map: an unconnected UDP socket, and a backend that it has sent a
/// datagram to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalDatagram {
    /// Cookie of the socket (SO_COOKIE).
    pub cookie: u64,
    /// Address of the backend.
    pub addr: Halves,
    /// Port of the backend.
    pub port: u16,
    /// Padding, zero.
    pub pad: [u16; 3],
}
const _: () = assert!(size_of::<LocalDatagram>() == 32);

/// Value of the `LOCAL_DATAGRAMS` map: the address that the client asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Address.
    pub addr: Halves,
    /// Port.
    pub port: u16,
    /// Padding, zero.
    pub pad: [u16; 3],
}
const _: () = assert!(size_of::<Asked>() == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_address_survives_being_halved(addr: Addr) {
            prop_assert_eq!(whole(halves(&addr)), addr);
        }
    }
}
