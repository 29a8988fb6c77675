//! The verifier of the running kernel takes every program, and none has grown past its budget.
//! `cargo xtask test verifier` prints the figures.

use lb_agent::dataplane::bpf::trial::Trial;

/// Instructions that the verifier may look at, a million being the kernel's limit. What a program
/// needs differs between kernels and compilers, so there is room; a program that outgrows its budget
/// wants a part of it to be a function of its own (ARCHITECTURE.md, "What the verifier wants").
const BUDGETS: [(&str, u32); 13] = [
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
    ("lb_tc_egress", 300_000),
    ("lb_tc_ingress", 500_000),
    ("lb_xdp", 500_000),
];

/// The same for the programs that stand alone.
const ALONE: (&str, u32) = ("lb_decap", 20_000);

#[test]
fn every_program_loads_and_keeps_within_its_budget() {
    let mut trial = Trial::open().unwrap();
    let names: Vec<&str> = BUDGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(trial.programs(), names, "each program has a budget");
    let mut alone = Trial::open_decap().unwrap();
    assert_eq!(alone.programs(), [ALONE.0]);
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
    for program in BUDGETS {
        look(&mut trial, program);
    }
    look(&mut alone, ALONE);
    assert!(over.is_empty(), "past their budget: {over:?}");
}
