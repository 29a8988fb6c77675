//! Flows, there and back.

use std::ops::Range;

use lb_common::abi::packet::PacketCounter;
use lb_common::decide::Outcome;
use lb_common::decide::simulation::{Flows, Simulation, example};
use proptest::prelude::*;

use crate::packets::{ACK, FIN, RST, SYN, Seen, Spec, icmp, seen, tcp, udp};
use crate::{FAMILIES, Family, dropped, pass, untouched};

const CONTAINER: u32 = 1;
pub(crate) const REMOTE: u32 = 2;
const LOCAL: u32 = 3;

/// Sends a client's packet, which must go on to a backend.
pub(crate) fn there(world: &mut Simulation, spec: &Spec) -> Seen {
    let (outcome, out) = pass(world, &spec.frame());
    assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
    seen(&out)
}

/// Answers what the backend saw; the answer must go back to the client.
pub(crate) fn back(world: &mut Simulation, at_backend: &Seen, flags: u8) -> Seen {
    let spec = answer(at_backend, flags);
    world.ingress = example::INSIDE;
    let (outcome, out) = pass(world, &spec.frame());
    world.ingress = example::INGRESS;
    assert_eq!(outcome, Outcome::Redirect(example::INGRESS));
    seen(&out)
}

/// Tables of one set, in which flows soon push each other out. Those that there were are lost.
pub(crate) fn lose_flows(world: &mut Simulation) {
    world.flows = Flows::sized(1, 1024);
    world.flows.describe(&mut world.settings);
}

pub(crate) fn answer(at_backend: &Seen, flags: u8) -> Spec {
    Spec {
        src: at_backend.dst,
        dst: at_backend.src,
        sport: at_backend.dport,
        dport: at_backend.sport,
        tags: 0,
        ttl: 64,
        flags: at_backend.tcp.map(|_| flags),
        payload: 9,
    }
}

/// Opens a connection; what the backend sees of the client's packets.
pub(crate) fn open(world: &mut Simulation, family: &Family, number: u32) -> Seen {
    let service = family.service(number);
    let seen = there(world, &tcp(family.client, &service, SYN));
    back(world, &seen, SYN | ACK);
    there(world, &tcp(family.client, &service, ACK));
    assert_eq!(world.counter(PacketCounter::FlowEstablished), 1);
    seen
}

#[test]
fn a_container_sees_the_client_and_the_client_sees_the_service() {
    for family in FAMILIES {
        let mut world = family.world();
        let service = family.service(CONTAINER);
        let spec = tcp(family.client, &service, SYN);
        let seen = there(&mut world, &spec);
        assert!(family.is_backend(CONTAINER, seen.dst));
        assert_eq!(
            (seen.src, seen.sport, seen.dport),
            (spec.src, spec.sport, 5000)
        );
        assert_eq!(seen.ttl, spec.ttl - 1);
        let answer = back(&mut world, &seen, SYN | ACK);
        assert_eq!((answer.src, answer.sport), (spec.dst, 80));
        assert_eq!((answer.dst, answer.dport), (spec.src, spec.sport));
        assert_eq!(answer.payload.len(), 9);
    }
}

#[test]
fn a_remote_backend_sees_the_balancer() {
    for family in FAMILIES {
        let mut world = family.world();
        let service = family.service(REMOTE);
        let spec = tcp(family.client, &service, SYN);
        let seen = there(&mut world, &spec);
        assert!(family.is_backend(REMOTE, seen.dst));
        assert_eq!(seen.src.to_string(), family.source);
        assert!((32_768..60_768).contains(&seen.sport));
        let answer = back(&mut world, &seen, SYN | ACK);
        assert_eq!((answer.src, answer.sport), (spec.dst, 80));
        assert_eq!((answer.dst, answer.dport), (spec.src, spec.sport));
    }
}

#[test]
fn a_local_backend_gets_another_port_only_and_its_reply_is_mended() {
    for family in FAMILIES {
        let mut world = family.world();
        let spec = tcp(family.client, &family.service(LOCAL), SYN);
        let (outcome, out) = pass(&mut world, &spec.frame());
        assert_eq!(outcome, Outcome::Stack);
        let at_stack = seen(&out);
        assert_eq!((at_stack.src, at_stack.dst), (spec.src, spec.dst));
        assert_eq!((at_stack.dport, at_stack.ttl), (5000, spec.ttl));
        let mut reply = answer(&at_stack, SYN | ACK).frame();
        assert_eq!(world.send(&mut reply).outcome(), Outcome::Stack);
        let mended = seen(&reply);
        assert_eq!((mended.src, mended.sport), (spec.dst, 80));
        assert_eq!((mended.dst, mended.dport), (spec.src, spec.sport));
        // What the host sends otherwise is its own affair.
        let mut other = tcp("192.0.2.254", "203.0.113.9", ACK).frame();
        let before = other.clone();
        assert_eq!(world.send(&mut other).outcome(), Outcome::Pass);
        assert_eq!(other, before);
    }
}

