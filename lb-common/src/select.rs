//! The one choice of a backend, for every path: affinity, else the slot, else the next usable
//! backend in a fixed order.
//!
//! The function is pure; tables, time and the hand-over itself come through [`Tables`], in the
//! kernel from maps and on the host from a model with the same values.

use crate::abi::{
    Affinity, AffinityKey, Backend, BackendId, MAX_MEMBERS, ServiceHead, ServiceId, TABLE_SLOTS,
    state,
};
use crate::addr::{self, Addr};
use crate::hash;

/// Other slots tried when the backend of the client's own slot is away. They hand its clients to
/// the others by weight.
pub const PROBES: u32 = 8;
/// Members tried one after the other when the probes found nothing usable.
pub const WALK: u32 = 256;

/// The inputs of a choice.
pub trait Tables {
    /// Settings of the service.
    fn head(&self) -> &ServiceHead;
    /// The backend that owns a slot; `slot` is below [`TABLE_SLOTS`].
    fn slot(&self, slot: u32) -> BackendId;
    /// A member of the service; `member` is below [`MAX_MEMBERS`].
    fn member(&self, member: u32) -> BackendId;
    /// The entry at the index of `id`, whosever it is.
    fn backend(&self, id: BackendId) -> Option<Backend>;
    /// The last backend of the client.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// CLOCK_BOOTTIME in nanoseconds.
    fn now_ns(&self) -> u64;
    /// Active connections of a backend.
    fn active(&self, id: BackendId) -> u64;
    /// Active connections of the whole service.
    fn active_total(&self) -> u64;
    /// Hands the connection over, if the backend can take it now.
    fn hand_over(&mut self, backend: &Backend) -> bool;
    /// [`in_order`], for the kernel to make a function of its own of it.
    #[inline(always)]
    fn search(&mut self, client: &Client, bounded: bool) -> Option<Choice>
    where
        Self: Sized,
    {
        in_order(self, client, bounded)
    }
}

/// Why a backend was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client was there before.
    Affinity,
    /// It owns the client's slot.
    Slot,
    /// The owner of the slot is away or overloaded, and it is the next in the client's order.
    Next,
}

/// A choice made, and the connection handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The backend that has the connection.
    pub backend: BackendId,
    /// Why.
    pub reason: Reason,
}

/// A client as one service sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Key of its affinity.
    pub key: AffinityKey,
    hash: u64,
}

impl Client {
    /// The client with address `addr`.
    #[inline(always)]
    pub fn new(head: &ServiceHead, addr: &Addr) -> Self {
        let prefix = addr::client_prefix(addr, head.ipv4_prefix, head.ipv6_prefix);
        Self::with_prefix(head, prefix)
    }

    /// The client that `prefix` stands for, whole: its prefix, or its substitute
    /// where clients are told apart by something else than their addresses.
    #[inline(always)]
    pub fn with_prefix(head: &ServiceHead, prefix: Addr) -> Self {
        Self {
            key: AffinityKey {
                prefix,
                service: head.id,
            },
            hash: head.clients.of(&prefix),
        }
    }

    /// The hash of the client whose address is the number made of two halves, the most significant
    /// first: [`Client::hash`] without the key of its affinity.
    #[inline(always)]
    pub(crate) const fn hash_of(head: &ServiceHead, address: (u64, u64)) -> u64 {
        let prefix = addr::prefix_of(address, head.ipv4_prefix, head.ipv6_prefix);
        head.clients.of_halves(prefix)
    }

    /// The client with this hash, to look for a backend with.
    #[inline(always)]
    pub const fn of_hash(hash: u64) -> Self {
        Self {
            key: AffinityKey {
                prefix: addr::ANY_V6,
                service: ServiceId(0),
            },
            hash,
        }
    }

    /// The hash that its order follows from.
    #[inline(always)]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The client's own slot.
    #[inline(always)]
    pub const fn slot(&self) -> u32 {
        slot_of(self.hash)
    }

    /// The client's order of preference at `step`, from 0 for its own slot to `PROBES + WALK`;
    /// `None` after the last.
    ///
    /// First some slots in strides of the client's own, which hits backends by weight, then all
    /// members in turn from a place of the client's own, which misses none.
    #[inline(always)]
    pub fn candidate<T: Tables>(&self, tables: &T, step: u32) -> Option<BackendId> {
        let low = self.hash as u32;
        if step <= PROBES {
            let stride = 1 + hash::place(low, TABLE_SLOTS as u32 - 1);
            // At most 65,536 + 8 * 65,536: no overflow.
            return Some(tables.slot((self.slot() + step * stride) % TABLE_SLOTS as u32));
        }
        let members = tables.head().members;
        let turn = step - PROBES - 1;
        if turn >= members {
            return None;
        }
        let place = hash::place(low, members) + turn;
        let place = if place >= members {
            place - members
        } else {
            place
        };
        Some(tables.member(place % MAX_MEMBERS as u32))
    }
}

/// The slot of the client with this hash.
#[inline(always)]
pub(crate) const fn slot_of(hash: u64) -> u32 {
    hash::place((hash >> 32) as u32, TABLE_SLOTS as u32)
}

