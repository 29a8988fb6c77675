//! `cargo xtask bench xdp`: the cost of `lb_xdp` for a packet, without a network.
//!
//! BPF_PROG_TEST_RUN hands packets to the program, one a call, since a packet stays changed between the
//! repeats of one call. The kernel measures the time of a run (`bpf_stats_enabled`). An empty program
//! takes turns with `lb_xdp`, and its time is subtracted. Programs and tables are those of the tests,
//! with routes in a network namespace; nothing is attached.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};

use lb_agent::dataplane::bpf::trial::{Figures, Trial};
use lb_common::abi::protocol;
use lb_tests::both::Both;
use lb_tests::packets::ip_packet;
use lb_tests::prog_run::PacketProgram;
use lb_tests::random::Random;
use lb_tests::wire::{self, Tcp};

/// Open flows in the large table.
const MANY: u32 = 1_000_000;
/// Open flows in the other one.
const FEW: u32 = 1000;
/// Flows that can be kept by default.
const FLOWS: u32 = 65_536;
/// Runs of a case in one round.
const RUNS: usize = 20_000;

/// The packets that clients send in a case.
#[derive(Clone, Copy)]
enum Packets {
    /// Of open connections, of so many clients in turn.
    InTurn(u32),
    /// Of that many open connections, in random order.
    AtRandom(u32),
    /// First packets of connections, of clients that were never seen.
    First,
}

/// One line of the table.
struct Case {
    name: &'static str,
    service: u32,
    v6: bool,
    packets: Packets,
}

impl Case {
    /// Whether packets leave by another interface than the one on which they came, as to a container.
    /// Otherwise they leave by the same one, as is usual for hosts behind a switch.
    fn goes_on(&self) -> bool {
        self.service == 1
    }

    fn is_large(&self) -> bool {
        matches!(self.packets, Packets::AtRandom(_))
    }
}

const fn case(name: &'static str, service: u32, v6: bool, packets: Packets) -> Case {
    Case {
        name,
        service,
        v6,
        packets,
    }
}

/// The services of the example world: 1 container, 2 remote, 4 wrapped, 5 GUE, 6 by MAC address.
const CASES: [Case; 15] = [
    case("dsr ipip, 1,000 flows", 4, false, Packets::InTurn(FEW)),
    case(
        "dsr ipip, 1,000,000 flows at random",
        4,
        false,
        Packets::AtRandom(MANY),
    ),
    case(
        "dsr ipip, new flows (a SYN flood)",
        4,
        false,
        Packets::First,
    ),
    case("dsr ip6ip6, 1,000 flows", 4, true, Packets::InTurn(FEW)),
    case("dsr gue, 1,000 flows", 5, false, Packets::InTurn(FEW)),
    case("dsr l2, 1,000 flows", 6, false, Packets::InTurn(FEW)),
    case("nat container, 1,000 flows", 1, false, Packets::InTurn(FEW)),
    case(
        "nat container, 1,000,000 flows at random",
        1,
        false,
        Packets::AtRandom(MANY),
    ),
    case("nat container, new flows", 1, false, Packets::First),
    case(
        "nat container, IPv6, 1,000 flows",
        1,
        true,
        Packets::InTurn(FEW),
    ),
    case("nat remote, 1,000 flows", 2, false, Packets::InTurn(FEW)),
    case("nat remote, new flows", 2, false, Packets::First),
    case(
        "nat remote, IPv6, 1,000 flows",
        2,
        true,
        Packets::InTurn(FEW),
    ),
    case("not ours, 1,000 flows", 99, false, Packets::InTurn(FEW)),
    case(
        "not ours, 1,000,000 flows at random",
        99,
        false,
        Packets::AtRandom(MANY),
    ),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments
        .next()
        .and_then(|rounds| rounds.parse().ok())
        .expect("the number of rounds");
    let json = arguments.next().is_some_and(|form| form == "json");
    let only = arguments.next().unwrap_or_default();
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| case.name.contains(&only))
        .collect();
    let switch = Statistics::on();
    let mut net = vec![Vec::new(); cases.len()];
    for large in [false, true] {
        let mut those: Vec<_> = cases.iter().zip(&mut net).collect();
        those.retain(|(case, _)| case.is_large() == large);
        if !those.is_empty() {
            measure(&mut world(large), rounds, those);
        }
    }
    drop(switch);
    report(&cases, &mut net, json);
}

/// The tables, as large as they are by default or for a million flows, with as many open.
fn world(large: bool) -> Both {
    let (flows, container) = if large {
        (2 * MANY, MANY)
    } else {
        (FLOWS, FEW)
    };
    let mut both = Both::sized(flows);
    both.route_to_everybody();
    for number in 0..container {
        establish(&mut both, 1, false, number);
    }
    for number in 0..FEW {
        establish(&mut both, 1, true, number);
        establish(&mut both, 2, false, number);
        establish(&mut both, 2, true, number);
    }
    both
}

/// Measures the cases in turn.
fn measure(both: &mut Both, rounds: usize, mut cases: Vec<(&&Case, &mut Vec<f64>)>) {
    let wire = both.wire();
    let mut empty = PacketProgram::empty().unwrap();
    let mut random = Random::new();
    for _ in 0..rounds {
        for (case, net) in &mut cases {
            let frames = frames(case, &mut random);
            let ingress = if case.goes_on() { 0 } else { wire };
            empty.come_by(ingress);
            both.kernel().come_by(ingress);
            let idle = cost(&mut empty, &frames);
            let busy = cost(both.kernel(), &frames);
            net.push(busy - idle);
        }
    }
}

