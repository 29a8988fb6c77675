//! Source ports towards other hosts: whose they are, and for how long.

use std::collections::{HashMap, HashSet};

use lb_common::abi::packet::{PacketCounter, Target};
use lb_common::addr;
use lb_common::decide::Outcome;
use lb_common::decide::simulation::Simulation;

use crate::nat::{REMOTE, back, lose_flows, there};
use crate::packets::{ACK, RST, SYN, Spec, seen, tcp, udp};
use crate::{FAMILIES, Family, dropped, pass};

#[test]
fn a_source_port_is_given_out_again_only_when_its_flow_is_over() {
    for family in FAMILIES {
        let mut world = family.world();
        let places = 16;
        for target in world.targets.values_mut() {
            target.ports = places;
        }
        let service = family.service(REMOTE);
        let syn = |sport| Spec {
            sport,
            ..tcp(family.client, &service, SYN)
        };
        let mut taken = HashMap::new();
        for sport in 40_000..41_000 {
            let (outcome, out) = pass(&mut world, &syn(sport).frame());
            if outcome == Outcome::Drop {
                continue;
            }
            let at_backend = seen(&out);
            let owner = taken.insert((at_backend.dst, at_backend.sport), sport);
            assert_eq!(owner, None, "{at_backend:?} is in use");
        }
        // One client has one backend; its ports are out, most of them by one try in eight.
        assert!(taken.len() > 10, "{} of {places}", taken.len());
        assert!(world.counter(PacketCounter::DropNoPort) > 900);
        let sport = *taken.values().next().unwrap();
        let first = there(&mut world, &syn(sport));
        assert_eq!(taken[&(first.dst, first.sport)], sport, "the same flow");
        // Given up by its client, it is over, and the port is free: for it, or for another.
        let reset = Spec {
            flags: Some(RST),
            ..syn(sport)
        };
        there(&mut world, &reset);
        let new = world.counter(PacketCounter::FlowNew);
        assert_eq!(there(&mut world, &syn(sport)).sport, first.sport);
        assert_eq!(world.counter(PacketCounter::FlowNew), new + 1);
    }
}

#[test]
fn ports_of_other_cpus_are_taken_when_those_of_one_are_used_up() {
    for family in FAMILIES {
        let flows = |cpus: u32| {
            let mut world = family.world();
            for target in world.targets.values_mut() {
                target.ports = 64;
            }
            world.settings.cpus = cpus;
            let service = family.service(REMOTE);
            for sport in 40_000..41_000 {
                let syn = Spec {
                    sport,
                    ..tcp(family.client, &service, SYN)
                };
                pass(&mut world, &syn.frame());
            }
            // Flows that stay with their own backend.
            world.counter(PacketCounter::FlowNew) - world.counter(PacketCounter::FlowElsewhere)
        };
        // All packets come by one of the CPUs.
        let (alone, four, eight) = (flows(1), flows(4), flows(8));
        assert!(alone > 60 && four > 60, "{alone}, {four} of 64");
        assert!((28..=32).contains(&eight), "{eight}: four ranges of eight");
    }
}

/// A world with two source ports towards each backend.
fn with_two_ports(family: &Family) -> Box<Simulation> {
    let mut world = family.world();
    for target in world.targets.values_mut() {
        target.ports = 2;
    }
    world.settings.cpus = 1;
    world
}

/// The client's port of a flow that would get this source port, were it the next to begin.
fn heir_of(world: &Simulation, port: u16, begin: impl Fn(u16) -> Spec) -> u16 {
    (40_001..41_000)
        .find(|sport| there(&mut world.clone(), &begin(*sport)).sport == port)
        .expect("one of both ports")
}

#[test]
fn a_flow_whose_source_port_went_to_another_gets_one_anew() {
    for family in FAMILIES {
        for is_udp in [false, true] {
            let mut world = with_two_ports(&family);
            let service = family.service(REMOTE);
            let packet = |sport, flags| Spec {
                sport,
                ..if is_udp {
                    udp(family.client, &service)
                } else {
                    tcp(family.client, &service, flags)
                }
            };
            let first = there(&mut world, &packet(40_000, SYN));
            // A flood pushes it out, and another client's flow takes the port.
            lose_flows(&mut world);
            let thief = heir_of(&world, first.sport, |sport| packet(sport, SYN));
            there(&mut world, &packet(thief, SYN));
            let again = there(&mut world, &packet(40_000, ACK));
            assert_ne!(again.sport, first.sport, "it is another's now");
            let answer = back(&mut world, &again, SYN | ACK);
            assert_eq!(answer.dport, 40_000);
            let other = there(&mut world, &packet(thief, ACK));
            assert_eq!(other.sport, first.sport, "who has it keeps it");
        }
    }
}

/// A world in which some backends have two source ports and the others as many as there are.
fn with_few_ports(family: &Family, has_few: impl Fn(u32) -> bool) -> Box<Simulation> {
    let mut world = family.world();
    for (index, target) in &mut world.targets {
        if has_few(*index) {
            target.ports = 2;
        }
    }
    world.settings.cpus = 1;
    world
}

#[test]
fn new_flow_without_a_source_port_goes_to_the_next_backend() {
    for family in FAMILIES {
        for is_udp in [false, true] {
            let service = family.service(REMOTE);
            let begin = |sport| Spec {
                sport,
                ..if is_udp {
                    udp(family.client, &service)
                } else {
                    tcp(family.client, &service, SYN)
                }
            };
            let first = there(&mut family.world(), &begin(40_000)).dst;
            let is_first = |target: &Target| target.addr.to_addr() == addr::from_ip(first);
            let full = family.world();
            let full = full.targets.iter().find(|(_, target)| is_first(target));
            let full = *full.expect("the target of the backend").0;
            let mut world = with_few_ports(&family, |index| index == full);
            let backends: Vec<_> = (40_000..40_050)
                .map(|sport| there(&mut world, &begin(sport)).dst)
                .collect();
            let own = backends.iter().filter(|backend| **backend == first).count();
            assert_eq!(own, 2, "as many as there are ports");
            let others: HashSet<_> = backends.iter().filter(|b| **b != first).collect();
            assert_eq!(others.len(), 1, "the next one is always the same");
            assert_eq!(world.counter(PacketCounter::FlowElsewhere), 48);
            assert_eq!(world.counter(PacketCounter::DropNoPort), 0);
            // Packets of a connection that is not known begin nothing elsewhere.
            if !is_udp {
                let late = Spec {
                    flags: Some(ACK),
                    ..begin(41_000)
                };
                dropped(&mut world, &late.frame(), PacketCounter::DropNoPort);
            }
            // A flow that is there keeps its backend.
            assert_eq!(there(&mut world, &begin(40_000)).dst, backends[0]);
            assert_eq!(there(&mut world, &begin(40_049)).dst, backends[49]);
        }
    }
}

#[test]
fn new_flow_is_dropped_where_no_backend_has_a_source_port() {
    for family in FAMILIES {
        let mut world = with_few_ports(&family, |_| true);
        let service = family.service(REMOTE);
        for sport in 40_000..40_050 {
            let syn = Spec {
                sport,
                ..tcp(family.client, &service, SYN)
            };
            pass(&mut world, &syn.frame());
        }
        assert_eq!(world.counter(PacketCounter::FlowNew), 4, "of two backends");
        assert_eq!(world.counter(PacketCounter::FlowElsewhere), 2);
        assert_eq!(world.counter(PacketCounter::DropNoPort), 46);
    }
}
