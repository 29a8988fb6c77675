//! The tables of services, and the specs from which they are built.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::abi::{BackendId, MAX_MEMBERS, ServiceHead, ServiceId, ServiceTable, TABLE_SLOTS};
use crate::hash::{self, ClientHash};
use crate::maglev::{self, Member};

/// The table of a service, and the spec from which it was built.
#[derive(Clone, Debug)]
pub struct Built {
    spec: Arc<TableSpec>,
    table: Arc<ServiceTable>,
}

/// The input of a table. Two equal specs give equal tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Settings; `members` and `total_weight` are filled in by [`TableSpec::new`].
    pub head: ServiceHead,
    /// The members, sorted by address and port.
    pub members: Vec<(Member, BackendId)>,
}

impl TableSpec {
    /// The spec of a service with these settings and members, in any order. There are at most
    /// [`MAX_MEMBERS`] of them.
    pub fn new(mut head: ServiceHead, mut members: Vec<(Member, BackendId)>) -> Self {
        members.sort_unstable_by_key(|(member, _)| (member.addr, member.port));
        head.members = members.len() as u32;
        head.total_weight = members
            .iter()
            .map(|(member, _)| u64::from(member.weight))
            .sum();
        Self { head, members }
    }
}

impl Built {
    /// Builds the table of `spec`.
    pub fn new(spec: TableSpec) -> Self {
        let members: Vec<Member> = spec.members.iter().map(|(member, _)| *member).collect();
        let ids = spec.members.iter().map(|(_, id)| *id);
        let mut table = ServiceTable {
            head: spec.head,
            members: [BackendId::NONE; MAX_MEMBERS],
            slots: [BackendId::NONE; TABLE_SLOTS],
            pad: 0,
        };
        for (place, id) in table.members.iter_mut().zip(ids) {
            *place = id;
        }
        let mut owners = vec![0; TABLE_SLOTS];
        if maglev::fill(&members, &mut owners).is_ok() {
            for (slot, owner) in table.slots.iter_mut().zip(owners) {
                // A table without members has no owner for any slot.
                *slot = table
                    .members
                    .get(owner as usize)
                    .copied()
                    .unwrap_or_default();
            }
        }
        Self {
            spec: Arc::new(spec),
            table: Arc::new(table),
        }
    }

    /// The spec from which the table was built.
    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// Whether the connections of the service go to the L7 path.
    pub fn is_http(&self) -> bool {
        self.table.head.flags & ServiceHead::HTTP != 0
    }

    /// The table in the layout of the kernel's map.
    pub fn table(&self) -> &ServiceTable {
        &self.table
    }

    /// The part of the slots that a backend owns, 0 to 1.
    pub fn share(&self, id: BackendId) -> f64 {
        let owned = self.table.slots.iter().filter(|slot| **slot == id).count();
        owned as f64 / TABLE_SLOTS as f64
    }
}

/// The settings of a service that are part of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadSettings {
    /// The agent's secret key for the hash of clients.
    pub hash_key: [u64; 2],
    /// Affinity timeout in nanoseconds; 0 for none.
    pub affinity_ns: u64,
    /// Bound on a backend's load, in thousandths of its fair share; 0 for none.
    pub max_load_permille: u32,
    /// Leading bits of an IPv4 client address that are hashed, 0 to 32.
    pub ipv4_prefix: u8,
    /// Leading bits of an IPv6 client address that are hashed, 0 to 128.
    pub ipv6_prefix: u8,
    /// Whether connections of the service go to the L7 path.
    pub http: bool,
}

impl HeadSettings {
    /// The head of a service's table, without members. Clients are hashed by the salt of `name`.
    pub fn head(&self, id: ServiceId, name: &str) -> ServiceHead {
        ServiceHead {
            clients: ClientHash::new(self.hash_key, hash::salt(name)),
            hash_key: self.hash_key,
            affinity_ns: self.affinity_ns,
            total_weight: 0,
            id,
            members: 0,
            max_load_permille: self.max_load_permille,
            ipv4_prefix: self.ipv4_prefix,
            ipv6_prefix: self.ipv6_prefix,
            flags: if self.http { ServiceHead::HTTP } else { 0 },
        }
    }
}
