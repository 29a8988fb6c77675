//! The rules for clients that the data plane is to have: bans, and the lists of services.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use lb_common::abi::ServiceId;
use lb_common::abi::access::ALL_SERVICES;
use lb_common::access::{self, Lists, Net, Rules};
use lb_config::http::Cidr;
use lb_net::clock::boot_ns;

use super::action::Action;
use super::desired::Desired;
use super::observed::Observed;
use super::overlay::steady_ms;

/// The rules of `desired`, for services with the ids that they have in `observed` after `actions`. Rules of
/// services without an id are left out.
pub fn rules(desired: &Desired, observed: &Observed, actions: &[Action]) -> Rules {
    let mut ids: BTreeMap<&str, ServiceId> = BTreeMap::new();
    ids.extend(observed.names.iter().map(|(id, name)| (name.as_str(), *id)));
    ids.extend(actions.iter().filter_map(|action| match action {
        Action::NameService(id, name) => Some((name.as_str(), *id)),
        _ => None,
    }));
    let bans = desired.bans.iter().filter_map(|ban| {
        let service = match &ban.service {
            Some(name) => *ids.get(name.as_str())?,
            None => ALL_SERVICES,
        };
        Some(access::Ban {
            net: net(&ban.prefix),
            service,
            end_ns: ban.until_unix_ms.map_or(0, end_ns),
        })
    });
    let lists = desired.services.iter().filter_map(|service| {
        Some(Lists {
            service: *ids.get(service.name.as_str())?,
            allow: service.allow.iter().map(net).collect(),
            deny: service.deny.iter().map(net).collect(),
        })
    });
    let mut rules = access::rules(&bans.collect::<Vec<_>>(), &lists.collect::<Vec<_>>());
    rules.caps = desired
        .services
        .iter()
        .filter_map(|service| {
            let id = *ids.get(service.name.as_str())?;
            Some((id, service.client_connections?))
        })
        .collect();
    rules
}

/// The prefix in the form of the tables.
pub fn net(prefix: &Cidr) -> Net {
    let (first, bits) = prefix.prefix();
    Net { first, bits }
}

/// A time of [`steady_ms`] by the kernel's clock, CLOCK_BOOTTIME in nanoseconds; never 0.
fn end_ns(until_unix_ms: u64) -> u64 {
    /// Both clocks at one moment, so that the same end always gives the same number.
    static BOTH: OnceLock<(u64, u64)> = OnceLock::new();
    let (steady_ms, boot_ns) = *BOTH.get_or_init(|| (steady_ms(), boot_ns()));
    let left_ms = i128::from(until_unix_ms) - i128::from(steady_ms);
    let end_ns = i128::from(boot_ns) + left_ms * 1_000_000;
    u64::try_from(end_ns.max(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::overlay::Ban;

    fn ban(prefix: &str, service: Option<&str>, until_unix_ms: Option<u64>) -> Ban {
        Ban {
            prefix: prefix.parse().unwrap(),
            service: service.map(str::to_owned),
            until_unix_ms,
            reason: None,
        }
    }

    #[test]
    fn ban_of_a_service_that_gets_its_id_now_is_there_before_the_service_listens() {
        let desired = Desired {
            bans: vec![ban("192.0.2.1", Some("web"), None)],
            ..Desired::default()
        };
        let named = [Action::NameService(ServiceId(7), "web".to_owned())];
        let rules_of = |actions: &[Action]| rules(&desired, &Observed::default(), actions);
        let services = rules_of(&named);
        let services = services.keys().map(|key| key.data.service);
        assert_eq!(services.collect::<Vec<_>>(), [ServiceId(7)]);
        assert!(rules_of(&[]).is_empty(), "no such service");
    }

    #[test]
    fn end_by_the_clock_of_the_kernel_is_as_far_away() {
        let left_ns = end_ns(steady_ms() + 60_000).abs_diff(boot_ns());
        assert!(
            left_ns.abs_diff(60_000_000_000) < 1_000_000_000,
            "{left_ns}"
        );
        let again = steady_ms() + 5;
        assert_eq!(end_ns(again), end_ns(again));
        assert_ne!(end_ns(0), 0, "0 is never");
    }
}