#[test]
fn datagrams_go_there_and_back() {
    for family in FAMILIES {
        for number in [CONTAINER, REMOTE] {
            let mut world = family.world();
            let spec = udp(family.client, &family.service(number));
            let seen = there(&mut world, &spec);
            assert_eq!(seen.payload.len(), 32);
            let answer = back(&mut world, &seen, 0);
            assert_eq!((answer.src, answer.sport), (spec.dst, 80));
            assert_eq!(there(&mut world, &spec), seen);
            assert_eq!(world.counter(PacketCounter::FlowEstablished), 1);
        }
    }
}

#[test]
fn a_client_stays_with_its_backend_and_is_remembered_once_the_handshake_is_complete() {
    for family in FAMILIES {
        let mut world = family.world();
        let service = family.service(CONTAINER);
        let seen = there(&mut world, &tcp(family.client, &service, SYN));
        assert!(world.affinity.is_empty(), "a SYN alone is no client");
        back(&mut world, &seen, SYN | ACK);
        there(&mut world, &tcp(family.client, &service, ACK));
        assert_eq!(world.affinity.len(), 1);
        let again = Spec {
            sport: 40_001,
            ..tcp(family.client, &service, SYN)
        };
        assert_eq!(there(&mut world, &again).dst, seen.dst);
    }
}

#[test]
fn tags_of_one_or_two_vlans_are_understood() {
    for family in FAMILIES {
        for tags in [1, 2] {
            let mut world = family.world();
            let spec = Spec {
                tags,
                ..tcp(family.client, &family.service(CONTAINER), SYN)
            };
            // Nobody behind this host is in that VLAN: tags are gone.
            let seen = there(&mut world, &spec);
            assert!(family.is_backend(CONTAINER, seen.dst));
            // Who sent with tags gets answers with them.
            world.targets.clear();
            let (outcome, out) = pass(&mut world, &spec.frame());
            assert_eq!(outcome, Outcome::Transmit);
            let tagged = 12..14 + 4 * usize::from(tags);
            assert_eq!(out.0[tagged.clone()], spec.frame().0[tagged]);
        }
    }
}

#[test]
fn a_syn_on_a_flow_that_is_over_begins_a_new_one() {
    for family in FAMILIES {
        let mut world = family.world();
        let service = family.service(REMOTE);
        let seen = open(&mut world, &family, REMOTE);
        let new = world.counter(PacketCounter::FlowNew);
        // On a live one it does not.
        there(&mut world, &tcp(family.client, &service, SYN));
        assert_eq!(world.counter(PacketCounter::FlowNew), new);
        there(&mut world, &tcp(family.client, &service, FIN | ACK));
        back(&mut world, &seen, FIN | ACK);
        there(&mut world, &tcp(family.client, &service, SYN));
        assert_eq!(world.counter(PacketCounter::FlowNew), new + 1);
        // And so on a stale one.
        world.now_s += 31;
        world.affinity.clear();
        let routes: Vec<_> = world.routes.keys().copied().collect();
        for to in routes {
            let now_s = world.now_s;
            if let Some(hop) = world.routes.get_mut(&to) {
                hop.at_s = now_s;
            }
        }
        there(&mut world, &tcp(family.client, &service, SYN));
        assert_eq!(world.counter(PacketCounter::FlowNew), new + 2);
    }
}

