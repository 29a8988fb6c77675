//! `lb_decap` in the kernel does the same as `lb_common::decap` on the host. Compared are every
//! wrapping, each truncated at every byte, and 200,000 mutated packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use lb_agent::dataplane::bpf::decap::{self, Decap, Mode, Settings};
use lb_common::addr;
use lb_common::decap::{Admission, Outcome, unwrap};
use lb_tests::prog_run::PacketProgram;
use lb_tests::random::Random;
use lb_tests::topology::hosts::Host;
use lb_tests::wire::{self, Ipv4, Ipv6, Tcp, number};

const GUE_PORT: u16 = 6080;
const BALANCER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const BACKEND_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const BALANCER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const BACKEND_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// XDP_DROP and XDP_PASS.
const VERDICTS: (u32, u32) = (1, 2);

struct Program {
    program: PacketProgram,
    pins: PathBuf,
}

impl Program {
    fn load(host: &Host, from: &[(IpAddr, u32)]) -> Self {
        for address in ["192.0.2.2/32", "2001:db8::2/128"] {
            host.ip(&["addr", "add", address, "dev", "lo"]);
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pins = format!("/sys/fs/bpf/lbt-decap-{}-{count}", std::process::id());
        let pins = PathBuf::from(pins);
        let settings = Settings {
            gue_port: Some(GUE_PORT),
            from: from
                .iter()
                .map(|(ip, bits)| (addr::from_ip(*ip), *bits))
                .collect(),
        };
        host.run(|| {
            let decap = Decap::attach("lo", Some(Mode::Generic), &settings).unwrap();
            decap.pin(&pins, "lo").unwrap();
        });
        let program = PacketProgram::open(&pins.join("lo/program")).unwrap();
        Self { program, pins }
    }

    /// Runs both, which must agree.
    fn agree(&mut self, frame: &[u8], may: impl Fn(IpAddr) -> bool) -> Outcome {
        let mut on_host = frame.to_vec();
        let outcome = unwrap(&mut on_host, GUE_PORT.to_be(), |wrapped| {
            let to = addr::to_ip(&wrapped.destination);
            let here = [IpAddr::from(BACKEND_V4), IpAddr::from(BACKEND_V6)].contains(&to);
            let may = may(addr::to_ip(&wrapped.source));
            match (here || to.is_loopback(), may) {
                (false, _) => Admission::OtherHost,
                (true, false) => Admission::Refused,
                (true, true) => Admission::Admitted,
            }
        });
        let (verdict, after) = self.program.run(frame).unwrap();
        let (drop, pass) = VERDICTS;
        let expected = if outcome.passes() { pass } else { drop };
        assert_eq!(verdict, expected, "{outcome:?}: {frame:02x?}");
        assert_eq!(after, on_host, "{outcome:?}: {frame:02x?}");
        outcome
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = decap::detach(&self.pins, "lo");
        let _ = std::fs::remove_dir(&self.pins);
    }
}

fn inners() -> [Vec<u8>; 2] {
    let (client, vip) = ([203, 0, 113, 9].into(), [198, 51, 100, 1].into());
    let syn = Tcp::new(40_000, 80, 2).bytes(IpAddr::V4(client), IpAddr::V4(vip));
    let (client6, vip6) = (
        "2001:db8:1::9".parse().unwrap(),
        "2001:db8:2::1".parse().unwrap(),
    );
    let question = wire::udp(
        (IpAddr::V6(client6), 40_000),
        (IpAddr::V6(vip6), 53),
        b"odd",
    );
    [
        Ipv4::new(client, vip).packet(number::TCP, &syn),
        Ipv6::new(client6, vip6).packet(number::UDP, &question),
    ]
}

fn gue(src: IpAddr, dst: IpAddr, variant: u8, inner: &[u8], protocol: u8) -> Vec<u8> {
    let head: &[u8] = if variant == 0 {
        &[0, protocol, 0, 0]
    } else {
        &[]
    };
    wire::udp((src, 50_000), (dst, GUE_PORT), &[head, inner].concat())
}

/// Frames with each wrapping of each inner packet, and the expected unwrapped frames.
fn wrapped() -> Vec<(Vec<u8>, Vec<u8>)> {
    let v4 = Ipv4::new(BALANCER_V4, BACKEND_V4);
    let v6 = Ipv6::new(BALANCER_V6, BACKEND_V6);
    let mut all = Vec::new();
    let tags: [&[(u16, u16)]; 3] = [&[], &[(0x8100, 5)], &[(0x88a8, 5), (0x8100, 6)]];
    for tags in tags {
        for (inner, protocol) in inners().iter().zip([number::IPV4, number::IPV6]) {
            let gue4 = |variant| {
                gue(
                    BALANCER_V4.into(),
                    BACKEND_V4.into(),
                    variant,
                    inner,
                    protocol,
                )
            };
            let gue6 = |variant| {
                gue(
                    BALANCER_V6.into(),
                    BACKEND_V6.into(),
                    variant,
                    inner,
                    protocol,
                )
            };
            for outer in [
                v4.packet(protocol, inner),
                v6.packet(protocol, inner),
                v4.packet(number::UDP, &gue4(0)),
                v4.packet(number::UDP, &gue4(1)),
                v6.packet(number::UDP, &gue6(0)),
                v6.packet(number::UDP, &gue6(1)),
            ] {
                all.push((wire::frame(tags, &outer), wire::frame(tags, inner)));
            }
        }
    }
    all
}

#[test]
fn every_wrapping_comes_off_in_the_kernel_too_and_nothing_that_is_cut_off() {
    let host = Host::new("decap");
    let mut program = Program::load(&host, &[]);
    for (frame, inner) in wrapped() {
        assert_eq!(program.agree(&frame, |_| true), Outcome::Unwrapped);
        let (_, after) = program.program.run(&frame).unwrap();
        assert_eq!(after, inner);
        assert!(wire::see(after).is_ok());
        // The kernel takes no frame shorter than its Ethernet header.
        for len in 14..frame.len() {
            let outcome = program.agree(&frame[..len], |_| true);
            assert_ne!(outcome, Outcome::Unwrapped);
        }
    }
}

#[test]
fn mutated_packets_get_the_same_in_the_kernel_and_on_the_host() {
    let host = Host::new("decap");
    let mut program = Program::load(&host, &[]);
    let frames = wrapped();
    let mut random = Random::new();
    let mut seen = [0u32; Outcome::COUNT];
    for _ in 0..200_000 {
        let (mut frame, _) = frames[random.below(frames.len() as u64) as usize].clone();
        for _ in 0..random.below(4) {
            let at = random.below(frame.len().min(90) as u64) as usize;
            frame[at] = random.number() as u8;
        }
        if random.below(8) == 0 {
            frame.truncate(14 + random.below(frame.len() as u64 - 14) as usize);
        }
        seen[program.agree(&frame, |_| true) as usize] += 1;
    }
    println!("{seen:?}");
    for outcome in [
        Outcome::Unwrapped,
        Outcome::NotWrapped,
        Outcome::OtherHost,
        Outcome::Malformed,
    ] {
        assert!(seen[outcome as usize] > 1000, "{outcome:?}: {seen:?}");
    }
}

#[test]
fn only_the_named_balancers_may_wrap() {
    let host = Host::new("decap");
    let mut program = Program::load(
        &host,
        &[
            ([192, 0, 2, 0].into(), 96 + 31),
            ("2001:db8::".parse().unwrap(), 127),
        ],
    );
    let may = |ip| ip == IpAddr::from(BALANCER_V4) || ip == IpAddr::from(BALANCER_V6);
    for (frame, _) in wrapped() {
        assert_eq!(program.agree(&frame, may), Outcome::Unwrapped);
    }
    let inner = &inners()[0];
    for other in [[192, 0, 2, 3].into(), [10, 0, 0, 1].into()] {
        let frame = wire::frame(
            &[],
            &Ipv4::new(other, BACKEND_V4).packet(number::IPV4, inner),
        );
        assert_eq!(program.agree(&frame, may), Outcome::Refused);
    }
    // Packets for another host are left alone, from any source.
    let elsewhere = Ipv4::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let frame = wire::frame(&[], &elsewhere.packet(number::IPV4, inner));
    assert_eq!(program.agree(&frame, may), Outcome::OtherHost);
    let counts = decap::pinned_counts(&program.pins, "lo").unwrap();
    assert_eq!(counts[Outcome::Refused as usize], 2);
    assert_eq!(counts[Outcome::OtherHost as usize], 1);
}
