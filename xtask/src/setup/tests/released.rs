//! The released bpf-linker: fetched, verified, installed, or refused.

use super::{count, ensure, refused, run};
use crate::setup::release;
use crate::setup::standin::StandIn;

/// The SHA-256 sum of the line "the archive".
const SUM: &str = "65f4209335494c311ba8fb48b8cd23d4c5bf9269968ef3c018d5ccc3559b17f5";

/// A machine without packages, with a compiler of LLVM `llvm`, which fetches "the archive".
fn machine(llvm: u32) -> StandIn {
    let machine = StandIn::new("ID=other\n");
    let make = machine.make_rustc("rustup/toolchains/stable", "1.95.0", llvm);
    machine.program("make", &make);
    run(&machine, "make");
    machine.program("curl", &fetching("--output"));
    machine.program("sha256sum", "exec sha256sum \"$@\"");
    machine.program("zstd", "");
    machine.program(
        "tar",
        "while [ \"$1\" != --directory ]; do shift; done; echo static > \"$2/bpf-linker\"",
    );
    machine
}

/// A script that writes "the archive" to the file behind `option`.
fn fetching(option: &str) -> String {
    format!("while [ \"$1\" != {option} ]; do shift; done; echo 'the archive' > \"$2\"")
}

fn install(machine: &StandIn, llvm: u32) -> anyhow::Result<()> {
    release::install_verified(&machine.machine, None, llvm, SUM)
}

fn leftovers(machine: &StandIn) -> usize {
    machine.path("cargo/bin").read_dir().unwrap().count()
}

#[test]
fn an_archive_with_the_right_sum_is_installed() {
    let machine = machine(22);
    install(&machine, 22).unwrap();
    assert_eq!(leftovers(&machine), 1);
    let linker = ensure(&machine).unwrap().linker;
    assert_eq!(linker, machine.path("cargo/bin/bpf-linker"));
    let fetch = &machine.changes()[1];
    assert!(
        fetch.starts_with("curl --fail --location --proto =https")
            && fetch.contains("https://github.com/aya-rs/bpf-linker/releases/download/v"),
        "{fetch}"
    );
}

#[test]
fn an_archive_with_another_sum_is_not_even_unpacked() {
    let machine = machine(22);
    let error = refused(&machine);
    assert!(
        error.contains("the released bpf-linker: what was fetched is not the release"),
        "{error}"
    );
    assert_eq!(count(&machine.calls(), "tar "), 0);
    assert_eq!(leftovers(&machine), 0);
}

#[test]
fn a_download_that_breaks_is_told_and_leaves_nothing() {
    let machine = machine(22);
    let fetch = fetching("--output");
    machine.program(
        "curl",
        &format!("{fetch}; echo 'curl: (56) reset' >&2; exit 56"),
    );
    let error = refused(&machine);
    assert!(
        error.contains("the released bpf-linker: curl https://") && error.contains("status: 56"),
        "{error}"
    );
    assert_eq!(leftovers(&machine), 0);
}

#[test]
fn wget_does_where_there_is_no_curl() {
    let machine = machine(22);
    std::fs::remove_file(machine.path("bin/curl")).unwrap();
    machine.program("wget", &fetching("--output-document"));
    install(&machine, 22).unwrap();
    assert_eq!(count(&machine.calls(), "wget "), 1);
}

#[test]
fn without_sha256sum_nothing_is_installed() {
    let machine = machine(22);
    std::fs::remove_file(machine.path("bin/sha256sum")).unwrap();
    let error = install(&machine, 22).unwrap_err().to_string();
    assert!(error.contains("no sha256sum"), "{error}");
    assert_eq!(leftovers(&machine), 0);
}

#[test]
fn a_compiler_with_a_newer_llvm_is_not_given_the_release() {
    let machine = machine(24);
    let error = refused(&machine);
    assert!(
        error.contains("has LLVM 23, the compiler has 24"),
        "{error}"
    );
    assert_eq!(count(&machine.calls(), "curl"), 0);
}

#[test]
fn a_missing_program_is_named() {
    let machine = machine(22);
    std::fs::remove_file(machine.path("bin/zstd")).unwrap();
    let error = install(&machine, 22).unwrap_err().to_string();
    assert!(error.contains("no zstd"), "{error}");
}
