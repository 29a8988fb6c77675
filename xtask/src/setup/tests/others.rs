//! Machines with dnf, zypper or pacman.

use super::{add_cargo, count, ensure, refused};
use crate::setup::standin::StandIn;

/// A machine with the package manager `program`, which knows `rust` and an LLVM of `version`. The
/// question of a package's version has the package as its last word.
fn machine(os_release: &str, program: &str, known: &str) -> StandIn {
    let machine = StandIn::new(os_release);
    let make = machine.make_rustc("usr", "1.96.1", 22);
    machine.write("known", known);
    let script = format!(
        "for last; do :; done\n\
         case \"$*\" in\n\
         *info*|*-Si*) v=$(sed -n \"s/^$last //p\" \"$AT/known\"); \
         [ -n \"$v\" ] && printf 'Name        : %s\\nVersion     : %s\\n' \"$last\" \"$v\";;\n\
         *-Q*) exit 1;;\n\
         *rust-src*)\n{make}ln -s \"$AT/usr/bin/rustc\" \"$AT/bin/rustc\";;\n\
         esac"
    );
    machine.program(program, &script);
    machine.program("rpm", "exit 1");
    machine.program(
        "llvm-config",
        "case \"$1\" in --version) echo 22.1.8;; *) echo /usr;; esac",
    );
    add_cargo(&machine);
    machine
}

#[test]
fn fedora_is_set_up_by_dnf() {
    let known = "rust 1.96.1\nrust-src 1.96.1\nllvm-devel 22.1.8\ngcc-c++ 16.1.1\n";
    let machine = machine("ID=fedora\n", "dnf", known);
    ensure(&machine).unwrap();
    assert_eq!(
        machine.changes(),
        [
            "dnf install -y --setopt=install_weak_deps=False rust rust-src",
            "dnf install -y --setopt=install_weak_deps=False llvm-devel gcc-c++",
            "cargo install bpf-linker --version ^0.13 --locked --force --no-default-features \
             --features llvm-22",
        ]
    );
}

#[test]
fn rhel_takes_the_llvm_of_the_compiler_when_the_default_one_is_older() {
    let known =
        "rust 1.96.1\nrust-src 1.96.1\nllvm-devel 20.1.8\nllvm22-devel 22.1.8\ngcc-c++ 14\n";
    let machine = machine("ID=\"rhel\"\n", "dnf", known);
    ensure(&machine).unwrap();
    let changes = machine.changes();
    assert!(changes[1].ends_with("llvm22-devel gcc-c++"), "{changes:?}");
}

#[test]
fn lists_of_dnf_are_fetched_once_when_they_know_nothing() {
    let machine = machine("ID=fedora\n", "dnf", "");
    let error = refused(&machine);
    assert!(error.contains("no rustc 1.90 or later"), "{error}");
    assert_eq!(machine.changes(), ["dnf makecache --refresh"]);
}

#[test]
fn opensuse_is_set_up_by_zypper() {
    let known = "rust 1.96.0-1.1\nrust-src 1.96.0-1.1\nllvm22-devel 22.1.8-1.1\ngcc-c++ 15\n";
    let machine = machine("ID=\"opensuse-tumbleweed\"\n", "zypper", known);
    ensure(&machine).unwrap();
    let changes = machine.changes();
    let install = "zypper --non-interactive install --no-recommends";
    assert_eq!(changes[0], format!("{install} rust rust-src"));
    assert_eq!(changes[1], format!("{install} llvm22-devel gcc-c++"));
}

#[test]
fn arch_is_set_up_by_pacman() {
    let known = "rust 1:1.96.1-1\nrust-src 1:1.96.1-1\nllvm 22.1.8-1\ngcc 16.1.1-1\n";
    let machine = machine("ID=arch\n", "pacman", known);
    ensure(&machine).unwrap();
    let changes = machine.changes();
    assert_eq!(changes[0], "pacman -S --noconfirm --needed rust rust-src");
    assert_eq!(changes[1], "pacman -S --noconfirm --needed llvm gcc");
}

#[test]
fn lists_of_pacman_are_not_fetched_without_an_upgrade() {
    let machine = machine("ID=arch\n", "pacman", "");
    refused(&machine);
    assert_eq!(count(&machine.changes(), "pacman"), 0);
}

#[test]
fn each_manager_has_its_command_for_those_without_root() {
    let known = "rust 1.96.1\nrust-src 1.96.1\n";
    for (program, command) in [
        ("dnf", "sudo dnf install -y rust rust-src"),
        (
            "zypper",
            "sudo zypper install --no-recommends rust rust-src",
        ),
        ("pacman", "sudo pacman -Syu --needed rust rust-src"),
    ] {
        let mut machine = machine("ID=some\n", program, known);
        machine.machine.root = false;
        let error = refused(&machine);
        assert!(error.contains(command), "{error}");
        assert_eq!(machine.changes(), [""; 0]);
    }
}

#[test]
fn a_package_that_the_distribution_does_not_know_is_named() {
    let known = "rust 1.96.1\nrust-src 1.96.1\nllvm-devel 22.1.8\n";
    let machine = machine("ID=fedora\n", "dnf", known);
    let error = refused(&machine);
    assert!(
        error.contains("needs the package gcc-c++, which dnf does not know"),
        "{error}"
    );
}
