//! Connections of the host itself, and backends that go out of service.

use std::collections::HashSet;

use lb_common::abi::packet::{FlowKey, PacketCounter};
use lb_common::abi::{protocol, state};
use lb_common::decide::Outcome;
use lb_common::decide::simulation::example;

use crate::nat::{answer, back, open, there};
use crate::packets::{ACK, RST, SYN, Spec, seen, tcp, udp};
use crate::{FAMILIES, dropped, pass, untouched};

const CONTAINER: u32 = 1;

fn key(spec: &Spec) -> FlowKey {
    let protocol = match spec.flags {
        Some(_) => protocol::TCP,
        None => protocol::UDP,
    };
    FlowKey {
        src: example::ip(&spec.src.to_string()),
        dst: example::ip(&spec.dst.to_string()),
        sport_be: spec.sport.to_be(),
        dport_be: spec.dport.to_be(),
        protocol: protocol.into(),
    }
}

#[test]
fn reply_to_a_connection_of_this_host_from_a_port_of_a_service_is_the_stacks() {
    for family in FAMILIES {
        let service = family.service(CONTAINER);
        let replies = [
            tcp(family.client, &service, SYN | ACK),
            tcp(family.client, &service, ACK),
            tcp(family.client, &service, RST),
            udp(family.client, &service),
        ];
        for reply in replies {
            let mut world = family.world();
            world.sockets = HashSet::from([key(&reply)]);
            untouched(&mut world, &reply.frame());
            assert_eq!(world.counter(PacketCounter::FlowNew), 0);
        }
    }
}

#[test]
fn answer_to_a_syn_that_nobody_sent_is_refused_and_begins_no_flow() {
    for family in FAMILIES {
        let mut world = family.world();
        let answer = tcp(family.client, &family.service(CONTAINER), SYN | ACK);
        let (outcome, out) = pass(&mut world, &answer.frame());
        assert_eq!(outcome, Outcome::Transmit);
        assert_eq!(seen(&out).tcp, Some((RST, 7000, 0)));
        assert_eq!(world.counter(PacketCounter::FlowNew), 0);
    }
}

#[test]
fn client_whose_ends_are_those_of_a_socket_may_still_open_a_connection() {
    for family in FAMILIES {
        let mut world = family.world();
        let spec = tcp(family.client, &family.service(CONTAINER), SYN);
        world.sockets = HashSet::from([key(&spec)]);
        there(&mut world, &spec);
        assert_eq!(world.counter(PacketCounter::FlowNew), 1);
    }
}

#[test]
fn syn_that_waits_for_a_backend_out_of_service_goes_to_the_next_one() {
    for family in FAMILIES {
        for out_of_service in [state::DOWN, state::DRAINING] {
            let mut world = family.world();
            let spec = tcp(family.client, &family.service(CONTAINER), SYN);
            let first = there(&mut world, &spec);
            for backend in world.backends.values_mut() {
                if lb_common::addr::to_ip(&backend.addr) == first.dst {
                    backend.state = out_of_service;
                }
            }
            let second = there(&mut world, &spec);
            let moves = out_of_service == state::DOWN;
            assert_eq!(second.dst != first.dst, moves, "{out_of_service}");
        }
    }
}

#[test]
fn open_connection_stays_when_its_backend_goes_out_of_service() {
    for family in FAMILIES {
        let mut world = family.world();
        let seen = open(&mut world, &family, CONTAINER);
        for backend in world.backends.values_mut() {
            backend.state = state::DOWN;
        }
        let again = there(
            &mut world,
            &tcp(family.client, &family.service(CONTAINER), ACK),
        );
        assert_eq!(again.dst, seen.dst);
        back(&mut world, &seen, ACK);
    }
}

#[test]
fn client_that_the_rules_of_the_host_refuse_opens_nothing() {
    for family in FAMILIES {
        for spec in [
            tcp(family.client, &family.service(CONTAINER), SYN),
            udp(family.client, &family.service(CONTAINER)),
        ] {
            let mut world = family.world();
            world.settings.rules = 1;
            there(&mut world, &spec);
            let mut world = family.world();
            world.settings.rules = 1;
            world.barred.insert(example::ip(family.client));
            dropped(&mut world, &spec.frame(), PacketCounter::DropNoRoute);
            assert_eq!(world.counter(PacketCounter::FlowNew), 0);
        }
    }
}

#[test]
fn answer_to_a_client_behind_a_blackhole_route_is_dropped() {
    for family in FAMILIES {
        let mut world = family.world();
        let seen = there(
            &mut world,
            &tcp(family.client, &family.service(CONTAINER), SYN),
        );
        world.unreachable.insert(example::ip(family.client));
        world.ingress = example::INSIDE;
        let reply = answer(&seen, SYN | ACK).frame();
        dropped(&mut world, &reply, PacketCounter::DropNoRoute);
    }
}

#[test]
fn dsr_packet_of_a_client_that_the_rules_of_the_host_refuse_is_dropped() {
    for family in FAMILIES {
        for number in [4, 5, 6] {
            for spec in [
                tcp(family.client, &family.service(number), SYN),
                tcp(family.client, &family.service(number), ACK),
                udp(family.client, &family.service(number)),
            ] {
                let mut world = family.world();
                world.settings.rules = 1;
                let (outcome, _) = pass(&mut world, &spec.frame());
                assert!(matches!(outcome, Outcome::Redirect(_)), "{outcome:?}");
                // Nothing is stored, so this holds for open connections as well.
                world.barred.insert(example::ip(family.client));
                dropped(&mut world, &spec.frame(), PacketCounter::DropNoRoute);
            }
        }
    }
}

#[test]
fn client_without_a_way_back_is_not_taken_for_one_that_rules_refuse() {
    for family in FAMILIES {
        let mut world = family.world();
        world.settings.rules = 1;
        world.unreachable.insert(example::ip(family.client));
        let spec = tcp(family.client, &family.service(4), SYN);
        let (outcome, _) = pass(&mut world, &spec.frame());
        // A backend of `dsr` answers by itself.
        assert!(matches!(outcome, Outcome::Redirect(_)), "{outcome:?}");
    }
}

#[test]
fn open_flow_of_a_client_that_rules_refuse_since_gets_no_answers_after_half_a_minute() {
    for family in FAMILIES {
        let mut world = family.world();
        let seen = open(&mut world, &family, CONTAINER);
        world.settings.rules = 1;
        world.barred.insert(example::ip(family.client));
        back(&mut world, &seen, ACK);
        world.now_s += 30;
        world.ingress = example::INSIDE;
        let reply = answer(&seen, ACK).frame();
        dropped(&mut world, &reply, PacketCounter::DropNoRoute);
        dropped(&mut world, &reply, PacketCounter::DropNoRoute);
        world.barred.clear();
        back(&mut world, &seen, ACK);
    }
}
