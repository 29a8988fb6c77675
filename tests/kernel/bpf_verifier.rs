//! The verifier of the running kernel takes every program, and none has grown past its budget.
//! `cargo xtask test verifier` prints the figures.

use lb_agent::dataplane::bpf::trial::Trial;

/// Budgets of verified instructions; the kernel's limit is a million. The number differs between
/// kernels and compilers, so there is room. A program beyond its budget needs a part of it in a
/// function of its own (ARCHITECTURE.md, "What the verifier wants").
const SOCKETS: [(&str, u32); 10] = [
    ("lb_connect4", 150_000),
    ("lb_connect6", 150_000),
    ("lb_getpeername4", 2_000),
    ("lb_getpeername6", 2_000),
    ("lb_listen", 60_000),
    ("lb_recvmsg4", 2_000),
    ("lb_recvmsg6", 2_000),
    ("lb_sendmsg4", 150_000),
    ("lb_sendmsg6", 150_000),
    ("lb_steer", 200_000),
];

/// The same budgets for the packet programs.
const PACKETS: [(&str, u32); 4] = [
    ("lb_tc_egress", 300_000),
    ("lb_tc_egress_bare", 100_000),
    ("lb_tc_ingress", 500_000),
    ("lb_xdp", 500_000),
];

/// The same for the programs that stand alone.
const ALONE: [(&str, u32); 1] = [("lb_decap", 20_000)];

#[test]
fn every_program_loads_and_keeps_within_its_budget() {
    let objects: [(Trial, &[(&str, u32)]); 3] = [
        (Trial::sockets().unwrap(), &SOCKETS),
        (Trial::packets(65_536).unwrap(), &PACKETS),
        (Trial::decap().unwrap(), &ALONE),
    ];
    println!("program              verified    budget instructions       ms");
    let mut over = Vec::new();
    let mut look = |trial: &mut Trial, (name, budget): (&str, u32)| {
        let figures = trial.load(name).unwrap_or_else(|error| panic!("{error:?}"));
        let (verified, translated) = (figures.verified, figures.translated / 8);
        let ms = figures.time.as_millis();
        println!("{name:<16} {verified:>12} {budget:>9} {translated:>12} {ms:>8}");
        assert!(verified > 0, "{name}: the kernel tells no figures");
        if verified > budget {
            over.push(format!("{name}: {verified} of {budget}"));
        }
    };
    for (mut trial, budgets) in objects {
        let names: Vec<&str> = budgets.iter().map(|(name, _)| *name).collect();
        assert_eq!(trial.programs(), names, "each program has a budget");
        for program in budgets {
            look(&mut trial, *program);
        }
    }
    assert!(over.is_empty(), "past their budget: {over:?}");
}
