//! The suite `unit`: the crates' own tests, for this machine or for another processor under an
//! emulator. The latter includes those tests of its eBPF objects that need no kernel. `xtask` is
//! not built for another processor.

use super::cargo_test;
use super::count::{self, Count};
use crate::build;
use crate::setup;
use crate::sh::{self, say};
use crate::target::Target;
use anyhow::Result;
use std::fs;

/// The crates with tests that need no root and no setup.
const CRATES: [&str; 9] = [
    "lb-common",
    "lb-config",
    "lb-import",
    "lb-net",
    "lb-http1",
    "lb-http",
    "lb-agent",
    "lb-load",
    "xtask",
];

/// Crates that are built for other processors, and tested there but for the tests with processes of
/// their own. `lb-common` is tested whole.
const IN_PARTS: [&str; 6] = [
    "lb-config",
    "lb-net",
    "lb-http1",
    "lb-http",
    "lb-agent",
    "lb-load",
];

/// Arguments of cargo for the tests of the eBPF objects that need no kernel. They test the objects
/// of the processor that they are built for.
const OBJECTS: [&str; 4] = ["--package", "lb-tests", "--test", "bpf_old_kernels"];

/// Tests inside the agent that fail under the emulator, by the feature that it lacks.
const NOT_EMULATED: [(&str, &[&str]); 5] = [
    (
        "netlink about sockets (sock_diag)",
        &[
            "dataplane::bpf::adopt::tests::a_socket_of_this_process_is_found_and_borrowed",
            "dataplane::bpf::adopt::tests::socket_that_is_still_open_is_told_of_and_a_closed_one_is_not",
            "dataplane::bpf::close::tests::without_sock_destroy_a_connection_is_shut_down_through_its_process",
            "dataplane::bpf::inet_diag::tests::a_connected_udp_socket_waits_for_nobody",
            "dataplane::bpf::inet_diag::tests::an_mptcp_listener_is_told_from_a_plain_one",
            "dataplane::bpf::inet_diag::tests::listening_sockets_of_this_process_are_found",
            "health::probe::tests::one_who_does_not_accept_or_answer_is_a_failure",
            "sockdiag::tests::a_connection_that_is_destroyed_is_reset_at_both_ends",
            "sockdiag::tests::of_connections_that_are_not_here_nothing_is_known",
            "sockdiag::tests::the_kernel_knows_whether_a_connection_has_been_accepted",
        ],
    ),
    (
        "bpf(2)",
        &[
            "dataplane::bpf::leftover::tests::pins_that_cannot_be_opened_are_taken_for_attached_ones",
        ],
    ),
    (
        "TCP_INFO",
        &[
            "admission::seats::tests::whoever_has_been_idle_for_longest_is_reset",
            "proxy::tcp::tests::limits::where_there_are_too_many_the_one_idle_for_longest_makes_room",
            "sockopt::tests::data_in_either_direction_ends_idleness",
        ],
    ),
    (
        "TCP_SAVED_SYN, by which agents count each other",
        &[
            "proxy::hops::tests::each_agent_on_the_way_is_counted",
            "proxy::tcp::tests::limits::a_connection_that_comes_back_to_the_proxy_ends_after_a_few_rounds",
            "proxy::tcp::tests::limits::two_proxies_that_lead_to_each_other_notice_it",
            "sockopt::tests::the_syn_is_kept_and_given_once",
        ],
    ),
    (
        "execve(2) of programs for its processor",
        &["proxy::tcp::tests::a_proxy_that_runs_out_of_files_serves_again_when_there_are_some"],
    ),
];

/// Files of tests that start the agent. This machine can start another processor's agent only by
/// the emulator.
const START_THE_AGENT: [&str; 1] = ["lb-agent/tests/command_line.rs"];

/// Runs the tests that `filter` names, or all.
pub(super) fn run(target: Target, filter: &[String]) -> Result<Count> {
    if target.cross.is_none() {
        return cargo_test(&of(&CRATES), filter, &[], target);
    }
    setup::ensure_cross(target)?;
    setup::ensure_emulator(target)?;
    let mut count = cargo_test(&of(&["lb-common"]), filter, &[], target)?;
    let mut parts = of(&IN_PARTS);
    parts.extend(["--lib", "--bins", "--test", "http"].map(str::to_owned));
    count += cargo_test(&parts, &with_skips(filter), &[], target)?;
    build::build_object_for(target)?;
    count += cargo_test(&OBJECTS.map(str::to_owned), filter, &[], target)?;
    count.skipped += skipped();
    Ok(count)
}

/// Arguments of cargo for these crates.
fn of(crates: &[&str]) -> Vec<String> {
    crates
        .iter()
        .flat_map(|name| ["--package".to_owned(), (*name).to_owned()])
        // The packet paths are tested in a simulated world.
        .chain(["--features", "lb-common/simulation"].map(str::to_owned))
        .collect()
}

/// A filter that leaves out the tests that fail under the emulator.
fn with_skips(filter: &[String]) -> Vec<String> {
    let skips = NOT_EMULATED.iter().flat_map(|(_, tests)| *tests);
    let skips = skips.flat_map(|test| ["--skip".to_owned(), (*test).to_owned()]);
    filter.iter().cloned().chain(skips).collect()
}

/// Prints the tests that are left out, with reasons, and returns their number.
fn skipped() -> u64 {
    let mut all = 0;
    for (lacking, tests) in NOT_EMULATED {
        for test in tests {
            say(format!("SKIPPED {test}: the emulator has no {lacking}"));
        }
        all += tests.len() as u64;
    }
    for file in START_THE_AGENT {
        let source = fs::read_to_string(sh::workspace().join(file)).unwrap_or_default();
        let tests = count::tests_in(&source);
        say(format!(
            "SKIPPED {file}: its tests start the agent as a program; tests not run: {tests}"
        ));
        all += tests;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The source of a test of one of the crates: `a::b::tests::name` is in `a/b.rs` or `a/b/tests.rs`, and so on.
    fn has_source(test: &str) -> bool {
        let (module, name) = test.rsplit_once("::").unwrap();
        let path = module.replace("::", "/");
        let inside = path.strip_suffix("/tests").unwrap_or(&path);
        let files = IN_PARTS
            .iter()
            .flat_map(|name| [path.as_str(), inside].map(|path| format!("{name}/src/{path}.rs")));
        files.into_iter().any(|file| {
            let source = fs::read_to_string(sh::workspace().join(file));
            source.is_ok_and(|source| source.contains(&format!("fn {name}()")))
        })
    }

    #[test]
    fn every_test_that_is_left_out_exists() {
        for test in NOT_EMULATED.iter().flat_map(|(_, tests)| *tests) {
            assert!(has_source(test), "{test}");
        }
        for file in START_THE_AGENT {
            let source = fs::read_to_string(sh::workspace().join(file)).unwrap();
            assert_ne!(count::tests_in(&source), 0, "{file}");
        }
    }

    #[test]
    fn what_the_emulator_lacks_is_left_out_of_every_filter() {
        let filter = with_skips(&["sockopt".to_owned()]);
        assert_eq!(filter[..2], ["sockopt", "--skip"]);
        let tests: usize = NOT_EMULATED.iter().map(|(_, tests)| tests.len()).sum();
        assert_eq!(filter.len(), 1 + 2 * tests);
    }
}
