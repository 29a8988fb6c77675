//! Machines with apt: Debian of any age, Ubuntu.

use std::path::PathBuf;

use super::{add_cargo, add_llvm_config, count, ensure, refused};
use crate::setup::standin::StandIn;

const BOOKWORM: &str = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";

/// A Debian with the lists `known` at first, and `refreshed` after a fetch. A line is a package and
/// its version. Its `rustc-web` has LLVM 22.
fn debian(known: &str, refreshed: &str) -> StandIn {
    let machine = StandIn::new(BOOKWORM);
    machine.write("etc/debian_version", "12.1\n");
    machine.write(
        "etc/apt/sources.list",
        "deb http://deb.debian.org/debian bookworm main\n\
         deb http://deb.debian.org/debian-security bookworm-security main\n",
    );
    machine.write("lists", known);
    machine.write("newer", refreshed);
    machine.program(
        "apt-cache",
        "case \"$1\" in\n\
         policy) v=$(sed -n \"s/^$2 //p\" \"$AT/lists\"); \
         [ -z \"$v\" ] || printf '%s:\\n  Candidate: %s\\n' \"$2\" \"$v\";;\n\
         pkgnames) sed 's/ .*//' \"$AT/lists\" | grep \"^$2\";;\n\
         esac",
    );
    machine.program("dpkg-query", "exit 1");
    set_apt_get(&machine, "");
    add_llvm_config(&machine, 22);
    add_cargo(&machine);
    machine
}

/// A stand-in for apt-get that runs `before`, and then updates and installs as usual.
fn set_apt_get(machine: &StandIn, before: &str) {
    let make = machine.make_rustc("usr", "1.96.0", 22);
    machine.program(
        "apt-get",
        &format!(
            "{before}\ncase \"$*\" in\n\
             *' update') cp \"$AT/newer\" \"$AT/lists\";;\n\
             *rustc*)\n{make}ln -s \"$AT/usr/bin/rustc\" \"$AT/bin/rustc\";;\n\
             esac"
        ),
    );
}

const WHOLE: &str = "rustc-web 1.96.0+dfsg1\nrust-web-src 1.96.0+dfsg1\n\
    llvm-22-dev 1:22.1.8-1\nlibpolly-22-dev 1:22.1.8-1\ng++ 4:12.2.0\n";

/// The lists of a release with a compiler that is too old.
const RELEASE: &str = "rustc-web 1.85.0+dfsg3\nrust-web-src 1.85.0+dfsg3\n\
    llvm-19-dev 1:19.1.7\nlibpolly-19-dev 1:19.1.7\ng++ 4:12.2.0\n";

#[test]
fn with_lists_of_today_nothing_is_fetched_twice() {
    let machine = debian(WHOLE, "");
    let toolchain = ensure(&machine).unwrap();
    assert_eq!(
        (toolchain.compiler.release, toolchain.compiler.llvm),
        ((1, 96), 22)
    );
    let changes = machine.changes();
    assert_eq!(count(&changes, " update"), 0, "{changes:?}");
    assert!(
        changes[0].ends_with("--no-remove rustc-web rust-web-src"),
        "{changes:?}"
    );
    assert!(
        changes[1].ends_with("llvm-22-dev libpolly-22-dev g++"),
        "{changes:?}"
    );
    assert!(changes[2].ends_with("--features llvm-22"), "{changes:?}");
}

#[test]
fn lists_of_the_release_day_are_fetched_once() {
    let machine = debian(RELEASE, WHOLE);
    ensure(&machine).unwrap();
    let changes = machine.changes();
    assert!(changes[0].ends_with(" update"), "{changes:?}");
    assert_eq!(count(&changes, " update"), 1, "{changes:?}");
}

#[test]
fn no_lists_at_all_are_fetched_once() {
    let machine = debian("", WHOLE);
    ensure(&machine).unwrap();
    assert_eq!(count(&machine.changes(), " update"), 1);
}

#[test]
fn lists_that_know_a_compiler_and_not_its_llvm_are_fetched() {
    let machine = debian("rustc-web 1.96.0\nrust-web-src 1.96.0\ng++ 4:12\n", WHOLE);
    ensure(&machine).unwrap();
    let changes = machine.changes();
    assert!(changes[1].ends_with(" update"), "{changes:?}");
    assert_eq!(count(&changes, " update"), 1, "{changes:?}");
}

#[test]
fn packages_that_the_mirror_has_replaced_are_installed_from_new_lists() {
    let machine = debian(WHOLE, WHOLE);
    set_apt_get(
        &machine,
        "case \"$*\" in *' update') : > \"$AT/fresh\";; *) [ -e \"$AT/fresh\" ] || exit 100;; esac",
    );
    ensure(&machine).unwrap();
    let changes = machine.changes();
    assert!(changes[1].ends_with(" update"), "{changes:?}");
    assert_eq!(count(&changes, " update"), 1, "{changes:?}");
}