#[test]
fn when_a_backend_is_gone_both_ends_are_told() {
    for family in FAMILIES {
        let mut world = family.world();
        let service = family.service(CONTAINER);
        let seen = open(&mut world, &family, CONTAINER);
        world.targets.clear();
        let spec = Spec {
            payload: 10,
            ..tcp(family.client, &service, ACK)
        };
        let (outcome, out) = pass(&mut world, &spec.frame());
        assert_eq!(outcome, Outcome::Transmit);
        let reset = crate::packets::seen(&out);
        assert_eq!(
            (reset.src, reset.sport, reset.dst, reset.dport),
            (spec.dst, 80, spec.src, spec.sport)
        );
        assert_eq!(reset.tcp, Some((RST, 7000, 0)), "RFC 9293, section 3.5.2");
        let (outcome, out) = pass(&mut world, &answer(&seen, ACK).frame());
        assert_eq!(outcome, Outcome::Transmit);
        assert_eq!(crate::packets::seen(&out).tcp, Some((RST, 7000, 0)));
        // A reset is not answered.
        let reset = tcp(family.client, &service, RST);
        dropped(&mut world, &reset.frame(), PacketCounter::DropNoBackend);
    }
}

#[test]
fn a_datagram_for_nobody_gets_port_unreachable_with_its_own_header() {
    for family in FAMILIES {
        let mut world = family.world();
        let spec = udp(family.client, &family.service(CONTAINER));
        there(&mut world, &spec);
        world.targets.clear();
        let frame = spec.frame();
        let (outcome, out) = pass(&mut world, &frame);
        assert_eq!(outcome, Outcome::Transmit);
        let (src, dst, kind, code, _, quoted) = icmp(&out);
        assert_eq!((src, dst), (spec.dst, spec.src));
        assert_eq!((kind, code), if family.v6 { (1, 4) } else { (3, 3) });
        assert_eq!(frame.0[14..14 + quoted.len()], quoted);
        assert_eq!(quoted.len(), if family.v6 { 48 } else { 28 });
    }
}

#[test]
fn a_syn_for_nobody_is_refused() {
    for family in FAMILIES {
        let mut world = family.world();
        world.targets.clear();
        let spec = tcp(family.client, &family.service(CONTAINER), SYN);
        let (outcome, out) = pass(&mut world, &spec.frame());
        assert_eq!(outcome, Outcome::Transmit);
        assert_eq!(seen(&out).tcp, Some((RST | ACK, 0, 1001)));
    }
}

#[test]
fn a_packet_that_is_too_big_gets_the_size_that_fits() {
    for family in FAMILIES {
        let mut world = family.world();
        for hop in world.routes.values_mut() {
            hop.mtu = 1280;
        }
        let spec = Spec {
            payload: 1400,
            ..tcp(family.client, &family.service(CONTAINER), ACK)
        };
        let (outcome, out) = pass(&mut world, &spec.frame());
        assert_eq!(outcome, Outcome::Transmit);
        let (src, dst, kind, code, mtu, _) = icmp(&out);
        assert_eq!((src, dst, mtu), (spec.dst, spec.src, 1280));
        assert_eq!((kind, code), if family.v6 { (2, 0) } else { (3, 4) });
    }
}

#[test]
fn a_packet_at_the_end_of_its_life_gets_time_exceeded() {
    for family in FAMILIES {
        let mut world = family.world();
        let spec = Spec {
            ttl: 1,
            ..tcp(family.client, &family.service(CONTAINER), SYN)
        };
        let (outcome, out) = pass(&mut world, &spec.frame());
        assert_eq!(outcome, Outcome::Transmit);
        let (_, _, kind, code, ..) = icmp(&out);
        assert_eq!((kind, code), if family.v6 { (3, 0) } else { (11, 0) });
    }
}

#[test]
fn without_a_next_hop_the_stack_delivers() {
    for family in FAMILIES {
        let mut world = family.world();
        world.routes.clear();
        let spec = tcp(family.client, &family.service(CONTAINER), SYN);
        let (outcome, out) = pass(&mut world, &spec.frame());
        assert_eq!(outcome, Outcome::Stack);
        let seen = seen(&out);
        assert!(family.is_backend(CONTAINER, seen.dst));
        assert_eq!(seen.ttl, spec.ttl, "the stack lowers it");
    }
}

#[test]
fn an_answer_to_a_client_whose_mac_address_is_not_known_is_kept_until_it_is() {
    for family in FAMILIES {
        let mut world = family.world();
        let at_backend = there(
            &mut world,
            &tcp(family.client, &family.service(CONTAINER), SYN),
        );
        world.routes.clear();
        (world.ingress, world.asks) = (example::INSIDE, example::INGRESS);
        let spec = answer(&at_backend, SYN | ACK);
        let (outcome, out) = pass(&mut world, &spec.frame());
        assert_eq!(outcome, Outcome::Neighbour(example::INGRESS));
        let seen = seen(&out);
        assert_eq!(seen.src.to_string(), family.service(CONTAINER));
        assert_eq!(seen.ttl, spec.ttl - 1, "nobody else lowers it");
        assert_eq!(world.counter(PacketCounter::Replied), 1);
    }
}

