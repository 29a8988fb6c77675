//! Clients on the network of a backend, and frames that are not for this host.

use lb_common::abi::packet::PacketCounter;
use lb_common::decide::Outcome;
use lb_common::decide::simulation::{Simulation, example};

use crate::nat::answer;
use crate::packets::{ACK, SYN, Seen, Spec, seen, tcp, udp};
use crate::{FAMILIES, Family, pass, untouched};

const CONTAINER: u32 = 1;

/// A packet from the network of the backends, which must go back to it.
fn inside(world: &mut Simulation, spec: &Spec) -> Seen {
    world.ingress = example::INSIDE;
    let (outcome, out) = pass(world, &spec.frame());
    world.ingress = example::INGRESS;
    assert_eq!(outcome, Outcome::Transmit);
    seen(&out)
}

/// A world with a route to a neighbour of the backends, and the address of that.
fn with_neighbour(family: &Family) -> (Box<Simulation>, String) {
    let mut world = family.world();
    let neighbour = format!("{}{}", family.backends, 99);
    let hop = example::hop(&world, example::INSIDE);
    world.routes.insert(example::ip(&neighbour), hop);
    (world, neighbour)
}

#[test]
fn client_on_the_backends_network_is_answered_through_the_balancer() {
    for family in FAMILIES {
        for flags in [Some(SYN), None] {
            let (mut world, neighbour) = with_neighbour(&family);
            let service = family.service(CONTAINER);
            let spec = Spec {
                flags,
                ..udp(&neighbour, &service)
            };
            let at_backend = inside(&mut world, &spec);
            assert!(family.is_backend(CONTAINER, at_backend.dst));
            assert_eq!(at_backend.src.to_string(), family.source);
            let reply = inside(&mut world, &answer(&at_backend, SYN | ACK));
            assert_eq!((reply.src, reply.sport), (spec.dst, 80));
            assert_eq!((reply.dst, reply.dport), (spec.src, spec.sport));
        }
    }
}

#[test]
fn backend_reaches_the_service_that_it_serves() {
    for family in FAMILIES {
        let mut world = family.world();
        let service = family.service(CONTAINER);
        for nth in 1..=3 {
            let index = example::index(CONTAINER, family.v6, nth);
            let backend = format!("{}{index}", family.backends);
            let at_backend = inside(&mut world, &tcp(&backend, &service, SYN));
            assert_eq!(at_backend.src.to_string(), family.source);
            let reply = inside(&mut world, &answer(&at_backend, SYN | ACK));
            assert_eq!(reply.src.to_string(), service);
            assert_eq!(reply.dst.to_string(), backend);
            assert_eq!(reply.dport, 40_000);
        }
    }
}

#[test]
fn client_from_elsewhere_keeps_its_address_on_the_way_to_a_container() {
    for family in FAMILIES {
        let (mut world, neighbour) = with_neighbour(&family);
        let spec = tcp(&neighbour, &family.service(CONTAINER), SYN);
        let (outcome, out) = pass(&mut world, &spec.frame());
        assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
        assert_eq!(seen(&out).src, spec.src);
    }
}

#[test]
fn host_without_an_address_on_the_backends_network_rewrites_no_source() {
    for family in FAMILIES {
        let (mut world, neighbour) = with_neighbour(&family);
        for target in world.targets.values_mut() {
            target.ifindex = 0;
        }
        let spec = tcp(&neighbour, &family.service(CONTAINER), SYN);
        assert_eq!(inside(&mut world, &spec).src, spec.src);
    }
}

#[test]
fn frame_for_another_host_passes() {
    for family in FAMILIES {
        let mut world = family.world();
        // As `Spec` addresses its frames.
        world.mac = [[2, 0], [0, 0], [0, 2]].map(u16::from_ne_bytes);
        let service = family.service(CONTAINER);
        let frame = tcp(family.client, &service, SYN).frame();
        let others = [
            [2, 0, 0, 0, 0, 3],
            [0xff; 6],
            [1, 0, 0x5e, 0, 0, 1],
            [0x33, 0x33, 0, 0, 0, 1],
        ];
        for mac in others {
            let mut other = frame.clone();
            other.0[..6].copy_from_slice(&mac);
            untouched(&mut world, &other);
        }
        assert_eq!(world.counter(PacketCounter::FlowNew), 0);
        let (outcome, _) = pass(&mut world, &frame);
        assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
    }
}
