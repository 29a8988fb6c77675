//! Who may come in: bans, and the lists `allow` and `deny` of services.
//!
//! [`refuses`] is the one check. The eBPF programs ask it over a trie in the kernel, the agent over a [`Set`].

#[cfg(feature = "alloc")]
mod set;

use crate::abi::ServiceId;
use crate::abi::access::{ALL_SERVICES, RuleData, Table, guard};
use crate::addr::Addr;

#[cfg(feature = "alloc")]
pub use set::{Ban, Lists, Net, Rules, Set, rules};

/// The rules in force, and the clock.
pub trait Access {
    /// Bits of [`guard`] of a service.
    fn guards(&self, service: ServiceId) -> u32;
    /// Whether the rule with the longest prefix of `data` refuses at `now_ns`.
    fn denies(&self, data: &RuleData, now_ns: u64) -> bool;
    /// CLOCK_BOOTTIME in nanoseconds.
    fn now_ns(&self) -> u64;
}

/// Whether a service refuses a client. A ban goes before the lists of the configuration.
#[inline(always)]
pub fn refuses<A: Access>(access: &A, service: ServiceId, client: &Addr) -> bool {
    let guards = access.guards(service);
    if guards == 0 {
        return false;
    }
    let now_ns = access.now_ns();
    let meets = |guard: u32, table: Table, of: ServiceId| {
        guards & guard != 0 && access.denies(&RuleData::new(table, of, *client), now_ns)
    };
    meets(guard::BANS_OF_ALL, Table::Bans, ALL_SERVICES)
        || meets(guard::BANS, Table::Bans, service)
        || meets(guard::LISTS, Table::Lists, service)
}
