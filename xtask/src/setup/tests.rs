//! Tests of setup on machines with stand-ins as programs. They check the programs run, their order,
//! and the messages when setup cannot go on.

mod apt;
mod cross;
mod others;
mod released;

use super::Setup;
use super::standin::StandIn;
use crate::toolchain::Toolchain;
use anyhow::Result;

fn ensure(machine: &StandIn) -> Result<Toolchain> {
    Setup::new(&machine.machine).ensure_toolchain()
}

#[track_caller]
fn refused(machine: &StandIn) -> String {
    ensure(machine).unwrap_err().to_string()
}

/// A cargo that installs a linker with the LLVM that its features say.
fn add_cargo(machine: &StandIn) {
    let made: String = (21..=23)
        .map(|llvm| {
            let linker = StandIn::make_linker(llvm);
            format!("case \"$*\" in *llvm-{llvm}*)\n{linker};; esac\n")
        })
        .collect();
    machine.program("cargo", &made);
}

/// `llvm-config-N` of an installed LLVM.
fn add_llvm_config(machine: &StandIn, llvm: u32) {
    machine.program(
        &format!("llvm-config-{llvm}"),
        &format!("case \"$1\" in --version) echo {llvm}.1.8;; *) echo /usr/lib/llvm-{llvm};; esac"),
    );
}

fn count(calls: &[String], wanted: &str) -> usize {
    calls.iter().filter(|call| call.contains(wanted)).count()
}

#[test]
fn a_machine_with_everything_is_left_alone() {
    let machine = StandIn::new("ID=debian\n");
    machine.write("etc/debian_version", "12.1\n");
    machine.program("apt-get", "exit 1");
    machine.program("rustup", "exit 1");
    let make = machine.make_rustc("rustup/toolchains/stable", "1.95.0", 22);
    machine.program("make", &(make + &StandIn::make_linker(22)));
    run(&machine, "make");
    assert_eq!(ensure(&machine).unwrap().compiler.release, (1, 95));
    assert_eq!(machine.changes(), ["make "]);
}

#[test]
fn a_linker_that_is_older_than_the_compiler_is_not_taken() {
    let machine = StandIn::new("ID=debian\n");
    let make = machine.make_rustc("rustup/toolchains/stable", "1.95.0", 22);
    machine.program("make", &(make + &StandIn::make_linker(21)));
    run(&machine, "make");
    let error = refused(&machine);
    assert!(error.contains("bpf-linker against LLVM 22"), "{error}");
}

#[test]
fn rustup_gets_the_sources_of_the_compiler_in_use() {
    let machine = with_rustup();
    let make = machine.make_rustc("rustup/toolchains/stable", "1.95.0", 22);
    machine.program(
        "rustup",
        &format!("case \"$1\" in component)\n{make};; esac"),
    );
    let toolchain = ensure(&machine).unwrap();
    assert_eq!(toolchain.compiler.release, (1, 95));
    let changes = machine.changes();
    assert_eq!(changes[0], "rustup component add rust-src");
    assert_eq!(count(&changes, "rustup"), 1);
    assert!(
        changes.contains(
            &"cargo install bpf-linker --version ^0.13 --locked --force \
              --no-default-features --features llvm-22"
                .to_owned()
        ),
        "{changes:?}"
    );
}

#[test]
fn rustup_gets_a_nightly_where_the_compiler_in_use_is_too_old_or_not_rustups() {
    let machine = with_rustup();
    let old = machine.make_rustc("rustup/toolchains/stable", "1.80.0", 18);
    let new = machine.make_rustc("rustup/toolchains/nightly", "1.101.0-nightly", 22);
    machine.program(
        "rustup",
        &format!("case \"$1\" in component)\n{old};; *)\n{new};; esac"),
    );
    assert_eq!(ensure(&machine).unwrap().compiler.release, (1, 101));
    let nightly = "rustup toolchain install nightly --no-self-update --profile minimal \
                   --component rust-src";
    assert_eq!(machine.changes()[1], nightly);
}

#[test]
fn a_machine_without_a_package_manager_is_told_what_to_do() {
    let error = refused(&StandIn::new("ID=other\n"));
    for part in [
        "compilers that are installed: none has the sources of core",
        "rustup: it is not installed",
        "neither apt, dnf, zypper nor pacman is there",
        "rustup toolchain install nightly --profile minimal --component rust-src",
        "https://github.com/aya-rs/bpf-linker/releases/download/v",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// A Debian with everything for bpf-linker; the test adds a rustup.
fn with_rustup() -> StandIn {
    let machine = StandIn::new("ID=debian\n");
    machine.write("etc/debian_version", "13.1\n");
    machine.program("apt-get", "");
    machine.program("apt-cache", "echo '  Candidate: 22.1.8'");
    machine.program("dpkg-query", "printf installed");
    add_llvm_config(&machine, 22);
    add_cargo(&machine);
    machine
}

/// Runs a stand-in that makes things, as if a user had installed them before.
fn run(machine: &StandIn, name: &str) {
    let program = machine.machine.find(name).unwrap();
    let status = machine.machine.command(program).status().unwrap();
    assert!(status.success());
}