/// Chooses a backend for `client` and hands the connection over to it; `None` when no backend can
/// take it.
///
/// A known client goes to its last backend, as long as that backend is up or draining. Under a
/// bound on load (`max_load_permille`) a new client passes by backends that have their share; when
/// all have, the bound is waived.
#[inline(always)]
pub fn select<T: Tables>(tables: &mut T, client: &Client) -> Option<Choice> {
    if let Some(choice) = where_it_was(tables, client) {
        return Some(choice);
    }
    if tables.head().max_load_permille != 0
        && let Some(choice) = tables.search(client, true)
    {
        return Some(choice);
    }
    tables.search(client, false)
}

/// The choice of [`select`], if that is the client's last backend or the owner of its slot.
#[inline(always)]
pub fn first<T: Tables>(tables: &mut T, client: &Client) -> Option<Choice> {
    // Both are a long way off, and the processor fetches them at the same time.
    let owner = tables.slot(client.slot());
    if let Some(choice) = where_it_was(tables, client) {
        return Some(choice);
    }
    let backend = entry(tables, owner)?;
    let taken = tables.head().max_load_permille == 0
        && backend.state == state::UP
        && tables.hand_over(&backend);
    taken.then_some(Choice {
        backend: backend.id,
        reason: Reason::Slot,
    })
}

/// Hands the connection to the backend that a valid affinity of the client names.
#[inline(always)]
fn where_it_was<T: Tables>(tables: &mut T, client: &Client) -> Option<Choice> {
    let backend = remembered(tables, client)?;
    tables.hand_over(&backend).then_some(Choice {
        backend: backend.id,
        reason: Reason::Affinity,
    })
}

/// All members of the service in the order in which `client` would be handed to them if it were
/// not known, its own slot's first.
///
/// It leaves out states and loads, and goes on beyond [`WALK`].
#[cfg(feature = "alloc")]
pub fn order<T: Tables>(tables: &T, client: &Client) -> alloc::vec::Vec<BackendId> {
    let mut order = alloc::vec::Vec::with_capacity(tables.head().members as usize);
    // The walk meets each member once, so that only the probes have to be compared with.
    let mut probed = 0;
    let candidates = (0..).map_while(|step| Some((step, client.candidate(tables, step)?)));
    for (step, id) in candidates {
        if id != BackendId::NONE && !order[..probed].contains(&id) {
            order.push(id);
        }
        if step <= PROBES {
            probed = order.len();
        }
    }
    order
}

/// The backend that a valid affinity of the client names.
#[inline(always)]
pub fn remembered<T: Tables>(tables: &T, client: &Client) -> Option<Backend> {
    let timeout_ns = tables.head().affinity_ns;
    if timeout_ns == 0 {
        return None;
    }
    let affinity = tables.affinity(&client.key)?;
    if tables.now_ns().saturating_sub(affinity.seen_ns) >= timeout_ns {
        return None;
    }
    let backend = entry(tables, affinity.backend)?;
    matches!(backend.state, state::UP | state::DRAINING).then_some(backend)
}

/// Tries the backends of the client's order, and hands the connection to the first that takes it;
/// if `bounded`, to one that has not got its share.
#[inline(always)]
pub fn in_order<T: Tables>(tables: &mut T, client: &Client, bounded: bool) -> Option<Choice> {
    let mut step = 0;
    while step <= PROBES + WALK {
        let id = look(tables, client, step, bounded)?;
        if id != BackendId::NONE
            && let Some(backend) = tables.backend(id)
            && tables.hand_over(&backend)
        {
            let reason = if step == 0 {
                Reason::Slot
            } else {
                Reason::Next
            };
            return Some(Choice {
                backend: id,
                reason,
            });
        }
        step += 1;
    }
    None
}

/// The backend at `step` of the client's order, [`BackendId::NONE`] if it may not have the
/// connection; `None` after the last.
#[inline(always)]
fn look<T: Tables>(tables: &T, client: &Client, step: u32, bounded: bool) -> Option<BackendId> {
    let id = client.candidate(tables, step)?;
    // Trying the owner of the slot again would cost as much as the first time.
    if step != 0 && id == tables.slot(client.slot()) {
        return Some(BackendId::NONE);
    }
    let may = entry(tables, id).is_some_and(|backend| {
        backend.state == state::UP && !(bounded && has_its_share(tables, &backend))
    });
    Some(if may { id } else { BackendId::NONE })
}

/// The entry of `id`, if it still belongs to the service.
#[inline(always)]
fn entry<T: Tables>(tables: &T, id: BackendId) -> Option<Backend> {
    let backend = tables.backend(id)?;
    (id != BackendId::NONE && backend.id == id && backend.service == tables.head().id)
        .then_some(backend)
}

/// Whether a backend has `max_load` times its fair share of the active connections, the new one
/// included (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018).
#[inline(always)]
fn has_its_share<T: Tables>(tables: &T, backend: &Backend) -> bool {
    let head = tables.head();
    // active >= ceil(load * (total + 1) * weight / total_weight), without the division. The
    // factors stay below 2^64 for up to 2^28 connections.
    let bound =
        u64::from(head.max_load_permille) * (tables.active_total() + 1) * u64::from(backend.weight);
    tables.active(backend.id) * head.total_weight * 1000 >= bound
}

#[cfg(all(test, feature = "alloc"))]
mod tests;
