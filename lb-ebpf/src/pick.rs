//! The choice of a backend for a new flow of the packet paths.

use lb_common::abi::{Backend, BackendId, ServiceHead, ServiceId, path};
use lb_common::addr::Addr;
use lb_common::flows::Home;
use lb_common::select::{Choice, Client, Reason, first, select};

use crate::flows::fetch;
use crate::maps::{BACKENDS, TABLES};
use crate::packet_maps::{TARGETS, scratch};
use crate::tables::{ServiceTables, Taker, search};

/// The result of a choice; see `lb_common::decide::data_path::Chosen`.
pub enum Picked {
    Packet(Choice),
    OtherPath,
    None,
}

/// See `Choices::pick`.
#[inline(always)]
pub fn pick_first(service: ServiceId, protocol: u32, client: &Addr, home: &Home) -> Option<Choice> {
    set_client(client, BackendId::NONE);
    match picked(lb_pick_first(service.0, protocol, home.number())) {
        Picked::Packet(choice) => Some(choice),
        Picked::OtherPath | Picked::None => None,
    }
}

/// See `Choices::choose`.
#[inline(always)]
pub fn pick(service: ServiceId, protocol: u32, client: &Addr, avoid: BackendId) -> Picked {
    set_client(client, avoid);
    picked(lb_pick(service.0, protocol))
}

/// Stores a client in the scratch map for [`lb_pick`] and [`lb_pick_first`], with the backend to avoid.
#[inline(always)]
fn set_client(client: &Addr, avoid: BackendId) {
    if let Some(scratch) = scratch() {
        // SAFETY: this CPU's own element.
        unsafe { (*scratch).client = *client };
        // SAFETY: as above.
        unsafe { (*scratch).avoid = avoid };
    }
}

/// Decodes a number that [`lb_pick`] returned.
#[inline(always)]
const fn picked(number: u64) -> Picked {
    let reason = match number >> 32 {
        0 => return Picked::None,
        AFFINITY => Reason::Affinity,
        SLOT => Reason::Slot,
        NEXT => Reason::Next,
        _ => return Picked::OtherPath,
    };
    let backend = BackendId(number as u32);
    Picked::Packet(Choice { backend, reason })
}

const NOBODY: u64 = 0;
const OTHER_PATH: u64 = 1 << 32;
// A backend by its id, below one of these.
const AFFINITY: u64 = 2;
const SLOT: u64 = 3;
const NEXT: u64 = 4;

/// Chooses a backend for a new flow of the client in the scratch map, as a function of its own: one of
/// the numbers above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_pick(service: u32, protocol: u32) -> u64 {
    pick_by(service, protocol, select)
}

/// The same of nothing but affinity and the client's own slot: most take that, and there is no more
/// stack. Meanwhile the set of the flow's home is fetched.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_pick_first(service: u32, protocol: u32, home: u32) -> u64 {
    pick_by(service, protocol, |tables, client| {
        fetch(&Home::of_number(home));
        first(tables, client)
    })
}

#[inline(always)]
fn pick_by<'a>(
    service: u32,
    protocol: u32,
    by: impl FnOnce(&mut ServiceTables<'a, Packets>, &Client) -> Option<Choice>,
) -> u64 {
    let Some(scratch) = scratch() else {
        return OTHER_PATH;
    };
    let Some(table) = TABLES.get_value(service, &0) else {
        return OTHER_PATH;
    };
    if table.head.members == 0 || table.head.flags & ServiceHead::HTTP != 0 {
        return OTHER_PATH;
    }
    // SAFETY: this CPU's own element.
    let client = Client::new(&table.head, unsafe { &(*scratch).client });
    let mut tables = ServiceTables {
        table,
        protocol: protocol as u8,
        taker: Packets,
    };
    let Some(choice) = by(&mut tables, &client) else {
        return NOBODY;
    };
    let by_packets = BACKENDS
        .get(choice.backend.index())
        .is_some_and(|backend| backend.path == path::NAT);
    if !by_packets {
        return OTHER_PATH;
    }
    let reason = match choice.reason {
        Reason::Affinity => AFFINITY,
        Reason::Slot => SLOT,
        Reason::Next => NEXT,
    };
    reason << 32 | u64::from(choice.backend.0)
}

/// New flows of the packet paths.
struct Packets;

impl Taker for Packets {
    /// As far as can be told from here: of backends on other paths `lb_steer` knows.
    #[inline(always)]
    fn takes(&mut self, backend: &Backend) -> bool {
        // SAFETY: this CPU's own element.
        let avoid = scratch().map(|scratch| unsafe { (*scratch).avoid });
        if avoid == Some(backend.id) {
            return false;
        }
        backend.path != path::NAT
            || TARGETS
                .get(backend.id.index())
                .is_some_and(|target| target.id == backend.id)
    }

    #[inline(always)]
    fn search(&mut self, service: u32, hash: u64, bounded: bool) -> u64 {
        lb_search_packet(service, hash, u32::from(bounded))
    }
}

/// See [`search`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_search_packet(service: u32, hash: u64, bounded: u32) -> u64 {
    search(Packets, service, hash, bounded != 0)
}
