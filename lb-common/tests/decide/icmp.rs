//! Echo, and errors about flows with what they quote.

use std::net::IpAddr;

use lb_common::abi::packet::PacketCounter;
use lb_common::decide::Outcome;
use lb_common::decide::simulation::example;
use lb_common::packet::Frame;

use crate::packets::{SYN, Seen, Spec, checksum, icmp, seen, tcp, udp};
use crate::{FAMILIES, Family, dropped, pass, untouched};

/// An ICMP message in a frame: type, code, the second word, and what follows.
pub(crate) fn message(
    src: IpAddr,
    dst: IpAddr,
    kind: u8,
    code: u8,
    word: u32,
    rest: &[u8],
) -> Frame {
    let mut body = vec![kind, code, 0, 0];
    body.extend(word.to_be_bytes());
    body.extend(rest);
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let sum = checksum(&body, 0);
            body[2..4].copy_from_slice(&sum.to_be_bytes());
            frame.extend([8, 0]);
            let mut header = etherparse::Ipv4Header::new(
                body.len() as u16,
                60,
                etherparse::IpNumber::ICMP,
                src.octets(),
                dst.octets(),
            )
            .unwrap();
            header.header_checksum = header.calc_header_checksum();
            frame.extend(header.to_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut pseudo = Vec::new();
            pseudo.extend(src.octets());
            pseudo.extend(dst.octets());
            pseudo.extend((body.len() as u32).to_be_bytes());
            pseudo.extend([0, 0, 0, 58]);
            let start = u32::from(!checksum(&pseudo, 0));
            let sum = checksum(&body, start);
            body[2..4].copy_from_slice(&sum.to_be_bytes());
            frame.extend([0x86, 0xdd]);
            let header = etherparse::Ipv6Header {
                payload_length: body.len() as u16,
                next_header: etherparse::IpNumber::IPV6_ICMP,
                hop_limit: 60,
                source: src.octets(),
                destination: dst.octets(),
                ..Default::default()
            };
            frame.extend(header.to_bytes());
        }
        _ => panic!("two families"),
    }
    frame.extend(body);
    Frame(frame)
}

/// "Too big" about a packet, quoting so many bytes of it.
fn too_big(family: &Family, from: IpAddr, to: IpAddr, about: &Frame, quoted: usize) -> Frame {
    let (kind, code) = if family.v6 { (2, 0) } else { (3, 4) };
    message(from, to, kind, code, 1300, &about.0[14..14 + quoted])
}

