//! Bans and the lists of services, for clients that the kernel has not checked.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLockReadGuard};

use lb_common::abi::ServiceId;
use lb_common::access::Set;
use lb_common::addr;

use super::Admission;
use crate::clock::boot_ns;

impl Admission {
    /// Puts the rules in force for all clients that come from now on.
    pub fn set_rules(&self, rules: Set) {
        let mut now = self.0.rules.write().unwrap_or_else(PoisonError::into_inner);
        *now = Arc::new(rules);
    }

    /// Whether any rule concerns a service.
    pub(super) fn is_guarded(&self, service: ServiceId) -> bool {
        self.rules().guards(service) != 0
    }

    /// Whether a service refuses a client, which is counted.
    pub fn denies(&self, service: ServiceId, client: IpAddr) -> bool {
        // The clock is not read while there is no rule.
        let denies = self.is_guarded(service)
            && self
                .rules()
                .refuses(service, &addr::from_ip(client), boot_ns());
        if denies {
            self.seats().deny(service);
        }
        denies
    }

    /// Whether any service may refuse a client.
    pub fn has_rules(&self) -> bool {
        !self.rules().rules().is_empty()
    }

    fn rules(&self) -> RwLockReadGuard<'_, Arc<Set>> {
        self.0.rules.read().unwrap_or_else(PoisonError::into_inner)
    }
}
