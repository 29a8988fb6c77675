//! Slots: sent on as they are, wrapped or by MAC address, and what happens when they change hands.

use std::net::IpAddr;
use std::sync::Arc;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_common::abi::BackendId;
use lb_common::abi::packet::{DsrSlot, PacketCounter};
use lb_common::decide::Outcome;
use lb_common::decide::simulation::{Simulation, example};
use lb_common::packet::Frame;

use crate::fragments::fragment;
use crate::packets::{ACK, RST, SYN, Seen, Spec, addresses, icmp, seen, seen_ip, tcp, udp};
use crate::{FAMILIES, Family, dropped, pass};

const WRAPPED: u32 = 4;
const GUE: u32 = 5;
const BY_MAC: u32 = 6;

/// A wrapped packet: outer source and destination, and what is inside.
fn unwrapped(frame: &Frame) -> (IpAddr, IpAddr, Seen) {
    let sliced = SlicedPacket::from_ethernet(&frame.0).unwrap();
    let (src, dst, _) = addresses(&sliced);
    let inner = match (&sliced.transport, sliced.net.as_ref().unwrap()) {
        (Some(TransportSlice::Udp(udp)), _) => {
            assert_eq!(udp.destination_port(), 6080);
            assert!(udp.source_port() >= 49_152);
            udp.payload()
        }
        (_, NetSlice::Ipv4(ip)) => ip.payload().payload,
        (_, NetSlice::Ipv6(ip)) => ip.payload().payload,
        other => panic!("{other:?}"),
    };
    (src, dst, seen_ip(inner))
}

/// Sends a packet, which must go on; where to, and as what.
fn sent(world: &mut Simulation, spec: &Spec) -> (IpAddr, IpAddr, Seen) {
    let (outcome, out) = pass(world, &spec.frame());
    assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
    unwrapped(&out)
}

fn host_part(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3].to_vec(),
        IpAddr::V6(ip) => ip.octets()[..15].to_vec(),
    }
}

#[test]
fn a_wrapped_packet_arrives_whole_with_one_hop_less() {
    for family in FAMILIES {
        for number in [WRAPPED, GUE] {
            for spec in [
                tcp(family.client, &family.service(number), ACK),
                udp(family.client, &family.service(number)),
                Spec {
                    tags: 2,
                    ..tcp(family.client, &family.service(number), ACK)
                },
            ] {
                let mut world = family.world();
                let (src, dst, inner) = sent(&mut world, &spec);
                assert!(family.is_backend(number, dst));
                let source = family.source.parse().unwrap();
                assert_eq!(host_part(src), host_part(source));
                let before = seen(
                    &Spec {
                        tags: 0,
                        ..spec.clone()
                    }
                    .frame(),
                );
                let expected = Seen {
                    ttl: spec.ttl - 1,
                    ..before
                };
                assert_eq!(inner, expected);
            }
        }
    }
}

#[test]
fn by_mac_address_only_the_frame_header_changes() {
    for family in FAMILIES {
        let mut world = family.world();
        let spec = tcp(family.client, &family.service(BY_MAC), ACK);
        let (outcome, out) = pass(&mut world, &spec.frame());
        assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
        let before = seen(&spec.frame());
        assert_eq!(
            seen(&out),
            Seen {
                ttl: spec.ttl - 1,
                ..before
            }
        );
        assert_ne!(out.0[..12], spec.frame().0[..12]);
    }
}

#[test]
fn the_other_family_can_carry() {
    let family = FAMILIES[0];
    let mut world = family.world();
    let service = world
        .services
        .values()
        .find(|service| service.head.id.0 == 8)
        .unwrap();
    let index = service.dsr[0].0.owner.index();
    let owner = service.dsr[0].0.owner;
    let service = world.services.get_mut(&8).unwrap();
    for slot in Arc::make_mut(&mut service.dsr) {
        slot.0 = DsrSlot { owner, base: owner };
    }
    let carrier = example::ip("fd00::99");
    world.targets.get_mut(&index).unwrap().addr = carrier;
    world.targets.get_mut(&index).unwrap().source = example::ip("fd00::ffff");
    let hop = example::hop(&world, example::INSIDE);
    world.routes.insert(carrier, hop);
    let (_, dst, inner) = sent(&mut world, &tcp(family.client, "192.0.2.4", ACK));
    assert_eq!(dst.to_string(), "fd00::99");
    assert_eq!(inner.src.to_string(), family.client);
}