/// Bytes of an IP header and eight more.
fn least(family: &Family) -> usize {
    if family.v6 { 48 } else { 28 }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn an_address_of_a_service_answers_echo_and_no_other() {
    for family in FAMILIES {
        let kind = if family.v6 { 128 } else { 8 };
        let mut world = family.world();
        let client = ip(family.client);
        let service = ip(&family.service(4));
        let (outcome, out) = pass(
            &mut world,
            &message(client, service, kind, 0, 0x1234_0001, b"abcdef"),
        );
        assert_eq!(outcome, Outcome::Transmit);
        let (src, dst, answer, code, word, rest) = icmp(&out);
        assert_eq!((src, dst), (service, client));
        assert_eq!((answer, code), (if family.v6 { 129 } else { 0 }, 0));
        assert_eq!((word, rest.as_slice()), (0x1234_0001, b"abcdef".as_slice()));
        let own = ip(if family.v6 {
            "2001:db8::fe"
        } else {
            "192.0.2.254"
        });
        untouched(&mut world, &message(client, own, kind, 0, 1, b""));
        untouched(
            &mut world,
            &message(client, ip(family.router), kind, 0, 1, b""),
        );
        dropped(
            &mut world,
            &message(own, service, kind, 0, 1, b""),
            PacketCounter::DropSpoofed,
        );
    }
}

/// What a router on the client's side says of a reply reaches the backend, as if it had been about
/// what the backend sent; also when it quotes only what RFC 792 requires.
#[test]
fn an_error_about_a_reply_reaches_the_backend_mended() {
    for family in FAMILIES {
        for (number, is_udp) in [(1, false), (2, false), (1, true), (2, true)] {
            for long in [false, true] {
                let mut world = family.world();
                let spec = if is_udp {
                    udp(family.client, &family.service(number))
                } else {
                    tcp(family.client, &family.service(number), SYN)
                };
                let (_, out) = pass(&mut world, &spec.frame());
                let at_backend = seen(&out);
                let reply = answer_of(&at_backend);
                world.ingress = example::INSIDE;
                let (_, at_client) = pass(&mut world, &reply.frame());
                world.ingress = example::INGRESS;
                let quoted = if long {
                    at_client.0.len() - 14
                } else {
                    least(&family)
                };
                let error = too_big(&family, ip(family.router), spec.dst, &at_client, quoted);
                let (outcome, out) = pass(&mut world, &error);
                assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
                let (src, dst, _, _, mtu, mended) = icmp(&out);
                let from = teller(&family, number, at_backend.src);
                assert_eq!((src, dst, mtu), (from, at_backend.dst, 1300));
                let expected = reply.frame().0[14..14 + quoted].to_vec();
                same_quote(&family, &mended, &expected);
            }
        }
    }
}

/// A backend on this host gets errors about its replies, and its own kernel's errors about requests
/// reach the client.
#[test]
fn errors_from_and_to_a_backend_on_this_host_are_mended() {
    for family in FAMILIES {
        for (number, is_udp) in [(3, false), (3, true)] {
            let mut world = family.world();
            let spec = if is_udp {
                udp(family.client, &family.service(number))
            } else {
                tcp(family.client, &family.service(number), SYN)
            };
            let (outcome, at_stack) = pass(&mut world, &spec.frame());
            assert_eq!(outcome, Outcome::Stack);
            let at_backend = seen(&at_stack);
            assert_eq!((at_backend.dst, at_backend.dport), (spec.dst, 5000));
            let reply = answer_of(&at_backend);
            let mut at_client = reply.frame();
            assert_eq!(world.send(&mut at_client).outcome(), Outcome::Stack);
            // About the reply, from a router on the way.
            let router = ip(family.router);
            let error = too_big(&family, router, spec.dst, &at_client, least(&family));
            let (outcome, out) = pass(&mut world, &error);
            assert_eq!(outcome, Outcome::Stack);
            let (src, dst, _, _, mtu, mended) = icmp(&out);
            assert_eq!((src, dst, mtu), (router, spec.dst, 1300));
            let expected = reply.frame().0[14..14 + least(&family)].to_vec();
            same_quote(&family, &mended, &expected);
            // About the request, from this host's own kernel.
            let mut error = too_big(&family, spec.dst, spec.src, &at_stack, least(&family));
            assert_eq!(world.send(&mut error).outcome(), Outcome::Stack);
            let (src, dst, _, _, _, mended) = icmp(&error);
            assert_eq!((src, dst), (spec.dst, spec.src));
            same_quote(&family, &mended, &spec.frame().0[14..14 + least(&family)]);
        }
    }
}

/// Who tells of an error: the router itself; about a flow whose both addresses are changed, whom
/// the other end knows, since the router may be on the way there, too.
fn teller(family: &Family, number: u32, other: IpAddr) -> IpAddr {
    if number == 2 {
        other
    } else {
        ip(family.router)
    }
}

/// What a router on the backend's side says of a client's packet reaches the client.
#[test]
fn an_error_about_a_request_reaches_the_client_mended() {
    for family in FAMILIES {
        for number in [1, 2] {
            let mut world = family.world();
            let spec = Spec {
                payload: 100,
                ..udp(family.client, &family.service(number))
            };
            let (_, out) = pass(&mut world, &spec.frame());
            let at_backend = seen(&out);
            let error = too_big(
                &family,
                ip(family.router),
                at_backend.src,
                &out,
                least(&family),
            );
            world.ingress = example::INSIDE;
            let (outcome, mended) = pass(&mut world, &error);
            assert_eq!(outcome, Outcome::Redirect(example::INGRESS));
            let (src, dst, _, _, _, quote) = icmp(&mended);
            let from = teller(&family, number, spec.dst);
            assert_eq!((src, dst), (from, spec.src));
            same_quote(&family, &quote, &spec.frame().0[14..14 + least(&family)]);
        }
    }
}

#[test]
fn an_error_about_a_wrapped_service_is_wrapped_to_its_backend() {
    for family in FAMILIES {
        let mut world = family.world();
        let service = ip(&family.service(4));
        let (_, request) = pass(
            &mut world,
            &tcp(family.client, &family.service(4), 16).frame(),
        );
        let backend = request.0[if family.v6 { 38..54 } else { 30..34 }].to_vec();
        // The backend's reply, which went straight to the client and met a router.
        let reply = Spec {
            src: service,
            dst: ip(family.client),
            sport: 80,
            dport: 40_000,
            ..tcp(family.client, family.client, 16)
        };
        let error = too_big(
            &family,
            ip(family.router),
            service,
            &reply.frame(),
            least(&family),
        );
        let (outcome, out) = pass(&mut world, &error);
        assert_eq!(outcome, Outcome::Redirect(example::INSIDE));
        assert_eq!(out.0[if family.v6 { 38..54 } else { 30..34 }], backend);
    }
}

#[test]
fn an_error_about_nothing_known_is_dropped_and_one_for_others_passes() {
    for family in FAMILIES {
        let mut world = family.world();
        let service = ip(&family.service(1));
        let reply = Spec {
            src: service,
            dst: ip(family.client),
            sport: 80,
            dport: 40_000,
            ..tcp(family.client, family.client, 16)
        };
        let error = too_big(
            &family,
            ip(family.router),
            service,
            &reply.frame(),
            least(&family),
        );
        dropped(&mut world, &error, PacketCounter::DropIcmp);
        let client = ip(family.client);
        let other = Spec {
            src: client,
            dst: ip(family.router),
            ..tcp(family.client, family.client, 16)
        };
        let error = too_big(
            &family,
            ip(family.router),
            client,
            &other.frame(),
            least(&family),
        );
        untouched(&mut world, &error);
    }
}

fn answer_of(at_backend: &Seen) -> Spec {
    Spec {
        src: at_backend.dst,
        dst: at_backend.src,
        sport: at_backend.dport,
        dport: at_backend.sport,
        tags: 0,
        ttl: 64,
        flags: at_backend.tcp.map(|_| SYN | 16),
        payload: 40,
    }
}

/// Compares quotes but for the TTL and the checksum over it, which changed on the way.
fn same_quote(family: &Family, got: &[u8], expected: &[u8]) {
    let mut got = got.to_vec();
    let mut expected = expected.to_vec();
    assert_eq!(got.len(), expected.len());
    for quote in [&mut got, &mut expected] {
        if family.v6 {
            quote[7] = 0;
        } else {
            assert_eq!(checksum(&quote[..20], 0), 0, "the quoted IPv4 checksum");
            quote[8] = 0;
            quote[10..12].fill(0);
        }
    }
    assert_eq!(got, expected);
}

#[test]
fn backend_of_udp_that_has_nobody_at_its_port_is_counted_if_it_says_so_itself() {
    for family in FAMILIES {
        let mut world = family.world();
        let spec = udp(family.client, &family.service(1));
        let (_, out) = pass(&mut world, &spec.frame());
        let at_backend = seen(&out);
        let (kind, code) = if family.v6 { (1, 4) } else { (3, 3) };
        let quoted = &out.0[14..14 + least(&family)];
        let error = message(at_backend.dst, at_backend.src, kind, code, 0, quoted);
        let refused = |world: &lb_common::decide::simulation::Simulation| -> u64 {
            world.totals.values().map(|totals| totals.refused).sum()
        };
        pass(&mut world, &error);
        assert_eq!(refused(&world), 0, "anybody may have sent it");
        world.ingress = example::INSIDE;
        let other = message(at_backend.dst, at_backend.src, kind, 0, 0, quoted);
        pass(&mut world, &other);
        assert_eq!(refused(&world), 0);
        pass(&mut world, &error);
        assert_eq!(refused(&world), 1);
    }
}
