//! The check of a client against bans and lists, over the maps.

use lb_common::abi::ServiceId;
use lb_common::abi::access::{FIXED_BITS, RuleData};
use lb_common::abi::local;
use lb_common::access::{Access, refuses};
use lb_common::addr::Addr;

use aya_ebpf::btf_maps::lpm_trie::Key;

use crate::maps::{DENIED, GUARDS, RULES};
use crate::tables::now_ns;

/// Bits of the longest key.
const ALL_BITS: u32 = FIXED_BITS + 128;

/// The maps.
pub struct Maps;

impl Access for Maps {
    #[inline(always)]
    fn guards(&self, service: ServiceId) -> u32 {
        GUARDS.get(service.0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn denies(&self, data: &RuleData, now_ns: u64) -> bool {
        let [high, low] = local::halves(&data.addr);
        lb_rule_denies(data.service.0, data.kind, high, low, now_ns) != 0
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        now_ns()
    }
}

/// Whether any rule concerns a service. Without one nothing else is to be asked.
#[inline(always)]
pub fn is_guarded(service: ServiceId) -> bool {
    Maps.guards(service) != 0
}

/// Whether a service refuses a client, which is counted.
#[inline(always)]
pub fn denies(service: ServiceId, client: &Addr) -> bool {
    if !is_guarded(service) {
        return false;
    }
    let [high, low] = local::halves(client);
    lb_denied(service.0, high, low) != 0
}

/// See `Access::denies`. A function of its own to the verifier, with the key on its stack: three keys on one stack
/// are too much for kernels before 6.8.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_rule_denies(service: u32, kind: u32, high: u64, low: u64, now_ns: u64) -> u32 {
    let data = RuleData {
        service: ServiceId(service),
        kind,
        addr: local::whole([high, low]),
    };
    let rule = RULES.get(&Key::new(ALL_BITS, data));
    rule.is_some_and(|rule| rule.refuses(now_ns)).into()
}

/// The same for a client whose address has these halves (`local::Halves`). A function of its own to the
/// verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_denied(service: u32, high: u64, low: u64) -> u32 {
    if !refuses(&Maps, ServiceId(service), &local::whole([high, low])) {
        return 0;
    }
    if let Some(count) = DENIED.get_ptr_mut(service) {
        // SAFETY: this CPU's own element; the program is not preempted by another on this CPU.
        unsafe { *count += 1 };
    }
    1
}
