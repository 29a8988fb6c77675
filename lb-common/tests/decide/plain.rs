//! The short way: who takes it, and that it leads where the long one does.

use lb_common::abi::packet::PacketCounter;
use lb_common::decide::simulation::{Simulation, example};
use lb_common::decide::{Outcome, at_once};
use lb_common::packet::Frame;
use proptest::prelude::*;

use crate::packets::{ACK, FIN, RST, SYN, Spec, tcp, udp};
use crate::{FAMILIES, Family, pass};

/// Services on `nat`, and all of them.
const NAT: [u32; 2] = [1, 2];
const ALL: [u32; 5] = [1, 2, 4, 5, 6];

/// An IPv4 address that is mapped into IPv6 (RFC 4291, section 2.5.5.2).
const MAPPED: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 9];

/// Sends a packet by the short way alone.
fn takes(world: &Simulation, spec: &Spec) -> bool {
    at_once(&mut spec.frame(), &mut world.clone()).is_some()
}

/// A packet from a client in each protocol.
fn from_client(family: Family, number: u32, flags: u8) -> [Spec; 2] {
    let service = family.service(number);
    let data = Spec {
        payload: 100,
        ..tcp(family.client, &service, flags)
    };
    let datagram = Spec {
        payload: 100,
        ..udp(family.client, &service)
    };
    [data, datagram]
}

/// A world in which a client has a flow of each protocol with each service on `nat`, and what the
/// backends send back.
fn busy(family: Family) -> (Box<Simulation>, Vec<Spec>) {
    let mut world = family.world();
    let mut replies = Vec::new();
    for number in NAT {
        for (flags, answer) in [(SYN, SYN | ACK), (ACK, ACK), (ACK, ACK)] {
            for spec in from_client(family, number, flags) {
                let (_, out) = pass(&mut world, &spec.frame());
                let at_backend = crate::packets::seen(&out);
                let reply = Spec {
                    src: at_backend.dst,
                    dst: at_backend.src,
                    sport: at_backend.dport,
                    dport: at_backend.sport,
                    ttl: 64,
                    flags: spec.flags.map(|_| answer),
                    ..spec
                };
                world.ingress = example::INSIDE;
                pass(&mut world, &reply.frame());
                world.ingress = example::INGRESS;
                replies.push(reply);
            }
        }
    }
    // UDP is established by its second datagram, as TCP by the end of its handshake.
    assert_eq!(world.counter(PacketCounter::FlowEstablished), 4);
    (world, replies)
}

#[test]
fn packets_of_open_connections_take_the_short_way() {
    for family in FAMILIES {
        let (mut world, replies) = busy(family);
        for number in ALL {
            for spec in from_client(family, number, ACK) {
                // The first finds the way to the backend.
                pass(&mut world, &spec.frame());
                assert!(takes(&world, &spec), "{}, {number}", family.client);
            }
        }
        let opens = |reply: &&Spec| reply.flags.is_some_and(|flags| flags & SYN != 0);
        let (opening, others): (Vec<_>, Vec<_>) = replies.iter().partition(opens);
        assert!(others.iter().all(|reply| takes(&world, reply)));
        assert!(!opening.iter().any(|reply| takes(&world, reply)));
        // The flood of connections that lead to nothing, too.
        for number in [4, 5, 6] {
            let syn = tcp(family.client, &family.service(number), SYN);
            assert!(takes(&world, &syn), "{}, {number}", family.client);
        }
    }
}

#[test]
fn whatever_is_special_takes_the_long_way() {
    for family in FAMILIES {
        let (mut world, _) = busy(family);
        for number in ALL {
            for spec in from_client(family, number, ACK) {
                pass(&mut world, &spec.frame());
                let name = format!("{}, {number}", family.client);
                for special in specials(&spec) {
                    assert!(!takes(&world, &special), "{name}");
                }
                // Version, options, extension headers and fragments.
                let places = if family.v6 {
                    &[14, 20][..]
                } else {
                    &[14, 20, 21]
                };
                for at in places {
                    let mut frame = spec.frame();
                    frame.0[*at] ^= 0x21;
                    assert!(at_once(&mut frame, &mut *world.clone()).is_none(), "{name}");
                }
            }
        }
        if family.v6 {
            for number in ALL {
                let [spec, _] = from_client(family, number, ACK);
                // Extension headers, no next header, ICMP.
                let mut frames = [0, 43, 44, 51, 58, 59, 60].map(|next| {
                    let mut frame = spec.frame();
                    frame.0[20] = next;
                    frame
                });
                // A jumbogram (RFC 2675).
                frames[6].0[18..21].copy_from_slice(&[0, 0, 6]);
                for mut frame in frames {
                    assert!(at_once(&mut frame, &mut *world.clone()).is_none());
                }
            }
        }
        for number in NAT {
            for flags in [SYN, FIN | ACK, RST] {
                let [spec, _] = from_client(family, number, flags);
                assert!(!takes(&world, &spec), "{number}: {flags}");
            }
        }
        world.now_s += 2;
        for number in ALL {
            let [spec, _] = from_client(family, number, ACK);
            assert!(!takes(&world, &spec), "{number}: the way is not fresh");
        }
    }
}

/// The kernel's short way once took one, and chose a backend by its address.
#[test]
fn a_mapped_address_on_the_wire_takes_the_long_way() {
    let family = FAMILIES[1];
    let mut world = family.world();
    for number in [4, 5, 6] {
        // Until the way to every backend is known.
        for client in 1..64 {
            let client = format!("2001:db8:5:{client:x}::9");
            pass(
                &mut world,
                &tcp(&client, &family.service(number), ACK).frame(),
            );
        }
        let mut frame = tcp(family.client, &family.service(number), ACK).frame();
        frame.0[22..38].copy_from_slice(&MAPPED);
        assert!(
            at_once(&mut frame, &mut *world.clone()).is_none(),
            "{number}"
        );
    }
}

/// The same packet with a tag, on its last hop, and too big.
fn specials(spec: &Spec) -> [Spec; 3] {
    let mut specials = [(); 3].map(|()| spec.clone());
    specials[0].tags = 1;
    specials[1].ttl = 1;
    specials[2].payload = 1480;
    specials
}

/// A change of a packet: where, and to what.
fn change() -> impl Strategy<Value = (prop::sample::Index, u8)> {
    let value = prop_oneof![
        any::<u8>(),
        prop::sample::select(vec![0, 1, 4, 6, 17, 0x45, 0x46, 0x50, 0xff]),
    ];
    (any::<prop::sample::Index>(), value)
}

/// A client's packet or one that comes back, by its place among all.
fn packets(family: Family) -> Vec<Frame> {
    let (_, mut specs) = busy(family);
    for number in ALL {
        for flags in [SYN, ACK, FIN | ACK, RST] {
            specs.extend(from_client(family, number, flags));
        }
    }
    specs.iter().map(Spec::frame).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn both_ways_lead_to_the_same(
        v6: bool,
        steps in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::collection::vec(change(), 0..3), 0u32..40),
            1..60,
        )
    ) {
        let family = FAMILIES[usize::from(v6)];
        let (mut world, _) = busy(family);
        let packets = packets(family);
        for (which, changes, pause_s) in steps {
            // Ways get stale, and flows are noted anew.
            world.now_s += pause_s.saturating_sub(36);
            let mut frame = which.get(&packets).clone();
            for (place, value) in changes {
                let end = frame.0.len();
                frame.0[12 + place.index(end - 12)] = value;
            }
            let (outcome, _) = pass(&mut world, &frame);
            prop_assert!(!matches!(outcome, Outcome::Neighbour(_)));
        }
    }
}