/// Medians, the best and the worst round.
fn report(cases: &[&Case], net: &mut [Vec<f64>], json: bool) {
    let mut lines = Vec::new();
    if !json {
        println!("nanoseconds net of an empty program: median, least and most of the rounds\n");
    }
    for (case, net) in cases.iter().zip(net) {
        net.sort_by(f64::total_cmp);
        let (median, least, most) = (net[net.len() / 2], net[0], net[net.len() - 1]);
        if json {
            lines.push(serde_json::json!({
                "case": case.name, "net_ns": median, "least_ns": least, "most_ns": most,
            }));
        } else {
            println!("{:44}{median:8.0}{least:8.0}{most:8.0}", case.name);
        }
    }
    let mut trial = Trial::packets(65_536).unwrap();
    let programs: Vec<Figures> = PROGRAMS.map(|name| trial.load(name).unwrap()).into();
    if json {
        let verified = programs.iter().map(|program| {
            let figures = serde_json::json!({
                "verified": program.verified, "instructions": program.translated / 8,
            });
            (program.name.clone(), figures)
        });
        let verified: serde_json::Map<String, serde_json::Value> = verified.collect();
        println!(
            "{}",
            serde_json::json!({ "cases": lines, "programs": verified })
        );
        return;
    }
    println!();
    for Figures {
        name,
        verified,
        translated,
        ..
    } in programs
    {
        println!(
            "{name}: {} instructions, {verified} looked at by the verifier",
            translated / 8
        );
    }
}

/// The programs of the packet paths.
const PROGRAMS: [&str; 3] = ["lb_xdp", "lb_tc_ingress", "lb_tc_egress"];

/// Nanoseconds for each packet.
fn cost(program: &mut PacketProgram, frames: &[Vec<u8>]) -> f64 {
    let before = program.cost().unwrap();
    for frame in frames.iter().cycle().take(RUNS) {
        program.run(frame).unwrap();
    }
    let after = program.cost().unwrap();
    (after.0 - before.0) as f64 / (after.1 - before.1) as f64
}

/// `kernel.bpf_stats_enabled`, as it was when dropped.
struct Statistics(String);

impl Statistics {
    const PATH: &'static str = "/proc/sys/kernel/bpf_stats_enabled";

    fn on() -> Self {
        let before = fs::read_to_string(Self::PATH).unwrap();
        fs::write(Self::PATH, "1").unwrap();
        Self(before)
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(Self::PATH, &self.0);
    }
}

/// The address of a client: all apart, in no order.
fn client(v6: bool, number: u32) -> IpAddr {
    let [a, b, c, d] = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
    if v6 {
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Ipv6Addr::new(0x2001, 0xdb8, high, low, 0, 0, 0, 9).into()
    } else {
        [20 + a % 80, b, c, d].into()
    }
}

fn service(v6: bool, number: u32) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number as u16).into()
    } else {
        [192, 0, 2, number as u8].into()
    }
}

/// The packets of a case: each flow has its own, and one that is new comes once.
fn frames(case: &Case, random: &mut Random) -> Vec<Vec<u8>> {
    let count = match case.packets {
        Packets::InTurn(flows) => flows,
        Packets::AtRandom(_) | Packets::First => RUNS as u32,
    };
    (0..count).map(|n| frame(case, n, random)).collect()
}

/// A packet of a case.
fn frame(case: &Case, n: u32, random: &mut Random) -> Vec<u8> {
    let number = match case.packets {
        Packets::InTurn(flows) => n % flows,
        Packets::AtRandom(flows) => random.below(flows.into()) as u32,
        Packets::First => MANY + random.below(1 << 31) as u32,
    };
    let flags = match case.packets {
        Packets::First => SYN,
        _ => ACK,
    };
    segment(
        (client(case.v6, number), 40_000),
        (service(case.v6, case.service), 80),
        flags,
    )
}

const SYN: u8 = 2;
const ACK: u8 = 16;

/// A TCP segment of sixty-four bytes or a little more.
fn segment(from: (IpAddr, u16), to: (IpAddr, u16), flags: u8) -> Vec<u8> {
    let segment = Tcp::new(from.1, to.1, flags).bytes(from.0, to.0);
    wire::frame(&[], &ip_packet(from.0, to.0, protocol::TCP, &segment))
}

/// Opens a connection of a client through the program.
fn establish(both: &mut Both, number: u32, v6: bool, client_number: u32) {
    let (client, vip) = (
        (client(v6, client_number), 40_000),
        (service(v6, number), 80),
    );
    let (_, out) = both.kernel().run(&segment(client, vip, SYN)).unwrap();
    let seen = wire::see(out).expect("a packet for a backend");
    let port = |at: usize| u16::from_be_bytes([seen.payload[at], seen.payload[at + 1]]);
    let (source, backend) = ((seen.addresses.0, port(0)), (seen.addresses.1, port(2)));
    both.kernel()
        .run(&segment(backend, source, SYN | ACK))
        .unwrap();
    both.kernel().run(&segment(client, vip, ACK)).unwrap();
}