#[test]
fn packet_to_a_backend_whose_mac_address_is_not_known_is_kept_until_it_is() {
    for family in FAMILIES {
        let mut world = family.world();
        world.routes.clear();
        world.asks = example::INSIDE;
        let spec = tcp(family.client, &family.service(CONTAINER), SYN);
        let (outcome, out) = pass(&mut world, &spec.frame());
        assert_eq!(outcome, Outcome::Neighbour(example::INSIDE));
        assert_eq!(seen(&out).ttl, spec.ttl - 1, "nobody else lowers it");
        assert_eq!(world.counter(PacketCounter::Forwarded), 1);
        assert_eq!(world.counter(PacketCounter::ToStack), 0);
    }
}

#[test]
fn after_a_change_of_routes_the_way_back_is_looked_up_anew() {
    for family in FAMILIES {
        let mut world = family.world();
        let at_backend = open(&mut world, &family, CONTAINER);
        let client = example::ip(family.client);
        let before = world.routes[&client].macs;
        let macs = [0x0606_0606, 0x0404_0606, 0x0404_0404];
        world.routes.get_mut(&client).unwrap().macs = macs;
        let mac = |world: &mut Simulation| {
            world.ingress = example::INSIDE;
            let (_, out) = pass(world, &answer(&at_backend, ACK).frame());
            world.ingress = example::INGRESS;
            out.0[..4].to_vec()
        };
        assert_eq!(mac(&mut world), before[0].to_ne_bytes(), "not looked up");
        world.settings.routes_s = world.now_s + 1;
        assert_eq!(mac(&mut world), macs[0].to_ne_bytes());
    }
}

#[test]
fn a_flow_that_was_pushed_out_is_served_by_hash_again_by_the_same_port() {
    for family in FAMILIES {
        let mut world = family.world();
        lose_flows(&mut world);
        let service = family.service(REMOTE);
        let first = there(&mut world, &tcp(family.client, &service, SYN));
        lose_flows(&mut world);
        let again = there(&mut world, &tcp(family.client, &service, ACK));
        assert_eq!((first.dst, first.sport), (again.dst, again.sport));
    }
}

/// A client's packet from a port of its own.
fn from_port(family: &Family, number: u32, sport: u16, flags: u8) -> Spec {
    Spec {
        sport,
        ..tcp(family.client, &family.service(number), flags)
    }
}

/// Opens connections by these ports of a client; what the backends see.
fn open_by(world: &mut Simulation, family: &Family, number: u32, ports: Range<u16>) -> Vec<Seen> {
    ports
        .map(|sport| {
            let at_backend = there(world, &from_port(family, number, sport, SYN));
            back(world, &at_backend, SYN | ACK);
            there(world, &from_port(family, number, sport, ACK))
        })
        .collect()
}

#[test]
fn a_flood_pushes_out_no_flow_that_is_established() {
    for family in FAMILIES {
        for number in [CONTAINER, REMOTE] {
            let mut world = family.world();
            lose_flows(&mut world);
            let open = open_by(&mut world, &family, number, 40_000..40_014);
            assert_eq!(world.counter(PacketCounter::FlowQuota), 0);
            for sport in 50_000..50_500 {
                there(&mut world, &from_port(&family, number, sport, SYN));
            }
            assert!(world.counter(PacketCounter::FlowEvicted) >= 498);
            let new = world.counter(PacketCounter::FlowNew);
            for (sport, before) in (40_000..).zip(&open) {
                let seen = there(&mut world, &from_port(&family, number, sport, ACK));
                assert_eq!((seen.dst, seen.sport), (before.dst, before.sport));
                let answer = back(&mut world, before, ACK);
                assert_eq!(answer.dport, sport);
            }
            assert_eq!(world.counter(PacketCounter::FlowNew), new);
        }
    }
}

#[test]
fn a_flow_for_which_there_is_no_room_among_the_established_is_served_all_the_same() {
    for family in FAMILIES {
        let mut world = family.world();
        lose_flows(&mut world);
        open_by(&mut world, &family, CONTAINER, 40_000..40_020);
        assert_eq!(world.counter(PacketCounter::FlowEstablished), 20);
        assert_eq!(world.counter(PacketCounter::FlowQuota), 6);
        there(&mut world, &from_port(&family, CONTAINER, 40_019, ACK));
        assert_eq!(world.counter(PacketCounter::FlowNew), 20);
    }
}