#[test]
fn the_outer_source_varies_by_flow() {
    for family in FAMILIES {
        let mut world = family.world();
        let sources: std::collections::HashSet<IpAddr> = (0..64)
            .map(|n| {
                let spec = Spec {
                    sport: 40_000 + n,
                    ..tcp(family.client, &family.service(WRAPPED), ACK)
                };
                sent(&mut world, &spec).0
            })
            .collect();
        assert!(sources.len() > 40, "{} of 64", sources.len());
    }
}

#[test]
fn clean_slots_write_nothing_and_a_flood_neither() {
    for family in FAMILIES {
        let mut world = family.world();
        let source = example::ip(family.client);
        let hop = world.routes[&source];
        for n in 1..500u32 {
            let client = if family.v6 {
                format!("2001:db8:5::{n:x}")
            } else {
                format!("203.0.{}.{}", n / 250, n % 250 + 1)
            };
            world.routes.insert(example::ip(&client), hop);
            sent(&mut world, &tcp(&client, &family.service(WRAPPED), SYN));
        }
        assert!(world.flows.all().is_empty());
        assert!(world.tracked.is_empty() && world.affinity.is_empty());
    }
}

#[test]
fn two_balancers_send_the_same_client_to_the_same_backend() {
    for family in FAMILIES {
        let (mut one, mut two) = (family.world(), family.world());
        two.settings.seed = 77;
        let spec = tcp(family.client, &family.service(WRAPPED), SYN);
        let first = sent(&mut one, &spec);
        let rest = tcp(family.client, &family.service(WRAPPED), ACK);
        assert_eq!(first.1, sent(&mut two, &rest).1);
    }
}

/// Hands all slots of a service to other owners, as the agent would.
fn hand_over(world: &mut Simulation, family: &Family) -> (BackendId, BackendId) {
    let id = WRAPPED * 2 + u32::from(family.v6);
    let service = world.services.get_mut(&id).unwrap();
    let (old, new) = (service.members[0], service.members[1]);
    for (slot, _) in Arc::make_mut(&mut service.dsr) {
        *slot = DsrSlot {
            owner: new,
            base: old,
        };
    }
    (old, new)
}

fn address(family: &Family, id: BackendId) -> IpAddr {
    format!("{}{}", family.backends, id.index())
        .parse()
        .unwrap()
}

#[test]
fn when_a_slot_changes_hands_what_was_there_stays_and_what_is_new_goes_to_the_new_owner() {
    for family in FAMILIES {
        let mut world = family.world();
        let (old, new) = hand_over(&mut world, &family);
        let (old, new) = (address(&family, old), address(&family, new));
        let service = family.service(WRAPPED);
        // Of a client that was never seen.
        let fresh = tcp(family.client, &service, SYN);
        assert_eq!(sent(&mut world, &fresh).1, new);
        assert_eq!(sent(&mut world, &tcp(family.client, &service, ACK)).1, new);
        assert_eq!(world.tracked.len(), 1);
        // A connection of before.
        let open = Spec {
            sport: 50_000,
            ..tcp(family.client, &service, ACK)
        };
        assert_eq!(sent(&mut world, &open).1, old);
        // The client is known there now, and opens another.
        let another = Spec {
            sport: 50_001,
            ..tcp(family.client, &service, SYN)
        };
        assert_eq!(sent(&mut world, &another).1, old);
        let another = Spec {
            flags: Some(ACK),
            ..another
        };
        assert_eq!(sent(&mut world, &another).1, old);
        // And its first connection is where it was: nothing was dragged along.
        assert_eq!(sent(&mut world, &tcp(family.client, &service, ACK)).1, new);
        assert_eq!(world.tracked.len(), 1, "only what is new is tracked");
    }
}

#[test]
fn while_nobody_takes_what_is_new_open_connections_go_on() {
    for family in FAMILIES {
        let mut world = family.world();
        let id = WRAPPED * 2 + u32::from(family.v6);
        let service = world.services.get_mut(&id).unwrap();
        let old = service.members[0];
        for (slot, _) in Arc::make_mut(&mut service.dsr) {
            *slot = DsrSlot {
                owner: BackendId::NONE,
                base: old,
            };
        }
        let to = family.service(WRAPPED);
        let fresh = tcp(family.client, &to, SYN);
        let (outcome, out) = pass(&mut world, &fresh.frame());
        assert_eq!(outcome, Outcome::Transmit);
        assert_eq!(seen(&out).tcp, Some((RST | ACK, 0, 1001)), "it is refused");
        assert!(world.tracked.is_empty());
        let open = tcp(family.client, &to, ACK);
        assert_eq!(sent(&mut world, &open).1, address(&family, old));
    }
}

