//! Source ports towards other hosts: whose they are, and for how long.

use std::collections::HashMap;

use lb_common::abi::packet::PacketCounter;
use lb_common::decide::Outcome;
use lb_common::decide::simulation::Simulation;

use crate::nat::{REMOTE, back, lose_flows, there};
use crate::packets::{ACK, RST, SYN, Spec, seen, tcp, udp};
use crate::{FAMILIES, Family, pass};

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
            world.counter(PacketCounter::FlowNew)
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
