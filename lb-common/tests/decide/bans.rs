//! Bans and the lists of services on the packet paths.

use lb_common::abi::ServiceId;
use lb_common::abi::access::ALL_SERVICES;
use lb_common::access::{Ban, Net, Set, rules};
use lb_common::addr;
use lb_common::decide::Outcome;
use lb_common::decide::simulation::Simulation;

use crate::packets::{ACK, RST, SYN, Spec, tcp, udp};
use crate::{FAMILIES, Family, nat, pass};

/// Backends in containers, and on other hosts.
const NAT: [u32; 2] = [1, 2];
/// Wrapped, and by MAC address.
const DSR: [u32; 3] = [4, 5, 6];

/// A world in which the client of `family` is banned until `end_s`; 0 for ever.
fn banned(family: &Family, service: ServiceId, end_s: u64) -> Box<Simulation> {
    let mut world = family.world();
    let first = addr::from_ip(family.client.parse().unwrap());
    let ban = Ban {
        net: Net { first, bits: 128 },
        service,
        end_ns: end_s * 1_000_000_000,
    };
    world.access = Set::new(rules(&[ban], &[]));
    world
}

fn goes_on(world: &mut Simulation, spec: &Spec) -> bool {
    match pass(world, &spec.frame()).0 {
        Outcome::Redirect(_) => true,
        Outcome::Drop => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn new_flow_of_a_banned_client_is_dropped_and_counted_for_its_service() {
    for family in FAMILIES {
        for number in [&NAT[..], &DSR].concat() {
            let mut world = banned(&family, ALL_SERVICES, 0);
            let service = family.service(number);
            assert!(!goes_on(&mut world, &tcp(family.client, &service, SYN)));
            assert!(!goes_on(&mut world, &udp(family.client, &service)));
            assert_eq!(world.denied.values().sum::<u64>(), 2, "service {number}");
            world.access = Set::default();
            assert!(goes_on(&mut world, &tcp(family.client, &service, SYN)));
            assert_eq!(world.denied.values().sum::<u64>(), 2);
        }
    }
}

#[test]
fn ban_ends_by_itself() {
    for family in FAMILIES {
        for number in [NAT[0], DSR[0]] {
            let mut world = banned(&family, ALL_SERVICES, 1_000_001);
            let syn = tcp(family.client, &family.service(number), SYN);
            assert!(!goes_on(&mut world, &syn));
            world.now_s = 1_000_001;
            assert!(goes_on(&mut world, &syn));
        }
    }
}

#[test]
fn ban_of_another_service_changes_nothing() {
    for family in FAMILIES {
        for number in [NAT[0], DSR[0]] {
            let mut world = banned(&family, ServiceId(250), 0);
            let syn = tcp(family.client, &family.service(number), SYN);
            assert!(goes_on(&mut world, &syn));
        }
    }
}

#[test]
fn open_flow_of_nat_goes_on_until_it_is_ended_and_each_packet_of_dsr_is_dropped() {
    for family in FAMILIES {
        for (number, goes) in [(NAT[0], true), (DSR[0], false)] {
            let mut world = family.world();
            let service = family.service(number);
            assert!(goes_on(&mut world, &tcp(family.client, &service, SYN)));
            world.access = banned(&family, ALL_SERVICES, 0).access;
            let more = tcp(family.client, &service, ACK);
            assert_eq!(goes_on(&mut world, &more), goes, "service {number}");
        }
    }
}

#[test]
fn client_at_its_cap_opens_no_flow_until_one_has_ended() {
    for family in FAMILIES {
        for number in NAT {
            let mut world = family.world();
            let service = family.service(number);
            let mut capped = rules(&[], &[]);
            let id = ServiceId(number * 2 + u32::from(family.v6));
            capped.caps.insert(id, 1);
            world.access = Set::new(capped);
            nat::open(&mut world, &family, number);
            let another = Spec {
                sport: 40_001,
                ..tcp(family.client, &service, SYN)
            };
            assert!(!goes_on(&mut world, &another), "service {number}");
            assert!(goes_on(&mut world, &tcp(family.client, &service, ACK)));
            assert!(goes_on(&mut world, &tcp(family.client, &service, RST)));
            assert!(goes_on(&mut world, &another), "service {number}");
        }
    }
}