#[test]
fn when_the_old_owner_is_gone_the_new_one_has_all() {
    for family in FAMILIES {
        let mut world = family.world();
        let (old, new) = hand_over(&mut world, &family);
        world.targets.remove(&old.index());
        let open = tcp(family.client, &family.service(WRAPPED), ACK);
        assert_eq!(sent(&mut world, &open).1, address(&family, new));
    }
}

#[test]
fn a_syn_announces_what_fits_and_keeps_what_is_less() {
    for family in FAMILIES {
        for (mtu, expected) in [(1500, None), (9000, Some(1460))] {
            let mut world = family.world();
            for hop in world.routes.values_mut() {
                hop.mtu = mtu;
            }
            let spec = tcp(family.client, &family.service(WRAPPED), SYN);
            let (_, _, inner) = sent(&mut world, &spec);
            let (outer, inner_headers) = if family.v6 { (40, 60) } else { (20, 40) };
            let fits = mtu as u16 - outer - inner_headers;
            assert_eq!(inner.mss, Some(expected.unwrap_or(fits)));
        }
    }
}

#[test]
fn a_packet_that_does_not_fit_gets_the_size_that_does() {
    for family in FAMILIES {
        let mut world = family.world();
        let spec = Spec {
            payload: 1460,
            ..tcp(family.client, &family.service(WRAPPED), ACK)
        };
        let (outcome, out) = pass(&mut world, &spec.frame());
        assert_eq!(outcome, Outcome::Transmit);
        let (src, dst, kind, code, mtu, _) = icmp(&out);
        assert_eq!((src, dst), (spec.dst, spec.src));
        assert_eq!((kind, code), if family.v6 { (2, 0) } else { (3, 4) });
        assert_eq!(mtu, if family.v6 { 1460 } else { 1480 });
    }
}

#[test]
fn a_fragment_that_does_not_fit_is_answered_too_though_it_might_be_cut_further() {
    let family = FAMILIES[0];
    let mut world = family.world();
    let whole = Spec {
        payload: 1465,
        ..udp(family.client, &family.service(WRAPPED))
    }
    .frame();
    let data = whole.0[34..].to_vec();
    let first = fragment(&whole, 0, true, &data[..1464]);
    let (outcome, out) = pass(&mut world, &first);
    assert_eq!(outcome, Outcome::Transmit);
    let (_, _, kind, code, mtu, _) = icmp(&out);
    assert_eq!((kind, code, mtu), (3, 4, 1480));
    // Of later ones nothing is told (RFC 1122, section 3.2.2).
    let later = fragment(&whole, 1, true, &data[..1464]);
    dropped(&mut world, &later, PacketCounter::DropTooBig);
}

#[test]
fn without_a_backend_clients_are_told_and_without_a_way_packets_are_dropped() {
    for family in FAMILIES {
        let ack = tcp(family.client, &family.service(WRAPPED), ACK);
        let mut world = family.world();
        world.targets.clear();
        for (flags, answer) in [(ACK, (RST, 7000, 0)), (SYN, (RST | ACK, 0, 1001))] {
            let spec = tcp(family.client, &family.service(WRAPPED), flags);
            let (outcome, out) = pass(&mut world, &spec.frame());
            assert_eq!(outcome, Outcome::Transmit);
            let reset = seen(&out);
            assert_eq!((reset.src, reset.dst), (spec.dst, spec.src));
            assert_eq!(reset.tcp, Some(answer));
        }
        let reset = tcp(family.client, &family.service(WRAPPED), RST);
        dropped(&mut world, &reset.frame(), PacketCounter::DropNoBackend);
        let datagram = udp(family.client, &family.service(WRAPPED));
        let (outcome, out) = pass(&mut world, &datagram.frame());
        assert_eq!(outcome, Outcome::Transmit);
        let (_, _, kind, code, ..) = icmp(&out);
        assert_eq!((kind, code), if family.v6 { (1, 4) } else { (3, 3) });
        let mut world = family.world();
        world.routes.clear();
        dropped(&mut world, &ack.frame(), PacketCounter::DropNoRoute);
    }
}
