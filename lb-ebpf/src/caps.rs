//! Caps on the open connections of clients: `lb_common::clients` over the maps.

use core::ptr;

use lb_common::abi::access::guard;
use lb_common::abi::{ServiceId, local};
use lb_common::addr::Addr;
use lb_common::clients::handshake::{self, Reserved, end, period, reserve};
use lb_common::clients::{Bucket, CELLS, Cells, Counted, client_bucket, handshake_bucket, open};
use lb_common::select::Client;

use crate::atomic::{fence, replace_64};
use crate::hints::{forgotten, opaque};
use crate::maps::{CAPPED, CLIENTS, GUARDS, HANDSHAKES, TABLES};
use crate::tables::now_ns;

/// A bucket in its map.
struct InMap(*mut Bucket);

impl InMap {
    #[inline(always)]
    fn at(&self, cell: u64) -> *mut u64 {
        self.0
            .cast::<u64>()
            .wrapping_add(opaque(cell as usize) % CELLS)
    }
}

impl Cells for InMap {
    #[inline(always)]
    fn word(&self, cell: u64) -> u64 {
        let place = self.at(cell);
        fence(place.cast());
        // SAFETY: inside the bucket, and aligned.
        let word = unsafe { ptr::read_volatile(place) };
        fence(place.cast());
        word
    }

    #[inline(always)]
    fn replace(&mut self, cell: u64, old: u64, new: u64) -> bool {
        // SAFETY: inside the bucket, and aligned.
        unsafe { replace_64(self.at(cell), old, new) == old }
    }

    #[inline(always)]
    fn open(&self, hash: u64) -> u32 {
        lb_open_of(hash)
    }

    #[inline(always)]
    fn best_open(&self, hash: u64) -> u64 {
        lb_best_open(hash)
    }

    #[inline(always)]
    fn best_handshake(&self, hash: u64, period: u64) -> u64 {
        lb_best_handshake(hash, period)
    }

    #[inline(always)]
    fn forgotten(&self, number: u64) -> u64 {
        forgotten(number)
    }
}

#[inline(always)]
fn clients(bucket: u32) -> Option<InMap> {
    CLIENTS.get_ptr_mut(bucket).map(InMap)
}

#[inline(always)]
fn handshakes(hash: u64) -> Option<InMap> {
    HANDSHAKES.get_ptr_mut(handshake_bucket(hash)).map(InMap)
}

/// The cap of a service; 0 for none.
#[inline(always)]
pub fn cap(service: ServiceId) -> u32 {
    GUARDS.get(service.0).copied().unwrap_or(0) >> guard::CAP
}

/// Whether a service refuses a connection because its client has too many, which is counted. Else one is reserved.
#[inline(always)]
pub fn is_full(service: ServiceId, client: &Addr) -> bool {
    let cap = cap(service);
    if cap == 0 {
        return false;
    }
    let [high, low] = local::halves(client);
    lb_is_full(lb_client_hash(service.0, high, low), cap, service.0) != 0
}

/// Counts a connection of a client that stands; [`Counted::NONE`] if the service has no cap, or no room to count.
#[inline(always)]
pub fn count(service: ServiceId, client: &Addr) -> Counted {
    if cap(service) == 0 {
        return Counted::NONE;
    }
    let [high, low] = local::halves(client);
    Counted(lb_count_client(lb_client_hash(service.0, high, low)))
}

/// Takes a connection off.
#[inline(always)]
pub fn take(counted: Counted) {
    if counted != Counted::NONE {
        lb_take_client(counted.0);
    }
}

/// The hash of the client with an address of these halves (`local::Halves`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_client_hash(service: u32, high: u64, low: u64) -> u64 {
    let Some(table) = TABLES.get_value(service, &0) else {
        return 0;
    };
    Client::new(&table.head, &local::whole([high, low])).hash()
}

/// See [`open::of`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_open_of(hash: u64) -> u32 {
    clients(client_bucket(hash)).map_or(0, |cells| open::of(&cells, hash))
}

/// See [`open::best`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_best_open(hash: u64) -> u64 {
    clients(client_bucket(hash)).map_or(0, |cells| open::best(&cells, hash))
}

/// See [`handshake::best`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_best_handshake(hash: u64, period: u64) -> u64 {
    handshakes(hash).map_or(0, |cells| handshake::best(&cells, hash, period))
}

/// See [`is_full`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_is_full(hash: u64, cap: u32, service: u32) -> u32 {
    let (Some(mut cells), Some(others)) = (handshakes(hash), clients(client_bucket(hash))) else {
        return 0;
    };
    if reserve(&mut cells, &others, hash, cap, period(now_ns())) == Reserved::Yes {
        return 0;
    }
    if let Some(count) = CAPPED.get_ptr_mut(service) {
        // SAFETY: this CPU's own element; the program is not preempted by another on this CPU.
        unsafe { *count += 1 };
    }
    1
}

/// See [`count`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_count_client(hash: u64) -> u64 {
    let (Some(mut cells), Some(mut handshakes)) = (clients(client_bucket(hash)), handshakes(hash))
    else {
        return 0;
    };
    // In this order: the sum of both is never below the truth.
    let counted = open::add(&mut cells, hash);
    end(&mut handshakes, hash, period(now_ns()));
    counted.0
}

/// See [`take`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_take_client(counted: u64) -> u32 {
    let counted = Counted(counted);
    let (bucket, _) = counted.place();
    match clients(bucket) {
        Some(mut cells) => {
            open::take(&mut cells, counted);
            1
        }
        None => 0,
    }
}
