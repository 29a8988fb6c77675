//! The rules as the agent has them: made from bans and lists, and searched without a kernel.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use super::Access;
use crate::abi::ServiceId;
use crate::abi::access::{
    ALL_SERVICES, FIXED_BITS, Rule, RuleData, RuleKey, Table, guard, verdict,
};
use crate::addr::{ANY_V4, ANY_V6, Addr};

/// A prefix of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net {
    /// Its first address.
    pub first: Addr,
    /// Bits of that which count, of 128: for IPv4 at least 96.
    pub bits: u32,
}

impl Net {
    /// All addresses of both families.
    const ALL: [Self; 2] = [
        Self {
            first: ANY_V4,
            bits: 96,
        },
        Self {
            first: ANY_V6,
            bits: 0,
        },
    ];

    /// Whether an address is in the prefix. An IPv6 prefix has no IPv4 address in it.
    pub fn contains(&self, addr: &Addr) -> bool {
        crate::addr::is_v4(&self.first) == crate::addr::is_v4(addr)
            && masked(addr, self.bits) == self.first
    }
}

/// A ban that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// The clients.
    pub net: Net,
    /// The service; [`ALL_SERVICES`] for all.
    pub service: ServiceId,
    /// Its end, CLOCK_BOOTTIME in nanoseconds; 0 for never.
    pub end_ns: u64,
}

/// The lists of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// The service.
    pub service: ServiceId,
    /// Clients that are let in.
    pub allow: Vec<Net>,
    /// Clients that are refused.
    pub deny: Vec<Net>,
}

/// The entries of the `RULES` map, and the caps in `GUARDS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    by_prefix: BTreeMap<RuleKey, Rule>,
    /// The most open connections of one client, by service; above 0.
    pub caps: BTreeMap<ServiceId, u32>,
}

impl Deref for Rules {
    type Target = BTreeMap<RuleKey, Rule>;

    fn deref(&self) -> &Self::Target {
        &self.by_prefix
    }
}

impl DerefMut for Rules {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.by_prefix
    }
}

/// The entries for these bans and lists.
///
/// A trie tells the longest prefix alone. So a ban inside of another one ends with the later of both ends. In the
/// lists the longest prefix decides, and `deny` where both have it. `allow` without `deny` refuses all others.
pub fn rules(bans: &[Ban], lists: &[Lists]) -> Rules {
    let mut rules = Rules::default();
    let mut sorted: Vec<Ban> = bans.to_vec();
    // The wider of two prefixes with the same first address comes first.
    sorted.sort_unstable_by_key(|ban| (ban.service, ban.net));
    let mut around: Vec<Ban> = Vec::new();
    for mut ban in sorted {
        let covers = |wide: &Ban| wide.service == ban.service && wide.net.contains(&ban.net.first);
        while around.last().is_some_and(|wide| !covers(wide)) {
            around.pop();
        }
        if let Some(wide) = around.last() {
            ban.end_ns = later(ban.end_ns, wide.end_ns);
        }
        let rule = Rule::new(verdict::DENY, ban.end_ns);
        rules.insert(key(Table::Bans, ban.service, &ban.net), rule);
        around.push(ban);
    }
    for list in lists {
        let mut put = |net: &Net, verdict| {
            rules.insert(key(Table::Lists, list.service, net), Rule::new(verdict, 0));
        };
        if list.deny.is_empty() && !list.allow.is_empty() {
            Net::ALL.iter().for_each(|net| put(net, verdict::DENY));
        }
        list.allow.iter().for_each(|net| put(net, verdict::ALLOW));
        list.deny.iter().for_each(|net| put(net, verdict::DENY));
    }
    rules
}

/// The later of two ends, of which 0 is never.
fn later(one: u64, other: u64) -> u64 {
    if one == 0 || other == 0 {
        0
    } else {
        one.max(other)
    }
}

fn key(table: Table, service: ServiceId, net: &Net) -> RuleKey {
    RuleKey {
        bits: FIXED_BITS + net.bits,
        data: RuleData::new(table, service, net.first),
    }
}

/// The first `bits` of an address, the others zero.
fn masked(addr: &Addr, bits: u32) -> Addr {
    let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
    (u128::from_be_bytes(*addr) & mask).to_be_bytes()
}

/// Rules that can be searched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    rules: Rules,
    /// The lengths of prefixes, in bits of [`RuleKey::bits`].
    lengths: BTreeSet<u32>,
    guards: BTreeMap<ServiceId, u32>,
}

impl Set {
    /// The set of these entries.
    pub fn new(rules: Rules) -> Self {
        let mut guards: BTreeMap<ServiceId, u32> = BTreeMap::new();
        for RuleKey { data, .. } in rules.keys() {
            let bit = match (data.kind >> 1, data.service) {
                (0, ALL_SERVICES) => guard::BANS_OF_ALL,
                (0, _) => guard::BANS,
                _ => guard::LISTS,
            };
            *guards.entry(data.service).or_default() |= bit;
        }
        for (service, cap) in &rules.caps {
            *guards.entry(*service).or_default() |= cap << guard::CAP;
        }
        Self {
            lengths: rules.keys().map(|key| key.bits).collect(),
            rules,
            guards,
        }
    }

    /// The entries.
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether a service refuses a client at `now_ns`, CLOCK_BOOTTIME in nanoseconds.
    pub fn refuses(&self, service: ServiceId, client: &Addr, now_ns: u64) -> bool {
        super::refuses(&At(self, now_ns), service, client)
    }

    /// The value of `GUARDS` for a service, see [`guard`].
    pub fn guards(&self, service: ServiceId) -> u32 {
        let of = |service| self.guards.get(&service).copied().unwrap_or(0);
        of(ALL_SERVICES) | of(service)
    }
}

/// A set at a moment.
struct At<'a>(&'a Set, u64);

impl Access for At<'_> {
    fn guards(&self, service: ServiceId) -> u32 {
        self.0.guards(service)
    }

    fn denies(&self, data: &RuleData, now_ns: u64) -> bool {
        let longest = self.0.lengths.iter().rev().find_map(|bits| {
            let data = RuleData {
                addr: masked(&data.addr, bits - FIXED_BITS),
                ..*data
            };
            self.0.rules.get(&RuleKey { bits: *bits, data })
        });
        longest.is_some_and(|rule| rule.refuses(now_ns))
    }

    fn now_ns(&self) -> u64 {
        self.1
    }
}

#[cfg(test)]
mod tests;
