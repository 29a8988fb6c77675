//! Bans and lists against clients of both families, and a set against a walk over all bans.

use alloc::vec;

use proptest::prelude::*;

use super::*;
use crate::addr::{from_ip, is_v4};

const WEB: ServiceId = ServiceId(3);
const MAIL: ServiceId = ServiceId(4);

fn net(text: &str) -> Net {
    let (addr, bits) = text.split_once('/').unwrap();
    let first = from_ip(addr.parse().unwrap());
    let bits: u32 = bits.parse().unwrap();
    Net {
        first,
        bits: if is_v4(&first) { 96 + bits } else { bits },
    }
}

fn ban(text: &str, service: ServiceId, end_ns: u64) -> Ban {
    Ban {
        net: net(text),
        service,
        end_ns,
    }
}

fn refuses(set: &Set, service: ServiceId, client: &str, now_ns: u64) -> bool {
    set.refuses(service, &from_ip(client.parse().unwrap()), now_ns)
}

#[test]
fn ban_ends_at_its_nanosecond() {
    let set = Set::new(rules(&[ban("203.0.113.0/24", ALL_SERVICES, 100)], &[]));
    assert!(refuses(&set, WEB, "203.0.113.9", 99));
    assert!(!refuses(&set, WEB, "203.0.113.9", 100));
    assert!(!refuses(&set, WEB, "203.0.114.9", 99));
}

#[test]
fn ban_of_one_service_is_none_of_another() {
    let set = Set::new(rules(&[ban("2001:db8::/32", WEB, 0)], &[]));
    assert!(refuses(&set, WEB, "2001:db8::1", u64::MAX));
    assert!(!refuses(&set, MAIL, "2001:db8::1", 1));
    assert_eq!((set.guards(WEB), set.guards(MAIL)), (guard::BANS, 0));
}

#[test]
fn short_ban_inside_of_a_long_one_does_not_shorten_it() {
    let bans = [
        ban("10.0.0.1/32", ALL_SERVICES, 10),
        ban("10.0.0.0/8", ALL_SERVICES, 0),
        ban("10.0.0.0/16", ALL_SERVICES, 50),
    ];
    let set = Set::new(rules(&bans, &[]));
    assert!(refuses(&set, WEB, "10.0.0.1", 20));
    assert!(refuses(&set, WEB, "10.0.0.2", 60));
}

#[test]
fn ipv6_prefix_does_not_cover_ipv4() {
    let set = Set::new(rules(&[ban("::/0", ALL_SERVICES, 0)], &[]));
    assert!(refuses(&set, WEB, "2001:db8::1", 1));
    assert!(!refuses(&set, WEB, "192.0.2.1", 1));
}

#[test]
fn in_the_lists_the_longest_prefix_decides() {
    let lists = [Lists {
        service: WEB,
        allow: vec![net("203.0.113.7/32")],
        deny: vec![net("203.0.113.0/24")],
    }];
    let set = Set::new(rules(&[], &lists));
    assert!(!refuses(&set, WEB, "203.0.113.7", 1));
    assert!(refuses(&set, WEB, "203.0.113.8", 1));
    assert!(!refuses(&set, WEB, "192.0.2.1", 1), "in no list");
}

#[test]
fn allow_alone_refuses_all_others() {
    let lists = [Lists {
        service: WEB,
        allow: vec![net("10.0.0.0/8")],
        deny: vec![],
    }];
    let set = Set::new(rules(&[], &lists));
    assert!(!refuses(&set, WEB, "10.1.2.3", 1));
    assert!(refuses(&set, WEB, "192.0.2.1", 1));
    assert!(refuses(&set, WEB, "2001:db8::1", 1));
    assert!(!refuses(&set, MAIL, "192.0.2.1", 1));
}

#[test]
fn ban_goes_before_allow() {
    let lists = [Lists {
        service: WEB,
        allow: vec![net("10.0.0.1/32")],
        deny: vec![],
    }];
    let set = Set::new(rules(&[ban("10.0.0.0/8", ALL_SERVICES, 0)], &lists));
    assert!(refuses(&set, WEB, "10.0.0.1", 1));
}

#[test]
fn empty_set_asks_no_table() {
    assert_eq!(Set::default().guards(WEB), 0);
    assert!(!refuses(&Set::default(), WEB, "10.0.0.1", 1));
}

proptest! {
    /// The set refuses exactly the clients of some ban that has not ended, in each scope.
    #[test]
    fn set_agrees_with_a_walk_over_all_bans(
        bans in prop::collection::vec((0u8..4, 120u32..=128, 0usize..3, 0u64..4), 0..12),
        client in 0u8..4,
        now_ns in 0u64..4,
    ) {
        let addr = |last: u8| from_ip([192, 0, 2, last << 6 | last].into());
        let bans: Vec<Ban> = bans
            .into_iter()
            .map(|(last, bits, service, end_ns)| Ban {
                net: Net { first: masked(&addr(last), bits), bits },
                service: [ALL_SERVICES, WEB, MAIL][service],
                end_ns,
            })
            .collect();
        // The agent keeps one ban for each prefix and service.
        let unique: BTreeMap<_, _> = bans.iter().map(|ban| ((ban.service, ban.net), *ban)).collect();
        let bans: Vec<Ban> = unique.into_values().collect();
        let set = Set::new(rules(&bans, &[]));
        let walked = bans.iter().any(|ban| {
            (ban.service == ALL_SERVICES || ban.service == WEB)
                && ban.net.contains(&addr(client))
                && (ban.end_ns == 0 || now_ns < ban.end_ns)
        });
        prop_assert_eq!(set.refuses(WEB, &addr(client), now_ns), walked);
    }
}