#[test]
fn a_flow_for_which_there_was_no_room_is_kept_once_there_is() {
    for family in FAMILIES {
        let mut world = family.world();
        lose_flows(&mut world);
        let open = open_by(&mut world, &family, CONTAINER, 40_000..40_016);
        assert_eq!(world.counter(PacketCounter::FlowQuota), 2);
        let first_two = |world: &mut Simulation, flags| {
            for sport in [40_000, 40_001] {
                there(world, &from_port(&family, CONTAINER, sport, flags));
            }
        };
        first_two(&mut world, RST);
        world.now_s += 1;
        for sport in 40_002..40_016 {
            there(&mut world, &from_port(&family, CONTAINER, sport, ACK));
        }
        for sport in 50_000..50_500 {
            there(&mut world, &from_port(&family, CONTAINER, sport, SYN));
        }
        let new = world.counter(PacketCounter::FlowNew);
        for (sport, at_backend) in (40_002..).zip(&open[2..]) {
            there(&mut world, &from_port(&family, CONTAINER, sport, ACK));
            assert_eq!(back(&mut world, at_backend, ACK).dport, sport);
        }
        assert_eq!(world.counter(PacketCounter::FlowNew), new);
    }
}

#[test]
fn connections_that_have_ended_make_room_for_new_ones() {
    for family in FAMILIES {
        let mut world = family.world();
        lose_flows(&mut world);
        for round in 0..20 {
            let first = 40_000 + round * 14;
            let open = open_by(&mut world, &family, CONTAINER, first..first + 14);
            for (sport, at_backend) in (first..).zip(&open) {
                there(&mut world, &from_port(&family, CONTAINER, sport, FIN | ACK));
                back(&mut world, at_backend, FIN | ACK);
            }
        }
        assert_eq!(world.counter(PacketCounter::FlowEstablished), 20 * 14);
        assert_eq!(world.counter(PacketCounter::FlowQuota), 0);
        assert_eq!(world.counter(PacketCounter::FlowEvicted), 0);
    }
}

#[test]
fn what_is_for_nobody_here_passes() {
    for family in FAMILIES {
        let mut world = family.world();
        let other = if family.v6 {
            "2001:db8:9::1"
        } else {
            "198.51.100.77"
        };
        untouched(&mut world, &tcp(family.client, other, SYN).frame());
        untouched(&mut world, &udp(family.client, other).frame());
        let closed = Spec {
            dport: 81,
            ..tcp(family.client, &family.service(CONTAINER), SYN)
        };
        untouched(&mut world, &closed.frame());
    }
}

proptest! {
    #[test]
    fn there_and_back_is_the_identity(
        client: [u8; 4], client6: [u8; 14], sport: u16, payload in 0usize..1300,
        number in 1u32..=2, v6: bool, tcp_or_udp: bool,
    ) {
        let family = FAMILIES[usize::from(v6)];
        let src = if v6 {
            let mut bytes = [0x20; 16];
            bytes[2..].copy_from_slice(&client6);
            std::net::IpAddr::from(bytes)
        } else {
            std::net::IpAddr::from([client[0] % 100 + 20, client[1], client[2], client[3]])
        };
        let mut world = family.world();
        let hop = example::hop(&world, example::INGRESS);
        world.routes.insert(example::ip(&src.to_string()), hop);
        let spec = Spec {
            src, sport, payload, flags: tcp_or_udp.then_some(SYN),
            ..tcp(family.client, &family.service(number), SYN)
        };
        let at_backend = there(&mut world, &spec);
        let sent = seen(&spec.frame());
        prop_assert_eq!(&at_backend.payload, &sent.payload);
        let echoed = Spec { payload, ..answer(&at_backend, SYN | ACK) };
        world.ingress = example::INSIDE;
        let (outcome, out) = pass(&mut world, &echoed.frame());
        prop_assert_eq!(outcome, Outcome::Redirect(example::INGRESS));
        let back = seen(&out);
        prop_assert_eq!((back.src, back.sport), (sent.dst, sent.dport));
        prop_assert_eq!((back.dst, back.dport), (sent.src, sent.sport));
        prop_assert_eq!(back.payload, sent.payload);
    }
}