#[test]
fn without_root_the_exact_command_is_told_and_nothing_is_done() {
    let mut machine = debian(WHOLE, WHOLE);
    machine.machine.root = false;
    let error = refused(&machine);
    let command = "sudo apt-get update && sudo apt-get install -y --no-install-recommends \
                   rustc-web rust-web-src";
    assert!(error.contains(command), "{error}");
    assert_eq!(machine.changes(), [""; 0]);
}

#[test]
fn without_root_old_lists_are_named_as_what_is_in_the_way() {
    let mut machine = debian(RELEASE, WHOLE);
    machine.machine.root = false;
    let error = refused(&machine);
    assert!(error.contains("fetching them takes root"), "{error}");
    assert_eq!(machine.changes(), [""; 0]);
}

/// The step of apt-get when the security archive answers.
const ARCHIVE_ANSWERS: &str = "cp \"$AT/whole\" \"$AT/newer\"";

/// A Debian with the release as its only source, and the file of the security archive. Once that
/// file is there, apt-get does `then`.
fn with_release_alone(then: &str) -> (StandIn, PathBuf) {
    let machine = debian(RELEASE, RELEASE);
    machine.write(
        "etc/apt/sources.list",
        "deb http://deb.debian.org/debian bookworm main\n",
    );
    machine.write("whole", WHOLE);
    let file = machine.path("etc/apt/sources.list.d/lb-agent-security.list");
    set_apt_get(
        &machine,
        &format!("[ ! -e '{}' ] || {then}", file.display()),
    );
    (machine, file)
}

#[test]
fn the_security_archive_is_added_where_only_the_release_is_a_source() {
    let (machine, file) = with_release_alone(ARCHIVE_ANSWERS);
    ensure(&machine).unwrap();
    assert_eq!(
        std::fs::read_to_string(file).unwrap(),
        "deb http://deb.debian.org/debian-security bookworm-security main\n"
    );
}

#[test]
fn the_security_archive_is_added_for_the_llvm_of_a_compiler_from_rustup() {
    let (machine, file) = with_release_alone(ARCHIVE_ANSWERS);
    let sources = machine.make_rustc("rustup/toolchains/stable", "1.95.0", 22);
    machine.program("rustup", &sources);
    let toolchain = ensure(&machine).unwrap();
    assert_eq!(toolchain.compiler.release, (1, 95));
    let changes = machine.changes();
    assert_eq!(count(&changes, "rustc-web"), 0, "{changes:?}");
    assert!(file.exists());
}

#[test]
fn a_security_archive_that_cannot_be_reached_is_taken_out_again() {
    let (machine, file) = with_release_alone("exit 100");
    let error = refused(&machine);
    assert!(error.contains("apt-get update failed"), "{error}");
    assert!(!file.exists());
}

#[test]
fn a_machine_that_has_the_security_archive_gets_no_second_source() {
    let machine = debian(RELEASE, RELEASE);
    let error = refused(&machine);
    assert!(error.contains("no rustc 1.90 or later"), "{error}");
    assert!(!machine.path("etc/apt/sources.list.d").exists());
}

#[test]
fn ubuntus_newest_compiler_is_taken_by_its_numbered_name() {
    let known = "rustc 1.75.0\nrust-src 1.75.0\n\
        rustc-1.89 1.89.0\nrust-1.89-src 1.89.0\nrustc-1.93 1.93.1\nrust-1.93-src 1.93.1\n\
        rustc-1.93-dbg 1.93.1\nllvm-22-dev 1:22.1.2\nlibpolly-22-dev 1:22.1.2\ng++ 4:13\n";
    let machine = debian(known, known);
    machine.write("etc/os-release", "ID=ubuntu\nVERSION_CODENAME=noble\n");
    let make = machine.make_rustc("usr/lib/rust-1.93", "1.93.1", 22);
    machine.program(
        "apt-get",
        &format!(
            "case \"$*\" in *rustc-1.93*)\n{make}\
             ln -s \"$AT/usr/lib/rust-1.93/bin/rustc\" \"$AT/bin/rustc-1.93\";; esac"
        ),
    );
    let toolchain = ensure(&machine).unwrap();
    assert_eq!(toolchain.compiler.release, (1, 93));
    assert_eq!(toolchain.compiler.rustc, machine.path("bin/rustc-1.93"));
    assert!(machine.changes()[0].ends_with("rustc-1.93 rust-1.93-src"));
}

#[test]
fn rustup_that_reaches_nothing_gives_way_to_packages() {
    let machine = debian(WHOLE, WHOLE);
    machine.program(
        "rustup",
        "echo 'error: could not download file' >&2; exit 1",
    );
    ensure(&machine).unwrap();
    let changes = machine.changes();
    assert_eq!(count(&changes, "rustup "), 2, "{changes:?}");
    assert!(
        changes[2].ends_with("rustc-web rust-web-src"),
        "{changes:?}"
    );
}
