//! Machines that are to build for another processor.

use super::count;
use crate::machine::Machine;
use crate::setup::cross::{ensure, ensure_emulator};
use crate::setup::standin::StandIn;
use crate::target::{Arch, Target};

/// A processor other than this machine's.
fn other() -> Target {
    let all = [Arch::Amd64, Arch::Arm64].map(|arch| Target::of(Some(arch)));
    let mut others = all.into_iter().filter(|target| target.cross.is_some());
    others.next().unwrap()
}

/// A Debian. Its rustc has a standard library for another processor once `$AT/std` has one.
fn debian() -> StandIn {
    let machine = StandIn::new("ID=debian\n");
    machine.write("etc/debian_version", "12.1\n");
    machine.program("rustc", "echo \"$AT/std\"");
    machine.program("apt-cache", "echo '  Candidate: 4:12.2.0-3'");
    machine.program("dpkg-query", "exit 1");
    machine.program("apt-get", "");
    machine
}

/// Shell commands that make a standard library.
const MAKE_STD: &str = "mkdir -p \"$AT/std\"; : > \"$AT/std/libstd-1a2b.rlib\"";

fn gcc() -> String {
    other().tool("gcc")
}

#[test]
fn machine_with_cross_compiler_and_standard_library_is_left_alone() {
    let machine = debian();
    machine.program(&gcc(), "");
    machine.write("std/libstd-1a2b.rlib", "");
    ensure(&machine.machine, other()).unwrap();
    assert_eq!(count(&machine.changes(), "apt-get"), 0);
    ensure(&machine.machine, Target::own()).unwrap();
}

#[test]
fn cross_compiler_comes_with_its_c_library_and_the_standard_library_from_rustup() {
    let machine = debian();
    machine.program("rustup", MAKE_STD);
    let make = "mkdir -p \"$AT/rustup/toolchains/stable/bin\"\n\
                cp \"$AT/bin/rustc\" \"$AT/rustup/toolchains/stable/bin\"";
    machine.program("make", make);
    let made = machine.machine.command(machine.path("bin/make")).status();
    assert!(made.unwrap().success());
    let with_rustup = Machine {
        cargo: machine.path("rustup/toolchains/stable/bin/cargo"),
        ..machine.machine.clone()
    };
    ensure(&with_rustup, other()).unwrap();
    let changes = machine.changes();
    let cross = other().cross.unwrap();
    let [compiler, library] = cross.packages;
    assert_eq!(
        count(&changes, &format!("{compiler} {library}")),
        1,
        "{changes:?}"
    );
    let add = format!("rustup target add {}", cross.triple);
    assert_eq!(count(&changes, &add), 1, "{changes:?}");
    assert_eq!(count(&changes, "dpkg "), 0, "{changes:?}");
}

#[test]
fn debian_gets_the_standard_library_of_its_compiler_as_a_foreign_package() {
    let machine = debian();
    machine.program(&gcc(), "");
    machine.program("dpkg", "");
    let arch = other().debian;
    machine.program(
        "dpkg-query",
        "case \"$*\" in *libstd-rust-web-dev) printf installed;; *) exit 1;; esac",
    );
    machine.program(
        "apt-get",
        &format!("case \"$*\" in *libstd-rust-web-dev:*) {MAKE_STD};; esac"),
    );
    ensure(&machine.machine, other()).unwrap();
    let changes = machine.changes();
    let at = |wanted: &str| changes.iter().position(|call| call.contains(wanted));
    let add = at(&format!("dpkg --add-architecture {arch}")).unwrap();
    let update = at(" update").unwrap();
    let install = at(&format!(" libstd-rust-web-dev:{arch}")).unwrap();
    assert!(add < update && update < install, "{changes:?}");
}

#[test]
fn without_root_the_commands_are_told() {
    let machine = debian();
    machine.program(&gcc(), "");
    machine.program("dpkg-query", "printf installed");
    let user = Machine {
        root: false,
        ..machine.machine.clone()
    };
    let error = ensure(&user, other()).unwrap_err().to_string();
    assert!(error.contains("dpkg --add-architecture"), "{error}");
    assert!(error.contains("libstd-rust-web-dev:"), "{error}");
    assert_eq!(count(&machine.changes(), "apt-get"), 0);
}

#[test]
fn distribution_without_cross_packages_is_told_their_names() {
    let machine = StandIn::new("ID=fedora\n");
    machine.program("dnf", "");
    let error = ensure(&machine.machine, other()).unwrap_err().to_string();
    assert!(
        error.contains(other().cross.unwrap().packages[0]),
        "{error}"
    );
}

#[test]
fn emulator_is_installed_for_another_processor_alone() {
    let machine = debian();
    ensure_emulator(&machine.machine, Target::own()).unwrap();
    assert_eq!(count(&machine.changes(), "qemu-user"), 0);
    ensure_emulator(&machine.machine, other()).unwrap();
    assert_eq!(count(&machine.changes(), "qemu-user"), 1);
}
