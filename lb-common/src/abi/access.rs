//! Layouts of the access rules: bans, and the lists of a service's configuration.

use super::ServiceId;
use crate::addr::{self, Addr};

/// Rules that the trie can hold.
pub const MAX_RULES: usize = 131_072;

/// Bits of [`RuleData`] in front of the address. They always match in full.
pub const FIXED_BITS: u32 = 64;

/// In the place of a service: all of them.
pub const ALL_SERVICES: ServiceId = ServiceId(u32::MAX);

/// Value of the `GUARDS` map, at [`ServiceId`]: the tables to ask. With none the trie is not read.
pub mod guard {
    /// There are bans for all services.
    pub const BANS_OF_ALL: u32 = 1;
    /// There are bans for this service.
    pub const BANS: u32 = 2;
    /// The configuration of this service has `allow` or `deny`.
    pub const LISTS: u32 = 4;
    /// Bits above the others: the most open connections of one client, 0 for no cap.
    pub const CAP: u32 = 8;
}

/// Value of [`Rule::verdict`].
pub mod verdict {
    /// Clients of this prefix are refused.
    pub const DENY: u32 = 1;
    /// Clients of this prefix are let in.
    pub const ALLOW: u32 = 2;
}

/// A table of rules, of which one client meets the longest prefix.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Bans.
    Bans = 0,
    /// The lists of the configuration.
    Lists = 1,
}

/// The part of a key of the `RULES` map that is compared.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleData {
    /// The service; [`ALL_SERVICES`] for all.
    pub service: ServiceId,
    /// [`Table`] in bit 1 and the family in bit 0, which is set for IPv4: no IPv6 prefix covers mapped addresses.
    pub kind: u32,
    /// First address of the prefix, or a client.
    pub addr: Addr,
}
const _: () = assert!(size_of::<RuleData>() == 24);

impl RuleData {
    /// The data of `addr` in a table of a service.
    #[inline(always)]
    pub const fn new(table: Table, service: ServiceId, addr: Addr) -> Self {
        Self {
            service,
            kind: (table as u32) << 1 | addr::is_v4(&addr) as u32,
            addr,
        }
    }
}

/// Key of the `RULES` map (BPF_MAP_TYPE_LPM_TRIE).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// Bits of the data that count: [`FIXED_BITS`] and those of the address in its stored form.
    pub bits: u32,
    /// The data.
    pub data: RuleData,
}
const _: () = assert!(size_of::<RuleKey>() == 28);

/// Value of the `RULES` map. The kernel replaces an entry as a whole, so no reader sees half of one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The end of the rule, CLOCK_BOOTTIME in nanoseconds; 0 for never.
    pub end_ns: u64,
    /// One of [`verdict`].
    pub verdict: u32,
    /// Padding, zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<Rule>() == 16);

impl Rule {
    /// A rule with this verdict until `end_ns`; 0 for ever.
    pub const fn new(verdict: u32, end_ns: u64) -> Self {
        Self {
            end_ns,
            verdict,
            pad: 0,
        }
    }

    /// Whether a client that meets this rule at `now_ns` is refused.
    #[inline(always)]
    pub const fn refuses(&self, now_ns: u64) -> bool {
        self.verdict == verdict::DENY && (self.end_ns == 0 || now_ns < self.end_ns)
    }
}
